"""Right-padding of ragged features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pad_sequences(
    sequences: Sequence[np.ndarray | None], width: int, max_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Stack ragged (T_i, width) arrays.

    Args:
        sequences: one array per sample, or `None` where a sample has none.
        width: of every array.
        max_length: longer arrays keep their first steps.

    Returns:
        float32 (B, T, width), zeros behind each sample, and bool (B, T), all False for missing samples.
    """
    cut = [None if item is None else item[:max_length] for item in sequences]
    longest = max((len(item) for item in cut if item is not None), default=0)
    values = np.zeros((len(cut), longest, width), np.float32)
    mask = np.zeros((len(cut), longest), bool)
    for row, item in enumerate(cut):
        if item is not None:
            values[row, : len(item)] = item
            mask[row, : len(item)] = True
    return values, mask
