"""XMEI-Qwen: a language model that names emotion and intent of a speaker and explains both.

Paper: the joint explanation of emotion and intent with XMEI-Qwen and LQ-Former (abstract); what it leaves open follows the
overview figure of its public repository or is our choice, see the config.

    frames ── CLIP ─── tokens ── connector ── Linear ─┐  N_v word vectors
    sound ─── HuBERT ─ CNN ───── connector ── Linear ─┤  N_a word vectors
                                   │ caption          ├── language model ── answer
    system, subtitle, instruction ────────────────────┘        └─ state at the last prompt token ── emotion, intent

The encoders are frozen. Word vectors of the media take the places of placeholder tokens in the chat prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .answer_format import EMOTIONS, INTENTS
from .answer_losses import IGNORED, answer_loss, label_losses, weighted_sum
from .configuration_media_encoder import MediaEncoderConfig
from .configuration_xmei_qwen import XmeiQwenConfig
from .label_scoring import completion_scores
from .label_words import agreed_logits, label_word_ids, label_word_logits
from .layers import masked_mean
from .media_prompts import PROMPT_INPUTS, MediaPrompts
from .media_tokens import AudioTokens, EmbeddingLinear, StateHead, TokenProjector, VideoTokens
from .modality_inputs import check_beside_text, check_rows
from .modeling_base import MMIntentPreTrainedModel
from .modeling_cat_mod import CatModModel
from .modeling_lq_former import LQFormerModel
from .modeling_media_encoder import MediaEncoderModel
from .placeholder_tokens import add_placeholders
from .pretrained_parts import greedy, pretrained_part, without_memory
from .query_former_layers import LearnedTokens
from .text_backbone import build_text_backbone, load_text_backbone
from .trimodal_alignment import TrimodalAlignment
from .xmei_qwen_outputs import CACHE, LabelScores, XmeiQwenOutput

# A checkpoint that is opened without the package brings these files along: its connectors have to be known then, too.
for _connector in (LQFormerModel, CatModModel):
    AutoModel.register(_connector.config_class, _connector, exist_ok=True)


class XmeiQwenPreTrainedModel(MMIntentPreTrainedModel):
    """Base of the XMEI-Qwen family."""

    config: XmeiQwenConfig
    config_class = XmeiQwenConfig
    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    _supports_flash_attn = True
    _auto_map = {
        "AutoConfig": "configuration_xmei_qwen.XmeiQwenConfig",
        "AutoModel": "modeling_xmei_qwen.XmeiQwenForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_xmei_qwen.XmeiQwenForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_xmei_qwen.XmeiQwenForConditionalGeneration",
    }
    citation = (
        "@article{huang2026jx4mei,\n"
        "  title = {Joint Multimodal Emotion-Intent Explanation and Classification},\n"
        "  author = {Huang, YiJie},\n  year = {2026},\n  url = {https://github.com/OrangeYeah1027/JX4MEI}\n}"
    )
    stage_metrics: ClassVar[dict[str, str]] = {"connect": "loss"}  # nothing is written in this stage
    # What adapters adapt, and what trains in full beside them and is stored with them.
    adapter_targets: ClassVar[str] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    adapter_modules: ClassVar[tuple[str, ...]] = (
        "video_tokens",
        "audio_tokens",
        "video_connector",
        "audio_connector",
        "video_projector",
        "audio_projector",
        "alignment",
        "emotion_head",
        "intent_head",
    )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (EmbeddingLinear, StateHead)):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, LearnedTokens):
            init.normal_(module.weight, std=self.config.initializer_range)
        else:
            super()._init_weights(module)


def refuse_answers(batch: Mapping[str, Any]) -> None:
    """
    Raise for a training batch where a prompt is to be answered.

    Raises:
        ValueError: it holds `labels`: its texts end with the answers, which the model would read.
    """
    if batch.get("labels") is not None:
        raise ValueError(
            "`labels` is given, so that `input_ids` end with the answers: make prompts, by the processor without "
            "`return_labelled_view`."
        )


class XmeiQwenForConditionalGeneration(MediaPrompts, XmeiQwenPreTrainedModel, GenerationMixin):
    """Generates answers about a clip; see the module docstring."""

    def __init__(self, config: XmeiQwenConfig) -> None:
        super().__init__(config)
        width = config.language_model_config.hidden_size
        with pretrained_part():
            self.language_model = AutoModelForCausalLM.from_config(config.language_model_config)
            self.text_model = build_text_backbone(config.text_config) if config.uses_text_encoder else None
        self.media_encoder = None if config.encoder_config is None else MediaEncoderModel(config.encoder_config)
        has = {name: name in config.media for name in ("video", "audio")}
        positions = config.temporal_position_embedding
        self.video_tokens = (
            VideoTokens(config.video_feature_size, config.num_grid_tokens("video"), positions) if has["video"] else None
        )
        self.audio_tokens = (
            AudioTokens(config.audio_feature_size, config.audio_conv_layers, positions) if has["audio"] else None
        )
        shared = config.share_connectors and has["audio"]
        needs_video = has["video"] or shared
        self.video_connector = AutoModel.from_config(config.video_connector_config) if needs_video else None
        self.audio_connector = (
            AutoModel.from_config(config.audio_connector_config) if has["audio"] and not shared else None
        )
        for name in ("video", "audio"):
            size = config.connector_config(name).hidden_size
            setattr(self, f"{name}_projector", TokenProjector(size, width, config.projector) if has[name] else None)
        self.alignment = None
        if config.tca_loss_weight > 0 and config.media:
            self.alignment = TrimodalAlignment(
                config.text_config.hidden_size, width, config.tca_dim, config.tca_temperature
            )
        heads = config.use_classification_heads
        self.emotion_head = StateHead(width, len(config.emotion_names)) if heads else None
        self.intent_head = StateHead(width, len(config.intent_names)) if heads else None
        self.post_init()
        self.generation_config = greedy(self.language_model.generation_config)
        self.train(self.training)  # freezes

    # ---- parts --------------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_output_embeddings(value)

    def backbone_owner(self) -> nn.Module:
        return self

    def train(self, mode: bool = True) -> XmeiQwenForConditionalGeneration:
        """As in torch, but the encoders stay in eval mode and without gradients."""
        super().train(mode)
        for part in (self.text_model, self.media_encoder):
            if part is not None:
                part.eval()
                part.requires_grad_(False)
        return self

    @classmethod
    def from_backbones(  # type: ignore[override]
        cls,
        text: str | PreTrainedModel | None = None,
        audio: int | str | PreTrainedConfig | PreTrainedModel | None = None,
        video: int | str | PreTrainedConfig | PreTrainedModel | None = None,
        language_model: str | PreTrainedModel | None = None,
        encoder: MediaEncoderConfig | MediaEncoderModel | None = None,
        language_model_options: Mapping[str, Any] | None = None,
        **config_fields: Any,
    ) -> XmeiQwenForConditionalGeneration:
        """
        Build a model from pretrained parts; `save_pretrained` then holds everything.

        Args:
            text (`str` or `PreTrainedModel`, *optional*): BERT whose tables and first layers the connectors begin with.
            audio, video (`int`, `str`, config or model, *optional*):
                Width of the features that are extracted beforehand, or the name of an encoder that the model then owns.
                One of each is fine: the model then takes raw media of the one and features of the other.
            language_model (`str` or `PreTrainedModel`, *optional*):
                Of a name also the tokenizer is read, for the placeholders; with a model pass `video_token_id` and
                `audio_token_id`.
            encoder ([`MediaEncoderConfig`] or [`MediaEncoderModel`], *optional*): media encoder that the model owns.
            language_model_options (`dict`, *optional*):
                For its `from_pretrained`: `dtype` (float32 by default), `quantization_config`, ...
            config_fields: fields of [`XmeiQwenConfig`].

        Raises:
            ValueError: a config field is unknown, widths disagree, or BERT does not fit a connector that reads captions.
        """
        widths: dict[str, Any] = {"audio": audio, "video": video}
        names = {name: part for name, part in widths.items() if isinstance(part, str)}
        if names and encoder is not None:
            raise ValueError(f"`encoder` and the names {names} are both given: one of them makes the features.")
        if names:  # a modality whose width is given comes as features: the encoder leaves it out
            given = [name for name, part in widths.items() if name not in names and part is not None]
            options: dict[str, Any] = {f"{name}_front_end": None for name in given}
            if "video" in names:
                pooling = config_fields.get("visual_tokens", "spatiotemporal")
                options["video_pooling"] = "pooler" if pooling == "frame" else pooling
                options["num_frames"] = config_fields.get("num_frames", cls.config_class.num_frames)
            encoder = MediaEncoderModel.from_backbones(**names, **options)
        fields: dict[str, Any] = dict(config_fields)
        if encoder is not None:
            made = encoder.config if isinstance(encoder, MediaEncoderModel) else encoder
            fields.setdefault("encoder_config", made)
            for name, part in widths.items():
                if part is None or name in names:
                    widths[name] = getattr(made, f"{name}_feature_size")
            if isinstance(encoder, MediaEncoderModel) and made.video_pooling == "spatiotemporal":
                fields.setdefault("num_spatial_tokens", encoder.num_places())
        fields = {**cls._width_fields(widths), **fields}
        if text is not None:
            fields.setdefault(
                "text_config", text.config if isinstance(text, PreTrainedModel) else AutoConfig.from_pretrained(text)
            )
        decoder: Any = language_model
        if isinstance(language_model, str):
            options = {"dtype": torch.float32, **(language_model_options or {})}
            decoder = AutoModelForCausalLM.from_pretrained(language_model, **options)
            tokenizer = AutoTokenizer.from_pretrained(language_model)
            ids = add_placeholders(tokenizer)
            fields = {"video_token_id": ids["video"], "audio_token_id": ids["audio"], **fields}
            if fields.get("label_word_loss_weight"):
                names = {
                    "emotion": fields.get("emotion_names", EMOTIONS),
                    "intent": fields.get("intent_names", INTENTS),
                }
                fields = {**{f"{key}_word_ids": label_word_ids(tokenizer, names[key]) for key in names}, **fields}
            if len(tokenizer) > decoder.get_input_embeddings().num_embeddings:
                decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            decoder.generation_config.pad_token_id = decoder.config.pad_token_id = ids["pad"]
            decoder.generation_config.eos_token_id = decoder.config.eos_token_id = tokenizer.eos_token_id
        if decoder is not None:
            fields.setdefault("language_model_config", decoder.config)
        with without_memory() if decoder is not None else contextlib.nullcontext():
            model = cls(cls.config_class(**fields))
        model._put_in_place(text, decoder, encoder)
        return model.eval()

    def _put_in_place(self, text: Any, decoder: Any, encoder: Any) -> None:
        if decoder is not None:
            self.language_model = decoder
            self.generation_config = greedy(decoder.generation_config)
        if isinstance(encoder, MediaEncoderModel):
            self.media_encoder.load_state_dict(encoder.state_dict())
        if text is not None:
            bert = load_text_backbone(text, self.config.text_config)
            for name in dict.fromkeys("video" if self.config.share_connectors else n for n in self.config.media):
                connector = self.connector(name)
                fits = connector.config.hidden_size == bert.config.hidden_size
                if fits or connector.config.query_counts[0]:  # captions in random tables would be noise
                    connector.init_from_bert(bert)
            if self.text_model is not None:
                self.text_model = bert
        elif self.text_model is not None and decoder is not None:
            self.text_model = build_text_backbone(self.config.text_config)
        self.train(self.training)

    # ---- forward ------------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_caption_ids: torch.LongTensor | None = None,
        video_caption_mask: Tensor | None = None,
        audio_caption_ids: torch.LongTensor | None = None,
        audio_caption_mask: Tensor | None = None,
        subtitle_ids: torch.LongTensor | None = None,
        subtitle_mask: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        label_token_mask: Tensor | None = None,
        emotion_labels: torch.LongTensor | None = None,
        intent_labels: torch.LongTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> XmeiQwenOutput:
        r"""
        Read prompts with their media, and answers where they follow.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Chat prompts with placeholders, in training with their answers.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for tokens; padding may be on either side. On top of a cache it covers the past as well.
            video_features (`torch.FloatTensor` of shape `(batch_size, num_tokens, video_feature_size)`, *optional*):
                Features of the frozen encoder. `None` means that no sample of the batch has video.
            video_attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`, *optional*):
                1 for valid tokens. A row of zeros marks a sample without video; its prompt then has no placeholders of it.
            audio_features, audio_attention_mask: The same for sound.
            video_caption_ids, audio_caption_ids (`torch.LongTensor` of shape `(batch_size, caption_length)`, *optional*):
                Captions by the text encoder's tokenizer.
            video_caption_mask, audio_caption_mask (`torch.Tensor` of the same shapes, *optional*):
                1 for tokens; a row of zeros marks a sample without caption.
            subtitle_ids, subtitle_mask (`torch.Tensor` of shape `(batch_size, subtitle_length)`, *optional*):
                Subtitles by the text encoder's tokenizer, for the alignment loss only.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                `input_ids` where the model has to answer, -100 elsewhere.
            label_token_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for tokens of `labels` that belong to a label word, see `config.label_token_weight`.
            emotion_labels, intent_labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Class ids for the heads, -100 for none.
            input_values, input_values_mask, pixel_values, pixel_values_mask (`torch.Tensor`, *optional*):
                Raw media in place of features, see [`MediaEncoderModel`].
            position_ids, cache, past_key_values (its older name), inputs_embeds, use_cache, logits_to_keep, output_attentions,
            output_hidden_states: Of the language model. On top of a cache media are not read again.

        Returns:
            [`XmeiQwenOutput`].

        Raises:
            ValueError: inputs do not fit each other; names both.
        """
        inputs = {name: value for name, value in locals().items() if name in PROMPT_INPUTS and value is not None}
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "all modalities are missing: give `input_ids`."
                if input_ids is None
                else "`input_ids` and `inputs_embeds` are both given: pass one of them."
            )
        targets = {"emotion": emotion_labels, "intent": intent_labels}
        has_targets = labels is not None or any(value is not None for value in targets.values())
        cache = past_key_values if cache is None else cache
        first = cache is None or cache.get_seq_length() == 0
        tokens: dict[str, tuple[Tensor, Tensor]] = {}
        connectors: dict[str, Any] = {}
        if input_ids is not None and first:
            beside = {"attention_mask": attention_mask, "labels": labels, "label_token_mask": label_token_mask}
            check_beside_text(beside, tuple(input_ids.shape))
            subtitles = {"subtitle_ids": subtitle_ids, "subtitle_mask": subtitle_mask}
            check_rows(subtitles | {f"{name}_labels": value for name, value in targets.items()}, len(input_ids))
            tokens, connectors = self.read_media(len(input_ids), inputs, output_attentions=bool(output_attentions))
        terms, weights = self._token_losses(tokens, connectors, targets)
        if labels is not None and self.alignment is not None and subtitle_ids is not None:
            terms |= self._alignment_losses(tokens, subtitle_ids, subtitle_mask)
        cross = {name: found.cross_attentions for name, found in connectors.items()} if output_attentions else None
        diagnostics = {
            f"{name}_{figure}": value
            for name, found in connectors.items()
            for figure, value in (found.get("diagnostics") or {}).items()
        }
        if has_targets and not self.config.stage_runs_language_model:
            return self._connected(tokens, terms, weights, diagnostics)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if first:
                inputs_embeds = self.put_media(input_ids, inputs_embeds, tokens)
                attention_mask = self.answering_mask(input_ids, attention_mask, inputs)
        if position_ids is None and attention_mask is not None:
            positions = attention_mask.long().cumsum(1) - 1
            position_ids = positions.clamp(min=0)[:, -inputs_embeds.shape[1] :]
        learns = self.training and labels is not None
        if learns:  # logits of the vocabulary where there is something to predict, and nowhere else
            logits_to_keep = (labels[:, 1:] != IGNORED).any(0).nonzero().squeeze(1)
        out = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_attentions=output_attentions,
            output_hidden_states=first or output_hidden_states,
            **{CACHE: cache},
        )
        state = self._prompt_state(out.hidden_states[-1], attention_mask, labels) if first else None
        heads = self._head_logits(state)
        if labels is not None:
            kept = logits_to_keep if learns else None
            terms["lm"] = answer_loss(out.logits, labels, label_token_mask, self.config.label_token_weight, kept)
        terms |= label_losses(heads, targets)
        return XmeiQwenOutput(
            loss=weighted_sum(terms, weights) if has_targets else None,
            logits=None if learns else out.logits,
            loss_terms={name: term.detach() for name, term in terms.items()} if has_targets else None,
            emotion_logits=heads.get("emotion"),
            intent_logits=heads.get("intent"),
            embeddings=state,
            hidden_states=out.hidden_states if output_hidden_states else None,
            attentions=out.attentions,
            cross_attentions=cross,
            diagnostics=diagnostics or None,
            **{CACHE: out.get(CACHE)},
        )

    def _prompt_state(self, states: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> Tensor:
        """States (B, d) at the last token of the prompt: what follows cannot be seen from there."""
        length = states.shape[1]
        if attention_mask is None:
            last = torch.full((len(states),), length - 1, device=states.device)
        else:
            last = length - 1 - attention_mask.long().flip(1).argmax(1)
        if labels is not None:
            answers = labels != IGNORED
            last = torch.where(answers.any(1), (answers.long().argmax(1) - 1).clamp(min=0), last)
        return states[torch.arange(len(states), device=states.device), last]

    # ---- losses -------------------------------------------------------------------------------------------------

    def _token_losses(
        self,
        tokens: Mapping[str, tuple[Tensor, Tensor]],
        connectors: Mapping[str, Any],
        targets: Mapping[str, Tensor | None],
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Terms that the connectors and their tokens give, and the weights of all terms of the model."""
        config = self.config
        # A stage that freezes the heads leaves their loss out: random heads would only pull the tokens about.
        frozen = self.emotion_head is not None and not any(p.requires_grad for p in self.emotion_head.parameters())
        heads = not (self.training and frozen)
        weights = {f"tca_{pair}": config.tca_loss_weight / 3 for pair in ("text_audio", "text_video", "audio_video")}
        weights |= {"lm": config.lm_loss_weight, "emotion": config.emotion_loss_weight * heads}
        weights["intent"] = config.intent_loss_weight * heads
        terms: dict[str, Tensor] = {}
        for label, target in targets.items():
            if target is None or config.label_word_loss_weight == 0:
                continue
            for name, (logits, there) in self._word_logits(label, tokens).items():
                kept = target.masked_fill(~there, IGNORED)
                terms[f"{name}_{label}_word"] = label_losses({label: logits}, {label: kept})[label]
                weights[f"{name}_{label}_word"] = config.label_word_loss_weight
        for name, out in connectors.items():
            for term, value in (out.loss_terms or {}).items():
                terms[f"{name}_{term}"] = value
                weights[f"{name}_{term}"] = self.connector(name).loss_weights[term]
        return terms, weights

    def _word_logits(self, label: str, tokens: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """What the tokens of each modality say about a label (B, C), and which samples have the modality (B,)."""
        table, ids = self.get_input_embeddings().weight, getattr(self.config, f"{label}_word_ids")
        temperature = self.config.label_word_temperature
        return {
            name: (label_word_logits(vectors, table, ids, temperature), there)
            for name, (vectors, there) in tokens.items()
        }

    def _connected(
        self,
        tokens: Mapping[str, tuple[Tensor, Tensor]],
        terms: Mapping[str, Tensor],
        weights: Mapping[str, float],
        diagnostics: dict[str, Tensor],
    ) -> XmeiQwenOutput:
        """Output of a stage in which the language model is not run: labels are what the modalities' tokens agree on."""
        logits = {}
        if self.config.label_word_loss_weight > 0 and tokens:
            logits = {label: agreed_logits(self._word_logits(label, tokens)) for label in ("emotion", "intent")}
        # A batch without media has nothing to learn from, but a training step needs something to differentiate.
        trained = [p.flatten()[0] * 0.0 for p in self.parameters() if p.requires_grad] if not terms else []
        nothing = sum(trained, self.get_input_embeddings().weight.new_zeros(()))
        return XmeiQwenOutput(
            loss=weighted_sum(terms, weights) if terms else nothing,
            loss_terms={name: term.detach() for name, term in terms.items()},
            emotion_logits=logits.get("emotion"),
            intent_logits=logits.get("intent"),
            diagnostics=diagnostics or None,
        )

    def _head_logits(self, state: Tensor | None) -> dict[str, Tensor]:
        if state is None or self.emotion_head is None:
            return {}
        return {"emotion": self.emotion_head(state), "intent": self.intent_head(state)}

    def _alignment_losses(
        self, tokens: Mapping[str, tuple[Tensor, Tensor]], subtitle_ids: Tensor, subtitle_mask: Tensor | None
    ) -> dict[str, Tensor]:
        mask = torch.ones_like(subtitle_ids) if subtitle_mask is None else subtitle_mask
        with torch.no_grad():
            states = self.text_model(input_ids=subtitle_ids, attention_mask=mask.long()).last_hidden_state
        sides = {name: (vectors.mean(1), there) for name, (vectors, there) in tokens.items()}
        sides["text"] = masked_mean(states, mask.bool()), mask.bool().any(1)
        return self.alignment(sides, subtitle_ids, mask)

    # ---- generation ---------------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """As in transformers; media and captions are read once, at the first step or without a cache."""
        found = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in PROMPT_INPUTS:
                found.pop(name, None)
        return found

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """
        As in transformers. Empty caption slots that connectors mask are masked in every step.

        Raises:
            ValueError: the batch holds answers, see [`refuse_answers`], or its placeholders do not fit.
        """
        refuse_answers(kwargs)
        ids = kwargs.get("input_ids", inputs)
        if ids is not None:
            kwargs["attention_mask"] = self.answering_mask(ids, kwargs.get("attention_mask"), kwargs)
        for name in ("emotion_labels", "intent_labels"):  # a batch with targets is a prompt all the same
            kwargs.pop(name, None)
        return super().generate(inputs, **kwargs)

    @torch.no_grad()
    def score_labels(
        self, batch: Mapping[str, Any], emotions: Sequence[Sequence[int]], intents: Sequence[Sequence[int]]
    ) -> LabelScores:
        """
        Labels by the likelihood of their words: the emotion first, then the intent after the chosen emotion.

        Args:
            batch: prompts without answers, as for `generate`.
            emotions: tokens with which an answer begins, per emotion (`processor.label_token_ids()`).
            intents: tokens that go on with each intent.

        Returns:
            [`LabelScores`]. The prompts run once; both rounds share their keys and values.

        Raises:
            ValueError: the batch holds answers, see [`refuse_answers`].
        """
        refuse_answers(batch)
        given = {name: value for name, value in batch.items() if name not in ("emotion_labels", "intent_labels")}
        mask = self.answering_mask(given["input_ids"], given.get("attention_mask"), given)
        out = self(**{**given, "attention_mask": mask}, use_cache=True, logits_to_keep=1)
        shared = (self.language_model, out[CACHE], mask, out.logits[:, -1])
        rows = len(mask)
        emotion_scores = completion_scores(*shared, [list(emotions)] * rows, [0] * rows)
        chosen = emotion_scores.argmax(1)
        longer = [[[*emotions[row], *tokens] for tokens in intents] for row in chosen.tolist()]
        skip = [len(emotions[row]) for row in chosen.tolist()]
        intent_scores = completion_scores(*shared, longer, skip)
        return LabelScores(chosen, intent_scores.argmax(1), emotion_scores, intent_scores)
