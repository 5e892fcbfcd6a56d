"""Features of a frozen encoder as a connector reads them: shortened, with positions and segments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import clear_padding, sinusoidal_positions
from .query_former_layers import LearnedTokens


class AudioTokens(nn.Module):
    """
    Sound: convolutions that halve the number of steps, then positions.

    Args:
        width: D.
        num_layers: of Conv1d(D, D, kernel 3, stride 2) and GELU.
        positions: add sinusoidal positions.
    """

    def __init__(self, width: int, num_layers: int, positions: bool) -> None:
        super().__init__()
        self.positions = positions
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for _ in range(num_layers))

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B, T) bool to (B, T', D) and (B, T'); a step is valid if any step it covers is."""
        for layer in self.layers:
            # One more step: the last window of an even length exists alone as well as beside a longer sample.
            states, mask = nn.functional.pad(clear_padding(states, mask), (0, 0, 0, 1)), nn.functional.pad(mask, (0, 1))
            states = nn.functional.gelu(layer(states.transpose(1, 2))).transpose(1, 2)
            mask = nn.functional.max_pool1d(mask[:, None].float(), 3, stride=2, padding=1)[:, 0] > 0
        if self.positions:
            states = states + sinusoidal_positions(states.shape[1], states.shape[2], states)
        return clear_padding(states, mask), mask


class VideoTokens(nn.Module):
    """
    Pictures: which of the two poolings a token comes from, and positions in time.

    Args:
        width: D.
        num_spatial: tokens of the spatial pooling in front; 0 when every token is a frame.
        positions: add sinusoidal positions to the temporal tokens.
    """

    def __init__(self, width: int, num_spatial: int, positions: bool) -> None:
        super().__init__()
        self.positions, self.num_spatial = positions, num_spatial
        self.segments = LearnedTokens(2, width) if num_spatial else None  # spatial, temporal

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, D) and (B, K) bool; shapes stay."""
        spatial, temporal = states[:, : self.num_spatial], states[:, self.num_spatial :]
        if self.positions:
            temporal = temporal + sinusoidal_positions(temporal.shape[1], temporal.shape[2], temporal)
        if self.segments is not None:
            spatial, temporal = spatial + self.segments.weight[0], temporal + self.segments.weight[1]
        return clear_padding(torch.cat([spatial, temporal], 1), mask), mask


class EmbeddingLinear(nn.Linear):
    """Linear layer into the embedding space of a language model; starts as small as word vectors do."""


class StateHead(nn.Linear):
    """Linear layer on states of a language model, which differ in scale from model to model: they are normalised first."""

    def forward(self, states: Tensor) -> Tensor:
        """(B, d) -> (B, C)."""
        return super().forward(nn.functional.layer_norm(states, states.shape[-1:]))


class TokenProjector(nn.Module):
    """
    Tokens of a connector to word vectors of the language model.

    Args:
        width, out: of the connector and of the language model.
        kind: "linear", or "mlp" with a hidden layer of the language model's width.
    """

    def __init__(self, width: int, out: int, kind: str) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, out) if kind == "mlp" else None
        self.output = EmbeddingLinear(width if self.hidden is None else out, out)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, out)."""
        return self.output(tokens if self.hidden is None else nn.functional.gelu(self.hidden(tokens)))
