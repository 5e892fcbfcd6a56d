"""Raw clips to features, once: the rows of a dataset with `audio_features` and `video_features` beside their media."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Array2D, Dataset, Features
from filelock import FileLock
from transformers.utils import logging

from hf_mmintent.data.collator import MEDIA_COLUMNS
from hf_mmintent.modeling.media_decoding import MediaError
from hf_mmintent.modeling.media_windows import clip_seconds
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media

logger = logging.get_logger(__name__)

LONG = 30.0  # seconds: utterances are shorter; what is longer is not decoded at once


def media_column(names: list[str], modality: str) -> str | None:
    """The column that holds the raw media of a modality, if there is one."""
    return next((name for name in MEDIA_COLUMNS[modality] if name in names), None)


def has_raw_media(dataset: Dataset) -> bool:
    """Whether the rows hold media and not already their features."""
    names = dataset.column_names
    return any(media_column(names, m) and f"{m}_features" not in names for m in MEDIA_COLUMNS)


# Fields that saving adds, and those that bound memory or say what is trained: none of them changes a feature.
_NO_MATTER = {"_name_or_path", "architectures", "dtype", "transformers_version", "auto_map"}
_NO_MATTER |= {"frames_per_chunk", "audio_seconds_per_call", "freeze_backbones"}


def encoder_fingerprint(encoder: MediaEncoderModel) -> str:
    """Digest of an encoder's config, weights and their type: features made by different ones never meet in the cache."""
    fields = _without(encoder.config.to_diff_dict(), _NO_MATTER)
    digest = hashlib.sha256(json.dumps([fields, str(encoder.dtype)], sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _without(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The fields of a config and of the configs in it, without those of these names."""
    return {
        key: _without(value, names) if isinstance(value, dict) else value
        for key, value in fields.items()
        if key not in names
    }


def add_media_features(dataset: Dataset, encoder: MediaEncoderModel, batch_size: int = 16) -> Dataset:
    """
    Decode and encode every clip of `dataset`; the result is memory-mapped and cached by encoder and rows.

    Args:
        dataset: rows with `audio_path`/`video_path` or embedded `audio`/`video`.
        encoder: in eval mode.
        batch_size: clips per call.

    Returns:
        The dataset with `audio_features` and `video_features`; null where a clip lacks the stream.

    Raises:
        MediaError: a clip cannot be decoded; names the file and the row's id.
    """
    settings = MediaSettings.from_config(encoder.config)
    widths = {"audio": encoder.config.audio_feature_size, "video": encoder.config.video_feature_size}
    columns = {
        m: media_column(dataset.column_names, m)
        for m, width in widths.items()
        if width is not None and media_column(dataset.column_names, m) is not None
    }
    features = Features(
        {**dataset.features, **{f"{m}_features": Array2D((None, widths[m]), "float32") for m in columns}}
    )

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        size = len(batch["id"])
        clips = [decode_row({k: v[i] for k, v in batch.items()}, columns, settings) for i in range(size)]
        made, errors = encode_decoded(encoder, clips, columns)
        for name, error in zip(batch["id"], errors, strict=True):
            if error is not None:
                raise MediaError(f"{error} (row {name!r})") from error
        return {f"{m}_features": rows for m, rows in made.items()}

    key = f"{dataset._fingerprint}-{encoder_fingerprint(encoder)}-{sorted(columns.items())}-{datasets.__version__}"
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]
    with _one_at_a_time(dataset, fingerprint):
        return dataset.map(
            encode,
            batched=True,
            batch_size=batch_size,
            features=features,
            new_fingerprint=fingerprint,
            desc="clips to features",
        )


def _one_at_a_time(dataset: Dataset, fingerprint: str) -> AbstractContextManager[Any]:
    """Of several processes that want the same features, one makes them and the others find them in the cache."""
    if not dataset.cache_files:  # rows in memory have no cache
        return nullcontext()
    return FileLock(Path(dataset.cache_files[0]["filename"]).parent / f"features-{fingerprint}.lock")


@dataclass(frozen=True)
class LongClip:
    """
    A recording of which not all is decoded at once; its features are those that it would have among short ones.

    Args:
        audio, video (media source, *optional*): As in [`prepare_media`], of one sample.
        start, end (`float`, seconds, *optional*): Part of it to use.
    """

    audio: Any
    video: Any
    start: float | None
    end: float | None

    def features(self, encoder: MediaEncoderModel) -> dict[str, np.ndarray | None]:
        """Per modality float32 (T, D), `None` where it has none."""
        out = encoder.encode_recording(self.audio, self.video, start=self.start, end=self.end)
        return {name: rows[0] for name, rows in _rows(out, ("audio", "video"), 1).items()}


def decode_row(
    row: Mapping[str, Any], columns: Mapping[str, str], settings: MediaSettings
) -> dict[str, np.ndarray] | LongClip | MediaError | OSError:
    """
    The media of one row as arrays, or why they cannot be had; of what is longer than `LONG` seconds, where they are.

    Args:
        row: with its media columns, `start_time` and `end_time` where there are any.
        columns: media column by modality.
        settings: of the encoder.
    """
    media = {name: row[column] for name, column in columns.items()}
    audio, video = media.get("audio"), media.get("video")
    start, end = row.get("start_time"), row.get("end_time")
    try:
        if clip_seconds(audio, video, settings, start, end) > LONG:
            return LongClip(audio, video, start, end)
        lists = ([audio] if "audio" in media else None, [video] if "video" in media else None)
        return prepare_media(*lists, settings, [start], [end])
    except (MediaError, OSError) as error:
        return error


def encode_decoded(
    encoder: MediaEncoderModel, clips: Sequence[Any], modalities: Iterable[str]
) -> tuple[dict[str, list[np.ndarray | None]], list[Exception | None]]:
    """
    Args:
        encoder: in eval mode.
        clips: what [`decode_row`] made of every row.
        modalities: wanted, "audio" and "video".

    Returns:
        Features per modality and clip, float32 (T, D), `None` where a clip has none; and the error of every clip that has one.
    """
    modalities = list(modalities)
    found = encode_arrays(encoder, [clip if isinstance(clip, dict) else {} for clip in clips], modalities)
    errors: list[Exception | None] = [clip if isinstance(clip, Exception) else None for clip in clips]
    for place, clip in enumerate(clips):
        if isinstance(clip, LongClip):
            try:
                rows = clip.features(encoder)
            except (MediaError, OSError) as error:
                errors[place] = error
                continue
            for name in modalities:
                found[name][place] = rows[name]
    return found, errors


def encode_arrays(
    encoder: MediaEncoderModel, clips: Sequence[Mapping[str, np.ndarray]], modalities: Iterable[str]
) -> dict[str, list[np.ndarray | None]]:
    """
    Features per modality and clip, float32 (T, D), `None` where a clip has none.

    Args:
        encoder: in eval mode.
        clips: what [`prepare_media`] made of every clip alone; empty for a clip without media.
        modalities: wanted, "audio" and "video".
    """
    inputs: dict[str, np.ndarray] = {}
    for name in ("input_values", "pixel_values"):
        given = [clip[name][0] for clip in clips if name in clip]
        if given:
            values = np.zeros((len(clips), max(map(len, given)), *given[0].shape[1:]), given[0].dtype)
            mask = np.zeros(values.shape[:2], np.int64)
            for row, clip in enumerate(clips):
                if name in clip:
                    values[row, : clip[name].shape[1]] = clip[name][0]
                    mask[row, : clip[name].shape[1]] = clip[f"{name}_mask"][0]
            inputs |= {name: values, f"{name}_mask": mask}
    return _encode_batch(encoder, inputs, modalities, len(clips))


@torch.no_grad()
def _encode_batch(
    encoder: MediaEncoderModel, inputs: Mapping[str, np.ndarray], modalities: Iterable[str], count: int
) -> dict[str, list[np.ndarray | None]]:
    if not inputs:
        return {name: [None] * count for name in modalities}
    out = encoder.eval()(**{name: torch.from_numpy(value).to(encoder.device) for name, value in inputs.items()})
    return _rows(out, modalities, count)


def _rows(out: Mapping[str, Any], modalities: Iterable[str], count: int) -> dict[str, list[np.ndarray | None]]:
    """What an encoder returned, clip by clip without padding."""
    found: dict[str, list[np.ndarray | None]] = {name: [None] * count for name in modalities}
    for name in found:
        values, mask = out.get(f"{name}_features"), out.get(f"{name}_attention_mask")
        if values is not None:
            rows = values.float().cpu().numpy()
            found[name] = [rows[i, :n] if n else None for i, n in enumerate(mask.sum(1).tolist())]
    return found
