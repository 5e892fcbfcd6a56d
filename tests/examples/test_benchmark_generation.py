"""Generation is measured beside the bare language model, for whatever writes."""

from __future__ import annotations

from hf_mmintent.benchmark import BenchmarkConfig, format_report, run_benchmark
from hf_mmintent.benchmark.generation import prompts, writes
from hf_mmintent.benchmark.shapes import shape_named
from hf_mmintent.modeling import LQFormerModel, MvclDafModel, XmeiQwenForConditionalGeneration

CONNECTOR = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_learned_queries": 3}


def overrides() -> dict:
    connector = {**CONNECTOR, "num_caption_tokens": 0}
    fields = {f"{name}_connector_config": dict(connector) for name in ("audio", "video")}
    return {**fields, "tca_loss_weight": 0.0, "visual_tokens": "frame"}


def test_who_writes() -> None:
    assert writes(XmeiQwenForConditionalGeneration)
    assert not writes(MvclDafModel) and not writes(LQFormerModel)


def test_both_prompts_have_as_many_tokens() -> None:
    from hf_mmintent.benchmark.generation import build_writer

    shape = shape_named("mini")
    model = build_writer(XmeiQwenForConditionalGeneration, shape, "tiny", overrides(), 0)
    batch, bare = prompts(model, shape, 0, model.device)
    assert batch["input_ids"].shape == bare["input_ids"].shape == (shape.batch_size, shape.text + 6)
    assert model(**batch).logits.shape[:2] == batch["input_ids"].shape
    assert not (bare["input_ids"] == model.config.video_token_id).any()


def test_report() -> None:
    config = BenchmarkConfig(
        "xmei_qwen", "mini", batch_size=2, overrides=overrides(), repeats=2, new_tokens=3, device="cpu", clock="cpu"
    )
    report = run_benchmark(config)
    found = report["generation"]
    assert found["prompt_tokens"] == 22 and found["new_tokens"] == 3
    for name in ("media", "bare"):
        assert found[name]["first_token"]["median_ms"] > 0
    # Processor time of three tiny steps is noisy; a model that read its media at every step would be far off.
    assert found["per_further_token_ratio"]["median"] < 3
    text = format_report(report)
    assert "every further token" in text and "ratio" in text
