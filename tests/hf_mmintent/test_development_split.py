"""A part of the training rows in place of the validation split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub import build_model_card
from hf_mmintent.hub.from_run import summary_from_run
from hf_mmintent.run_data import RunData
from hf_mmintent.scoring import score_checkpoints
from hf_mmintent.training import RunConfig, train_run
from hf_mmintent.training.runs import read_splits

from .training_cases import save_dataset, settings


def splits_of(folder: Path, **data: Any) -> Any:
    path = folder if folder.exists() else save_dataset(folder)
    return read_splits(RunConfig.from_dict({"data": {"name": str(path), **data}}))


def test_development_rows_come_from_training_alone(tmp_path: Path) -> None:
    whole = splits_of(tmp_path / "data")
    parts = splits_of(tmp_path / "data", development_share=0.25)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 18, "validation": 6}
    train, held = set(parts["train"]["id"]), set(parts["validation"]["id"])
    assert not train & held and train | held == set(whole["train"]["id"])
    assert Counter(parts["validation"]["label"]) == {0: 2, 1: 2, 2: 2}  # every class alike
    rows = {row["id"]: row for row in whole["train"]}
    for row in parts["validation"]:
        assert (row["audio_features"] == rows[row["id"]]["audio_features"]).all()


def test_the_draw_has_a_seed_of_its_own(tmp_path: Path) -> None:
    drawn = [
        splits_of(tmp_path / "data", development_share=0.25, development_seed=seed)["validation"]["id"]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] and set(drawn[0]) != set(drawn[2])


def test_the_share_is_a_part() -> None:
    for share in (0, 1.0, -0.1):
        with pytest.raises(ValueError, match=r"`data.development_share` is"):
            RunConfig.from_dict({"data": {"development_share": share}})


def test_what_is_fitted_later_sees_these_rows_and_not_the_reported_ones(tmp_path: Path) -> None:
    """Calibration and rejection rules of a run whose validation split is the one that is reported."""
    parts = splits_of(tmp_path / "data", development_share=0.25, development_seed=3)
    data = RunConfig.from_dict(
        {"data": {"name": str(tmp_path / "data"), "development_share": 0.25, "development_seed": 3}}
    )
    found = RunData("d", None, load(tmp_path / "data"), data.to_dict()["data"], ())
    for part, name in (("train", "train"), ("validation", "development")):
        known, rows = found.for_fitting(part)
        assert known == name and rows["id"] == parts[part]["id"]
    assert found.for_fitting("validation", "validation")[1]["id"] == found.splits["validation"]["id"]
    plain = RunData("d", None, found.splits, {"validation_split": "validation"}, ())
    assert plain.for_fitting("validation")[1]["id"] == found.splits["validation"]["id"]
    with pytest.raises(ValueError, match="`validation_split` is the test split"):
        found.for_fitting("validation", "test")
    renamed = RunData("d", None, DatasetDict({"held": found.splits["test"]}), {}, ())
    with pytest.raises(ValueError, match="`validation_split` is the test split"):
        renamed.for_fitting("validation", "held")


def test_the_card_says_which_rows_selected(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Scores on the validation split, which selected nothing, stand beside those of the development rows."""
    data = {"development_share": 0.25}
    run = RunConfig.from_dict(settings(tmp_path, tiny_tokenizer, data=data, training={"num_train_epochs": 1}))
    trained = train_run(run, 0, tmp_path / "run")
    score_checkpoints(trained.checkpoint, split="validation")
    model, _ = open_checkpoint(trained.checkpoint)
    card = str(build_model_card(summary_from_run(model, trained.checkpoint)))
    assert "best epoch on the development rows, 0.25 of the train split, which did not train" in card
    assert "| development | 6 |" in card and "| validation | 9 |" in card
