"""Dynamic attention fusion (DAF): audio, video and coarse sequences enter the text stream by learned, per-token weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Dropout, MaskedBiLSTM, ReluLinear, clear_padding


class DynamicDepth(nn.Module):
    """
    A stack of ReLU layers whose depth is soft: the expectation of "stop at depth k".

    x_0 = ReLU(L_0 [M; T]), x_k = ReLU(L_k x_{k−1}), g_k = σ(γ_k(x_k)); the output is
    Σ_k (Π_{j<k} g_j)(1 − g_k) x_k with the last gate closed. "fixed": the last x_k.
    """

    def __init__(self, input_size: int, hidden_size: int, depth: int, gate: str = "soft") -> None:
        super().__init__()
        sizes = [input_size, *[hidden_size] * depth]
        self.layers = nn.ModuleList(ReluLinear(sizes[k], sizes[k + 1]) for k in range(depth))
        self.gates = nn.ModuleList(nn.Linear(hidden_size, 1) for _ in range(depth - 1 if gate == "soft" else 0))

    def forward(self, states: Tensor) -> Tensor:
        """(B, L, D + d) -> (B, L, d)."""
        if not self.gates:
            for layer in self.layers:
                states = torch.relu(layer(states))
            return states
        states = torch.relu(self.layers[0](states))
        reach = torch.sigmoid(self.gates[0](states))  # (B, L, 1) probability of going beyond this depth
        mixed = (1 - reach) * states
        for layer, gate in zip(self.layers[1:-1], self.gates[1:], strict=True):
            states = torch.relu(layer(states))
            deeper = torch.sigmoid(gate(states))
            mixed = torch.addcmul(mixed, reach * (1 - deeper), states)
            reach = reach * deeper
        return torch.addcmul(mixed, reach, torch.relu(self.layers[-1](states)))


class FusionSource(nn.Module):
    """
    One source of the fusion: what it says at every token, u, and how much it is trusted there, α.

    Args:
        source_size: width D_m of the source.
        hidden_size: width d of the text stream.
        depth, gate: of [`DynamicDepth`].
        dropout: before the score.
    """

    def __init__(self, source_size: int, hidden_size: int, depth: int, gate: str, dropout: float) -> None:
        super().__init__()
        self.dynamic = DynamicDepth(source_size + hidden_size, hidden_size, depth, gate)
        self.value = nn.Linear(source_size, hidden_size)
        self.score_lstm = MaskedBiLSTM(hidden_size, max(1, source_size // 2))
        self.dropout = Dropout(dropout)
        self.score = nn.Linear(2 * self.score_lstm.hidden_size, 1)

    def forward(
        self, source: Tensor, text: Tensor, mask: Tensor, present: Tensor, first_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            source: (B, L, D_m), aligned to the text.
            text: (B, L, d).
            mask: (B, L) bool of the text.
            present: (B,) bool, which samples have the source.
            first_only: return the first position only, L = 1.

        Returns:
            u (B, L, d) and α (B, L) float32, both 0 where the source is absent; α is 0 on padding.
        """
        update = self.dynamic(torch.cat([source, text], -1)) * self.value(source)
        evidence = self.score_lstm(update, mask, first_only)
        trust = torch.sigmoid(self.score(self.dropout(evidence)).float())
        on = mask & present[:, None]
        if first_only:
            update, on = update[:, :1], on[:, :1]
        return clear_padding(update, on), trust.squeeze(-1).masked_fill(~on, 0.0)


class DynamicAttentionFusion(nn.Module):
    """
    `M = LN(Σ_m α̂_m u_m + T)` with `α̂_m = α_m / Σ_m α_m`; a sample without any source keeps LN(T).

    Args:
        source_sizes: width of every source, by name; the order is that of the weights.
        hidden_size: width d of the text stream.
        depth, gate, attention_dropout: of the sources.
        output_dropout: on the result.
        eps: of the layer norm.
    """

    def __init__(
        self,
        source_sizes: dict[str, int],
        hidden_size: int,
        depth: int,
        gate: str,
        attention_dropout: float,
        output_dropout: float,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.sources = nn.ModuleDict(
            {
                name: FusionSource(size, hidden_size, depth, gate, attention_dropout)
                for name, size in source_sizes.items()
            }
        )
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = Dropout(output_dropout)

    def forward(
        self, text: Tensor, mask: Tensor, sources: dict[str, tuple[Tensor, Tensor]], first_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            text: (B, L, d).
            mask: (B, L) bool.
            sources: by name, the aligned sequence (B, L, D_m) and which samples have it (B,); a name may be missing.
            first_only: compute the first position only, L = 1 in what is returned.

        Returns:
            fused states (B, L, d) and normalised weights (B, L, M) float32, 0 for absent sources and on padding.
        """
        fused = text[:, :1] if first_only else text
        trust = fused.new_zeros(*fused.shape[:2], len(self.sources), dtype=torch.float32)
        updates: list[tuple[int, Tensor]] = []
        columns = list(trust.unbind(-1))
        for index, (name, module) in enumerate(self.sources.items()):
            if name in sources:
                update, columns[index] = module(sources[name][0], text, mask, sources[name][1], first_only)
                updates.append((index, update))
        trust = torch.stack(columns, -1) if columns else trust
        weights = trust / (trust.sum(-1, keepdim=True) + 1e-6)
        for index, update in updates:
            fused = torch.addcmul(fused, weights[..., index, None].to(text.dtype), update)
        return self.dropout(self.norm(fused)), weights
