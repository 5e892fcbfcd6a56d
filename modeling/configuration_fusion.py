"""What the configurations of the baselines over text, audio and video share."""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_multimodal import MultimodalConfig


@strict
class FusionConfig(MultimodalConfig):
    """
    Fields shared by the baselines. Their papers use other text encoders and features than each other: what is needed to
    compare them on the same footing is the same for all of them here.

    Args:
        audio_feature_size, video_feature_size: width of the features; those of the CMU-MOSI files.
        text_pooling: what stands for a whole text, the mean over its tokens or the first one.
        head_dropout: before the classifier.
        regression_loss: `mse` or `l1`.
    """

    keys_to_ignore_at_inference = [
        "embeddings",
        "loss_terms",
        "modality_weights",
        "regularizers",
        "hidden_states",
        "attentions",
    ]

    audio_feature_size: int = 5
    video_feature_size: int = 20
    text_pooling: Literal["mean", "first"] = "mean"
    head_dropout: float | int = 0.1
    regression_loss: Literal["mse", "l1"] = "mse"

    @property
    def modality_weight_names(self) -> tuple[str, ...]:
        """Names of the columns of `modality_weights`; none, the baselines report no weights."""
        return ()

    @property
    def regularizer_weights(self) -> dict[str, float]:
        """Weight of every loss beside that of the task."""
        return {}

    def validate_names(self) -> None:
        unknown = set(self.modalities) - {"text", "audio", "video"}
        if unknown:
            raise ValueError(
                f"`modalities` names {sorted(unknown)}: {type(self).__name__} takes text, audio and video."
            )

    def validate_dropouts(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("dropout") and isinstance(value, (int, float)) and not 0 <= value < 1:
                raise ValueError(f"`{name}` is {value}: choose a value in [0, 1).")

    def validate_loss_weights(self) -> None:
        for name, value in self.regularizer_weights.items():
            if value < 0:
                raise ValueError(f"`{name}_loss_weight` is {value}: it must not be negative, 0 switches the loss off.")

    def check_divisible(self, width_name: str, heads_name: str, width: int | None = None) -> None:
        """Raise `ValueError` unless the heads divide the width (`getattr(self, width_name)` when not given)."""
        width, heads = getattr(self, width_name) if width is None else width, getattr(self, heads_name)
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(
                f"`{width_name}` = {width} is not divisible by `{heads_name}` = {heads}: choose a divisor."
            )
