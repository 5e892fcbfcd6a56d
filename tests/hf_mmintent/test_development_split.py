"""A part of the training rows in place of the validation split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hf_mmintent.training import RunConfig
from hf_mmintent.training.runs import read_splits

from .training_cases import save_dataset


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
