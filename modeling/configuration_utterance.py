"""What the configurations of the baselines with one vector per modality share."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_fusion import FusionConfig


@strict
class UtteranceConfig(FusionConfig):
    """
    Sizes of the encoders; all of them are ours, there is no paper to follow.

    Args:
        hidden_size: width d of every vector.
        encoder_layers, encoder_heads, encoder_dropout: of the Transformers over audio and video frames.
    """

    hidden_size: int = 128
    encoder_layers: int = 2
    encoder_heads: int = 4
    encoder_dropout: float | int = 0.1

    def validate_widths(self) -> None:
        self.check_divisible("hidden_size", "encoder_heads")
