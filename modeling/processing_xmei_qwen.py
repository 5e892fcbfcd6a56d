"""Processor of XMEI-Qwen: a clip and its subtitle to a chat prompt, rows to training texts, generated tokens to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from .answer_format import (
    EMOTIONS,
    FIELDS,
    INTENTS,
    ParsedAnswer,
    field_title,
    format_answer,
    label_completions,
    label_spans,
    parse_answer,
)
from .placeholder_tokens import PLACEHOLDERS, add_placeholders
from .processing_media import MediaSettings
from .processing_multimodal import MultimodalProcessor

logger = logging.get_logger(__name__)

IGNORED = -100
INSTRUCTION = "Name the emotion and the intent of the speaker and explain them."


class XmeiQwenProcessor(MultimodalProcessor):
    """
    Prompts in the chat template of the language model: placeholders of the media, the subtitle, an instruction.

    With `return_labelled_view` (training) the answer and the end-of-text token follow the prompt and texts are padded on
    the right; without it (generation) the prompt stands alone, padded on the left.

    Args:
        tokenizer: of the language model; placeholders, and a padding token of its own, are added to it.
        caption_tokenizer: of the text encoder, for captions and for the alignment loss; `None` when neither is used.
        num_media_tokens: placeholders of a sample that has the modality, by name.
        num_caption_tokens: caption tokens that a connector reads, by name; longer captions are cut.
        use_captions: pass captions on. Those of a modality that a sample lacks are left out.
        align_subtitles: also tokenize subtitles for the alignment loss, in training.
        max_text_length: tokens of a subtitle; longer ones are cut.
        max_length: tokens of a prompt with its answer; the end of a longer answer is cut.
        emotion_names, intent_names: in id order.
        answer_format: "structured" or "sentence".
        answer_fields: which of the fields are targets, for ablations such as labels only.
        system_prompt, instruction: own wording; an empty instruction leaves it out.
        visual_tokens, num_spatial_tokens: as in the model's config.

    Other arguments are those of [`MultimodalProcessor`].

    Raises:
        ValueError: captions or subtitles are wanted without a tokenizer for them; a field is unknown.
    """

    has_labelled_view: ClassVar[bool] = True
    extra_columns: ClassVar[tuple[str, ...]] = ("audio_caption", "video_caption", *FIELDS)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        caption_tokenizer: PreTrainedTokenizerBase | None = None,
        modalities: Sequence[str] = ("text", "audio", "video"),
        feature_sizes: Mapping[str, int] | None = None,
        num_media_tokens: Mapping[str, int] | None = None,
        num_caption_tokens: Mapping[str, int] | None = None,
        use_captions: bool = False,
        align_subtitles: bool = False,
        max_text_length: int = 256,
        max_length: int = 1024,
        max_lengths: Mapping[str, int] | None = None,
        emotion_names: Sequence[str] = EMOTIONS,
        intent_names: Sequence[str] = INTENTS,
        answer_format: str = "structured",
        answer_fields: Sequence[str] = FIELDS,
        system_prompt: str | None = None,
        instruction: str | None = None,
        visual_tokens: str = "frame",
        num_spatial_tokens: int = 256,
        media: Mapping[str, Any] | None = None,
        non_finite: str = "raise",
        feature_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        **kwargs: Any,
    ) -> None:
        if (use_captions or align_subtitles) and caption_tokenizer is None:
            wanted = "use_captions" if use_captions else "align_subtitles"
            raise ValueError(f"`{wanted}` is set but there is no `caption_tokenizer`: give that of the text encoder.")
        unknown = set(answer_fields) - set(FIELDS)
        if unknown or not answer_fields:
            raise ValueError(f"`answer_fields` is {list(answer_fields)}: choose some of {list(FIELDS)}.")
        self.num_media_tokens = dict(num_media_tokens or {})
        self.num_caption_tokens = dict(num_caption_tokens or {})
        self.use_captions, self.align_subtitles = use_captions, align_subtitles
        self.max_length = max_length
        self.emotion_names, self.intent_names = list(emotion_names), list(intent_names)
        self.answer_format, self.answer_fields = answer_format, list(answer_fields)
        self.system_prompt, self.instruction = system_prompt, instruction
        self.visual_tokens, self.num_spatial_tokens = visual_tokens, num_spatial_tokens
        add_placeholders(tokenizer)
        if caption_tokenizer is None:
            # The library asks a processor for its parts when it checks, saves and shows them: this one has one.
            self.get_attributes = partial(list, ("tokenizer",))  # type: ignore[method-assign,assignment]
            self.caption_tokenizer = None
        else:
            kwargs["caption_tokenizer"] = caption_tokenizer
        super().__init__(
            tokenizer,
            modalities=modalities,
            feature_sizes=feature_sizes,
            max_text_length=max_text_length,
            max_lengths=max_lengths,
            media=media,
            non_finite=non_finite,
            feature_stats=feature_stats,
            **kwargs,
        )

    # ---- construction -------------------------------------------------------------------------------------------

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        stored = processor_dict or {}
        if stored.get("use_captions") or stored.get("align_subtitles"):
            return super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)
        return [cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs), None]

    @classmethod
    def from_config(
        cls,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        caption_tokenizer: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> XmeiQwenProcessor:
        """
        The processor that fits a model's config.

        Args:
            config: [`XmeiQwenConfig`].
            tokenizer: of the language model.
            caption_tokenizer: of the text encoder; without it captions are not used.
            kwargs: override what is read from the config.

        Raises:
            ValueError: the tokenizer gives the placeholders other ids than the config has.
        """
        if tokenizer is None:
            raise ValueError("`tokenizer` is None: give that of the language model.")
        ids = add_placeholders(tokenizer)
        for name in PLACEHOLDERS:
            if getattr(config, f"{name}_token_id") != ids[name]:
                raise ValueError(
                    f"`{name}_token_id` of the config is {getattr(config, f'{name}_token_id')} but the tokenizer has "
                    f"{PLACEHOLDERS[name]} at {ids[name]}: use the tokenizer of the config's language model."
                )
        captions = {name: config.num_caption_tokens(name) for name in config.media}
        settings: dict[str, Any] = {
            "modalities": config.modalities,
            "feature_sizes": config.feature_sizes,
            "num_media_tokens": {name: config.num_tokens(name) for name in config.media},
            "num_caption_tokens": captions,
            "use_captions": caption_tokenizer is not None and any(captions.values()),
            "align_subtitles": config.tca_loss_weight > 0,
            "emotion_names": config.emotion_names,
            "intent_names": config.intent_names,
            "answer_format": config.answer_format,
            "visual_tokens": config.visual_tokens,
            "num_spatial_tokens": config.num_spatial_tokens,
        }
        if config.encoder_config is not None:
            settings["media"] = MediaSettings.from_config(config.encoder_config).to_dict()
        settings.update(kwargs)
        if not (settings["use_captions"] or settings["align_subtitles"]):
            caption_tokenizer = None
        return cls(tokenizer, caption_tokenizer, **settings)

    @classmethod
    def from_backbones(cls, config: PreTrainedConfig, backbones: Mapping[str, str], **kwargs: Any) -> XmeiQwenProcessor:
        """As [`from_config`], with the tokenizers of `language_model` and, where it is given, of `text`."""
        tokenizer = AutoTokenizer.from_pretrained(backbones["language_model"])
        captions = AutoTokenizer.from_pretrained(backbones["text"]) if "text" in backbones else None
        return cls.from_config(config, tokenizer, captions, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask"]
        for name in self.feature_sizes:
            names += [f"{name}_features", f"{name}_attention_mask"]
            if self.use_captions:
                names += [f"{name}_caption_ids", f"{name}_caption_mask"]
        if self.media is not None:
            names += ["input_values", "input_values_mask", "pixel_values", "pixel_values_mask"]
        return names

    # ---- rows to inputs -----------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        audio: Any = None,
        video: Any = None,
        labels: Any = None,
        start_time: float | Sequence[float | None] | None = None,
        end_time: float | Sequence[float | None] | None = None,
        return_labelled_view: bool = False,
        return_tensors: str | None = "pt",
        **columns: Any,
    ) -> BatchFeature:
        """
        Args:
            text: subtitle, or a list with `None` where a sample has none.
            audio, video: raw media per sample, as in [`MultimodalProcessor`].
            labels: not taken; the targets are the columns `emotion` and `intent`.
            start_time, end_time: seconds, the part of each sample's media to use.
            return_labelled_view: append the answer, for training.
            return_tensors: "pt" or "np".
            columns: `<modality>_features`; `<modality>_caption`; `emotion`, `intent` (names or ids) and `emotion_reason`,
                `intent_reason`, `joint_reason`, which only a labelled view reads.

        Returns:
            Inputs of [`XmeiQwenForConditionalGeneration`]; a modality that no sample has is left out.

        Raises:
            ValueError: what is wrong, with the row's position in the batch.
        """
        if labels is not None:
            raise ValueError("`labels` is given but the targets of this model are texts: pass `emotion` and `intent`.")
        extra = {name: columns.pop(name) for name in self.extra_columns if name in columns}
        texts, audio, video, features, _ = self._as_batch(text, audio, video, columns, None)
        extra = {
            name: [value] if value is None or isinstance(value, (str, int, np.integer)) else list(value)
            for name, value in extra.items()
        }
        size = self._batch_size({"text": texts, "audio": audio, "video": video, **features, **extra})
        self._check_words(extra)
        out: dict[str, np.ndarray] = {}
        for name in self.feature_sizes:
            out.update(self._feature_inputs(name, self._pooled(name, features.get(f"{name}_features"))))
        if any(item is not None for item in (*(audio or ()), *(video or ()))):
            start, end = ([time] if isinstance(time, (int, float)) else time for time in (start_time, end_time))
            out.update(self._media_inputs(audio, video, start, end))
        subtitles = self._checked_text(texts or [None] * size)
        present = {name: self._present(name, out, size) for name in self.feature_sizes}
        missing = [row for row in range(size) if not subtitles[row] and not any(rows[row] for rows in present.values())]
        if missing:
            raise ValueError(f"all modalities are missing in sample {missing[0]} of the batch: drop the sample.")
        prompts = [
            self._prompt_ids(row, subtitles[row], {n: p[row] for n, p in present.items()}) for row in range(size)
        ]
        targets = self._label_ids(extra)
        if return_labelled_view:
            out.update(self._training_texts(prompts, self._answers(extra, size)))
            if self.align_subtitles:
                out.update(self._encoded("subtitle", subtitles, self.max_text_length))
        else:
            out.update(self._padded({"input_ids": prompts, "attention_mask": [[1] * len(p) for p in prompts]}, "left"))
        if self.use_captions:
            out.update(self._captions(extra, present))
        out.update(targets)
        return BatchFeature(out, tensor_type=None if return_tensors == "np" else return_tensors)

    @staticmethod
    def _check_words(extra: Mapping[str, Sequence[Any]]) -> None:
        """Raise unless captions and reasons are texts."""
        for name, values in extra.items():
            for row, value in enumerate(values):
                if name not in ("emotion", "intent") and value is not None and not isinstance(value, str):
                    raise ValueError(f"`{name}` of sample {row} is {type(value).__name__}: expected `str` or `None`.")

    def _pooled(self, name: str, rows: Sequence[Any] | None) -> Sequence[Any] | None:
        """Patch grids (T, P, D) as P spatial and T temporal tokens; other features as they are."""
        if rows is None or name != "video" or self.visual_tokens != "spatiotemporal":
            return rows
        return [None if row is None else self._spatiotemporal(index, np.asarray(row)) for index, row in enumerate(rows)]

    def _spatiotemporal(self, index: int, row: np.ndarray) -> np.ndarray:
        if row.ndim == 3:
            row = spatiotemporal_tokens(row)
        if row.ndim == 2 and len(row) <= self.num_spatial_tokens:
            raise ValueError(
                f"`video_features` of sample {index} has {len(row)} tokens but the first `num_spatial_tokens` = "
                f"{self.num_spatial_tokens} are spatial: pass a patch grid (frames, {self.num_spatial_tokens}, width), or "
                "set `visual_tokens='frame'`."
            )
        return row

    @staticmethod
    def _present(name: str, out: Mapping[str, np.ndarray], size: int) -> np.ndarray:
        """Which samples have the modality, as features or as media."""
        masks = (f"{name}_attention_mask", {"audio": "input_values_mask", "video": "pixel_values_mask"}[name])
        found = [out[mask].any(1) for mask in masks if mask in out]
        return np.logical_or.reduce(found) if found else np.zeros(size, bool)

    # ---- prompt -------------------------------------------------------------------------------------------------

    def system_text(self) -> str:
        """What the system turn says."""
        if self.system_prompt is not None:
            return self.system_prompt
        if self.answer_format == "sentence":
            shape = "Answer with one sentence that names both, then the reason."
        else:
            shape = "Answer in these lines:\n" + "\n".join(f"{field_title(name)}: ..." for name in self.answer_fields)
        return (
            f"You explain what a speaker feels and wants. Emotions: {', '.join(self.emotion_names)}. "
            f"Intents: {', '.join(self.intent_names)}. {shape}"
        )

    def prompt(self, subtitle: str, present: Mapping[str, bool]) -> str:
        """
        The prompt of one sample up to where the answer begins.

        Args:
            subtitle: "" where there is none.
            present: whether the sample has each modality that is not text.
        """
        media = "".join(PLACEHOLDERS[name] * self.num_media_tokens[name] for name in PLACEHOLDERS if present.get(name))
        words = f'Subtitle: "{self._plain(subtitle)}"' if subtitle else "No subtitle."
        instruction = INSTRUCTION if self.instruction is None else self.instruction
        user = "\n".join(part for part in (media, words, instruction) if part)
        system = self.system_text()
        if not self.tokenizer.chat_template:
            return "\n".join([system, user, ""])
        try:
            return self._rendered({"system": system, "user": user})
        except Exception as error:
            # Templates without a system turn raise at one (Gemma, the first Mistral). The class is named, not imported: what
            # templates are written in is no dependency of a checkpoint.
            if type(error).__name__ != "TemplateError":
                raise
            return self._rendered({"user": f"{system}\n\n{user}"})

    def _rendered(self, turns: Mapping[str, str]) -> str:
        """The chat template around texts by role, up to where the answer begins."""
        messages = [{"role": role, "content": content} for role, content in turns.items()]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _plain(self, text: str) -> str:
        """Text in which nothing reads as a special token: a subtitle must not end the turn or pose as a clip."""
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.content in text and token.content.strip():
                text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return text

    def _prompt_ids(self, row: int, subtitle: str, present: Mapping[str, bool]) -> list[int]:
        words = self.tokenizer(subtitle, add_special_tokens=False)["input_ids"] if subtitle else []
        if len(words) > self.max_text_length:
            subtitle = self.tokenizer.decode(words[: self.max_text_length], skip_special_tokens=True)
        ids = self.tokenizer(self.prompt(subtitle, present), add_special_tokens=False)["input_ids"]
        for name, there in present.items():
            found = ids.count(self.tokenizer.convert_tokens_to_ids(PLACEHOLDERS[name]))
            wanted = self.num_media_tokens[name] if there else 0
            if found != wanted:
                raise ValueError(
                    f"the prompt of sample {row} has {found} placeholders {PLACEHOLDERS[name]} but its {name} has {wanted} "
                    "tokens: the chat template or the prompts of this processor change them."
                )
        return ids

    # ---- answers ------------------------------------------------------------------------------------------------

    def _answers(self, extra: Mapping[str, Sequence[Any]], size: int) -> list[dict[str, str | None]]:
        """Target texts per sample; label ids as names."""
        rows: list[dict[str, str | None]] = []
        for row in range(size):
            values = {name: extra[name][row] for name in self.answer_fields if name in extra}
            for field, names in (("emotion", self.emotion_names), ("intent", self.intent_names)):
                value = values.get(field)
                if value is not None:
                    values[field] = names[self._target_id(row, field, value, names)]
            rows.append({name: None if text is None else self._plain(text) for name, text in values.items()})
        return rows

    def _label_ids(self, extra: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """`emotion_labels` and `intent_labels`, −100 where a row has none."""
        out = {}
        for field, names in (("emotion", self.emotion_names), ("intent", self.intent_names)):
            values = extra.get(field)
            if values is not None and any(value is not None for value in values):
                ids = [IGNORED if v is None else self._target_id(row, field, v, names) for row, v in enumerate(values)]
                out[f"{field}_labels"] = np.array(ids, np.int64)
        return out

    @staticmethod
    def _target_id(row: int, field: str, value: Any, names: Sequence[str]) -> int:
        lower = [name.lower() for name in names]
        if isinstance(value, str) and value.strip().lower() in lower:
            return lower.index(value.strip().lower())
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < len(names):
            return int(value)
        raise ValueError(f"`{field}` of sample {row} is {value!r}: the names are {list(names)}.")

    def _training_texts(
        self, prompts: Sequence[list[int]], answers: Sequence[Mapping[str, str | None]]
    ) -> dict[str, np.ndarray]:
        """Prompt, answer, end of text; targets on the answer and its end only."""
        texts: dict[str, list[list[int]]] = {
            name: [] for name in ("input_ids", "attention_mask", "labels", "label_token_mask")
        }
        for row, (prompt, values) in enumerate(zip(prompts, answers, strict=True)):
            answer, is_label = self._answer_ids(values)
            room = self.max_length - len(prompt)
            if room < 1:
                raise ValueError(
                    f"the prompt of sample {row} has {len(prompt)} tokens but `max_length` is {self.max_length}: raise it, "
                    "or lower `max_text_length`."
                )
            if len(answer) > room:
                logger.warning_once(f"answers beyond `max_length` = {self.max_length} tokens are cut, with their end.")
                answer, is_label = answer[:room], is_label[:room]
            ids = prompt + answer
            texts["input_ids"].append(ids)
            texts["attention_mask"].append([1] * len(ids))
            texts["labels"].append([IGNORED] * len(prompt) + answer)
            texts["label_token_mask"].append([0] * len(prompt) + is_label)
        return self._padded(texts, "right")

    def _answer_ids(self, values: Mapping[str, str | None]) -> tuple[list[int], list[int]]:
        """Tokens of an answer with its end, and 1 for those that belong to a label."""
        answer = format_answer(values, self.answer_format)  # type: ignore[arg-type]
        encoded = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        spans = label_spans(answer, values, self.answer_format)  # type: ignore[arg-type]
        # A token may begin with the space before its word: it belongs to a label when it reaches into it.
        is_label = [int(any(a < end and b > start for start, end in spans)) for a, b in encoded["offset_mapping"]]
        return [*encoded["input_ids"], self.tokenizer.eos_token_id], [*is_label, 0]

    def _padded(self, columns: Mapping[str, Sequence[list[int]]], side: str) -> dict[str, np.ndarray]:
        fill = {"input_ids": self.tokenizer.pad_token_id, "labels": IGNORED}
        out = {}
        for name, rows in columns.items():
            longest = max(map(len, rows))
            array = np.full((len(rows), longest), fill.get(name, 0), np.int64)
            for row, ids in enumerate(rows):
                array[row, longest - len(ids) if side == "left" else 0 :][: len(ids)] = ids
            out[name] = array
        return out

    # ---- captions and subtitles ---------------------------------------------------------------------------------

    def _captions(self, extra: Mapping[str, Sequence[Any]], present: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for name, count in self.num_caption_tokens.items():
            rows = extra.get(f"{name}_caption")
            if rows is None or count == 0:
                continue
            texts = [text or "" if there else "" for text, there in zip(rows, present[name], strict=True)]
            if any(texts):
                out.update(self._encoded(f"{name}_caption", texts, count, fixed=True))
        return out

    def _encoded(self, name: str, texts: Sequence[str], length: int, fixed: bool = False) -> dict[str, np.ndarray]:
        """Ids and mask of the text encoder's tokenizer; empty texts have a mask row of zeros."""
        encoded = self.caption_tokenizer(
            list(texts), truncation=True, max_length=length, padding="max_length" if fixed else True
        )
        mask = np.array(encoded["attention_mask"], np.int64)
        mask[[not text for text in texts]] = 0
        return {f"{name}_ids": np.array(encoded["input_ids"], np.int64), f"{name}_mask": mask}

    # ---- generated tokens to answers ----------------------------------------------------------------------------

    def parse(self, text: str) -> ParsedAnswer:
        """Read one generated text; see [`parse_answer`]."""
        return parse_answer(text, self.emotion_names, self.intent_names)

    def decode_texts(self, sequences: Any, prompt_length: int = 0) -> list[str]:
        """
        Texts of what `generate` returned.

        Args:
            sequences: ids (B, L); negative ones count as padding.
            prompt_length: `input_ids.shape[1]` of the prompt, which is left out.
        """
        ids = torch.as_tensor(np.asarray(sequences.cpu() if isinstance(sequences, torch.Tensor) else sequences))
        ids = ids[:, prompt_length:]
        ids = torch.where(ids < 0, self.tokenizer.pad_token_id, ids)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def decode_answers(self, sequences: Any, prompt_length: int = 0) -> list[ParsedAnswer]:
        """The five fields of every answer; arguments are those of [`decode_texts`]."""
        return [self.parse(text) for text in self.decode_texts(sequences, prompt_length)]

    def label_token_ids(self) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens with which an answer begins for every emotion, and goes on for every intent: for `score_labels`."""
        completions = label_completions(self.emotion_names, self.intent_names, self.answer_format)  # type: ignore[arg-type]
        emotions, intents = (
            [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for texts in completions
        )
        return emotions, intents


def spatiotemporal_tokens(grid: np.ndarray) -> np.ndarray:
    """
    A patch grid (T, P, D) as P tokens, each the mean of its patch over time, and T tokens, each the mean of its frame.

    Returns:
        (P + T, D), in the type of `grid`.
    """
    return np.concatenate([grid.mean(0), grid.mean(1)])
