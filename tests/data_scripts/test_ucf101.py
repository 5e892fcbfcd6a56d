"""UCF101: the official layout with its traps: odd capitals, its own class order, groups, flow in three layouts."""

import logging
import random
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.flow_files import find_flow, flow_frames, flow_stacks
from hf_mmintent.data.loading import load, make_builder
from hf_mmintent.data_scripts import ucf101
from hf_mmintent.data_scripts.ucf101 import Ucf101
from tests.data_scripts.tiny_media import write_media

CLASSES = {"HammerThrow": 36, "Hammering": 35, "HandstandPushups": 37, "YoYo": 101}  # numbers of classInd.txt


def clip(name: str, group: int, number: int = 1) -> str:
    stem = "HandStandPushups" if name == "HandstandPushups" else name  # as in the release
    return f"v_{stem}_g{group:02}_c{number:02}"


def write(folder: Path, ends: str = "\n", shuffled: bool = False) -> Path:
    """Lists of split 1: per class ten training groups of two clips, and one test group."""
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    classes = [f"{number} {name}" for number, name in enumerate(Ucf101.LABELS, 1)]
    (lists / "classInd.txt").write_bytes((ends.join(classes) + ends).encode())
    training = [
        f"{name}/{clip(name, group, number)}.avi {CLASSES[name]}"
        for name in CLASSES
        for group in range(8, 18)
        for number in (1, 2)
    ]
    if shuffled:
        random.Random(0).shuffle(training)
    (lists / "trainlist01.txt").write_bytes((ends.join(training) + ends).encode())
    test = [f"{name}/{clip(name, 1)}.avi" for name in CLASSES]
    (lists / "testlist01.txt").write_bytes((ends.join(test) + ends).encode())
    return folder


def read(folder: Path, **options):
    return load("ucf101", data_dir=folder, **{"strict_counts": False, **options})


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_rows(tmp_path, ends):
    rows = read(write(tmp_path, ends), validation_share=0)
    assert {split: len(part) for split, part in rows.items()} == {"train": 80, "test": 4}
    assert rows["train"].column_names == ["id", "label", "dialogue_id"]
    assert rows["test"][2] == {"id": "v_HandStandPushups_g01_c01", "label": 36, "dialogue_id": "HandstandPushups_g01"}


@pytest.mark.parametrize("shuffled", [False, True])
def test_official_label_order(tmp_path, shuffled):
    rows = read(write(tmp_path, shuffled=shuffled))
    names = rows["train"].features["label"].names
    assert len(names) == len(set(names)) == 101
    assert names != sorted(names)
    for part in rows.values():
        for row in part:
            assert names[row["label"]].lower() in row["id"].lower()
            assert row["label"] == CLASSES[names[row["label"]]] - 1


def test_validation_takes_whole_groups_of_every_class(tmp_path):
    rows = read(write(tmp_path))
    groups = {split: set(part["dialogue_id"]) for split, part in rows.items()}
    assert not groups["train"] & groups["validation"]
    assert {group.partition("_")[0] for group in groups["validation"]} == set(CLASSES)
    assert len(rows["validation"]) == 8
    shuffled = read(write(tmp_path / "other", shuffled=True))
    assert set(shuffled["validation"]["id"]) == set(rows["validation"]["id"])


def test_other_splits_are_other_files(tmp_path):
    lists = write(tmp_path) / "ucfTrainTestlist"
    with pytest.raises(FileNotFoundError, match=r"trainlist03\.txt"):
        read(tmp_path, name="split3")
    (lists / "trainlist03.txt").write_bytes((lists / "trainlist01.txt").read_bytes())
    (lists / "testlist03.txt").write_text("YoYo/v_YoYo_g02_c01.avi\n")
    assert list(read(tmp_path, name="split3")["test"]["id"]) == ["v_YoYo_g02_c01"]


def write_flow(folder: Path, layout: str, stem: str, frames: int = 3, vertical: int = 3) -> None:
    parts = {
        "x and y": (folder / "flow" / stem / "flow_x_", folder / "flow" / stem / "flow_y_"),
        "below the class": (folder / "flow" / "YoYo" / stem / "flow_x_", folder / "flow" / "YoYo" / stem / "flow_y_"),
        "u and v": (folder / "flow" / stem / "u" / "img_", folder / "flow" / stem / "v" / "img_"),
        "two trees": (folder / "tvl1_flow" / "u" / stem / "frame", folder / "tvl1_flow" / "v" / stem / "frame"),
    }[layout]
    for part, count in zip(parts, (frames, vertical)):
        part.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            part.with_name(f"{part.name}{number:05}.jpg").touch()


@pytest.mark.parametrize("layout", ["x and y", "below the class", "u and v", "two trees"])
def test_flow(tmp_path, layout):
    write_flow(write(tmp_path), layout, "v_YoYo_g01_c01", 11, 11)
    write_flow(tmp_path, layout, "v_HandstandPushups_g01_c01")  # capitals of other releases
    rows = read(tmp_path)
    assert "video_path" not in rows["test"].column_names
    paths = dict(zip(rows["test"]["id"], rows["test"]["flow_path"]))
    assert [name for name, path in paths.items() if path] == ["v_HandStandPushups_g01_c01", "v_YoYo_g01_c01"]
    frames = flow_frames(paths["v_YoYo_g01_c01"])
    assert len(frames) == 11
    for number, (horizontal, vertical) in enumerate(frames, 1):
        assert horizontal.stem.endswith(f"{number:05}")
        assert vertical.stem.endswith(f"{number:05}")
        assert horizontal != vertical


def test_damaged_flow_and_clips_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write(tmp_path)
    write_flow(tmp_path, "x and y", "v_YoYo_g01_c01", 3, 2)
    write_flow(tmp_path, "x and y", "v_Hammering_g01_c01", 0, 0)
    write_flow(tmp_path, "x and y", "v_HammerThrow_g01_c01")
    clips = tmp_path / "UCF-101"
    good = write_media(clips / "HammerThrow" / "v_HammerThrow_g01_c01.avi", sound=False)
    cut = write_media(clips / "Hammering" / "v_Hammering_g01_c01.avi")
    cut.write_bytes(cut.read_bytes()[:100])
    (clips / "YoYo").mkdir()
    (clips / "YoYo" / "v_YoYo_g01_c01.avi").touch()
    rows = read(tmp_path)["test"]
    assert list(rows["video_path"]) == [str(good.resolve()), None, None, None]
    assert [path is not None for path in rows["flow_path"]] == [True, False, False, False]
    said = " ".join(record.getMessage() for record in caplog.records if " test: " in record.getMessage())
    for what in (
        "video does not decode in 1 rows (v_Hammering_g01_c01)",
        "video file empty in 1 rows (v_YoYo_g01_c01)",
        "video file missing in 1 rows (v_HandStandPushups_g01_c01)",
        "flow frames absent or unpaired in 2 rows (v_Hammering_g01_c01, v_YoYo_g01_c01)",
        "flow file missing in 1 rows (v_HandStandPushups_g01_c01)",
    ):
        assert said.count(what) == 1, said
    unchecked = read(tmp_path, check_clips=False)["test"]
    assert [path is not None for path in unchecked["video_path"]] == [True, True, False, False]


def write_pictures(folder: Path, stem: str, count: int) -> None:
    """Flow whose horizontal part is 10 times the frame's number and whose vertical part is 5 more."""
    from PIL import Image

    for number in range(1, count + 1):
        for part, add in (("x", 0), ("y", 5)):
            path = folder / "flow" / stem / f"flow_{part}_{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (12, 9), 10 * number + add).save(path)


def test_flow_stacks(tmp_path):
    write_pictures(tmp_path, "v_YoYo_g01_c01", 9)
    path = find_flow(tmp_path)["v_yoyo_g01_c01"]
    stacks = flow_stacks(path, count=3, length=3, size=(4, 6))
    assert (stacks.shape, stacks.dtype) == ((3, 6, 4, 6), np.float32)
    values = (stacks[:, :, 0, 0] + 1) * 127.5  # thirds of nine frames begin at 1, 4, 7
    expected = [[10 * i for i in range(k, k + 3)] + [10 * i + 5 for i in range(k, k + 3)] for k in (1, 4, 7)]
    np.testing.assert_allclose(values, expected, atol=1e-3)
    short = (flow_stacks(path, count=2, length=12, size=(2, 2))[1, :12, 0, 0] + 1) * 127.5
    np.testing.assert_allclose(short, [*range(10, 91, 10), 90, 90, 90], atol=1e-3)
    damaged = path / "flow_y_00002.png"
    damaged.write_bytes(damaged.read_bytes()[:30])
    with pytest.raises(DataError, match=r"flow_y_00002\.png is truncated or not a picture"):
        flow_stacks(path, count=3, length=3)


def test_rows_are_inputs_of_a_model(tmp_path):
    """Clips and flow of the folder through collator, processor and CLCR."""
    from hf_mmintent.modeling.configuration_clcr import ClcrConfig
    from hf_mmintent.modeling.modeling_clcr import ClcrForSequenceClassification
    from hf_mmintent.modeling.processing_clcr import ClcrProcessor

    write(tmp_path)
    for stem in ("v_YoYo_g01_c01", "v_Hammering_g01_c01"):
        write_media(tmp_path / "UCF-101" / stem.split("_")[1] / f"{stem}.avi", sound=False)
    write_pictures(tmp_path, "v_YoYo_g01_c01", 7)
    rows = [row for row in read(tmp_path)["test"] if row["video_path"]]
    assert [row["flow_path"] is None for row in rows] == [True, False]
    sizes = {"video": {"backbone": "resnet18", "feature_size": [3, 32, 32]},
             "flow": {"backbone": "resnet18", "feature_size": [10, 32, 32]}}  # fmt: skip
    config = ClcrConfig(modalities=("video", "flow"), modality_configs=sizes, num_labels=101)
    processor = ClcrProcessor.from_config(config, pictures={"count": 2, "size": 32, "frame_rate": 10.0})
    batch = MultimodalCollator(processor)(rows)
    assert batch["video_features"].shape == (2, 2, 3, 32, 32)
    assert batch["flow_features"].shape == (2, 3, 10, 32, 32)
    assert batch["flow_attention_mask"].tolist() == [[0, 0, 0], [1, 1, 1]]
    out = ClcrForSequenceClassification(config).eval()(**batch)
    assert out.logits.shape == (2, 101)
    assert out.loss.isfinite()
    processor.feature_sizes["flow"] = 64
    with pytest.raises(ValueError, match="the rows have `flow_path`, folders of pictures, but the model takes flow"):
        MultimodalCollator(processor)(rows)


@pytest.mark.parametrize("layout", ["x and y", "u and v", "two trees"])
def test_pictures_outside_the_folder_are_not_read(tmp_path, layout):
    write_flow(tmp_path / "data", layout, "v_YoYo_g01_c01")
    path = find_flow(tmp_path / "data")["v_yoyo_g01_c01"]
    assert len(flow_frames(path)) == 3
    picture = sorted(part for part in (tmp_path / "data").rglob("*00002.jpg"))[-1]  # of the vertical part
    (tmp_path / "secret.jpg").touch()
    picture.unlink()
    picture.symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match="a link out of"):
        flow_frames(path)
    picture.unlink()
    picture.symlink_to(sorted(picture.parent.iterdir())[0])  # a frame that stands still, stored once
    assert len(flow_frames(path)) == 3


def test_flow_frame_that_is_missing_is_named(tmp_path):
    write_flow(tmp_path, "u and v", "v_YoYo_g01_c01", 4, 2)
    with pytest.raises(DataError, match="frame 3 has one of the two parts only, of 4 horizontal and 2 vertical"):
        flow_frames(find_flow(tmp_path)["v_yoyo_g01_c01"])


@pytest.mark.parametrize(("file", "line", "message"), [
    ("trainlist01.txt", "Yoyo/v_Yoyo_g09_c01.avi 101", "line 81 has the class 'Yoyo'"),
    ("trainlist01.txt", "YoYo/v_YoYo_g20_c01.avi 100", r"line 81 gives 'YoYo' the number \['100'\], not 101"),
    ("trainlist01.txt", "YoYo/../../x_g20_c01.avi 101", r"line 81 names 'YoYo/\.\./\.\./x_g20_c01\.avi'"),
    ("trainlist01.txt", "YoYo/v_YoYo_g20_c01.mp4 101", "line 81 names 'YoYo/v_YoYo_g20_c01.mp4'"),
    ("testlist01.txt", "YoYo/v_YoYo_g08_c01.avi", "'v_YoYo_g08_c01' occurs in train and in test"),
    ("classInd.txt", "102 Dancing", "has 102 classes, not 101"),
    ("testlist01.txt", "é".encode("latin1"), "line 5 is not UTF-8"),
])  # fmt: skip
def test_wrong_lists(tmp_path, file, line, message):
    path = write(tmp_path) / "ucfTrainTestlist" / file
    with path.open("ab") as output:
        output.write(line if isinstance(line, bytes) else f"{line}\n".encode())
    with pytest.raises(DataError, match=message):
        read(tmp_path, validation_share=0)


def test_sorted_classes_are_refused(tmp_path):
    path = write(tmp_path) / "ucfTrainTestlist" / "classInd.txt"
    path.write_text("".join(f"{number} {name}\n" for number, name in enumerate(sorted(Ucf101.LABELS), 1)))
    with pytest.raises(DataError, match=r"line 35 has the class \['35', 'HammerThrow'\], not \['35', 'Hammering'\]"):
        read(tmp_path)


def test_counts(tmp_path):
    with pytest.raises(DataError, match=r"train \+ validation has 80 rows instead of 9537"):
        read(write(tmp_path), strict_counts=True)
    assert make_builder(Path(ucf101.__file__), tmp_path).row_counts() == {"test": 3783}


@pytest.mark.parametrize("group", ["text", "features", "media"])
def test_columns_that_are_not_there(tmp_path, group):
    with pytest.raises((ValueError, FileNotFoundError), match=f"`columns` asks for {group}"):
        read(write(tmp_path), columns=group)
