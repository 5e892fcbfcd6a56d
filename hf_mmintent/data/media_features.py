"""Raw clips to features, once: the rows of a dataset with `audio_features` and `video_features` beside their media."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media

logger = logging.get_logger(__name__)


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
        media = {m: batch[column] for m, column in columns.items()}
        made = encode_media(encoder, settings, media, batch["id"], batch.get("start_time"), batch.get("end_time"))
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


def encode_media(
    encoder: MediaEncoderModel,
    settings: MediaSettings,
    media: dict[str, list[Any]],
    ids: list[Any],
    start: list[float | None] | None = None,
    end: list[float | None] | None = None,
) -> dict[str, list[np.ndarray | None]]:
    """Features per modality and clip, float32 (T, D), `None` where a clip has none."""
    try:
        inputs = prepare_media(media.get("audio"), media.get("video"), settings, start, end)
    except MediaError as error:
        raise MediaError(f"{error} (one of the rows {ids[0]!r} … {ids[-1]!r})") from error
    return _encode_batch(encoder, inputs, media, len(ids))


def encode_arrays(
    encoder: MediaEncoderModel, clips: Sequence[Mapping[str, np.ndarray]], modalities: Iterable[str]
) -> dict[str, list[np.ndarray | None]]:
    """
    As [`encode_media`], from clips that were decoded one by one.

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
    found: dict[str, list[np.ndarray | None]] = {name: [None] * count for name in modalities}
    if not inputs:
        return found
    out = encoder.eval()(**{name: torch.from_numpy(value).to(encoder.device) for name, value in inputs.items()})
    for name in found:
        values, mask = out.get(f"{name}_features"), out.get(f"{name}_attention_mask")
        if values is not None:
            rows = values.float().cpu().numpy()
            found[name] = [rows[i, :n] if n else None for i, n in enumerate(mask.sum(1).tolist())]
    return found
