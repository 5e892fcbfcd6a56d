"""How much each source weighs, by class (MVCL-DAF++, Fig. 3; any architecture).

    python examples/analyze.py modality-attention runs/mvcl_daf_mintrec runs/mvcl_daf_mintrec2 --split test

The weights are those that the architecture computes: at the position that its head reads, and where it has them the mean over
all valid tokens. For an architecture without weights, or with `--kind occlusion`, the weight of a modality is what leaving it
out takes from the probability of the predicted class (of a regression: the change of the value). Left: all samples per
source; right: the mean per true class. Every sample is a line of the CSV file.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.modeling.calibration import label_probabilities

from .answers import answer
from .common import Subject, add_checkpoint_arguments, gather, open_subjects, outputs, save, table, with_ending


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument("--kind", choices=("auto", "weights", "occlusion"), default="auto")


@dataclass
class Shares:
    """
    Args:
        sources: names of the S columns.
        pooled: (n, S) weight of every source per sample.
        over_tokens: (n, S) mean over the valid tokens, where the model has weights per token.
        classes: class of every sample, by name; of a regression "negative", "neutral" or "positive".
        ids: of the rows.
        kind: "weights" or "occlusion".
    """

    sources: list[str]
    pooled: np.ndarray
    over_tokens: np.ndarray | None
    classes: list[str]
    ids: list[str]
    kind: str

    def by_class(self) -> dict[str, np.ndarray]:
        """Mean weights (S,) of the samples of every class, in the order of the names."""
        chosen = np.array(self.classes)
        return {name: self.pooled[chosen == name].mean(0) for name in dict.fromkeys(sorted(self.classes))}


def classes_of(subject: Subject) -> list[str]:
    """Name of every row's class."""
    if subject.regression:
        return [("negative", "neutral", "positive")[int(np.sign(value)) + 1] for value in subject.labels()]
    return [subject.model.config.id2label[int(index)] for index in subject.labels()]


def shares(subject: Subject, kind: str = "auto", batch_size: int = 32) -> Shares:
    """
    Weights of every source.

    Raises:
        ValueError: `kind` is "weights" but the architecture has none; the model writes, or gives several labels.
    """
    if subject.model.can_generate() or subject.model.config.problem_type == "multi_label_classification":
        raise ValueError(f"{type(subject.model).__name__} does not name one class per sample: no weights by class.")
    ids, classes = [str(identifier) for identifier in subject.rows["id"]], classes_of(subject)
    first = next(outputs(subject, batch_size, "first batch"))
    has_weights = first.get("modality_weights") is not None
    if kind == "weights" and not has_weights:
        raise ValueError(f"{type(subject.model).__name__} computes no weights: choose `--kind occlusion`.")
    if kind == "occlusion" or not has_weights:
        names = list(subject.processor.modalities)
        return Shares(names, occlusion(subject, names, batch_size), None, classes, ids, "occlusion")
    sources = list(subject.model.config.modality_weight_names)
    pooled = gather(outputs(subject, batch_size, "weights"), "modality_weights")["modality_weights"]
    over_tokens = None
    if first.get("token_modality_weights") is not None:
        over_tokens = np.concatenate([_token_mean(out) for out in outputs(subject, batch_size, "weights of tokens")])
    return Shares(sources, pooled, over_tokens, classes, ids, "weights")


def _token_mean(out: Any) -> np.ndarray:
    """(B, S): mean over the tokens that have any weight; 0 on padding, and where no source is there."""
    weights = out["token_modality_weights"].float().cpu().numpy()
    valid = (weights.sum(-1) > 0).sum(1, keepdims=True)
    return weights.sum(1) / np.maximum(valid, 1)


def occlusion(subject: Subject, names: list[str], batch_size: int = 32) -> np.ndarray:
    """(n, M): what leaving each modality out takes from the predicted class; NaN for the only one of a model."""
    plain = answer(subject, batch_size=batch_size, progress="all modalities")
    found = np.full((len(subject.rows), len(names)), np.nan)
    for column, name in enumerate(names):
        if len(names) == 1:
            break
        changed = answer(subject, drop=(name,), batch_size=batch_size, progress=f"without {name}")
        if subject.regression:
            found[:, column] = np.abs(plain.tasks[0].predictions - changed.tasks[0].predictions)
            continue
        both = [torch.from_numpy(np.asarray(each.tasks[0].logits)) for each in (plain, changed)]
        before, after = (label_probabilities(logits, subject.model.config).numpy() for logits in both)
        own = np.arange(len(before)), plain.tasks[0].predictions
        found[:, column] = before[own] - after[own]
    return found


def draw_shares(found: dict[str, Shares], split: str = "") -> Figure:
    """A row per checkpoint: violins per source, and a heat map of classes against sources."""
    rows = max(len(each.by_class()) for each in found.values())
    figure, axes = plt.subplots(
        len(found), 2, figsize=(10, max(3.4, 0.28 * rows + 1.6) * len(found)), width_ratios=(1, 1.1), squeeze=False
    )
    for (left, right), (name, each) in zip(axes, found.items(), strict=True):
        what = "weight" if each.kind == "weights" else "lost without it"
        places = np.arange(len(each.sources))
        _violins(
            left, each.pooled, places - (0.2 if each.over_tokens is not None else 0), "tab:blue", "where the head reads"
        )
        if each.over_tokens is not None:
            _violins(left, each.over_tokens, places + 0.2, "tab:orange", "mean over tokens")
            left.legend(fontsize=8)
        left.axhline(0, color="black", linewidth=0.5)
        where = f"{name}, {split} split" if split else name
        left.set(title=f"{where}, n = {len(each.ids)}", xticks=places, xticklabels=each.sources, ylabel=what)
        means = each.by_class()
        values = np.stack(list(means.values()))
        image = right.imshow(values, aspect="auto", cmap="viridis")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < middle else "black"
            right.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        counts = [each.classes.count(label) for label in means]
        right.set(title=f"mean {what} by true class", xticks=places, xticklabels=each.sources, yticks=range(len(means)))
        right.set_yticklabels([f"{label} ({count})" for label, count in zip(means, counts, strict=True)], fontsize=8)
        figure.colorbar(image, ax=right, label=what)
    figure.tight_layout()
    return figure


def _violins(axis: Any, values: np.ndarray, places: np.ndarray, colour: str, label: str) -> None:
    known = [column for column in range(values.shape[1]) if np.isfinite(values[:, column]).all()]
    if known and len(values) > 1:
        drawn = axis.violinplot([values[:, column] for column in known], places[known], widths=0.35, showmeans=True)
        for body in drawn["bodies"]:
            body.set(facecolor=colour, alpha=0.45)
        for part in ("cmeans", "cbars", "cmins", "cmaxes"):
            drawn[part].set(color=colour, linewidth=1)
        drawn["bodies"][0].set_label(label)


def write_samples(path: Path, found: dict[str, Shares]) -> None:
    """One line per sample and source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["checkpoint", "id", "class", "source", "kind", "pooled", "mean_over_tokens"])
        for name, each in found.items():
            for row, (identifier, label) in enumerate(zip(each.ids, each.classes, strict=True)):
                for column, source in enumerate(each.sources):
                    tokens = "" if each.over_tokens is None else float(each.over_tokens[row, column])
                    writer.writerow(
                        [name, identifier, label, source, each.kind, float(each.pooled[row, column]), tokens]
                    )


def run(arguments: argparse.Namespace) -> str:
    found = {
        subject.name: shares(subject, arguments.kind, arguments.batch_size) for subject in open_subjects(arguments)
    }
    stem = Path(arguments.output_dir) / f"modality_attention_{'_'.join(found)}_{arguments.split}"
    rows, numbers = [], {}
    for name, each in found.items():
        for column, source in enumerate(each.sources):
            tokens = "" if each.over_tokens is None else float(each.over_tokens[:, column].mean())
            values = each.pooled[:, column]
            rows.append([name, source, each.kind, float(values.mean()), float(values.std()), tokens])
        numbers[name] = {
            "kind": each.kind,
            "sources": each.sources,
            "by_class": {label: means.tolist() for label, means in each.by_class().items()},
        }
    write_samples(with_ending(stem, ".csv"), found)
    written = save(stem, draw_shares(found, arguments.split), {"split": arguments.split, "checkpoints": numbers})
    columns = ["checkpoint", "source", "kind", "mean", "std", "mean over tokens"]
    return f"{table(columns, rows)}\n{with_ending(stem, '.csv')}\n{written}"
