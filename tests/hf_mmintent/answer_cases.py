"""A tiny language model, rows with emotion, intent and reasons, and the settings to train on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Value
from transformers import AutoModelForCausalLM

from tests.modeling.xmei_cases import CONNECTORS, chat_tokenizer, tiny_lm

EMOTIONS, INTENTS = ["happy", "sad"], ["praise", "taunt"]


def save_language_model(folder: Path) -> Path:
    """Two layers of width 16 and a tokenizer of bytes."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    config = tiny_lm(vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_rows(folder: Path, count: int = 16) -> Path:
    """Parquet splits in which sound tells the emotion and the picture the intent."""
    names = ("emotion", "intent", "emotion_reason", "intent_reason", "joint_reason")
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "label": ClassLabel(names=INTENTS),
            "audio_features": Array2D((None, 6), "float32"),
            "video_features": Array2D((None, 8), "float32"),
            **dict.fromkeys(names, Value("string")),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "validation", "test")):
        generator = np.random.default_rng(number)
        rows: dict[str, list[Any]] = {name: [] for name in features}
        for index in range(count if split == "train" else 6):
            emotion, intent = index % 2, index // 2 % 2
            rows["id"].append(f"{split}_{index}")
            rows["text"].append(["well", "so it is"][generator.integers(2)])
            rows["label"].append(intent)
            for name, width, shown in (("audio_features", 6, emotion), ("video_features", 8, intent)):
                values = generator.normal(size=(int(generator.integers(4, 9)), width)).astype(np.float32)
                values[:, shown] += 3.0
                rows[name].append(values)
            rows["emotion"].append(EMOTIONS[emotion])
            rows["intent"].append(INTENTS[intent])
            rows["emotion_reason"].append("a " + ("high", "low")[emotion] + " voice")
            rows["intent_reason"].append(None if index == 3 else ("smile", "frown")[intent])
            rows["joint_reason"].append("both")
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def settings(folder: Path, connector: str = "lq_former", **overrides: Any) -> dict[str, Any]:
    """What `RunConfig.from_dict` takes for a run of seconds: both stages, LoRA, connectors without captions."""
    sizes = {name: value for name, value in CONNECTORS[connector].items() if "schedule" not in name}
    fields = {
        "model_type": connector,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_hidden_layers": 1 if connector == "lq_former" else 6,
        **sizes,
        **({"num_caption_tokens": 0} if connector == "lq_former" else {}),
    }
    values: dict[str, Any] = {
        "model_type": "xmei_qwen",
        "output_dir": str(folder / "run"),
        "data": {"name": str(save_rows(folder / "data"))},
        "backbones": {"language_model": str(save_language_model(folder / "lm"))},
        "config": {
            "emotion_names": EMOTIONS,
            "intent_names": INTENTS,
            "visual_tokens": "frame",
            "video_connector_config": dict(fields),
            "audio_connector_config": dict(fields),
            "audio_conv_layers": 1,
            "tca_loss_weight": 0.0,
            "stages": [["align", 1], ["joint", 1]],
        },
        "processor": {"system_prompt": "Explain.", "instruction": ""},
        "peft": {"r": 2, "lora_alpha": 4},
        "validation_new_tokens": 4,
        "training": {
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "use_cpu": True,
            "disable_tqdm": True,
        },
    }
    return {**values, **overrides}
