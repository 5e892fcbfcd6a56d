"""The benchmark: what it reports for every architecture, and that its figures mean what they say. No times are compared."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_mmintent.benchmark import LENGTHS, SHAPES, BenchmarkConfig, Shape, Subject, format_report, run_benchmark
from hf_mmintent.benchmark import shapes as shapes_module
from hf_mmintent.benchmark.measures import (
    batch_invariance,
    count_flops,
    interleaved,
    make_clock,
    peak_memory,
    ratios,
    summary,
    text_batch,
)
from hf_mmintent.benchmark.scaling import growth, scaled
from hf_mmintent.benchmark.shares import REST, part_of_modules, step_shares
from hf_mmintent.registration import ARCHITECTURES

CLASSIFIERS = [
    base.config_class.model_type
    for base, processor in ARCHITECTURES
    if processor is not None and "AutoModelForSequenceClassification" in base._auto_map
]
TINY = Shape(4, 12, {"audio": (6, 5), "video": (5, 8)}, 3)
CPU = torch.device("cpu")


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(shapes_module.SHAPES, "tiny", TINY)
    return "tiny"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.build("mvcl_daf", TINY, text="tiny", overrides={"visual_layers": 1})


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_every_architecture_is_measured(model_type: str, tiny_shape: str) -> None:
    config = BenchmarkConfig(
        model_type, tiny_shape, text="tiny", lengths="mintrec", device="cpu", repeats=2, keep_memory=False
    )
    report = run_benchmark(config)
    assert {"settings", "environment", "parameters", "flops", "training", "inference", "batch_invariance"} <= set(
        report
    )
    assert {"peak_memory", "samples_per_second", "step_over_text", "lengths", "text_views"} <= set(report)
    assert set(report["training"]) == {"step", "text", "step_grouped", "step_random", "optimizer"}
    flops = report["flops"]
    assert flops["training_per_sample"] > flops["inference_per_sample"] > 0
    assert flops["training_per_sample"] > flops["text_passes_per_sample"] > 0
    assert 0 < report["parameters"]["text_encoder"] < report["parameters"]["total"]
    assert report["batch_invariance"]["max_difference"] <= 1e-5
    assert report["batch_invariance"]["max_logit"] > 0
    grouped, random = (report["lengths"][order]["text_lengths"] for order in ("grouped", "random"))
    assert sum(grouped) <= sum(random) and max(grouped) == max(random) <= TINY.text
    assert all(value > 0 for value in report["step_over_text"].values())
    json.dumps(report)  # plain containers
    assert "step / text passes" in format_report(report)


def test_the_script_prints_and_writes_its_report(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    command = "mvcl_daf --shapes mini --text tiny --batch_size 2 --repeats 1 --dtype bf16 --device cpu --return_memory"
    settings = ["--set", "visual_layers=1", "daf_max_depth=2", "--json", str(path), "--growth", "--parts", "text_model"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *command.split(), *settings])
    runpy.run_path(str(root / "examples" / "benchmark.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for name in (
        "parameters",
        "FLOPs per sample",
        "step / text passes",
        "batch of 1",
        "peak memory",
        "batch invariance",
        "shares of a step",
        "growth of the step",
    ):
        assert name in printed
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["settings"]["overrides"] == {"visual_layers": 1, "daf_max_depth": 2}
    assert report["settings"]["batch_size"] == 2 and report["lengths"] is None
    assert report["text_views"] == 2
    assert report["parts"]["together"]["share"] == pytest.approx(report["parts"]["parts"]["text_model"]["share"])
    assert report["growth"]["batch_size"]["sizes"] == [1, 2] and len(report["growth"]["length"]["milliseconds"]) == 4


def test_the_script_refuses_a_setting_without_value(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "mvcl_daf", "--set", "visual_layers"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(root / "examples" / "benchmark.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"shapes": "mintrek"}, "no shape 'mintrek'"),
        ({"lengths": "mosi"}, "no lengths 'mosi'"),
        ({"text": "huge"}, "no text size 'huge'"),
        ({"dtype": "fp16"}, "`dtype` is 'fp16'"),
        ({"repeats": 0}, "`repeats` is 0"),
        ({"overrides": {"visual_layer": 1}}, "visual_layers"),
        ({"model_type": "nothing"}, "no architecture 'nothing'"),
        ({"auto_class": "AutoModelForCTC"}, "has no AutoModelForCTC"),
    ],
)
def test_what_is_unknown_is_named(field: dict[str, Any], message: str) -> None:
    settings = {"model_type": "mvcl_daf", "shapes": "mini", "text": "tiny", "device": "cpu", **field}
    with pytest.raises(ValueError, match=message):
        run_benchmark(BenchmarkConfig(**settings))


def test_a_pretrained_text_encoder_and_its_own_tokenizer(tmp_path: Path, tiny_shape: str) -> None:
    from hf_mmintent.benchmark.subject import _text_parts

    model, tokenizer = _text_parts("tiny", None)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    built = Subject.build("mvcl_daf", TINY, text_backbone=str(tmp_path))
    weight = built.model.base_model.text_model.get_input_embeddings().weight
    assert torch.equal(weight, model.get_input_embeddings().weight)
    batch = built.batch(built.rows(np.random.default_rng(0)), training=True)
    assert batch["input_ids"].shape == (4, 12) and bool(batch["attention_mask"].all())


# ---- the parts -----------------------------------------------------------------------------------------------------


def test_text_lengths_are_those_of_mintrec() -> None:
    counts = LENGTHS["mintrec"]
    lengths = np.repeat(list(counts), list(counts.values())) + 6  # two specials and four label slots
    assert len(lengths) == 2224
    assert lengths.mean() == pytest.approx(16.2, abs=0.05)
    assert lengths.max() <= SHAPES["mintrec"].text
    generator = np.random.default_rng(0)
    longest = [generator.choice(lengths, 32, replace=False).max() for _ in range(500)]
    assert np.mean(longest) == pytest.approx(29, abs=0.5)


def test_batches_have_the_size_of_the_shape(subject: Subject) -> None:
    generator = np.random.default_rng(0)
    full = subject.batch(subject.rows(generator), training=True)
    assert full["input_ids"].shape == full["labelled_input_ids"].shape == (4, 12)
    assert full["audio_features"].shape == (4, 6, 5) and full["video_features"].shape == (4, 5, 8)
    assert all(bool(full[name].all()) for name in full if name.endswith("attention_mask"))
    assert text_batch(full)["input_ids"].shape == (8, 12)
    drawn = subject.batch(subject.rows(generator, wordpieces={1: 1}), training=False)
    assert drawn["input_ids"].shape[1] == 1 + subject.text_overhead == 7
    assert "labels" not in drawn and "labelled_input_ids" not in drawn
    ragged = subject.rows(generator, batch_size=50, ragged=True)
    assert len({len(row["audio_features"]) for row in ragged}) == 6


def test_regression_has_float_labels() -> None:
    shape = Shape(3, 12, {"audio": (6, 5)}, 1)
    settings = {"modalities": ("text", "audio"), "contrastive_loss_weight": 0, "prototype_loss_weight": 0}
    built = Subject.build("mvcl_daf", shape, text="tiny", overrides=settings)
    batch = built.batch(built.rows(np.random.default_rng(0)), training=True)
    assert batch["labels"].dtype == torch.float32 and "video_features" not in batch


def test_works_take_turns_and_the_first_round_is_not_counted() -> None:
    done: list[str] = []
    now = iter(range(1000))
    works = {
        "a": [lambda: done.append("a")],
        "b": [lambda: done.append("b0"), lambda: done.append("b1")],
    }
    times = interleaved(works, 3, lambda: float(next(now)), before=lambda: done.append("|"))
    assert "".join(done) == "|a|b1|a|b0|a|b1|a|b0"
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_summary_and_ratios() -> None:
    assert summary([0.001, 0.004, 0.002]) == pytest.approx(
        {"min_ms": 1.0, "median_ms": 2.0, "mean_ms": 7 / 3, "max_ms": 4.0}
    )
    found = ratios([3.0, 4.0, 8.0], [2.0, 1.0, 4.0])
    assert found == {"of_medians": 2.0, "of_minima": 3.0, "median_of_pairs": 2.0}


def test_flops_see_attention_and_recurrence() -> None:
    class Parts(nn.Module):
        """A linear layer 6 -> 5 and an LSTM 5 -> 4, with the two members that the counter needs of a model."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.lstm = nn.Linear(6, 5), nn.LSTM(5, 4, batch_first=True)
            self.config = type("Config", (), {"_attn_implementation": "sdpa"})()

        def set_attn_implementation(self, name: str) -> None:
            self.config._attn_implementation = name

    model, states = Parts(), torch.randn(2, 3, 6)
    before = torch.backends.mkldnn.enabled
    with torch.no_grad():
        counted = count_flops(model, lambda: model.lstm(model.linear(states)))
    assert counted == 2 * (2 * 3) * (6 * 5 + 5 * 16 + 4 * 16)
    assert model.config._attn_implementation == "sdpa" and torch.backends.mkldnn.enabled == before


def test_peak_memory_sees_what_is_freed_again() -> None:
    def work() -> None:
        torch.ones(24 * 2**20).sum()  # 96 MiB

    found, what = peak_memory(work, CPU)
    if found is None:
        pytest.skip(what)
    assert 80 * 2**20 < found < 300 * 2**20


def in_a_process(code: str, root: Path, **variables: str) -> list[int]:
    """Numbers that `code` prints; malloc's settings stay with a process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**environment, **variables},
    )
    return [int(value) for value in out.stdout.split()]


def test_freed_memory_is_kept_or_released(root: Path) -> None:
    code = (
        "import torch, resource; from hf_mmintent.memory import keep_freed_memory, release_freed_memory\n"
        "kept = {keep} and keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work(): tensors = [torch.ones(2**20) for _ in range(40)]\n"  # 160 MiB, 40960 pages
        "work(); before = faults(); work(); again = faults() - before\n"
        "released = release_freed_memory(); before = faults(); work()\n"
        "print(int(kept), again, int(released), faults() - before)"
    )
    kept, again, released, after = in_a_process(code.format(keep=True), root)
    if not kept:
        pytest.skip("the C library is not glibc")
    assert again < 5_000 and released and after > 20_000
    assert in_a_process(code.format(keep=False), root)[1] > 20_000


def test_malloc_settings_of_the_environment_stay(root: Path) -> None:
    code = "from hf_mmintent.memory import keep_freed_memory; print(int(keep_freed_memory()))"
    assert in_a_process(code, root, MALLOC_TRIM_THRESHOLD_="1000000") == [0]


def test_batch_invariance_finds_a_model_that_mixes_samples(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = batch_invariance(subject, np.random.default_rng(0), CPU)["max_difference"]
    forward = subject.model.forward

    def leaky(**inputs: torch.Tensor) -> Any:
        out = forward(**inputs)
        out.logits = out.logits + 1e-3 * (out.logits.mean(0) + inputs["input_ids"].shape[1])
        return out

    monkeypatch.setattr(subject.model, "forward", leaky)
    assert honest <= 1e-5 < batch_invariance(subject, np.random.default_rng(0), CPU)["max_difference"]


@pytest.mark.parametrize("kind", ["wall", "cpu"])
def test_clocks_run_forward(kind: str) -> None:
    clock = make_clock(kind, CPU)
    first = clock()
    torch.ones(1000).sum()
    assert clock() >= first


def test_cost_of_prototypes(tiny_shape: str) -> None:
    report = run_benchmark(
        BenchmarkConfig("plum_net", tiny_shape, text="tiny", device="cpu", repeats=1, keep_memory=False)
    )
    found = report["prototypes"]
    assert found["refresh_over_step"] > 0 and set(found["bank_over_step"]) == {"1284", "16326"}
    assert "prototype refresh / epoch" in format_report(report)
    none = BenchmarkConfig("mvcl_daf", tiny_shape, text="tiny", device="cpu", repeats=1, keep_memory=False)
    assert run_benchmark(none)["prototypes"] is None


# ---- parts of a step, growth ---------------------------------------------------------------------------------------


class Parted(nn.Module):
    """A model of parts: one is called whole, of one only a member, one is a list; the head lies outside the base model."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.small = nn.Linear(64, 64)
        self.base_model.group = nn.ModuleDict({"large": nn.Linear(64, 64 * 64)})
        self.base_model.steps = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(64 * 64, 3)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for step in self.base_model.steps:
            states = step(states)
        return self.head(self.base_model.group["large"](self.base_model.small(states))).square().sum()


def test_parts_of_a_step_add_up_and_the_largest_is_found() -> None:
    model, states = Parted(), torch.randn(256, 64)
    assert set(part_of_modules(model).values()) == {"small", "group", "steps", "head"}
    shares = step_shares(model, lambda: model(states).backward(), CPU, 3, ("group", "head"))
    parts = shares["parts"]
    assert set(parts) == {"small", "group", "steps", "head", REST} and next(iter(parts)) == "group"
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert parts["group"]["share"] > 0.5  # 64 times the work of "small"
    assert all(min(parts[name]["backward_ms"], parts[name]["forward_ms"]) > 0 for name in ("group", "head", "steps"))
    assert shares["together"]["share"] == pytest.approx(parts["group"]["share"] + parts["head"]["share"])
    assert not model.base_model.small._forward_hooks and not model.base_model.small._forward_pre_hooks
    with pytest.raises(ValueError, match="no part 'body'"):
        step_shares(model, lambda: model(states).backward(), CPU, 1, ("body",))


def test_parts_without_gradient_have_no_backward() -> None:
    model, states = Parted().requires_grad_(False), torch.randn(256, 64)
    model.head.requires_grad_(True)
    parts = step_shares(model, lambda: model(states).backward(), CPU, 2)["parts"]
    assert parts["head"]["backward_ms"] > 0 and parts["group"]["backward_ms"] == 0 < parts["group"]["forward_ms"]


def test_growth_of_known_laws() -> None:
    sizes = [8, 16, 24, 32]
    linear = growth(sizes, [3.0 * n for n in sizes])
    assert linear == pytest.approx({"exponent": 1, "last_exponent": 1, "line_deviation": 0}, abs=1e-9)
    square = growth(sizes, [0.1 * n**2 for n in sizes])
    assert square["exponent"] == pytest.approx(2) and square["last_exponent"] == pytest.approx(2)
    assert square["line_deviation"] > 0.03
    offset = growth(sizes, [50 + n for n in sizes])  # a line, whatever the exponent
    assert offset["exponent"] < 0.5 and offset["line_deviation"] == pytest.approx(0, abs=1e-9)


def test_shapes_are_scaled() -> None:
    shape = SHAPES["mosi"]
    assert scaled(shape) == shape
    half = scaled(shape, length=0.5)
    assert (half.batch_size, half.text, half.features) == (32, 25, {"audio": (188, 5), "video": (250, 20)})
    tiny = scaled(shape, batch=0.001, length=0.001, shortest_text=3)
    assert (tiny.batch_size, tiny.text, tiny.features) == (1, 3, {"audio": (1, 5), "video": (1, 20)})
