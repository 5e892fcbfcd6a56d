"""F1 of every class, the rarest last: what averages hide.

    python examples/analyze.py per-class runs/mvcl_daf_mintrec --split test

Classes stand in the order of their number of training samples; the third with the fewest is marked, its mean is `f1_rare`.
Over the seeds of a run folder: mean and standard deviation. For every classifier.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hf_mmintent.metrics import format_score, per_class_report, rare_classes

from .answers import Task, answer_each
from .common import add_checkpoint_arguments, dataset_rows, sample_std, save, save_tables, score_axis, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--train_split", default="train", help="split whose samples are counted")


def class_f1(task: Task) -> np.ndarray:
    """
    F1 of every class, (K,) in [0, 1]; 0 where a class is neither true nor predicted.

    Raises:
        ValueError: a regression has no classes.
    """
    if not task.names:
        raise ValueError(f"the task `{task.name}` has no classes: it predicts a value.")
    if task.labels.ndim == 1:
        return per_class_report(task.labels, task.predictions, task.names).f1
    hits = (task.labels * task.predictions).sum(0)
    return 2 * hits / np.maximum(task.labels.sum(0) + task.predictions.sum(0), 1)


def class_table(f1: np.ndarray, counts: np.ndarray, tested: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """
    One entry per class, the most frequent first; of equally frequent ones the first in the official order.

    Args:
        f1: (seeds, K); `std` is over the seeds, `None` for one.
        counts: (K,) training samples.
        tested: (K,) samples that were scored.
        names: of the K classes.
    """
    rare = (
        set(rare_classes(counts).tolist()) if len(set(counts.tolist())) > 1 else set()
    )  # no class is rarer than another
    return [
        {
            "class": names[index],
            "train": int(counts[index]),
            "scored": int(tested[index]),
            "f1": float(f1[:, index].mean()),
            "std": sample_std(f1[:, index]) if len(f1) > 1 else None,
            "rare": int(index) in rare,
        }
        for index in np.argsort(-counts, kind="stable")
    ]


def draw_classes(rows: list[dict[str, Any]], title: str = "") -> Figure:
    """Bars of F1 with training samples on a second, logarithmic axis."""
    figure, axis = plt.subplots(figsize=(max(6.0, 0.45 * len(rows) + 2), 4.2))
    places = np.arange(len(rows))
    colours = ["tab:orange" if row["rare"] else "tab:blue" for row in rows]
    spread = [row["std"] or 0.0 for row in rows]
    axis.bar(places, [row["f1"] for row in rows], yerr=spread if any(spread) else None, color=colours, capsize=2)
    axis.set(ylim=(0, 1.02), xticks=places, xlabel="class (samples that were scored)", title=title)
    score_axis(axis.yaxis, "F1")
    axis.set_xticklabels([f"{row['class']} ({row['scored']})" for row in rows], rotation=45, ha="right", fontsize=8)
    twin = axis.twinx()
    twin.plot(places, [max(row["train"], 0.5) for row in rows], color="black", marker=".", linewidth=0.8)
    most = max(max(row["train"] for row in rows), 1)
    twin.set(yscale="log", ylabel="training samples (line)", ylim=(0.4, 2.5 * most))
    twin.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 10, not 10¹
    for kind, colour in ((False, "tab:blue"), (True, "tab:orange")):
        values = [row["f1"] for row in rows if row["rare"] is kind]
        if values:
            name = "rare third" if kind else "other classes" if any(row["rare"] for row in rows) else "all classes"
            axis.bar(0, 0, color=colour, label=f"{name}: mean F1 {format_score('f1', float(np.mean(values)))}")
    # Below the names: above the bars it would hide them.
    figure.legend(
        *axis.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=8
    )
    figure.tight_layout()
    return figure


def training_counts(rows: Any, task: Task) -> np.ndarray:
    """(K,) samples per class among the rows of the training split."""
    if task.name != "label":  # of a model that writes
        found = Counter(value.lower() for value in rows[task.name] if value is not None)
        return np.array([found[name.lower()] for name in task.names])
    if task.labels.ndim == 2:
        return np.asarray(rows["label"]).sum(0).astype(int)
    names = rows.features["label"].names
    found = Counter(names[index] for index in rows["label"])
    return np.array([found[name] for name in task.names])


def run(arguments: argparse.Namespace) -> str:
    lines, merged = [], {}
    runs = list(answer_each(arguments.checkpoint, arguments))
    train = dataset_rows(runs[0].path, arguments, arguments.train_split)
    name = runs[0].name
    for number, task in enumerate(runs[0].tasks):
        tested = task.labels.sum(0) if task.labels.ndim == 2 else np.bincount(task.labels, minlength=len(task.names))
        f1 = np.stack([class_f1(found.tasks[number]) for found in runs])
        rows = class_table(f1, training_counts(train, task), tested, task.names)
        what = "" if task.name == "label" else f"_{task.name}"
        stem = f"{arguments.output_dir}/per_class{what}_{name}_{arguments.split}"
        numbers = {"split": arguments.split, "seeds": len(runs), "classes": rows}
        lines.append(save(stem, draw_classes(rows, f"{name}, {arguments.split} split"), numbers))
        merged[f"F1 per class{what.replace('_', ' of ')}"] = list(rows[0]), [list(row.values()) for row in rows]
    scores = {"f1": "f1", "std": "f1"}
    written = save_tables(f"{arguments.output_dir}/per_class_{name}_{arguments.split}", merged, scores)
    return "\n\n".join([*(table(*parts, scores) for parts in merged.values()), "\n".join([written, *lines])])
