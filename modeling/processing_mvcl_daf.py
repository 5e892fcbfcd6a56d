"""Processor of MVCL-DAF++: the masked and the labelled text view beside features or raw media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .processing_multimodal import MultimodalProcessor


class MvclDafProcessor(MultimodalProcessor):
    """
    [`MultimodalProcessor`] with label slots behind the words.

    The masked view is `[CLS] words [MASK]*k [SEP]`, the labelled one `[CLS] words label [MASK]*(k−n) [SEP]`: the same
    positions, one mask. The labelled view is made only on request, in training; it contains the answer.

    Args:
        label_slots: k, at least the number of wordpieces of the longest label name.
        regression_bins: sorted edges; in regression the names of the bins stand for the label.

    Other arguments are those of [`MultimodalProcessor`].

    Raises:
        ValueError: a label name has more wordpieces than there are slots, or the slots leave no room for a word.
    """

    has_labelled_view: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        modalities: Sequence[str] = ("text", "video", "audio"),
        feature_sizes: Mapping[str, int] | None = None,
        max_text_length: int = 41,
        max_lengths: Mapping[str, int] | None = None,
        label_names: Sequence[str] | None = None,
        problem_type: str = "single_label_classification",
        media: Mapping[str, Any] | None = None,
        non_finite: str = "raise",
        feature_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        label_slots: int = 4,
        regression_bins: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if max_text_length < label_slots + 3:
            raise ValueError(
                f"`max_text_length` is {max_text_length} but `label_slots` is {label_slots}: with [CLS], [SEP] and one word "
                f"it must be at least {label_slots + 3}."
            )
        self.label_slots = label_slots
        self.regression_bins = list(regression_bins) if regression_bins is not None else None
        super().__init__(
            tokenizer,
            modalities=modalities,
            feature_sizes=feature_sizes,
            max_text_length=max_text_length,
            max_lengths=max_lengths,
            label_names=label_names,
            problem_type=problem_type,
            media=media,
            non_finite=non_finite,
            feature_stats=feature_stats,
            **kwargs,
        )
        self._check_label_lengths()

    @classmethod
    def config_settings(cls, config: PreTrainedConfig) -> dict[str, Any]:
        return {
            "max_text_length": config.max_text_length,
            "label_slots": config.label_slots,
            "regression_bins": config.regression_bins,
        }

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "label_slot_mask", "labelled_input_ids"]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Wordpieces of every text, in one call, as a call takes longer than a text."""
        # A transcript that happens to say "[MASK]" or "[SEP]" means these letters, not a slot or an end.
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return self.tokenizer(list(texts), **options)["input_ids"] if texts else []

    def _check_label_lengths(self) -> None:
        self._label_pieces = self._pieces(self._names())
        for name, pieces in zip(self._names(), self._label_pieces, strict=True):
            if len(pieces) > self.label_slots:
                raise ValueError(
                    f"label {name!r} has {len(pieces)} wordpieces but `label_slots` is {self.label_slots}: "
                    f"set `label_slots={len(pieces)}` in the model's config."
                )

    def _names(self) -> list[str]:
        """What is written into the slots, by class id."""
        if self.problem_type == "multi_label_classification":
            return []  # no label to write: the losses that would read it are off
        if self.problem_type != "regression":
            return self.label_names or []
        edges = self.regression_bins or []
        return [f"level {index}" for index in range(len(edges) + 1)] if edges else []

    def _text_inputs(self, texts: Sequence[str | None], labels: Sequence[Any] | None) -> dict[str, np.ndarray]:
        room = self.max_text_length - 2 - self.label_slots
        words = [pieces[:room] for pieces in self._pieces(self._checked_text(texts))]
        ids = np.full(
            (len(words), max(map(len, words)) + 2 + self.label_slots), self.tokenizer.pad_token_id or 0, np.int64
        )
        mask, slots = np.zeros_like(ids), np.zeros_like(ids)
        for row, pieces in enumerate(words):
            first, end = 1 + len(pieces), 1 + len(pieces) + self.label_slots
            ids[row, 0], ids[row, end] = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
            ids[row, 1:first], ids[row, first:end] = pieces, self.tokenizer.mask_token_id
            mask[row, : end + 1], slots[row, first:end] = 1, 1
        labelled = {}
        if labels is not None and self._label_pieces:
            labelled["labelled_input_ids"] = self._labelled_view(ids, slots, labels)
        present = np.array([text is not None for text in texts])[:, None]
        if not present.any():
            return labelled  # the model itself puts the empty utterance in place of a missing text
        return {
            "input_ids": ids,
            "attention_mask": mask * present,
            "token_type_ids": np.zeros_like(ids),
            "label_slot_mask": slots * present,
            **labelled,
        }

    def _labelled_view(self, ids: np.ndarray, slots: np.ndarray, labels: Sequence[Any]) -> np.ndarray:
        """The ids with the label's wordpieces in the first slots; rows whose label is ignored keep their masks."""
        labelled = ids.copy()
        encoded = self.encode_labels(labels)
        if self.problem_type == "regression":
            # The edges in the labels' own precision, as the model compares them.
            encoded = np.searchsorted(np.asarray(self.regression_bins, encoded.dtype), encoded, side="left")
        for row, label in enumerate(encoded):
            if label != -100:
                pieces = self._label_pieces[int(label)]
                first = int(slots[row].argmax())
                labelled[row, first : first + len(pieces)] = pieces
        return labelled
