"""Tiny language models, tokenizers and rows for XMEI-Qwen; no test code in here."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from hf_mmintent.modeling.configuration_xmei_qwen import XmeiQwenConfig
from hf_mmintent.modeling.modeling_xmei_qwen import XmeiQwenForConditionalGeneration
from hf_mmintent.modeling.placeholder_tokens import add_placeholders
from hf_mmintent.modeling.processing_xmei_qwen import XmeiQwenProcessor

from .testers import tiny_bert

AUDIO, VIDEO = 6, 8
CONNECTORS: dict[str, dict[str, Any]] = {
    "lq_former": {"num_caption_tokens": 4, "num_learned_queries": 2},
    "cat_mod": {"num_guide_tokens": 4, "num_explorer_tokens": 2, "guide_schedule": [4, 2]},
}
VARIANTS = [
    pytest.param({}, id="lq_former-qwen2"),
    pytest.param({"connector": "cat_mod", "lm": "qwen3"}, id="cat_mod-qwen3"),
]
variants = pytest.mark.parametrize("variant", VARIANTS)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def _bytes_tokenizer() -> str:
    """Every byte a token, some words of answers as merges; chat tokens as Qwen has them. As JSON."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(alphabet)}
    merges = []
    for word in ("ha", "pp", "happ", "happy", "Em", "ot", "Emot", "io", "ion"):
        half = {"happ": ("ha", "pp"), "happy": ("happ", "y"), "Emot": ("Em", "ot"), "ion": ("io", "n")}.get(word)
        merges.append(half or (word[0], word[1]))
        vocab[word] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    return tokenizer.to_str()


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer of the tiny language model, with the padding defect of many: padding is the end of text."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bytes_tokenizer()), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny_lm(kind: str = "qwen2", **overrides: Any) -> Any:
    """Two layers of width 16; its tokens are those of [`chat_tokenizer`] with the placeholders."""
    tokenizer = chat_tokenizer()
    ids = add_placeholders(tokenizer)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 5,  # as real ones: more rows than tokens
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "pad_token_id": ids["pad"],
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    if kind == "qwen3":
        fields["head_dim"] = 8
    if kind == "gpt2":  # positions are learned vectors, no rotations
        fields["num_key_value_heads"] = None
    return AutoConfig.for_model(kind, **{**fields, **overrides})


def tiny_config(connector: str = "lq_former", lm: str = "qwen2", **overrides: Any) -> XmeiQwenConfig:
    """Every part of the architecture, small."""
    ids = add_placeholders(chat_tokenizer())
    sizes = {
        "model_type": connector,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "vocab_size": 120,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **CONNECTORS[connector],
    }
    fields: dict[str, Any] = {
        "language_model_config": tiny_lm(lm),
        "text_config": tiny_bert(),
        "video_connector_config": dict(sizes),
        "audio_connector_config": dict(sizes),
        "video_feature_size": VIDEO,
        "audio_feature_size": AUDIO,
        "visual_tokens": "frame",
        "audio_conv_layers": 1,
        "tca_dim": 8,
        "video_token_id": ids["video"],
        "audio_token_id": ids["audio"],
    }
    return XmeiQwenConfig(**{**fields, **overrides})


def connector_fields(**changes: Any) -> dict[str, dict[str, Any]]:
    """The tiny LQ-Formers of both modalities with changed fields, for [`tiny_config`]."""
    config = tiny_config()
    names = ("video_connector_config", "audio_connector_config")
    return {name: {**getattr(config, name).to_dict(), **changes} for name in names}


def tiny_model(seed: int = 0, **overrides: Any) -> XmeiQwenForConditionalGeneration:
    torch.manual_seed(seed)
    model = XmeiQwenForConditionalGeneration(tiny_config(**overrides)).eval()
    with torch.no_grad():  # at N(0, 0.02) two layers say nothing; media and captions shall be heard
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "text_model" not in name:
                parameter.mul_(4 if "language_model" in name else 8)
    return model


def tiny_processor(caption_tokenizer: Any = None, **overrides: Any) -> XmeiQwenProcessor:
    config = overrides.pop("config", None) or tiny_config()
    settings = {"system_prompt": "Explain.", "instruction": ""}
    return XmeiQwenProcessor.from_config(config, chat_tokenizer(), caption_tokenizer, **{**settings, **overrides})


def rows(seed: int = 0) -> dict[str, list[Any]]:
    """Four samples: all, no sound, no picture, no words."""
    rng = np.random.default_rng(seed)

    def features(steps: int, width: int) -> np.ndarray:
        return rng.standard_normal((steps, width)).astype(np.float32)

    return {
        "text": ["hello you", "you are late again", "thank you so much", None],
        "audio_features": [features(9, AUDIO), None, features(5, AUDIO), features(7, AUDIO)],
        "video_features": [features(4, VIDEO), features(6, VIDEO), None, features(3, VIDEO)],
        "audio_caption": ["i think this", "great", None, "late again"],
        "video_caption": ["hello", "thank you", "great", "please leave now"],
        "emotion": ["Happy", "sad", "anger", "fear"],
        "intent": ["wishing", "agreeing", "questioning", "neutral"],
        "emotion_reason": ["a smile", None, "a shout", "b"],
        "intent_reason": ["c", "d", None, "e"],
        "joint_reason": ["one", "two words", "three", None],
    }


def one_row(index: int, **changes: Any) -> dict[str, list[Any]]:
    """A batch of one of [`rows`]."""
    return {name: [changes.get(name, values[index])] for name, values in rows().items()}


def move_padding(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same texts with their padding on the other side."""
    moved = dict(batch)
    for name in ("input_ids", "attention_mask", "labels", "label_token_mask"):
        if name in batch:
            moved[name] = torch.stack(
                [row.roll(int((mask == 0).sum())) for row, mask in zip(batch[name], batch["attention_mask"])]
            )
    return moved
