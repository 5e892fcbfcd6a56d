"""The multimodal adaptation gate (MAG): word vectors moved by what is heard and seen while they are spoken."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .layers import Dropout, ReluLinear, clear_padding


class AdaptationGate(nn.Module):
    """
    Rahman et al. 2020, section "Multimodal Adaptation Gate". At every position i, for m in audio and video:

        g_i^m = ReLU(W_gm [Z_i; M_i] + b_m)
        H_i = Σ_m g_i^m ⊙ (W_m M_i) + b_H
        α = min(β ‖Z_i‖₂ / ‖H_i‖₂, 1)
        Z̄_i = Z_i + α H_i, then layer norm and dropout

    Args:
        hidden_size: width d of Z.
        sources: width of every M.
        shift_scale: β.
        dropout: after the layer norm.
        eps: added to ‖H_i‖.
    """

    def __init__(
        self, hidden_size: int, sources: Mapping[str, int], shift_scale: float, dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.shift_scale, self.eps = shift_scale, eps
        self.gates = nn.ModuleDict({m: ReluLinear(hidden_size + width, hidden_size) for m, width in sources.items()})
        # Without bias: a sample that lacks a modality, M_i = 0, is not moved by it.
        self.shifts = nn.ModuleDict({m: nn.Linear(width, hidden_size, bias=False) for m, width in sources.items()})
        self.shift_bias = nn.Parameter(torch.zeros(hidden_size))  # b_H
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(dropout)

    def shift(self, words: Tensor, sources: Mapping[str, Tensor]) -> Tensor:
        """α H_i, (B, L, d)."""
        moved = self.shift_bias.expand_as(words)  # H
        for name, states in sources.items():
            gate = torch.relu(self.gates[name](torch.cat([words, states], -1)))  # g_i^m = ReLU(W_gm [Z_i; M_i] + b_m)
            moved = moved + gate * self.shifts[name](states)  # H_i = Σ_m g_i^m ⊙ (W_m M_i) + b_H
        lengths = [torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True) for x in (words, moved)]
        alpha = (self.shift_scale * lengths[0] / (lengths[1] + self.eps)).clamp(max=1.0)  # min(β ‖Z_i‖₂ / ‖H_i‖₂, 1)
        return alpha.to(moved.dtype) * moved

    def forward(self, words: Tensor, sources: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """
        Args:
            words: Z, (B, L, d).
            sources: M, (B, L, D_m) each, zeros where a sample has none.
            present: (B,) bool, samples with any of them; the others' words are not moved.

        Returns:
            (B, L, d).
        """
        moved = clear_padding(self.shift(words, sources), present[:, None].expand(words.shape[:2]))
        return self.dropout(self.norm(words + moved))  # Z̄_i = Z_i + α H_i, normalised
