"""Putting a composite together from pretrained parts without making random weights first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from transformers import GenerationConfig

_replaced_soon: ContextVar[bool] = ContextVar("pretrained parts are put in place afterwards", default=False)


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """In here, parts that [`pretrained_part`] wraps are built without memory or random numbers."""
    token = _replaced_soon.set(True)
    try:
        yield
    finally:
        _replaced_soon.reset(token)


def pretrained_part() -> contextlib.AbstractContextManager[Any]:
    """Around the construction of parts that pretrained ones may replace at once."""
    return torch.device("meta") if _replaced_soon.get() else contextlib.nullcontext()


def greedy(of: GenerationConfig) -> GenerationConfig:
    """Special tokens of a language model; its own sampling settings are for chatting, labels are to be certain."""
    tokens = {name: getattr(of, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**tokens, max_new_tokens=256, do_sample=False)
