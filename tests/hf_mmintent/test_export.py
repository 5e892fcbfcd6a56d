"""Classifiers as ONNX graphs: the same logits as torch for any batch, lengths and subset of modalities."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from hf_mmintent.modeling.out_of_scope import METHODS, OutOfScope
from hf_mmintent.modeling.peephole_lstm import PeepholeBiLSTM
from tests.modeling.testers import ALL_TESTERS, ClcrTester, ModelTester, UnimodalVideoTester

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from hf_mmintent.export import OnnxClassifier, compare_logits, example_inputs, export_onnx
from hf_mmintent.export.recurrences import (
    ScannedLSTM,
    ScannedPeepholeBiLSTM,
    fold_parametrizations,
    replace_loops,
)

TESTERS = {type(tester).__name__: tester for tester in (*ALL_TESTERS, UnimodalVideoTester())}
TOLERANCE = 1e-4
# Other numbers of samples and steps than the graph was traced with, fewer and more.
BATCHES: tuple[dict[str, int], ...] = (
    {},
    {"batch_size": 1, "seed": 1},
    {"batch_size": 5, "longer": 4, "seed": 2},
    {"batch_size": 2, "longer": -5, "seed": 3},
)


def export(
    tester: ModelTester, tokenizer: Any, folder: Path, rule: dict[str, Any] | None = None
) -> tuple[Any, OnnxClassifier]:
    torch.manual_seed(0)
    model = tester.model().eval()
    model.config.out_of_scope = rule
    export_onnx(model, tester.processor(tokenizer), folder)
    return model, OnnxClassifier(folder, threads=1)


def check(model: Any, classifier: OnnxClassifier) -> None:
    count = len(model.config.modalities)
    for settings in BATCHES:
        found = compare_logits(model, classifier, example_inputs(model, **settings))
        assert len(found) == 2**count - 1
        assert max(found.values()) < TOLERANCE, (settings, found)


RULES: dict[str, dict[str, Any]] = {
    "max_softmax": {"threshold": 0.35, "temperature": 2.0},
    "energy": {"threshold": 1.1},
    "prototype": {"threshold": 0.1},
    "doc": {"thresholds": [0.5, 0.52, 0.55]},
    "class": {"label": "inform"},
}


def rule_of(method: str, width: int) -> dict[str, Any]:
    rule = {"method": method, "label": "UNK", **RULES[method]}
    if method == "prototype":
        generator = torch.Generator().manual_seed(5)
        rule["prototypes"] = torch.nn.functional.normalize(torch.randn(3, width, generator=generator), dim=-1).tolist()
    return rule


@pytest.fixture(scope="module")
def text_only(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> tuple[Any, OnnxClassifier, Path]:
    tester = next(t for t in ALL_TESTERS if list(t.modality_inputs) == ["text"])
    folder = tmp_path_factory.mktemp("onnx")
    return *export(tester, tiny_tokenizer, folder, rule_of("prototype", tester.config().hidden_size)), folder


def test_a_small_classifier(text_only: tuple[Any, OnnxClassifier, Path], tiny_tokenizer: Any) -> None:
    model, classifier, folder = text_only
    check(model, classifier)
    assert {path.name for path in folder.iterdir()} >= {"model.onnx", "config.json", "processor_config.json"}
    from transformers import AutoProcessor

    inputs = AutoProcessor.from_pretrained(folder)(text=["please help", "thank you so much"])
    with torch.no_grad():
        expected = model(**inputs)
    found = classifier(inputs)
    np.testing.assert_allclose(found["logits"], expected.logits.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(found["embeddings"], expected.embeddings.numpy(), atol=TOLERANCE)
    with pytest.raises(ValueError, match="none of the inputs"):
        classifier({"audio_features": np.zeros((1, 2, 3), np.float32)})


QUICK = "ConcatFusionTester"  # the cheapest of those with several modalities


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.slow) for name in TESTERS]
)
def test_every_architecture(name: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model, classifier = export(TESTERS[name], tiny_tokenizer, tmp_path)
    check(model, classifier)
    assert classifier.none_of_these is None and not {"margins", "in_scope"} & set(classifier(example_inputs(model)))


def check_rule(model: Any, classifier: OnnxClassifier) -> None:
    rule = OutOfScope.of(model.config)
    assert rule is not None and classifier.none_of_these == rule.label
    for settings in BATCHES:
        inputs = example_inputs(model, **settings)
        with torch.no_grad():
            outputs = model(**inputs)
        margins = rule.margins(outputs.logits, outputs.embeddings)
        found = classifier(inputs)
        np.testing.assert_allclose(found["margins"], margins.numpy(), atol=TOLERANCE)
        sure = margins.abs() > TOLERANCE
        assert sure.any()
        assert (found["in_scope"] == rule.accepts(margins).numpy())[sure.numpy()].all()
        np.testing.assert_allclose(found["logits"], outputs.logits.numpy(), atol=TOLERANCE)


def test_the_rule_for_what_is_out_of_scope_is_in_the_graph(text_only: tuple[Any, OnnxClassifier, Path]) -> None:
    check_rule(*text_only[:2])


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method != "prototype"])
def test_every_rule(method: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    tester = next(t for t in ALL_TESTERS if list(t.modality_inputs) == ["text"])
    check_rule(*export(tester, tiny_tokenizer, tmp_path, rule_of(method, tester.config().hidden_size)))


@pytest.mark.slow
def test_bounded_sources_of_an_exchange_on_both_sides_of_the_bound(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """The example has 12 steps at most, the batches have 7 to 16."""
    torch.manual_seed(0)
    model = ClcrTester().model(exchange_max_sources=10).eval()
    export_onnx(model, ClcrTester().processor(tiny_tokenizer), tmp_path)
    check(model, OnnxClassifier(tmp_path, threads=1))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_scanned_lstm_is_the_lstm(batch_first: bool, layers: int) -> None:
    lstm = nn.LSTM(5, 4, layers, batch_first=batch_first)
    states = torch.randn(3, 6, 5)
    with torch.no_grad():
        (expected, (hidden, cell)), (found, (h, c)) = lstm(states), ScannedLSTM(lstm)(states)
    for one, other in ((found, expected), (h, hidden), (c, cell)):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="unidirectional"):
        ScannedLSTM(nn.LSTM(5, 4, bidirectional=True))


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_scanned_peephole_lstm_is_the_peephole_lstm(kind: str) -> None:
    lstm = PeepholeBiLSTM(5, 4, kind)
    states, mask = torch.randn(3, 6, 5), torch.arange(6) < torch.tensor([6, 2, 0])[:, None]
    with torch.no_grad():
        found, expected = ScannedPeepholeBiLSTM(lstm)(states, mask), lstm(states, mask)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_loops_and_computed_weights_of_a_model_are_replaced() -> None:
    for tester in ALL_TESTERS:
        model, inputs = tester.model().eval(), tester.inputs()
        with torch.no_grad():
            expected = model(**inputs).logits
            fold_parametrizations(model)
            replace_loops(model)
            assert not any(isinstance(module, parametrize.ParametrizationList) for module in model.modules())
            loops = [m for m in model.modules() if isinstance(m, (nn.RNNBase, PeepholeBiLSTM))]
            scanned = [m.source for m in model.modules() if isinstance(m, (ScannedLSTM, ScannedPeepholeBiLSTM))]
            assert {id(m) for m in loops} == {id(m) for m in scanned}
            torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "hf_mmintent\[onnx\]"'):
        OnnxClassifier(tmp_path)


@pytest.mark.slow
def test_the_script(tmp_path: Path, tiny_tokenizer: Any, root: Path) -> None:
    tester = next(t for t in ALL_TESTERS if list(t.modality_inputs) == ["text"])
    tester.model().save_pretrained(tmp_path / "checkpoint")
    tester.processor(tiny_tokenizer).save_pretrained(tmp_path / "checkpoint")
    script = [
        sys.executable,
        "examples/export_onnx.py",
        str(tmp_path / "checkpoint"),
        "--output",
        str(tmp_path / "onnx"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(script, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert "logits differ by" in done.stdout.splitlines()[-1]
