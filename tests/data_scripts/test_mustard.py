"""MUStARD: the official layout with every trap, the folds, and the real table."""

import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.hkt_files import hkt_examples

SHOWS = ("FRIENDS", "BBT", "GOLDENGIRLS", "BBT")


def items(count: int = 20) -> dict:
    """Every other item is sarcastic; item k has k % 3 + 1 earlier turns."""
    return {
        f"1_{k}": {
            "utterance": f"utterance {k}, “really”",
            "speaker": f"S{k % 4}",
            "context": [f"turn {t} of {k}" for t in range(k % 3 + 1)],
            "context_speakers": [f"C{t}" for t in range(k % 3 + 1)],
            "show": SHOWS[k // 2 % 4],
            "sarcasm": k % 2 == 1,
        }
        for k in range(count)
    }


def write(folder: Path, content: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sarcasm_data.json").write_text(json.dumps(content or items(), indent=4), encoding="utf-8")
    return folder


def write_folds(folder: Path, count: int = 20) -> list:
    parts = np.arange(count).reshape(5, -1)[:, ::-1]
    pairs = [([int(i) for k in range(5) if k != fold for i in parts[k]], parts[fold]) for fold in range(5)]
    (folder / "split_indices.p").write_bytes(pickle.dumps(pairs, protocol=2))
    return pairs


def read(folder: Path, name: str, **options):
    return load("mustard", data_dir=folder, name=name, **{"strict_counts": False, **options})


@pytest.mark.parametrize("place", [".", "data"])
@pytest.mark.parametrize("fold", [0, 4])
def test_official_fold(tmp_path, place, fold):
    pairs = write_folds(write(tmp_path / place))
    rows = read(tmp_path, f"fold{fold}", validation_share=0.0)
    assert list(rows) == ["train", "test"]
    assert list(rows["train"]["id"]) == [f"1_{i}" for i in pairs[fold][0]]
    assert list(rows["test"]["id"]) == [f"1_{i}" for i in pairs[fold][1]]


def test_row(tmp_path):
    write_folds(write(tmp_path))
    rows = read(tmp_path, "fold0", validation_share=0.0)["test"]
    assert rows.features["label"].names == ["not_sarcastic", "sarcastic"]
    assert rows[2] == {
        "id": "1_1",
        "text": "utterance 1, “really”",
        "label": 1,
        "speaker": "S1",
        "dialogue_id": "FRIENDS",
        "context": [{"speaker": "C0", "text": "turn 0 of 1"}, {"speaker": "C1", "text": "turn 1 of 1"}],
    }


def test_validation_is_stratified_seeded_and_out_of_train(tmp_path):
    write_folds(write(tmp_path))
    whole = read(tmp_path, "fold1", validation_share=0.0)
    rows, again, other = (read(tmp_path, "fold1", validation_share=0.25, validation_seed=s) for s in (0, 0, 1))
    assert Counter(rows["validation"]["label"]) == {0: 2, 1: 2}
    assert list(rows["validation"]["id"]) == list(again["validation"]["id"]) != list(other["validation"]["id"])
    assert set(rows["train"]["id"]) | set(rows["validation"]["id"]) == set(whole["train"]["id"])
    assert list(rows["test"]["id"]) == list(whole["test"]["id"])


def test_absent_folds_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"official fold 3 is unknown: .*'own_fold3'"):
        read(write(tmp_path), "fold3")


def test_own_folds_partition_the_rows(tmp_path):
    write(tmp_path)
    tests = [read(tmp_path, f"own_fold{fold}")["test"] for fold in range(5)]
    assert all(Counter(rows["label"]) == {0: 2, 1: 2} for rows in tests)
    assert len({key for rows in tests for key in rows["id"]}) == 20
    assert set(read(tmp_path, "own_fold0", fold_seed=1)["test"]["id"]) != set(tests[0]["id"])


def test_speaker_independent(tmp_path):
    rows = read(write(tmp_path), "speaker_independent")
    assert set(rows["test"]["dialogue_id"]) == {"FRIENDS"}
    assert "FRIENDS" not in {*rows["train"]["dialogue_id"], *rows["validation"]["dialogue_id"]}


def test_features(tmp_path):
    write_folds(write(tmp_path))
    rng = np.random.default_rng(0)
    audio = {f"1_{k}": rng.normal(size=(7, k + 1)) for k in range(20) if k != 3}
    (tmp_path / "audio_features.p").write_bytes(pickle.dumps(audio))
    path = tmp_path / "features" / "utterances_final" / "resnet_pool5.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for k in range(20):
            file[f"1_{k}"] = np.full((k + 2, 5), k, np.float32)
    rows = read(tmp_path, "fold0", validation_share=0.0)["test"]
    assert rows.features["audio_features"].shape == (None, 7)
    for row in rows:
        number = int(row["id"][2:])
        assert row["video_features"].shape == (number + 2, 5)
        if number == 3:
            assert row["audio_features"] is None
        else:
            np.testing.assert_array_equal(row["audio_features"], audio[row["id"]].T.astype(np.float32))
    plain = read(tmp_path, "fold0", columns="text")["test"]
    assert not [name for name in plain.column_names if name.endswith("_features")]


@pytest.mark.parametrize(("change", "message"), [
    ({"sarcasm": "yes"}, "item '1_5' has 'yes' as `sarcasm`, not a bool"),
    ({"show": None}, "item '1_5' has None as `show`, not a str"),
    ({"context_speakers": []}, "3 turns of `context` but 0 `context_speakers`"),
])  # fmt: skip
def test_broken_item(tmp_path, change, message):
    content = items()
    content["1_5"].update(change)
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, content), "own_fold0")


def test_broken_table(tmp_path):
    text = json.dumps(items())
    for broken, message in (
        (text[:-1] + ', "1_4": {}}', "key '1_4' twice"),
        (text[:-5], "not JSON"),
        ("[]", "holds a list"),
    ):
        (tmp_path / "sarcasm_data.json").write_text(broken, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read(tmp_path, "own_fold0")


@pytest.mark.parametrize(("pairs", "message"), [
    ([([0], [1])], "does not hold 5 pairs"),
    ([([0, 1], [1])] * 5, r"fold 0 names 2 \+ 1 rows, which are not the 20 rows"),
])  # fmt: skip
def test_folds_of_another_table(tmp_path, pairs, message):
    (write(tmp_path) / "split_indices.p").write_bytes(pickle.dumps(pairs))
    with pytest.raises(DataError, match=message):
        read(tmp_path, "fold0")


def test_counts_and_share(tmp_path):
    with pytest.raises(DataError, match="not_sarcastic has 10 rows instead of 345"):
        load("mustard", data_dir=write(tmp_path), name="own_fold0")
    with pytest.raises(ValueError, match=r"`validation_share` is 1\.0"):
        read(tmp_path, "own_fold0", validation_share=1.0)


@pytest.mark.parametrize(("name", "sizes"), [("own_fold2", (496, 56, 138)), ("speaker_independent", (301, 33, 356))])
def test_real_table(shared_data, name, sizes):
    rows = load("mustard", data_dir=shared_data / "mustard", name=name)
    assert tuple(len(rows[split]) for split in ("train", "validation", "test")) == sizes
    assert Counter(label for part in rows.values() for label in part["label"]) == {0: 345, 1: 345}
    shows = Counter(show for part in rows.values() for show in part["dialogue_id"])
    assert shows == {"FRIENDS": 356, "BBT": 280, "GOLDENGIRLS": 40, "SARCASMOHOLICS": 14}
    assert {len(context) for part in rows.values() for context in part["context"]} <= set(range(1, 12))


# ---- HKT


def write_hkt(folder: Path, keys: list[str]) -> dict:
    made = hkt_examples(keys)
    (folder / "mustard.pkl").write_bytes(pickle.dumps(made))
    return made


def test_hkt(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    made = write_hkt(tmp_path, ["1_0", "1_1", "1_2", "1_3", "2_4", "1_5"])
    alone = read(tmp_path, "hkt")
    assert {split: len(part) for split, part in alone.items()} == {"train": 3, "validation": 1, "test": 2}
    assert alone["test"].features["label"].names == ["not_sarcastic", "sarcastic"]
    assert [row["label"] for part in alone.values() for row in part] == [0, 1, 0, 1, 0, 1]
    assert alone["train"][1]["speaker"] is alone["train"][1]["dialogue_id"] is None
    np.testing.assert_array_equal(alone["test"][0]["audio_features"], made["test"][0][0][2].astype(np.float32))
    rows = read(write(tmp_path), "hkt")
    assert (rows["train"][1]["speaker"], rows["train"][1]["dialogue_id"]) == ("S1", "FRIENDS")
    assert rows["train"][1]["text"] == alone["train"][1]["text"]
    assert rows["test"][0]["speaker"] is None
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "not in sarcasm_data.json, so speaker and series unknown, in 1 rows (2_4)" in said
    assert "test has 2 rows instead of 68" in said


def test_hkt_of_another_table(tmp_path):
    write_hkt(write(tmp_path), ["1_1", "1_0", "1_2", "1_3", "1_4", "1_5"])
    with pytest.raises(DataError, match=r"gives '1_1' the label 'not_sarcastic', sarcasm_data\.json 'sarcastic'"):
        read(tmp_path, "hkt")
    (tmp_path / "mustard.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"mustard\.pkl does not exist"):
        read(tmp_path, "hkt")
