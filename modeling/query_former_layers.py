"""Layers of a query former: queries attend to one another, then to features.

Parameters have the names of BLIP-2's Q-Former, so that its weights and BERT's load. Letters: N queries, n of them active, K
features of width D, H heads; the rest as in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_connector import ConnectorConfig
from .layers import Dropout, KeyMask, clear_padding, drop_elements, eager_attention, values_are_at_hand
from .recorder import Recorder


@dataclass
class Features:
    """Features that queries read: `states` (B, K, D), which of them are valid, and which samples have any."""

    states: Tensor
    keys: KeyMask


@dataclass
class Selection:
    """
    Queries that take part in one cross-attention.

    Args:
        index: (B, n) long, ascending; `None` for all.
        gate: κ (B, n), how much of the update they take; `None` for all of it.
        kept: (B, n) bool, False for queries that only fill the width up; `None` if there are none.
    """

    index: Tensor | None = None
    gate: Tensor | None = None
    kept: Tensor | None = None


class QueryRecorder(Recorder):
    """Also keeps the attention over the features, one (B, H, N, K) per layer that has it."""

    def __init__(self, hidden_states: bool, attentions: bool) -> None:
        super().__init__(hidden_states, attentions)
        self.cross_attentions: list[Tensor] | None = [] if attentions else None

    @property
    def wants_maps(self) -> bool:
        return self.attentions is not None

    @property
    def fields(self) -> dict[str, tuple[Tensor, ...] | None]:
        cross = None if self.cross_attentions is None else tuple(self.cross_attentions)
        return {**super().fields, "cross_attentions": cross}


class LearnedTokens(nn.Module):
    """Vectors (count, d). A module of their own: PEFT passes over parameters that a model owns directly."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))


def rows_of(index: Tensor, length: int) -> Tensor:
    """Positions (B·n,) of `index` (B, n) in a batch of sequences of `length` laid end to end."""
    return (index + torch.arange(len(index), device=index.device)[:, None] * length).flatten()


def pick(states: Tensor, index: Tensor) -> Tensor:
    """(B, N, d) -> (B, n, d); whole rows, which `gather` would copy number by number."""
    return states.flatten(0, 1).index_select(0, rows_of(index, states.shape[1])).unflatten(0, index.shape)


def put(states: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """`states` (B, N, d) with `values` (B, n, d) at `index`."""
    rows = rows_of(index, states.shape[1])
    return states.flatten(0, 1).index_copy(0, rows, values.flatten(0, 1)).view_as(states)


class KeyValueProjection(nn.Module):
    """Linear layers `key` and `value`, (B, K, `width`) -> twice (B, H, K, d/H)."""

    def __init__(self, config: ConnectorConfig, width: int) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.key = nn.Linear(width, config.hidden_size)
        self.value = nn.Linear(width, config.hidden_size)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return split_heads(self.key(states), self.num_heads), split_heads(self.value(states), self.num_heads)


def split_heads(states: Tensor, num_heads: int) -> Tensor:
    """(B, T, d) -> (B, H, T, d/H)."""
    return states.view(*states.shape[:2], num_heads, -1).transpose(1, 2)


class QueryAttention(KeyValueProjection):
    """Multi-head attention; keys and values are its own projections unless they are handed in."""

    def __init__(self, config: ConnectorConfig, width: int, own_keys: bool = True) -> None:
        super().__init__(config, width)
        if not own_keys:
            self.key = self.value = None  # type: ignore[assignment]
        self.config = config
        self.is_causal = False  # sdpa reads it and would be causal without a mask
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.dropout = config.attention_probs_dropout_prob

    def folded(self, states: Tensor, source: Tensor, mask: Tensor | None, maps: bool) -> tuple[Tensor, Tensor | None]:
        """
        The same attention over `source` (B, K, D) without projecting it, in time and memory in proportion to n.

        Per head (W_q h)ᵀ W_k x = (W_kᵀ W_q h)ᵀ x and Σ w_j W_v x_j = W_v Σ w_j x_j: both projections move to the side of the
        queries. Arguments and results as in `forward`; the weights are written out, since the D numbers of a key are too many
        for fused kernels.
        """
        (rows, count, _), heads, (steps, width) = states.shape, self.num_heads, source.shape[1:]

        def by_head(weight: Tensor) -> Tensor:
            return weight.unflatten(0, (heads, -1))  # (H, d/H, D)

        query = self.query(states).view(rows * count, heads, -1).transpose(0, 1)  # (H, B·n, d/H)
        # The same for all keys, so the softmax does not see it; but a parameter without gradient stops data parallelism.
        shift = (query * self.key.bias.view(heads, 1, -1)).sum(-1).view(heads, rows, count, 1)
        query = (query @ by_head(self.key.weight)).view(heads, rows, count, width)
        scores = query.transpose(0, 1).reshape(rows, heads * count, width) @ source.transpose(1, 2)
        scores = (scores.view(rows, heads, count, steps) + shift.transpose(0, 1)) * self.scaling
        if mask is not None:
            mask = mask[:, :, :count]
            blocked = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~mask, blocked) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(-1, dtype=torch.float32).to(states.dtype)
        weights = drop_elements(weights, self.dropout, self.training)
        mixed = (weights.view(rows, heads * count, steps) @ source).view(rows, heads, count, width)
        mixed = mixed.transpose(0, 1).reshape(heads, rows * count, width)
        found = (mixed @ by_head(self.value.weight).transpose(1, 2)).view(heads, rows, count, -1)
        bias = weights.sum(-1, keepdim=True).transpose(0, 1) * self.value.bias.view(heads, 1, 1, -1)  # dropout: not 1
        return (found + bias).permute(1, 2, 0, 3).reshape(states.shape), weights if maps else None

    def forward(
        self, states: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            states: (B, n, d).
            key, value: (B, H, K, d/H).
            mask: for the attention backend, with at least n rows, all of them alike; `None` if all keys are valid.
            maps: also return the weights, which no fused kernel has.

        Returns:
            (B, n, d) and the weights (B, H, n, K) or `None`.
        """
        implementation = self.config._attn_implementation
        dropout = self.dropout if self.training else 0.0
        # torch has no CPU kernel with dropout: its fallback is this very computation with more passes over the weights.
        written_out = maps or (implementation == "sdpa" and dropout > 0 and values_are_at_hand(states))
        attend = (
            eager_attention if written_out else ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        )
        if mask is not None and mask.dim() == 4:
            mask = mask[:, :, : states.shape[1]]
        query = split_heads(self.query(states), self.num_heads)
        found, weights = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout)
        return found.reshape(states.shape), weights if maps else None


class BlockOutput(nn.Module):
    """What follows attention and feed-forward: a linear layer; with the normalisation of the block, wherever it stands."""

    def __init__(self, config: ConnectorConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor) -> Tensor:
        return self.dropout(self.dense(states))


class QueryAttentionBlock(nn.Module):
    """
    Attention, its output and residual: LN(h + A(h)), or h + A(LN(h)) with `pre_norm`.

    With `fold`, what it attends to is not projected, see [`QueryAttention.folded`].
    """

    def __init__(
        self, config: ConnectorConfig, width: int, own_keys: bool = True, pre_norm: bool = False, fold: bool = False
    ) -> None:
        super().__init__()
        self.fold = fold
        self.attention = QueryAttention(config, width, own_keys)
        self.output = BlockOutput(config, config.hidden_size)
        self.pre_norm = pre_norm

    def forward(
        self,
        states: Tensor,
        keys: KeyMask | None,
        source: Tensor | None = None,
        projected: tuple[Tensor, Tensor] | None = None,
        gate: Tensor | None = None,
        maps: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            states: h (B, n, d).
            keys: valid keys. A row without any has a zero in place of A(h).
            source: (B, K, D) to attend to; the states themselves when not given.
            projected: keys and values that are projected already, in place of `source`.
            gate: κ (B, n): h + κ·A(LN(h)), or (1 − κ)·h + κ·LN(h + A(h)), which at κ = 1 is the pretrained layer.

        Returns:
            (B, n, d) and, if `maps`, the weights (B, H, n, K).
        """
        query = self.output.LayerNorm(states) if self.pre_norm else states
        mask = None if keys is None else keys.mask
        if self.fold and source is not None:
            update, weights = self.attention.folded(query, source, mask, maps)
        else:
            key, value = projected or self.attention.project(query if source is None else source)
            update, weights = self.attention(query, key, value, mask, maps)
        update = self.output(update)
        if keys is not None:  # backends disagree on rows without keys, and the linear layer has a bias
            update = clear_padding(update, keys.present[:, None].expand(update.shape[:2]))
            weights = None if weights is None else weights * keys.present[:, None, None, None]
        if self.pre_norm:
            return states + (update if gate is None else gate[..., None] * update), weights
        updated = self.output.LayerNorm(update + states)
        # Exact at both ends: `states` where κ is 0, `updated` where it is 1.
        return updated if gate is None else torch.lerp(states, updated, gate[..., None]), weights


class Intermediate(nn.Module):
    """First half of the feed-forward block."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: Tensor) -> Tensor:
        return self.activation(self.dense(states))


class QueryFormerLayer(GradientCheckpointingLayer):
    """
    Self-attention of the queries, cross-attention to the features where the layer has it, feed-forward.

    Args:
        config: of the connector.
        index: l, of the layer.
        own_keys: False if keys and values of the features are projected once for all layers.
        pre_norm: h + F(LN(h)) in place of LN(h + F(h)).
        prune_feed_forward: queries without a part in the cross-attention also pass by the feed-forward block.
        fold: the cross-attention does not project the features.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        index: int,
        own_keys: bool = True,
        pre_norm: bool = False,
        prune_feed_forward: bool = False,
        fold: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.prune_feed_forward = prune_feed_forward
        self.attention = QueryAttentionBlock(config, config.hidden_size, pre_norm=pre_norm)
        self.crossattention = None
        if index in config.cross_attention_layers:
            self.crossattention = QueryAttentionBlock(config, config.encoder_hidden_size, own_keys, pre_norm, fold)
        self.intermediate_query = Intermediate(config)
        self.output_query = BlockOutput(config, config.intermediate_size)

    def feed_forward(self, states: Tensor) -> Tensor:
        if self.pre_norm:
            return states + self.output_query(self.intermediate_query(self.output_query.LayerNorm(states)))
        return self.output_query.LayerNorm(self.output_query(self.intermediate_query(states)) + states)

    def forward(
        self,
        states: Tensor,
        query_keys: KeyMask | None,
        features: Features,
        projected: tuple[Tensor, Tensor] | None,
        chosen: Selection,
        maps: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Args:
            states: (B, N, d).
            query_keys: valid queries; `None` if all are.
            features: to attend to.
            projected: their keys and values, if the layer does not own the projection.
            chosen: which queries take part in the cross-attention; the others pass by unchanged.

        Returns:
            (B, N, d) and, if `maps`, the weights over the queries (B, H, N, N) and over the features (B, H, N, K), zeros for
            queries that passed by.
        """
        states, self_maps = self.attention(states, query_keys, maps=maps)
        if self.crossattention is None:
            return self.feed_forward(states), self_maps, None
        index = chosen.index
        active = states if index is None else pick(states, index)
        active, cross_maps = self.crossattention(
            active, features.keys, None if projected else features.states, projected, chosen.gate, maps
        )
        if index is None:
            return self.feed_forward(active), self_maps, cross_maps
        if self.prune_feed_forward:
            fed = self.feed_forward(active)
            states = put(
                states, index, fed if chosen.kept is None else torch.where(chosen.kept[..., None], fed, active)
            )
        else:
            states = self.feed_forward(put(states, index, active))
        return states, self_maps, None if cross_maps is None else spread_maps(cross_maps, chosen, states.shape[1])


def spread_maps(weights: Tensor, chosen: Selection, length: int) -> Tensor:
    """(B, H, n, K) -> (B, H, N, K), zeros for queries that did not attend."""
    assert chosen.index is not None
    if chosen.kept is not None:
        weights = weights * chosen.kept[:, None, :, None]
    whole = weights.new_zeros(*weights.shape[:2], length, weights.shape[3])
    return whole.scatter(2, chosen.index[:, None, :, None].expand_as(weights), weights)


class QueryFormerEncoder(nn.Module):
    """
    The stack of layers.

    Args:
        config: of the connector.
        share_cross_kv: project keys and values of the features once for all layers.
        pre_norm, prune_feed_forward, fold: see [`QueryFormerLayer`].
    """

    def __init__(
        self,
        config: ConnectorConfig,
        share_cross_kv: bool = False,
        pre_norm: bool = False,
        prune_feed_forward: bool = False,
        fold: bool = False,
    ) -> None:
        super().__init__()
        self.shared_cross_kv = KeyValueProjection(config, config.encoder_hidden_size) if share_cross_kv else None
        self.layer = nn.ModuleList(
            QueryFormerLayer(config, index, not share_cross_kv, pre_norm, prune_feed_forward, fold)
            for index in range(config.num_hidden_layers)
        )

    def forward(
        self,
        states: Tensor,
        query_keys: KeyMask | None,
        features: Features,
        recorder: QueryRecorder,
        choose: Callable[[Tensor], Selection] | None = None,
    ) -> Tensor:
        """
        Args:
            states: (B, N, d), normalised.
            query_keys: valid queries; `None` if all are.
            features: to attend to.
            recorder: takes the states before and after every layer, and the attention maps.
            choose: called with the input of every layer that has cross-attention, in order: which queries take part.

        Returns:
            (B, N, d).
        """
        projected = None if self.shared_cross_kv is None else self.shared_cross_kv.project(features.states)
        recorder.add(states, None)
        for layer in self.layer:
            chosen = Selection()
            if choose is not None and layer.crossattention is not None:
                chosen = choose(states)
            states, self_maps, cross_maps = layer(states, query_keys, features, projected, chosen, recorder.wants_maps)
            recorder.add(states, self_maps)
            if recorder.cross_attentions is not None and cross_maps is not None:
                recorder.cross_attentions.append(cross_maps)
        return states
