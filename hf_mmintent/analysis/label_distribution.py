"""How many samples have each class, by the annotators and by every modality's own label (PLUM-Net, Fig. 4).

    python examples/analyze.py label-distribution runs/plum_net_cmu_mosi --split train

For models with `hard_labels`. The paper shows the training split, which the prototypes are made of.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt

from .common import Subject, add_checkpoint_arguments, gather, open_subject, outputs, save, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)


def class_names(subject: Subject) -> list[str]:
    """Of the classes that labels are structured into; in regression the mean target of each."""
    config = subject.model.config
    if not subject.regression:
        return [config.id2label[index] for index in range(config.num_labels)]
    if config.structure_bins == "sign":
        return ["negative", "neutral", "positive"]
    return [f"{value:+.2f}" for value in subject.model.base_model.labeller.bin_values.tolist()]


def label_counts(subject: Subject, batch_size: int = 32) -> dict[str, dict[str, int]]:
    """Samples per class name: of the true label ("annotated") and of every modality's own, over the samples that have it."""
    names = class_names(subject)
    true = subject.model.base_model.true_classes(torch.as_tensor(subject.labels())).numpy()
    own = gather(outputs(subject, batch_size, "labels of the modalities"), "hard_labels")["hard_labels"].astype(int)
    columns = {"annotated": true, **dict(zip(subject.model.config.modalities, own.T, strict=True))}
    return {
        source: {name: int(np.sum(found == index)) for index, name in enumerate(names)}
        for source, found in columns.items()
    }


def agreement(subject: Subject, batch_size: int = 32) -> dict[str, float]:
    """Share of the samples with a modality whose own label is the annotated class."""
    true = subject.model.base_model.true_classes(torch.as_tensor(subject.labels())).numpy()
    own = gather(outputs(subject, batch_size, "agreement"), "hard_labels")["hard_labels"].astype(int)
    return {
        name: float((column == true)[column >= 0].mean()) if (column >= 0).any() else float("nan")
        for name, column in zip(subject.model.config.modalities, own.T, strict=True)
    }


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    counts, share = label_counts(subject, arguments.batch_size), agreement(subject, arguments.batch_size)
    names = class_names(subject)
    figure, axis = plt.subplots(figsize=(max(6, len(names)), 4))
    width = 0.8 / len(counts)
    for index, (source, found) in enumerate(counts.items()):
        bars = axis.bar(np.arange(len(names)) + index * width, [found[name] for name in names], width, label=source)
        if len(names) <= 7:
            axis.bar_label(bars, fontsize=7)
    axis.set(xticks=np.arange(len(names)) + 0.4 - width / 2, ylabel=f"samples of {arguments.split}")
    axis.set_xticklabels(names, rotation=0 if len(names) <= 7 else 60)
    axis.legend()
    numbers: dict[str, Any] = {"split": arguments.split, "counts": counts, "agreement": share}
    written = save(f"{arguments.output_dir}/label_distribution_{subject.name}_{arguments.split}", figure, numbers)
    rows = [[source, *found.values(), share.get(source, "")] for source, found in counts.items()]
    return f"{table(['label of', *names, 'as annotated'], rows)}\n{written}"
