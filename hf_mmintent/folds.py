"""Cross-validation: one run per fold of a dataset, scores of every fold and their mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_mmintent.metrics import RunResult, format_score, table_cells, to_markdown
from hf_mmintent.run_data import find_checkpoints
from hf_mmintent.scoring import HEADLINE, score_checkpoints
from hf_mmintent.training import RunConfig, train_seeds


def run_folds(
    settings: str | Path, folds: Sequence[str], overrides: Mapping[str, Any] | None = None, split: str = "test"
) -> str:
    """
    Train on every fold, each in a folder of its own below the run's, and score each on its split. Finished folds are not
    trained again.

    Args:
        settings: YAML file of the run.
        folds: configurations of the dataset, one per fold.
        overrides: further settings by dotted name.
        split: to score.

    Returns:
        The headline score of every fold, and a Markdown table with mean ± std over the folds.

    Raises:
        ValueError: fewer than two folds, one of them twice, or more than one seed.
    """
    base = RunConfig.load(settings, overrides)
    if len(set(folds)) != len(folds) or len(folds) < 2:
        raise ValueError(f"the folds are {list(folds)}: name two or more, each once.")
    if len(base.seeds) != 1:
        raise ValueError(f"`seeds` is {list(base.seeds)}: std is over folds here, give one seed (`--seeds 0`).")
    results, keys = [], HEADLINE["single_label_classification"]
    for number, fold in enumerate(folds):
        own = {"data.config_name": fold, "output_dir": str(Path(base.output_dir) / fold)}
        run = RunConfig.load(settings, {**(overrides or {}), **own})
        train_seeds(run)
        score_checkpoints(run.output_dir, split=split)
        (checkpoint,) = find_checkpoints(run.output_dir)
        result = RunResult.from_json(checkpoint / "scores" / f"{split}_all.json")
        keys = HEADLINE["regression"] if result.num_classes is None else keys
        results.append(dataclasses.replace(result, configuration=folds[0].rstrip("0123456789"), fold=number))
    each = [
        f"{fold}: {keys[0]} {format_score(keys[0], result.scores[keys[0]])}" for fold, result in zip(folds, results)
    ]
    return "\n".join([*each, "", to_markdown(table_cells(results, keys))])
