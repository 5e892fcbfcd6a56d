"""Raw clips to features, once: the rows of a dataset with `audio_features` and `video_features` beside their media."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Array2D, Dataset, Features
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


def encoder_fingerprint(encoder: MediaEncoderModel) -> str:
    """Digest of an encoder's config and weights: features made by different ones never meet in the cache."""
    digest = hashlib.sha256(json.dumps(encoder.config.to_diff_dict(), sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


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
    return dataset.map(
        encode,
        batched=True,
        batch_size=batch_size,
        features=features,
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        desc="clips to features",
    )


@torch.no_grad()
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
    device = next(encoder.parameters(), torch.empty(0)).device
    out = encoder.eval()(**{name: torch.from_numpy(value).to(device) for name, value in inputs.items()})
    found: dict[str, list[np.ndarray | None]] = {}
    for name in media:
        values, mask = out[f"{name}_features"], out[f"{name}_attention_mask"]
        if values is None:
            found[name] = [None] * len(ids)
            continue
        lengths = mask.sum(1).tolist()
        rows = values.float().cpu().numpy()
        found[name] = [rows[i, :n] if n else None for i, n in enumerate(lengths)]
    return found
