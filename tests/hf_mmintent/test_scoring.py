"""Scores of a run as a table and as files: what is not a figure, and which splits there are."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_mmintent.scoring import WORDING, _table, rare_class_counts, score_checkpoints, wording_table
from hf_mmintent.training import RunConfig, TrainedRun, train_run

from .training_cases import LABELS, settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> TrainedRun:
    folder = tmp_path_factory.mktemp("scored")
    run = RunConfig.from_dict(settings(folder, tiny_tokenizer, training={"num_train_epochs": 1}))
    return train_run(run, 0, folder / "run")


def test_the_file_holds_every_score_of_the_specification(trained: TrainedRun) -> None:
    table = score_checkpoints(trained.checkpoint, split="validation")
    assert table.startswith("validation, n = 9, 1 seed, in percent\n\n| modalities | accuracy |")
    found = json.loads((trained.checkpoint / "scores" / "validation_all.json").read_text())["scores"]
    shown = table.splitlines()[-1].split(" | ")[1:]
    assert shown[:2] == [f"{100 * found[key]:.2f}" for key in ("accuracy", "f1_weighted")]
    wanted = {"accuracy", "f1_weighted", "precision_weighted", "recall_macro", "f1_macro", "precision_macro", "f1_rare"}
    assert wanted <= found.keys() and all(0 <= found[name] <= 1 for name in wanted)


def test_an_unknown_split_names_the_known_ones(trained: TrainedRun) -> None:
    with pytest.raises(ValueError, match=r"has the splits \['test', 'train', 'validation'\]: 'dev' is not among them"):
        score_checkpoints(trained.checkpoint, split="dev")


def test_an_undefined_score_is_no_figure() -> None:
    scores = [{"mae": 0.5, "corr": float("nan")}, {"mae": 0.7, "corr": 0.3}]
    assert _table({"all": scores}, ["mae", "corr"], 2, 9, "test").splitlines()[-1] == "| all | 0.600 ± 0.141 | n/a |"


def test_scores_are_shown_as_in_every_table() -> None:
    """Percent with two decimals, the mean absolute error with three; deviations over seeds with n − 1."""
    scores = [{"mae": 0.5, "acc7": 0.25}, {"mae": 0.7, "acc7": 0.75}]
    first, _, head, _, row = _table({"all": scores}, ["mae", "acc7"], 2, 9, "test").splitlines()
    assert first == "test, n = 9, 2 seeds, in percent except mae"
    assert (head, row) == ("| modalities | mae | acc7 |", "| all | 0.600 ± 0.141 | 50.00 ± 35.36 |")
    assert _table({"all": scores[:1]}, ["acc7"], 1, 9, "test").splitlines()[-1] == "| all | 25.00 |"


def test_wording_is_shown_as_in_every_table() -> None:
    one = {f"joint_{key}_{kind}": 0.5 for key in WORDING for kind in ("raw", "stripped")} | {
        "joint_meteor_nltk_raw": math.nan
    }
    *_, stripped, raw = wording_table([one]).splitlines()
    assert stripped == "| joint, stripped | 50.00 | 50.00 | 50.00 | 0.500 | 50.00 | 0.500 |"
    assert raw == "| joint, raw | 50.00 | 50.00 | n/a | 0.500 | 50.00 | 0.500 |"


def test_rare_classes_are_those_of_the_training_rows() -> None:
    features = Features({"label": ClassLabel(names=LABELS), "value": Value("float32")})
    splits = {"train": Dataset.from_dict({"label": [0, 2, 2], "value": [0.0] * 3}, features=features)}
    assert rare_class_counts(splits, "train", LABELS) == {"complain": 1, "praise": 0, "inform": 2}
    assert rare_class_counts(splits, "train", ["other"]) is None  # a model of other classes
    assert rare_class_counts(splits, "absent", LABELS) is None
    assert rare_class_counts({"train": splits["train"].rename_column("label", "x")}, "train", LABELS) is None
