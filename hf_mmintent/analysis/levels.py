"""Weights of the semantic levels and what each level contributes (CLCR, Fig. 4).

    python examples/analyze.py levels runs/clcr_cmu_mosi --split test

The contribution of a level is the change of the prediction when its tokens are zeroed in all modalities: of the value in
regression, of the probability of the predicted class otherwise. For models with `mask_levels` and `level_weights`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from .common import Subject, add_checkpoint_arguments, gather, open_subject, outputs, save, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--samples", type=int, default=12, help="samples in the picture, spread over the main level")


def _probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def level_figures(subject: Subject, batch_size: int = 32) -> dict[str, Any]:
    """
    Returns:
        `levels` (names), `alpha` and `contribution` (n, L), `prediction` (n,), `ids`.
    """
    levels = list(subject.model.config.levels)
    plain = gather(outputs(subject, batch_size, "all levels"), "logits", "level_weights")
    masked = [
        gather(outputs(subject, batch_size, f"without {m}", mask_levels=(m,)), "logits")["logits"] for m in levels
    ]
    if subject.regression:
        prediction = plain["logits"][:, 0]
        change = [np.abs(prediction - logits[:, 0]) for logits in masked]
    else:
        prediction = plain["logits"].argmax(1)
        own = np.arange(len(prediction)), prediction
        change = [np.abs(_probabilities(plain["logits"])[own] - _probabilities(logits)[own]) for logits in masked]
    return {
        "levels": levels,
        "alpha": plain["level_weights"],
        "contribution": np.stack(change, 1),
        "prediction": prediction,
        "ids": [str(identifier) for identifier in subject.rows["id"]],
    }


def representative(alpha: np.ndarray, count: int) -> list[int]:
    """For each level in turn the samples that lean on it most."""
    orders = [np.argsort(-(alpha[:, level] - alpha.mean(0)[level])) for level in range(alpha.shape[1])]
    chosen: list[int] = []
    for rank in range(len(alpha)):
        for order in orders:
            if order[rank] not in chosen and len(chosen) < count:
                chosen.append(int(order[rank]))
    return chosen


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    found = level_figures(subject, arguments.batch_size)
    levels, alpha, contribution = found["levels"], found["alpha"], found["contribution"]
    chosen = representative(alpha, arguments.samples)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), width_ratios=(1, 1.2, 1.2))
    axes[0].bar(levels, alpha.mean(0), yerr=alpha.std(0), capsize=3)
    axes[0].set(title=f"mean α, n = {len(alpha)}", ylim=(0, 1))
    for axis, values, title in ((axes[1], alpha, "α"), (axes[2], contribution, "contribution")):
        image = axis.imshow(values[chosen], aspect="auto", cmap="viridis", vmin=0)
        axis.set(title=title, xticks=range(len(levels)), xticklabels=levels, yticks=range(len(chosen)))
        axis.set_yticklabels([found["ids"][i] for i in chosen], fontsize=6)
        figure.colorbar(image, ax=axis)
    figure.tight_layout()
    entropy = -(alpha * np.log(np.clip(alpha, 1e-12, None))).sum(1)
    numbers = {
        "checkpoint": str(arguments.checkpoint),
        "split": arguments.split,
        "n": len(alpha),
        "levels": levels,
        "alpha_mean": alpha.mean(0).tolist(),
        "alpha_std": alpha.std(0).tolist(),
        "alpha_entropy_mean": float(entropy.mean()),
        "contribution_mean": contribution.mean(0).tolist(),
        "samples": {
            found["ids"][i]: {
                "alpha": alpha[i].tolist(),
                "contribution": contribution[i].tolist(),
                "prediction": float(found["prediction"][i]),
            }
            for i in range(len(alpha))
        },
    }
    rows = [[level, float(alpha[:, i].mean()), float(contribution[:, i].mean())] for i, level in enumerate(levels)]
    written = save(f"{arguments.output_dir}/levels_{subject.name}_{arguments.split}", figure, numbers)
    return f"{table(['level', 'mean α', 'mean contribution'], rows)}\n{written}"
