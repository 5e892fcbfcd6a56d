"""GRID: the archive of features with its two shorter clips, the raw clips with their word times, and the real files."""

import logging
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.modeling.media_decoding import decode_audio, decode_video
from hf_mmintent.training import RunConfig
from hf_mmintent.training.runs import train_run
from tests.data_scripts.tiny_media import write_media

CLIPS = [
    ("bbaf2n", "bin blue at f two now", "train", 75),
    ("lgbx1a", "lay green by x one again", "train", 74),
    ("prizzp", "place red in z zero please", "train", 75),
    ("swwa9s", "set white with a nine soon", "dev", 75),
]


def write_archive(folder: Path, **replaced) -> dict[str, np.ndarray]:
    """`grid_tiny.npz` of four clips; `replaced` overrides arrays, and drops those that are `None`."""
    random = np.random.default_rng(0)
    names, words, splits, frames = zip(*CLIPS)
    arrays = {
        "id": np.array(names),
        "words": np.array([text.split() for text in words]),
        "split": np.array(splits),
        "n_frames": np.array(frames, np.uint8),
        "mel": random.normal(size=(4, 20, 150)).astype(np.float16),
        "mouth": random.integers(0, 256, (4, 38, 24, 32), np.uint8),
        **replaced,
    }
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(folder / "grid_tiny.npz", **arrays)
    return arrays


def write_clips(folder: Path, speakers: tuple[str, ...] = ("s1",), clips=CLIPS) -> None:
    """Clips in the corpus's layout, and the word times of the first speaker."""
    for speaker in speakers:
        for name, *_ in clips:
            write_media(folder / "raw" / speaker / f"{name}.mpg")
    (folder / "raw" / "alignments" / speakers[0]).mkdir(parents=True)
    for name, text, *_ in clips:
        lines = [f"{i} {i + 1} {word}" for i, word in enumerate(["sil", *text.split(), "sp", "sil"])]
        (folder / "raw" / "alignments" / speakers[0] / f"{name}.align").write_text("\n".join(lines))


def read(folder: Path, **options):
    return load("grid", data_dir=folder, **{"strict_counts": False, **options})


# ---- features


def test_archive(tmp_path):
    arrays = write_archive(tmp_path)
    rows = read(tmp_path)
    assert {split: part["id"][:] for split, part in rows.items()} == {
        "train": ["bbaf2n", "lgbx1a", "prizzp"],
        "validation": ["swwa9s"],
    }
    assert rows["train"].column_names == ["id", "label", "audio_features", "video_features", "speaker"]
    assert rows["train"].features["label"].names == ["bin", "lay", "place", "set"]
    assert [*rows["train"]["label"], *rows["validation"]["label"]] == [0, 1, 2, 3]
    first = rows["train"][0]
    np.testing.assert_array_equal(first["audio_features"], arrays["mel"][0].T.astype(np.float32))
    np.testing.assert_array_equal(first["video_features"], arrays["mouth"][0].reshape(38, 768) / np.float32(255))
    assert first["video_features"].dtype == np.float32
    assert first["speaker"] == "s1"


def test_repeated_frame_is_removed(tmp_path):
    arrays = write_archive(tmp_path)
    row = read(tmp_path)["train"][1]
    assert row["video_features"].shape == (37, 768)
    np.testing.assert_array_equal(row["video_features"], arrays["mouth"][1, :37].reshape(37, 768) / np.float32(255))
    assert row["audio_features"].shape == (150, 20)


@pytest.mark.parametrize(("target", "names", "labels"), [
    ("color", ["blue", "green", "red", "white"], [0, 1, 2]),
    ("preposition", ["at", "by", "in", "with"], [0, 1, 2]),
    ("letter", list("abcdefghijklmnopqrstuvxyz"), [5, 22, 24]),
    ("digit", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], [2, 1, 0]),
    ("adverb", ["again", "now", "please", "soon"], [1, 0, 2]),
])  # fmt: skip
def test_other_words(tmp_path, target, names, labels):
    write_archive(tmp_path)
    train = read(tmp_path, target=target)["train"]
    assert train.features["label"].names == names
    assert train["label"][:] == labels


@pytest.mark.parametrize(("options", "message"), [
    ({"target": "colour"}, "`target` is 'colour': choose one of"),
    ({"columns": "text"}, "`columns` asks for text but grid has none that may be an input"),
    ({"columns": ("text", "features")}, "none that may be an input"),
])  # fmt: skip
def test_wrong_options(tmp_path, options, message):
    write_archive(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **options)


@pytest.mark.parametrize(("replaced", "message"), [
    ({"mouth": None}, "has no array 'mouth'"),
    ({"split": np.array(["train", "train", "dev", "test"])}, "has the split 'test'"),
    ({"split": np.array(["train", "dev"])}, r"grid_tiny\.npz: `split` has the shape \(2,\), expected 1 dimensions and 4"),
    ({"words": np.array([["bin"]] * 4)}, "not six words per clip"),
    ({"words": np.ones((4, 6))}, "`words` holds float64, not texts"),
    ({"n_frames": np.array([75, 74, -1, 75])}, "`n_frames` of 'prizzp' is -1, but `mouth` has 38 pictures"),
    ({"n_frames": np.array([75.0, 74, 75, 75])}, "`n_frames` holds float64"),
    ({"words": np.array([["lay", "blue", "at", "f", "two", "now"]] * 4)}, "its name stands for"),
    ({"id": np.array(["bbaf2n", "lgbx1", "prizzp", "swwa9s"])}, "'lgbx1' is no name of a sentence"),
    ({"id": np.array(["bbaf2n", "lgbw1a", "prizzp", "swwa9s"])}, "'lgbw1a' is no name of a sentence"),
    ({"mel": np.zeros((3, 20, 150))}, r"`mel` has the shape \(3, 20, 150\), expected 3 dimensions and 4 entries"),
    ({"mouth": np.zeros((4, 38, 768), np.uint8)}, r"`mouth` has the shape \(4, 38, 768\), expected 4 dimensions"),
    ({"mouth": np.zeros((4, 38, 24, 32))}, "`mouth` holds float64"),
])  # fmt: skip
def test_broken_archive(tmp_path, replaced, message):
    write_archive(tmp_path, **replaced)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_clip_that_occurs_twice(tmp_path):
    clips = [CLIPS[0], CLIPS[0], *CLIPS[2:]]
    write_archive(tmp_path, id=np.array([c[0] for c in clips]), words=np.array([c[1].split() for c in clips]))
    with pytest.raises(DataError, match="'bbaf2n' occurs twice in train"):
        read(tmp_path)


def test_counts(tmp_path):
    write_archive(tmp_path)
    with pytest.raises(DataError, match="train has 3 rows instead of 640, validation has 1 rows instead of 160"):
        read(tmp_path, strict_counts=True)


def test_archive_is_required(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"grid_tiny\.npz does not exist"):
        read(tmp_path)


# ---- clips


def test_clips_take_the_splits_of_the_archive(tmp_path):
    write_clips(tmp_path)
    write_archive(tmp_path)
    rows = read(tmp_path, name="raw")
    assert rows["train"].column_names == ["id", "label", "audio_path", "video_path", "speaker"]
    assert rows["train"]["id"][:] == ["bbaf2n", "lgbx1a", "prizzp"]
    row = rows["validation"][0]
    assert row["audio_path"] == row["video_path"] == str(tmp_path / "raw" / "s1" / "swwa9s.mpg")
    assert (row["id"], row["label"], row["speaker"]) == ("swwa9s", 3, "s1")


def test_clips_that_do_not_decode_are_null_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write_clips(tmp_path)
    write_archive(tmp_path)
    (tmp_path / "raw" / "s1" / "lgbx1a.mpg").write_bytes(b"\0" * 5000)
    rows = read(tmp_path, name="raw")["train"]
    assert [path is None for path in rows["video_path"]] == [False, True, False]
    for modality in ("audio", "video"):
        assert any(f"{modality} does not decode in 1 rows (lgbx1a)" in record.message for record in caplog.records)
    assert None not in list(read(tmp_path, name="raw", check_clips=False)["train"]["video_path"])


@pytest.mark.parametrize("place", ["s1", "alignments"])
def test_links_out_of_the_folder_are_refused(tmp_path, place):
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    write_clips(data)
    (data / "raw" / place).rename(outside)
    (data / "raw" / place).symlink_to(outside)
    with pytest.raises(DataError, match="a link out of"):
        read(data, name="raw")


def test_folder_of_the_clips_may_be_a_link(tmp_path):
    write_clips(tmp_path / "disk", ("s1", "s2"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw").symlink_to(tmp_path / "disk" / "raw")
    assert len(read(tmp_path / "data", name="raw", validation_speakers=["s2"])["train"]) == 4


def test_clip_that_the_archive_does_not_know(tmp_path):
    write_clips(tmp_path, clips=[*CLIPS, ("bbaf3s", "bin blue at f three soon", "", 75)])
    write_archive(tmp_path)
    with pytest.raises(DataError, match="names no split for the clip 'bbaf3s'"):
        read(tmp_path, name="raw")


def test_several_speakers(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write_clips(tmp_path, speakers=("s1", "s2", "s10"))
    rows = read(tmp_path, name="raw", validation_speakers=["s2"])
    assert set(rows["validation"]["id"]) == {f"s2_{name}" for name, *_ in CLIPS}
    assert set(rows["train"]["speaker"]) == {"s1", "s10"}
    assert not any("occurs in several splits" in record.message for record in caplog.records)


@pytest.mark.parametrize("speakers", [["s3"], ["s1", "s2"]])
def test_impossible_validation_speakers(tmp_path, speakers):
    write_clips(tmp_path, speakers=("s1", "s2"))
    with pytest.raises(ValueError, match="name some, not all, of the speakers"):
        read(tmp_path, name="raw", validation_speakers=speakers)


def test_drawn_split(tmp_path):
    clips = [(f"b{color}a{letter}2n", f"bin {word} at {letter} two now", "", 75)
             for color, word in (("b", "blue"), ("r", "red")) for letter in "abcde"]  # fmt: skip
    write_clips(tmp_path, clips=clips)
    first, again = (read(tmp_path, name="raw", validation_share=0.3)["validation"]["id"][:] for _ in range(2))
    assert len(first) == 3
    assert first == again
    others = [
        read(tmp_path, name="raw", validation_share=0.3, validation_seed=s)["validation"]["id"][:] for s in (1, 2)
    ]
    assert any(other != first for other in others)
    with pytest.raises(ValueError, match="`validation_share` is 1"):
        read(tmp_path, name="raw", validation_share=1)


@pytest.mark.parametrize(("text", "message"), [
    ("0 1 sil\n1 2 lay\n", r"holds the words \['lay'\]"),
    ("0 1\n", "'0 1' is not 'start end word'"),
])  # fmt: skip
def test_word_times_must_fit_the_name(tmp_path, text, message):
    write_clips(tmp_path)
    write_archive(tmp_path)
    (tmp_path / "raw" / "alignments" / "s1" / "bbaf2n.align").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path, name="raw")


def test_word_times_are_optional_and_so_is_the_folder_raw(tmp_path):
    write_clips(tmp_path)
    write_archive(tmp_path)
    for file in (tmp_path / "raw" / "alignments" / "s1").iterdir():
        file.unlink()
    assert len(read(tmp_path, name="raw")["train"]) == 3
    (tmp_path / "raw" / "s1").rename(tmp_path / "s1")
    (tmp_path / "raw" / "alignments" / "s1").rmdir()
    (tmp_path / "raw" / "alignments").rmdir()
    (tmp_path / "raw").rmdir()
    assert len(read(tmp_path, name="raw")["train"]) == 3


def test_no_clips(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no clip <speaker>/<sentence>\.mpg"):
        read(tmp_path, name="raw")


# ---- training


def test_configuration_trains_without_text(tmp_path, root):
    """A model that reads no text has a processor without tokenizer; checkpoints must hold that processor."""
    write_archive(tmp_path)
    run = RunConfig.load(root / "examples" / "configs" / "clcr_grid.yaml", {
        "data.data_dir": str(tmp_path),
        "data.options": {"strict_counts": False},
        "output_dir": str(tmp_path / "run"),
        "training.num_train_epochs": 1,
        "training.save_strategy": "epoch",
    })  # fmt: skip
    trained = train_run(run, 0, tmp_path / "run")
    assert trained.validation["n"] == 1
    assert (tmp_path / "run" / "checkpoint-1" / "processor_config.json").is_file()


# ---- the real files


def test_real_features(shared_data):
    rows = load("grid", data_dir=shared_data / "grid")
    counts = {split: np.bincount(part["label"]).tolist() for split, part in rows.items()}
    assert counts == {"train": [153, 160, 167, 160], "validation": [35, 40, 39, 46]}
    lengths = {row["id"]: len(row["video_features"]) for part in rows.values() for row in part}
    assert {key for key, length in lengths.items() if length == 37} == {"lrae3s", "srwi5a"}
    assert set(lengths.values()) == {37, 38}
    row = rows["train"][0]
    assert row["audio_features"].shape == (150, 20)
    assert 0 <= row["video_features"].min() < row["video_features"].max() <= 1


def test_real_clips_decode(shared_data):
    rows = load("grid", data_dir=shared_data / "grid", name="raw")
    assert {split: len(part) for split, part in rows.items()} == {"train": 46, "validation": 14}
    features = load("grid", data_dir=shared_data / "grid")
    for split, part in rows.items():
        labels = dict(zip(features[split]["id"], features[split]["label"]))
        assert all(labels[row["id"]] == row["label"] for row in part)  # the split of the archive, the same word
    row = rows["validation"][0]
    assert len(decode_audio(row["audio_path"])) / 16000 == pytest.approx(2.98, abs=0.01)
    assert len(decode_video(row["video_path"], fps=None)) == 75
