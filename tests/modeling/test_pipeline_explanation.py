"""Recordings and features to an answer with reasons through `pipeline("multimodal-explanation")`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import pipeline

from hf_mmintent.modeling.pipeline_explanation import ExplanationPipeline
from hf_mmintent.modeling.pipelines import custom_pipelines

from .xmei_cases import one_row, rows, tiny_model, tiny_processor

TASK = "multimodal-explanation"


@pytest.fixture(scope="module")
def pipe(tiny_tokenizer: Any) -> ExplanationPipeline:
    torch.manual_seed(0)
    return pipeline(TASK, model=tiny_model().eval(), processor=tiny_processor(tiny_tokenizer), device="cpu")


def samples() -> list[dict[str, Any]]:
    """The rows of the cases, one `dict` each."""
    columns = rows()
    return [{name: values[row] for name, values in columns.items()} for row in range(len(columns["text"]))]


def test_answers_are_those_of_generate(pipe: ExplanationPipeline) -> None:
    answers = pipe(samples(), batch_size=2, max_new_tokens=6)
    assert len(answers) == len(samples())
    for index, answer in enumerate(answers):
        inputs = pipe.processor(**{name: value for name, value in one_row(index).items() if name not in TARGETS})
        with torch.no_grad():
            ids = pipe.model.generate(**inputs, max_new_tokens=6)
        (written,) = pipe.processor.decode_texts(ids, inputs["input_ids"].shape[1])
        assert answer["explanation"] == written
        said = pipe.processor.parse(written)
        for field in ("emotion", "intent", "emotion_reason", "intent_reason", "joint_reason"):
            assert answer[field] == getattr(said, field)
        assert len(answer["windows"]) == 1
    json.dumps(answers)


TARGETS = ("emotion", "intent", "emotion_reason", "intent_reason", "joint_reason")


def test_settings(pipe: ExplanationPipeline) -> None:
    sample = samples()[0]
    same = pipe(sample, generate_kwargs={"max_new_tokens": 4})["explanation"]
    assert same == pipe(sample, max_new_tokens=4)["explanation"]
    with pytest.raises(ValueError, match="`top_k` is no setting"):
        pipe(sample, top_k=3)
    assert "text" not in pipe(sample, modalities=["audio", "video"], max_new_tokens=2)["used"]


def test_a_checkpoint_names_the_pipeline_of_its_kind(pipe: ExplanationPipeline) -> None:
    assert set(custom_pipelines(type(pipe.model)._auto_map)) == {TASK}
    assert custom_pipelines({"AutoModel": "x.Y"}) == {}
