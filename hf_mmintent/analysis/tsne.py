"""t-SNE of the representations of several checkpoints, one panel each (CLCR, Fig. 3; any output of any architecture).

    python examples/analyze.py tsne runs/clcr runs/clcr_without_intra runs/clcr_without_inter --split test

Pictures mislead: beside each stands how well the 10 nearest neighbours in the full space agree with the label.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from .common import Subject, add_checkpoint_arguments, gather, open_subjects, outputs, save, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument("--field", default="embeddings", help="output (n, d) of the model to show")
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


def representations(subject: Subject, field: str, batch_size: int = 32) -> np.ndarray:
    """The output `field` of every row, (n, d)."""
    return gather(outputs(subject, batch_size, subject.name), field)[field].reshape(len(subject.rows), -1)


def run(arguments: argparse.Namespace) -> str:
    subjects = open_subjects(arguments)
    figure, axes = plt.subplots(1, len(subjects), figsize=(4.5 * len(subjects), 4), squeeze=False)
    numbers: dict[str, Any] = {"split": arguments.split, "seed": arguments.seed, "panels": {}}
    rows = []
    for axis, subject in zip(axes[0], subjects, strict=True):
        points, labels = representations(subject, arguments.field, arguments.batch_size), subject.labels()
        flat = project(points, arguments.perplexity, arguments.seed)
        agreement = neighbour_agreement(points, labels, subject.regression)
        colours = axis.scatter(*flat.T, c=labels, s=8, cmap="coolwarm" if subject.regression else "tab20")
        axis.set(title=f"{subject.name}\nneighbour agreement {agreement:.3f}", xticks=[], yticks=[])
        figure.colorbar(colours, ax=axis)
        ids = [str(identifier) for identifier in subject.rows["id"]]
        places = {name: [*map(float, place)] for name, place in zip(ids, flat, strict=True)}
        numbers["panels"][subject.name] = {"neighbour_agreement": agreement, "points": places}
        rows.append([subject.name, agreement])
    figure.tight_layout()
    written = save(f"{arguments.output_dir}/tsne_{arguments.field}_{arguments.split}", figure, numbers)
    return f"{table(['checkpoint', 'neighbour agreement'], rows)}\n{written}"
