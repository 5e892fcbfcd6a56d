"""How strongly two sets of rows are correlated once each is whitened. CLCR, Eq. (6), (7) and (12).

Everything runs in float32 (or float64), whatever the autocast dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_means(states: Tensor, mask: Tensor, segments: int) -> Tensor:
    """
    Mean of the valid tokens in `segments` parts: adaptive average pooling over each row's own length.

    Part s of T valid tokens covers those of rank ⌊sT/S⌋ … ⌈(s+1)T/S⌉ − 1; short sequences repeat tokens.

    Args:
        states: (B, T, D).
        mask: (B, T) bool.
        segments: S.

    Returns:
        (B, S, D); zeros for rows without tokens.
    """
    total = mask.sum(1)[:, None]  # (B, 1)
    part = torch.arange(segments, device=states.device)[None]
    start, end = part * total // segments, -(-(part + 1) * total // segments)  # (B, S)
    rank = mask.cumsum(1)[:, None] - 1  # (B, 1, T)
    member = mask[:, None] & (rank >= start[..., None]) & (rank < end[..., None])
    weight = member.to(states.dtype) / member.sum(-1, keepdim=True).clamp(min=1).to(states.dtype)
    return weight @ states


def whitened_correlation(
    first: Tensor, second: Tensor, weight: Tensor, eps: float = 1e-3, solver: str = "cholesky"
) -> Tensor:
    """
    `‖C(X, Y)‖²_F / min(r_X, r_Y)` with `C = Σ_XX^{-1/2} Σ_XY Σ_YY^{-1/2}`, between 0 and 1.

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
