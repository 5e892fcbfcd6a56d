"""One benchmark run and its table."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from hf_mmintent.benchmark.connectors import connector_cost, format_connector, knows_its_flops
from hf_mmintent.benchmark.generation import format_generation, generation_cost, writes
from hf_mmintent.benchmark.measures import (
    autocast,
    batch_invariance,
    count_flops,
    interleaved,
    make_clock,
    peak_memory,
    ratios,
    summary,
    text_batch,
    text_step,
    training_step,
)
from hf_mmintent.benchmark.prototypes import keeps_prototypes, prototype_cost
from hf_mmintent.benchmark.scaling import format_growth, step_growth
from hf_mmintent.benchmark.shapes import LENGTHS, shape_named
from hf_mmintent.benchmark.shares import format_shares, step_shares
from hf_mmintent.benchmark.subject import Subject
from hf_mmintent.memory import keep_freed_memory
from hf_mmintent.registration import model_class


@dataclass
class BenchmarkConfig:
    """
    Args:
        model_type: architecture.
        shapes: key of `SHAPES`.
        batch_size: in place of that of the shape.
        text: size of the text encoder; `text_backbone` is a pretrained one instead.
        overrides: fields of the architecture's config.
        auto_class: which head.
        language_model, new_tokens: of a model that writes, see [`generation_cost`].
        lengths: key of `LENGTHS`: also time batches with real text lengths, padded to their own longest.
        threads: of torch on CPU; `None` leaves them.
        dtype: "fp32", or "bf16" for mixed precision.
        device: "cpu", "cuda" or "auto".
        clock: "wall" or "cpu".
        keep_memory: keep freed memory for the next step, see [`keep_freed_memory`]; it stays so in this process.
        repeats: timed rounds.
        parts: also profile which part of the model takes how much of a step, and the joint share of the parts named here.
        growth: also time steps at parts of the batch and of the lengths.
        seed: of weights and data.
    """

    model_type: str
    shapes: str = "mintrec"
    batch_size: int | None = None
    text: str = "minilm"
    text_backbone: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    auto_class: str = "AutoModelForSequenceClassification"
    language_model: str = "tiny"
    new_tokens: int = 32
    lengths: str | None = None
    threads: int | None = None
    dtype: str = "fp32"
    device: str = "auto"
    clock: str = "wall"
    keep_memory: bool = True
    repeats: int = 10
    parts: tuple[str, ...] | None = None
    growth: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lengths is not None and self.lengths not in LENGTHS:
            raise ValueError(f"there are no lengths {self.lengths!r}: known are {sorted(LENGTHS)}.")
        for name, allowed in (
            ("dtype", ("fp32", "bf16")),
            ("clock", ("wall", "cpu")),
            ("device", ("auto", "cpu", "cuda")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}: choose one of {list(allowed)}.")
        if self.repeats < 1:
            raise ValueError(f"`repeats` is {self.repeats}: at least 1.")


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """
    Measure one model; one that knows its FLOPs by formula is measured as a connector, see [`connector_cost`], one that
    writes beside its bare language model, see [`generation_cost`].

    Returns:
        Plain containers: parameters, FLOPs, timings in milliseconds, ratios, memory in bytes, batch invariance, and the
        environment that made them. What the architecture does not have is `None`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    kept = config.keep_memory and keep_freed_memory()
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    shape = shape_named(config.shapes)
    if config.batch_size is not None:
        shape = type(shape)(config.batch_size, shape.text, shape.features, shape.num_labels)
    kind = model_class(config.model_type, "AutoModel")
    if knows_its_flops(kind) or writes(kind):
        found = {
            "settings": {**vars(config), "batch_size": shape.batch_size},
            "environment": {**environment(device), "keeps_freed_memory": kept},
        }
        chosen = (config.overrides, device, config.repeats, config.clock, config.dtype, config.seed)
        if writes(kind):
            found |= generation_cost(kind, shape, config.language_model, config.new_tokens, *chosen)
        else:
            found |= connector_cost(kind, shape, *chosen)
        found["environment"]["load_after"] = os.getloadavg()[0]
        return found
    subject = Subject.build(
        config.model_type,
        shape,
        config.text,
        config.text_backbone,
        config.overrides,
        config.auto_class,
        config.seed,
    )
    report: dict[str, Any] = {
        "settings": {**vars(config), "batch_size": shape.batch_size, "text_length": shape.text},
        "environment": {**environment(device), "keeps_freed_memory": kept},
        "parameters": parameters(subject),
        "flops": flops(subject, config),
    }
    subject.model.to(device)
    # Before training: memory that training frees stays with the process and would hide what inference needs.
    report["inference"] = inference(subject, config, device)
    report |= training(subject, config, device)
    report["prototypes"] = None
    if keeps_prototypes(subject.model):
        chosen = (config.clock, config.dtype, config.repeats)
        report["prototypes"] = prototype_cost(subject, np.random.default_rng(config.seed), device, *chosen)
    report |= parts_and_growth(subject, config, device)
    report["batch_invariance"] = batch_invariance(subject, np.random.default_rng(config.seed + 1), device)
    report["environment"]["load_after"] = os.getloadavg()[0]
    return report


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, processor, threads and load."""
    models = [
        line.partition(":")[2].strip()
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
        ).splitlines()
        if line.startswith("model name")
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else (models or [platform.machine()])[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def parameters(subject: Subject) -> dict[str, int | None]:
    """Number of parameters of the whole model, of those that train, and of the text encoder."""
    text = subject.text_model
    return {
        "total": sum(p.numel() for p in subject.model.parameters()),
        "trainable": sum(p.numel() for p in subject.model.parameters() if p.requires_grad),
        "text_encoder": None if text is None else sum(p.numel() for p in text.parameters()),
    }


def flops(subject: Subject, config: BenchmarkConfig) -> dict[str, float | None]:
    """Counted operations: of one sample at inference, and per sample of a training step and of its text passes."""
    generator = np.random.default_rng(config.seed)
    model, size = subject.model, 2  # per sample they do not depend on the batch, but losses want a second sample
    batch = subject.batch(subject.rows(generator, size), training=True)
    alone = subject.batch(subject.rows(generator, 1), training=False)
    text = subject.text_model
    with torch.no_grad():
        forward = count_flops(model.eval(), lambda: model(**alone))
    step = count_flops(model.train(), lambda: training_step(model, batch)) / size
    passes = None
    if text is not None and subject.words:
        passes = count_flops(model, lambda: text_step(text, text_batch(batch), torch.device("cpu"))) / size
    model.zero_grad(set_to_none=True)
    return {
        "inference_per_sample": forward,
        "training_per_sample": step,
        "text_passes_per_sample": passes,
        "training_over_text": None if passes is None else step / passes,
    }


def training(subject: Subject, config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """Timings of the step, of its text passes, of the optimizer and, on request, of steps with real text lengths."""
    model, dtype = subject.model.train(), config.dtype
    generator = np.random.default_rng(config.seed)
    batch = subject.batch(subject.rows(generator), True, device)
    memory, what = peak_memory(lambda: training_step(model, batch, dtype), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    optimizer.step()  # makes its state, which is no part of a later step

    works: dict[str, Any] = {"step": [lambda: training_step(model, batch, dtype)]}
    text = subject.text_model
    if text is not None and subject.words:
        rows = text_batch(batch)
        works["text"] = [lambda: text_step(text, rows, device, dtype)]
    real: dict[str, list[dict[str, Any]]] = {}
    if config.lengths is not None and subject.words:
        real = real_length_batches(subject, generator, config, device)
        for order, found in real.items():
            works[f"step_{order}"] = [lambda batch=batch: training_step(model, batch, dtype) for batch in found]
    clock = make_clock(config.clock, device)
    times = interleaved(works, config.repeats, clock, before=lambda: model.zero_grad(set_to_none=True))
    training_step(model, batch, dtype)  # gradients for the optimizer
    times |= interleaved({"optimizer": [optimizer.step]}, config.repeats, clock)
    model.zero_grad(set_to_none=True)

    size = subject.shape.batch_size
    found: dict[str, Any] = {
        "text_views": sum(name.endswith("input_ids") for name in batch),
        "training": {name: summary(values) for name, values in times.items()},
        "samples_per_second": 1e3
        * size
        / (summary(times["step"])["median_ms"] + summary(times["optimizer"])["median_ms"]),
        "step_over_text": ratios(times["step"], times["text"]) if "text" in times else None,
        "lengths": None,
        "peak_memory": {"training_step": memory, "what": what},
    }
    if real:
        # Batches differ in length: only means over all of them compare with the full length.
        found["lengths"] = {"distribution": config.lengths}
        for order, batches in real.items():
            mean = summary(times[f"step_{order}"])["mean_ms"]
            found["lengths"][order] = {
                "text_lengths": [batch["input_ids"].shape[1] for batch in batches],
                "over_padded": mean / summary(times["step"])["mean_ms"],
                "samples_per_second": 1e3 * size / (mean + summary(times["optimizer"])["mean_ms"]),
            }
    return found


def real_length_batches(
    subject: Subject, generator: np.random.Generator, config: BenchmarkConfig, device: torch.device
) -> dict[str, list[dict[str, Any]]]:
    """
    The same rows with real text lengths in batches of two orders.

    "grouped" is what `train_sampling_strategy: group_by_length` makes of them: sorted by length within a stretch of some
    batches. "random" pads almost every batch to the long tail.
    """
    size, count = subject.shape.batch_size, min(config.repeats, 8)
    rows = subject.rows(generator, size * count, wordpieces=LENGTHS[config.lengths])
    orders = {"grouped": sorted(rows, key=lambda row: len(row["text"].split())), "random": rows}
    return {
        order: [subject.batch(found[start : start + size], True, device) for start in range(0, len(rows), size)]
        for order, found in orders.items()
    }


def parts_and_growth(subject: Subject, config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """What `parts` and `growth` ask for, else `None`."""
    model, generator = subject.model.train(), np.random.default_rng(config.seed)
    found: dict[str, Any] = {"parts": None, "growth": None}
    if config.parts is not None:
        batch = subject.batch(subject.rows(generator), True, device)

        def step() -> None:
            model.zero_grad(set_to_none=True)
            training_step(model, batch, config.dtype)

        found["parts"] = step_shares(model, step, device, config.repeats, tuple(config.parts))
    if config.growth:
        clock = make_clock(config.clock, device)
        found["growth"] = step_growth(subject, generator, device, config.repeats, clock, config.dtype)
    return found


def inference(subject: Subject, config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """Latency of one sample, throughput of a batch."""
    model, generator = subject.model.eval(), np.random.default_rng(config.seed)
    one = subject.batch(subject.rows(generator, 1), False, device)
    many = subject.batch(subject.rows(generator), False, device)

    def forward(inputs: dict[str, Any]) -> None:
        with torch.inference_mode(), autocast(device, config.dtype):
            model(**inputs)

    memory, _ = peak_memory(lambda: forward(many), device)
    works = {"batch_1": [lambda: forward(one)], "full_batch": [lambda: forward(many)]}
    times = interleaved(works, config.repeats, make_clock(config.clock, device))
    return {
        "batch_1": summary(times["batch_1"]),
        "full_batch": summary(times["full_batch"]),
        "samples_per_second": 1e3 * subject.shape.batch_size / summary(times["full_batch"])["median_ms"],
        "peak_memory": memory,
    }


def headline(report: dict[str, Any]) -> list[str]:
    """What was measured, and where."""
    settings, where = report["settings"], report["environment"]
    text = f", text {settings['text_length']}" if "text_length" in settings else ""
    return [
        f"{settings['model_type']}, shapes {settings['shapes']}: batch {settings['batch_size']}{text}, "
        f"{settings['dtype']}, {settings['clock']} clock, {settings['repeats']} rounds",
        f"{where['device']}, {where['threads']} of {where['cores']} threads, load {where['load_before']:.1f} before and "
        f"{where['load_after']:.1f} after, freed memory {'kept' if where['keeps_freed_memory'] else 'returned'}, "
        f"torch {where['torch']}, transformers {where['transformers']}",
    ]


def format_report(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    if "generation" in report:
        return "\n".join([*headline(report), *format_generation(report)])
    if "connector" in report:
        return "\n".join([*headline(report), *format_connector(report)])
    numbers, counted, step = report["parameters"], report["flops"], report["training"]

    def line(name: str, values: dict[str, float]) -> str:
        return f"  {name:<28}{values['median_ms']:>9.1f} ms median {values['min_ms']:>10.1f} min {values['max_ms']:>10.1f} max"

    def mega(value: int | None) -> str:
        return "n/a" if value is None else f"{value / 2**20:.0f} MiB"

    def giga(value: float | None) -> str:
        return "n/a" if value is None else f"{value / 1e9:.2f} GFLOPs"

    text = numbers["text_encoder"]
    memory = report["peak_memory"]
    lines = [
        *headline(report),
        f"parameters                {numbers['total'] / 1e6:.2f} M, text encoder "
        + ("n/a" if text is None else f"{text / 1e6:.2f} M"),
        f"FLOPs per sample          inference {giga(counted['inference_per_sample'])}, training step "
        f"{giga(counted['training_per_sample'])}, text passes {giga(counted['text_passes_per_sample'])}",
        "training (forward and backward)",
        *(line(name.replace("_", ", real lengths "), values) for name, values in step.items()),
        f"samples per second        {report['samples_per_second']:.1f} with the optimizer",
    ]
    ratio = report["step_over_text"]
    if ratio is None:
        lines.append("step / text passes        n/a: the architecture or the run has no text encoder")
    else:
        lines.append(
            f"step / text passes        {ratio['of_medians']:.3f} of medians, {ratio['of_minima']:.3f} of minima, "
            f"{ratio['median_of_pairs']:.3f} of pairs, {counted['training_over_text']:.3f} in FLOPs "
            f"({report['text_views']} text views)"
        )
    for order in ("grouped", "random") if report["lengths"] is not None else ():
        real = report["lengths"][order]
        lines.append(
            f"real lengths / padded     {real['over_padded']:.3f} {order} ({report['lengths']['distribution']}, batches of "
            f"{min(real['text_lengths'])} to {max(real['text_lengths'])} tokens, {real['samples_per_second']:.1f} samples/s)"
        )
    kept = report["prototypes"]
    if kept is not None:
        banks = ", ".join(f"{ratio:.4f} of {size} samples" for size, ratio in kept["bank_over_step"].items())
        lines += [
            f"prototype refresh / epoch {kept['refresh_over_step']:.3f} (a pass per first-stage epoch)",
            f"prototype bank / step     {banks}",
        ]
    lines += format_shares(report["parts"]) if report["parts"] is not None else []
    lines += format_growth(report["growth"]) if report["growth"] is not None else []
    out, moved = report["inference"], report["batch_invariance"]
    lines += [
        "inference",
        line("batch of 1", out["batch_1"]),
        line(f"batch of {report['settings']['batch_size']}", out["full_batch"]),
        f"samples per second        {out['samples_per_second']:.1f}",
        f"peak memory               training step {mega(memory['training_step'])}, inference {mega(out['peak_memory'])} "
        f"({memory['what']})",
        f"batch invariance          logits move by {moved['max_difference']:.1e} at most, the largest is "
        f"{moved['max_logit']:.2f}",
    ]
    return "\n".join(lines)
