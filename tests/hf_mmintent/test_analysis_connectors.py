"""Where queries look and how fast they settle, on a random model."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from matplotlib import pyplot as plt

from hf_mmintent.analysis import common
from hf_mmintent.analysis.common import Subject
from hf_mmintent.analysis.connectors import connector_outputs
from hf_mmintent.analysis.convergence import convergence
from hf_mmintent.analysis.query_attention import attention_maps, draw, part, spread
from tests.modeling.xmei_cases import rows, tiny_model, tiny_processor

from .answer_cases import save_rows


def subject_of(connector: str = "lq_former", **overrides: Any) -> Subject:
    model = tiny_model(connector=connector, tca_loss_weight=0.0, **overrides)
    processor = tiny_processor(config=model.config, use_captions=False)
    values = {name: rows()[name] for name in ("text", "audio_features", "video_features")}
    return Subject("tiny", model, processor, Dataset.from_list([
        {"id": str(i), "label": 0, **{n: None if v[i] is None else v[i] if n == "text" else v[i].tolist()
                                      for n, v in values.items()}} for i in range(4)
    ]))  # fmt: skip


@pytest.mark.parametrize("connector", ["lq_former", "cat_mod"])
def test_maps_are_the_attention_of_the_forward_pass(connector: str) -> None:
    """Means over heads and layers; no row for a modality that the sample lacks; no column for padding."""
    subject = subject_of(connector)
    found = attention_maps(subject, batch_size=3)
    assert [sorted(row) for row in found] == [["audio", "video"], ["video"], ["audio"], ["audio", "video"]]
    assert found[1]["video"].shape == (6, 6) and found[3]["video"].shape == (6, 3)
    assert found[0]["audio"].shape == (6, 5)  # nine steps through one convolution of stride 2
    row = {name: [subject.rows[0][name]] for name in ("text", "audio_features", "video_features")}
    batch = subject.processor(**{n: [np.asarray(v[0], np.float32)] if "_f" in n else v for n, v in row.items()})
    with torch.no_grad():
        out = subject.model(**batch, output_attentions=True)
    for name, layers in out.cross_attentions.items():
        expected = torch.stack(list(layers)).mean((0, 2))[0].numpy()
        np.testing.assert_allclose(found[0][name], expected, atol=1e-5)
    learned = found[0]["video"][4:]  # queries that no layer prunes
    np.testing.assert_allclose(learned.sum(1), 1, atol=1e-5)


def test_language_model_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of()

    def refuse(**_: Any) -> None:
        raise AssertionError("the language model was run")

    monkeypatch.setattr(subject.model.language_model, "forward", refuse)
    assert len(attention_maps(subject)) == 4 and convergence(subject)


def test_one_layer_and_one_that_is_not_there() -> None:
    subject = subject_of()
    first, second = (attention_maps(subject, layer=layer) for layer in (0, 1))
    np.testing.assert_allclose(
        (first[0]["audio"] + second[0]["audio"]) / 2, attention_maps(subject)[0]["audio"], atol=1e-6
    )
    with pytest.raises(ValueError, match="`layer` is 2 but the video connector has 2"):
        attention_maps(subject, layer=2)


def test_places_and_steps() -> None:
    weights = np.arange(12, dtype=float).reshape(2, 6)
    assert part(weights, 4, "places").tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert part(weights, 4, "steps").tolist() == [[4.0, 5.0], [10.0, 11.0]]
    assert part(weights, 3, "places").shape == (1, 3)
    assert spread(np.full((2, 5), 0.2)) == pytest.approx(1.0) and spread(np.eye(3)) == pytest.approx(0.0)
    assert spread(np.array([[0.5, 0.5], [0.0, 0.0]])) == pytest.approx(1.0)


def test_convergence_equals_a_loop() -> None:
    subject = subject_of("cat_mod")
    found = convergence(subject, batch_size=3)
    values: list[list[float]] = []
    for batch, outs in connector_outputs(subject, 1, "rows", output_hidden_states=True):
        if not batch.get("audio_attention_mask", torch.zeros(1, 1)).any():
            continue
        states = outs["audio"].hidden_states
        values.append([
            np.mean([torch.cosine_similarity(after[0, q], before[0, q], dim=0).item() for q in range(4)])
            for before, after in itertools.pairwise(states)
        ])  # fmt: skip
    assert len(values) == 3
    np.testing.assert_allclose(found["audio"]["guides"], np.mean(values, 0), atol=1e-5)
    assert set(found["video"]) == {"guides", "learned"} and len(found["video"]["learned"]) == 2


def test_classifiers_have_none() -> None:
    class Classifier(torch.nn.Module):
        def can_generate(self) -> bool:
            return False

    with pytest.raises(ValueError, match="Classifier has no connectors"):
        next(connector_outputs(Subject("x", Classifier(), None, None), 1, ""))  # type: ignore[arg-type]


def test_queries_and_steps_are_whole_numbers() -> None:
    figure, axes = plt.subplots(1, 2)
    draw(axes[0], np.full((6, 5), 0.2), "steps", "a", 4)
    draw(axes[1], np.full((2, 2), 0.2), "places", "b", 4)
    figure.canvas.draw()
    for axis in axes:
        for one in (axis.xaxis, axis.yaxis):
            assert all(float(tick).is_integer() for tick in one.get_majorticklocs())
    assert axes[0].get_xlabel() == "step" and axes[0].get_ylabel() == "query"
    assert [line.get_ydata()[0] for line in axes[0].lines] == [3.5] and not axes[1].lines
    plt.close(figure)


def test_pictures_and_numbers(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a patch grid, whose places are a map of their own."""
    subject = subject_of(visual_tokens="spatiotemporal", num_spatial_tokens=3)
    subject.model.save_pretrained(tmp_path / "model")
    subject.processor.save_pretrained(tmp_path / "model")
    data = save_rows(tmp_path / "data")
    encoded: list[int] = []
    with_features = common.with_features
    monkeypatch.setattr(
        common, "with_features", lambda rows, model: encoded.append(len(rows)) or with_features(rows, model)
    )
    for name, extra in (("query-attention", ["--samples", 2]), ("convergence", [])):
        command = [name, tmp_path / "model", "--dataset", data, "--output_dir", tmp_path / "out", *extra]
        monkeypatch.setattr(sys, "argv", ["analyze.py", *map(str, command)])
        runpy.run_path(str(root / "examples" / "analyze.py"), run_name="__main__")
        stem = tmp_path / "out" / f"{name.replace('-', '_')}_model_validation"
        assert stem.with_suffix(".png").stat().st_size > 5000
        numbers = json.loads(stem.with_suffix(".json").read_text())
        assert numbers["split"] == "validation"
        if extra:
            assert encoded.pop() == 2 and not encoded  # clips that are not shown cost nothing
            assert len(numbers["samples"]) == 2 and numbers["grid_tokens"] == {"video": 3, "audio": 0}
