"""The scripts as a user starts them: train, evaluate, predict; one process and two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mmintent.training import RunConfig
from tests.hf_mmintent.training_cases import LABELS, settings
from tests.modeling.media_files import write_media

LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def start(root: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, root: Path) -> tuple[Path, str]:
    """Run folder of two seeds, made by the script from a YAML file, and what the script printed."""
    folder = tmp_path_factory.mktemp("script")
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings(folder, tiny_tokenizer)))
    printed = start(
        root, sys.executable, "examples/train.py", str(config), "--seeds", "0", "1", "--training.num_train_epochs", "2"
    )
    return folder / "run", printed


def test_train_prints_the_scores_of_every_seed(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert "seed 0:" in printed and "seed 1:" in printed and "over 2 seeds" in printed
    facts = json.loads((folder / "seed_1" / "final" / "run.json").read_text())
    assert facts["settings"]["training"]["num_train_epochs"] == 2 and facts["facts"]["processes"] == 1
    (line,) = [line for line in printed.splitlines() if line.startswith("seed 1:")]
    found = facts["validation"]
    assert f"  validation accuracy {100 * found['accuracy']:.2f}" in line and f"  loss {found['loss']:.3f}" in line
    assert line.endswith("  recall_macro " + f"{100 * found['recall_macro']:.2f}") and "  n 9  " in line


def test_evaluate_writes_scores_and_predictions(trained: tuple[Path, str], root: Path) -> None:
    folder, _ = trained
    printed = start(root, sys.executable, "examples/evaluate.py", str(folder), "--split", "test", "--drop")
    assert "test, n = 9, 2 seeds, in percent" in printed
    assert sum(line.startswith("| without") for line in printed.splitlines()) == 6 and "| all |" in printed
    scores = folder / "seed_0" / "final" / "scores"
    result = json.loads((scores / "test_without_text.json").read_text())
    lines = (scores / "test_without_text.predictions.jsonl").read_text().splitlines()
    assert result["n"] == len(lines) == 9 and result["condition"] == "without text" and result["split"] == "test"


def test_predict_ranks_the_labels_of_a_sentence(trained: tuple[Path, str], root: Path) -> None:
    folder, _ = trained
    checkpoint = str(folder / "seed_0" / "final")
    printed = start(root, sys.executable, "examples/predict.py", checkpoint, "--text", "hello", "--top_k", "2")
    ranked = [line.split() for line in printed.splitlines() if line and line.split()[-1] in LABELS]
    assert len(ranked) == 2 and 1 >= float(ranked[0][0]) >= float(ranked[1][0]) >= 0


def test_predict_says_that_a_checkpoint_takes_no_clips(trained: tuple[Path, str], root: Path, tmp_path: Path) -> None:
    write_media(tmp_path / "clip.mp4", seconds=1.0)
    command = [sys.executable, "examples/predict.py", str(trained[0] / "seed_0" / "final"), "--clip"]
    with pytest.raises(AssertionError, match="has no `media` settings"):
        start(root, *command, str(tmp_path / "clip.mp4"))


@pytest.mark.distributed
def test_two_processes_train_one_model(tmp_path: Path, tiny_tokenizer: Any, root: Path) -> None:
    values = settings(tmp_path, tiny_tokenizer, training={"num_train_epochs": 2, "per_device_train_batch_size": 4})
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    start(root, *LAUNCHER, "examples/train.py", str(config), ACCELERATE_USE_CPU="true")
    facts = json.loads((Path(values["output_dir"]) / "seed_0" / "final" / "run.json").read_text())
    assert facts["facts"]["processes"] == 2  # a launcher that runs two independent copies would say 1
    assert 0.0 <= facts["validation"]["accuracy"] <= 1.0 and facts["validation"]["n"] == 9


def test_every_configuration_is_readable(root: Path) -> None:
    """Each YAML file names known settings of a known architecture with valid config fields."""
    from hf_mmintent.registration import task_model_class

    files = sorted((root / "examples" / "configs").glob("*.yaml"))
    assert files
    for path in files:
        run = RunConfig.load(path)
        kind: Any = task_model_class(run.model_type).config_class
        names = {0: "a", 1: "b", 2: "c"} if run.config.get("problem_type") != "regression" else None
        if run.config.get("label_word_loss_weight"):  # these tokens come from the run's language model
            words = {f"{task}_word_ids": [[0]] * len(run.config[f"{task}_names"]) for task in ("emotion", "intent")}
            kind(**{**run.config, **words})
        elif "regression_loss" in run.config or "structure_bins" in run.config:
            kind(**{**run.config, "num_labels": 1, "problem_type": "regression"})
        else:
            kind(**{"id2label": names, **run.config})
