"""Base of the query-based connectors: inputs, captions, pretrained weights, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_connector import ConnectorConfig
from .layers import clear_padding, key_mask
from .modality_inputs import as_bool_mask
from .modeling_base import MMIntentPreTrainedModel
from .query_former_layers import Features, LearnedTokens, QueryFormerEncoder

# BERT's name of a part of a layer -> the query former's.
_FROM_BERT = {
    "attention.self.query": "attention.attention.query",
    "attention.self.key": "attention.attention.key",
    "attention.self.value": "attention.attention.value",
    "attention.output.dense": "attention.output.dense",
    "attention.output.LayerNorm": "attention.output.LayerNorm",
    "intermediate.dense": "intermediate_query.dense",
    "output.dense": "output_query.dense",
    "output.LayerNorm": "output_query.LayerNorm",
}


@dataclass
class ConnectorOutput(ModelOutput):
    """
    What every connector returns.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_queries, hidden_size)`):
            Slots of the caption first, then the learned queries.
        query_attention_mask (`torch.LongTensor` of shape `(batch_size, num_queries)`): 1 for queries that hold something.
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): mean of the valid queries.
        loss (`torch.FloatTensor` of shape `()`, *optional*): never set: a connector has no task of its own.
        loss_terms (`dict[str, torch.FloatTensor]`, *optional*):
            Terms for the caller's loss, unweighted and **with** gradient; the model's `loss_weights` says how much of each.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): states before the first and after every layer.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            Per layer `(batch_size, num_heads, num_queries, num_queries)`.
        cross_attentions (`tuple[torch.FloatTensor]`, *optional*):
            Per layer with cross-attention `(batch_size, num_heads, num_queries, num_features)`.
    """

    last_hidden_state: Tensor | None = None
    query_attention_mask: Tensor | None = None
    embeddings: Tensor | None = None
    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class CaptionEmbeddings(nn.Module):
    """
    Tables that stand behind the slots of a caption.

    Args:
        config: of the connector.
        width: of the word vectors; `None` for no word and segment table.
        segments: also have BERT's table of two segments.
        frozen: the tables do not train.
    """

    def __init__(self, config: ConnectorConfig, width: int | None, segments: bool, frozen: bool = False) -> None:
        super().__init__()
        self.frozen = frozen
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.word_embeddings = None if width is None else nn.Embedding(config.vocab_size, width)
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size) if segments else None
        self.train()

    def train(self, mode: bool = True) -> CaptionEmbeddings:
        # Here and not once: loading replaces parameters, and PEFT makes all parts that it stores trainable.
        if self.frozen:
            self.requires_grad_(False)
        return super().train(mode)


class ConnectorPreTrainedModel(MMIntentPreTrainedModel):
    """Base of the connectors. A subclass has `embeddings`, `layernorm` and `encoder`."""

    config: ConnectorConfig
    embeddings: CaptionEmbeddings | None
    layernorm: nn.LayerNorm
    encoder: QueryFormerEncoder
    base_model_prefix = "connector"
    main_input_name = "encoder_hidden_states"
    _no_split_modules = ["QueryFormerLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        PreTrainedModel._init_weights(self, module)  # BERT's N(0, 0.02), which its pretrained layers stand beside
        if isinstance(module, LearnedTokens):
            init.normal_(module.weight, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module | None:  # type: ignore[override]
        return None if self.embeddings is None else self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        if self.embeddings is None or self.embeddings.word_embeddings is None:
            raise ValueError(f"this {type(self).__name__} looks up no caption ids: it has no word embeddings to set.")
        self.embeddings.word_embeddings = value  # type: ignore[assignment]

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each of `loss_terms` in the loss of whoever owns the connector."""
        return {}

    # ---- inputs -------------------------------------------------------------------------------------------------

    def _rows(self, given: Mapping[str, Tensor | None]) -> int:
        """The batch size of everything that is given."""
        sizes = {name: len(value) for name, value in given.items() if value is not None}
        if not sizes:
            raise ValueError(f"nothing is given: pass at least one of {', '.join(f'`{name}`' for name in given)}.")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the inputs have different batch sizes {sizes}: they must describe the same samples.")
        return next(iter(sizes.values()))

    def _features(self, states: Tensor | None, mask: Tensor | None, rows: int) -> Features:
        """Checked features with padding cleared; one masked step per sample where the batch has none."""
        width, device = self.config.encoder_hidden_size, self.layernorm.weight.device
        if states is None:
            if mask is not None:
                raise ValueError(
                    "`encoder_attention_mask` is given without `encoder_hidden_states`: pass both or neither."
                )
            states, mask = torch.zeros(rows, 1, width, device=device), torch.zeros(rows, 1, device=device)
        if states.dim() != 3 or states.shape[2] != width:
            raise ValueError(
                f"`encoder_hidden_states` has shape {tuple(states.shape)} but `config.encoder_hidden_size` is {width}: "
                f"pass (batch_size, steps, {width})."
            )
        if states.shape[1] == 0:
            raise ValueError("`encoder_hidden_states` has no steps: pass `None` where no sample has features.")
        valid = as_bool_mask("encoder", mask, (states.shape[0], states.shape[1]), states.device)
        states = clear_padding(states, valid).to(self.layernorm.weight.dtype)
        queries = states.new_zeros(()).expand(rows, sum(self.config.query_counts), 1)  # only its shape is read
        return Features(states, key_mask(self.config, queries, states, valid))

    def _caption(
        self, name: str, values: Tensor | None, mask: Tensor | None, rows: int
    ) -> tuple[Tensor | None, Tensor]:
        """
        Caption tokens cut or padded to the slots.

        Returns:
            `values` (B, N_g, ...), zero where the mask is, and the mask (B, N_g) bool; `None` and all False without captions.
        """
        slots = self.config.query_counts[0]
        if values is None:
            if mask is not None:
                raise ValueError(f"`attention_mask` is given without `{name}`: pass both or neither.")
            return None, torch.zeros(rows, slots, dtype=torch.bool, device=self.layernorm.weight.device)
        valid = as_bool_mask("caption", mask, (values.shape[0], values.shape[1]), values.device)
        missing = max(0, slots - values.shape[1])
        valid = nn.functional.pad(valid[:, :slots], (0, missing))
        values = nn.functional.pad(values[:, :slots], (0,) * (2 * values.dim() - 3) + (missing,))
        return values.masked_fill(~valid.view(*valid.shape, *[1] * (values.dim() - 2)), 0), valid

    # ---- pretrained parts ---------------------------------------------------------------------------------------

    @classmethod
    def from_backbones(  # type: ignore[override]
        cls,
        text: str | PreTrainedModel | None = None,
        audio: int | PreTrainedConfig | PreTrainedModel | None = None,
        video: int | PreTrainedConfig | PreTrainedModel | None = None,
        **config_fields: Any,
    ) -> ConnectorPreTrainedModel:
        """
        Build a connector from BERT.

        Args:
            text (`str` or `PreTrainedModel`, *optional*): a BERT; see [`init_from_bert`].
            audio, video (`int`, config or model): width of the features, given for one of the two.
            config_fields: fields of the connector's config; sizes that are not given are BERT's.

        Raises:
            ValueError: both widths are given, BERT does not fit, or a config field is unknown.
        """
        fields: dict[str, Any] = dict(config_fields)
        if audio is not None and video is not None:
            raise ValueError("`audio` and `video` are both given: a connector reads the features of one modality.")
        bert: Any = None
        if text is not None:
            config = text.config if isinstance(text, PreTrainedModel) else AutoConfig.from_pretrained(text)
            names = ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")
            for name in (*names, "vocab_size", "max_position_embeddings"):
                fields.setdefault(name, getattr(config, name))
            bert = text
            if isinstance(text, str):
                bert = AutoModel.from_pretrained(text, add_pooling_layer=False)
        width = cls._width_fields({"encoder": audio if video is None else video})
        if width:
            fields.setdefault("encoder_hidden_size", width["encoder_feature_size"])
        kind: Any = cls.config_class
        model = cls(kind(**fields))
        if bert is not None:
            model.init_from_bert(bert)
        return model

    @torch.no_grad()
    def init_from_bert(self, bert: PreTrainedModel) -> None:
        """
        Copy BERT's first L layers, its tables and its embedding normalisation; cross-attention keeps its random weights.

        Raises:
            ValueError: BERT has fewer layers, or a tensor of another shape.
        """
        source = {name.removeprefix("bert."): value for name, value in bert.state_dict().items()}
        wanted = {"layernorm": "embeddings.LayerNorm"}
        for index in range(self.config.num_hidden_layers):
            for theirs, ours in _FROM_BERT.items():
                wanted[f"encoder.layer.{index}.{ours}"] = f"encoder.layer.{index}.{theirs}"
        pairs = {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in wanted.items() for kind in ("weight", "bias")}
        own = self.state_dict()
        for name in ("word", "position", "token_type"):
            table = f"embeddings.{name}_embeddings.weight"
            if table in own:
                pairs[table] = table
        self._copy(own, {ours: (theirs, source) for ours, theirs in pairs.items()}, "BERT")

    @torch.no_grad()
    def init_from_qformer(self, qformer: PreTrainedModel) -> None:
        """
        Copy the layers and the first normalisation of a [`Blip2QFormerModel`] with the same sizes.

        Raises:
            ValueError: it has fewer layers, no cross-attention where this model has, or a tensor of another shape.
        """
        own, source = self.state_dict(), qformer.state_dict()
        pairs = {name: (name, source) for name in own if name.startswith(("layernorm.", "encoder.layer."))}
        self._copy(own, pairs, "the Q-Former")

    def _copy(self, own: dict[str, Tensor], pairs: dict[str, tuple[str, dict[str, Tensor]]], what: str) -> None:
        for ours, (theirs, source) in pairs.items():
            if theirs not in source:
                raise ValueError(f"{what} has no `{theirs}`, which `{ours}` is to be copied from: use fewer layers.")
            if source[theirs].shape != own[ours].shape:
                raise ValueError(
                    f"`{theirs}` of {what} has shape {tuple(source[theirs].shape)} but `{ours}` has "
                    f"{tuple(own[ours].shape)}: give the connector the same sizes."
                )
        for ours, (theirs, source) in pairs.items():
            own[ours].copy_(source[theirs])

    # ---- cost ---------------------------------------------------------------------------------------------------

    def dense_configs(self) -> dict[str, Any]:
        """The connectors that this one is measured against, by name; none for one that computes everything."""
        return {}

    @property
    def active_counts(self) -> list[int]:
        """n_l, queries that take part in each cross-attention at the usual schedule."""
        return [sum(self.config.query_counts)] * len(self.config.cross_attention_layers)

    def _extra_flops(self) -> int:
        """Operations per sample outside the layers."""
        return 0

    def flops(
        self,
        num_features: int,
        scope: str = "full",
        batch_size: int = 1,
        active_counts: Sequence[int] | None = None,
    ) -> int:
        """
        Operations (two per multiply-add) of the matrix products in one forward pass.

        With N queries, n_l of them active in cross-attention, K features of width D, hidden size d, feed-forward f,
        c_l = 1 where layer l has cross-attention:

            F = Σ_l { 8Nd² + 4N²d + 4 N'_l d f + c_l [ 4 n_l d² + 4 n_l K d ] + kv_l } + what is outside the layers

        kv_l = 4KDd where n_l > 0, or once in total if keys and values are shared; N'_l = n_l where the inactive queries also
        pass by the feed-forward block, else N. Where the features are not projected, see [`QueryAttention.folded`], kv_l = 0
        and the bracket is [ 4 n_l d² + 4 n_l D d + 4 n_l H K D ].

        Args:
            num_features: K.
            scope: "query" (only [...] above), "cross" (that and kv_l) or "full".
            batch_size: B.
            active_counts: n_l per layer with cross-attention; `self.active_counts` when not given.

        Raises:
            ValueError: the scope is unknown, or there are more or fewer counts than layers with cross-attention.
        """
        config = self.config
        if scope not in ("query", "cross", "full"):
            raise ValueError(f"`scope` is {scope!r}: choose one of query, cross, full.")
        counts = self.active_counts if active_counts is None else list(active_counts)
        layers = config.cross_attention_layers
        if len(counts) != len(layers):
            raise ValueError(f"`active_counts` has {len(counts)} entries, there are {len(layers)} cross-attentions.")
        d, features, queries = config.hidden_size, num_features, sum(config.query_counts)
        width = config.encoder_hidden_size
        stack: Any = list(self.encoder.layer)
        if stack[0].crossattention.fold:
            per_query, projections = 4 * d * d + 4 * width * (d + config.num_attention_heads * features), 0
        else:
            per_query, projections = 4 * d * d + 4 * features * d, len([n for n in counts if n > 0])
        if self.encoder.shared_cross_kv is not None:
            projections = 1
        query = sum(counts) * per_query
        cross = query + projections * 4 * features * width * d
        total = {"query": query, "cross": cross}.get(scope)
        if total is None:
            fed = sum(
                counts[layers.index(index)] if layer.prune_feed_forward and index in layers else queries
                for index, layer in enumerate(stack)
            )
            depth = config.num_hidden_layers
            total = cross + depth * (8 * queries * d * d + 4 * queries * queries * d)
            total += 4 * fed * d * config.intermediate_size + self._extra_flops()
        return batch_size * total
