"""A tiny checkpoint that takes raw clips, for the tests of what runs on recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification
from hf_mmintent.modeling.processing_mvcl_daf import MvclDafProcessor

from .testers import MvclDafTester, tiny_bert

TASK = "multimodal-intent-recognition"


def save_clip_checkpoint(folder: Path, tokenizer: Any, **overrides: Any) -> Path:
    """A tiny MVCL-DAF classifier that owns a media encoder, with its processor."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "text_config": tiny_bert(vocab_size=len(tokenizer)),
        "encoder_config": MediaEncoderConfig(num_mel_bins=6, grid_size=4, image_size=24),
        "audio_feature_size": 6,
        "video_feature_size": 16,
        "max_text_length": 24,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask", "pad")},
    }
    config = MvclDafTester().config(**{**fields, **overrides})
    MvclDafForSequenceClassification(config).save_pretrained(folder)
    MvclDafProcessor.from_config(config, tokenizer).save_pretrained(folder)
    return folder
