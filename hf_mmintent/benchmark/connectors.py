"""Cost of a connector, which has neither head nor loss of its own, beside the dense connectors it is meant to beat."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hf_mmintent.benchmark.measures import autocast, count_flops, interleaved, make_clock, ratios, summary
from hf_mmintent.benchmark.shapes import Shape

SCOPES = ("query", "cross", "full")
OWN = "this"
_PHASES = ("inference, one sample", "inference, batch", "training step")


def knows_its_flops(kind: type) -> bool:
    """Whether the cost of models of this class is a formula of theirs, by scope: what is measured here."""
    return hasattr(kind, "flops")


def connector_batch(model: Any, steps: int, batch_size: int, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Random captions that fill their slots, and random features without padding."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    shape = (batch_size, config.query_counts[0])
    batch = {
        "encoder_hidden_states": torch.randn(batch_size, steps, config.encoder_hidden_size, generator=generator),
        "input_ids": torch.randint(config.vocab_size, shape, generator=generator),
    }
    if model.get_input_embeddings() is None:
        del batch["input_ids"]
    return {name: value.to(device) for name, value in batch.items()}


def owner_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """A loss on the tokens, with the model's own terms as its owner adds them."""
    out = model(**batch)
    loss = out.last_hidden_state.float().square().mean()
    for name, term in (out.loss_terms or {}).items():
        loss = loss + model.loss_weights[name] * term
    return loss


def connector_cost(
    kind: Any,
    shape: Shape,
    overrides: Mapping[str, Any],
    device: torch.device,
    repeats: int,
    clock: str = "wall",
    dtype: str = "fp32",
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measure a connector and the dense ones it names.

    Args:
        kind: its class.
        shape: its video features, or the first ones it has, are what the queries read.
        overrides: fields of the config.
        device: where it is timed; operations are counted on CPU.
        repeats: timed rounds.
        clock: "wall" or "cpu".
        dtype: "fp32" or "bf16" for mixed precision.
        seed: of weights and data.

    Returns:
        Plain containers: parameters, FLOPs by scope with the shares saved, timings, speed-ups, batch invariance.
    """
    steps, width = shape.features.get("video") or next(iter(shape.features.values()))
    torch.manual_seed(seed)
    own = kind.from_backbones(video=width, **overrides)
    models = {OWN: own, **{name: kind(config) for name, config in own.dense_configs().items()}}
    report: dict[str, Any] = {
        "connector": {
            "features": [steps, width],
            "queries": list(own.config.query_counts),
            "layers": own.config.num_hidden_layers,
        },
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        **flops_by_scope(models, steps, seed),
    }
    for model in models.values():
        model.to(device)
    times = connector_times(models, steps, shape.batch_size, device, repeats, clock, dtype, seed)
    report["times"] = {
        phase: {name: summary(values) for name, values in found.items()} for phase, found in times.items()
    }
    report["speed_up"] = {
        phase: {name: ratios(values, found[OWN]) for name, values in found.items() if name != OWN}
        for phase, found in times.items()
    }
    report["batch_invariance"] = invariance(
        own.eval(), connector_batch(own, steps, min(8, shape.batch_size), seed, device)
    )
    return report


def flops_by_scope(models: Mapping[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """
    Operations per sample of the formula by scope and model, those counted, and the share that the first model saves.

    Raises:
        ArithmeticError: formula and count disagree.
    """
    found: dict[str, dict[str, int]] = {scope: {} for scope in SCOPES}
    counted, widths = {}, {}
    for name, model in models.items():
        batch = connector_batch(model.eval(), steps, 1, seed, torch.device("cpu"))
        with torch.no_grad():
            widths[name] = model(**batch).get("active_counts")
            counted[name] = count_flops(model, partial(model, **batch))
        for scope in SCOPES:
            found[scope][name] = model.flops(steps, scope, active_counts=widths[name])
        if found["full"][name] != counted[name]:
            raise ArithmeticError(
                f"{name}: the formula says {found['full'][name]} operations, {counted[name]} were counted."
            )
    saved = {
        scope: {name: 1 - values[OWN] / value for name, value in values.items() if name != OWN}
        for scope, values in found.items()
    }
    return {"flops": found, "counted": counted, "saved": saved, "active_counts": widths}


def connector_times(
    models: Mapping[str, Any],
    steps: int,
    batch_size: int,
    device: torch.device,
    repeats: int,
    clock: str,
    dtype: str,
    seed: int,
) -> dict[str, dict[str, list[float]]]:
    """Seconds by phase and model; within a phase the models take turns."""
    one = {name: connector_batch(model, steps, 1, seed, device) for name, model in models.items()}
    many = {name: connector_batch(model, steps, batch_size, seed, device) for name, model in models.items()}

    def infer(model: Any, batch: Mapping[str, Tensor]) -> None:
        with torch.inference_mode(), autocast(device, dtype):
            model(**batch)

    def train(model: Any, batch: Mapping[str, Tensor]) -> None:
        with autocast(device, dtype):
            loss = owner_loss(model, batch)
        loss.backward()

    def forget() -> None:
        for model in models.values():
            model.zero_grad(set_to_none=True)

    times = {}
    for phase, work, batches in zip(_PHASES, (infer, infer, train), (one, many, many), strict=True):
        works = {}
        for name, model in models.items():
            model.train(work is train)
            works[name] = [partial(work, model, batches[name])]
        times[phase] = interleaved(works, repeats, make_clock(clock, device), before=forget)
    forget()
    return times


@torch.no_grad()
def invariance(model: Any, batch: Mapping[str, Tensor]) -> dict[str, float]:
    """How far the tokens move when a sample runs alone; largest absolute difference and value."""
    together = model(**batch).last_hidden_state.float()
    difference = 0.0
    for row in range(len(together)):
        alone = model(**{name: value[row : row + 1] for name, value in batch.items()}).last_hidden_state.float()
        difference = max(difference, (alone[0] - together[row]).abs().max().item())
    return {"max_difference": difference, "max_value": together.abs().max().item()}


def format_connector(report: dict[str, Any]) -> list[str]:
    """The report's own lines: never one number of FLOPs without its scope."""
    facts, saved = report["connector"], report["saved"]
    steps, width = facts["features"]
    guides, learned = facts["queries"]
    lines = [
        f"{guides} + {learned} queries, {facts['layers']} layers, {steps} features of width {width}, "
        f"{report['parameters'][OWN] / 1e6:.2f} M parameters, computed per cross-attention: "
        f"{report['active_counts'][OWN] or 'all queries'}",
        "FLOPs per sample, counted and by formula alike",
    ]
    meaning = {
        "query": "cross-attention without projecting the features",
        "cross": "cross-attention",
        "full": "connector",
    }
    for scope in SCOPES:
        lines.append(f"  {scope:<6} ({meaning[scope]})".ljust(58) + f"{report['flops'][scope][OWN] / 1e9:>9.3f} GFLOPs")
        for name, share in saved[scope].items():
            value = report["flops"][scope][name] / 1e9
            lines.append(f"    saved against {name}".ljust(58) + f"{100 * share:>8.2f} % of {value:.3f} GFLOPs")
    for phase, found in report["times"].items():
        lines.append(phase)
        for name, values in found.items():
            line = f"  {name:<36}{values['median_ms']:>10.1f} ms median {values['min_ms']:>10.1f} min"
            if name != OWN:
                speed = report["speed_up"][phase][name]
                line += (
                    f"   speed-up {speed['of_medians']:.3f} of medians, {speed['of_minima']:.3f} of minima, "
                    f"{speed['median_of_pairs']:.3f} of pairs"
                )
            lines.append(line)
    moved = report["batch_invariance"]
    lines.append(
        f"tokens move by {moved['max_difference']:.0e} at most, the largest number in them is {moved['max_value']:.3g}"
    )
    return lines
