"""Cat-MoD: caption-guided asymmetric mixture of depths.

A connector whose queries are guide tokens, made from a caption, and learned explorer tokens. Guides converge after a few
layers; a router that looks at their similarity takes them out of later cross-attentions, while they stay in self-attention.
Only the abstract is public; see the config for every choice.

    guides    ─┐                                ┌─ active ── cross-attention, × κ ─┐
               ├─ LN ── [ self-attention ── router                                 ├─ feed-forward ] × L ── N tokens
    explorers ─┘                                └─ pruned guides, unchanged ───────┘
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .cat_mod_router import RoutingPass, RoutingRecord, SimilarityRouter
from .configuration_cat_mod import CatModConfig
from .layers import Dropout
from .modeling_connector import CaptionEmbeddings, ConnectorOutput, ConnectorPreTrainedModel
from .query_former_layers import LearnedTokens, QueryFormerEncoder, QueryRecorder


@dataclass
class CatModOutput(ConnectorOutput):
    """
    [`ConnectorOutput`] and what the router did. C candidates: the guides, or all queries with `route_explorers`.

    Args:
        diagnostics (`dict[str, torch.FloatTensor]`, *optional*):
            In training, per layer with a router: mean κ, mean similarity and mean number of kept candidates.
        keep_scores (`torch.FloatTensor` of shape `(batch_size, n_CA, C)`, *optional*): κ, with `output_router`.
        similarities (`torch.FloatTensor` of shape `(batch_size, n_CA, C)`, *optional*):
            s; NaN at the first layer, which has no earlier state to compare with.
        active (`torch.BoolTensor` of shape `(batch_size, n_CA, C)`, *optional*): who took part.
        active_counts (`list[int]`, *optional*): n_l, computed width of every cross-attention; what `flops` takes.
    """

    diagnostics: dict[str, Tensor] | None = None
    keep_scores: Tensor | None = None
    similarities: Tensor | None = None
    active: Tensor | None = None
    active_counts: list[int] | None = None


class CatModPreTrainedModel(ConnectorPreTrainedModel):
    """Base of the Cat-MoD family."""

    config: CatModConfig
    config_class = CatModConfig
    _auto_map = {
        "AutoConfig": "configuration_cat_mod.CatModConfig",
        "AutoModel": "modeling_cat_mod.CatModModel",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SimilarityRouter):
            scale, threshold = module.initial
            init.constant_(module.scale, scale)
            init.constant_(module.threshold, threshold)
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CatModModel):
            init.ones_(module.router_progress)


def forget_progress(model: CatModModel, _: Any) -> None:
    """Read β anew after loading."""
    model._progress = None


class CatModModel(CatModPreTrainedModel):
    """Turns features of any length into N = N_g + N_e tokens, guides first, with guides pruned layer by layer."""

    router_progress: Tensor

    def __init__(self, config: CatModConfig) -> None:
        super().__init__(config)
        size, (guides, explorers) = config.hidden_size, config.query_counts
        self.embeddings = CaptionEmbeddings(config, config.guide_embedding_size or size, False) if guides else None
        width = config.guide_embedding_size
        self.guide_projection = nn.Linear(width, size) if guides and width is not None else None
        self.fillers = LearnedTokens(guides, size) if guides else None
        self.queries = LearnedTokens(explorers, size)
        self.query_types = LearnedTokens(2, size)  # e_guide and e_explorer
        self.layernorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        pre_norm = config.norm_style == "pre"
        execution = (config.share_cross_kv, pre_norm, config.prune_scope == "ca+ffn", config.fold_cross_kv)
        self.encoder = QueryFormerEncoder(config, *execution)
        self.final_norm = nn.LayerNorm(size, eps=config.layer_norm_eps) if pre_norm else None
        # A router where the schedule keeps some candidates, not all: elsewhere nothing depends on its parameters.
        self.routers = nn.ModuleDict(
            {
                str(position): SimilarityRouter(size, config.router_scale_init, config.router_threshold_init)
                for position, count in enumerate(config.schedule)
                if config.router_mode != "random" and 0 < config.places(count) < config.candidates
            }
        )
        self.register_buffer("router_progress", torch.ones(()))  # β
        self._progress: float | None = None  # the same on the host; reading the buffer would wait for the device
        self.register_load_state_dict_post_hook(forget_progress)
        self.post_init()

    # ---- warm-up ------------------------------------------------------------------------------------------------

    def set_router_progress(self, progress: float) -> None:
        """
        Set β: 0 is the dense model, 1 the scheduled one; stored with the weights.

        Raises:
            ValueError: β is outside of [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"`progress` is {progress}: from 0 (dense) to 1 (scheduled).")
        self.router_progress.fill_(progress)
        self._progress = float(torch.tensor(progress, dtype=self.router_progress.dtype))  # rounded as in the buffer

    def host_progress(self) -> float:
        """β as a number of the host."""
        if self._progress is None:
            self._progress = float(self.router_progress)
        return self._progress

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"router": self.config.router_loss_weight} if self.config.router_loss_weight > 0 else {}

    # ---- queries and layers -------------------------------------------------------------------------------------

    @torch.no_grad()
    def init_from_bert(self, bert: PreTrainedModel) -> None:
        super().init_from_bert(bert)
        segments = {name.removeprefix("bert."): value for name, value in bert.state_dict().items()}
        self.query_types.weight[0] = segments["embeddings.token_type_embeddings.weight"][0]

    def query_states(self, input_ids: Tensor | None, attention_mask: Tensor | None, rows: int) -> Tensor:
        """Queries before their normalisation, (B, N, d)."""
        config = self.config
        if config.guide_source == "template":
            fixed = torch.tensor(config.guide_template_ids, dtype=torch.long, device=self.queries.weight.device)
            input_ids, attention_mask = (fixed.expand(rows, -1) if len(fixed) else None), None
        ids, valid = self._caption("input_ids", input_ids, attention_mask, rows)
        guide_type, explorer_type = self.query_types.weight
        explorers = (self.queries.weight + explorer_type).expand(rows, -1, -1)  # Q_j + e_explorer
        if self.embeddings is None or self.fillers is None or self.embeddings.word_embeddings is None:
            return explorers
        words = self.fillers.weight.expand(rows, -1, -1)
        if ids is not None:
            found = self.embeddings.word_embeddings(ids)
            if self.guide_projection is not None:
                found = self.guide_projection(found)
            words = torch.where(valid[..., None], found, words)
        # E_w(id_j) + E_pos(j) + e_guide, a filler in place of the word where there is none
        guides = words + self.embeddings.position_embeddings.weight[: valid.shape[1]] + guide_type
        return torch.cat([guides, explorers], 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router: bool = False,
    ) -> CatModOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, caption_length)`, *optional*):
                Caption with special tokens, cut to `config.num_guide_tokens`. `None` if no sample has one.
            attention_mask (`torch.Tensor` of shape `(batch_size, caption_length)`, *optional*):
                1 for tokens. A row of zeros is a sample without caption: its guides are learned fillers.
            encoder_hidden_states (`torch.FloatTensor` of shape `(batch_size, num_features, encoder_hidden_size)`, *optional*):
                Features of one modality. `None` if no sample has them.
            encoder_attention_mask (`torch.Tensor` of shape `(batch_size, num_features)`, *optional*):
                1 for valid features. A row of zeros is a sample without them: cross-attention adds nothing to it.
            output_attentions, output_hidden_states (`bool`, *optional*):
                Attention maps are computed without a fused kernel, whatever the implementation.
            output_router (`bool`): return scores, similarities and who took part.

        Returns:
            [`CatModOutput`].
        """
        config = self.config
        recorder = QueryRecorder(
            bool(config.output_hidden_states if output_hidden_states is None else output_hidden_states),
            bool(config.output_attentions if output_attentions is None else output_attentions),
        )
        rows = self._rows({"input_ids": input_ids, "encoder_hidden_states": encoder_hidden_states})
        features = self._features(encoder_hidden_states, encoder_attention_mask, rows)
        states = self.dropout(self.layernorm(self.query_states(input_ids, attention_mask, rows)))
        routing = RoutingPass(config, self.routers, self.host_progress(), self.training, output_router)
        states = self.encoder(states, None, features, recorder, routing)
        if self.final_norm is not None:
            states = self.final_norm(states)
        found = routing.record
        return CatModOutput(
            last_hidden_state=states,
            query_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            embeddings=states.mean(1),
            loss_terms=None if found.loss is None else {"router": found.loss},
            diagnostics=self._diagnostics(found) if self.training else None,
            active_counts=found.active_counts,
            **(found.tensors if output_router else {}),
            **recorder.fields,
        )

    def _diagnostics(self, found: RoutingRecord) -> dict[str, Tensor]:
        """Mean κ, similarity and kept candidates at the layers that have a router, by their number."""
        layers, figures = self.config.cross_attention_layers, {}
        for position in map(int, self.routers):
            name = f"layer{layers[position]}"
            figures[f"router_kappa_{name}"] = found.keep_scores[position].detach().mean()
            figures[f"router_kept_{name}"] = found.active[position].float().sum(1).mean()
            similarity = found.similarities[position]
            if similarity is not None:  # early in the warm-up everyone takes part, and nothing is compared
                figures[f"router_similarity_{name}"] = similarity.detach().mean()
        return figures

    # ---- cost ---------------------------------------------------------------------------------------------------

    @property
    def active_counts(self) -> list[int]:
        return [count + self.config.num_explorer_tokens for count in self.config.schedule]

    def _extra_flops(self) -> int:
        config, found = self.config, 0
        if self.guide_projection is not None and (config.guide_source == "ids" or config.guide_template_ids):
            found += 2 * config.num_guide_tokens * self.guide_projection.in_features * config.hidden_size
        if config.router_similarity == "other_queries":
            found += len(self.routers) * 2 * config.candidates * sum(config.query_counts) * config.hidden_size
        return found

    def dense_configs(self) -> dict[str, CatModConfig]:
        """The connectors that this one is measured against, by name: nothing is pruned."""
        config = self.config
        orders = {"dense": (False, False)}
        if config.share_cross_kv:
            orders = {"dense with the same sharing": (True, False), "dense without sharing": (False, False)}
        elif config.fold_cross_kv:
            orders = {"dense with the same folding": (False, True), "dense without folding": (False, False)}
        found = {}
        for name, (shared, folded) in orders.items():
            dense: Any = copy.deepcopy(config)
            dense.guide_schedule, dense.share_cross_kv, dense.fold_cross_kv = config.dense_schedule, shared, folded
            dense.prune_scope, dense.route_explorers = "ca", False
            found[name] = dense
        return found
