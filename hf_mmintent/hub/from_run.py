"""The facts of a finished run, as training and evaluation left them on disk, for its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .pictures import read_pictures
from .run_summary import AblationRow, RunSummary, SplitScores

RUN_FILE, SCORES_FOLDER = "run.json", "scores"


def summary_from_run(
    model: PreTrainedModel, checkpoint: str | Path, repo_id: str | None = None, run: dict[str, Any] | None = None
) -> RunSummary:
    """
    What the card of a checkpoint says.

    Args:
        model: opened from `checkpoint`.
        checkpoint: folder with `run.json`; once evaluated, `scores/<split>_<condition>.json`; and where
            `examples/analyze.py card` has drawn them, pictures with their numbers.
        repo_id: where it will live.
        run: what `run.json` holds, when it is not written yet.

    Raises:
        FileNotFoundError: the folder was not written by a training run.
    """
    folder = Path(checkpoint)
    run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8")) if run is None else run
    settings, facts = run["settings"], run["facts"]
    data, dataset = settings["data"], facts.get("dataset", {})
    # Rows that were set aside from training are no split of the dataset; its validation split then selected nothing.
    share = data.get("development_share")
    validation = data["validation_split"] if share is None else "development"
    results = [SplitScores(validation, _count(run["validation"]), _scores(run["validation"]))]
    by_split: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / SCORES_FOLDER).glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        by_split.setdefault(found["split"], []).append(found)
    for split, entries in by_split.items():
        if split != validation:  # that one is listed already, as the run measured it
            results += [SplitScores(split, e["n"], _scores(e["scores"])) for e in entries if e["condition"] == "clean"]
    # One table, of one split: the one that selected nothing, where it was scored.
    split = next((name for name in by_split if name != validation), next(iter(by_split), None))
    ablation = [AblationRow(_kept(model, e["condition"]), _scores(e["scores"])) for e in by_split.get(split or "", [])]
    ablation.sort(key=lambda row: (-len(row.modalities), list(row.modalities)))
    return RunSummary.from_model(
        model,
        model_name=repo_id.split("/")[-1] if repo_id else f"{settings['model_type']}-{Path(data['name']).stem}",
        repo_id=repo_id,
        base_models=settings["backbones"],
        dataset_name=Path(data["name"]).stem,
        dataset_config=data["config_name"],
        dataset_license=dataset.get("license") or None,
        synthetic=bool(dataset.get("synthetic")),
        split_sizes={validation if n == data["validation_split"] else n: size for n, size in facts["splits"].items()},
        results=results,
        selection=f"best epoch on the {validation} "
        + ("split" if share is None else f"rows, {share:g} of the {data['train_split']} split, which did not train"),
        ablation=ablation if len(ablation) > 1 else [],
        ablation_split=split,
        seeds=[run["seed"]],
        command=facts.get("command"),
        commit=facts.get("commit"),
        duration=run["seconds"],
        citation=model.citation or None,
        license="apache-2.0",
        **read_pictures(folder),
    )


def _scores(scores: dict[str, Any]) -> dict[str, float]:
    """Scores without the sample count and the loss, which is no metric."""
    return {name: float(value) for name, value in scores.items() if name not in ("n", "loss")}


def _count(scores: dict[str, Any]) -> int:
    return int(scores["n"])


def _kept(model: PreTrainedModel, condition: str) -> list[str]:
    """Modalities that were left by a condition such as "without text and audio"."""
    dropped = condition.removeprefix("without ").split(" and ") if condition != "clean" else []
    return [name for name in model.config.modalities if name not in dropped]
