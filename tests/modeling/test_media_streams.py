"""Clips that are decoded and encoded part by part: the features of the whole clip, with a part of it in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from hf_mmintent.modeling import media_streams
from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.media_decoding import MediaError, decode_clip
from hf_mmintent.modeling.media_windows import clip_seconds, read_parts
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media
from tests.modeling.media_files import write_media
from tests.modeling.test_modeling_media_encoder import IMAGE, SPEECH, TOWER, WHISPER

SECONDS = 6.3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("streams") / "clip.mp4", seconds=SECONDS)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_streams, "_SOUND_PART", 1)


def encoder_of(audio: dict[str, Any] | None = None, video: dict[str, Any] | None = None, **fields: Any) -> Any:
    """An encoder with backbones of these configurations, front ends without weights where there is none."""
    torch.manual_seed(0)
    for name, given in (("audio", audio), ("video", video)):
        if given is not None:
            fields |= {f"{name}_front_end": "backbone", f"{name}_config": AutoConfig.for_model(**given)}
    small = {"num_mel_bins": 6, "grid_size": 4, "image_size": 32, "frames_per_chunk": 7}
    return MediaEncoderModel(MediaEncoderConfig(**{**small, **fields})).eval()


def whole(encoder: Any, source: Any, **times: Any) -> Any:
    """What `forward` makes of the clip at once."""
    arrays = prepare_media([source], [source], MediaSettings.from_config(encoder.config), **times)
    with torch.no_grad():
        return encoder(**{name: torch.from_numpy(value) for name, value in arrays.items()})


def assert_same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


WAVES = {"model_type": "hubert", **SPEECH, "feat_extract_norm": "layer"}
GROUPS = {"model_type": "wav2vec2", **SPEECH, "feat_extract_norm": "group"}
PIECES = {"audio_chunk_seconds": 1.0, "audio_overlap_seconds": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "no weights": {},
    "means of steps": {"frames_per_step": 3, "subtract_clip_mean": True},
    "stacked steps": {"frames_per_step": 4, "step_reduction": "stack", "grayscale": False},
    "spread frames": {"num_frames": 5, "image_crop": True},
    "more frames than there are": {"num_frames": 500},
    "cut at the end": {"max_clip_seconds": 2.5, "frames_per_step": 2},
    "pieces": {"audio": WAVES, **PIECES, "normalize_waveform": True},
    "pieces, groups": {"audio": GROUPS, **PIECES, "frames_per_step": 3},
    "pieces, long overlap": {"audio": WAVES, "audio_chunk_seconds": 2.0, "audio_overlap_seconds": 0.9},
    "one piece": {"audio": WAVES, "audio_chunk_seconds": None},
    "longer than the clip": {"audio": WAVES},
    "unknown strides": {"audio": {**GROUPS, "add_adapter": True, "output_hidden_size": 24}},
    "whisper": {"audio": {"model_type": "whisper", **WHISPER}, "frames_per_step": 2},
    "tokens": {"video": {"model_type": "clip_vision_model", **TOWER, **IMAGE}, "video_pooling": "tokens"},
    "spatiotemporal": {
        "video": {"model_type": "clip_vision_model", **TOWER, **IMAGE},
        "video_pooling": "spatiotemporal",
        "num_frames": 9,
    },
    "means of patches": {"video": {"model_type": "vit", **TOWER, **IMAGE}, "video_pooling": "mean"},
}


@pytest.mark.parametrize("name", CASES)
def test_features_of_a_clip_in_parts_are_those_of_the_whole(name: str, clip: Path) -> None:
    encoder = encoder_of(**CASES[name])
    expected = whole(encoder, clip)
    assert_same(encoder.encode_clip(clip), expected)
    if name in ("pieces", "means of steps"):
        for source in (clip.read_bytes(), io.BytesIO(clip.read_bytes()), {"bytes": clip.read_bytes(), "path": None}):
            assert_same(encoder.encode_clip(source), expected)
        settings = MediaSettings.from_config(encoder.config)
        decoded = decode_clip(clip, fps=settings.frame_rate, size=settings.image_shape)
        assert_same(encoder.encode_clip(decoded), expected)


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.05, 1.0, 1.01, 2.0, 3.02])
@pytest.mark.parametrize("name", ["no weights", "stacked steps", "pieces", "whisper", "unknown strides"])
def test_sound_of_any_length(name: str, seconds: float) -> None:
    """Also shorter than a window, and ends that fall on the end of a part or of a piece."""
    encoder = encoder_of(**CASES[name], video_front_end=None)
    wave = np.random.default_rng(0).normal(size=round(16000 * seconds)).astype(np.float32)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(wave)[None])
    assert_same(encoder.encode_recording(wave), expected)


def test_part_of_a_recording(clip: Path) -> None:
    encoder = encoder_of(**CASES["pieces"])
    for start, end in ((None, 1.5), (0.7, 3.1), (4.5, None), (3.0, 5.5)):
        found = encoder.encode_recording(clip, clip, start=start, end=end)
        assert_same(found, whole(encoder, clip, start=[start], end=[end]))


def test_only_a_part_is_in_memory(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(**CASES["pieces"])
    seen: list[int] = []
    front_end = encoder.video_front_end
    cells = front_end.cells
    monkeypatch.setattr(front_end, "cells", lambda values, mask: seen.append(values.shape[1]) or cells(values, mask))
    lengths: list[int] = []
    encode = encoder.audio_front_end.encode
    monkeypatch.setattr(
        encoder.audio_front_end,
        "encode",
        lambda values, mask=None: lengths.append(values.shape[1]) or encode(values, mask),
    )
    encoder.encode_clip(clip)
    assert max(seen) == 7 and sum(seen) == 51
    assert max(lengths) <= 16000 and len(lengths) > 6


def test_parts_follow_each_other(clip: Path) -> None:
    settings = MediaSettings(image_size=24)
    expected = decode_clip(clip, size=24)
    frames = list(read_parts("video", clip, settings, 11))
    assert [len(part) for part in frames] == [11, 11, 11, 11, 7] and (np.concatenate(frames) == expected.frames).all()
    sound = list(read_parts("audio", clip, settings, 30000))
    assert {len(part) for part in sound[:-1]} == {30000} and (np.concatenate(sound) == expected.audio).all()
    assert [part.shape for part in read_parts("audio", expected.audio[:5], settings, 5)] == [(5,)]


def test_what_cannot_be_encoded(clip: Path, tmp_path: Path) -> None:
    encoder = encoder_of()
    data = clip.read_bytes()
    bad = {"cut.mp4": data[: len(data) // 2], "empty.mp4": b"", "text.mp4": b"this is not a film"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=name):
            encoder.encode_clip(tmp_path / name)
    with pytest.raises(MediaError, match="`start` is 3 and `end` is 2"):
        encoder.encode_recording(clip, clip, start=3, end=2)
    noise = np.ones(40000, np.float32)
    noise[39000] = np.nan
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        encoder.encode_recording(noise)
    silent = write_media(tmp_path / "silent.mp4", audio=None)
    assert list(encoder.encode_clip(silent)) == ["video_features", "video_attention_mask"]
    with pytest.raises(MediaError, match="nothing for the front ends"):
        encoder_of(video_front_end=None).encode_clip(silent)


def test_how_long_a_clip_is(clip: Path) -> None:
    settings = MediaSettings()
    assert clip_seconds(clip, clip, settings, None, None) == pytest.approx(SECONDS, abs=0.1)
    assert clip_seconds(clip, None, settings, 1.0, None) == pytest.approx(SECONDS - 1, abs=0.1)
    assert clip_seconds(None, clip, settings, 1.0, 1.5) == 0.5
    assert clip_seconds(clip, clip, MediaSettings(max_clip_seconds=2.0), None, None) == 2.0
    assert clip_seconds(np.zeros(8000, np.float32), np.zeros((16, 4, 4, 3), np.uint8), settings, None, None) == 2.0
    assert clip_seconds(None, None, settings, None, None) == 0.0
