"""A plain Transformer over the frames of one modality."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedConfig

from .layers import TransformerLayer, clear_padding, key_mask, sinusoidal_positions
from .recorder import Recorder


class TransformerStack(nn.Module):
    """
    Pre-norm Transformer layers and the final normalisation that they need.

    Args:
        config: composite config, names the attention implementation.
        hidden_size: d.
        num_layers, num_heads: of the stack.
        dropout: after attention and feed-forward, and on the attention weights.
        intermediate_size: width of the feed-forward blocks, 2d when not given.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        intermediate_size: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            TransformerLayer(
                config, hidden_size, num_heads, intermediate_size or 2 * hidden_size, dropout, "gelu", norm="pre"
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states: Tensor, mask: Tensor, recorder: Recorder) -> Tensor:
        """`states` (B, T, d) with mask (B, T) bool -> (B, T, d), zeros on padding."""
        keys = key_mask(self.config, states, states, mask)
        for layer in self.layers:
            states, weights = layer(states, keys)
            recorder.add(states, weights)
        return clear_padding(self.norm(states), mask)


class SequenceEncoder(nn.Module):
    """Frames (B, T, D) to states (B, T, d): linear layer, sinusoidal positions, [`TransformerStack`]."""

    def __init__(
        self,
        config: PreTrainedConfig,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.stack = TransformerStack(config, hidden_size, num_layers, num_heads, dropout)

    def forward(self, frames: Tensor, mask: Tensor, recorder: Recorder) -> Tensor:
        states = self.embed(clear_padding(frames, mask))
        states = self.dropout(states + sinusoidal_positions(states.shape[1], states.shape[2], states))
        return self.stack(clear_padding(states, mask), mask, recorder)
