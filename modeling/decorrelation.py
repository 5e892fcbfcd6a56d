"""How strongly two sets of rows are correlated once each is whitened. CLCR, Eq. (6), (7) and (12).

Everything runs in float32 (or float64), whatever the autocast dtype.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .configuration_clcr import ClcrConfig
from .losses import gather_rows


def segment_weights(mask: Tensor, segments: int) -> Tensor:
    """
    What every token counts in the mean of each of `segments` parts: adaptive average pooling over each row's own length.

    Part s of T valid tokens covers those of rank ⌊sT/S⌋ … ⌈(s+1)T/S⌉ − 1; short sequences repeat tokens.

    Args:
        mask: (B, T) bool.
        segments: S; 1 is the mean of all.

    Returns:
        (B, S, T) float32; zeros for rows without tokens.
    """
    total = mask.sum(1)[:, None]  # (B, 1)
    part = torch.arange(segments, device=mask.device)[None]
    start, end = part * total // segments, -(-(part + 1) * total // segments)  # (B, S)
    rank = mask.cumsum(1)[:, None] - 1  # (B, 1, T)
    member = mask[:, None] & (rank >= start[..., None]) & (rank < end[..., None])
    return member.float() / member.sum(-1, keepdim=True).clamp(min=1)


def segment_means(states: Tensor, mask: Tensor, segments: int) -> Tensor:
    """Means of [`segment_weights`]: `states` (B, T, D) and `mask` (B, T) -> (B, S, D)."""
    return segment_weights(mask, segments).to(states.dtype) @ states


class IdentifiabilityLoss(nn.Module):
    """
    Eq. (7): L_intra = Σ_l [ Σ_{m<n} ‖C(P_m, P_n)‖² + γ Σ_m ‖C(P_m, S̃_m)‖² ] over segments of all samples.

    The streams of Eq. (5), S̃_m = (z̃_t) and P_m = (π_t), are stacked as rows.
    """

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, private: Tensor, shared: Tensor, present: Tensor) -> Tensor:
        """Segment means of both streams, (L, M, B, S, r), and who is there, (B, M) bool -> ()."""
        config = self.config
        weight = present.T.to(private.dtype).repeat_interleave(private.shape[3], 1)  # (M, B·S)
        private, shared = private.flatten(2, 3), shared.flatten(2, 3)
        if config.gather_across_processes:
            private, shared = (gather_rows(x.movedim(2, 0))[0].movedim(0, 2) for x in (private, shared))
            weight = gather_rows(weight.T)[0].T
        options = (config.whitening_eps, config.whitening_solver)
        pairs = list(itertools.combinations(range(len(config.modalities)), 2))
        terms = []
        if pairs:
            first, second = ([pair[side] for pair in pairs] for side in (0, 1))
            both = (weight[first] * weight[second]).expand(len(private), -1, -1)
            terms.append(whitened_correlation(private[:, first], private[:, second], both, *options))
        leak = whitened_correlation(private, shared, weight.expand(len(private), -1, -1), *options)
        terms.append(config.intra_separation * leak)
        joined = torch.cat([term.flatten() for term in terms])
        return joined.sum() if config.regularizer_reduction == "sum" else joined.mean()


def whitened_correlation(
    first: Tensor, second: Tensor, weight: Tensor, eps: float = 1e-3, solver: str = "cholesky"
) -> Tensor:
    """
    Eq. (6): `‖C(X, Y)‖²_F / min(r_X, r_Y)` with `C = Σ_XX^{-1/2} Σ_XY Σ_YY^{-1/2}`, between 0 and 1.

    The norm is `tr(Σ_X⁻¹ Σ_XY Σ_Y⁻¹ Σ_YX)`: two triangular solves give it without any decomposition.

    Args:
        first: X (..., n, r_X).
        second: Y (..., n, r_Y).
        weight: (..., n), 1 for rows that count and 0 for others.
        eps: the covariances get eps·tr(Σ)/r + 1e-6 on their diagonal.
        solver: "cholesky", or "eigh" as the paper describes it.

    Returns:
        (...,); 0 where fewer than two rows count. For independent X and Y its mean is about r/(n − 1), not 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = (x if x.dtype == torch.float64 else x.float() for x in (first, second))
        weight = weight.to(first.dtype)
        rows = weight.sum(-1)
        first, second = _centred(first, weight), _centred(second, weight)
        scale = 1.0 / (rows - 1).clamp(min=1.0)[..., None, None]
        cross = first.mT @ second * scale
        left, right = (_regularised(x.mT @ x * scale, eps) for x in (first, second))
        if solver == "cholesky":
            whitened = _solve(right, _solve(left, cross).mT)
        else:
            whitened = _inverse_root(left) @ cross @ _inverse_root(right)
        norm = whitened.square().sum((-1, -2)) / min(first.shape[-1], second.shape[-1])
        return torch.where(rows >= 2, norm, 0.0)


def _centred(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows minus their weighted mean; rows that do not count become 0."""
    weight = weight[..., None]
    mean = (rows * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1.0)
    return (rows - mean) * weight


def _regularised(covariance: Tensor, eps: float) -> Tensor:
    size = covariance.shape[-1]
    ridge = eps * covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / size + 1e-6
    return covariance + ridge[..., None, None] * torch.eye(size, device=covariance.device, dtype=covariance.dtype)


def _solve(covariance: Tensor, right: Tensor) -> Tensor:
    """L⁻¹ R with Σ = L Lᵀ. The ridge bounds the condition number, so no check, which would wait for the device."""
    factor = torch.linalg.cholesky_ex(covariance).L
    return torch.linalg.solve_triangular(factor, right, upper=False)


def _inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.rsqrt()[..., None, :] @ vectors.mT
