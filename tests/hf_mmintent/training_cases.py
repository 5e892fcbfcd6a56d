"""A tiny text backbone, a tiny dataset on disk and the settings to train on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, Features, Value
from transformers import BertModel

from tests.modeling.testers import tiny_bert

LABELS = ["complain", "praise", "inform"]
WORDS = ["you are late again", "thank you so much", "i think this is great", "please leave now"]


def save_backbone(folder: Path, tokenizer: Any) -> Path:
    """A two-layer BERT and its tokenizer, as a folder that `from_pretrained` opens."""
    BertModel(tiny_bert(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_dataset(folder: Path, count: int = 24, seed: int = 0) -> Path:
    """Parquet splits whose label shows in the audio and video features."""
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "label": ClassLabel(names=LABELS),
            "audio_features": Array2D((None, 6), "float32"),
            "video_features": Array2D((None, 8), "float32"),
        }
    )
    for number, split in enumerate(("train", "validation", "test")):
        generator = np.random.default_rng(seed + number)
        rows: dict[str, list[Any]] = {name: [] for name in features}
        for index in range(count if split == "train" else 9):
            label = index % 3
            rows["id"].append(f"{split}_{index}")
            rows["text"].append(WORDS[generator.integers(len(WORDS))])
            rows["label"].append(label)
            for name, width in (("audio_features", 6), ("video_features", 8)):
                values = generator.normal(size=(int(generator.integers(4, 9)), width)).astype(np.float32)
                values[:, label] += 3.0
                rows[name].append(values)
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def settings(folder: Path, tokenizer: Any, **overrides: Any) -> dict[str, Any]:
    """What `RunConfig.from_dict` takes for a run of seconds."""
    values: dict[str, Any] = {
        "model_type": "mvcl_daf",
        "output_dir": str(folder / "run"),
        "data": {"name": str(save_dataset(folder / "data"))},
        "backbones": {"text": str(save_backbone(folder / "bert", tokenizer))},
        "config": {
            "video_embed_size": 8,
            "audio_embed_size": 8,
            "max_text_length": 20,
            "visual_layers": 1,
            "visual_heads": 2,
            "coarse_heads": 2,
            "daf_max_depth": 2,
        },
        "training": {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "use_cpu": True,
            "logging_steps": 1,
            "disable_tqdm": True,
        },
    }
    for name, value in overrides.items():
        values[name] = {**values[name], **value} if isinstance(values.get(name), dict) else value
    return values
