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


def labels_of_modalities(subject: Subject, batch_size: int = 32) -> dict[str, np.ndarray]:
    """
    Class (n,) of every row: the true one ("annotated"; −1 where unknown) and every modality's own (−1 where it is absent).

    Raises:
        ValueError: the model has no prototypes; its labels would mean nothing.
    """
    base = subject.model.base_model
    labeller = getattr(base, "labeller", None)
    if labeller is None or not bool(labeller.ready.any()):
        raise ValueError(
            f"{subject.name} ({type(subject.model).__name__}) has no prototypes that would label its modalities: choose a "
            f"checkpoint that was trained with them (in PLUM-Net, with `use_psl_tfb`)."
        )
    true = base.true_classes(torch.as_tensor(subject.labels())).numpy()
    own = gather(outputs(subject, batch_size, "labels of the modalities"), "hard_labels")["hard_labels"].astype(int)
    return {"annotated": true, **dict(zip(subject.model.config.modalities, own.T, strict=True))}


def label_counts(labels: dict[str, np.ndarray], names: list[str]) -> dict[str, dict[str, int]]:
    """Samples per class name, of the true label and of every modality's own over the samples that have it."""
    return {
        source: {name: int(np.sum(found == index)) for index, name in enumerate(names)}
        for source, found in labels.items()
    }


def agreement(labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of the samples with a modality and a known class whose own label is that class."""
    shares = {}
    for name, own in labels.items():
        both = (own >= 0) & (labels["annotated"] >= 0)
        if name != "annotated":
            shares[name] = float((own == labels["annotated"])[both].mean()) if both.any() else float("nan")
    return shares


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    labels = labels_of_modalities(subject, arguments.batch_size)
    counts, share = label_counts(labels, class_names(subject)), agreement(labels)
    names = class_names(subject)
    figure, axis = plt.subplots(figsize=(max(6, len(names)), 4))
    width = 0.8 / len(counts)
    for index, (source, found) in enumerate(counts.items()):
        bars = axis.bar(np.arange(len(names)) + index * width, [found[name] for name in names], width, label=source)
        if len(names) <= 7:
            axis.bar_label(bars, fontsize=7)
    axis.set(xticks=np.arange(len(names)) + 0.4 - width / 2, ylabel=f"samples of {arguments.split}")
    axis.set_xticklabels(names, rotation=0 if len(names) <= 7 else 60)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(counts), frameon=False)  # beside no bar
    numbers: dict[str, Any] = {"split": arguments.split, "counts": counts, "agreement": share}
    written = save(f"{arguments.output_dir}/label_distribution_{subject.name}_{arguments.split}", figure, numbers)
    rows = [[source, *found.values(), share.get(source, "")] for source, found in counts.items()]
    return f"{table(['label of', *names, 'as annotated'], rows)}\n{written}"
