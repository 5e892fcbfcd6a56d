"""MIntRec2.0: the official layout with every trap."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.tiny_media import write_media

OFFICIAL = """
    Acknowledge; Advise; Agree; Apologise; Arrange; Ask for help; Asking for opinions; Care; Comfort; Complain; Confirm;
    Criticize; Doubt; Emphasize; Explain; Flaunt; Greet; Inform; Introduce; Invite; Joke; Leave; Oppose; Plan; Praise;
    Prevent; Refuse; Taunt; Thank; Warn
"""  # of the authors' repository
OFFICIAL = [name.strip() for name in OFFICIAL.split(";")]
HEADER = ("Dialogue_id", "Utterance_id", "Text", "Label", "Start_timestamp", "End_timestamp", "Source", "speakername")
PARTS = {"in-scope": "in-scope", "out-of-scope": "out-of-scope/MIntRec2.0-OOD", "total": "total"}
IN_SCOPE = {  # dialogue, utterance, text, label, speaker; out of order and with gaps
    "train": [("0", "10", 'he said "no, and', "Complain", "Gleen"), ("0", "2", "hi", "Greet", "Glenn")],
    "dev": [("1", "0", "watch out", "Warn", "superstore person1")],
    "test": [("2", "1", "café?", "Asking for opinions", "Amy")],
}
OUT = {
    "train": [("0", "3", "well", "UNK", "Amy")],
    "dev": [("1", "1", "hm", "UNK", "Amy")],
    "test": [("2", "0", "uh", "UNK", "Ross")],
}
TABLES = {"in-scope": IN_SCOPE, "out-of-scope": OUT, "total": {split: IN_SCOPE[split] + OUT[split] for split in OUT}}
TRAIN_CONTEXT = [{"speaker": "Glenn", "text": "hi"}, {"speaker": "Amy", "text": "well"}]


def write(folder: Path, tables: dict | None = None, last: str = "speakername", ends: str = "\n", bom: bool = False):
    for part, splits in (tables or TABLES).items():
        (folder / PARTS[part]).mkdir(parents=True)
        for split, rows in splits.items():
            times = ("00:00:01,000", "00:00:02,500", "superstore")
            lines = [(*HEADER[:7], last), *((*row[:4], *times, row[4]) for row in rows)]
            text = "".join("\t".join(line) + ends for line in lines)
            (folder / PARTS[part] / f"{split}.tsv").write_bytes(("\ufeff" * bom + text).encode())
    return folder


def write_features(folder: Path, part: str, widths: dict[str, int], value: float) -> None:
    """Every row of `part` except train's first, (T, 1, D), filled with `value`."""
    rows = [row for split in TABLES[part].values() for row in split]
    for file, width in widths.items():
        path = folder / PARTS[part] / file
        path.parent.mkdir()
        steps = {f"dia{row[0]}_utt{row[1]}": np.full((i + 1, 1, width), value) for i, row in enumerate(rows) if i}
        path.write_bytes(pickle.dumps(steps))


FEATURES = {"audio_data/wavlm_feats_binary.pkl": 6, "video_data/swin_roi_binary.pkl": 4}


def read(folder: Path, **options):
    return load("mintrec2", data_dir=folder, **{"strict_counts": False, **options})


@pytest.mark.parametrize(("last", "ends", "bom"), [("speakername", "\n", False), ("speaker_name", "\r\n", True)])
def test_in_scope(tmp_path, last, ends, bom):
    rows = read(write(tmp_path, last=last, ends=ends, bom=bom))
    assert {split: len(part) for split, part in rows.items()} == {"train": 2, "validation": 1, "test": 1}
    names = rows["train"].features["label"].names
    assert names == OFFICIAL
    assert rows["train"][0] == {
        "id": "dia0_utt10",
        "text": 'he said "no, and',
        "label": 9,
        "speaker": "Gleen",
        "dialogue_id": "dia0",
        "context": TRAIN_CONTEXT,  # from `total`: by number, with the turn that is out of scope
    }
    assert rows["train"][1]["context"] == []
    assert rows["test"][0]["context"] == [{"speaker": "Ross", "text": "uh"}]


@pytest.mark.parametrize("name", ["in_scope", "oos", "total31"])
def test_label_ids_follow_the_official_order_and_not_the_rows(tmp_path, name):
    order = ["Introduce", "Inform", *(label for label in OFFICIAL[::-1] if label not in ("Introduce", "Inform"))]
    lines = [("5", str(i), f"utterance {i}", label, "Amy") for i, label in enumerate(order)]
    tables = {**TABLES, "in-scope": {**IN_SCOPE, "train": lines}, "total": {**TABLES["total"], "train": lines}}
    rows = read(write(tmp_path, tables), name=name)["train"]
    assert rows["label"][:] == [OFFICIAL.index(label) for label in order]
    assert rows.features["label"].names == [*OFFICIAL, *(["UNK"] if name != "in_scope" else [])]


def test_no_context_without_total(tmp_path):
    rows = read(write(tmp_path, {"in-scope": IN_SCOPE}))
    assert list(rows["train"]["context"]) == [None, None]


def test_oos(tmp_path):
    rows = read(write(tmp_path), name="oos")
    assert {split: len(part) for split, part in rows.items()} == {"train": 2, "validation": 1, "test": 2}
    assert rows["test"].features["label"].names == [*OFFICIAL, "UNK"]
    assert list(rows["test"]["label"]) == [6, 30]
    assert list(rows["train"]["label"]) == [9, 16]


def test_total31(tmp_path):
    rows = read(write(tmp_path), name="total31")
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 2, "test": 2}
    assert list(rows["train"]["label"]) == [9, 16, 30]


def test_each_part_has_its_own_features(tmp_path):
    write(tmp_path)
    for value, part in enumerate(PARTS):
        write_features(tmp_path, part, FEATURES, value)
    in_scope, total = read(tmp_path), read(tmp_path, name="total31")
    out = read(tmp_path, name="oos")["test"]
    assert in_scope["train"].features["audio_features"].shape == (None, 6)
    assert in_scope["train"].features["video_features"].shape == (None, 4)
    assert in_scope["train"][0]["audio_features"] is None
    assert in_scope["train"][1]["audio_features"].tolist() == [[0] * 6] * 2
    assert [row["video_features"][0, 0] for row in out] == [0, 1]
    assert total["train"][2]["video_features"].tolist() == [[2] * 4] * 3


def test_parts_of_two_widths(tmp_path):
    write(tmp_path)
    write_features(tmp_path, "in-scope", FEATURES, 0)
    write_features(tmp_path, "out-of-scope", dict.fromkeys(FEATURES, 9), 0)
    with pytest.raises(DataError, match="both parts must have the same extraction"):
        read(tmp_path, name="oos")


def test_media(tmp_path):
    clip = write_media(write(tmp_path) / "raw_data" / "dia0_utt10.mp4")
    clip.with_name("dia0_utt2.mp4").write_bytes(clip.read_bytes()[:400])
    assert list(read(tmp_path)["train"]["video_path"]) == [str(clip.resolve()), None]
    paths = read(tmp_path, check_clips=False)["train"]["audio_path"]
    assert list(paths) == [str(clip.resolve()), str(clip.with_name("dia0_utt2.mp4").resolve())]


def changed(part: str, split: str, *lines: tuple) -> dict:
    return {**TABLES, part: {**TABLES[part], split: [*TABLES[part][split], *lines]}}


@pytest.mark.parametrize(("name", "tables", "message"), [
    ("in_scope", changed("in-scope", "train", ("7", "0", "x", "UNK", "Amy")), "'dia7_utt0' of train has the label 'UNK'"),
    ("in_scope", changed("in-scope", "test", IN_SCOPE["train"][0]), "'dia0_utt10' occurs in train and in test"),
    ("in_scope", changed("in-scope", "dev", ("7", "-1", "x", "Joke", "Amy")), "line 3: the utterance id is '-1'"),
    ("oos", changed("out-of-scope", "test", ("7", "0", "x", "Joke", "Amy")), "'dia7_utt0' of out-of-scope has the label"),
])  # fmt: skip
def test_wrong_tables(tmp_path, name, tables, message):
    with pytest.raises(DataError) as error:
        read(write(tmp_path, tables), name=name)
    assert message in str(error.value)


def test_missing_part(tmp_path):
    write(tmp_path, {"in-scope": IN_SCOPE})
    with pytest.raises(FileNotFoundError, match=r"MIntRec2\.0-OOD/test\.tsv does not exist"):
        read(tmp_path, name="oos")


@pytest.mark.parametrize("name", ["in_scope", "oos"])
def test_row_counts(tmp_path, name):
    with pytest.raises(DataError, match="train has 2 rows instead of 6165"):
        read(write(tmp_path), name=name, strict_counts=True)


def test_unverified_counts_only_warn(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    read(write(tmp_path), name="total31", strict_counts=True)
    assert any("train has 3 rows instead of 9989" in record.message for record in caplog.records)
