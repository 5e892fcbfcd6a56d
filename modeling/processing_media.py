"""Media of a batch, in any form a row has them, to padded arrays for the media encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .media_decoding import Clip, MediaError, decode_clip, require_av, source_name
from .media_sampling import picture_array, resample


@dataclass
class MediaSettings:
    """
    How media are prepared; the fields of [`MediaEncoderConfig`] of the same names, which say why.

    Args:
        sampling_rate (`int`, samples per second): Rate of the waveforms.
        frame_rate (`float`, frames per second): Rate of the frames.
        image_size (`int` or `(height, width)`, pixels): Size of the frames.
        image_crop (`bool`): Cut the centre to the proportions of `image_size` instead of stretching.
        image_mean, image_std (three `float`): Per channel, subtracted from and dividing values in [0, 1].
        max_clip_seconds (`float`, *optional*): Cut clips after this long.
        num_frames (`int`, *optional*): Keep so many frames, the middles of equal parts of the clip; shorter clips keep all.
    """

    sampling_rate: int = 16000
    frame_rate: float = 8.0
    image_size: int | Sequence[int] = 96
    image_crop: bool = False
    image_mean: Sequence[float] = (0.5, 0.5, 0.5)
    image_std: Sequence[float] = (0.5, 0.5, 0.5)
    max_clip_seconds: float | None = None
    num_frames: int | None = None

    @classmethod
    def from_config(cls, config: Any) -> MediaSettings:
        """Take the fields from a [`MediaEncoderConfig`]."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a processor stores them: `MediaSettings(**settings.to_dict()) == settings`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __post_init__(self) -> None:  # JSON has no tuples
        for name in ("image_size", "image_mean", "image_std"):
            value = getattr(self, name)
            if not isinstance(value, int):
                setattr(self, name, tuple(value))

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def check_rates(self, clip: Clip) -> None:
        """
        Raises:
            ValueError: a decoded clip has other rates than these.
        """
        for field, part, have in (
            ("sampling_rate", clip.audio, clip.sampling_rate),
            ("frame_rate", clip.frames, clip.fps),
        ):
            if part is not None and have != getattr(self, field):
                raise ValueError(
                    f"the clip's rate is {have} but `{field}` is {getattr(self, field)}: decode it at that."
                )


def prepare_media(
    audio: Sequence[Any] | None = None,
    video: Sequence[Any] | None = None,
    settings: MediaSettings | None = None,
    start: Sequence[float | None] | None = None,
    end: Sequence[float | None] | None = None,
) -> dict[str, np.ndarray]:
    """
    Decode and pad the media of a batch.

    Args:
        audio (list with one entry per sample, *optional*):
            A media source (see [`decode_clip`]), a waveform of shape `(num_samples,)` at `settings.sampling_rate`, a
            `dict` with `"array"` and `"sampling_rate"`, or `None`. `None` instead of the list: the batch has no sound.
        video (list with one entry per sample, *optional*):
            A media source, frames of shape `(num_frames, height, width, 3)` uint8 at `settings.frame_rate` (an array or
            a list of images), or `None`.
        settings ([`MediaSettings`], *optional*): How to prepare them.
        start, end (lists of `float`, seconds, *optional*): Part of every sample's media to use; `None` is open.

    Returns:
        `dict` of padded arrays: `input_values` (B, S) float32 with `input_values_mask` (B, S) int64, `pixel_values`
        (B, T, 3, H, W) float32 and `pixel_values_mask` (B, T) int64. A sample without a modality, also because its file
        has none, has a mask row of zeros; a modality that no sample has is left out.

    Raises:
        MediaError: a source cannot be decoded.
        ValueError: lists of different lengths, arrays of a wrong shape or type, or sound that is not finite.
    """
    settings = settings or MediaSettings()
    lists = {"audio": audio, "video": video, "start": start, "end": end}
    sizes = {name: len(items) for name, items in lists.items() if items is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"lists of different lengths {sizes}: give one entry per sample in each.")
    count = next(iter(sizes.values()), 0)
    columns: list[Sequence[Any]] = [[None] * count if items is None else items for items in lists.values()]
    samples = [_prepare_sample(a, v, s, e, settings) for a, v, s, e in zip(*columns)]
    waves, frames = [wave for wave, _ in samples], [pictures for _, pictures in samples]
    arrays = _pad("input_values", waves, np.float32)
    stacked = _pad("pixel_values", frames, np.uint8)
    if stacked:
        stacked["pixel_values"] = _normalize(stacked["pixel_values"], stacked["pixel_values_mask"], settings)
    return {**arrays, **stacked}


def _prepare_sample(
    audio: Any, video: Any, start: float | None, end: float | None, settings: MediaSettings
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Waveform and uint8 frames of one sample; a source named for both is opened once."""
    if settings.max_clip_seconds is not None:
        limit = (start or 0.0) + settings.max_clip_seconds
        end = limit if end is None else min(end, limit)
    wave = frames = None
    sound_is_file, pictures_are_file = _is_source(audio), _is_source(video)
    together = sound_is_file and pictures_are_file and _same_source(audio, video)
    request: dict[str, Any] = {
        "sampling_rate": settings.sampling_rate,
        "fps": settings.frame_rate,
        "size": settings.image_shape,
        "crop": settings.image_crop,
        "start": start,
        "end": end,
    }
    if sound_is_file:
        clip = decode_clip(audio, video=together, **request)
        wave, frames = clip.audio, clip.frames
    elif audio is not None:
        wave = _cut(_waveform(audio, settings), settings.sampling_rate, start, end)
    if pictures_are_file and not together:
        frames = decode_clip(video, audio=False, **request).frames
    elif video is not None and not together:
        frames = _cut(_frames(video, settings), settings.frame_rate, start, end)
    if wave is not None and not np.isfinite(wave).all():  # also of a file: sound may be stored as floats
        raise infinite_sound(audio, wave)
    return wave, frames if frames is None else _spread(frames, settings.num_frames)


def infinite_sound(source: Any, wave: np.ndarray) -> ValueError:
    """The error for sound that is not finite."""
    bad, what = int((~np.isfinite(wave)).sum()), source_name(source) if _is_source(source) else "a waveform"
    return ValueError(f"{what} holds {bad} NaN or infinite sound samples: repair it, or leave its sound out.")


def _is_source(item: Any) -> bool:
    if isinstance(item, dict):
        return "array" not in item
    return isinstance(item, (str, os.PathLike, bytes, bytearray, memoryview)) or callable(getattr(item, "read", None))


def _same_source(audio: Any, video: Any) -> bool:
    """Whether both come from one file; arrays, whose comparison is one by element, never do."""
    if not (_is_source(audio) and _is_source(video)):
        return False
    return audio is video or (type(audio) is type(video) and bool(audio == video))


def _waveform(item: Any, settings: MediaSettings) -> np.ndarray:
    rate = settings.sampling_rate
    if isinstance(item, dict):
        item, rate = item["array"], item["sampling_rate"]
    wave = np.asarray(item)
    if wave.ndim != 1 or not len(wave):
        raise ValueError(
            f"a waveform has shape {wave.shape}: give one channel, (num_samples,), with a sample at least."
        )
    if wave.dtype.kind == "i":
        wave = wave.astype(np.float32) / (np.iinfo(wave.dtype).max + 1)
    elif wave.dtype.kind != "f":
        raise ValueError(f"a waveform has dtype {wave.dtype}: give floats in [-1, 1] or signed integers.")
    return resample(wave, rate, settings.sampling_rate)


def _frames(item: Any, settings: MediaSettings) -> np.ndarray:
    frames = np.stack([np.asarray(image) for image in item]) if isinstance(item, (list, tuple)) else np.asarray(item)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"frames have shape {frames.shape} and dtype {frames.dtype}: give (num_frames, height, width, 3) uint8 RGB."
        )
    if frames.shape[1:3] == settings.image_shape:
        return frames
    av = require_av()
    scaler = av.video.reformatter.VideoReformatter()
    pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames]
    return np.stack([picture_array(picture, scaler, settings.image_shape, settings.image_crop) for picture in pictures])


def _cut(values: np.ndarray, rate: float, start: float | None, end: float | None) -> np.ndarray:
    part = values[round((start or 0.0) * rate) : None if end is None else round(end * rate)]
    if not len(part):
        raise MediaError(f"nothing between {start} and {end} s: the array lasts {len(values) / rate:.2f} s.")
    return part


def _spread(frames: np.ndarray, count: int | None) -> np.ndarray:
    """The middle frames of `count` equal parts."""
    return frames if count is None or len(frames) <= count else frames[spread_over(len(frames), count)]


def spread_over(total: int, count: int) -> np.ndarray:
    """Indices of the middles of `count` equal parts of `total` frames; all of them when there are not more."""
    return np.arange(total) if total <= count else (2 * np.arange(count) + 1) * total // (2 * count)


def _pad(name: str, items: list[np.ndarray | None], dtype: Any) -> dict[str, np.ndarray]:
    given = [item for item in items if item is not None]
    if not given:
        return {}
    values = np.zeros((len(items), max(len(item) for item in given), *given[0].shape[1:]), dtype)
    mask = np.zeros(values.shape[:2], np.int64)
    for row, item in enumerate(items):
        if item is not None:
            values[row, : len(item)] = item
            mask[row, : len(item)] = 1
    return {name: values, f"{name}_mask": mask}


def normalize_frames(frames: np.ndarray, settings: MediaSettings) -> np.ndarray:
    """uint8 (T, H, W, 3) to normalised float32 (T, 3, H, W)."""
    return _normalize(frames[None], np.ones((1, len(frames)), np.int64), settings)[0]


def _normalize(frames: np.ndarray, mask: np.ndarray, settings: MediaSettings) -> np.ndarray:
    """uint8 (B, T, H, W, 3) to normalised float32 (B, T, 3, H, W), zero in the padding."""
    mean, std = (np.asarray(values, np.float32) for values in (settings.image_mean, settings.image_std))
    values = frames.astype(np.float32)
    values *= 1 / (255 * std)
    values -= mean / std
    values[mask == 0] = 0.0
    return np.ascontiguousarray(values.transpose(0, 1, 4, 2, 3))
