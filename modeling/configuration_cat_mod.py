"""Configuration of Cat-MoD.

Origins beside the fields: [paper] the abstract, the only public text; [public] code of the first author's other connector;
[choice] ours.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_connector import ConnectorConfig

# Guides per cross-attention layer, in sixteenths of all: a quarter of the guide slots is computed in total, so that with as
# many explorers the cross-attention of the queries costs 62.5 %, the natural reading of "≈ 37 % fewer alignment FLOPs".
_SCHEDULES = {12: (16, 8, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0), 6: (16, 4, 4, 0, 0, 0)}


@strict
class CatModConfig(ConnectorConfig):
    """Configuration of [`CatModModel`]."""

    model_type = "cat_mod"
    keys_to_ignore_at_inference = [
        "loss_terms",
        "diagnostics",
        "query_attention_mask",
        "keep_scores",
        "similarities",
        "active",
        "active_counts",
        "hidden_states",
        "attentions",
        "cross_attentions",
    ]

    num_guide_tokens: int = 16  # hybrid queries [paper]; 16 + 16 as in the first author's LQ-Former [public]
    num_explorer_tokens: int = 16
    guide_embedding_size: int | None = (
        None  # width of the word vectors where it is not `hidden_size`: an LLM's vocabulary
    )
    # `ids`: a caption per sample; `template`: `guide_template_ids` for all of them, whatever is passed [choice]
    guide_source: Literal["ids", "template"] = "ids"
    guide_template_ids: tuple[int, ...] | list[int] = ()  # empty: learned fillers only
    norm_style: Literal["post", "pre"] = "post"  # `post` loads weights of BERT and BLIP-2
    share_cross_kv: bool = (
        False  # keys and values of the features once for all layers: the lever on total cost [choice]
    )
    # The projections of keys and values move to the side of the queries: the same function, at a cost in proportion to the
    # queries that take part. Pays below KDd / (Dd + HKD − Kd) of them, 53.9 at the defaults with K = 257 [derived]
    fold_cross_kv: bool = False

    # Guides that take part, per layer with cross-attention; `None` is the table above.
    guide_schedule: tuple[int, ...] | list[int] | None = None
    # "Early representation convergence" [paper] is the likeness to one's own earlier state.
    router_similarity: Literal["previous_layer", "other_queries"] = "previous_layer"
    router_scale_init: float | int = 10.0  # a and θ of the score [choice]
    router_threshold_init: float | int = 0.9
    router_mode: Literal["topk", "threshold", "random"] = "topk"  # `threshold` in eval only; `random` is a control
    route_explorers: bool = False  # explorers "remain active" [paper]; True: all queries compete for the same places
    router_sticky: bool = True  # once pruned, stays pruned [choice]
    router_loss_weight: float | int = 0.0  # 0.01 for models meant for `threshold` [choice]
    router_warmup_ratio: float | int = (
        0.1  # share of the steps over which the dense model becomes the scheduled one [choice]
    )
    threshold_buckets: tuple[int, ...] | list[int] | None = None  # widths in guides; `None`: 0, ¼, ½ and all of them
    prune_scope: Literal["ca", "ca+ffn"] = "ca"  # what a pruned guide passes by; only cross-attention [paper]

    @property
    def query_counts(self) -> tuple[int, int]:
        return self.num_guide_tokens, self.num_explorer_tokens

    @property
    def schedule(self) -> tuple[int, ...]:
        """k_l, guides per layer with cross-attention."""
        if self.guide_schedule is not None:
            return tuple(self.guide_schedule)
        return tuple(part * self.num_guide_tokens // 16 for part in _SCHEDULES[len(self.cross_attention_layers)])

    @property
    def dense_schedule(self) -> tuple[int, ...]:
        """The schedule that prunes nothing."""
        return (self.num_guide_tokens,) * len(self.cross_attention_layers)

    @property
    def candidates(self) -> int:
        """Queries that the router may prune: the guides, or all of them."""
        return sum(self.query_counts) if self.route_explorers else self.num_guide_tokens

    def places(self, guides: int) -> int:
        """How many of the candidates take part where the schedule says `guides`."""
        return guides + self.num_explorer_tokens if self.route_explorers else guides

    @property
    def buckets(self) -> tuple[int, ...]:
        """Widths in guides that threshold mode computes, ascending; the last one holds all."""
        count = self.num_guide_tokens
        given = (0, count // 4, count // 2) if self.threshold_buckets is None else self.threshold_buckets
        return tuple(sorted({*given, count}))

    def validate_schedule(self) -> None:
        depth, guides = len(self.cross_attention_layers), self.num_guide_tokens
        if self.guide_schedule is None:
            if depth not in _SCHEDULES or guides % 4:
                raise ValueError(
                    f"`guide_schedule` is None but there are {depth} layers with cross-attention and {guides} guides: the "
                    f"default is for {sorted(_SCHEDULES)} layers and guides in fours, give {depth} numbers."
                )
            return
        given = list(self.guide_schedule)
        if len(given) != depth:
            raise ValueError(
                f"`guide_schedule` has {len(given)} entries, there are {depth} layers with cross-attention."
            )
        if given != sorted(given, reverse=True) or given[0] != guides or given[-1] < 0:
            raise ValueError(
                f"`guide_schedule` = {given}: it starts with `num_guide_tokens` = {guides}, as the first layer has nothing "
                f"to compare with, and goes down to 0 at least."
            )
        partial = any(0 < self.places(count) < self.candidates for count in given)
        if given != [guides] * depth and not partial and self.router_mode != "random":
            raise ValueError(
                f"`guide_schedule` = {given} keeps all or nothing: no router would have a gradient. Let one layer keep "
                f"some of the {guides} guides."
            )

    def validate_router(self) -> None:
        if self.router_loss_weight < 0:
            raise ValueError(f"`router_loss_weight` is {self.router_loss_weight}: it cannot be negative.")
        if not 0 <= self.router_warmup_ratio < 1:
            raise ValueError(f"`router_warmup_ratio` is {self.router_warmup_ratio}: a share from 0 to below 1.")
        outside = [width for width in self.threshold_buckets or () if not 0 <= width <= self.num_guide_tokens]
        if outside:
            raise ValueError(
                f"`threshold_buckets` holds {outside} but `num_guide_tokens` is {self.num_guide_tokens}: widths are counted "
                f"in guides."
            )

    def validate_order(self) -> None:
        if self.share_cross_kv and self.fold_cross_kv:
            raise ValueError(
                "`share_cross_kv` and `fold_cross_kv` are both True: keys and values are projected once for all layers, or "
                "not at all."
            )

    def validate_template(self) -> None:
        ids = self.guide_template_ids
        if ids and self.guide_source != "template":
            raise ValueError("`guide_template_ids` is given but `guide_source` is 'ids': set it to 'template'.")
        if len(ids) > self.num_guide_tokens or any(not 0 <= index < self.vocab_size for index in ids):
            raise ValueError(
                f"`guide_template_ids` = {list(ids)}: at most `num_guide_tokens` = {self.num_guide_tokens} ids below "
                f"`vocab_size` = {self.vocab_size}."
            )
