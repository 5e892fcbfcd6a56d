"""Token budgets against sparsity and scores (CLCR, Fig. 6).

    python examples/analyze.py budgets runs/clcr_cmu_mosi --split test                                  # (a) a trained model
    python examples/analyze.py budgets runs/clcr_cmu_mosi --retrain examples/configs/clcr_cmu_mosi.yaml  # (b) from scratch

All budgets are multiplied by κ: (a) in the trained model, everything else as it is; (b) in models trained anew with the
learned budgets frozen at κ times their value, and one dense variant without the projection. For models with
`budget_scale`, `participation` and the settings named in [`frozen_budgets`].
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from hf_mmintent.training import RunConfig, train_run

from .common import (
    Subject,
    add_checkpoint_arguments,
    gather,
    headline,
    open_subject,
    outputs,
    save,
    score_axis,
    scores,
    table,
)

SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES), help="κ")
    parser.add_argument("--retrain", help="run settings (YAML): also train from scratch with frozen budgets")
    parser.add_argument("--seed", type=int, default=0, help="of the retrained models")


def budget_point(subject: Subject, batch_size: int, label: str) -> dict[str, float]:
    """Scores, participation averaged over present modalities and levels, and the share of sequences where B binds."""
    found = gather(outputs(subject, batch_size, label), "logits", "participation", "budget_tight", "modality_weights")
    present = (found["modality_weights"] > 0)[:, :, None]
    count = max(present.sum() * found["participation"].shape[2], 1)
    return {
        "participation": float((found["participation"] * present).sum() / count),
        "tight": float((found["budget_tight"] * present).sum() / count),
        **scores(subject, found["logits"]),
    }


def scaled(subject: Subject, scales: list[float], batch_size: int = 32) -> dict[float, dict[str, float]]:
    """(a): the trained model with its budgets multiplied by each κ; its config is left as it was."""
    before = subject.model.config.budget_scale
    points = {}
    try:
        for scale in scales:
            subject.model.config.budget_scale = before * scale
            points[scale] = budget_point(subject, batch_size, f"κ = {scale}")
    finally:
        subject.model.config.budget_scale = before
    return points


def learned_budgets(subject: Subject) -> list[float]:
    """σ(b) of every level, as the trained model has them."""
    return [level.budget.fraction().item() for level in subject.model.base_model.intra]


def frozen_budgets(settings: RunConfig, budgets: list[float], scale: float | None) -> RunConfig:
    """Settings of (b): budgets frozen at κ times the learned ones, as (a) scales them; `None` is the dense variant."""
    settings = copy.deepcopy(settings)
    if scale is None:
        settings.config["use_budget_projection"] = False
    else:
        scale *= settings.config.get("budget_scale", 1.0)  # what the learned ones were trained with
        settings.config.update(budget_init=list(budgets), budget_learnable=False, budget_scale=scale)
    return settings


def retrained(subject: Subject, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """(b): train one model per κ and the dense one; finished ones are not trained again."""
    settings, budgets = RunConfig.load(arguments.retrain), learned_budgets(subject)
    points = {}
    for scale in (*arguments.scales, None):
        name = "dense" if scale is None else f"{scale:g}"
        folder = Path(arguments.output_dir) / "retrained" / f"kappa_{name}"
        trained = train_run(frozen_budgets(settings, budgets, scale), arguments.seed, folder)
        points[name] = budget_point(open_subject(trained.checkpoint, arguments), arguments.batch_size, f"κ = {name}")
    return points


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    shown = headline(subject)
    curves: dict[str, dict[str, dict[str, float]]] = {
        "a: scaled after training": {
            f"{k:g}": v for k, v in scaled(subject, arguments.scales, arguments.batch_size).items()
        }
    }
    if arguments.retrain:
        curves["b: retrained, frozen"] = retrained(subject, arguments)
    figure, axes = plt.subplots(1, len(curves), figsize=(6 * len(curves), 4), squeeze=False)
    rows: list[list[Any]] = []
    for axis, (title, points) in zip(axes[0], curves.items(), strict=True):
        places = range(len(points))
        axis.plot(places, [point[shown] for point in points.values()], marker="o", color="tab:blue")
        axis.set(title=title, xlabel="κ", xticks=list(places), xticklabels=list(points))
        score_axis(axis.yaxis, shown)
        twin = axis.twinx()
        twin.bar(places, [point["participation"] for point in points.values()], alpha=0.25, color="tab:gray")
        twin.set(ylabel="participation", ylim=(0, 1))
        for name, point in points.items():
            rows.append([title[:1], name, point["participation"], point["tight"], point[shown]])
    figure.tight_layout()
    numbers = {"split": arguments.split, "learned_budgets": learned_budgets(subject), "curves": curves}
    written = save(f"{arguments.output_dir}/budgets_{subject.name}_{arguments.split}", figure, numbers)
    return f"{table(['setting', 'κ', 'participation', 'tight', shown], rows, {shown: shown})}\n{written}"
