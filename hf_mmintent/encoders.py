"""Media encoders by a few settings, as YAML files and command lines write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel

from hf_mmintent.backbones import resolve_backbone
from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel


def build_encoder(settings: Mapping[str, Any]) -> MediaEncoderModel:
    """
    A media encoder in eval mode.

    Args:
        settings: one of
            `{"path": ...}`: folder or Hub id of a saved encoder, or of a model that owns one;
            `{"preset": "xmei"}`: see `modeling/media_presets.py`; `audio`, `video` name other copies of its parts;
            `{"audio": ..., "video": ...}`: pretrained parts by name or path;
            none of these: the front ends without weights.
            Every other entry is a field of [`MediaEncoderConfig`].

    Raises:
        ValueError: settings that exclude each other, or a model without an encoder.
    """
    fields = dict(settings)
    path, preset = fields.pop("path", None), fields.pop("preset", None)
    parts = {name: resolve_backbone(fields.pop(name)) for name in ("audio", "video") if fields.get(name) is not None}
    for name in ("audio", "video"):
        fields.pop(name, None)
    if path is not None:
        if preset is not None or parts or fields:
            others = sorted([*parts, *fields, *(["preset"] if preset else [])])
            raise ValueError(f"the encoder has `path` {path!r} and also {others}: a saved encoder is taken as it is.")
        return _saved(path)
    if preset is not None:
        return MediaEncoderModel.from_preset(preset, **parts, **fields)
    if parts:
        missing = {f"{name}_front_end": None for name in ("audio", "video") if name not in parts}
        return MediaEncoderModel.from_backbones(**parts, **{**missing, **fields})
    return MediaEncoderModel(MediaEncoderConfig(**fields)).eval()


def _saved(path: str | Path) -> MediaEncoderModel:
    """The encoder that was saved there, by itself or inside a model."""
    config = AutoConfig.from_pretrained(str(path))
    if isinstance(config, MediaEncoderConfig):
        return MediaEncoderModel.from_pretrained(str(path)).eval()
    if getattr(config, "encoder_config", None) is None:
        raise ValueError(
            f"{path} holds a {config.model_type!r} model without `encoder_config`: it has no media encoder."
        )
    return AutoModel.from_pretrained(str(path)).eval().backbone_owner().media_encoder
