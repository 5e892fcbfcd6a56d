"""Building blocks shared by the architectures.

Letters used in shape comments: B batch, T or L sequence length, D feature width, d hidden size, H heads, M modalities,
C classes. Masks are boolean of shape (B, T), True on valid steps, unless said otherwise.

No block lets padding or batch mates touch a sample: padded steps are cleared with `masked_fill` (a product would keep NaN)
and rows without any valid step are switched off by a presence factor, since attention backends disagree on such rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def values_are_at_hand(tensor: Tensor) -> bool:
    """Whether control flow may look at values: on CPU it costs nothing, elsewhere it waits, a compiler cannot follow it."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def clear_padding(states: Tensor, mask: Tensor) -> Tensor:
    """
    Zero the padded steps of `states` (B, T, D), whatever they hold; may return `states` itself if there are none.

    On CPU only the padded rows are written: the broadcast `masked_fill` takes ten times as long as a copy.
    """
    if not values_are_at_hand(states):
        return states.masked_fill(~mask[..., None], 0.0)
    padded = (~mask).flatten().nonzero().squeeze(1)
    return states.flatten(0, 1).index_fill(0, padded, 0.0).view_as(states) if len(padded) else states


def drop_elements(states: Tensor, p: float, training: bool) -> Tensor:
    """
    Dropout; on CPU from 16 random bits per element, a third of the time of torch's 53.

    The rate is `p` rounded to 1/65536 and the kept elements are scaled by what was really kept.
    """
    dropped = round(p * 65536)
    if not training or not 0 < dropped < 65536 or not values_are_at_hand(states):
        return nn.functional.dropout(states, p, training)
    count = states.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.int16)[:count].view(states.shape) >= dropped - 32768
    return states * keep.to(states.dtype).mul_(65536 / (65536 - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout` by [`drop_elements`]."""

    def forward(self, states: Tensor) -> Tensor:
        return drop_elements(states, self.p, self.training)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid steps of `states` (B, T, D); zeros where a row has none. Returns (B, D)."""
    total = clear_padding(states, mask).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1).to(states.dtype)


def last_step(states: Tensor, mask: Tensor) -> Tensor:
    """State at the last valid step of every row, (B, T, D) -> (B, D); zeros in rows without any."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    last = (steps * mask).amax(1)
    return states[torch.arange(states.shape[0], device=mask.device), last].masked_fill(~mask.any(1, keepdim=True), 0.0)


def reversed_steps(lengths: Tensor, steps: int) -> Tensor:
    """
    Index (B, T) that reverses the first `lengths[i]` of `steps` steps in each row and leaves the padding behind them.

    Applied twice it gives the original order.
    """
    step = torch.arange(steps, device=lengths.device)[None]  # (1, T)
    return torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)


def reverse_to_time_major(states: Tensor, index: Tensor) -> Tensor:
    """`states` (B, T, D) in the order of [`reversed_steps`] as (T, B, D); rows are picked whole, unlike by `gather`."""
    rows = index + torch.arange(index.shape[0], device=index.device)[:, None] * index.shape[1]
    return states.flatten(0, 1).index_select(0, rows.T.flatten()).unflatten(0, (index.shape[1], index.shape[0]))


def reverse_to_batch_major(states: Tensor, index: Tensor) -> Tensor:
    """The inverse of [`reverse_to_time_major`]: (T, B, D) -> (B, T, D)."""
    rows = index * index.shape[0] + torch.arange(index.shape[0], device=index.device)[:, None]
    return states.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, index.shape)


def sinusoidal_positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal position table (length, width). Made on the fly: a buffer would not survive loading."""
    position = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float32) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width, device=like.device)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: width // 2])
    return table.to(like.dtype)


class ReluLinear(nn.Linear):
    """A linear layer that a ReLU follows; its own class so that initialisation keeps the scale of deep stacks."""


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, with an additive or a boolean mask; also returns the weights (B, H, T_q, T_k)."""
    weights = (query * scaling) @ key.transpose(2, 3)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    elif attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = drop_elements(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@dataclass
class KeyMask:
    """Valid keys as the attention backend wants them, and which rows have any, (B,) bool."""

    mask: Tensor | None
    present: Tensor


def key_mask(config: PreTrainedConfig, query: Tensor, key: Tensor, mask: Tensor) -> KeyMask:
    """
    Prepare the mask of `key` (B, T_k) bool once for all layers that attend to it.

    A row without keys may attend anywhere and is zeroed after the attention: no backend sees a fully masked row.
    """
    present = mask.any(1)
    prepared = create_bidirectional_mask(
        config=config, inputs_embeds=query, attention_mask=mask | ~present[:, None], encoder_hidden_states=key
    )
    return KeyMask(prepared, present)


class Attention(nn.Module):
    """
    Multi-head attention whose keys and values may be different sequences of one length.

    Args:
        config: composite config, names the attention implementation.
        hidden_size: width of queries and output.
        num_heads: divides `hidden_size`.
        dropout: on the attention weights.
        key_size, value_size: widths of the key and value sequences, `hidden_size` when not given.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_heads: int,
        dropout: float = 0.0,
        key_size: int | None = None,
        value_size: int | None = None,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"the attention width {hidden_size} is not divisible by {num_heads} heads.")
        self.config = config
        self.is_causal = False  # sdpa reads it and would be causal without a mask
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(key_size or hidden_size, hidden_size)
        self.v_proj = nn.Linear(value_size or hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, d/H)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: KeyMask | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            query: (B, T_q, d).
            key, value: (B, T_k, ...).
            key_mask: valid keys, from [`key_mask`]. A row without any valid key gives exact zeros.

        Returns:
            (B, T_q, d), and the weights (B, H, T_q, T_k) when the implementation is eager.
        """
        implementation = self.config._attn_implementation
        dropout = self.dropout if self.training else 0.0
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        # torch has no CPU kernel with dropout: its fallback is this very computation with more passes over the weights.
        written_out = implementation == "sdpa" and dropout > 0 and values_are_at_hand(query)
        states, weights = (eager_attention if written_out else attend)(
            self,
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(key)),
            self._heads(self.v_proj(value)),
            None if key_mask is None else key_mask.mask,
            scaling=self.head_dim**-0.5,
            dropout=dropout,
        )
        states = self.o_proj(states.reshape(query.shape))
        if key_mask is not None:
            states = clear_padding(states, key_mask.present[:, None].expand(states.shape[:2]))
        return states, None if written_out else weights


class FeedForward(nn.Module):
    """Two linear layers with an activation between; shape is kept."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size)
        self.down_proj = nn.Linear(intermediate_size, hidden_size)
        self.activation = ACT2FN[activation]
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.activation(self.up_proj(states))))


class TransformerLayer(GradientCheckpointingLayer):
    """
    Self- or cross-attention layer with a feed-forward block, post-norm or pre-norm.

    With `key` and `value` the queries attend to them, otherwise to themselves. `intermediate_size=None` is `hidden_size`.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int | None,
        dropout: float,
        activation: str = "relu",
        norm: str = "post",
    ) -> None:
        super().__init__()
        self.pre_norm = norm == "pre"
        self.attention = Attention(config, hidden_size, num_heads, dropout)
        self.feed_forward = FeedForward(hidden_size, intermediate_size or hidden_size, activation, dropout)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(dropout)

    def forward(
        self, hidden_states: Tensor, key_mask: KeyMask | None, key: Tensor | None = None, value: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the new states (B, T, d) and the attention weights, if the implementation gives them."""
        query = self.attention_norm(hidden_states) if self.pre_norm else hidden_states
        attended, weights = self.attention(
            query, query if key is None else key, query if value is None else value, key_mask
        )
        states = hidden_states + self.dropout(attended)
        if self.pre_norm:
            return states + self.dropout(self.feed_forward(self.output_norm(states))), weights
        states = self.attention_norm(states)
        return self.output_norm(states + self.dropout(self.feed_forward(states))), weights


class MaskedBiLSTM(nn.Module):
    """
    Bidirectional LSTM whose backward direction starts at the last valid step of each row.

    One bidirectional `nn.LSTM` on padded input would start in the padding; two unidirectional ones keep the fast kernel.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.forward_lstm = nn.LSTM(input_size, hidden_size)
        self.backward_lstm = nn.LSTM(input_size, hidden_size)

    def forward(self, states: Tensor, mask: Tensor, first_only: bool = False) -> Tensor:
        """
        `states` (B, T, D) with a prefix mask (B, T) -> (B, T, 2·hidden_size), zeros on padding.

        With `first_only` only the first position is returned, (B, 1, 2·hidden_size): the forward direction has read no
        more than that, the backward one everything. The states behind the prefix have to be finite, nothing else.
        """
        lengths = mask.sum(1)
        order = reversed_steps(lengths, states.shape[1])
        ahead, _ = self.forward_lstm((states[:, :1] if first_only else states).transpose(0, 1))
        back, _ = self.backward_lstm(reverse_to_time_major(states, order))
        if first_only:
            last = (lengths - 1).clamp(min=0)
            back = back[last, torch.arange(last.shape[0], device=last.device)][:, None]  # (B, 1, h)
        else:
            back = reverse_to_batch_major(back, order)
        return clear_padding(torch.cat([ahead.transpose(0, 1), back], -1), mask[:, : back.shape[1]])
