"""Losses of a model that writes answers: of their tokens, and of the labels that heads predict."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

IGNORED = -100


def answer_loss(
    logits: Tensor, labels: Tensor, is_label: Tensor | None, label_weight: float, kept: Tensor | None
) -> Tensor:
    """
    Weighted mean over all answer tokens of the batch of −log p(token | what precedes it).

    Args:
        logits: (B, L, V), or (B, n, V) at the positions `kept`.
        labels: (B, L), −100 where there is nothing to learn.
        is_label: (B, L), tokens of label words; they weigh `label_weight`, others 1.
        label_weight: at least 1.
        kept: (n,) positions whose next token is predicted; `None` for all.
    """
    targets = labels[:, 1:]
    weights = (targets != IGNORED).float()
    if is_label is not None and label_weight != 1:
        weights = weights * torch.where(is_label[:, 1:].bool(), label_weight, 1.0)
    if kept is None:
        logits = logits[:, :-1]
    else:
        targets, weights = targets[:, kept], weights[:, kept]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return (losses * weights.flatten()).sum() / weights.sum().clamp(min=1e-6)


def label_losses(heads: Mapping[str, Tensor], labels: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """
    Mean cross-entropy of each head over the samples that have its label; 0 where none has.

    Args:
        heads: logits (B, C) by name.
        labels: (B,) by name, −100 for none; `None` leaves the loss out.
    """
    terms = {}
    for name, logits in heads.items():
        target = labels[name]
        if target is not None:
            total = nn.functional.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="sum")
            terms[name] = total / (target != IGNORED).sum().clamp(min=1)
    return terms


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor | None:
    """Σ weight · term, `None` without terms."""
    return sum(weights[name] * term for name, term in terms.items()) if terms else None  # type: ignore[return-value]
