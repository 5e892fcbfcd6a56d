"""The media encoder: waveforms and frames to `audio_features` and `video_features`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import ModelOutput, can_return_tuple, logging

from .configuration_media_encoder import MediaEncoderConfig
from .media_decoding import Clip, MediaError, MediaSource
from .media_front_ends import AudioBackbone, ImageBackbone, LogMel, PixelGrid, encoder_of
from .media_presets import media_preset
from .media_streams import picture_features, sound_features
from .processing_media import MediaSettings

logger = logging.get_logger(__name__)

_AUDIO_FRONT_ENDS = {"log_mel": LogMel, "backbone": AudioBackbone}
_VIDEO_FRONT_ENDS = {"pixel_grid": PixelGrid, "backbone": ImageBackbone}


@dataclass
class MediaEncoderOutput(ModelOutput):
    """
    Features in the form that every architecture of the package takes.

    Args:
        audio_features (`torch.FloatTensor` of shape `(batch_size, audio_length, audio_feature_size)`, *optional*):
            Zero where the mask is 0. `None` when no waveforms were given.
        audio_attention_mask (`torch.LongTensor` of shape `(batch_size, audio_length)`, *optional*):
            1 for valid steps; a row of zeros is a sample without sound.
        video_features (`torch.FloatTensor` of shape `(batch_size, video_length, video_feature_size)`, *optional*):
            The same for frames.
        video_attention_mask (`torch.LongTensor` of shape `(batch_size, video_length)`, *optional*):
            The same for frames.
    """

    audio_features: Tensor | None = None
    audio_attention_mask: Tensor | None = None
    video_features: Tensor | None = None
    video_attention_mask: Tensor | None = None


class MediaEncoderModel(PreTrainedModel):
    """
    Audio and video front ends behind one `forward`; a sample's features depend on that sample alone.

    Args:
        config ([`MediaEncoderConfig`]): Front ends and what they need.
    """

    config: MediaEncoderConfig
    config_class = MediaEncoderConfig
    weightless: Tensor | None
    base_model_prefix = "media_encoder"
    main_input_name = "input_values"
    accepts_loss_kwargs = False
    _supports_sdpa = _supports_attention_backend = True
    _auto_map = {
        "AutoConfig": "configuration_media_encoder.MediaEncoderConfig",
        "AutoModel": "modeling_media_encoder.MediaEncoderModel",
    }

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__(config)
        config.validate()
        audio, video = config.audio_front_end, config.video_front_end
        self.audio_front_end = None if audio is None else _AUDIO_FRONT_ENDS[audio](config)
        self.video_front_end = None if video is None else _VIDEO_FRONT_ENDS[video](config)
        # A checkpoint without a tensor is not written at all, and could not be opened again.
        self.register_buffer("weightless", torch.zeros(1) if next(self.parameters(), None) is None else None)
        self.post_init()
        self.train(self.training)  # freezes

    @classmethod
    def from_backbones(
        cls,
        audio: str | None = None,
        video: str | None = None,
        dtype: torch.dtype = torch.float32,
        **config_fields: Any,
    ) -> MediaEncoderModel:
        """
        Build an encoder from pretrained parts; `save_pretrained` then holds all of it.

        Sampling rate, waveform normalisation, image size, cropping and colour statistics are read from the parts'
        preprocessor files. A resize-then-crop with a margin (resize to 256, crop to 224) becomes a resize to the crop.

        Args:
            audio (`str`, *optional*): Name or path of a speech encoder (wav2vec 2.0, HuBERT, WavLM, Whisper, ...).
            video (`str`, *optional*): Name or path of an image encoder (CLIP, ViT, Swin, ResNet, EfficientNet, ...).
            dtype (`torch.dtype`): Of the weights, and of the features that backbones make.
            config_fields: Fields of [`MediaEncoderConfig`]; they win over what the parts say.

        Returns:
            [`MediaEncoderModel`] in eval mode.

        Raises:
            ValueError: a part does not say how its input is prepared, or has no weights for the requested pooling.
        """
        fields: dict[str, Any] = {}
        if audio is not None:
            fields |= {"audio_front_end": "backbone", "audio_config": AutoConfig.from_pretrained(audio)}
            fields |= _sound_preparation(audio)
        if video is not None:
            fields |= {"video_front_end": "backbone", "video_config": AutoConfig.from_pretrained(video)}
            fields |= _image_preparation(video, config_fields)
        config = cls.config_class(**{**fields, **config_fields})
        with torch.device("meta"):  # the backbones' random weights are replaced at once: give them no memory
            model = cls(config)
        if isinstance(model.audio_front_end, AudioBackbone):
            model.audio_front_end.encoder = encoder_of(_load_part(str(audio), config.audio_config))
        if isinstance(model.video_front_end, ImageBackbone):
            model.video_front_end.encoder = _load_part(str(video), config.video_config, pooling=config.video_pooling)
        return model.to(dtype).eval()

    @classmethod
    def from_preset(
        cls, name: str, audio: str | None = None, video: str | None = None, **config_fields: Any
    ) -> MediaEncoderModel:
        """
        The encoders behind a dataset's features: `mintrec`, `mintrec2` or `xmei`; `media_presets.py` lists widths, rates
        and differences to the published files.

        Args:
            name (`str`): Of the preset.
            audio, video (`str`, *optional*): Paths of the parts, in place of their names on the Hub.
            config_fields: As in [`from_backbones`]; `audio_front_end=None` or `video_front_end=None` leaves a part out.

        Raises:
            ValueError: there is no such preset.
        """
        preset = media_preset(name)
        names: dict[str, str | None] = {"audio": audio or preset.audio, "video": video or preset.video}
        fields = dict(preset.fields)
        for modality in names:
            if config_fields.get(f"{modality}_front_end", "backbone") != "backbone":
                names[modality] = None
                fields = {key: value for key, value in fields.items() if not key.startswith(modality)}
        return cls.from_backbones(**names, **{**fields, **config_fields})

    @property
    def device(self) -> torch.device:
        """Where the model is; front ends without weights have a buffer that moves with them."""
        return super().device if self.weightless is None else self.weightless.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; without weights float32, in which the formulas are computed."""
        return super().dtype if self.weightless is None else torch.float32

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MediaEncoderModel) and module.weightless is not None:
            init.zeros_(module.weightless)

    def train(self, mode: bool = True) -> MediaEncoderModel:
        """
        As in torch, but frozen backbones stay in eval mode (dropout would change the features from step to step) and
        without gradients: `from_pretrained` gives every parameter a gradient again, and ends with `eval()`.
        """
        super().train(mode and not self.config.freeze_backbones)
        self.training = mode
        if self.config.freeze_backbones:
            self.requires_grad_(False)
        return self

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_mask: Tensor | None = None,
    ) -> MediaEncoderOutput:
        r"""
        Turn media into features.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`, *optional*):
                Mono waveforms at `config.sampling_rate`. `None` means that no sample of the batch has sound.
            input_values_mask (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                1 for samples of the clip, 0 for padding, whose values (even NaN) do not matter. A row of zeros marks a
                sample without sound. All ones when not given.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_frames, 3, height, width)`, *optional*):
                Frames at `config.frame_rate`, normalised with `config.image_mean` and `config.image_std`.
            pixel_values_mask (`torch.Tensor` of shape `(batch_size, num_frames)`, *optional*):
                The same for frames.

        Returns:
            [`MediaEncoderOutput`].

        Raises:
            ValueError: nothing given, a shape or mask that does not fit, or media for a front end that is switched off.
        """
        if input_values is None and pixel_values is None:
            raise ValueError("`input_values` and `pixel_values` are both None: give at least one of them.")
        if input_values is not None and pixel_values is not None and len(input_values) != len(pixel_values):
            raise ValueError(
                f"`input_values` has {len(input_values)} samples but `pixel_values` has {len(pixel_values)}: "
                "they must describe the same clips; mark a missing part by a mask row of zeros."
            )
        audio = self._run("input_values", self.audio_front_end, input_values, input_values_mask, 2)
        video = self._run("pixel_values", self.video_front_end, pixel_values, pixel_values_mask, 5)
        return MediaEncoderOutput(*audio, *video)

    def _run(
        self, name: str, front_end: torch.nn.Module | None, values: Tensor | None, mask: Tensor | None, dims: int
    ) -> tuple[Tensor | None, Tensor | None]:
        if values is None:
            if mask is not None:
                raise ValueError(f"`{name}_mask` is given without `{name}`: pass both or neither.")
            return None, None
        if front_end is None:
            field = "audio_front_end" if name == "input_values" else "video_front_end"
            raise ValueError(f"`{name}` is given but `config.{field}` is None: drop the input or set a front end.")
        if values.dim() != dims or (dims == 5 and values.shape[2] != 3):
            wanted = "(batch_size, num_samples)" if dims == 2 else "(batch_size, num_frames, 3, height, width)"
            raise ValueError(f"`{name}` has shape {tuple(values.shape)}: expected {wanted}.")
        if mask is None:
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        elif mask.shape != values.shape[:2]:
            raise ValueError(
                f"`{name}_mask` has shape {tuple(mask.shape)} but `{name}` has {values.shape[0]} samples of "
                f"{values.shape[1]} steps: pass a mask of shape {tuple(values.shape[:2])}."
            )
        if self.config.freeze_backbones:
            with torch.no_grad():
                features, valid = front_end(values, mask.bool())
        else:
            features, valid = front_end(values, mask.bool())
        return features, valid.long()

    def feature_rate(self, name: str) -> float | None:
        """
        Feature steps per second of "audio" or "video"; `None` without such a front end, and where steps do not follow each
        other at a fixed rate.
        """
        front_end = self.audio_front_end if name == "audio" else self.video_front_end
        if front_end is None or (name == "video" and self.config.num_frames is not None):
            return None
        return front_end.rate

    @torch.no_grad()
    def num_places(self) -> int:
        """P, tokens that stand for places of the picture with `video_pooling="spatiotemporal"`: what a black frame gives."""
        frame = torch.zeros(1, 1, 3, *self.config.image_shape, device=self.device)
        return self(pixel_values=frame).video_features.shape[1] - 1

    def encode_clip(self, clip: Clip | MediaSource) -> MediaEncoderOutput:
        """
        Features of one clip of any length: decoded and encoded part by part, so that memory grows with the features only.

        They are those that `forward` gives for the whole clip, up to rounding. An audio backbone that attends to a whole
        clip by its configuration (`audio_chunk_seconds=None`) gets all of its sound at once.

        Args:
            clip ([`Clip`], path, bytes or struct): What [`decode_clip`] returns or takes. The arrays of a [`Clip`] must
                be at `config.sampling_rate` and `config.frame_rate`.

        Returns:
            [`MediaEncoderOutput`] of batch size 1, on the model's device.

        Raises:
            MediaError: the source cannot be decoded, or has nothing for the front ends of this model.
            ValueError: a [`Clip`] of another sampling or frame rate.
        """
        settings = MediaSettings.from_config(self.config)
        if isinstance(clip, Clip):
            settings.check_rates(clip)
        sound: Any = clip.audio if isinstance(clip, Clip) else clip
        pictures: Any = clip.frames if isinstance(clip, Clip) else clip
        features = self.encode_recording(sound, pictures, settings)
        if not features:
            ends = {"audio": self.config.audio_front_end, "video": self.config.video_front_end}
            raise MediaError(f"the clip has nothing for the front ends {ends} of this model: use another clip.")
        return features

    @torch.no_grad()
    def encode_recording(
        self,
        audio: Any = None,
        video: Any = None,
        settings: MediaSettings | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> MediaEncoderOutput:
        """
        As [`encode_clip`], with sound and pictures from anywhere and of a part of the recording.

        Args:
            audio, video (media source or array, *optional*): As in [`prepare_media`], of one sample. What there is no
                front end for is not decoded.
            settings ([`MediaSettings`], *optional*): How they are decoded; by default as `config` says.
            start, end (`float`, seconds, *optional*): Part to use.

        Returns:
            [`MediaEncoderOutput`] of batch size 1; empty where the recording has nothing for the front ends.

        Raises:
            MediaError: a source cannot be decoded, or has neither sound nor pictures at all.
            ValueError: arrays of a wrong shape or type, or sound that is not finite.
        """
        settings = settings or MediaSettings.from_config(self.config)
        if settings.max_clip_seconds is not None:
            limit = (start or 0.0) + settings.max_clip_seconds
            end = limit if end is None else min(end, limit)
        limits = {"start": start, "end": end}
        found: list[Tensor | None] = []
        for front_end, source, features in (
            (self.audio_front_end, audio, sound_features),
            (self.video_front_end, video, picture_features),
        ):
            wanted = front_end is not None and source is not None
            pair = features(front_end, source, settings, limits, self.device) if wanted else None
            found += [None, None] if pair is None else [pair[0], pair[1].long()]
        return MediaEncoderOutput(*found)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; names all Auto classes of the family when the code travels with the weights."""
        if self._auto_class is not None:
            self.config.auto_map = dict(self._auto_map)
        return super().save_pretrained(save_directory, *args, **kwargs)


def _load_part(name: str, config: Any, pooling: str | None = None) -> Any:
    model, info = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if pooling == "pooler" and any("pool" in key for key in missing):
        raise ValueError(f"{name!r} has no weights for its pooler: pass `video_pooling='mean'` or 'first'.")
    if missing:
        logger.warning(f"{name} lacks weights that were initialised at random: {', '.join(missing[:5])}.")
    return model


def _sound_preparation(name: str) -> dict[str, Any]:
    values, _ = FeatureExtractionMixin.get_feature_extractor_dict(name)
    normalize = bool(values.get("do_normalize", False))
    return {"sampling_rate": values.get("sampling_rate", 16000), "normalize_waveform": normalize}


def _image_preparation(name: str, given: dict[str, Any]) -> dict[str, Any]:
    values, _ = ImageProcessingMixin.get_image_processor_dict(name)
    crop = bool(values.get("do_center_crop", False))
    size = values.get("crop_size" if crop else "size")
    if isinstance(size, dict):
        square = "shortest_edge" in size
        crop = crop or square  # one edge alone leaves the other open: frames of a batch need one shape
        size = size["shortest_edge"] if square else (size["height"], size["width"])
    fields = {"image_size": size, "image_crop": crop}
    fields |= {key: values.get(key) for key in ("image_mean", "image_std")}
    if values.get("do_normalize") is False:
        fields |= {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    unknown = [key for key, value in fields.items() if value is None and key not in given]
    if unknown:
        raise ValueError(f"the preprocessor file of {name!r} does not state {', '.join(unknown)}: pass these fields.")
    return {key: value for key, value in fields.items() if value is not None}
