"""MC-EIU: the layout of the feature release with its traps: one-hot labels, several feature files, missing keys."""

import logging
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.data.safe_pickle import UnsafePickleError
from tests.data_scripts.row_errors import raises_data_error
from tests.data_scripts.test_mintrec import Touch

EMOTIONS = ["happy", "surprise", "sad", "disgust", "anger", "fear", "neutral"]
INTENTS = [
    "questioning", "agreeing", "acknowledging", "sympathizing", "encouraging", "consoling", "suggesting", "wishing",
    "neutral",
]  # fmt: skip
ROWS = {  # name to numbers of emotion and intent
    "trn": {"s1_d1_0": (6, 0), "s1_d1_1": (0, 8), "s1_d2_10": (3, 3)},
    "val": {"s2_d1_0": (5, 7)},
    "tst": {"s3_d1_0": (1, 6), "s1_d1_2": (4, 1)},
}
NAMES = [name for part in ROWS.values() for name in part]
WIDTHS = {"A/wav2vec": 5, "V/ResNet-50": 7, "L/RoBERTa_base": 6}


def write(folder: Path, fold: int = 1, order: int = 1, kind: str = "U") -> Path:
    """Targets of one fold; names as text or as bytes."""
    target = folder / "target" / str(fold)
    target.mkdir(parents=True, exist_ok=True)
    for part, rows in ROWS.items():
        names = list(rows)[::order]
        np.save(target / f"{part}_int2name.npy", np.array(names, dtype=kind).reshape(-1, *[1] * (kind == "S")))
        for i, (field, size) in enumerate((("emotion", 7), ("intent", 9))):
            np.save(target / f"{part}_{field}_label.npy", np.eye(size)[[rows[name][i] for name in names]])
    return folder


def write_features(folder: Path, **replaced) -> dict[str, dict[str, np.ndarray]]:
    made = {}
    for place, width in WIDTHS.items():
        rng = np.random.default_rng(width)
        entries = {name: rng.normal(size=(i + 1, width)) for i, name in enumerate(NAMES)}
        entries.update(replaced.get(place[0], {}))
        path = folder / f"{place}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for name, values in entries.items():
                if values is not ...:
                    file[name] = values
        made[place[0]] = entries
    return made


def write_speakers(folder: Path, **replaced) -> None:
    (folder / "Speaker").mkdir(exist_ok=True)
    with h5py.File(folder / "Speaker" / "speaker.h5", "w") as file:
        for i, name in enumerate(NAMES):
            value = replaced.get(name, i % 2)
            if value is not ...:
                file[name] = value


def read(folder: Path, **options):
    return load("mc_eiu", data_dir=folder, **options)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_rows(tmp_path, kind):
    write_speakers(write(tmp_path, kind=kind))
    rows = read(tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 1, "test": 2}
    assert rows["train"].column_names == ["id", "label", "emotion", "intent", "speaker", "dialogue_id"]
    assert rows["train"][1] == {
        "id": "s1_d1_1",
        "label": 8,
        "emotion": "happy",
        "intent": "neutral",
        "speaker": "s1_d1_1",
        "dialogue_id": "s1_d1",
    }


@pytest.mark.parametrize(("name", "names"), [("intent_fold1", INTENTS), ("emotion_fold1", EMOTIONS)])
@pytest.mark.parametrize("order", [1, -1])
def test_label_order_does_not_follow_the_rows(tmp_path, name, names, order):
    rows = read(write(tmp_path, order=order), name=name)
    assert rows["train"].features["label"].names == names
    place = 1 if name.startswith("intent") else 0
    for split, part in zip(("train", "validation", "test"), ROWS.values()):
        assert {row["id"]: row["label"] for row in rows[split]} == {key: both[place] for key, both in part.items()}


def test_folds_are_other_folders(tmp_path):
    write(tmp_path, fold=10)
    assert len(read(tmp_path, name="intent_fold10")["train"]) == 3
    with pytest.raises(FileNotFoundError, match=r"target/3/trn_int2name\.npy does not exist"):
        read(tmp_path, name="emotion_fold3")


def test_features(tmp_path):
    made = write_features(write(tmp_path))
    rows = read(tmp_path)
    for column, place in (("audio", "A"), ("video", "V"), ("lexical", "L")):
        for part in rows.values():
            for row in part:
                np.testing.assert_array_equal(row[f"{column}_features"], made[place][row["id"]].astype(np.float32))


def test_oddities_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    bad = np.full((2, 5), np.nan)
    write_features(write(tmp_path), A={"s1_d1_0": ..., "s2_d1_0": bad}, V={"s3_d1_0": np.zeros((0, 7))})
    write_speakers(tmp_path, s1_d1_2=...)
    rows = read(tmp_path)
    assert rows["train"][0]["audio_features"] is None
    assert np.isnan(rows["validation"][0]["audio_features"]).all()
    assert rows["test"][0]["video_features"] is None
    assert rows["test"][1]["speaker"] is None
    said = " ".join(record.getMessage() for record in caplog.records)
    for what in (
        "audio missing in 1 rows (s1_d1_0)",
        "10 NaN or infinite audio values kept",
        "video of zero length in 1 rows (s3_d1_0)",
        "speaker missing in 1 rows (s1_d1_2)",
        "the same `dialogue_id` occurs in several splits, train & test: 1 (s1_d1)",
    ):
        assert said.count(what) == 1, said


def test_several_feature_files(tmp_path):
    write_features(write(tmp_path))
    with h5py.File(tmp_path / "A" / "HuBERT.h5", "w") as file:
        file["s1_d1_0"] = np.ones((2, 3))
    with pytest.raises(DataError, match=r"holds \['HuBERT', 'wav2vec'\]: choose one with `audio_type`"):
        read(tmp_path)
    assert read(tmp_path, audio_type="HuBERT")["train"].features["audio_features"].shape == (None, 3)
    with pytest.raises(FileNotFoundError, match=r"A/opensmile\.h5 does not exist"):
        read(tmp_path, audio_type="opensmile")


def change(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


@pytest.mark.parametrize(("file", "value", "message"), [
    ("val_intent_label", np.zeros((1, 9)), r"val_intent_label\.npy row 0 \(s2_d1_0\) is \[0\.0, .*not one-hot"),
    ("trn_emotion_label", change(np.eye(7)[:3], (2, 3), 1), r"row 2 \(s1_d2_10\) is .*not one-hot"),
    ("trn_emotion_label", np.eye(7)[:3] * 2, "row 0 .*not one-hot"),
    ("trn_emotion_label", np.eye(9)[:3], r"holds float64 of shape \(3, 9\), not \(3, 7\) numbers"),
    ("trn_intent_label", np.eye(9)[:2], r"shape \(2, 9\), not \(3, 9\)"),
    ("trn_intent_label", np.array([["a"] * 9] * 3), r"holds <U1 of shape"),
    ("val_int2name", np.array(["s2-d1"]), r"val_int2name\.npy row 0 is the name 's2-d1', not <a>_<b>_<turn>"),
    ("val_int2name", np.array(["s1_d1_0"]), "'s1_d1_0' occurs in train and in validation"),
])  # fmt: skip
def test_wrong_targets(tmp_path, file, value, message):
    np.save(write(tmp_path) / "target" / "1" / f"{file}.npy", value)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_broken_and_malicious_files(tmp_path):
    path = write(tmp_path) / "target" / "1" / "tst_int2name.npy"
    whole = path.read_bytes()
    for content in (whole[:-10], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"tst_int2name\.npy is truncated"):
            read(tmp_path)
    np.save(path, np.array([Touch(tmp_path / "ran"), 0], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(whole)
    write_features(tmp_path, A={"s3_d1_0": np.ones((2, 4))})
    with raises_data_error(
        r"wav2vec\.h5: the audio features of 's3_d1_0' are 4 wide but those of 's1_d1_0' are 5 wide"
    ):
        read(tmp_path)
    write_speakers(tmp_path, s3_d1_0=[0, 1])
    with pytest.raises(DataError, match=r"speaker\.h5: the speaker of 's3_d1_0' has 2 values"):
        read(tmp_path, columns=["features"])
    (tmp_path / "Speaker" / "speaker.h5").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=r"speaker\.h5 is truncated or not an HDF5 file"):
        read(tmp_path, columns=["features"])


@pytest.mark.parametrize("group", ["text", "features", "media"])
def test_columns_that_are_not_there(tmp_path, group):
    with pytest.raises((ValueError, FileNotFoundError), match=f"`columns` asks for {group}"):
        read(write(tmp_path), columns=group)
