"""Configuration of MAG-BERT.

Origins beside the fields: [paper] stated in the paper, [public] read in the authors' published settings, [choice] ours.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_fusion import FusionConfig


@strict
class MagBertConfig(FusionConfig):
    """
    Configuration of [`MagBertForSequenceClassification`].

    Args:
        shift_scale: β, the largest length of the shift in units of the length of the word vector.
        gate_dropout: after the gate's layer norm.
        norm_eps: keeps the length of an empty shift from dividing by zero.
    """

    model_type = "mag_bert"

    # `text_pooling`: the paper reads the first token; the mean stays the default, for all baselines to read a text alike.
    shift_scale: float | int = 1.0  # a hyper-parameter [paper]; value [public]
    gate_dropout: float | int = 0.5  # after the layer norm [paper]; value [public]
    norm_eps: float = 1e-6  # [choice]

    def validate_sources(self) -> None:
        if "text" not in self.modalities or len(self.modalities) < 2:
            raise ValueError(
                f"`modalities` is {list(self.modalities)}: MAG-BERT shifts the words of a text by audio or video or both."
            )

    def validate_scale(self) -> None:
        if self.shift_scale <= 0 or self.norm_eps <= 0:
            raise ValueError(f"`shift_scale` {self.shift_scale} and `norm_eps` {self.norm_eps} must be positive.")
