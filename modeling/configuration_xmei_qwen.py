"""Configuration of XMEI-Qwen.

Origins beside the fields: [paper] the abstract; [figure] the overview figure of the public repository; [public] its code or
README; [derived] mathematics or measurement; [choice] ours.
"""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .answer_format import EMOTIONS, INTENTS, REASON_FIELDS
from .configuration_cat_mod import CatModConfig
from .configuration_lq_former import LQFormerConfig
from .configuration_media_encoder import MediaEncoderConfig
from .configuration_multimodal import MultimodalConfig

# A checkpoint that is opened without the package brings these files along: its connectors have to be known then, too.
for _connector in (LQFormerConfig, CatModConfig):
    AutoConfig.register(_connector.model_type, _connector, exist_ok=True)

MEDIA = ("video", "audio")  # order of the prompt

# Everything between the frozen encoders and the language model.
ALIGNED_PARTS = r"(^|\.)(video|audio)_(connector|tokens|projector)\.|(^|\.)alignment\."


@strict
class XmeiQwenConfig(MultimodalConfig):
    """
    Configuration of [`XmeiQwenForConditionalGeneration`].

    Args:
        language_model_config (`dict` or `PreTrainedConfig`): any `AutoModelForCausalLM`.
        text_config (`dict` or `PreTrainedConfig`): text encoder; it is built only where a loss or a connector reads it.
        video_connector_config, audio_connector_config (`dict` or `PreTrainedConfig`):
            Any connector that `AutoModel` knows, by `model_type`. Their `encoder_hidden_size` is the feature size.

    Raises:
        ValueError: fields contradict each other; names both.
    """

    model_type = "xmei_qwen"
    sub_configs_defaults = {
        "language_model_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "video_connector_config": SubConfigSpec(config_class=AutoConfig, model_type="lq_former"),
        "audio_connector_config": SubConfigSpec(config_class=AutoConfig, model_type="lq_former"),
        "encoder_config": SubConfigSpec(config_class=MediaEncoderConfig, optional=True),
    }
    keys_to_ignore_at_inference = [
        "loss_terms",
        "embeddings",
        "modality_weights",
        "cache",
        "past_key_values",
        "hidden_states",
        "attentions",
        "cross_attentions",
        "diagnostics",
    ]

    # Qwen2.5-7B-Instruct [public]
    language_model_config: dict | PreTrainedConfig | None = None
    video_connector_config: dict | PreTrainedConfig | None = None
    audio_connector_config: dict | PreTrainedConfig | None = None
    share_connectors: bool = False  # two LQ-Formers [public]

    # features
    video_feature_size: int = 1024  # CLIP ViT-L/14, penultimate layer [public encoder]
    audio_feature_size: int = 1024  # HuBERT-large [public encoder]
    # spatial and temporal pooling merged [figure]; `frame`: one vector per frame, as in the release [public]
    visual_tokens: Literal["spatiotemporal", "frame"] = "spatiotemporal"
    num_frames: int = 8  # uniform [public]; of an encoder that `from_backbones` builds by name
    num_spatial_tokens: int = 256  # 16 x 16 patches; of an encoder that `from_backbones` is given, what it makes
    audio_conv_layers: int = 2  # "CNN" [figure], kernel 3 and stride 2 [choice]; 0 with 8 pooled clips is the release
    temporal_position_embedding: bool = True  # both modalities; release: audio only [public]
    projector: Literal["linear", "mlp"] = "linear"  # [public]

    # prompt and answer
    video_token_id: int | None = None  # placeholders, one per token of a connector; from the tokenizer [choice]
    audio_token_id: int | None = None
    answer_format: Literal["structured", "sentence"] = "structured"  # [choice]; `sentence` is the release's shape
    emotion_names: tuple[str, ...] | list[str] = EMOTIONS  # 7 [paper], names and order of MC-EIU [public]
    intent_names: tuple[str, ...] | list[str] = INTENTS  # 9 [paper], idem

    # losses; the release is (1, 0, 0, 0) [public]
    use_classification_heads: bool = (
        True  # linear heads on the state of the language model; none in the release [choice]
    )
    lm_loss_weight: float | int = 1.0
    emotion_loss_weight: float | int = 0.5  # [choice]
    intent_loss_weight: float | int = 0.5  # [choice]
    tca_loss_weight: float | int = 0.1  # in the figure only [figure]; weight [choice]
    tca_dim: int = 256  # [choice]
    tca_temperature: float = 0.07  # [choice]
    label_token_weight: float | int = (
        1.0  # weight of label tokens in the language-model loss; they are 2 of 100 [choice]
    )

    # The language model's vectors of the label words attract the tokens of each modality, so that it can read them before it
    # has learnt to; in every stage, 0 for not. `*_word_ids`: tokens of each label, in id order, from the tokenizer. [choice]
    label_word_loss_weight: float | int = 0.0
    label_word_temperature: float = 0.07
    emotion_word_ids: tuple[Any, ...] | list[Any] | None = None
    intent_word_ids: tuple[Any, ...] | list[Any] | None = None

    # (name, epochs[, patterns of trainable parameters]). First the connectors with the language model frozen, then all
    # that adapters leave trainable. The release has one stage and starts from another project's checkpoint. [choice]
    # A stage `connect` may come before: the connectors learn from the label words and the alignment loss, and the language
    # model is not run, which makes an epoch cost seconds.
    stages: tuple[Any, ...] | list[Any] = (("align", 1), ("joint", 3))
    training_stage: Literal["connect", "align", "joint"] = "joint"
    # What the stage `align` learns to write; the two label lines alone are a third of the cost. [choice]
    align_answer: Literal["full", "labels"] = "full"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.language_model_config is None:
            self.language_model_config = AutoConfig.for_model(
                "qwen2",
                vocab_size=152064,
                hidden_size=3584,
                intermediate_size=18944,
                num_hidden_layers=28,
                num_attention_heads=28,
                num_key_value_heads=4,
                max_position_embeddings=32768,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        for name in MEDIA:  # a width that is not given is that of the features
            given, width = getattr(self, f"{name}_connector_config"), getattr(self, f"{name}_feature_size")
            if given is None or isinstance(given, dict):
                setattr(self, f"{name}_connector_config", {"encoder_hidden_size": width, **(given or {})})
        kwargs.setdefault("tie_word_embeddings", False)
        super().__post_init__(**kwargs)
        # The weights are those of the language model, tied or not as it says.
        self.tie_word_embeddings = bool(self.language_model_config.tie_word_embeddings)
        self.stages = tuple(
            (*entry, (ALIGNED_PARTS,)) if entry[0] in ("connect", "align") and len(entry) == 2 else tuple(entry)
            for entry in self.stages
        )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's: the library would take `text_config`, the caption encoder, for the decoder."""
        return self.language_model_config

    @property
    def hidden_answer_fields(self) -> tuple[str, ...]:
        """Targets that the present training stage leaves out."""
        labels_only = self.training_stage == "align" and self.align_answer == "labels"
        return REASON_FIELDS if labels_only or not self.stage_runs_language_model else ()

    @property
    def stage_runs_language_model(self) -> bool:
        """Whether a batch with targets goes through the language model in the present training stage."""
        return self.training_stage != "connect"

    def connector_config(self, name: str) -> PreTrainedConfig:
        """Configuration of the connector that a modality goes through."""
        return getattr(self, f"{'video' if self.share_connectors else name}_connector_config")

    def num_tokens(self, name: str) -> int:
        """Tokens that a modality occupies in the prompt of a sample that has it."""
        return sum(self.connector_config(name).query_counts)

    def num_grid_tokens(self, name: str) -> int:
        """Features of the modality that are places of the picture, in front of those that are times."""
        return self.num_spatial_tokens if name == "video" and self.visual_tokens == "spatiotemporal" else 0

    def num_caption_tokens(self, name: str) -> int:
        """Tokens of the modality's caption that its connector reads, at the front of its queries."""
        return self.connector_config(name).query_counts[0]

    @property
    def media(self) -> tuple[str, ...]:
        """The modalities that are not text, in the order of the prompt."""
        return tuple(name for name in MEDIA if name in self.modalities)

    @property
    def uses_text_encoder(self) -> bool:
        """Whether anything reads the text encoder: the alignment loss, or a connector that takes its states as captions."""
        return self.tca_loss_weight > 0 or any(map(self.reads_caption_states, self.media))

    def reads_caption_states(self, name: str) -> bool:
        """Whether a modality's connector takes captions as states of the text encoder; it then states their width."""
        return getattr(self.connector_config(name), "caption_embed_size", None) is not None

    def validate_labels(self) -> None:
        for name in ("emotion_names", "intent_names"):
            names = list(getattr(self, name))
            if len(names) < 2 or len({item.lower() for item in names}) != len(names):
                raise ValueError(f"`{name}` is {names}: give at least two different names.")

    def validate_connectors(self) -> None:
        for name in self.media:
            config, wanted = self.connector_config(name), getattr(self, f"{name}_feature_size")
            if config.encoder_hidden_size != wanted:
                raise ValueError(
                    f"`{name}_connector_config` reads features of width {config.encoder_hidden_size} but "
                    f"`{name}_feature_size` is {wanted}: set `encoder_hidden_size={wanted}`"
                    + (", or `share_connectors=False`." if self.share_connectors else ".")
                )

    def validate_media(self) -> None:
        encoder = self.encoder_config
        if not isinstance(encoder, MediaEncoderConfig) or "video" not in self.modalities:
            return
        grid = encoder.video_front_end == "backbone" and encoder.video_pooling == "spatiotemporal"
        if grid != (self.visual_tokens == "spatiotemporal"):
            raise ValueError(
                f"`visual_tokens` is {self.visual_tokens!r} but `video_pooling` of `encoder_config` is "
                f"{encoder.video_pooling!r} with the front end {encoder.video_front_end!r}: the two must agree."
            )

    def validate_placeholders(self) -> None:
        given = [getattr(self, f"{name}_token_id") for name in MEDIA]
        if None not in given and given[0] == given[1]:
            raise ValueError(f"`video_token_id` and `audio_token_id` are both {given[0]}: they need a token each.")

    def validate_weights(self) -> None:
        weights = ("lm", "emotion", "intent", "tca", "label_word")
        for name in (f"{term}_loss_weight" for term in weights):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: a weight is 0 or more.")
        if self.label_token_weight < 1:
            raise ValueError(f"`label_token_weight` is {self.label_token_weight}: it up-weights, so 1 or more.")
        if self.audio_conv_layers < 0:
            raise ValueError(f"`audio_conv_layers` is {self.audio_conv_layers}: 0 or more.")
        for name in ("tca_temperature", "label_word_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it must be positive.")

    def validate_label_words(self) -> None:
        weight = self.label_word_loss_weight
        for label in ("emotion", "intent"):
            names, ids = getattr(self, f"{label}_names"), getattr(self, f"{label}_word_ids")
            if ids is None and weight > 0:
                raise ValueError(
                    f"`label_word_loss_weight` is {weight} but `{label}_word_ids` is None: give the tokens of each of "
                    f"{list(names)}, or the language model by name, so that its tokenizer does."
                )
            if ids is not None and (len(ids) != len(names) or not all(ids)):
                raise ValueError(
                    f"`{label}_word_ids` is {list(ids)} but `{label}_names` is {list(names)}: one list of tokens per name."
                )

    def validate_connect(self) -> None:
        if any(entry[0] == "connect" for entry in self.stages) and not (
            self.label_word_loss_weight or self.tca_loss_weight
        ):
            raise ValueError(
                "`stages` has `connect` but `label_word_loss_weight` and `tca_loss_weight` are both 0: without the language "
                "model there would be no loss, set one of them."
            )
