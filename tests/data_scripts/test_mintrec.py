"""MIntRec: the official layout with every trap, and the real tables."""

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.data.safe_pickle import PickleFormatError, UnsafePickleError
from tests.data_scripts.official_files import MINTREC, write_mintrec, write_mintrec_features
from tests.data_scripts.tiny_media import media_bytes, write_media

FIRST = "S04_E01_1"


OFFICIAL = """
    Complain; Praise; Apologise; Thank; Criticize; Agree; Taunt; Flaunt; Joke; Oppose; Comfort; Care; Inform; Advise;
    Arrange; Introduce; Leave; Prevent; Greet; Ask for help
"""  # of the authors' repository, in which binary maps and counts refer to it
OFFICIAL = [name.strip() for name in OFFICIAL.split(";")]


def read(folder: Path, **options):
    return load("mintrec", data_dir=folder, **{"strict_counts": False, **options})


@pytest.mark.parametrize(("ends", "bom"), [("\n", False), ("\r\n", True)])
def test_tables_alone(tmp_path, ends, bom):
    rows = read(write_mintrec(tmp_path, ends=ends, bom=bom))
    assert list(rows) == ["train", "validation", "test"]
    assert rows["train"].column_names == ["id", "text", "label", "dialogue_id"]
    assert rows["train"][0] == {"id": FIRST, "text": 'he said "no, and', "label": 0, "dialogue_id": "S04_E01"}
    assert list(rows["train"]["text"]) == [row[3] for row in MINTREC["train"]]
    names = rows["train"].features["label"].names
    assert [names[i] for i in rows["train"]["label"]] == [row[4] for row in MINTREC["train"]]


def test_official_label_order(tmp_path):
    names = read(write_mintrec(tmp_path))["train"].features["label"].names
    assert names == OFFICIAL


@pytest.mark.parametrize("start", [0, 7])
def test_label_ids_follow_the_official_order_and_not_the_rows(tmp_path, start):
    """Also not the order of other code, in which Care is before Taunt."""
    order = [*OFFICIAL[start:], *OFFICIAL[:start]]
    order.insert(5, order.pop(order.index("Care")))
    lines = [("S04", "E09", str(i), f"utterance {i}", name) for i, name in enumerate(order)]
    rows = read(write_mintrec(tmp_path, {**MINTREC, "train": lines}))["train"]
    assert rows["label"][:] == [OFFICIAL.index(name) for name in order]
    assert [rows.features["label"].int2str(i) for i in rows["label"]] == order


def test_features(tmp_path):
    made = write_mintrec_features(write_mintrec(tmp_path))
    rows = read(tmp_path)["train"]
    assert rows.features["audio_features"].shape == (None, 6)
    assert rows.features["video_features"].shape == (None, 4)
    for row in rows:
        for modality in ("audio", "video"):
            found, stored = row[f"{modality}_features"], np.asarray(made[modality][row["id"]])[:, 0]
            assert found.dtype == np.float32
            assert found.shape == stored.shape
            np.testing.assert_array_equal(found, stored.astype(np.float32))


def test_other_width_is_read_from_the_file(tmp_path):
    write_mintrec_features(write_mintrec(tmp_path), {"video": 9})
    rows = read(tmp_path)["train"]
    assert rows.features["video_features"].shape == (None, 9)
    assert "audio_features" not in rows.column_names


def test_missing_empty_and_infinite_features(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    bad = np.ones((4, 1, 6), np.float32)
    bad[1, 0, 2], bad[2, 0, 3] = np.inf, np.nan
    replaced = {"audio": {FIRST: ..., "S04_E01_2": np.zeros((0, 6)), "S05_E16_329": bad}, "video": {FIRST: []}}
    write_mintrec_features(write_mintrec(tmp_path), **replaced)
    rows = read(tmp_path)["train"]
    assert rows[0]["audio_features"] is None
    assert rows[0]["video_features"] is None
    assert [row is None for row in rows[:]["audio_features"]] == [True, True, False]
    kept = rows[2]["audio_features"]
    assert kept[1, 2] == np.inf
    assert np.isnan(kept[2, 3])
    for what in (
        "audio missing in 1 rows (S04_E01_1)",
        "audio of zero length in 1 rows (S04_E01_2)",
        "video of zero length in 1 rows (S04_E01_1)",
        "2 NaN or infinite audio values kept",
    ):
        assert sum(what in record.message for record in caplog.records) == 1


def test_two_widths(tmp_path):
    write_mintrec_features(write_mintrec(tmp_path), audio={"S05_E16_329": np.zeros((3, 1, 7))})
    with pytest.raises(DataError, match=r"'S05_E16_329' are 7 wide but those of .* are 6 wide"):
        read(tmp_path)


@pytest.mark.parametrize(("columns", "expected"), [
    ("text", {"text"}),
    (("features",), {"audio_features", "video_features"}),
    (["text", "media"], {"text", "audio_path", "video_path"}),
    ("auto", {"text", "audio_features", "video_features", "audio_path", "video_path"}),
])  # fmt: skip
def test_columns(tmp_path, columns, expected):
    write_mintrec_features(write_mintrec(tmp_path))
    clip = write_media(tmp_path / "raw_data" / "S04" / "E01" / "1.mp4")
    rows = read(tmp_path, columns=columns)["train"]
    assert set(rows.column_names) - {"id", "label", "dialogue_id"} == expected
    if "video_path" in expected:
        assert list(rows["video_path"]) == list(rows["audio_path"]) == [str(clip.resolve()), None, None]


def test_clips_that_do_not_decode_are_null_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    clips = write_mintrec(tmp_path) / "raw_data" / "S04" / "E01"
    whole = write_media(clips / "1.mp4")
    (clips / "2.mp4").write_bytes(media_bytes("mp4")[:400])
    rows = read(tmp_path)["train"]
    assert list(rows["video_path"]) == list(rows["audio_path"]) == [str(whole.resolve()), None, None]
    for what in ("video does not decode in 1 rows (S04_E01_2)", "audio file missing in 1 rows (S05_E16_329)"):
        assert sum(what in record.message for record in caplog.records) == 1
    caplog.clear()
    assert read(tmp_path)["train"]["video_path"][1] is None  # from the cache, and not silently
    assert sum("video does not decode in 1 rows (S04_E01_2)" in record.message for record in caplog.records) == 1
    assert read(tmp_path, check_clips=False)["train"]["video_path"][1] == str((clips / "2.mp4").resolve())


@pytest.mark.parametrize("group", ["features", "media"])
def test_columns_that_are_not_there(tmp_path, group):
    with pytest.raises(FileNotFoundError, match=f"asks for {group}"):
        read(write_mintrec(tmp_path), columns=group)


def test_columns_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"`columns` is 'sound'"):
        read(write_mintrec(tmp_path), columns="sound")


def changed(split: str, *lines: tuple) -> dict[str, list[tuple]]:
    return {**MINTREC, split: [*MINTREC[split], *lines]}


@pytest.mark.parametrize(("rows", "message"), [
    (changed("train", MINTREC["train"][0]), "S04_E01_1' occurs twice in train"),
    (changed("test", MINTREC["train"][0]), "S04_E01_1' occurs in train and in test"),
    (changed("dev", ("S9", "E9", "9", "sorry", "Apologize")),
     "'S9_E9_9' of validation has the label 'Apologize' (nearest: 'Apologise')"),
    (changed("dev", ("S9", "E9", "9", "sorry", "complain")), "'complain'"),
    (changed("dev", ("S9", "E9", "9", "too short")), "dev.tsv line 4 has 4 columns instead of 5"),
    ({**MINTREC, "test": []}, "test.tsv has no rows"),
])  # fmt: skip
def test_wrong_tables(tmp_path, rows, message):
    with pytest.raises(DataError) as error:
        read(write_mintrec(tmp_path, rows))
    assert message in str(error.value)


def test_header_variant(tmp_path):
    with pytest.raises(DataError, match=r"train\.tsv has the columns .*'utterance'.*not the official file"):
        read(write_mintrec(tmp_path, header=("season", "episode", "clip", "utterance", "label")))


def test_row_counts(tmp_path):
    with pytest.raises(DataError, match=r"train has 3 rows instead of 1334, .*strict_counts=False"):
        read(write_mintrec(tmp_path), strict_counts=True)


def test_clip_outside_the_folder(tmp_path):
    rows = changed("test", ("..", "..", "secret", "x", "Leave"))
    write_mintrec(tmp_path, rows)
    (tmp_path / "raw_data").mkdir()
    with pytest.raises(Exception) as error:
        read(tmp_path)
    assert "does not lie inside" in str(error.value.__cause__ or error.value)


def test_no_folder():
    with pytest.raises(ValueError, match="give `data_dir`"):
        load("mintrec")


def test_missing_table(tmp_path):
    write_mintrec(tmp_path)
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"dev\.tsv does not exist"):
        read(tmp_path)


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_malicious_features(tmp_path):
    write_mintrec_features(write_mintrec(tmp_path))
    path = tmp_path / "audio_data" / "audio_feats.pkl"
    path.write_bytes(pickle.dumps({FIRST: Touch(tmp_path / "ran")}))
    with pytest.raises(UnsafePickleError, match=r"audio_feats\.pkl asks for `posix\.system`"):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError):  # what the call returns is no array
        read(tmp_path, trust_pickle=True)
    assert (tmp_path / "ran").exists()


def test_truncated_features(tmp_path):
    write_mintrec_features(write_mintrec(tmp_path))
    path = tmp_path / "video_data" / "video_feats.pkl"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(PickleFormatError, match=r"video_feats\.pkl"):
        read(tmp_path)


def test_real_tables(shared_data):
    rows = load("mintrec", data_dir=shared_data / "mintrec")
    assert {split: len(part) for split, part in rows.items()} == {"train": 1334, "validation": 445, "test": 445}
    names = rows["train"].features["label"].names
    counts = {split: np.bincount(list(part["label"]), minlength=20).tolist() for split, part in rows.items()}
    assert dict(zip(names, counts["train"]))["Complain"] == 172
    assert dict(zip(names, counts["validation"]))["Advise"] == 24
    assert counts["test"] == [57, 43, 27, 25, 23, 12, 12, 10, 10, 10, 18, 19, 57, 25, 22, 21, 17, 15, 12, 10]
    train, test = set(rows["train"]["text"]), list(rows["test"]["text"])
    assert sum(text in train for text in test) == 15
