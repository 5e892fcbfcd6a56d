"""Which of several completions a language model finds most likely after a prompt, computed on the prompt's cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from .xmei_qwen_outputs import CACHE


@torch.no_grad()
def completion_scores(
    language_model: Any,
    cache: Cache,
    mask: Tensor,
    last_logits: Tensor,
    completions: Sequence[Sequence[Sequence[int]]],
    skip: Sequence[int],
) -> Tensor:
    """
    Mean log-likelihood per token of every completion.

    Args:
        language_model: causal, called with ids.
        cache: keys and values of the prompts; it is left as it is.
        mask: (B, L) of the prompts, which may be padded on the left.
        last_logits: (B, V) at the last prompt token.
        completions: C token lists for each of the B prompts.
        skip: tokens at the front of each prompt's completions that are given, not scored.

    Returns:
        (B, C) float32.
    """
    rows, count = len(completions), len(completions[0])
    longest = max(len(ids) for options in completions for ids in options)
    device = mask.device
    ids = torch.zeros(rows, count, longest, dtype=torch.long)
    real = torch.zeros(rows, count, longest, dtype=torch.bool)
    for row, options in enumerate(completions):
        for column, tokens in enumerate(options):
            ids[row, column, : len(tokens)] = torch.tensor(tokens)
            real[row, column, : len(tokens)] = True
    flat, real = ids.flatten(0, 1).to(device), real.flatten(0, 1).to(device)  # (B·C, longest)
    prompt = mask.to(torch.bool).repeat_interleave(count, 0)
    shared = copy.deepcopy(cache)  # the cache grows in place
    shared.batch_repeat_interleave(count)
    positions = prompt.sum(1, keepdim=True) + torch.arange(longest, device=device)[None]
    out = language_model(
        input_ids=flat,
        attention_mask=torch.cat([prompt, real], 1).long(),
        position_ids=positions,
        use_cache=True,
        **{CACHE: shared},
    )
    logits = torch.cat([last_logits.repeat_interleave(count, 0)[:, None], out.logits[:, :-1]], 1).float()
    each = logits.log_softmax(-1).gather(2, flat[..., None]).squeeze(2)  # (B·C, longest)
    given = torch.tensor(list(skip), device=device).repeat_interleave(count)[:, None]
    scored = real & (torch.arange(longest, device=device)[None] >= given)
    return ((each * scored).sum(1) / scored.sum(1).clamp(min=1)).view(rows, count)
