"""Base class of every model of the package: construction from pretrained parts, saving, initialisation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from .configuration_media_encoder import MediaEncoderConfig
from .layers import ReluLinear
from .modeling_media_encoder import MediaEncoderModel
from .peephole_lstm import PeepholeBiLSTM
from .pipelines import custom_pipelines
from .processing_media import MediaSettings
from .sequence_alignment import LogitScale
from .text_backbone import load_text_backbone

logger = logging.get_logger(__name__)


class MMIntentPreTrainedModel(PreTrainedModel):
    """
    What all architectures share.

    Subclasses set `config_class`, `base_model_prefix` and `_auto_map`, the Auto classes of their whole family.
    """

    base_model_prefix = "model"
    # The loss is a mean over the batch: with False, gradient accumulation and several processes scale it rightly.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _auto_map: ClassVar[dict[str, str]] = {}
    citation: ClassVar[str] = ""  # BibTeX of the paper, for model cards
    # Validation score that selects the best epoch of a stage, by stage; a stage that is absent uses the run's score.
    stage_metrics: ClassVar[dict[str, str]] = {}
    _frozen_from_outside: frozenset[str] | None = None

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        config.validate()  # cross-field rules are not checked on assignment
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> MMIntentPreTrainedModel:
        """
        As in transformers, which takes fields of the config as further arguments.

        Raises:
            ValueError: such a field is unknown; the message names the closest known one.
        """
        try:
            return super().from_pretrained(*args, **kwargs)
        except TypeError as error:  # what is no field of the config reaches `__init__`, which takes nothing else
            found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if found is None or found[1] not in kwargs:
                raise
            raise ValueError(cls.config_class.unknown_field(found[1])) from error

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the checkpoint names every class of the family, whichever of them wrote it."""
        if self._auto_class is not None:  # the code travels with the weights only then
            self.config.auto_map = dict(self._auto_map)
            self.config.custom_pipelines = custom_pipelines(self._auto_map)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PeepholeBiLSTM):
            module.reset_parameters()
        elif isinstance(module, ReluLinear):
            # The N(0, 0.02) of language models would shrink a stack of these to nothing.
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, LogitScale):
            init.zeros_(module.log_scale)
        elif isinstance(module, nn.LSTM):
            # torch's own rule; xavier on the stacked gates of these small recurrences starts them nearly closed.
            bound = module.hidden_size**-0.5
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)

    # ---- training in stages -------------------------------------------------------------------------------------

    def set_stage(self, name: str) -> None:
        """
        Enter a training stage: edits `config.training_stage` and which parameters require a gradient, nothing else.

        Parameters that were frozen before the first call stay frozen in every stage.

        Args:
            name: of a stage in `config.stages`, or another value of `config.training_stage`, which trains everything.

        Raises:
            ValueError: the model has no such stage, or a regular expression of the stage finds no parameter.
        """
        stages = {stage.name: stage for stage in self.config.training_stages}
        if not hasattr(self.config, "training_stage"):
            raise ValueError(f"{type(self).__name__} has no stage {name!r}: it trains in one go.")
        try:
            self.config.training_stage = name
        except StrictDataclassFieldValidationError as error:
            raise ValueError(f"{type(self).__name__} has no stage {name!r}: `stages` has {list(stages)}.") from error
        parameters = dict(self.named_parameters())
        if self._frozen_from_outside is None:
            self._frozen_from_outside = frozenset(key for key, p in parameters.items() if not p.requires_grad)
        patterns = stages[name].trainable if name in stages else None
        for pattern in patterns or ():
            if not any(re.search(pattern, key) for key in parameters):
                raise ValueError(f"stage {name!r} of `stages`: no parameter is found by {pattern!r}.")
        for key, parameter in parameters.items():
            chosen = patterns is None or any(re.search(pattern, key) for pattern in patterns)
            parameter.requires_grad_(chosen and key not in self._frozen_from_outside)

    def on_stage_epoch_start(self, dataloader: Iterable[Mapping[str, Tensor]]) -> None:
        """
        Called by the trainer before every epoch of every stage; nothing to do for most architectures.

        Args:
            dataloader: this process's share of the training rows once, in order, with labels and without augmentation.
        """

    def training_state(self) -> dict[str, Tensor]:
        """What training keeps beside the weights and needs to go on exactly where it was; nothing for most architectures."""
        return {}

    def set_training_state(self, state: Mapping[str, Tensor]) -> None:
        """
        Take what [`training_state`] gave, or forget what is left of an earlier stage.

        Args:
            state: of a checkpoint of the trainer; empty at the beginning of a stage.
        """

    @classmethod
    def from_backbones(
        cls,
        text: str | PreTrainedModel | None = None,
        audio: int | PreTrainedConfig | PreTrainedModel | None = None,
        video: int | PreTrainedConfig | PreTrainedModel | None = None,
        encoder: MediaEncoderConfig | MediaEncoderModel | None = None,
        **config_fields: Any,
    ) -> MMIntentPreTrainedModel:
        """
        Build a model from pretrained parts; `save_pretrained` then holds everything.

        Args:
            text (`str` or `PreTrainedModel`, *optional*):
                Name, path or model of the text backbone. A model does not know its tokenizer: give special-token ids of the
                config as `config_fields` with it, unless they are BERT's.
            audio, video (`int`, config or model, *optional*):
                Width of the features that are extracted beforehand; of a config or model only `hidden_size` is read.
            encoder ([`MediaEncoderConfig`] or [`MediaEncoderModel`], *optional*):
                Media encoder that the model owns, so that it takes raw clips. Its widths are those of the features.
            config_fields: fields of the architecture's config.

        Raises:
            ValueError: a config field is unknown, or two of the widths disagree.
        """
        fields: dict[str, Any] = dict(config_fields)
        text_config = None
        if text is not None:
            text_config = text.config if isinstance(text, PreTrainedModel) else AutoConfig.from_pretrained(text)
            fields.setdefault("text_config", text_config)
            if isinstance(text, str) and hasattr(cls.config_class, "text_token_fields"):
                tokenizer = AutoTokenizer.from_pretrained(text)
                fields = {**cls.config_class.text_token_fields(tokenizer), **fields}
        if encoder is not None:
            encoder_config = encoder.config if isinstance(encoder, MediaEncoderModel) else encoder
            fields.setdefault("encoder_config", encoder_config)
            audio = encoder_config.audio_feature_size if audio is None else audio
            video = encoder_config.video_feature_size if video is None else video
        fields = {**cls._width_fields({"audio": audio, "video": video}), **fields}
        model = cls(cls.config_class(**fields))
        if text is not None:
            model.backbone_owner().text_model = load_text_backbone(text, model.config.text_config)
        if isinstance(encoder, MediaEncoderModel):
            model.backbone_owner().media_encoder.load_state_dict(encoder.state_dict())
        model.after_backbones()
        return model

    @classmethod
    def _width_fields(cls, widths: dict[str, int | PreTrainedConfig | PreTrainedModel | None]) -> dict[str, Any]:
        """Config fields that hold the feature widths."""
        fields = {}
        for name, given in widths.items():
            if given is None:
                continue
            if isinstance(given, PreTrainedModel):
                given = given.config
            fields[f"{name}_feature_size"] = given if isinstance(given, int) else given.hidden_size
        return fields

    def after_backbones(self) -> None:
        """Called once the pretrained parts are in place; for copies of them and the like."""

    def backbone_owner(self) -> nn.Module:
        """The module that holds `text_model` and `media_encoder`: the base model of a head, or the model itself."""
        return self.base_model

    def encode_media(
        self,
        input_values: Tensor | None,
        input_values_mask: Tensor | None,
        pixel_values: Tensor | None,
        pixel_values_mask: Tensor | None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """
        Features of raw sound and pictures by the encoder the model owns.

        Returns:
            `{"audio": (features, mask), "video": ...}` for what was given.

        Raises:
            ValueError: raw media was given to a checkpoint without `encoder_config`.
        """
        if input_values is None and pixel_values is None:
            return {}
        if self.config.encoder_config is None:
            given = "`input_values`" if input_values is not None else "`pixel_values`"
            raise ValueError(
                f"{given} is raw media but this checkpoint has no `encoder_config`: pass `audio_features` and "
                f"`video_features` of widths {self.config.feature_sizes}, or build it with `from_backbones(encoder=...)`."
            )
        out = self.media_encoder(
            input_values=input_values,
            input_values_mask=input_values_mask,
            pixel_values=pixel_values,
            pixel_values_mask=pixel_values_mask,
        )
        made = {
            "audio": (out.audio_features, out.audio_attention_mask),
            "video": (out.video_features, out.video_attention_mask),
        }
        return {name: self._as_trained(name, *pair) for name, pair in made.items() if pair[0] is not None}

    @torch.no_grad()
    def clip_features(
        self, audio: Any = None, video: Any = None, settings: MediaSettings | None = None
    ) -> dict[str, Tensor]:
        """
        What the encoder that the model owns makes of one clip of any length, for `forward` in place of raw media.

        As `forward` makes it inside, up to rounding, but the clip is decoded and encoded part by part: of a long one only the
        features are held.

        Args:
            audio, video (media source or array, *optional*): Where its sound and pictures come from.
            settings ([`MediaSettings`], *optional*): How they are decoded, if not as `config.encoder_config` says.

        Returns:
            `<modality>_features` (1, T, D) and `<modality>_attention_mask` (1, T) of what the clip has.

        Raises:
            MediaError: a source cannot be decoded.
            ValueError: the checkpoint has no `encoder_config`.
        """
        if self.config.encoder_config is None:
            raise ValueError(
                "a clip is given but this checkpoint has no `encoder_config`: pass `audio_features` and `video_features` of "
                f"widths {self.config.feature_sizes}, or build it with `from_backbones(encoder=...)`."
            )
        encoder = self.backbone_owner().media_encoder
        out = encoder.encode_recording(audio, video, settings)
        found: dict[str, Tensor] = {}
        for name in ("audio", "video"):
            if out.get(f"{name}_features") is not None:
                self._warn_if_cut(name, out[f"{name}_features"].shape[1])
                pair = self._as_trained(name, out[f"{name}_features"], out[f"{name}_attention_mask"])
                found[f"{name}_features"], found[f"{name}_attention_mask"] = pair
        return found

    def seconds_read(self, modalities: Sequence[str] = ("audio", "video")) -> float | None:
        """
        How much of a recording reaches the model: training cut features after `config.media_max_lengths` steps, and what is
        made inside is cut alike.

        Args:
            modalities: Those that count; the one that is cut first decides.

        Returns:
            Seconds, or `None` where nothing is cut, or not after a fixed time.
        """
        if self.config.encoder_config is None:
            return None
        encoder, lengths = self.backbone_owner().media_encoder, self.config.media_max_lengths or {}
        rates = {name: encoder.feature_rate(name) for name in modalities if name in ("audio", "video")}
        limits = [lengths[name] / rate for name, rate in rates.items() if rate and lengths.get(name)]
        return min(limits, default=None)

    def _warn_if_cut(self, name: str, steps: int) -> None:
        seconds = self.seconds_read([name])
        if seconds is not None and steps > self.config.media_max_lengths[name]:
            logger.warning(
                f"the {name} of this recording has {steps} steps, of which this checkpoint reads the first "
                f"{self.config.media_max_lengths[name]} ({seconds:.3g} s): label longer ones with a pipeline, window by window."
            )

    def _as_trained(self, name: str, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features made inside, cut and standardised like the extracted ones of training."""
        length = (self.config.media_max_lengths or {}).get(name)
        features, mask = features[:, :length], mask[:, :length]
        stats = (self.config.media_feature_stats or {}).get(name)
        if stats is not None:
            mean, std = (
                torch.tensor(stats[key], device=features.device, dtype=features.dtype) for key in ("mean", "std")
            )
            features = (features - mean) / std
        return features, mask
