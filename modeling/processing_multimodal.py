"""The processor that turns rows (words, features or raw media, labels) into padded model inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .padding import pad_sequences
from .processing_media import MediaSettings, prepare_media

logger = logging.get_logger(__name__)


class MultimodalProcessor(ProcessorMixin):
    """
    Words through a tokenizer, features padded and cleaned, raw media decoded, labels mapped by name.

    Args:
        tokenizer: of the text backbone; it is made to pad on the right. `None` when text is no modality.
        modalities: names, as in the model's config.
        feature_sizes: width of `<modality>_features` for every modality that is not text.
        max_text_length: tokens with specials; longer texts are cut.
        max_lengths: steps kept per modality, e.g. `{"audio": 480, "video": 230}`; the first ones are kept.
        label_names: class names in id order; `None` in regression.
        problem_type: as in the model's config.
        media: how raw media is decoded, from the model's `encoder_config`; `None` when only features are taken.
        non_finite: what to do with NaN and ±inf in features: "raise", or "zero" as the datasets' own loaders do
            (COVAREP holds −inf). Replacements are counted and logged.
        feature_stats: `{"audio": {"mean": [...], "std": [...]}}`; features are standardised with them when given.

    Raises:
        ValueError: text without a tokenizer, a maximal length of something else or below 1, or a label name twice.
    """

    has_labelled_view: ClassVar[bool] = False
    extra_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        modalities: Sequence[str] = ("text", "audio", "video"),
        feature_sizes: Mapping[str, int] | None = None,
        max_text_length: int = 128,
        max_lengths: Mapping[str, int] | None = None,
        label_names: Sequence[str] | None = None,
        problem_type: str = "single_label_classification",
        media: Mapping[str, Any] | None = None,
        non_finite: str = "raise",
        feature_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        **kwargs: Any,
    ) -> None:
        if tokenizer is None and "text" in modalities:
            raise ValueError(
                f"`modalities` is {list(modalities)} but there is no `tokenizer`: give one, or leave text out."
            )
        if tokenizer is not None and tokenizer.padding_side != "right":
            logger.warning(
                f"the tokenizer pads on the {tokenizer.padding_side}: switched to right, as the models expect."
            )
            tokenizer.padding_side = "right"
        if non_finite not in ("raise", "zero"):
            raise ValueError(f"`non_finite` is {non_finite!r}: choose 'raise' or 'zero'.")
        known = {"audio", "video", *modalities, *(feature_sizes or {})}
        for name, steps in (max_lengths or {}).items():
            if name not in known or (steps is not None and steps < 1):
                raise ValueError(
                    f"`max_lengths` says {name!r}: {steps}: expected steps, at least 1, of {sorted(known)}."
                )
        twice = sorted({name for name in label_names or () if list(label_names or ()).count(name) > 1})
        if twice:
            raise ValueError(f"`label_names` holds {twice} more than once: every class has a name of its own.")
        self.modalities = list(modalities)
        self.feature_sizes = dict(feature_sizes or {})
        self.max_text_length = max_text_length
        self.max_lengths = dict(max_lengths or {})
        self.label_names = list(label_names) if label_names is not None else None
        self.problem_type = problem_type
        # Checked here, stored as the plain values that JSON holds.
        self.media = MediaSettings(**media).to_dict() if media is not None else None
        self.non_finite = non_finite
        self.feature_stats = {name: dict(stats) for name, stats in (feature_stats or {}).items()}
        self._replaced: dict[str, int] = {}
        if tokenizer is None:
            self.tokenizer = None
            # The library asks a processor for its parts when it checks, saves and shows them: this one has none.
            self.get_attributes = list  # type: ignore[method-assign,assignment]
            super().__init__(**kwargs)
        else:
            super().__init__(tokenizer, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        if "text" not in (processor_dict or {}).get("modalities", ("text",)):
            return [None]  # saved without a tokenizer
        return super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)

    @classmethod
    def from_config(
        cls, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None, **kwargs: Any
    ) -> MultimodalProcessor:
        """
        The processor that fits a model's config.

        Args:
            config: of the model.
            tokenizer: of its text backbone; not read when text is no modality.
            kwargs: override what is read from the config.
        """
        tokenizer = tokenizer if "text" in config.modalities else None
        names = None if config.problem_type == "regression" else [config.id2label[i] for i in range(config.num_labels)]
        settings: dict[str, Any] = {
            "modalities": config.modalities,
            "feature_sizes": config.feature_sizes,
            "label_names": names,
            "problem_type": config.problem_type,
        }
        if config.encoder_config is not None:
            settings["media"] = MediaSettings.from_config(config.encoder_config).to_dict()
        return cls(tokenizer, **{**settings, **cls.config_settings(config), **kwargs})

    @classmethod
    def from_backbones(
        cls, config: PreTrainedConfig, backbones: Mapping[str, str], **kwargs: Any
    ) -> MultimodalProcessor:
        """
        As [`from_config`], with the tokenizers of a model's pretrained parts.

        Args:
            config: of the model.
            backbones: name or folder by part, as its `from_backbones` took them.
            kwargs: override what is read from the config.
        """
        tokenizer = AutoTokenizer.from_pretrained(backbones["text"]) if "text" in backbones else None
        return cls.from_config(config, tokenizer, **kwargs)

    @classmethod
    def config_settings(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """Further arguments that an architecture's processor reads from its config."""
        return {}

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask", "token_type_ids"] if "text" in self.modalities else []
        for name in self.feature_sizes:
            names += [f"{name}_features", f"{name}_attention_mask"]
        if self.media is not None:
            names += ["input_values", "input_values_mask", "pixel_values", "pixel_values_mask"]
        return names

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
        **features: Any,
    ) -> BatchFeature:
        """
        Args:
            text: one utterance, or a list with `None` where a sample has no text.
            audio, video: raw media per sample: a path, bytes, `{"bytes", "path"}`, a 16 kHz waveform (samples,), frames
                (T, H, W, 3) uint8, or `None`. Needs a processor with `media`.
            labels: one per sample, class names or ids; floats in regression.
            start_time, end_time: seconds, the part of each sample's media to use; `None` is open.
            return_labelled_view: also make the text view with the label filled in (training of MVCL-DAF).
            return_tensors: "pt" or "np".
            features: `<modality>_features`, per sample an array (T, D) or `None`.

        Returns:
            Padded inputs of the model. A sample without a modality has an all-zero mask row; a modality that no sample
            has is left out.

        Raises:
            ValueError: what is wrong, with the row's position in the batch.
        """
        texts, audio, video, features, labels = self._as_batch(text, audio, video, features, labels)
        size = self._batch_size({"text": texts, "audio": audio, "video": video, **features, "labels": labels})
        out: dict[str, np.ndarray] = {}
        if "text" in self.modalities:
            out.update(self._text_inputs(texts or [None] * size, labels if return_labelled_view else None))
        for name in self.feature_sizes:
            out.update(self._feature_inputs(name, features.get(f"{name}_features")))
        if any(item is not None for item in (*(audio or ()), *(video or ()))):
            start, end = ([time] if isinstance(time, (int, float)) else time for time in (start_time, end_time))
            out.update(self._media_inputs(audio, video, start, end))
        self._check_presence(out, size)
        if labels is not None:
            out["labels"] = self.encode_labels(labels)
        return BatchFeature(out, tensor_type=None if return_tensors == "np" else return_tensors)

    # ---- batches ------------------------------------------------------------------------------------------------

    def _as_batch(self, text: Any, audio: Any, video: Any, features: dict[str, Any], labels: Any) -> tuple[Any, ...]:
        """Wrap a single sample into lists; a batch is recognised by its text or by its features being lists."""
        known = {f"{name}_features" for name in self.feature_sizes}
        for name in features:
            if name not in known:
                raise ValueError(f"`{name}` is not an input of this processor: it takes {sorted(known)}.")
        single = isinstance(text, str) or (
            text is None
            and not any(
                isinstance(item, (list, tuple)) for item in (audio, video, *features.values()) if item is not None
            )
            and not any(np.ndim(item) == 3 for item in features.values() if item is not None)
        )
        if single:
            wrap = [text], [audio], [video]
            text, audio, video = (None if item == [None] else item for item in wrap)
            features = {name: None if item is None else [item] for name, item in features.items()}
            one = 1 if self.problem_type == "multi_label_classification" else 0  # dimensions of one sample's label
            labels = [labels] if labels is not None and np.ndim(labels) == one else labels
        return (None if text is None else list(text)), audio, video, features, labels

    @staticmethod
    def _batch_size(columns: dict[str, Any]) -> int:
        sizes = {name: len(column) for name, column in columns.items() if column is not None}
        if not sizes:
            raise ValueError("all modalities are missing: give text, features or media.")
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"the inputs have different numbers of samples {sizes}: they must describe the same samples."
            )
        size = next(iter(sizes.values()))
        if not size:
            raise ValueError(f"the batch has no samples: {', '.join(f'`{name}`' for name in sizes)} are empty lists.")
        return size

    def _check_presence(self, out: dict[str, np.ndarray], size: int) -> None:
        masks = [value for name, value in out.items() if name.endswith("_mask") and name != "label_slot_mask"]
        found = np.stack([np.asarray(mask).any(1) for mask in masks]) if masks else np.zeros((1, size), bool)
        missing = np.flatnonzero(~found.any(0))
        if missing.size:
            raise ValueError(
                f"all modalities are missing in sample {missing[0]} of the batch: give it text, features or media, "
                f"or drop the sample. Modalities of this processor: {self.modalities}."
            )

    # ---- modalities ---------------------------------------------------------------------------------------------

    def _checked_text(self, texts: Sequence[str | None]) -> list[str]:
        """Texts with "" for the missing ones."""
        for row, text in enumerate(texts):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"text of sample {row} is {type(text).__name__}: expected `str` or `None`.")
            if text is not None and not any(letter.isprintable() and not letter.isspace() for letter in text):
                raise ValueError(
                    f"text of sample {row} is empty: it is {text!r}. Pass `None` if the sample has no text."
                )
        return [text or "" for text in texts]

    def _text_inputs(self, texts: Sequence[str | None], labels: Sequence[Any] | None) -> dict[str, np.ndarray]:
        """Token ids and masks; all-zero mask rows for missing texts, nothing when all are missing."""
        if all(text is None for text in texts):
            return {}
        encoded = self.tokenizer(
            self._checked_text(texts),
            truncation=True,
            max_length=self.max_text_length,
            padding="longest",
            return_attention_mask=True,
        )  # as lists: the library takes as long to look for ragged ones as to tokenize
        present = np.array([text is not None for text in texts])
        out = {name: np.asarray(value, np.int64) for name, value in encoded.items() if name in self.model_input_names}
        out["attention_mask"] = out["attention_mask"] * present[:, None]
        return out

    def _feature_inputs(self, name: str, rows: Iterable[Any] | None) -> dict[str, np.ndarray]:
        """Padded features and mask of one modality; nothing when no sample has it."""
        if rows is None:
            return {}
        cleaned = [None if row is None else self._clean_features(name, index, row) for index, row in enumerate(rows)]
        if all(row is None for row in cleaned):
            return {}
        values, mask = pad_sequences(cleaned, width=self.feature_sizes[name], max_length=self.max_lengths.get(name))
        return {f"{name}_features": values, f"{name}_attention_mask": mask.astype(np.int64)}

    def _clean_features(self, name: str, index: int, row: Any) -> np.ndarray:
        """One sample's features as float32 (T, D): checked, finite, standardised, cut."""
        array = self._as_numbers(name, index, row)
        self._check_width(name, index, array)
        if not len(array):
            raise ValueError(
                f"`{name}_features` of sample {index} has no steps: pass `None` if the sample has no {name}."
            )
        array = array[: self.max_lengths.get(name)]
        finite = np.isfinite(array)
        if not finite.all():
            bad = int(array.size - finite.sum())
            if self.non_finite == "raise":
                raise ValueError(
                    f"`{name}_features` of sample {index} holds {bad} NaN or infinite values: repair the features, or set "
                    f"`non_finite='zero'` in the processor to replace them by 0."
                )
            if name not in self._replaced:
                logger.warning(
                    f"`{name}_features`: NaN or infinite values are replaced by 0 ({bad} in the first such sample)."
                )
            self._replaced[name] = self._replaced.get(name, 0) + bad
            array = np.where(finite, array, np.float32(0))
        stats = self.feature_stats.get(name)
        if stats is not None:
            array = (array - np.asarray(stats["mean"], np.float32)) / np.asarray(stats["std"], np.float32)
        return array

    @staticmethod
    def _as_numbers(name: str, index: int, row: Any) -> np.ndarray:
        try:
            array = np.asarray(row)
        except ValueError as error:  # steps of different widths
            raise ValueError(f"`{name}_features` of sample {index} are no array of numbers: {error}.") from error
        if array.dtype.kind not in "biuf":
            raise ValueError(f"`{name}_features` of sample {index} are no real numbers but {array.dtype}.")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is found below
            return array.astype(np.float32, copy=False)

    def _check_width(self, name: str, index: int, array: np.ndarray) -> None:
        width = self.feature_sizes[name]
        if array.ndim != 2 or array.shape[1] != width:
            raise ValueError(
                f"`{name}_features` of sample {index} has shape {array.shape} but the model was built for (steps, {width}): "
                f"its config says `{name}_feature_size` = {width}. Extract matching features or build a model with "
                f"`{name}_feature_size={array.shape[-1] if array.ndim else 0}`."
            )

    def _media_inputs(
        self,
        audio: Sequence[Any] | None,
        video: Sequence[Any] | None,
        start: Sequence[float | None] | None,
        end: Sequence[float | None] | None,
    ) -> dict[str, np.ndarray]:
        if self.media is None:
            raise ValueError(
                "raw audio or video was given but this processor has no `media` settings: its checkpoint takes extracted "
                f"features of widths {self.feature_sizes}."
            )
        wanted = {"audio": audio, "video": video}
        return prepare_media(
            **{name: rows if name in self.modalities else None for name, rows in wanted.items()},
            settings=MediaSettings(**self.media),
            start=start,
            end=end,
        )

    # ---- labels -------------------------------------------------------------------------------------------------

    def encode_labels(self, labels: Sequence[Any]) -> np.ndarray:
        """Class ids int64 (B,), or float32 values in regression. −100 stays: the losses ignore it."""
        if self.problem_type == "regression":
            values = np.asarray(labels, dtype=np.float32)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"label of sample {int(np.flatnonzero(~np.isfinite(values))[0])} is not a finite number."
                )
            return values
        if self.problem_type == "multi_label_classification":
            several = np.asarray(labels, dtype=np.float32)
            if several.ndim != 2 or several.shape[1] != len(self.label_names or []):
                raise ValueError(
                    f"labels have shape {several.shape} but there are {len(self.label_names or [])} label names: give 0 or 1 "
                    "for each name of each sample."
                )
            return several
        return np.array([self._label_id(row, label) for row, label in enumerate(labels)], dtype=np.int64)

    def _label_id(self, row: int, label: Any) -> int:
        names = self.label_names or []
        if isinstance(label, str):
            if label not in names:
                raise ValueError(
                    f"label {label!r} of sample {row} is not one of the {len(names)} known names: {names}."
                )
            return names.index(label)
        if label is None or label % 1 != 0:  # also NaN
            raise ValueError(f"label {label} of sample {row} is neither a name nor an id: the names are {names}.")
        if label != -100 and not 0 <= int(label) < max(len(names), 1):
            raise ValueError(f"label id {label} of sample {row} is outside [0, {len(names)}): the names are {names}.")
        return int(label)

    def fit_feature_stats(self, rows: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> None:
        """
        Mean and standard deviation per feature column over all valid steps of `rows`, for standardisation.

        Fit on training rows only; the figures are saved with the processor. As in a batch, only the first `max_lengths`
        steps are read.
        """
        names = list(names or self.feature_sizes)
        count = dict.fromkeys(names, 0)
        total = {name: np.zeros(self.feature_sizes[name]) for name in names}
        square = {name: np.zeros(self.feature_sizes[name]) for name in names}
        for index, row in enumerate(rows):
            for name in names:
                value = row.get(f"{name}_features")
                if value is None:
                    continue
                value = np.asarray(value, np.float64)
                self._check_width(name, index, value)
                value = np.nan_to_num(value[: self.max_lengths.get(name)], nan=0.0, posinf=0.0, neginf=0.0)
                count[name] += len(value)
                total[name] += value.sum(0)
                square[name] += (value**2).sum(0)
        for name in names:
            if not count[name]:
                continue
            mean = total[name] / count[name]
            std = np.sqrt(np.maximum(square[name] / count[name] - mean**2, 0.0))
            # A constant column carries nothing: dividing by its rounding error would blow it up.
            std = np.where(std < 1e-6 * np.maximum(1.0, np.abs(mean)), 1.0, std)
            self.feature_stats[name] = {"mean": mean.tolist(), "std": std.tolist()}

    @staticmethod
    def to_tensors(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Numpy inputs as tensors that share their memory."""
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}
