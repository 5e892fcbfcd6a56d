"""Tokens of a connector against the word vectors of label names: what they say about a label before any language model runs.

A connector that is trained through a language model learns slowly: its tokens mean nothing to the model at first, and every
step costs a pass through all of its layers. The vectors of the label words are known from the start, and the language model
reads them already. Pulling the tokens of a modality to the words of its sample's labels needs the embedding table alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


def label_word_ids(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Tokens of every label name as it stands in an answer: in lower case, behind a space."""
    return tuple(tuple(tokenizer(f" {name.lower()}", add_special_tokens=False)["input_ids"]) for name in names)


def label_word_logits(tokens: Tensor, table: Tensor, ids: Sequence[Sequence[int]], temperature: float) -> Tensor:
    """
    Cosine of a sample's mean token and each label's word vector, over τ.

    What all label words have in common says nothing about a label: their mean is taken off the word vectors.

    Args:
        tokens: (B, N, d).
        table: (V, d), word vectors; no gradient reaches them.
        ids: per label its tokens, at least one; their vectors are averaged.
        temperature: τ.

    Returns:
        (B, C) float32.
    """
    rows = table.detach().float()
    words = torch.stack([rows[list(label)].mean(0) for label in ids])  # (C, d)
    words = nn.functional.normalize(words - words.mean(0), dim=-1)
    with torch.autocast(tokens.device.type, enabled=False):  # similarities over τ need float32
        return nn.functional.normalize(tokens.float().mean(1), dim=-1) @ words.T / temperature


def agreed_logits(logits: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """
    One opinion of several modalities: the sum of their log-probabilities; a sample without any has zeros.

    Args:
        logits: per modality (B, C) and which samples have it (B,) bool; at least one.
    """
    return torch.stack([values.log_softmax(-1) * there[:, None] for values, there in logits.values()]).sum(0)
