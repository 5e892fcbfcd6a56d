"""A picture of a dataset: rows per label and lengths per modality, split by split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # before pyplot: there may be no display

from matplotlib import pyplot as plt

from hf_mmintent.data.dataset_facts import DatasetFacts
from hf_mmintent.metrics.files import atomic_path

_BINS = 30


def save_histograms(facts: DatasetFacts, path: str | Path, title: str = "") -> Path:
    """
    Write a PNG with one panel for the labels and one per modality that has lengths.

    Args:
        facts: What is drawn.
        path: Of the picture; its folder is created.
        title: Above it.

    Returns:
        `path`.
    """
    modalities = [name for name in facts.modalities if any(part.lengths.get(name) for part in facts.splits.values())]
    classes = len(facts.label_names or ())
    panels = [*(["labels"] if facts.has_labels else []), *modalities]
    heights = [max(3.0, 0.12 * classes) if panel == "labels" else 2.2 for panel in panels] or [1.0]
    figure, axes = plt.subplots(
        max(len(panels), 1), figsize=(max(7.0, 0.35 * classes), sum(heights)), squeeze=False,
        gridspec_kw={"height_ratios": heights}, layout="constrained",
    )  # fmt: skip
    for axis, panel in zip(axes[:, 0], panels):
        _draw_labels(axis, facts) if panel == "labels" else _draw_lengths(axis, facts, panel)
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
    return Path(path)


def _draw_labels(axis: Any, facts: DatasetFacts) -> None:
    if facts.label_names is None:
        found = {split: part.values for split, part in facts.splits.items()}
        _bars(axis, found, np.histogram_bin_edges(np.concatenate(list(found.values())), _BINS))
        axis.set(xlabel="label", ylabel="rows")
        return
    names, width = facts.label_names, 0.8 / len(facts.splits)
    for index, (split, part) in enumerate(facts.splits.items()):
        places = np.arange(len(names)) + index * width
        axis.bar(places, [part.labels[name] for name in names], width, label=split, color=f"C{index}")
    axis.set(xticks=np.arange(len(names)) + 0.4 - width / 2, ylabel="rows")
    axis.set_xticklabels(names, rotation=0 if len(names) <= 7 else 60, ha="center" if len(names) <= 7 else "right")
    axis.legend()


def _draw_lengths(axis: Any, facts: DatasetFacts, modality: str) -> None:
    found = {split: part.lengths.get(modality, []) for split, part in facts.splits.items()}
    low, high = (of(value for values in found.values() for value in values) for of in (min, max))
    step = max(1, -(-(high - low + 1) // _BINS))  # whole numbers: every bar holds as many lengths as the next
    _bars(axis, found, np.arange(low, high + step + 1, step) - 0.5)
    axis.set(xlabel=f"{modality}, {'words' if modality == 'text' else 'steps'}", ylabel="rows")


def _bars(axis: Any, found: Mapping[str, list], edges: np.ndarray) -> None:
    colors = [f"C{index}" for index in range(len(found))]  # of a split, also where another one is empty
    axis.hist(list(found.values()), edges, label=list(found), color=colors)
    axis.legend()
