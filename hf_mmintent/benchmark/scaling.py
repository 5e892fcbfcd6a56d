"""How the time of a training step grows with the batch and with the length of its sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hf_mmintent.benchmark.measures import interleaved, training_step
from hf_mmintent.benchmark.shapes import Shape
from hf_mmintent.benchmark.subject import Subject

PARTS = (0.25, 0.5, 0.75, 1.0)  # of the batch and of every length of the shape


def scaled(shape: Shape, batch: float = 1.0, length: float = 1.0, shortest_text: int = 1) -> Shape:
    """`shape` with a part of its batch or of the length of all its sequences, at least one of each."""
    return replace(
        shape,
        batch_size=max(1, round(batch * shape.batch_size)),
        text=max(shortest_text, round(length * shape.text)),
        features={name: (max(1, round(length * steps)), width) for name, (steps, width) in shape.features.items()},
    )


def growth(sizes: Sequence[float], times: Sequence[float]) -> dict[str, float]:
    """
    Fit t = c·n^p through all points.

    Args:
        sizes: n, increasing.
        times: t.

    Returns:
        `exponent`: p; `last_exponent`: that of the two largest sizes alone, where what does not grow weighs least;
        `line_deviation`: how far the best straight line a + b·n misses a point at most, as a part of the largest time.
    """
    n, t = np.asarray(sizes, dtype=float), np.asarray(times, dtype=float)
    line = np.polyval(np.polyfit(n, t, 1), n)
    log_n, log_t = np.log(n), np.log(t)
    return {
        "exponent": float(np.polyfit(log_n, log_t, 1)[0]),
        "last_exponent": float((log_t[-1] - log_t[-2]) / (log_n[-1] - log_n[-2])),
        "line_deviation": float(np.abs(line - t).max() / t.max()),
    }


def step_growth(
    subject: Subject,
    generator: np.random.Generator,
    device: torch.device,
    repeats: int,
    clock: Callable[[], float],
    dtype: str = "fp32",
) -> dict[str, Any]:
    """
    Time steps of forward and backward at parts of the batch and of the length of all sequences, in turn.

    Returns:
        For "batch_size" and "length": `{"sizes", "milliseconds", "exponent", …}` of [`growth`], from the least time of
        each size; sizes are samples, and parts of the full length.
    """
    model = subject.model.train()
    shortest = subject.text_overhead + 1 if subject.words else 1
    full = subject.shape
    shapes: dict[str, Mapping[float, Shape]] = {
        "batch_size": {shape.batch_size: shape for shape in (scaled(full, batch=part) for part in PARTS)},
        "length": {part: scaled(full, length=part, shortest_text=shortest) for part in PARTS},
    }
    works: dict[str, Any] = {}
    for kind, sizes in shapes.items():
        for size, shape in sizes.items():
            smaller = replace(subject, shape=shape)
            batch = smaller.batch(smaller.rows(generator), True, device)
            works[f"{kind} {size}"] = [lambda batch=batch: training_step(model, batch, dtype)]
    times = interleaved(works, repeats, clock, before=lambda: model.zero_grad(set_to_none=True))
    model.zero_grad(set_to_none=True)
    found: dict[str, Any] = {}
    for kind, sizes in shapes.items():
        least = [1e3 * min(times[f"{kind} {size}"]) for size in sizes]
        found[kind] = {"sizes": list(sizes), "milliseconds": least, **growth(list(sizes), least)}
    return found


def format_growth(found: Mapping[str, Any]) -> list[str]:
    """The fits as lines of text; an exponent of 1 is linear growth."""
    lines = ["growth of the step, t = c·n^p"]
    for kind, fit in found.items():
        points = ", ".join(
            f"{size:g}: {value:.0f} ms" for size, value in zip(fit["sizes"], fit["milliseconds"], strict=True)
        )
        lines.append(
            f"  {kind.replace('_', ' '):<24}p = {fit['exponent']:.2f}, between the two largest "
            f"{fit['last_exponent']:.2f}, a line fits within {100 * fit['line_deviation']:.1f} % ({points})"
        )
    return lines
