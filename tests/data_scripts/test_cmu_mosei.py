"""CMU-MOSEI: the files of MMSA with every trap."""

import logging
import os
import pickle

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.data.safe_pickle import UnsafePickleError
from tests.data_scripts.official_files import mmsa_parts, write_mmsa

WIDTHS = (74, 35)


def read(folder, name, **options):
    return load("cmu_mosei", data_dir=folder, name=name, **{"strict_counts": False, **options})


@pytest.mark.parametrize(("name", "place"), [
    ("aligned", "."), ("unaligned", "Processed"), ("unaligned", "MOSEI/Processed"),
])  # fmt: skip
def test_rows(tmp_path, name, place):
    parts = mmsa_parts(name == "aligned", WIDTHS)
    write_mmsa(tmp_path / place, f"{name}_50", parts)
    rows = read(tmp_path, name)
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 2, "test": 2}
    assert rows["train"].features["label"].dtype == "float32"
    assert rows["train"].features["audio_features"].shape == (None, 74)
    assert rows["train"].features["video_features"].shape == (None, 35)
    first = rows["validation"][1]
    expected = {"id": "vidvalid$_$1", "dialogue_id": "vidvalid", "text": "TEXT 1 OF valid", "label": 3.0}
    assert {key: first[key] for key in expected} == expected
    for split, part in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for i, row in enumerate(rows[split]):
            for column, stream in (("audio_features", "audio"), ("video_features", "vision")):
                stored = parts[part][stream][i].astype(np.float32)
                steps = int(parts[part]["text_bert"][i][1].sum())
                steps = steps if name == "aligned" else parts[part][f"{stream}_lengths"][i]
                np.testing.assert_array_equal(row[column], stored[:steps])


def test_aligned_is_the_default(tmp_path):
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True, WIDTHS))
    rows = load("cmu_mosei", data_dir=tmp_path, strict_counts=False)
    assert rows["train"].features["video_features"].shape == (None, 35)


def test_missing_file(tmp_path):
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True, WIDTHS))
    with pytest.raises(FileNotFoundError, match=r"unaligned_50\.pkl does not exist"):
        read(tmp_path, "unaligned")


def test_other_file_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True, WIDTHS))
    read(tmp_path, "aligned")
    for message in ("the published file 45eccfb748a8", "1 NaN or infinite audio values kept"):
        assert any(message in record.message for record in caplog.records)


def broken(change) -> dict:
    parts = mmsa_parts(False, WIDTHS)
    change(parts)
    return parts


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p.pop("valid"), "does not hold"),
    (lambda p: p["test"].update(id=p["train"]["id"][:2]), "occurs in train and in test"),
    (lambda p: p["test"].update(regression_labels=np.array([0.0, 3.5])), r"label 3.5, outside \[-3.0, 3.0\]"),
])  # fmt: skip
def test_broken_file(tmp_path, change, message):
    write_mmsa(tmp_path, "unaligned_50", broken(change))
    with pytest.raises(DataError, match=message):
        read(tmp_path, "unaligned")


def test_empty_sequence_is_missing(tmp_path):
    write_mmsa(tmp_path, "unaligned_50", broken(lambda p: p["train"].update(vision_lengths=np.array([2, 0, 3]))))
    rows = read(tmp_path, "unaligned")["train"]
    assert [value is None for value in rows[:]["video_features"]] == [False, True, False]
    assert rows[1]["audio_features"] is not None


def test_text_only(tmp_path):
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True, WIDTHS))
    rows = read(tmp_path, "aligned", columns="text")["train"]
    assert rows.column_names == ["id", "text", "label", "dialogue_id"]


def test_counts(tmp_path):
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True, WIDTHS))
    with pytest.raises(DataError, match="train has 3 rows instead of 16326"):
        read(tmp_path, "aligned", strict_counts=True)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_malicious_file(tmp_path):
    (tmp_path / "aligned_50.pkl").write_bytes(pickle.dumps({"train": Touch(tmp_path / "ran")}))
    with pytest.raises(UnsafePickleError, match=r"aligned_50\.pkl"):
        read(tmp_path, "aligned")
    assert not (tmp_path / "ran").exists()
