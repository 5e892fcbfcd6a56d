"""Cost of connectors: three scopes, two dense connectors, counted operations."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import hf_mmintent.benchmark.shapes as shapes_module
from hf_mmintent.benchmark import SHAPES, BenchmarkConfig, Shape, format_report, run_benchmark
from hf_mmintent.benchmark.connectors import SCOPES, flops_by_scope, knows_its_flops
from hf_mmintent.modeling import CatModConfig, CatModModel, MvclDafModel
from hf_mmintent.registration import ARCHITECTURES, model_class

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
KNOWING = [
    base.config_class.model_type
    for base, _ in ARCHITECTURES
    if knows_its_flops(model_class(base.config_class.model_type, "AutoModel"))
]


@pytest.fixture(autouse=True)
def _tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes_module.SHAPES, "tiny", Shape(3, 16, {"audio": (6, 5), "video": (7, 8)}))


def measured(model_type: str, **fields: Any) -> dict[str, Any]:
    overrides = {**SMALL, **fields}
    return run_benchmark(
        BenchmarkConfig(model_type, "tiny", overrides=overrides, device="cpu", repeats=1, keep_memory=False)
    )


@pytest.mark.parametrize("model_type", KNOWING)
def test_every_connector_is_measured(model_type: str) -> None:
    report = measured(model_type)
    assert report["connector"]["features"] == [7, 8]
    assert report["counted"]["this"] == report["flops"]["full"]["this"] > 0
    assert set(report["times"]) == {"inference, one sample", "inference, batch", "training step"}
    assert all(found["this"]["min_ms"] > 0 for found in report["times"].values())
    assert report["batch_invariance"]["max_difference"] <= 1e-5 < report["batch_invariance"]["max_value"]
    json.dumps(report)  # plain containers
    text = format_report(report)
    assert all(f"\n  {scope} " in text for scope in SCOPES)
    assert text.splitlines()[-1].startswith("tokens move by")


def test_classifiers_are_not_connectors() -> None:
    assert {"lq_former", "cat_mod"} <= set(KNOWING) and not knows_its_flops(MvclDafModel)


def test_savings_stand_beside_both_dense_connectors() -> None:
    report = measured("cat_mod", share_cross_kv=True, prune_scope="ca+ffn")
    dense = {"dense with the same sharing", "dense without sharing"}
    assert set(report["saved"]["full"]) == set(report["speed_up"]["training step"]) == dense
    assert set(report["saved"]["query"].values()) == {0.375}
    same, without = (report["saved"]["full"][name] for name in sorted(dense))
    assert 0 < same < without < 1
    assert report["active_counts"]["this"] == [32, 24, 20, 20, 20, 20, 20, 20, 16, 16, 16, 16]
    text = format_report(report)
    for name in dense:
        assert text.count(f"saved against {name}") == text.count("speed-up") / 2 == 3
    assert "37.50 % of" in text
    assert set(measured("cat_mod")["saved"]["cross"]) == {"dense"}


def test_shape_of_the_default_connector() -> None:
    shape = SHAPES["clip_grid"]
    assert shape.features["video"] == (257, CatModConfig().encoder_hidden_size)


def test_a_formula_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"num_hidden_layers": 6, "encoder_hidden_size": 8, **SMALL}
    torch.manual_seed(0)
    model = CatModModel(CatModConfig(**fields))
    flops_by_scope({"this": model}, 5, 0)
    monkeypatch.setattr(CatModModel, "_extra_flops", lambda self: 2)
    with pytest.raises(ArithmeticError, match=r"the formula says \d+ operations, \d+ were counted"):
        flops_by_scope({"this": model}, 5, 0)
