"""Configuration of MISA.

Origins beside the fields: [paper] stated in the paper, [public] read in the authors' published settings, [choice] ours.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_fusion import FusionConfig


@strict
class MisaConfig(FusionConfig):
    """
    Configuration of [`MisaForSequenceClassification`].

    Args:
        hidden_size: d_h, width of every representation.
        lstm_hidden_size: per direction, of the stacked LSTMs over audio and video.
        fusion_heads: of the attention over the representations; divides `hidden_size`.
        fusion_dropout: in that attention and in the layer behind it.
        similarity_loss_weight, difference_loss_weight, reconstruction_loss_weight: α, β, γ.
        num_moments: K, moments that the similarity compares.
        difference_reduction: squared Frobenius norm as a sum, as printed, or the mean over the entries of the matrix.
    """

    model_type = "misa"

    hidden_size: int = 128  # [public]
    lstm_hidden_size: int = 64  # the authors take the features' own width; ours keeps wide features affordable [choice]
    fusion_heads: int = 2  # [public]
    fusion_dropout: float | int = 0.1  # [choice]
    similarity_loss_weight: float | int = 1.0  # CMU-MOSI [public]
    difference_loss_weight: float | int = 0.3
    reconstruction_loss_weight: float | int = 1.0
    num_moments: int = 5  # [public]
    # The sum grows with batch and width and at weight 0.3 drowns the task [derived]; the authors average [public].
    difference_reduction: Literal["mean", "sum"] = "mean"

    @property
    def regularizer_weights(self) -> dict[str, float]:
        """Weight of every loss beside that of the task."""
        return {
            "similarity": self.similarity_loss_weight,
            "difference": self.difference_loss_weight,
            "reconstruction": self.reconstruction_loss_weight,
        }

    def validate_pairs(self) -> None:
        if len(self.modalities) < 2:
            raise ValueError(f"`modalities` is {list(self.modalities)}: what modalities share needs two or three.")

    def validate_widths(self) -> None:
        self.check_divisible("hidden_size", "fusion_heads")
        if self.num_moments < 1 or self.lstm_hidden_size < 1:
            raise ValueError(
                f"`num_moments` {self.num_moments} and `lstm_hidden_size` {self.lstm_hidden_size} must be at least 1."
            )
