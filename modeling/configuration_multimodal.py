"""What the configurations of all classifiers and regressors over text, audio and video share."""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_base import MMIntentConfig
from .configuration_media_encoder import MediaEncoderConfig
from .out_of_scope import OutOfScope


@strict
class MultimodalConfig(MMIntentConfig):
    """
    Fields shared by the classifiers.

    Args:
        modalities (`tuple[str, ...]`):
            Names of the modalities, in the order in which outputs report them.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the text backbone, any `AutoModel` encoder. BERT-base when text is a modality and none is given.
        encoder_config (`dict` or [`MediaEncoderConfig`], *optional*):
            When given, the model owns a media encoder and takes waveforms (`input_values`) and frames (`pixel_values`)
            in place of `audio_features` and `video_features`.
        calibration_temperature (`float`):
            Logits are divided by it before they become probabilities; fitted on validation rows, 1 is uncalibrated.
        out_of_scope (`dict`, *optional*):
            When a sample belongs to none of the classes: the fields of [`OutOfScope`], as `examples/fit_out_of_scope.py` fits
            them. Logits stay as they are; pipeline, prediction and evaluation apply it.
        initializer_range (`float`): standard deviation of newly initialised weights.
    """

    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "encoder_config": SubConfigSpec(config_class=MediaEncoderConfig, optional=True),
    }

    modalities: tuple[str, ...] | list[str] = ("text", "audio", "video")
    text_config: dict | PreTrainedConfig | None = None
    encoder_config: dict | PreTrainedConfig | None = None
    # What the processor does to features that were extracted beforehand has to happen to those made inside as well:
    # `{"audio": {"mean": [...], "std": [...]}}` and `{"audio": steps}`; training sets both.
    media_feature_stats: dict | None = None
    media_max_lengths: dict | None = None
    calibration_temperature: float | int = 1.0
    out_of_scope: dict | None = None
    initializer_range: float = 0.02  # BERT's; not given in the papers

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None and "text" in self.modalities:
            self.text_config = AutoConfig.for_model("bert")
        super().__post_init__(**kwargs)
        if self.problem_type is None:
            self.problem_type = "regression" if self.num_labels == 1 else "single_label_classification"

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Width of `<modality>_features` for every modality that is not text."""
        return {name: getattr(self, f"{name}_feature_size") for name in self.modalities if name != "text"}

    @property
    def zero_diagnostics(self) -> dict[str, str]:
        """Figures of `diagnostics` that must not stay 0 in training, and what it means when they do."""
        return {}

    def validate_modalities(self) -> None:
        if not self.modalities:
            raise ValueError("`modalities` is empty: name at least one of text, audio, video.")
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"`modalities` = {list(self.modalities)} names a modality twice: list each one once.")

    def validate_calibration(self) -> None:
        if not 0 < self.calibration_temperature < math.inf:
            raise ValueError(
                f"`calibration_temperature` is {self.calibration_temperature}: a positive number, 1 for none."
            )

    def validate_regression_labels(self) -> None:
        if self.problem_type == "regression" and self.num_labels != 1:
            raise ValueError(f"`problem_type` is regression but `num_labels` is {self.num_labels}: set `num_labels=1`.")

    def validate_out_of_scope(self) -> None:
        rule = OutOfScope.of(self)
        if rule is None:
            return
        if self.problem_type != "single_label_classification":
            raise ValueError(
                f"`out_of_scope` is set but `problem_type` is {self.problem_type}: it is a rule for classes."
            )
        rule.check(self.id2label)

    def validate_encoder(self) -> None:
        if not isinstance(self.encoder_config, MediaEncoderConfig):
            return
        for name, made in (
            ("audio", self.encoder_config.audio_feature_size),
            ("video", self.encoder_config.video_feature_size),
        ):
            wanted = self.feature_sizes.get(name)
            if wanted is not None and made is not None and made != wanted:
                raise ValueError(
                    f"`encoder_config` makes {name} features of width {made} but `{name}_feature_size` is {wanted}: "
                    f"set `{name}_feature_size={made}` or change the encoder."
                )
