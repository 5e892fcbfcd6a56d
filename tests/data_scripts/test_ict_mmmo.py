"""ICT-MMMO: training rows without words, padding removed from all streams together, zeros inside kept; the real file."""

import logging
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.training import RunConfig
from hf_mmintent.training.runs import train_run

WIDTHS = {"text": 6, "audio": 4, "video": 3}
STEPS = 8


def write_archive(folder: Path, **replaced) -> dict[str, np.ndarray]:
    """`mmmo.npz` of 3 / 2 / 2 reviews without zeros; `replaced` overrides arrays, and drops those that are `None`."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 3), ("valid", 2), ("test", 2)):
        for name, width in WIDTHS.items():
            if (split, name) != ("train", "text"):
                arrays[f"{split}_{name}"] = random.uniform(1, 2, (count, STEPS, width)).astype(np.float32)
        arrays[f"{split}_y"] = np.array([1.0, 3.5, 5.0], np.float32)[:count]
    arrays.update(replaced)
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(folder / "mmmo.npz", **arrays)
    return arrays


def read(folder: Path, **options):
    return load("ict_mmmo", data_dir=folder, **{"strict_counts": False, **options})


@pytest.fixture
def logged(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    return lambda text: any(text in record.message for record in caplog.records)


def test_rows(tmp_path, logged):
    arrays = write_archive(tmp_path)
    rows = read(tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 2, "test": 2}
    columns = ["id", "label", "lexical_features", "audio_features", "video_features"]
    assert rows["train"].column_names == columns
    assert rows["train"]["label"][:] == [1.0, 3.5, 5.0]
    assert rows["validation"]["id"][:] == ["validation_000", "validation_001"]
    for split, part in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for index, row in enumerate(rows[split]):
            for column, name in (("audio", "audio"), ("video", "video"), ("lexical", "text")):
                if f"{part}_{name}" in arrays:
                    np.testing.assert_array_equal(row[f"{column}_features"], arrays[f"{part}_{name}"][index])
                else:
                    assert row[f"{column}_features"] is None
    assert logged("lexical missing in 3 rows")


def test_shared_padding_is_removed_from_all_streams_together(tmp_path, logged):
    arrays = write_archive(tmp_path)
    for name in WIDTHS:
        arrays[f"valid_{name}"][0, :2] = 0
        arrays[f"valid_{name}"][0, 7:] = 0
    arrays["valid_audio"][1, :3] = 0  # one stream alone: missing there, not padding
    arrays["valid_video"][0, 4] = 0  # inside
    np.savez(tmp_path / "mmmo.npz", **arrays)
    first, second = read(tmp_path)["validation"]
    for column, name in (("audio", "audio"), ("video", "video"), ("lexical", "text")):
        np.testing.assert_array_equal(first[f"{column}_features"], arrays[f"valid_{name}"][0, 2:7])
        np.testing.assert_array_equal(second[f"{column}_features"], arrays[f"valid_{name}"][1])
    assert logged("steps of zeros at the start removed in 1 rows (validation_000)")
    assert logged("steps of zeros at the end removed in 1 rows (validation_000)")
    assert logged("steps of zeros in video kept in 1 rows (validation_000)")
    assert logged("steps of zeros in audio kept in 1 rows (validation_001)")


def test_stream_without_words_does_not_stop_the_trimming(tmp_path):
    arrays = write_archive(tmp_path)
    arrays["train_audio"][0, 5:] = 0
    arrays["train_video"][0, 4:] = 0
    np.savez(tmp_path / "mmmo.npz", **arrays)
    row = read(tmp_path)["train"][0]
    assert (len(row["audio_features"]), len(row["video_features"])) == (5, 5)


def test_nothing_but_zeros_is_missing(tmp_path):
    arrays = write_archive(tmp_path)
    for name in WIDTHS:
        arrays[f"test_{name}"][1] = 0
    np.savez(tmp_path / "mmmo.npz", **arrays)
    row = read(tmp_path)["test"][1]
    assert row["audio_features"] is None
    assert row["lexical_features"] is None


def test_nan_is_no_padding(tmp_path, logged):
    arrays = write_archive(tmp_path)
    arrays["test_audio"][0, 7] = np.nan
    arrays["test_video"][0, 7] = arrays["test_text"][0, 7] = 0
    np.savez(tmp_path / "mmmo.npz", **arrays)
    assert np.isnan(read(tmp_path)["test"][0]["audio_features"][7]).all()
    assert logged("4 NaN or infinite audio values kept")


def test_binary_labels(tmp_path):
    write_archive(tmp_path)
    train = read(tmp_path, name="binary")["train"]
    assert train.features["label"].names == ["negative", "positive"]
    assert train["label"][:] == [0, 1, 1]


@pytest.mark.parametrize(("replaced", "message"), [
    ({"valid_audio": None}, "has no array 'valid_audio'"),
    ({"test_y": None}, "has no array 'test_y'"),
    ({"test_y": np.array([0.5, 3.0])}, r"mmmo\.npz: `test_y`, entry 0, is 0.5, not a number from 1.0 to 5.0"),
    ({"test_y": np.array([3.0, np.nan])}, "`test_y`, entry 1, is nan, not a number from 1.0 to 5.0"),
    ({"test_y": np.array(["good", "bad"])}, r"mmmo\.npz: `test_y` holds <U4, not numbers"),
    ({"test_y": np.array([None, 3.0], dtype=object)}, r"mmmo\.npz: `test_y` holds object, not numbers"),
    ({"test_y": np.array(3.0)}, r"`test_y` has the shape \(\), expected 1 dimensions"),
    ({"test_audio": np.full((2, STEPS, 4), "x")}, r"mmmo\.npz: `test_audio` holds <U1, not numbers"),
    ({"test_audio": np.ones((1, STEPS, 4))}, r"the arrays of test are .*, not \(N, T, D\) with N = 2"),
    ({"test_text": np.ones((2, STEPS - 1, 6))}, "the arrays of test are"),
    ({"test_text": np.ones((2, STEPS))}, r"`test_text` has the shape \(2, 8\), expected 3 dimensions"),
])  # fmt: skip
def test_broken_archive(tmp_path, replaced, message):
    write_archive(tmp_path, **replaced)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_widths_must_agree_between_splits(tmp_path):
    write_archive(tmp_path, test_video=np.ones((2, STEPS, 5), np.float32))
    with pytest.raises(DataError, match="are 5 wide but those of 'train_000' are 3 wide"):
        read(tmp_path)


def test_counts_and_text(tmp_path):
    write_archive(tmp_path)
    with pytest.raises(DataError, match="train has 3 rows instead of 220"):
        read(tmp_path, strict_counts=True)
    with pytest.raises(ValueError, match="none that may be an input"):
        read(tmp_path, columns="text")


@pytest.mark.parametrize("modalities", [["audio", "video"], ["audio", "lexical"]])
def test_trains_with_and_without_the_words(tmp_path, modalities):
    """The words are missing in every training row, which a model with the modality `lexical` has to stand."""
    write_archive(tmp_path)
    small = {
        "hidden_size": 16,
        "modalities": modalities,
        "modality_configs": {m: {"backbone": "tcn"} for m in modalities},
    }
    widths = {"lexical": 6} if "lexical" in modalities else {}
    run = RunConfig.from_dict({
        "model_type": "clcr",
        "data": {"name": "ict_mmmo", "data_dir": str(tmp_path), "options": {"strict_counts": False}},
        "config": {**small, **widths},
        "training": {"num_train_epochs": 1},
    })  # fmt: skip
    assert np.isfinite(train_run(run, 0, tmp_path / "run").validation["mae"])


# ---- the real file


def test_real_file(shared_data):
    rows = load("ict_mmmo", data_dir=shared_data / "ict_mmmo")
    assert {split: len(part) for split, part in rows.items()} == {"train": 220, "validation": 40, "test": 80}
    removed = {split: sum(20 - len(row["audio_features"]) for row in part) for split, part in rows.items()}
    assert removed == {"train": 265, "validation": 48, "test": 128}
    assert not any(row["lexical_features"] is not None for row in rows["train"])
    for part in rows.values():
        for row in part:
            lengths = {len(row[f"{m}_features"]) for m in ("audio", "video")}
            assert len(lengths) == 1
    assert rows["test"].features["lexical_features"].shape == (None, 300)
    counts = np.unique(rows["train"]["label"], return_counts=True)[1]
    assert counts.tolist() == [32, 17, 26, 3, 20, 2, 21, 47, 52]


def test_real_binary_labels(shared_data):
    rows = load("ict_mmmo", data_dir=shared_data / "ict_mmmo", name="binary")
    assert {split: sum(part["label"]) for split, part in rows.items()} == {"train": 122, "validation": 25, "test": 52}
