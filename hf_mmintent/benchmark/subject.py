"""What is measured: a model of any architecture, and batches that its own processor makes of synthetic rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BertConfig, BertTokenizer, PreTrainedTokenizerBase

from hf_mmintent.backbones import resolve_backbone
from hf_mmintent.benchmark.shapes import Shape
from hf_mmintent.registration import model_class, processor_class

# Sizes of text encoders that are built from a configuration, with random weights: cost does not depend on their values.
TEXT_SIZES: dict[str, dict[str, Any]] = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
}
_SPECIALS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}  # where BERT's vocabulary has them
_VOCABULARY = 30522


def synthetic_tokenizer() -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer of BERT's size in which "w200", "w201", … are single tokens."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("".join(f"{_SPECIALS.get(i, f'w{i}')}\n" for i in range(_VOCABULARY)), encoding="utf-8")
        return BertTokenizer(vocab=str(path))


def single_token_words(tokenizer: PreTrainedTokenizerBase, count: int = 64) -> list[str]:
    """
    Words that stay one token wherever they stand in a text.

    Raises:
        ValueError: the tokenizer has too few of them.
    """
    found = []
    for token in tokenizer.get_vocab():
        if token.isascii() and token.isalnum() and len(tokenizer.tokenize(f"{token} {token}")) == 2:
            found.append(token)
            if len(found) == count:
                return found
    raise ValueError(
        f"the tokenizer has {len(found)} plain words of one token, {count} are needed: use another backbone."
    )


@dataclass
class Subject:
    """
    A model and how to feed it.

    Args:
        model: with a head that takes `labels`.
        processor: of the same architecture.
        shape: of a full batch.
        words: single-token words of the tokenizer, empty when the model takes no text.
    """

    model: Any
    processor: Any
    shape: Shape
    words: list[str]

    @classmethod
    def build(
        cls,
        model_type: str,
        shape: Shape,
        text: str = "minilm",
        text_backbone: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        auto_class: str = "AutoModelForSequenceClassification",
        seed: int = 0,
    ) -> Subject:
        """
        Build the model of an architecture for `shape`.

        Args:
            model_type: architecture.
            shape: sizes of the batch.
            text: size of the text encoder, a key of `TEXT_SIZES`, with random weights.
            text_backbone: name or path of a pretrained text encoder, in place of `text`.
            overrides: fields of the architecture's config.
            auto_class: which head.
            seed: of the weights.

        Raises:
            ValueError: the architecture, its head, the size or a config field is unknown.
        """
        torch.manual_seed(seed)
        kind: Any = model_class(model_type, auto_class)
        config_class = kind.config_class
        backbone, tokenizer = _text_parts(text, text_backbone)
        given: dict[str, Any] = {"num_labels": shape.num_labels}
        if hasattr(config_class, "text_token_fields"):
            given.update(config_class.text_token_fields(tokenizer))
        if "max_text_length" in {item.name for item in fields(config_class)}:
            given["max_text_length"] = shape.text
        widths = {name: width for name, (_, width) in shape.features.items()}
        model = kind.from_backbones(text=backbone, **widths, **{**given, **(overrides or {})})
        return cls.of(model, tokenizer, shape)

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerBase, shape: Shape) -> Subject:
        """The subject of a model that exists; label names become single words, so that every label fits its slots."""
        words = single_token_words(tokenizer)
        if model.config.problem_type != "regression":
            model.config.id2label = {index: words[index % len(words)] for index in range(model.config.num_labels)}
        kind: Any = processor_class(model.config.model_type)
        processor = kind.from_config(model.config, tokenizer)
        return cls(model, processor, shape, words if "text" in model.config.modalities else [])

    @property
    def text_model(self) -> torch.nn.Module | None:
        """The text encoder, where the architecture has one."""
        return getattr(self.model.base_model, "text_model", None)

    # ---- rows and batches ---------------------------------------------------------------------------------------

    @property
    def text_overhead(self) -> int:
        """Tokens of a text beside its words: specials and label slots."""
        return self.processor(text=[self.words[0]])["input_ids"].shape[1] - 1

    def rows(
        self,
        generator: np.random.Generator,
        batch_size: int | None = None,
        wordpieces: Mapping[int, int] | None = None,
        ragged: bool = False,
    ) -> list[dict[str, Any]]:
        """
        Synthetic samples.

        Args:
            generator: draws everything.
            batch_size: that of the shape when not given.
            wordpieces: counts per text length, from which lengths are drawn; full length when not given.
            ragged: all lengths are drawn uniformly from 1 to the full one, for the check of batch invariance.

        Returns:
            Arguments of the processor for every sample.
        """
        size = batch_size or self.shape.batch_size
        labels = self.model.config.num_labels
        longest = self.shape.text - self.text_overhead if self.words else 0
        rows = []
        for index in range(size):
            row: dict[str, Any] = {}
            if self.words:
                count = longest
                if ragged:
                    count = int(generator.integers(1, longest + 1))
                elif wordpieces is not None:
                    lengths, counts = np.array(list(wordpieces)), np.array(list(wordpieces.values()))
                    count = min(longest, int(generator.choice(lengths, p=counts / counts.sum())))
                row["text"] = " ".join(generator.choice(self.words, count))
            for name, (steps, width) in self.shape.features.items():
                if name in self.model.config.modalities:
                    steps = int(generator.integers(1, steps + 1)) if ragged else steps
                    row[f"{name}_features"] = generator.standard_normal((steps, width), dtype=np.float32)
            regression = self.model.config.problem_type == "regression"
            row["labels"] = float(generator.uniform(-3, 3)) if regression else index % labels
            rows.append(row)
        return rows

    def batch(
        self, rows: list[dict[str, Any]], training: bool, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Model inputs of `rows`; with labels and, where the architecture has one, the labelled text view in training."""
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        if not training:
            del columns["labels"]
        elif self.processor.has_labelled_view:
            columns["return_labelled_view"] = True
        return {name: value.to(device) for name, value in self.processor(**columns).items()}


def _text_parts(text: str, text_backbone: str | None) -> tuple[Any, PreTrainedTokenizerBase]:
    """What `from_backbones` takes as text, and its tokenizer."""
    if text_backbone is not None:
        name = resolve_backbone(text_backbone)
        return name, AutoTokenizer.from_pretrained(name)
    if text not in TEXT_SIZES:
        raise ValueError(f"there is no text size {text!r}: known are {sorted(TEXT_SIZES)}.")
    config = BertConfig(vocab_size=_VOCABULARY, **TEXT_SIZES[text])
    return AutoModel.from_config(config, add_pooling_layer=False), synthetic_tokenizer()
