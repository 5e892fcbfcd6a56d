"""Configuration of the unimodal baseline."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_utterance import UtteranceConfig


@strict
class UnimodalConfig(UtteranceConfig):
    """
    Configuration of [`UnimodalForSequenceClassification`].

    Args:
        modalities: the one modality that the model reads.
    """

    model_type = "unimodal"

    modalities: tuple[str, ...] | list[str] = ("text",)

    def validate_single(self) -> None:
        if len(self.modalities) != 1:
            raise ValueError(
                f"`modalities` is {list(self.modalities)}: the unimodal baseline reads exactly one; `concat_fusion` takes "
                "several."
            )
