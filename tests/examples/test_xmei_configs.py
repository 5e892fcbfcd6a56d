"""The settings of XMEI-Qwen fit the data and the code; those of the launcher are read by Accelerate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, Features, Value

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data_scripts.mmintent_mini import EXPLANATIONS, STYLES, packaged_folder, read_rows, short_explanation
from hf_mmintent.training import RunConfig
from hf_mmintent.training.peft_runs import adapt
from hf_mmintent.training.runs import build
from tests.hf_mmintent.answer_cases import save_language_model

CONFIGS = ["xmei_qwen_mmintent_mini", "xmei_qwen_cat_mod_mmintent_mini"]


def mini_rows() -> Dataset:
    """The rows of the configuration `explanation` with features of the widths of the run's encoder."""
    generator = np.random.default_rng(0)
    widths = {"audio_features": 40, "video_features": 256}
    features = Features(
        {
            **{name: Array2D((None, width), "float32") for name, width in widths.items()},
            **dict.fromkeys(("id", "text", *EXPLANATIONS), Value("string")),
        }
    )
    rows = []
    for row in read_rows(packaged_folder())[:6]:
        made = {name: generator.standard_normal((9, width)).astype(np.float32) for name, width in widths.items()}
        explained = {name: row[name] for name in EXPLANATIONS} | short_explanation(row["label"], row["emotion"])
        rows.append({"id": row["id"], "text": row["text"], **made, **explained})
    return Dataset.from_list(rows, features=features).with_format("multimodal")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_of_the_data_trains(name: str, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = RunConfig.load(root / "examples" / "configs" / f"{name}.yaml")
    run.backbones["language_model"] = str(save_language_model(tmp_path / "lm"))
    rows = mini_rows()
    model, processor = build(run, rows)
    connectors = {model.config.video_connector_config.model_type, model.config.audio_connector_config.model_type}
    assert connectors == {"cat_mod" if "cat_mod" in name else "lq_former"}
    adapted = adapt(model, run.peft, tmp_path).train()
    batch = MultimodalCollator(processor, training=True, label_column="labels")(list(rows))
    assert "audio_caption_ids" not in batch  # captions would tell what voice and face are there to tell
    for stage in model.config.training_stages:
        adapted.set_stage(stage.name)
        loss = adapted(**batch).loss
        loss.backward()
        assert torch.isfinite(loss)


def test_short_explanations_name_voice_and_face() -> None:
    """They differ within each pair of intents, whose words are the same, and follow from what the clip was made with."""
    rows = {row["label"]: row for row in read_rows(packaged_folder())}
    found = {label: short_explanation(label, row["emotion"]) for label, row in rows.items()}
    assert set(found) == set(STYLES) and len({tuple(e.values()) for e in found.values()}) == 8
    for first, second in (("Praise", "Taunt"), ("Inform", "Complain"), ("Joke", "Criticize"), ("Comfort", "Prevent")):
        assert found[first]["emotion"] != found[second]["emotion"]
        assert found[first]["emotion_reason"] != found[second]["emotion_reason"]
    for label, row in rows.items():
        voice, face = STYLES[label]
        assert "voice" in found[label]["emotion_reason"] and "face" in found[label]["emotion_reason"]
        heard = {"bright": ("high", "bright"), "dark": ("low", "dark"), "neutral": ("even", "ordinary", "plain")}
        heard["whisper"] = ("whisper", "hushed")
        seen = {"smile": ("smil", "up"), "frown": ("frown", "down"), "neutral": ("calm", "rest", "relaxed")}
        seen["alarm"] = ("wide",)
        assert any(word in row["audio_caption"] for word in heard[voice]) and any(
            w in row["video_caption"] for w in seen[face]
        )


@pytest.mark.parametrize("name", ["one_gpu", "ddp", "fsdp", "deepspeed_zero3"])
def test_launcher_settings(name: str, root: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(root / "examples" / "configs" / "accelerate" / f"{name}.yaml"))
    kinds = {"one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[name] and config.mixed_precision == "bf16"
