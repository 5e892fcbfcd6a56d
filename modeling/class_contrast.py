"""Supervised contrastive losses within a modality and across modalities. They run in float32, also under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masked_contrast(rows: Tensor, positives: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """
    `mean_i −1/|P_i| Σ_{p∈P_i} log( exp(s_ip/τ) / Σ_{j∈J_i} exp(s_ij/τ) )` with cosine s, over anchors with positives.

    Args:
        rows: (N, d).
        positives: (N, N) bool, P_i in row i; part of `candidates`.
        candidates: (N, N) bool, J_i in row i.
        temperature: τ.

    Returns:
        () float32; 0 without any positive pair.
    """
    with torch.autocast(rows.device.type, enabled=False):
        unit = nn.functional.normalize(rows.float(), dim=-1, eps=1e-8)
        similarity = unit @ unit.T / temperature
    counts = positives.sum(1)
    anchors = counts > 0
    # Rows without candidates would give −inf − (−inf); they are no anchors, so any finite row does.
    similarity = similarity.masked_fill(~candidates & anchors[:, None], float("-inf"))
    log_share = (similarity - similarity.logsumexp(1, keepdim=True)).masked_fill(~positives, 0.0)
    losses = -log_share.sum(1) / counts.clamp(min=1)
    return losses.sum() / anchors.sum().clamp(min=1)


def next_positive(positives: Tensor) -> Tensor:
    """Of every row of `positives` (N, N) only the first pair behind the diagonal, cyclically."""
    size = len(positives)
    index = torch.arange(size, device=positives.device)
    distance = ((index[None] - index[:, None]) % size).masked_fill(~positives, size)  # (N, N)
    return positives & (distance == distance.min(1, keepdim=True).values)


def within_modality_contrast(
    rows: Tensor, classes: Tensor, valid: Tensor, temperature: float, form: str = "supcon"
) -> Tensor:
    """
    Samples of one class together, within one modality.

    `supcon`: all other samples of the class are positives, the denominator is over all others. `printed` (Eq. 1 of
    PLUM-Net): the next sample of the class is the positive, the denominator includes the anchor itself.

    Args:
        rows: (B, d).
        classes: (B,) long.
        valid: (B,) bool, rows that take part.
        temperature: τ.
        form: "supcon" or "printed".

    Returns:
        () float32.
    """
    pairs = valid[:, None] & valid[None]
    other = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    positives = pairs & other & (classes[:, None] == classes[None])
    if form == "printed":
        return masked_contrast(rows, next_positive(positives), pairs, temperature)
    return masked_contrast(rows, positives, pairs & other, temperature)


def across_modalities_contrast(
    rows: Tensor, classes: Tensor, valid: Tensor, temperature: float, form: str = "supcon"
) -> Tensor:
    """
    Vectors of one class from different modalities together, other classes apart.

    `supcon`: positives have the same class and another modality (also the same sample's); the denominator is over those
    and all vectors of other classes; same class and modality is neither. `printed` (Eq. 2 of PLUM-Net): one positive, the
    next vector of the class in another modality (of the same sample, or for a sample's last modality of the next sample of the
    class), and a denominator over everything.

    Args:
        rows: (B, M, d), one vector per modality.
        classes: (B,) long.
        valid: (B, M) bool.
        temperature: τ.
        form: "supcon" or "printed".

    Returns:
        () float32.
    """
    batch, modalities = valid.shape
    rows, there = rows.flatten(0, 1), valid.flatten()
    kind = torch.arange(modalities, device=rows.device).repeat(batch)
    classes = classes.repeat_interleave(modalities)
    pairs = there[:, None] & there[None]
    same_class = classes[:, None] == classes[None]
    positives = pairs & same_class & (kind[:, None] != kind[None])
    if form == "printed":
        return masked_contrast(rows, next_positive(positives), pairs, temperature)
    return masked_contrast(rows, positives, positives | (pairs & ~same_class), temperature)
