"""Kinetics-Sounds: folders by class and the public lists, with their traps: spellings, lost partners, shared videos."""

import logging
from pathlib import Path

import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.tiny_media import write_media

TRAIN = [f"{'abcdefghij'[video]}_-4567890_{part:02}_{part + 10:02}" for video in range(10) for part in (0, 10)]
TEST = ["Zbcdefghij_", "yyyyyyyyyy-"]


def name(video: str) -> str:
    return f"{video}_000007_000017"


def write(folder: Path, test: str = "test", sound: str | None = None) -> Path:
    """Two classes; `sound` is the folder of separate sound files, whose class folders spell with underscores."""
    videos = "." if sound is None else "video"
    for part, names in (("train", [f"{chr(97 + i)}bcdefghij_" for i in range(10)]), (test, TEST)):
        for label in ("tap dancing", "Singing"):
            for video in names:
                clip = name(video if label == "Singing" else video[::-1])
                write_media(folder / videos / part / label / f"{clip}.mp4", sound=sound is None)
                if sound is not None:
                    write_media(folder / sound / part / label.replace(" ", "_") / f"{clip}.wav")
    return folder


def write_lists(folder: Path, ends: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, names in (("my_train.txt", TRAIN), ("my_test.txt", [f"{video}_3" for video in TEST])):
        lines = [f"{clip},10,{i % 2 * 30}" for i, clip in enumerate(names)]
        (folder / file).write_bytes((ends.join(lines) + ends).encode())
    return folder


def read(folder: Path, config: str = "folders", **options):
    return load("kinetics_sounds", data_dir=folder, name=config, **{"strict_counts": False, **options})


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders(tmp_path, caplog, monkeypatch, test):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    rows = read(write(tmp_path, test))
    assert {split: len(part) for split, part in rows.items()} == {"train": 18, "validation": 2, "test": 4}
    assert rows["test"].column_names == ["id", "label", "audio_path", "video_path", "dialogue_id"]
    assert rows["test"].features["label"].names == ["Singing", "tap dancing"]
    clip = tmp_path.resolve() / test / "Singing" / "Zbcdefghij__000007_000017.mp4"
    assert rows["test"][0] == {
        "id": "Zbcdefghij__000007_000017",
        "label": 0,
        "dialogue_id": "Zbcdefghij_",
        "audio_path": str(clip),
        "video_path": str(clip),
    }
    assert any("2 classes; works on this dataset use 31, 33 or 34" in record.getMessage() for record in caplog.records)
    assert any("validation folder is the test" in record.getMessage() for record in caplog.records) == (test == "val")


def test_validation_folder(tmp_path):
    write(tmp_path)
    write_media(tmp_path / "val" / "tap dancing" / f"{name('vvvvvvvvvvv')}.mp4")
    rows = read(tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 20, "validation": 1, "test": 4}


def test_sound_files_are_matched_by_name(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write(tmp_path, sound="audio")
    lost = sorted((tmp_path / "audio" / "test" / "tap_dancing").iterdir())[0]
    lost.unlink()
    write_media(tmp_path / "audio" / "test" / "Singing" / f"{name('onlyheard-x')}.wav")
    rows = read(tmp_path)["test"]
    assert rows.features["label"].names == ["Singing", "tap dancing"]
    assert len(rows) == 5
    for row in rows:
        heard, seen = row["audio_path"], row["video_path"]
        if row["id"].startswith("onlyheard-x"):
            assert seen is None
        elif row["id"] == lost.stem:  # no sound of its own, and the video has none
            assert heard is None
        else:
            assert Path(heard).name == f"{row['id']}.wav"
            assert Path(seen).name == f"{row['id']}.mp4"
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"audio does not decode in 1 rows ({lost.stem})" in said
    assert f"video file missing in 1 rows ({name('onlyheard-x')})" in said


def test_clips_that_do_not_decode(tmp_path):
    clip = sorted((write(tmp_path) / "test" / "Singing").iterdir())[0]
    clip.write_bytes(clip.read_bytes()[:500])
    rows = read(tmp_path)["test"]
    assert rows[0]["audio_path"] is None and rows[0]["video_path"] is None and rows[1]["video_path"]
    assert read(tmp_path, check_clips=False)["test"][0]["video_path"] == str(clip.resolve())


def test_links_out_of_the_folder_are_refused(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "test" / "Singing").rename(tmp_path / "outside")
    (tmp_path / "data" / "test" / "Singing").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="a link out of"):
        read(tmp_path / "data")


def test_folder_of_a_split_may_be_a_link(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "test").rename(tmp_path / "disk")
    (tmp_path / "data" / "test").symlink_to(tmp_path / "disk")
    assert len(read(tmp_path / "data")["test"]) == 4


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_lists(tmp_path, ends):
    rows = read(write_lists(tmp_path, ends), "lists")
    names = rows["train"].features["label"].names
    assert (len(names), names[0], names[30]) == (31, "class_00", "class_30")
    assert rows["train"].column_names == ["id", "label", "dialogue_id"]
    assert rows["test"][1] == {"id": "yyyyyyyyyy-_3", "label": 30, "dialogue_id": "yyyyyyyyyy-"}
    videos = {split: set(part["dialogue_id"]) for split, part in rows.items()}
    assert not videos["train"] & videos["validation"]
    assert len(rows["train"]) + len(rows["validation"]) == len(TRAIN)


@pytest.mark.parametrize("order", [1, -1])
def test_label_order_does_not_follow_the_rows(tmp_path, order):
    write_lists(tmp_path)
    path = tmp_path / "my_train.txt"
    path.write_text("\n".join(path.read_text().split()[::order]) + "\n")
    rows = read(tmp_path, "lists")["train"]
    assert all(row["label"] == TRAIN.index(row["id"]) % 2 * 30 for row in rows)


def test_clips_of_lists_are_found_anywhere(tmp_path):
    write_lists(tmp_path)
    seen = write_media(tmp_path / "clips" / "deep" / "yyyyyyyyyy-_3.mp4", sound=False)
    heard = write_media(tmp_path / "sounds" / "yyyyyyyyyy-_3.wav")
    rows = read(tmp_path, "lists")["test"]
    assert (rows[1]["audio_path"], rows[1]["video_path"]) == (str(heard.resolve()), str(seen.resolve()))
    assert (rows[0]["audio_path"], rows[0]["video_path"]) == (None, None)


@pytest.mark.parametrize(("line", "message"), [
    ("a_-4567890_00_10,10,31", r"my_test\.txt line 3: `label` is '31', not a whole number from 0 to 30"),
    ("x,10", "line 3 has 2 columns instead of 3"),
    ("../x,10,3", r"line 3 names the clip '\.\./x'"),
    ("a_-4567890_00_10,10,3", "occurs in train and in test"),
])  # fmt: skip
def test_wrong_lists(tmp_path, line, message):
    with (write_lists(tmp_path) / "my_test.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path, "lists", validation_share=0)


def test_the_same_clip_in_two_classes_and_in_two_files(tmp_path):
    first = sorted((write(tmp_path) / "train" / "Singing").iterdir())[0]
    copy = write_media(tmp_path / "train" / "tap dancing" / first.name)
    with pytest.raises(DataError, match=f"{first.stem}' occurs twice in train"):
        read(tmp_path, validation_share=0)
    copy.unlink()
    write_media(first.with_suffix(".mkv"))
    with pytest.raises(DataError, match="have the same name: which is the video"):
        read(tmp_path)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no clips in train/<class>/"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"my_train\.txt"):
        read(tmp_path, "lists")
    with pytest.raises(DataError, match=r"train \+ validation has 20 rows instead of 14799"):
        read(write_lists(tmp_path), "lists", strict_counts=True)
    with pytest.raises(FileNotFoundError, match="`columns` asks for media"):
        read(tmp_path, "lists", columns="media")
