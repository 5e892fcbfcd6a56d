"""How far a classifier's probabilities can be believed, before and after one temperature that is fitted on validation rows.

    python examples/analyze.py calibration runs/mvcl_daf_mintrec --split test --save

The temperature of every checkpoint is fitted on the rows that selected its epoch, whatever `--split` is shown. With `--save`
it is written into the checkpoint's config: `examples/predict.py`, the pipeline and the demo then answer with calibrated
probabilities. Reliability diagram: in every bin of confidence the share of right answers; a believable model is on the
diagonal. For every classifier.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_mmintent.calibration import Reliability, fit_temperature, reliability, save_temperature
from hf_mmintent.run_data import find_checkpoints

from .answers import Task, answer, join
from .common import (
    Subject,
    add_checkpoint_arguments,
    fitting_rows,
    open_subject,
    run_name,
    save,
    save_tables,
    table,
    with_rows,
)

COLUMNS = ["checkpoint", "temperature", "n", "ECE", "MCE", "NLL", "Brier", "accuracy"]
SCORES = {"accuracy": "accuracy"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--fit_split",
        help="split on which the temperature is fitted; the rows that selected the epoch by default",
    )
    parser.add_argument("--bins", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="write the temperature into the checkpoint's config")


def classified(subject: Subject, batch_size: int) -> Task:
    """
    Logits and labels of the subject's rows.

    Raises:
        ValueError: the model gives no probabilities of labels.
    """
    if subject.model.can_generate() or subject.regression:
        what = "writes its answers" if subject.model.can_generate() else "predicts a value"
        raise ValueError(f"{type(subject.model).__name__} {what}: only classifiers have probabilities to calibrate.")
    return answer(subject, batch_size=batch_size, progress=subject.name).tasks[0]


def draw_reliability(
    before: Reliability, after: Reliability | None, title: str = "", temperature: float = 1.0
) -> Figure:
    """
    Reliability diagrams with the distribution of the confidence below; the second one only where a temperature was fitted.
    """
    found = [("as trained", before)] if after is None else [("T = 1", before), (f"T = {temperature:.3g}", after)]
    figure, axes = plt.subplots(
        2, len(found), figsize=(4.4 * len(found), 5.4), height_ratios=(3, 1), sharex=True, squeeze=False
    )
    for column, (name, each) in enumerate(found):
        _draw_bins(axes[0, column], each, name)
        centres, width = (each.edges[:-1] + each.edges[1:]) / 2, np.diff(each.edges)
        axes[1, column].bar(centres, each.count / each.n, width=width, color="tab:gray", edgecolor="white")
        axes[1, column].set(xlabel="confidence", ylabel="share of answers", ylim=(0, 1))
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def _draw_bins(axis: Axes, found: Reliability, name: str) -> None:
    centres, width = (found.edges[:-1] + found.edges[1:]) / 2, np.diff(found.edges)
    known = found.count > 0
    right, sure, places, wide = found.accuracy[known], found.confidence[known], centres[known], width[known]
    axis.bar(places, np.minimum(right, sure), width=wide, color="tab:blue", edgecolor="white")
    for label, low, high, colour in (
        ("too sure", right, sure, "tab:red"),
        ("not sure enough", sure, right, "tab:orange"),
    ):
        gap = np.maximum(high - low, 0)
        axis.bar(places, gap, width=wide, bottom=low, color=colour, alpha=0.5, edgecolor="white", label=label)
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    axis.set(title=f"{name}    ECE {found.ece:.3f}, NLL {found.nll:.3f}", ylabel="share of right answers")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="upper left")


def run(arguments: argparse.Namespace) -> str:
    rows: list[list[Any]] = []
    shown: list[Task] = []
    temperatures: list[float | None] = []
    notes = []
    for path in find_checkpoints(arguments.checkpoint):
        subject = open_subject(path, arguments)
        name = run_name(path)
        split, fit_rows = fitting_rows(path, arguments, arguments.fit_split)
        task = classified(subject, arguments.batch_size)
        fitted = task
        if split != arguments.split:
            other = with_rows(subject, fit_rows)
            fitted = classified(other, arguments.batch_size)
        temperature = None
        try:
            temperature = fit_temperature(fitted.logits, fitted.labels)
        except ValueError as error:  # told, and the rest is still worth showing
            notes.append(f"{name}: {error}")
        for value in (1.0, temperature):
            if value is not None:
                each = reliability(task.logits, task.labels, value, arguments.bins)
                right = float((task.labels == task.predictions).mean())
                rows.append([name, value, each.n, each.ece, each.mce, each.nll, each.brier, right])
        if arguments.save and temperature is not None:
            save_temperature(path, temperature)
            notes.append(f"{name}: temperature {temperature:.4f} of the {split} split is in {path / 'config.json'}")
        shown.append(task)
        temperatures.append(temperature)
    before = reliability(*_scaled(shown, [1.0] * len(shown)), 1.0, arguments.bins)
    known = [value for value in temperatures if value is not None]
    after = None
    if len(known) == len(temperatures):
        after = reliability(*_scaled(shown, known), 1.0, arguments.bins)
    name_of_run = run_name(arguments.checkpoint)
    stem = f"{arguments.output_dir}/calibration_{name_of_run}_{arguments.split}"
    numbers = {
        "split": arguments.split,
        "temperatures": temperatures,
        "as_trained": before.to_dict(),
        "calibrated": None if after is None else after.to_dict(),
    }
    mean = float(np.mean(known)) if known else 1.0
    figure = draw_reliability(before, after, f"{name_of_run}, {arguments.split} split, n = {before.n}", mean)
    written = [save_tables(stem, {"Calibration": (COLUMNS, rows)}, SCORES), *notes, save(stem, figure, numbers)]
    return f"{table(COLUMNS, rows, SCORES)}\n\n" + "\n".join(written)


def _scaled(tasks: list[Task], temperatures: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Logits over their own temperature and labels of all checkpoints in a row."""
    for_all = [
        [Task(t.name, t.labels, t.predictions, t.names, np.asarray(t.logits) / value)]
        for t, value in zip(tasks, temperatures, strict=True)
    ]
    (found,) = join(for_all)
    return np.asarray(found.logits), found.labels
