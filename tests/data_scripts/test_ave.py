"""AVE: the official layout with its traps: categories with commas, two categories of one video, an empty event."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.row_errors import raises_data_error
from tests.data_scripts.tiny_media import write_media

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
EVENTS = [  # the first three are the training split, the next the validation split
    "Church bell&RUhOCu3LNXM&good&0&10",
    "Male speech, man speaking&-hChcJAh5N0&good&5&8",
    "Bark&two_cat-egs&good&7&9",
    "Mandolin&abcdefghijk&good&2&3",
    "Church bell&VWi2ENBuTbw&good&0&0",
    "Violin, fiddle&two_cat-egs&good&0&4",
]
PARTS = {"train": EVENTS[:3], "val": EVENTS[3:4], "test": EVENTS[4:]}


def write(folder: Path, header: bool = True, ends: str = "\n", order: bool = False, place: str = ".") -> Path:
    (folder / place).mkdir(parents=True, exist_ok=True)
    first = HEADER + ends if header else ""
    (folder / place / "Annotations.txt").write_bytes((first + ends.join(EVENTS) + ends).encode())
    for name, lines in PARTS.items():
        if order:
            with h5py.File(folder / place / f"{name}_order.h5", "w") as file:
                file["order"] = np.array([EVENTS.index(line) for line in lines])
        else:
            (folder / place / f"{name}Set.txt").write_bytes((ends.join(lines) + ends).encode())
    return folder


def write_features(folder: Path, steps: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {
        "audio": rng.normal(size=(len(EVENTS), steps, 5)),
        "visual": rng.normal(size=(len(EVENTS), steps, 3, 3, 4)).astype(np.float32),
    }
    for name, values in made.items():
        with h5py.File(folder / f"{name}_feature.h5", "w") as file:
            file["avadataset"] = values
    return made


def read(folder: Path, **options):
    return load("ave", data_dir=folder, **{"strict_counts": False, **options})


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize(("header", "ends", "place"), [(True, "\r\n", "."), (False, "\n", "data")])
def test_rows(tmp_path, header, ends, order, place):
    rows = read(write(tmp_path, header, ends, order, place))
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 1, "test": 2}
    assert rows["train"].column_names == ["id", "label", "dialogue_id", "start_time", "end_time"]
    assert rows["train"][1] == {
        "id": "-hChcJAh5N0__male-speech-man-speaking",
        "label": 1,
        "dialogue_id": "-hChcJAh5N0",
        "start_time": 5.0,
        "end_time": 8.0,
    }
    assert rows["validation"][0]["label"] == 27


@pytest.mark.parametrize("order", [1, -1])
def test_label_order_is_that_of_the_package(tmp_path, order):
    write(tmp_path)
    (tmp_path / "testSet.txt").write_text("\n".join(PARTS["test"][::order]) + "\n")  # others number by this file
    rows = read(tmp_path)
    names = rows["test"].features["label"].names
    assert len(names) == 28
    assert (names[0], names[2], names[7], names[27]) == ("Church bell", "Bark", "Violin, fiddle", "Mandolin")
    assert [names[i] for i in rows["test"]["label"]] == [line.split("&")[0] for line in PARTS["test"][::order]]


def test_features_are_those_of_the_event(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    made = write_features(write(tmp_path))
    rows = read(tmp_path)
    assert rows["train"].features["audio_features"].shape == (None, 5)
    assert rows["train"].features["video_features"].shape == (None, 4)
    found = [row for part in rows.values() for row in part]
    for place, (row, (start, end)) in enumerate(zip(found, [(0, 10), (5, 8), (7, 9), (2, 3), (0, 10), (0, 4)])):
        np.testing.assert_array_equal(row["audio_features"], made["audio"][place, start:end].astype(np.float32))
        np.testing.assert_allclose(row["video_features"], made["visual"][place, start:end].mean((1, 2)), rtol=1e-5)
    assert (rows["test"][0]["start_time"], rows["test"][0]["end_time"]) == (None, None)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "event of zero length, the whole clip taken, in 1 rows (VWi2ENBuTbw__church-bell)" in said
    flat = read(tmp_path, video_grid="flatten")["train"]
    np.testing.assert_array_equal(flat[1]["video_features"], made["visual"][1, 5:8].reshape(3, -1))


@pytest.mark.parametrize(("change", "message"), [
    (lambda folder: write_features(folder, steps=9), "have 9 steps, not one for each of 10 seconds"),
    (lambda folder: (folder / "audio_feature.h5").write_bytes(b"x"), r"audio_feature\.h5 is truncated"),
    (lambda folder: h5py.File(folder / "visual_feature.h5", "w").close(), "holds no array 'avadataset'"),
    (lambda folder: (folder / "Annotations.txt").open("a").write("Bark&new&good&0&1\n"), "expected 7 rows"),
])  # fmt: skip
def test_wrong_features(tmp_path, change, message):
    write_features(write(tmp_path))
    change(tmp_path)
    with raises_data_error(message):
        read(tmp_path)


def test_ambiguous_videos(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    read(write(tmp_path))
    assert any("train & test: 1 (two_cat-egs)" in record.getMessage() for record in caplog.records)
    rows = read(tmp_path, drop_ambiguous=True)
    assert {split: len(part) for split, part in rows.items()} == {"train": 2, "validation": 1, "test": 1}
    assert any("1 videos with events of several categories" in record.getMessage() for record in caplog.records)


def test_clips(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write(tmp_path)
    good = write_media(tmp_path / "AVE" / "RUhOCu3LNXM.mp4")
    silent = write_media(tmp_path / "AVE" / "-hChcJAh5N0.mp4", sound=False)
    rows = read(tmp_path)["train"]
    assert list(rows["audio_path"]) == [str(good.resolve()), None, None]
    assert list(rows["video_path"]) == [str(good.resolve()), str(silent.resolve()), None]
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "audio does not decode in 1 rows (-hChcJAh5N0__male-speech-man-speaking)" in said
    assert "video file missing in 1 rows (two_cat-egs__bark)" in said


@pytest.mark.parametrize(("line", "message"), [
    ("Dog&x&good&0&10", "testSet.txt line 3 has the category 'Dog'"),
    ("Bark&x&good&0&11", "line 3: `EndTime`, in seconds, is '11', not a whole number from 0 to 10"),
    ("Bark&x&good&-1&4", "line 3: `StartTime`, in seconds, is '-1'"),
    ("Bark&x&good&5&4", "line 3 has an event from second 5 to 4"),
    ("Bark&x&good&0", "line 3 has 4 columns instead of 5"),
    ("Bark&unknown&good&0&1", "'unknown__bark', which Annotations.txt does not have"),
    (EVENTS[0], "'RUhOCu3LNXM__church-bell' occurs in train and in test"),
])  # fmt: skip
def test_wrong_tables(tmp_path, line, message):
    with (write(tmp_path) / "testSet.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize("order", [[6], [-1], [0.5], [[1]]])
def test_wrong_order(tmp_path, order):
    write(tmp_path, order=True)
    with h5py.File(tmp_path / "val_order.h5", "w") as file:
        file["order"] = np.array(order)
    with pytest.raises(DataError, match=r"val_order\.h5: `order` are not places in the 6 lines"):
        read(tmp_path)


def test_clip_outside_the_folder(tmp_path):
    write(tmp_path)
    for file in ("Annotations.txt", "testSet.txt"):
        with (tmp_path / file).open("a") as output:
            output.write("Bark&../../secret&good&0&1\n")
    (tmp_path / "AVE").mkdir()
    with pytest.raises(Exception) as error:
        read(tmp_path)
    assert "does not lie inside" in str(error.value.__cause__ or error.value)


def test_counts_and_options(tmp_path):
    with pytest.raises(DataError, match="train has 3 rows instead of 3339"):
        read(write(tmp_path), strict_counts=True)
    write_features(tmp_path)
    with pytest.raises(ValueError, match="`video_grid` is 'max'"):
        read(tmp_path, video_grid="max")
    (tmp_path / "Annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Annotations\.txt does not exist"):
        read(tmp_path)
