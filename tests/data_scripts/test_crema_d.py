"""CREMA-D: the official layout with its traps: BOM, CRLF, Git LFS pointers, actors in both splits of the paper."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.tiny_media import write_media

CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
NAMES = ["neutral", "happy", "sad", "fear", "disgust", "anger"]
TRAIN = [
    f"{actor}_{sentence}_{code}_XX" for code in CODES for actor in range(1001, 1011) for sentence in ("DFA", "TIE")
]
TEST = [f"{actor}_IEO_{code}_LO" for actor in (1001, 1007) for code in reversed(CODES)]


def write(folder: Path, train=TRAIN, test=TEST, place: str = ".") -> Path:
    """Both tables; as in the release one has a byte order mark and the other CRLF."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    for file, names, ends, mark in (("train.csv", train, "\n", "\ufeff"), ("test.csv", test, "\r\n", "")):
        text = mark + "".join(f"{name},{name.split('_')[2]}{ends}" for name in names)
        (folder / place / file).write_bytes(text.encode())
    return folder


def read(folder: Path, **options):
    return load("crema_d", data_dir=folder, **{"strict_counts": False, **options})


@pytest.mark.parametrize("place", [".", "data/CREMAD"])
def test_rows_of_the_paper_split(tmp_path, place):
    rows = read(write(tmp_path, place=place), validation_share=0)
    assert list(rows) == ["train", "test"]
    assert rows["train"].column_names == ["id", "label", "speaker"]
    assert rows["train"][0] == {"id": "1001_DFA_NEU_XX", "label": 0, "speaker": "1001"}
    assert list(rows["train"]["id"]) == TRAIN
    assert list(rows["test"]["id"]) == TEST


@pytest.mark.parametrize("order", [1, -1])
def test_label_order(tmp_path, order):
    rows = read(write(tmp_path, TRAIN[::order], TEST[::order]))
    for part in rows.values():
        assert part.features["label"].names == NAMES
        for row in part:
            assert CODES[row["label"]] == row["id"].split("_")[2]


def test_validation_of_the_paper_split_is_stratified(tmp_path):
    rows = read(write(tmp_path))
    assert Counter(rows["validation"]["label"]) == dict.fromkeys(range(6), 2)
    assert len(rows["train"]) == len(TRAIN) - 12
    other = read(tmp_path, validation_seed=1)
    assert set(other["validation"]["id"]) != set(rows["validation"]["id"])


@pytest.mark.parametrize("fold", [0, 2])
@pytest.mark.parametrize("table", [True, False])
def test_actor_folds(tmp_path, fold, table):
    write(tmp_path)
    if table:
        lines = [f'{number},"{name}"\n' for number, name in enumerate(TRAIN + TEST, 1)]
        (tmp_path / "SentenceFilenames.csv").write_text('"Stimulus_Number","Filename"\n' + "".join(lines))
        (tmp_path / "train.csv").unlink()
    rows = read(tmp_path, name=f"actor_fold{fold}")
    actors = {split: set(part["speaker"]) for split, part in rows.items()}
    assert actors["test"] == {str(actor) for actor in range(1001, 1011) if actor % 5 == fold}
    assert not actors["train"] & actors["validation"] | actors["test"] & (actors["train"] | actors["validation"])
    assert len(actors["validation"]) == 1
    assert sorted(name for part in rows.values() for name in part["id"]) == sorted(TRAIN + TEST)


def test_shared_actors_are_reported(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    read(write(tmp_path))
    assert any("train & test: 2 (1001, 1007)" in record.getMessage() for record in caplog.records)
    caplog.clear()
    read(tmp_path, name="actor_fold1")
    assert not any("occurs in several splits" in record.getMessage() for record in caplog.records)


def test_clips(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write(tmp_path)
    for name in TEST[:3]:
        write_media(tmp_path / "AudioWAV" / f"{name}.wav")
        write_media(tmp_path / "VideoFlash" / f"{name}.flv", sound=False)
    cut = tmp_path / "AudioWAV" / f"{TEST[1]}.wav"
    cut.write_bytes(cut.read_bytes()[:20])
    rows = read(tmp_path)["test"]
    assert [Path(path).name if path else None for path in rows["audio_path"][:4]] == [
        f"{TEST[0]}.wav", None, f"{TEST[2]}.wav", None,
    ]  # fmt: skip
    assert [path is not None for path in rows["video_path"]] == [True] * 3 + [False] * 9
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"audio does not decode in 1 rows ({TEST[1]})" in said
    assert f"audio file missing in 9 rows ({TEST[3]}, " in said


def test_sound_of_the_next_best_folder(tmp_path):
    write(tmp_path)
    write_media(tmp_path / "VideoFlash" / f"{TEST[0]}.flv")
    rows = read(tmp_path)["test"]
    assert rows[0]["audio_path"] == rows[0]["video_path"]
    write_media(tmp_path / "AudioMP3" / f"{TEST[0]}.mp3")
    assert read(tmp_path)["test"][0]["audio_path"].endswith(f"AudioMP3/{TEST[0]}.mp3")
    (tmp_path / "VideoFlash" / f"{TEST[0]}.flv").unlink()
    (tmp_path / "VideoFlash").rmdir()
    assert "video_path" not in read(tmp_path)["test"].column_names


def test_pointer_of_git_lfs(tmp_path):
    path = write(tmp_path) / "AudioWAV" / f"{TEST[4]}.wav"
    path.parent.mkdir()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n")
    with pytest.raises(Exception) as error:
        read(tmp_path)
    assert f"{TEST[4]}.wav is a pointer of Git LFS" in str(error.value.__cause__ or error.value)


@pytest.mark.parametrize(("line", "message"), [
    ("1001_DFA_ANG_HI,HAP", "line 13 gives '1001_DFA_ANG_HI' the label 'HAP', but its name says 'ANG'"),
    ("1001_DFA_BOR_HI,BOR", "line 13: the emotion of '1001_DFA_BOR_HI' is 'BOR'"),
    ("../1001_DFA_ANG_HI,ANG", r"line 13 names the clip '\.\./1001_DFA_ANG_HI'"),
    ("1001_DFA_ANG_HI", "line 13 has 1 columns instead of 2"),
    (TRAIN[5] + ",NEU", f"'{TRAIN[5]}' occurs in train and in test"),
])  # fmt: skip
def test_wrong_tables(tmp_path, line, message):
    with (write(tmp_path) / "test.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path, validation_share=0)


def test_counts(tmp_path):
    with pytest.raises(DataError, match=r"train \+ validation has 120 rows instead of 6698"):
        read(write(tmp_path), strict_counts=True)
    with pytest.raises(DataError, match="all has 132 rows instead of 7442"):
        read(tmp_path, name="actor_fold0", strict_counts=True)
    with pytest.raises(DataError, match=r"test\.csv has no rows"):
        read(write(tmp_path, test=[]), validation_share=0)
    with pytest.raises(ValueError, match="`columns` asks for text"):
        read(tmp_path, columns="text")
