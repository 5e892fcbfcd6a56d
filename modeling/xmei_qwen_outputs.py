"""Output of XMEI-Qwen."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

# What language models call their keys and values: transformers 5.24 renamed `past_key_values`.
CACHE = next(field.name for field in fields(CausalLMOutputWithPast) if field.name in ("cache", "past_key_values"))


@dataclass
class XmeiQwenOutput(CausalLMOutputWithPast):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): weighted sum of the terms, when there are targets.
        logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, vocab_size)`, *optional*):
            Of the language model. Not made in training, where the loss reads the positions of answers only.
        loss_terms (`dict[str, torch.FloatTensor]`, *optional*):
            Unweighted and detached: `lm`, `emotion`, `intent`, `tca_text_audio`, `tca_text_video`, `tca_audio_video`, and
            those of the connectors as `video_<term>` and `audio_<term>`.
        emotion_logits (`torch.FloatTensor` of shape `(batch_size, num_emotions)`, *optional*): of the classification head.
        intent_logits (`torch.FloatTensor` of shape `(batch_size, num_intents)`, *optional*): of the classification head.
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
            State of the language model at the last token of the prompt; not made on top of a cache.
        cache or past_key_values ([`Cache`], *optional*): of the language model; the name is that of transformers, [`CACHE`].
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): of the language model, on request.
        cross_attentions (`dict[str, tuple[torch.FloatTensor]]`, *optional*):
            Of the connectors, `{"video": ..., "audio": ...}`, on request.
        diagnostics (`dict[str, torch.FloatTensor]`, *optional*):
            What connectors report of themselves in training, as `video_<figure>` and `audio_<figure>`, detached.
        modality_weights: always `None`.
    """

    loss_terms: dict[str, torch.FloatTensor] | None = None
    emotion_logits: torch.FloatTensor | None = None
    intent_logits: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    cross_attentions: dict[str, tuple[torch.FloatTensor, ...]] | None = None
    diagnostics: dict[str, torch.FloatTensor] | None = None
    modality_weights: torch.FloatTensor | None = None


@dataclass
class LabelScores(ModelOutput):
    """
    Labels by likelihood of their words.

    Args:
        emotion_ids, intent_ids (`torch.LongTensor` of shape `(batch_size,)`): the most likely ones.
        emotion_scores (`torch.FloatTensor` of shape `(batch_size, num_emotions)`): mean log-likelihood per token.
        intent_scores (`torch.FloatTensor` of shape `(batch_size, num_intents)`): the same, after the chosen emotion.
    """

    emotion_ids: torch.LongTensor | None = None
    intent_ids: torch.LongTensor | None = None
    emotion_scores: torch.FloatTensor | None = None
    intent_scores: torch.FloatTensor | None = None
