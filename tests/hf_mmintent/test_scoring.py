"""Scores of a run as a table and as files: what is not a figure, and which splits there are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_mmintent.scoring import _table, rare_class_counts, score_checkpoints
from hf_mmintent.training import RunConfig, TrainedRun, train_run

from .training_cases import LABELS, settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> TrainedRun:
    folder = tmp_path_factory.mktemp("scored")
    run = RunConfig.from_dict(settings(folder, tiny_tokenizer, training={"num_train_epochs": 1}))
    return train_run(run, 0, folder / "run")


def test_the_file_holds_every_score_of_the_specification(trained: TrainedRun) -> None:
    table = score_checkpoints(trained.checkpoint, split="validation")
    assert table.startswith("validation, n = 9, 1 seed\n")
    found = json.loads((trained.checkpoint / "scores" / "validation_all.json").read_text())["scores"]
    wanted = {"accuracy", "f1_weighted", "precision_weighted", "recall_macro", "f1_macro", "precision_macro", "f1_rare"}
    assert wanted <= found.keys() and all(0 <= found[name] <= 1 for name in wanted)


def test_an_unknown_split_names_the_known_ones(trained: TrainedRun) -> None:
    with pytest.raises(ValueError, match=r"has the splits \['test', 'train', 'validation'\]: 'dev' is not among them"):
        score_checkpoints(trained.checkpoint, split="dev")


def test_an_undefined_score_is_no_figure() -> None:
    scores = [{"mae": 0.5, "corr": float("nan")}, {"mae": 0.7, "corr": 0.3}]
    assert _table({"all": scores}, ["mae", "corr"], 2, 9, "test").splitlines()[-1] == "| all | 0.600 ± 0.141 | n/a |"


def test_rare_classes_are_those_of_the_training_rows() -> None:
    features = Features({"label": ClassLabel(names=LABELS), "value": Value("float32")})
    splits = {"train": Dataset.from_dict({"label": [0, 2, 2], "value": [0.0] * 3}, features=features)}
    assert rare_class_counts(splits, "train", LABELS) == {"complain": 1, "praise": 0, "inform": 2}
    assert rare_class_counts(splits, "train", ["other"]) is None  # a model of other classes
    assert rare_class_counts(splits, "absent", LABELS) is None
    assert rare_class_counts({"train": splits["train"].rename_column("label", "x")}, "train", LABELS) is None
