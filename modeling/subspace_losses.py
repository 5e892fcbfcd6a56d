"""The three losses of MISA, section 3.4 "Learning": similarity, difference, reconstruction. All run in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import clear_rows, without_autocast


def _mean_row(rows: Tensor, valid: Tensor) -> Tensor:
    """(n, d) -> (d,), over the valid rows; zeros without any."""
    return clear_rows(rows, valid).sum(0) / valid.sum().clamp(min=1)


def central_moment_discrepancy(
    first: Tensor, second: Tensor, first_valid: Tensor, second_valid: Tensor, num_moments: int, span: float = 1.0
) -> Tensor:
    """
    CMD_K(X, Y) = ‖E(X) − E(Y)‖₂ / |b − a| + Σ_{k=2}^{K} ‖C_k(X) − C_k(Y)‖₂ / |b − a|^k, with E the mean row and
    C_k(X) = E((X − E(X))^k) entry by entry.

    Args:
        first, second: X (n, d) and Y (m, d) with entries in [a, b].
        first_valid, second_valid: (n,) and (m,) bool, rows that count.
        num_moments: K.
        span: b − a.

    Returns:
        () float32; 0 when either has no row.
    """
    sides = [(clear_rows(rows.float(), valid), valid) for rows, valid in ((first, first_valid), (second, second_valid))]
    means = [_mean_row(rows, valid) for rows, valid in sides]
    total = torch.linalg.vector_norm(means[0] - means[1]) / span
    centred = [rows - mean for (rows, _), mean in zip(sides, means, strict=True)]
    for k in range(2, num_moments + 1):
        moments = [_mean_row(rows**k, valid) for rows, (_, valid) in zip(centred, sides, strict=True)]
        total = total + torch.linalg.vector_norm(moments[0] - moments[1]) / span**k
    return total * (first_valid.any() & second_valid.any())


def difference_loss(first: Tensor, second: Tensor, valid: Tensor, reduction: str = "sum") -> Tensor:
    """
    ‖XᵀY‖²_F, with the rows of X and Y first moved to mean zero and then scaled to length 1.

    Args:
        first, second: (n, d), two representations of the same samples.
        valid: (n,) bool, samples that have both.
        reduction: "sum", or "mean" over the d² entries.

    Returns:
        () float32; 0 without a valid row.
    """
    unit = []
    for rows in (first, second):
        rows = clear_rows(rows.float(), valid)
        rows = clear_rows(rows - _mean_row(rows, valid), valid)
        unit.append(nn.functional.normalize(rows, dim=-1, eps=1e-6))
    with without_autocast(unit[0]):
        squares = (unit[0].T @ unit[1]).square()
    return squares.sum() if reduction == "sum" else squares.mean()


def reconstruction_loss(original: Tensor, decoded: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid rows of ‖u − û‖²/d_h; (n, d_h) each. The paper's penalty on the weights is weight decay here."""
    squares = clear_rows(original.float() - decoded.float(), valid).square().mean(-1)
    return squares.sum() / valid.sum().clamp(min=1)
