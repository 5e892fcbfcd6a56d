"""Losses and recurrences written again as loops over samples and units, in float64: what the fast code must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def cosine(left: Tensor, right: Tensor) -> float:
    return float(left.double() @ right.double() / (left.double().norm() * right.double().norm()))


def info_nce_reference(
    anchors: Tensor, views: Tensor, valid: Sequence[bool], temperature: float, classes: Sequence[int] | None = None
) -> float:
    """Eq. (4) over the valid rows; with `classes`, other samples of the anchor's class are left out of the sum."""
    rows = [i for i, counts in enumerate(valid) if counts]
    losses = []
    for i in rows:
        total = 0.0
        for j in rows:
            if classes is None or j == i or classes[i] != classes[j]:
                total += math.exp(cosine(anchors[i], views[j]) / temperature)
        losses.append(-math.log(math.exp(cosine(anchors[i], views[i]) / temperature) / total))
    return sum(losses) / len(losses) if losses else 0.0


def prototype_reference(
    rows: Tensor, classes: Sequence[int], valid: Sequence[bool], temperature: float, normalize: bool = False
) -> float:
    """Eq. (1) and (2) over the valid rows and the classes that they have."""
    members: dict[int, list[Tensor]] = {}
    for row, label, counts in zip(rows, classes, valid, strict=True):
        if counts:
            row = row.double()
            members.setdefault(label, []).append(row / row.norm() if normalize else row)
    prototypes = {label: sum(items) / len(items) for label, items in members.items()}
    losses = []
    for row, label, counts in zip(rows, classes, valid, strict=True):
        if counts:
            scores = {c: math.exp(cosine(row, prototype) / temperature) for c, prototype in prototypes.items()}
            losses.append(-math.log(scores[label] / sum(scores.values())))
    return sum(losses) / len(losses) if losses else 0.0


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def peephole_reference(
    frames: Tensor, length: int, direction: int, weights: dict[str, Tensor], full: bool
) -> list[list[float]]:
    """
    One direction of the peephole LSTM on one sample, one number at a time.

    Args:
        frames: (T, D), the first `length` valid.
        direction: 0 forwards, 1 backwards.
        weights: `weight_input` (2, 4h, D), `weight_recurrent` (2, h, 4h), `weight_peephole`, `bias` (2, 4h), gates i, f, g, o.

    Returns:
        `length` states of h numbers, by the position of their frame.
    """
    into, back, look, bias = (
        weights[name][direction].tolist() for name in ("weight_input", "weight_recurrent", "weight_peephole", "bias")
    )
    size = len(back)
    hidden, cell = [0.0] * size, [0.0] * size
    states: list[list[float]] = [[] for _ in range(length)]
    for position in range(length) if direction == 0 else reversed(range(length)):
        frame = frames[position].tolist()
        gates = [
            bias[g]
            + sum(into[g][d] * frame[d] for d in range(len(frame)))
            + sum(hidden[u] * back[u][g] for u in range(size))
            + (sum(cell[u] * look[u][g] for u in range(size)) if full else 0.0)
            for g in range(4 * size)
        ]
        new_hidden, new_cell = [], []
        for unit in range(size):
            i, f, g, o = (gates[unit + k * size] for k in range(4))
            if not full:
                i, f = i + look[0][unit] * cell[unit], f + look[1][unit] * cell[unit]
            inside = sigmoid(f) * cell[unit] + sigmoid(i) * math.tanh(g)
            if not full:
                o += look[2][unit] * inside  # the output gate sees the new cell
            new_cell.append(inside)
            new_hidden.append(sigmoid(o) * math.tanh(inside))
        hidden, cell = new_hidden, new_cell
        states[position] = hidden
    return states
