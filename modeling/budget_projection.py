"""How many tokens may receive evidence: gates from evidence strength, projected onto a budget. CLCR, Eq. (3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import initialization as init

_BELOW_EVERY_GATE = -1e4  # stands for padding while gates are sorted


class Float32Module(nn.Module):
    """A module whose parameters stay in float32 when the model is moved to half precision: they are few and delicate."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Module:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            halved = moved.dtype in (torch.float16, torch.bfloat16) and tensor.dtype == torch.float32
            return tensor.to(moved.device) if halved else moved

        return super()._apply(keep, recurse)


def project_to_budget(gates: Tensor, budget: Tensor, mask: Tensor) -> Tensor:
    """
    Euclidean projection of gates onto the truncated simplex.

    `w = argmin ‖w − g‖²  subject to  0 ≤ w_t ≤ 1,  Σ_t w_t ≤ B`, which is `w = max(g − τ, 0)` with τ = 0 when Σg ≤ B and
    otherwise the τ at which Σw = B. The upper bound never binds because gates are at most 1. Gradients are exact, for
    `gates` and for `budget`; the latter is 0 while the constraint is slack.

    Args:
        gates: g (B, T) float, between 0 and 1.
        budget: B (B,) float, not negative.
        mask: (B, T) bool.

    Returns:
        w (B, T), 0 on padding.
    """
    # Eq. (3), solved exactly
    ordered = gates.masked_fill(~mask, _BELOW_EVERY_GATE).sort(-1, descending=True).values  # g_(1) ≥ g_(2) ≥ …
    count = torch.arange(1, gates.shape[1] + 1, device=gates.device, dtype=gates.dtype)  # k
    thresholds = (ordered.cumsum(-1) - budget[:, None]) / count  # t_k = (c_k − B) / k
    support = (ordered > thresholds).sum(-1, keepdim=True)  # #{k: g_(k) > t_k}
    tau = thresholds.gather(-1, (support - 1).clamp(min=0)).clamp(min=0.0)
    # A mean of equal gates may come out below them by rounding: nothing is given away where there is no budget at all.
    closed = ~mask | (budget <= 0)[:, None]
    return (gates - tau).clamp(min=0.0).masked_fill(closed, 0.0)


class TokenBudget(Float32Module):
    """
    Gate and budget of one level: learnable scale a, threshold θ and budget share σ(b).

    Args:
        scale: softplus(a) at the start.
        threshold: θ at the start.
        share: ρ₀ = σ(b) at the start; `None` for the dense variant, which has no budget.
        learnable: whether b is trained.
    """

    def __init__(self, scale: float, threshold: float, share: float | None, learnable: bool) -> None:
        super().__init__()
        # log(eˢ − 1), written so that large s does not overflow
        self.start = {"scale": scale + math.log(-math.expm1(-scale)), "threshold": float(threshold)}
        self.scale = nn.Parameter(torch.full((1,), self.start["scale"]))  # a
        self.threshold = nn.Parameter(torch.full((1,), self.start["threshold"]))  # θ
        self.share = None
        if share is not None:
            self.start["share"] = math.log(share / (1 - share))
            self.share = nn.Parameter(torch.full((1,), self.start["share"]), requires_grad=learnable)  # b

    def reset_parameters(self) -> None:
        for name, value in self.start.items():
            init.constant_(getattr(self, name), value)

    def fraction(self, scale: float = 1.0) -> Tensor:
        """ρ = κ·σ(b), the share of a sequence that may receive evidence; 1 without a budget."""
        return torch.ones_like(self.scale) if self.share is None else scale * self.share.sigmoid()

    def gates(self, shared: Tensor, mask: Tensor) -> Tensor:
        """g_t = σ(softplus(a)·(e_t − θ)), e_t = ‖z_t‖/√d_s; `shared` z (B, T, d_s) -> (B, T) float32, 0 on padding."""
        strength = torch.linalg.vector_norm(shared.float(), dim=-1) / math.sqrt(shared.shape[-1])  # e_t
        gates = torch.sigmoid(nn.functional.softplus(self.scale) * (strength - self.threshold))
        return gates.masked_fill(~mask, 0.0)

    def forward(self, shared: Tensor, mask: Tensor, budget_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """
        Args:
            shared: z (B, T, d_s).
            mask: (B, T) bool.
            budget_scale: κ.

        Returns:
            w (B, T) float32, and whether the budget binds, (B,) bool.
        """
        gates = self.gates(shared, mask)
        if self.share is None:
            return gates, torch.zeros_like(mask[:, 0])
        budget = self.fraction(budget_scale) * mask.sum(1)  # B = κ·σ(b)·T_valid
        return project_to_budget(gates, budget, mask), gates.sum(1) > budget
