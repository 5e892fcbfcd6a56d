"""One run per fold, and the mean over the folds."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mmintent.folds import run_folds
from tests.data_scripts.test_mustard import write

from .training_cases import save_backbone

FOLDS = ["own_fold0", "own_fold1"]


@pytest.fixture
def run_file(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    values = {
        "model_type": "unimodal",
        "output_dir": str(tmp_path / "run"),
        "data": {"name": "mustard", "data_dir": str(write(tmp_path / "data")), "options": {"strict_counts": False}},
        "backbones": {"text": str(save_backbone(tmp_path / "bert", tiny_tokenizer))},
        "config": {"modalities": ["text"]},
        "training": {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "learning_rate": 3e-3},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_every_fold_is_trained_and_scored_by_itself(run_file: Path, tmp_path: Path) -> None:
    lines = run_folds(run_file, FOLDS).splitlines()
    accuracies = []
    for number, fold in enumerate(FOLDS):
        final = tmp_path / "run" / fold / "seed_0" / "final"
        assert json.loads((final / "run.json").read_text())["settings"]["data"]["config_name"] == fold
        found = json.loads((final / "scores" / "test_all.json").read_text())
        assert found["configuration"] == fold and found["n"] == 4
        accuracies.append(100 * found["scores"]["accuracy"])
        assert lines[number] == f"{fold}: accuracy {accuracies[-1]:.2f}"
    mean, std = statistics.mean(accuracies), statistics.stdev(accuracies)
    assert f"| {mean:.2f} ± {std:.2f} |" in lines[-1] and lines[-1].endswith("| 8 | 2 folds |")
    stamp = (tmp_path / "run" / FOLDS[0] / "seed_0" / "final" / "model.safetensors").stat().st_mtime_ns
    assert run_folds(run_file, FOLDS).splitlines() == lines  # finished: scored again, not trained again
    assert (tmp_path / "run" / FOLDS[0] / "seed_0" / "final" / "model.safetensors").stat().st_mtime_ns == stamp


def test_folds_that_cannot_be_compared_are_refused(run_file: Path) -> None:
    for folds in (["own_fold0"], ["own_fold0", "own_fold0"], []):
        with pytest.raises(ValueError, match="two or more, each once"):
            run_folds(run_file, folds)
    with pytest.raises(ValueError, match=r"`seeds` is \[0, 1\]"):
        run_folds(run_file, FOLDS, {"seeds": [0, 1]})
