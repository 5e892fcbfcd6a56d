"""t-SNE of the representations of several checkpoints, one panel each (CLCR, Fig. 3; PLUM-Net, Fig. 5; any architecture).

    python examples/analyze.py tsne runs/clcr runs/clcr_without_intra runs/clcr_without_inter --split test
    python examples/analyze.py tsne runs/plum_net runs/plum_net_without_msa --field private_embeddings --split test
    python examples/analyze.py tsne runs/without_msa runs/without_msa runs/without_msa runs/plum_net --split test --field \\
        raw_embeddings common_embeddings private_embeddings private_embeddings

The last one is PLUM-Net's figure: raw, common and private features without the alignment, private features with it.

An output with one vector per modality (PLUM-Net's `raw_embeddings`, `common_embeddings`, `private_embeddings`) gives one point
per sample and modality it has: the marker is the modality, the colour the label.

Pictures mislead: beside each stands how well the 10 nearest neighbours in the full space agree with the label.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from .common import Subject, add_checkpoint_arguments, gather, open_subjects, outputs, save, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument(
        "--field",
        nargs="+",
        default=["embeddings"],
        help="output (n, d) or (n, modalities, d) of the model to show; one for all checkpoints, or one each",
    )
    parser.add_argument("--perplexity", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)


def neighbour_agreement(points: np.ndarray, labels: np.ndarray, regression: bool, count: int = 10) -> float:
    """Correlation of each label with the mean of its neighbours' (regression), or the share of neighbours of its class."""
    count = min(count, len(points) - 1)
    _, near = NearestNeighbors(n_neighbors=count + 1).fit(points).kneighbors(points)
    others = labels[near[:, 1:]]
    if not regression:
        return float((others == labels[:, None]).mean())
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
    figure, axes = plt.subplots(1, len(subjects), figsize=(4.5 * len(subjects), 4), squeeze=False)
    numbers: dict[str, Any] = {"split": arguments.split, "seed": arguments.seed, "panels": {}}
    rows = []
    for axis, subject, field in zip(axes[0], subjects, fields, strict=True):
        points = representations(subject, field, arguments.batch_size)
        flat = project(points.vectors, arguments.perplexity, arguments.seed)
        agreement = neighbour_agreement(points.vectors, points.labels, subject.regression)
        panel: dict[str, Any] = {"field": field, "neighbour_agreement": agreement}
        limits = {"vmin": points.labels.min(), "vmax": points.labels.max()}
        colours = None
        for name, marker in zip(dict.fromkeys(points.modalities), "o^sDvP", strict=False):
            own = points.modalities == name
            look = {"c": points.labels[own], "s": 8, "cmap": "coolwarm" if subject.regression else "tab20", **limits}
            colours = axis.scatter(*flat[own].T, marker=marker, label=name, **look)
        if points.modalities[0]:
            # 1/M would say that modalities are mixed, 1 that each is an island of its own.
            panel["modality_agreement"] = neighbour_agreement(points.vectors, points.modalities, False)
            axis.legend(markerscale=2)
        title = f"{subject.name}\n{field}\nneighbour agreement {agreement:.3f}"
        axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(colours, ax=axis)
        places = [[name, modality, *map(float, place)] for name, modality, place in
                  zip(points.ids, points.modalities.tolist(), flat, strict=True)]  # fmt: skip
        numbers["panels"][subject.name] = {**panel, "points": places}
        rows.append([subject.name, field, agreement, panel.get("modality_agreement", "")])
    figure.tight_layout()
    written = save(f"{arguments.output_dir}/tsne_{'_'.join(dict.fromkeys(fields))}_{arguments.split}", figure, numbers)
    return f"{table(['checkpoint', 'output', 'neighbour agreement', 'of the modality'], rows)}\n{written}"
