"""Recordings longer than a window through the pipeline: where windows lie, what they hold, and what reaches the model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.media_decoding import MediaError, decode_clip
from hf_mmintent.modeling.media_windows import read_windows
from hf_mmintent.modeling.pipeline_intent import IntentRecognitionPipeline
from hf_mmintent.modeling.processing_media import MediaSettings
from hf_mmintent.prediction import predict_one

from .media_files import write_media
from .pipeline_cases import TASK, save_clip_checkpoint


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_media(folder / "whole.mp4", seconds=1.0)
    write_media(folder / "long.mp4", seconds=7.3, fps=8)
    return folder


def scores(answer: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer["ranking"]}


def test_windows_cover_the_recording(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    answer = pipe(clips / "long.mp4", window_seconds=2.0)
    windows = answer["windows"]
    assert [window["start"] for window in windows] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [window["end"] for window in windows[:-1]] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert windows[-1]["end"] == pytest.approx(7.3, abs=0.1)
    for window in windows:
        part = {"clip": clips / "long.mp4", "start_time": window["start"], "end_time": window["end"]}
        alone = pipe(part)
        assert len(alone["windows"]) == 1
        found = {entry["label"]: entry["score"] for entry in window["ranking"]}
        assert found == pytest.approx(scores(alone), abs=2e-3)  # the resampler starts at the cut there
    means = {name: np.mean([dict_of(w)[name] for w in windows]) for name in scores(answer)}
    assert scores(answer) == pytest.approx(means, abs=1e-6)
    apart = pipe(clips / "long.mp4", window_seconds=2.0, stride_seconds=2.0)["windows"]
    assert [window["start"] for window in apart] == [0.0, 2.0, 4.0, 6.0]
    assert len(pipe(clips / "long.mp4")["windows"]) == 1


def dict_of(window: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in window["ranking"]}


def test_a_long_recording_is_not_held_in_memory(
    pipe: IntentRecognitionPipeline, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that are answered give their arrays back before the whole recording is."""
    expected, forward, held = pipe(clips / "long.mp4", window_seconds=1.0), pipe.forward, []
    parts: list[Any] = []
    collate = pipe._collate

    def note(batch: Any, modalities: Any) -> Any:
        parts.extend(batch)
        return collate(batch, modalities)

    def count(*args: Any, **settings: Any) -> Any:
        held.append(sum(part.window.audio is not None or part.window.frames is not None for part in parts))
        return forward(*args, **settings)

    monkeypatch.setattr(pipe, "_collate", note)
    monkeypatch.setattr(pipe, "forward", count)
    answer = pipe(clips / "long.mp4", window_seconds=1.0)
    assert len(held) == len(answer["windows"]) > 10 and max(held) == 1
    assert all(part.window.audio is None and part.window.frames is None for part in parts)
    assert [window["used"] for window in answer["windows"]] == [window["used"] for window in expected["windows"]]
    assert answer["used"] == ["video", "audio"]


def test_windows_hold_the_values_of_the_whole(clips: Path) -> None:
    """Nothing is lost, doubled or shifted between windows, whatever their length."""
    settings = MediaSettings(image_size=24)
    whole = decode_clip(clips / "long.mp4", size=24)
    for seconds, stride in ((1.0, 1.0), (2.0, 0.5), (1.3, 0.7), (7.0, 7.0), (100.0, 3.0)):
        windows = list(read_windows(clips / "long.mp4", clips / "long.mp4", settings, seconds, stride))
        assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]
        for window in windows:
            first = round(window.start * 16000)
            np.testing.assert_array_equal(window.audio, whole.audio[first : first + len(window.audio)])
            first = round(window.start * 8)
            np.testing.assert_array_equal(window.frames, whole.frames[first : first + len(window.frames)])
        covered = np.zeros(len(whole.audio), bool)
        for window in windows:
            covered[round(window.start * 16000) : round(window.start * 16000) + len(window.audio)] = True
        assert covered.all()


def test_sound_that_ends_before_the_pictures(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    sample = {"video": clips / "long.mp4", "audio": clips / "whole.mp4"}
    answer = pipe(sample, window_seconds=2.0)
    used = [window["used"] for window in answer["windows"]]
    assert used[0] == ["audio", "video"] and used[2:] == [["video"]] * 5  # a coder's last block may reach past 1 s
    assert answer["used"] == ["video", "audio"]


# ---- checkpoints that read so much and no more ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_reader(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """110 steps of 20 ms and 33 pictures at 8 a second: 2.2 s of sound, 4.125 s of pictures."""
    folder = tmp_path_factory.mktemp("short_reader")
    return save_clip_checkpoint(folder, tiny_tokenizer, media_max_lengths={"audio": 110, "video": 33})


def test_nothing_of_a_window_is_cut_off(short_reader: Path, clips: Path) -> None:
    """By default a window is what the model reads: a change anywhere in the recording changes the answer of a window."""
    pipe = pipeline(TASK, model=str(short_reader), device="cpu")
    assert pipe.model.seconds_read() == pytest.approx(2.2) and pipe.model.seconds_read(["video"]) == 4.125
    assert pipe.model.seconds_read(["text"]) is None
    sound = decode_clip(clips / "long.mp4", size=24).audio
    before = pipe({"audio": sound})
    windows = before["windows"]
    assert [window["start"] for window in windows] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert not any("reads the first" in note for note in before["notes"])
    generator = np.random.default_rng(0)
    for begin in range(0, len(sound) - 1600, 1600):  # every 0.1 s
        changed = sound.copy()
        changed[begin : begin + 1600] = generator.normal(0, 0.3, 1600)
        after = pipe({"audio": changed})["windows"]
        moved = [scores(a) != scores(b) for a, b in zip(windows, after, strict=True)]
        assert any(moved), f"nothing heard the change at {begin / 16000:.1f} s"
    only = pipe(clips / "long.mp4", modalities=["video"])["windows"]
    assert [window["start"] for window in only] == pytest.approx([0.0, 1.875, 3.75])


def test_nothing_is_cut_off_where_clips_have_a_longest_length(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """A short rest joins the last window: windows are shorter than `max_clip_seconds` by that much."""
    encoder = MediaEncoderConfig(num_mel_bins=6, grid_size=4, image_size=24, max_clip_seconds=2.0)
    pipe = pipeline(TASK, model=str(save_clip_checkpoint(tmp_path, tiny_tokenizer, encoder_config=encoder)))
    generator = np.random.default_rng(0)
    for seconds in (2.0, 2.15, 5.1):
        sound = generator.normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
        changed = sound.copy()
        changed[-800:] = generator.normal(0, 0.5, 800)
        before, after = pipe({"audio": sound}), pipe({"audio": changed})
        assert scores(before) != scores(after), f"the end of {seconds} s is not heard"
        assert max(window["end"] - window["start"] for window in before["windows"]) <= 2.0
        assert not any("reads the first" in note for note in before["notes"])
    assert len(pipe({"audio": sound[:32000]})["windows"]) == 1  # as long as a clip may be
    longer = pipe({"audio": sound}, window_seconds=4.0)
    assert any("reads the first 2 s of a window" in note for note in longer["notes"]), longer["notes"]
    words = pipe({"audio": sound}, modalities=["text"], asr=Listener())["windows"]
    assert [window["text"] for window in words] == ["hello"]


class Listener:
    """Hears one word in everything."""

    feature_extractor = SimpleNamespace(sampling_rate=16000)

    def __call__(self, sound: dict[str, Any]) -> dict[str, str]:
        return {"text": "hello"}


def test_a_window_of_no_length_is_an_error(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    with pytest.raises(ValueError, match="`seconds` is 0"):
        pipe(clips / "whole.mp4", window_seconds=0)


def test_sound_too_short_for_a_single_step(pipe: IntentRecognitionPipeline, checkpoint: Path, tmp_path: Path) -> None:
    """A mel window has 25 ms; less is no sound, and no answer is made of nothing."""
    short = write_media(tmp_path / "a.wav", video=None, audio="pcm_s16le", rate=16000, layout="mono", seconds=0.024)
    with pytest.raises(ValueError, match="input 0 has none of the modalities"):
        pipe(short)
    with pytest.raises(MediaError, match="none of the modalities"):
        predict_one(checkpoint, clip=short)
    answer = pipe({"audio": short, "text": "thank you"})
    assert answer["used"] == ["text"] and "the recording has no sound: answered without." in answer["notes"]
    assert predict_one(checkpoint, clip=short, text="thank you").used == ["input_ids"]
    long = write_media(tmp_path / "b.wav", video=None, audio="pcm_s16le", rate=16000, layout="mono", seconds=0.025)
    assert pipe(long)["used"] == ["audio"]


def test_longer_windows_are_possible_and_noted(short_reader: Path, clips: Path) -> None:
    pipe = pipeline(TASK, model=str(short_reader), device="cpu")
    answer = pipe(clips / "long.mp4", window_seconds=5.0)
    assert any("reads the first 2.2 s of a window" in note for note in answer["notes"]), answer["notes"]
    assert not any("reads the first" in note for note in pipe(clips / "whole.mp4")["notes"])


def test_one_sample_that_is_cut_is_a_warning(short_reader: Path, clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict_one(short_reader, clip=clips / "whole.mp4")
    assert "reads the first" not in caplog.text
    predict_one(short_reader, clip=clips / "long.mp4")
    assert "of which this checkpoint reads the first 110 (2.2 s)" in caplog.text
