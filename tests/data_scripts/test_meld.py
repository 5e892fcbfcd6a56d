"""MELD: the official layout with every trap, and the real tables."""

import csv
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.data_scripts.mmintent_mini import packaged_folder

HEADER = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
MELD = {  # text, speaker, emotion, sentiment, dialogue, utterance; out of order and with a gap
    "train": [
        ("Oh, he’s “late”", "Ross", "surprise", "negative", "0", "10"),
        ('He said "no", twice', "Rachel", "neutral", "neutral", "0", "2"),
        ("Hey!", "Joey", "joy", "positive", "0", "0"),
        ("Bye.", "Ross", "neutral", "neutral", "1", "0"),
    ],
    "dev": [("What?", "Monica", "fear", "negative", "0", "0")],
    "test": [("No.", "All", "disgust", "negative", "0", "0"), ("Ha!", "Mark", "anger", "negative", "0", "1")],
}


def write_meld(folder: Path, rows: dict | None = None, header=HEADER, ends: str = "\n", bom: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in (rows or MELD).items():
        encoding = "utf-8-sig" if bom else "utf-8"
        with (folder / f"{split}_sent_emo.csv").open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, lineterminator=ends)
            writer.writerow(header)
            for number, line in enumerate(lines, 1):
                writer.writerow((number, *line, "4", "7", "00:20:57,256", "0:21:00,049"))
    return folder


def read(folder: Path, **options):
    return load("meld", data_dir=folder, **{"strict_counts": False, **options})


@pytest.mark.parametrize(("place", "ends", "bom"), [(".", "\n", False), ("data/MELD", "\r\n", True)])
def test_rows(tmp_path, place, ends, bom):
    write_meld(tmp_path / place, ends=ends, bom=bom)
    rows = read(tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 4, "validation": 1, "test": 2}
    assert rows["train"].column_names == ["id", "text", "label", "speaker", "dialogue_id", "context"]
    assert rows["train"][0] == {
        "id": "train_dia0_utt10",
        "text": "Oh, he’s “late”",
        "label": 1,
        "speaker": "Ross",
        "dialogue_id": "train_dia0",
        "context": [{"speaker": "Joey", "text": "Hey!"}, {"speaker": "Rachel", "text": 'He said "no", twice'}],
    }
    assert rows["train"][2]["context"] == rows["train"][3]["context"] == rows["validation"][0]["context"] == []
    assert rows["validation"][0]["id"] == "validation_dia0_utt0"


@pytest.mark.parametrize(("name", "names"), [
    ("emotion", ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]),
    ("sentiment", ["neutral", "positive", "negative"]),
])  # fmt: skip
def test_configurations(tmp_path, name, names):
    rows = read(write_meld(tmp_path), name=name)
    assert rows["train"].features["label"].names == names
    column = {"emotion": 2, "sentiment": 3}[name]
    assert [names[i] for i in rows["train"]["label"]] == [line[column] for line in MELD["train"]]


def changed(split: str, *lines: tuple) -> dict:
    return {**MELD, split: [*MELD[split], *lines]}


@pytest.mark.parametrize(("rows", "message"), [
    (changed("train", MELD["train"][0]), "'train_dia0_utt10' occurs twice in train"),
    (changed("test", ("x", "Ross", "Joy", "positive", "7", "0")), "'test_dia7_utt0' of test has the label 'Joy'"),
    (changed("dev", ("x", "Ross", "joy", "positive", "7", "one")), "line 3: `Utterance_ID` is 'one'"),
    ({**MELD, "dev": []}, "dev_sent_emo.csv has no rows"),
])  # fmt: skip
def test_wrong_tables(tmp_path, rows, message):
    with pytest.raises(DataError) as error:
        read(write_meld(tmp_path, rows))
    assert message in str(error.value)


def test_header_variant(tmp_path):
    with pytest.raises(DataError, match="not the official file"):
        read(write_meld(tmp_path, header=("Number", *HEADER[1:])))


def test_row_counts(tmp_path):
    with pytest.raises(DataError, match="train has 4 rows instead of 9989"):
        load("meld", data_dir=write_meld(tmp_path))


def test_path_outside_the_folder(tmp_path):
    write_meld(tmp_path, changed("test", ("x", "Ross", "joy", "positive", "/../../../secret", "0")))
    (tmp_path / "test").mkdir()
    with pytest.raises(Exception) as error:
        read(tmp_path)
    assert "test_sent_emo.csv line 4: `Dialogue_ID` is '/../../../secret', not a whole number" in str(error.value)


@pytest.mark.parametrize("check", [True, False])
def test_clips(tmp_path, caplog, monkeypatch, check):
    if check:
        pytest.importorskip("av", reason="clips are decoded with PyAV")
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    good = write_meld(tmp_path) / "train_splits" / "dia0_utt10.mp4"
    good.parent.mkdir()
    shutil.copy(next(packaged_folder().rglob("*.mp4")), good)
    broken = good.with_name("dia0_utt2.mp4")
    broken.write_bytes(good.read_bytes()[:200])
    rows = read(tmp_path, check_clips=check)["train"]
    second = None if check else str(broken.resolve())
    for modality in ("audio", "video"):
        assert list(rows[f"{modality}_path"]) == [str(good.resolve()), second, None, None]
        message = f"{modality} does not decode in 1 rows (train_dia0_utt2)"
        assert any(message in record.message for record in caplog.records) == check
        assert any(f"{modality} file missing in 2 rows" in record.message for record in caplog.records)


def test_no_clips(tmp_path):
    with pytest.raises(FileNotFoundError, match="asks for media"):
        read(write_meld(tmp_path), columns=["text", "media"])


def test_real_tables(shared_data):
    rows = load("meld", data_dir=shared_data / "meld")
    assert {split: len(part) for split, part in rows.items()} == {"train": 9989, "validation": 1109, "test": 2610}
    counts = {split: np.bincount(list(part["label"]), minlength=7).tolist() for split, part in rows.items()}
    assert counts["train"] == [4710, 1205, 268, 683, 1743, 271, 1109]
    assert counts["validation"] == [470, 150, 40, 111, 163, 22, 153]
    assert counts["test"] == [1256, 281, 50, 208, 402, 68, 345]
    dialogues = {split: set(part["dialogue_id"]) for split, part in rows.items()}
    assert {split: len(names) for split, names in dialogues.items()} == {"train": 1038, "validation": 114, "test": 280}
    assert "train_dia60" not in dialogues["train"]
    assert rows["train"][2]["context"][1] == {"speaker": "The Interviewer", "text": "You must’ve had your hands full."}


def test_real_sentiment(shared_data):
    rows = load("meld", data_dir=shared_data / "meld", name="sentiment")
    assert np.bincount(list(rows["train"]["label"])).tolist() == [4710, 2334, 2945]
    assert np.bincount(list(rows["test"]["label"])).tolist() == [1256, 521, 833]
