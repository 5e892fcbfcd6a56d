"""t-SNE of the representations of several checkpoints, one panel each (CLCR, Fig. 3; PLUM-Net, Fig. 5; any architecture).

    python examples/analyze.py tsne runs/clcr runs/clcr_without_intra runs/clcr_without_inter --split test
    python examples/analyze.py tsne runs/plum_net runs/plum_net_without_msa --field private_embeddings --split test
    python examples/analyze.py tsne runs/without_msa runs/without_msa runs/without_msa runs/plum_net --split test --field \\
        raw_embeddings common_embeddings private_embeddings private_embeddings

The last one is PLUM-Net's figure: raw, common and private features without the alignment, private features with it.

    python examples/analyze.py tsne runs/mvcl_daf_mintrec --view fused --prototypes train --split test

The last is Fig. 4 of MVCL-DAF++: a view of the samples, and as crosses the mean of all views of every class over the training
split, Eq. (1). Where prototypes are shown, all vectors have length 1, since the losses compare directions; beside the picture
stands how often the nearest prototype is that of the label. They can be shown for any output: one per class, and one per class
and modality where the output has a vector per modality.

An output with one vector per modality (PLUM-Net's `raw_embeddings`, `common_embeddings`, `private_embeddings`) gives one point
per sample and modality it has: the marker is the modality, the colour the label.

Pictures mislead: beside each stands how well the 10 nearest neighbours in the full space agree with the label (fewer in
classes of fewer samples).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from hf_mmintent.run_data import find_checkpoints

from .common import (
    Subject,
    add_checkpoint_arguments,
    dataset_rows,
    gather,
    open_subjects,
    outputs,
    save,
    table,
    with_rows,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument(
        "--field",
        nargs="+",
        default=["embeddings"],
        help="output (n, d) or (n, modalities, d) of the model to show; one for all checkpoints, or one each",
    )
    parser.add_argument("--view", help="name of a view, of models that return `view_embeddings`, in place of a field")
    parser.add_argument("--prototypes", metavar="SPLIT", help="also show the class means of this split")
    parser.add_argument("--prototype_views", nargs="+", help="views that prototypes are the mean of; all by default")
    parser.add_argument("--perplexity", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)


def neighbour_agreement(points: np.ndarray, labels: np.ndarray, regression: bool, count: int = 10) -> float:
    """
    Correlation of each label with the mean of its neighbours' (regression), or the share of neighbours of its class.

    A point of a small class is asked for as many neighbours as the class has others, so that 1 is in reach for every class;
    one that is alone in its class is left out.
    """
    count = min(count, len(points) - 1)
    near = (
        NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)
    )  # none is its own neighbour
    others = labels[near]
    if not regression:
        _, kind, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        asked = np.arange(count)[None] < (sizes[kind] - 1)[:, None]  # (n, count)
        known = asked.any(1)
        shares = ((others == labels[:, None]) & asked).sum(1)[known] / asked.sum(1)[known]
        return float(shares.mean()) if known.any() else float("nan")
    means = others.mean(1)
    return float(np.corrcoef(means, labels)[0, 1]) if means.std() > 0 and labels.std() > 0 else 0.0


def project(points: np.ndarray, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """(n, d) -> (n, 2); the perplexity is lowered where there are too few points for it."""
    return TSNE(
        n_components=2, perplexity=min(perplexity, (len(points) - 1) / 3), init="pca", random_state=seed
    ).fit_transform(points)


@dataclass
class Points:
    """Vectors (N, d) with label, modality ("" where an output is one for all) and id of the sample each."""

    vectors: np.ndarray
    labels: np.ndarray
    modalities: np.ndarray
    ids: list[str]


def representations(subject: Subject, field: str, batch_size: int = 32) -> Points:
    """
    The output `field` of every row.

    Raises:
        ValueError: the output is neither (n, d) nor (n, modalities, d).
    """
    labels, ids = subject.labels(), [str(identifier) for identifier in subject.rows["id"]]
    found = gather(outputs(subject, batch_size, subject.name), field)[field]
    if found.ndim == 2:
        return Points(found, labels, np.full(len(found), ""), ids)
    names = list(subject.model.config.modalities)
    if found.ndim != 3 or found.shape[1] != len(names):
        raise ValueError(f"`{field}` has shape {found.shape}: expected (n, d) or (n, {len(names)}, d).")
    present = gather(outputs(subject, batch_size, "presence"), "presence")["presence"] > 0
    rows, kinds = np.nonzero(present)
    return Points(found[rows, kinds], labels[rows], np.array(names)[kinds], [ids[row] for row in rows])


def view_points(subject: Subject, views: Sequence[str] | None, batch_size: int = 32) -> Points:
    """
    Views of every row, one after the other, of the samples that have them.

    Args:
        subject: a model that returns `view_embeddings` on request.
        views: names; all when `None`.
        batch_size: rows per pass.

    Raises:
        ValueError: there is no such view.
    """
    found, there = [], []
    for out in outputs(subject, batch_size, "views", output_views=True):
        found.append({name: rows.float().cpu() for name, rows in out.view_embeddings.items()})
        there.append({name: rows.cpu().bool() for name, rows in out.view_presence.items()})
    names = sorted({name for batch in found for name in batch})
    unknown = set(views or ()) - set(names)
    if unknown:
        raise ValueError(f"{type(subject.model).__name__} has no views {sorted(unknown)}: it has {names}.")
    labels, ids = subject.labels(), [str(identifier) for identifier in subject.rows["id"]]
    parts, rows = [], []
    for name in views or names:
        start = 0
        for batch, present in zip(found, there, strict=True):
            size = len(next(iter(batch.values())))
            if name in batch:
                own = np.flatnonzero(present[name].numpy())
                parts.append(batch[name].numpy()[own])
                rows.extend((start + own).tolist())
            start += size
    return Points(np.concatenate(parts), labels[rows], np.full(len(rows), ""), [ids[row] for row in rows])


def class_means(points: Points) -> Points:
    """Mean of the vectors of every class and modality, of length 1: Eq. (1) of MVCL-DAF++ where the points are views."""
    pairs = sorted(set(zip(points.modalities.tolist(), points.labels.tolist(), strict=True)))
    means = []
    for modality, label in pairs:
        mean = points.vectors[(points.modalities == modality) & (points.labels == label)].mean(0)
        means.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    modalities, labels = (np.array(values) for values in zip(*pairs, strict=True))
    return Points(np.stack(means), labels, modalities, [f"class {label}" for label in labels])


def nearest_is_own(points: Points, prototypes: Points) -> float:
    """Share of the points whose nearest prototype by cosine, of their modality, is that of their label."""
    unit = points.vectors / np.maximum(np.linalg.norm(points.vectors, axis=1, keepdims=True), 1e-12)
    cosine = unit @ prototypes.vectors.T
    cosine[points.modalities[:, None] != prototypes.modalities[None]] = -np.inf
    return float((prototypes.labels[cosine.argmax(1)] == points.labels).mean())


def _gather(subject: Subject, field: str, arguments: argparse.Namespace, views: Sequence[str] | None) -> Points:
    if arguments.view is None:
        return representations(subject, field, arguments.batch_size)
    return view_points(subject, views, arguments.batch_size)


def _prototypes(subject: Subject, checkpoint: str, field: str, arguments: argparse.Namespace) -> Points:
    if subject.regression:
        raise ValueError("`--prototypes` are means of classes, but this checkpoint predicts a value.")
    train = with_rows(subject, dataset_rows(find_checkpoints(checkpoint)[0], arguments, arguments.prototypes))
    return class_means(_gather(train, field, arguments, arguments.prototype_views))


def draw_panel(
    figure: Figure,
    axis: Axes,
    flat: np.ndarray,
    points: Points,
    names: Sequence[str] | None,
    crosses: tuple[np.ndarray, Points] | None = None,
) -> None:
    """
    One panel: points coloured by label, their markers the modality, prototypes as crosses.

    Args:
        figure, axis: to draw on.
        flat: (n, 2) places of the points.
        points: their labels and modalities.
        names: of the classes; `None` in regression.
        crosses: (places, prototypes).
    """
    limits = {"vmin": points.labels.min(), "vmax": points.labels.max()} if names is None else {"vmin": -0.5}
    if names is not None:
        limits["vmax"] = len(names) - 0.5
    colour_map = "coolwarm" if names is None else plt.get_cmap(_map_of(len(names)), len(names))
    colours = None
    for name, marker in zip(dict.fromkeys(points.modalities), "o^sDvP", strict=False):
        own = points.modalities == name
        look = {"c": points.labels[own], "s": 10, "cmap": colour_map, "alpha": 0.8, **limits}
        colours = axis.scatter(*flat[own].T, marker=marker, label=name, **look)
    if crosses is not None:
        places, found = crosses
        look = {"c": found.labels, "s": 90, "cmap": colour_map, "edgecolors": "black", "linewidths": 1.0, **limits}
        axis.scatter(*places.T, marker="X", label="class means", **look)
    if points.modalities[0] or crosses is not None:
        axis.legend(markerscale=1, fontsize=8)
    axis.set(xticks=[], yticks=[])
    bar = figure.colorbar(colours, ax=axis)
    if names is not None and len(names) <= 40:
        bar.set_ticks(range(len(names)), labels=list(names), fontsize=8 if len(names) <= 20 else 6)


def _map_of(count: int) -> str:
    return "tab10" if count <= 10 else "tab20" if count <= 20 else "turbo"  # the first two have no more colours


def fields_of_panels(fields: list[str], count: int) -> list[str]:
    """
    The output that each of `count` checkpoints shows.

    Raises:
        ValueError: there is neither one field nor one for each.
    """
    if len(fields) not in (1, count):
        raise ValueError(f"`--field` names {fields} for {count} checkpoints: give one for all, or one for each.")
    return fields if len(fields) == count else fields * count


def run(arguments: argparse.Namespace) -> str:
    fields = fields_of_panels(arguments.field, len(arguments.checkpoint))
    subjects = open_subjects(arguments)
    figure, axes = plt.subplots(1, len(subjects), figsize=(5.6 * len(subjects), 4.4), squeeze=False)
    numbers: dict[str, Any] = {"split": arguments.split, "seed": arguments.seed, "panels": {}}
    rows = []
    for axis, subject, checkpoint, field in zip(axes[0], subjects, arguments.checkpoint, fields, strict=True):
        shown = field if arguments.view is None else f"view_{arguments.view}"
        points = _gather(subject, field, arguments, arguments.view and [arguments.view])
        agreement = neighbour_agreement(points.vectors, points.labels, subject.regression)
        panel: dict[str, Any] = {"output": shown, "neighbour_agreement": agreement}
        title = f"{subject.name}, {arguments.split} split, n = {len(points.ids)}\n"
        title += f"{shown}, neighbour agreement {agreement:.3f}"
        vectors, prototypes = points.vectors, None
        if arguments.prototypes is not None:
            prototypes = _prototypes(subject, checkpoint, field, arguments)
            panel["nearest_prototype_accuracy"] = nearest_is_own(points, prototypes)
            title += f", nearest class mean {panel['nearest_prototype_accuracy']:.3f}"
            unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            vectors = np.concatenate([unit, prototypes.vectors])
        flat = project(vectors, arguments.perplexity, arguments.seed)
        if points.modalities[0]:
            # 1/M would say that modalities are mixed, 1 that each is an island of its own.
            panel["modality_agreement"] = neighbour_agreement(points.vectors, points.modalities, False)
        config = subject.model.config
        names = None if subject.regression else [config.id2label[index] for index in range(config.num_labels)]
        count = len(points.ids)
        crosses = None if prototypes is None else (flat[count:], prototypes)
        draw_panel(figure, axis, flat[:count], points, names, crosses)
        axis.set_title(title, fontsize=10)
        places = [[name, modality, *map(float, place)] for name, modality, place in
                  zip(points.ids, points.modalities.tolist(), flat[:count], strict=True)]  # fmt: skip
        if prototypes is not None:
            panel["prototypes"] = [
                [names[label], modality, *map(float, place)] for label, modality, place in
                zip(prototypes.labels, prototypes.modalities.tolist(), flat[count:], strict=True)
            ]  # fmt: skip
        numbers["panels"][subject.name] = {**panel, "points": places}
        scored = [panel.get(key, "") for key in ("modality_agreement", "nearest_prototype_accuracy")]
        rows.append([subject.name, shown, agreement, *scored])
    figure.tight_layout()
    stem = "_".join(dict.fromkeys(panel["output"] for panel in numbers["panels"].values()))
    written = save(f"{arguments.output_dir}/tsne_{stem}_{arguments.split}", figure, numbers)
    columns = ["checkpoint", "output", "neighbour agreement", "of the modality", "nearest class mean"]
    return f"{table(columns, rows)}\n{written}"
