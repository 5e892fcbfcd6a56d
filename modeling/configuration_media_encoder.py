"""Configuration of the media encoder: how waveforms and frames become audio and video features."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_base import MMIntentConfig

# Where the library's encoders state the width of what they return, in the order in which they are asked.
_WIDTH_FIELDS = ("d_model", "hidden_size", "hidden_dim")


@strict
class MediaEncoderConfig(MMIntentConfig):
    """
    Configuration of [`MediaEncoderModel`].

    Each modality has a front end: a formula without weights (`log_mel`, `pixel_grid`), so that a model runs
    offline and small, or a `backbone`, any `AutoModel` that takes waveforms, Whisper mel windows, or images. `None`
    switches the modality off. No value below is given in a paper unless its comment says so. The features that the
    datasets were published with are in [`MediaEncoderModel.from_preset`].

    Args:
        audio_config, video_config (`dict` or `PreTrainedConfig`, *optional*):
            Configurations of the backbones; required by, and only by, the front end `backbone`. Of a dual encoder such
            as CLIP the vision tower is taken.

    Raises:
        ValueError: fields contradict each other; names both.
    """

    model_type = "media_encoder"
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2", optional=True),
        "video_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
    }

    audio_front_end: Literal["log_mel", "backbone"] | None = "log_mel"  # runs without any download
    video_front_end: Literal["pixel_grid", "backbone"] | None = "pixel_grid"  # the same

    # what the decoder delivers
    sampling_rate: int = 16000  # the rate of every public speech encoder (wav2vec 2.0, HuBERT, WavLM, Whisper)
    frame_rate: float | int = 8.0  # frames per second: lips and brows move at 2-8 Hz, and cost grows with it
    num_frames: int | None = None  # keep so many of them, evenly spread over the clip (XMEI: 8); None: all
    image_size: int | tuple[int, int] | list[int] = 96  # (height, width) or a square; six pixels per cell of the grid
    image_crop: bool = False  # keep the whole scene: a centre crop loses a speaker at the side
    image_mean: tuple[float | int, ...] | list[float | int] = (0.5, 0.5, 0.5)  # maps [0, 1] to [-1, 1]
    image_std: tuple[float | int, ...] | list[float | int] = (0.5, 0.5, 0.5)
    max_clip_seconds: float | int | None = None  # longer clips are cut at the end; None: utterances are short already

    # log-mel front end
    num_mel_bins: int = 40  # the usual filter bank of speech recognisers before self-supervised features
    mel_window_ms: float | int = 25  # two to three pitch periods of a low voice: the standard speech window
    mel_hop_ms: float | int = 20  # the step of wav2vec 2.0, so that both front ends give the same length
    mel_min_frequency: float | int = 20.0  # Hz; below is rumble
    mel_max_frequency: float | int | None = None  # Hz; None: half the sampling rate
    mel_log_offset: float = 1e-6  # power added before the logarithm; silence becomes -13.8, not minus infinity
    mel_mean: float | int = -6.0  # subtracted: about the mean log power of clearly recorded speech
    mel_std: float | int = 4.0  # divided by: about its deviation; constants, so no clip depends on another

    # both audio front ends
    frames_per_step: int = 1  # mel frames or backbone states per feature step; 2-5 shorten long clips
    step_reduction: Literal["mean", "stack"] = (
        "mean"  # stack keeps the order within a step at that many times the width
    )

    # pixel-grid front end
    grid_size: int = 16  # cells per side: 256 gray values, the width of the official MIntRec video features
    grayscale: bool = True  # motion and shape without the colour of a room; False: three times the width
    subtract_clip_mean: bool = False  # True leaves only what changes in the clip; False keeps frames independent

    # backbone front ends
    audio_config: dict | PreTrainedConfig | None = None
    video_config: dict | PreTrainedConfig | None = None
    audio_layers: tuple[int, ...] | list[int] | None = None  # hidden states to average; None: the last one only
    normalize_waveform: bool = False  # zero mean, unit variance per clip, where the backbone was trained so
    # Attention costs the square of a clip's length: longer clips are encoded in pieces of this many seconds, of which the
    # `audio_overlap_seconds` at inner ends only serve as context. Both belong to the features; memory decides nothing.
    audio_chunk_seconds: float | int | None = 30.0  # above every utterance of the datasets; None: in one piece
    audio_overlap_seconds: float | int = 2.0  # most of what a speech encoder attends to lies within
    audio_seconds_per_call: float | int = (
        120.0  # sound per backbone call at most; bounds memory, does not change results
    )
    # One vector per frame: "pooler" (the backbone's own), "mean" of all tokens or the "first" one. All patches of all
    # frames one after the other: "tokens". "spatiotemporal" (XMEI): P patches averaged over the frames, then T frames
    # averaged over the patches. The last two leave class tokens out.
    video_pooling: Literal["pooler", "mean", "first", "tokens", "spatiotemporal"] = "pooler"
    video_layers: tuple[int, ...] | list[int] | None = None  # hidden states to average; None: the last one only
    freeze_backbones: bool = True  # as the papers do (features extracted once); False: fine-tune them too
    frames_per_chunk: int = 64  # images per backbone call at most; bounds memory, does not change results
    # Arithmetic of the backbones' matrix products, whatever the type of the weights; features come in that of the weights.
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None  # None: the type of the weights

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        tower = getattr(self.video_config, "vision_config", None)
        if isinstance(tower, PreTrainedConfig):
            self.video_config = tower

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def audio_feature_size(self) -> int | None:
        """Width of `audio_features`; `None` without an audio front end."""
        width = self.audio_state_size
        return None if width is None else width * (self.frames_per_step if self.step_reduction == "stack" else 1)

    @property
    def audio_state_size(self) -> int | None:
        """Width of what the audio front end makes before `frames_per_step` of them are joined."""
        if self.audio_front_end is None:
            return None
        return (
            self.num_mel_bins if self.audio_front_end == "log_mel" else _output_width("audio_config", self.audio_config)
        )

    @property
    def video_feature_size(self) -> int | None:
        """Width of `video_features`; `None` without a video front end."""
        if self.video_front_end == "pixel_grid":
            return self.grid_size**2 * (1 if self.grayscale else 3)
        return None if self.video_front_end is None else _output_width("video_config", self.video_config)

    def validate_front_ends(self) -> None:
        if self.audio_front_end is None and self.video_front_end is None:
            raise ValueError("`audio_front_end` and `video_front_end` are both None: set at least one of them.")
        for name in ("audio", "video"):
            front_end, backbone = getattr(self, f"{name}_front_end"), getattr(self, f"{name}_config")
            if (front_end == "backbone") != (backbone is not None):
                given = "None" if backbone is None else f"a {backbone.model_type} configuration"
                raise ValueError(
                    f"`{name}_front_end` is {front_end!r} but `{name}_config` is {given}: "
                    f"set `{name}_front_end='backbone'` exactly when a `{name}_config` is given."
                )

    def validate_positive(self) -> None:
        names = ["sampling_rate", "frame_rate", "num_mel_bins", "mel_window_ms", "mel_hop_ms", "mel_log_offset"]
        names += ["mel_std", "frames_per_step", "grid_size", "frames_per_chunk", "max_clip_seconds", "num_frames"]
        names += ["audio_chunk_seconds", "audio_seconds_per_call"]
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}: it must be positive.")

    def validate_chunks(self) -> None:
        chunk, overlap = self.audio_chunk_seconds, self.audio_overlap_seconds
        if overlap < 0 or (chunk is not None and chunk <= 2 * overlap):
            raise ValueError(
                f"`audio_chunk_seconds` is {chunk} and `audio_overlap_seconds` is {overlap}: a piece must be longer than "
                "its context on both sides."
            )

    def validate_layers(self) -> None:
        if self.video_layers is not None and self.video_pooling == "pooler":
            raise ValueError(
                f"`video_layers` is {list(self.video_layers)} but `video_pooling` is 'pooler', which reads the last layer: "
                "choose 'mean', 'first', 'tokens' or 'spatiotemporal', or drop `video_layers`."
            )
        if self.video_layers is not None and _has_stages(self.video_config):
            raise ValueError(
                f"`video_layers` is {list(self.video_layers)} but the layers of {self.video_config.model_type!r} have "
                "different sizes: only the last one can be used."
            )
        for name in ("audio_layers", "video_layers"):
            layers, backbone = getattr(self, name), getattr(self, f"{name[:5]}_config")
            depth = getattr(backbone, "num_hidden_layers", None)
            if layers is None or not isinstance(depth, int):
                continue
            if not layers or not all(-depth - 1 <= layer <= depth for layer in layers):
                raise ValueError(
                    f"`{name}` is {list(layers)} but the backbone has the hidden states 0 to {depth} (0 is its input): "
                    f"name at least one of them, also from the end as -1 to {-depth - 1}."
                )

    def validate_mel_band(self) -> None:
        top = self.sampling_rate / 2 if self.mel_max_frequency is None else self.mel_max_frequency
        if not 0 <= self.mel_min_frequency < top <= self.sampling_rate / 2:
            raise ValueError(
                f"`mel_min_frequency` is {self.mel_min_frequency} and `mel_max_frequency` is {self.mel_max_frequency}: "
                f"need 0 <= minimum < maximum <= {self.sampling_rate / 2} Hz, half of `sampling_rate`."
            )

    def validate_images(self) -> None:
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"`{name}` has {len(getattr(self, name))} values: give one each for red, green, blue.")
        if not min(self.image_std) > 0:
            raise ValueError(f"`image_std` is {list(self.image_std)}: every value must be positive.")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"`image_size` is {self.image_size}: give a side or (height, width).")
        smallest = self.grid_size if self.video_front_end == "pixel_grid" else 1
        if min(self.image_shape) < smallest:
            raise ValueError(
                f"`image_size` is {self.image_size} but `grid_size` is {self.grid_size}: a cell needs a pixel at least."
            )


def _has_stages(config: Any) -> bool:
    """Whether an image backbone shrinks its grid from stage to stage."""
    return bool(getattr(config, "hidden_sizes", None)) or isinstance(getattr(config, "depths", None), (list, tuple))


def _output_width(name: str, config: Any) -> int:
    """Width of the states that the backbone of this configuration returns."""
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return sizes[-1]  # convolutional image backbones list one width per stage
    if getattr(config, "add_adapter", False):
        return config.output_hidden_size  # speech encoders with a down-sampling adapter
    for field in _WIDTH_FIELDS:
        if isinstance(width := getattr(config, field, None), int):
            return width
    raise ValueError(
        f"`{name}` of type {config.model_type!r} states its output width in none of hidden_sizes, "
        f"{', '.join(_WIDTH_FIELDS)}: use an encoder that does."
    )
