"""Configuration of late fusion by concatenation."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_utterance import UtteranceConfig


@strict
class ConcatFusionConfig(UtteranceConfig):
    """
    Configuration of [`ConcatFusionForSequenceClassification`].

    Args:
        fusion_dropout: on the joined vectors.
    """

    model_type = "concat_fusion"

    fusion_dropout: float | int = 0.1
