"""Which class is taken for which; of a regression, predicted against true values.

    python examples/analyze.py confusion runs/mvcl_daf_mmintent_mini --split test

Rows are true classes, columns predicted ones; colour is the share of the row, numbers are samples. A model of several labels
has one table of hits, misses and false alarms per label. The seeds of a run folder are added up. For every architecture.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hf_mmintent.metrics import format_score, per_class_report

from .answers import Task, answer_run
from .common import add_checkpoint_arguments, save, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)


def confusion(task: Task) -> np.ndarray:
    """
    Counts of a task.

    Returns:
        int64. (K, K), row true and column predicted, of a classifier; (K, 4) with several labels: right, missed, false
        alarm, rightly not given.

    Raises:
        ValueError: a regression has no classes.
    """
    if not task.names:
        raise ValueError(f"the task `{task.name}` has no classes: it predicts a value.")
    if task.labels.ndim == 2:
        truth, guess = task.labels.astype(bool), task.predictions.astype(bool)
        return np.stack(
            [(a & b).sum(0) for a, b in ((truth, guess), (truth, ~guess), (~truth, guess), (~truth, ~guess))], 1
        )
    return per_class_report(task.labels, task.predictions, task.names).confusion


def draw_confusion(counts: np.ndarray, names: list[str], title: str = "", columns: list[str] | None = None) -> Figure:
    """
    A matrix of counts, coloured by the share of each row.

    Args:
        counts: (K, C) samples.
        names: of the K rows.
        title: above the picture.
        columns: names of the C columns; those of the rows by default.
    """
    counts = np.asarray(counts)
    columns = names if columns is None else columns
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = max(4.5, 0.42 * len(names) + 2.2)
    figure, axis = plt.subplots(figsize=(max(5.0, 0.42 * len(columns) + 3.2), size))
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto" if len(columns) != len(names) else "equal")
    small = 9 if len(names) <= 12 else 7
    for row, column in np.argwhere(counts > 0):
        dark = "white" if share[row, column] > 0.55 else "black"
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=small, color=dark)
    axis.set(xticks=range(len(columns)), yticks=range(len(names)), xlabel="predicted", ylabel="true", title=title)
    slanted = {"rotation": 45, "ha": "right"} if len(columns) <= 12 else {"rotation": 90, "ha": "center"}
    axis.set_xticklabels(columns, fontsize=small, **slanted)
    axis.set_yticklabels(
        [f"{name} ({total})" for name, total in zip(names, counts.sum(1), strict=True)], fontsize=small
    )
    figure.colorbar(image, ax=axis, label="share of the true class", fraction=0.046, pad=0.04)
    figure.tight_layout()
    return figure


def draw_values(labels: np.ndarray, predictions: np.ndarray, title: str = "") -> Figure:
    """Predicted against true values of a regression, with the line on which they would agree."""
    figure, axis = plt.subplots(figsize=(5, 5))
    low, high = float(min(labels.min(), predictions.min())), float(max(labels.max(), predictions.max()))
    axis.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle="--")
    axis.scatter(labels, predictions, s=8, alpha=0.4, edgecolors="none")
    axis.set(xlabel="true", ylabel="predicted", title=title, aspect="equal")
    figure.tight_layout()
    return figure


def draw_task(task: Task, title: str) -> tuple[Figure, dict[str, Any]]:
    """The picture of a task and its numbers."""
    if not task.names:
        pairs = {"true": task.labels.tolist(), "predicted": task.predictions.tolist()}
        return draw_values(task.labels, task.predictions, title), pairs
    counts = confusion(task)
    columns = ["right", "missed", "false alarm", "rightly none"] if task.labels.ndim == 2 else None
    numbers = {"names": task.names, "columns": columns or task.names, "counts": counts.tolist()}
    return draw_confusion(counts, task.names, title, columns), numbers


def run(arguments: argparse.Namespace) -> str:
    name, tasks, seeds = answer_run(arguments.checkpoint, arguments)
    lines = []
    for task in tasks:
        what = "" if task.name == "label" else f"_{task.name}"
        title = f"{name}, {arguments.split} split" + (f", {seeds} seeds" if seeds > 1 else "")
        figure, numbers = draw_task(task, title + ("" if task.name == "label" else f": {task.name}"))
        stem = f"{arguments.output_dir}/confusion{what}_{name}_{arguments.split}"
        lines.append(save(stem, figure, {"split": arguments.split, "seeds": seeds, **numbers}))
        if task.names and task.labels.ndim == 1:
            lines.insert(0, worst(task))
    return "\n".join(lines)


def worst(task: Task, most: int = 5) -> str:
    """How many are right, and the most frequent mistakes."""
    counts, names = confusion(task), task.names
    right, count = int(np.trace(counts)), len(task.labels)  # an answer without a class is in no column
    told = f"{right} of {count} right ({format_score('accuracy', right / max(count, 1))} %)"
    if right == count:
        return told
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None)[:most]
    rows = [[names[i], names[j], int(wrong[i, j])] for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return f"{told}\n\n{table(['true', 'predicted', 'samples'], [row for row in rows if row[2] > 0])}"
