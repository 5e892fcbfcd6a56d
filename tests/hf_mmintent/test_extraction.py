"""Clips to features on disk: complete, resumable, and what a checkpoint computes from the clip itself."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value

from hf_mmintent.data import media_features
from hf_mmintent.data.checks import DataError
from hf_mmintent.data.clip_folder import clip_rows
from hf_mmintent.data.extraction import ExtractionOptions, extract_features
from hf_mmintent.data.loading import load
from hf_mmintent.data.media_features import add_media_features, encoder_fingerprint
from hf_mmintent.encoders import build_encoder
from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.media_decoding import MediaError
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.prediction import predict_one
from hf_mmintent.training import RunConfig, train_run
from tests.hf_mmintent.training_cases import settings
from tests.modeling.media_files import write_media
from tests.modeling.pipeline_cases import save_clip_checkpoint
from tests.modeling.test_media_backbones import tiny_parts

LENGTHS = (0.6, 1.1, 0.4, 0.8, 0.5)
WORDS = ("hello", "thank you", "please leave", "great", "late again")
FRONT_ENDS = {"num_mel_bins": 6, "grid_size": 4, "image_size": 24, "frame_rate": 4}


def make_clips(folder: Path, splits: tuple[str, ...] = ("train", "validation"), count: int = 5) -> Path:
    """Clips in a folder per split, one of them without sound, with a table of texts and labels."""
    lines = []
    for split in splits:
        (folder / split).mkdir(parents=True)
        for index in range(count):
            name = f"{split}/c{index}.mp4"
            silent = None if index == 2 else "aac"
            write_media(folder / name, seconds=LENGTHS[index % 5], audio=silent, fps=10)
            lines.append({"file_name": name, "text": WORDS[index % 5], "label": ("praise", "inform")[index % 2]})
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["file_name", "text", "label"])
        table.writeheader()
        table.writerows(lines)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips") / "clips")


@pytest.fixture(scope="module")
def encoder() -> MediaEncoderModel:
    return build_encoder(FRONT_ENDS)


def assert_rows_equal(found: Any, expected: Any, tolerance: float = 0.0) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        for name, value in right.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(left[name], value, atol=tolerance, rtol=0)
            else:
                assert left[name] == value, name


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


# ---- rows of a folder ------------------------------------------------------------------------------------------------


def test_a_folder_of_clips_is_a_dataset(clips: Path, tmp_path: Path) -> None:
    rows = load(clips)
    assert {name: len(part) for name, part in rows.items()} == {"train": 5, "validation": 5}
    assert rows["train"].features["label"].names == ["inform", "praise"]
    assert [str(part.split) for part in rows.values()] == ["train", "validation"]
    first = rows["train"][0]
    assert (first["id"], first["text"], first["label"]) == ("train/c0", "hello", 1)
    assert first["audio_path"] == first["video_path"] == str(clips.resolve() / "train" / "c0.mp4")
    plain = tmp_path / "plain"
    (plain / "deep").mkdir(parents=True)
    write_media(plain / "deep" / "a.wav", seconds=0.3, video=None, audio="pcm_s16le")
    write_media(plain / "b.mp4", seconds=0.3)
    (plain / ".hidden.mp4").write_bytes(b"")
    rows = clip_rows(plain)["train"]
    assert rows["id"] == ["b", "deep/a"] and rows["video_path"][1] is None and "label" not in rows.column_names
    (plain / "metadata.jsonl").write_text(
        '{"file_name": "b.mp4", "label": 1}\n{"file_name": "deep/a.wav", "label": -0.5}\n'
    )
    rows = clip_rows(plain)["train"]
    assert rows["label"] == [1.0, -0.5] and rows.features["label"].dtype == "float32"


def test_folders_that_contradict_their_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no media files"):
        clip_rows(tmp_path)
    write_media(tmp_path / "a.mp4", seconds=0.3)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "c.mp4", "text": "hello"}\n')
    with pytest.raises(DataError, match=r"differ in 2 files, 'a\.mp4'"):
        clip_rows(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4", "text": null}\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl line 1: give `file_name` once per clip"):
        clip_rows(tmp_path)
    for content, message in (
        (b'{"file_name": "a.mp4", "te', r"metadata\.jsonl line 1 is truncated or not JSON"),
        (b'\n{"file_name": "\xff"}', r"metadata\.jsonl line 2 is not UTF-8"),
        (b'["a.mp4"]', r"metadata\.jsonl line 1 holds \['a\.mp4'\], not an object"),
        (b'{"file_name": "a.mp4", "text": 3}', r"line 1: `text` of 'a\.mp4' is 3, not a text"),
        (b'{"file_name": "a.mp4", "label": [1]}', r"line 1: `label` of 'a\.mp4' is \[1\], not a name or a number"),
        (b'{"file_name": "a.mp4", "label": NaN}', "`label` of 'a.mp4' is nan, not a finite number"),
    ):
        (tmp_path / "metadata.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=message):
            clip_rows(tmp_path)
    for content, message in (
        (b'file_name,text\na.mp4,"he', r"metadata\.csv line \d is not part of a table"),
        (b"file_name,text\na.mp4,caf\xe9\n", r"metadata\.csv line 2 is not UTF-8"),
        (b"file_name,text\na.mp4\n", r"metadata\.csv line 2: give `file_name` once per clip, and \['text'\]"),
    ):
        (tmp_path / "metadata.csv").write_bytes(content)
        with pytest.raises(DataError, match=message):
            clip_rows(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").unlink()
    write_media(tmp_path / "a.wav", seconds=0.3, video=None, audio="pcm_s16le")
    with pytest.raises(DataError, match="two clips named a"):
        clip_rows(tmp_path)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_clips(clips: Path, encoder: MediaEncoderModel, tmp_path: Path) -> None:
    rows = load(clips)
    report = extract_features(rows, encoder, tmp_path / "out", ExtractionOptions(batch_size=2, shard_size=3))
    assert report.rows == {"train": 5, "validation": 5} and not report.failures and (report.made, report.kept) == (4, 0)
    assert "no clip failed" in str(report) and (tmp_path / "out" / "failures.jsonl").read_text() == ""
    opened = load(tmp_path / "out")
    for name, part in rows.items():
        assert opened[name].features["label"].names == ["inform", "praise"]
        assert_rows_equal(opened[name], add_media_features(part, encoder), 1e-5)
    row = opened["train"][1]
    with torch.no_grad():
        alone = encoder.encode_clip(row["video_path"])
    for name in ("audio_features", "video_features"):
        np.testing.assert_allclose(row[name], alone[name][0].numpy(), atol=1e-5)
    assert opened["train"][2]["audio_features"] is None and opened["train"][2]["video_features"] is not None
    assert load(tmp_path / "out", split="validation").column_names == opened["validation"].column_names
    assert "video_features" not in load(tmp_path / "out", columns=["text", "media"])["train"].column_names
    again = extract_features(rows, encoder, tmp_path / "out", ExtractionOptions(batch_size=2, shard_size=3))
    assert (again.made, again.kept) == (0, 4)


def test_batch_size_does_not_matter(clips: Path, tmp_path: Path) -> None:
    """Also with backbones, whose batches are computed together."""
    encoder = build_encoder({"preset": "xmei", **tiny_parts(tmp_path), "num_frames": 3})
    rows = load(clips)
    for size in (1, 4):
        extract_features(rows, encoder, tmp_path / str(size), ExtractionOptions(batch_size=size, save_encoder=False))
    assert_rows_equal(load(tmp_path / "4")["train"], load(tmp_path / "1")["train"], 1e-5)
    assert load(tmp_path / "1")["train"][0]["video_features"].shape == (16 + 3, 16)
    assert not (tmp_path / "1" / "encoder").exists()


def test_embedded_clips_and_parts_of_recordings(clips: Path, encoder: MediaEncoderModel, tmp_path: Path) -> None:
    path = clips / "train" / "c1.mp4"
    struct = {"bytes": path.read_bytes(), "path": None}
    times = {"start_time": [None, 0.25, 0.5], "end_time": [None, 1.0, None]}
    rows = Dataset.from_dict({"id": ["a", "b", "c"], "audio": [struct] * 3, "video": [struct] * 3, **times})
    extract_features({"train": rows}, encoder, tmp_path / "out")
    found = load(tmp_path / "out", split="train")
    assert set(found.column_names) == {"id", "start_time", "end_time", "audio_features", "video_features"}
    whole = encoder.encode_clip(path)
    np.testing.assert_allclose(found[0]["video_features"], whole.video_features[0].numpy(), atol=1e-5)
    assert [len(row["video_features"]) for row in found] == [len(whole.video_features[0]), 3, 3]


def test_long_clips_are_not_held_whole(
    encoder: MediaEncoderModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of them long, one of these cut off: the same features, and the failure listed."""
    folder = tmp_path / "clips" / "train"
    for number, seconds in enumerate((0.4, 2.6, 3.1)):
        write_media(tmp_path / f"{number}.mp4", seconds=seconds)
    folder.mkdir(parents=True)
    for path in tmp_path.glob("*.mp4"):
        path.rename(folder / path.name)
    data = write_media(tmp_path / "3.webm", seconds=3.0, video="libvpx", audio="libopus", rate=48000).read_bytes()
    (folder / "3.webm").write_bytes(data[: len(data) * 2 // 3])
    rows = load(tmp_path / "clips")
    whole = extract_features(rows, encoder, tmp_path / "whole")
    read: list[str] = []
    encode = MediaEncoderModel.encode_recording
    monkeypatch.setattr(media_features, "LONG", 1.0)
    monkeypatch.setattr(
        MediaEncoderModel, "encode_recording", lambda *a, **k: read.append(Path(a[1]).stem) or encode(*a, **k)
    )
    parts = extract_features(rows, encoder, tmp_path / "parts")
    assert sorted(read) == ["1", "2", "3"]
    assert [entry["id"] for entry in parts.failures] == [entry["id"] for entry in whole.failures] == ["train/3"]
    assert "3.webm" in parts.failures[0]["error"] and "cut off" in parts.failures[0]["error"]
    assert_rows_equal(load(tmp_path / "parts")["train"], load(tmp_path / "whole")["train"], 1e-5)
    with pytest.raises(MediaError, match=r"cut off.*\(row 'train/3'\)"):
        add_media_features(rows["train"], encoder)
    good = rows["train"].select(range(3))
    assert_rows_equal(add_media_features(good, encoder), load(tmp_path / "whole")["train"].select(range(3)), 1e-5)


PEAK = """
import re, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from hf_mmintent import load
from hf_mmintent.data.extraction import ExtractionOptions, extract_features
from hf_mmintent.encoders import build_encoder
from hf_mmintent.prediction import predict_one
what, checkpoint, folder = sys.argv[1:]
if what == "predict":
    predict_one(checkpoint, clip=next(Path(folder).rglob("*.mp4")), text="hello")
elif what == "extract":
    report = extract_features(load(folder), build_encoder({"path": checkpoint}), folder + "_out")
    assert not report.failures and report.nulls == {"audio": 0, "video": 0}
else:
    model = build_encoder({"path": checkpoint})
    out = model.encode_clip(next(Path(folder).rglob("*.mp4")))
    print(out.audio_features.shape[1], out.video_features.shape[1], file=sys.stderr)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory that Linux keeps")
def test_ten_minutes_take_hardly_more_memory_than_ten_seconds(tmp_path: Path, tiny_tokenizer: Any, root: Path) -> None:
    """In all three ways a whole clip is encoded: `encode_clip`, `examples/predict.py`, `examples/extract_features.py`."""
    checkpoint = save_clip_checkpoint(
        tmp_path / "checkpoint",
        tiny_tokenizer,
        encoder_config=MediaEncoderConfig(num_mel_bins=6, grid_size=4),  # pictures of 96 pixels: 530 MB for ten minutes
        media_max_lengths={"audio": 500, "video": 80},
    )
    for seconds in (10, 600):
        (tmp_path / str(seconds) / "train").mkdir(parents=True)
        path = tmp_path / str(seconds) / "train" / "clip.mp4"
        write_media(path, seconds=seconds, size=(240, 320), fps=8, rate=16000)
    for what in ("encode", "predict", "extract"):
        peaks = []
        for seconds in (10, 600):
            run = [sys.executable, "-c", PEAK, what, str(checkpoint), str(tmp_path / str(seconds))]
            environment = {**os.environ, "PYTHONPATH": str(root)}
            done = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True, check=True)
            peaks.append(int(done.stdout.split()[-1]))
        print(what, peaks)
        assert peaks[1] < 1.5 * peaks[0], f"peak memory of {what} for 10 s and 600 s: {peaks} kB"


def test_a_bad_clip_is_listed_and_the_rest_goes_on(encoder: MediaEncoderModel, tmp_path: Path) -> None:
    folder = make_clips(tmp_path / "clips", ("train",))
    good = (folder / "train" / "c1.mp4").read_bytes()
    (folder / "train" / "c1.mp4").write_bytes(good[: len(good) // 3])
    (folder / "train" / "c4.mp4").write_bytes(b"")
    rows, options = load(folder), ExtractionOptions(batch_size=2, shard_size=2)
    report = extract_features(rows, encoder, tmp_path / "out", options)
    listed = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert listed == report.failures
    assert [(entry["split"], entry["row"], entry["id"]) for entry in listed] == [
        ("train", 1, "train/c1"),
        ("train", 4, "train/c4"),
    ]
    assert [entry["kind"] for entry in listed] == ["failed", "failed"] and not any(entry["dropped"] for entry in listed)
    assert report.nulls == {"audio": 3, "video": 2}
    assert "c1.mp4" in listed[0]["error"] and "is empty" in listed[1]["error"] and "2 clips failed" in str(report)
    found = load(tmp_path / "out", split="train")
    assert [row["video_features"] is None for row in found] == [False, True, False, False, True]
    dropped = ExtractionOptions(batch_size=2, shard_size=1, drop_failed=True)
    assert extract_features(rows, encoder, tmp_path / "less", dropped).rows == {"train": 3}
    assert load(tmp_path / "less", split="train")["id"] == ["train/c0", "train/c2", "train/c3"]

    (folder / "train" / "c1.mp4").write_bytes(good)
    kept = extract_features(rows, encoder, tmp_path / "out", options)
    assert kept.made == 0 and len(kept.failures) == 2
    retried = ExtractionOptions(batch_size=2, shard_size=2, retry_failed=True)
    repaired = extract_features(rows, encoder, tmp_path / "out", retried)
    assert repaired.made == 2 and [entry["id"] for entry in repaired.failures] == ["train/c4"]
    assert load(tmp_path / "out", split="train")[1]["video_features"] is not None


def test_clips_that_were_null_before_are_listed(clips: Path, encoder: MediaEncoderModel, tmp_path: Path) -> None:
    """What a builder made null because the file was absent or damaged is no silent gap."""
    paths = [str(clips / "train" / f"c{i}.mp4") for i in range(4)]
    rows = Dataset.from_dict({
        "id": ["a", "b", "c", "d"],
        "audio_path": [paths[0], None, paths[2], None],
        "video_path": [paths[0], None, paths[2], paths[3]],
    })  # fmt: skip
    report = extract_features({"train": rows}, encoder, tmp_path / "out", ExtractionOptions(shard_size=3))
    listed = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert listed == report.failures
    assert [(entry["row"], entry["id"], entry["kind"], entry["error"]) for entry in listed] == [
        (1, "b", "null", "`audio_path` is null and `video_path` is null"),
        (3, "d", "null", "`audio_path` is null"),
    ]
    assert report.nulls == {"audio": 3, "video": 1}  # the sound of c is absent: the clip is silent
    assert "train 4 rows, 3 rows without audio, 1 row without video; 2 rows with a null clip (failures.jsonl);" in str(
        report
    )
    again = extract_features(
        {"train": rows}, encoder, tmp_path / "out", ExtractionOptions(shard_size=3, retry_failed=True)
    )
    assert again.made == 0 and again.failures == report.failures  # what is null stays null
    dropped = ExtractionOptions(drop_failed=True)
    less = extract_features({"train": rows}, encoder, tmp_path / "less", dropped)
    assert less.rows == {"train": 3} and load(tmp_path / "less", split="train")["id"] == ["a", "c", "d"]
    assert [entry["dropped"] for entry in less.failures] == [True, False]


def test_a_modality_that_no_row_has_is_no_failure(clips: Path, encoder: MediaEncoderModel, tmp_path: Path) -> None:
    kinds = Features({name: Value("string") for name in ("id", "audio_path", "video_path")})
    path = str(clips / "train" / "c0.mp4")
    rows = Dataset.from_dict({"id": ["a", "b"], "audio_path": [path, path], "video_path": [None, None]}, features=kinds)
    report = extract_features({"train": rows}, encoder, tmp_path / "out")
    assert not report.failures and report.nulls == {"audio": 0, "video": 2}


def test_what_cannot_be_extracted_is_refused(clips: Path, encoder: MediaEncoderModel, tmp_path: Path) -> None:
    rows = load(clips)
    extract_features(rows, encoder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"differs in \['encoder'\]"):
        extract_features(rows, build_encoder({**FRONT_ENDS, "frame_rate": 5}), tmp_path / "out")
    with pytest.raises(ValueError, match=r"differs in \['rows', 'splits'\]"):
        extract_features({"train": rows["train"]}, encoder, tmp_path / "out")
    with pytest.raises(ValueError, match="audio_front_end=None"):
        extract_features(load(tmp_path / "out"), encoder, tmp_path / "twice")
    with pytest.raises(ValueError, match="none of them holds media"):
        extract_features({"train": Dataset.from_dict({"id": ["a"]})}, encoder, tmp_path / "none")
    with pytest.raises(ValueError, match="`shard_size` is 0"):
        ExtractionOptions(shard_size=0)
    shard = next((tmp_path / "out" / "data").glob("train-*"))
    whole = shard.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=r"train-00000-of-00001\.arrow is absent or damaged"):
            load(tmp_path / "out")
    shard.write_bytes(whole)
    state = tmp_path / "out" / "extraction.json"
    state.write_text(state.read_text().replace('"finished": true', '"finished": false'))
    with pytest.raises(ValueError, match="is not finished"):
        load(tmp_path / "out")


# ---- encoders by settings --------------------------------------------------------------------------------------------


def test_a_saved_encoder_is_the_same_encoder(tmp_path: Path) -> None:
    """Also its fingerprint, by which features are recognised: saving adds fields that do not matter."""
    made = build_encoder({"preset": "xmei", **tiny_parts(tmp_path)})
    made.save_pretrained(tmp_path / "saved")
    opened = build_encoder({"path": str(tmp_path / "saved")})
    assert encoder_fingerprint(opened) == encoder_fingerprint(made)
    half = MediaEncoderModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert encoder_fingerprint(half) != encoder_fingerprint(made)
    deaf = build_encoder({"video": tiny_parts(tmp_path / "again")["video"], "frame_rate": 2})
    assert deaf.config.audio_front_end is None and deaf.config.frame_rate == 2
    with pytest.raises(ValueError, match=r"has `path` .* and also \['frame_rate'\]"):
        build_encoder({"path": "x", "frame_rate": 2})


# ---- inside a checkpoint ---------------------------------------------------------------------------------------------


def test_training_on_features_gives_a_checkpoint_that_takes_clips(
    clips: Path, encoder: MediaEncoderModel, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    extract_features(load(clips), encoder, tmp_path / "features")
    values = settings(tmp_path, tiny_tokenizer, training={"num_train_epochs": 1})
    values["data"] = {"name": str(tmp_path / "features")}
    values["encoder"] = {"path": str(tmp_path / "features" / "encoder")}
    values["standardize"] = True
    trained = train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
    model, processor = open_checkpoint(trained.checkpoint)
    row = load(tmp_path / "features")["validation"][1]
    names = ("audio_features", "video_features")
    stored = {name: torch.from_numpy(np.array(row[name]))[None] for name in names}
    with torch.no_grad():
        inside = model.base_model.media_encoder.encode_clip(row["video_path"])
        for name in names:
            torch.testing.assert_close(inside[name], stored[name], atol=1e-5, rtol=0)
        logits = model(**processor(text=[row["text"]], **{name: [row[name]] for name in names})).logits[0]
    answer = dict(predict_one((model, processor), clip=row["video_path"], text=row["text"]).ranking)
    for index, probability in enumerate(logits.softmax(-1).tolist()):
        assert answer[model.config.id2label[index]] == pytest.approx(probability, abs=1e-5)
    owned = build_encoder({"path": str(trained.checkpoint)})
    assert encoder_fingerprint(owned) == encoder_fingerprint(encoder)

    values["encoder"], values["output_dir"] = {**FRONT_ENDS, "frame_rate": 5}, str(tmp_path / "other")
    with pytest.raises(ValueError, match="made by another encoder"):
        train_run(RunConfig.from_dict(values), 0, tmp_path / "other")


def test_splits_stay_splits(clips: Path, encoder: MediaEncoderModel, tmp_path: Path) -> None:
    part = DatasetDict({"validation": load(clips)["validation"]})
    extract_features(part, encoder, tmp_path / "out")
    assert {name: str(rows.split) for name, rows in load(tmp_path / "out").items()} == {"validation": "validation"}
    with pytest.raises(ValueError, match=r"\['train'\] is not among them"):
        load(tmp_path / "out", split="train")
    assert shard_bytes(tmp_path / "out").keys() == {"validation-00000-of-00001.arrow"}
