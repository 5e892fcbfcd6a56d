"""Which part of a training step takes how much of it, forward and backward, by torch's profiler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "part of a step: "
_BACKWARD = "autograd::engine::evaluate_function: "
REST = "rest"  # what runs in no module: glue of the model's own forward, the loss, accumulation of gradients


def part_of_modules(model: Any) -> dict[nn.Module, str]:
    """The part that every module belongs to: the child of the base model, or else of the model, that it lies in."""
    base = model.base_model
    parts: dict[nn.Module, str] = {}
    for owner in (base, model):
        for path, module in owner.named_modules():
            if module is not base and module is not model:
                parts.setdefault(module, path.split(".")[0])
    return parts


@contextlib.contextmanager
def _marked(model: Any) -> Iterator[None]:
    """Every call of a module names its part to the profiler, unless it happens inside another part."""
    active: list[tuple[nn.Module, Any]] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, *_: Any) -> None:
            if not active:
                mark = record_function(_MARK + name)
                mark.__enter__()
                active.append((module, mark))

        return hook

    def leave(module: nn.Module, *_: Any) -> None:
        if active and active[0][0] is module:
            active.pop()[1].__exit__(None, None, None)

    for module, name in part_of_modules(model).items():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def part_times(model: Any, step: Callable[[], Any], device: torch.device) -> dict[str, dict[str, float]]:
    """
    Profile one step.

    A backward operation carries the number that autograd gave the forward operation it belongs to, which lies in a part.
    Recomputation under gradient checkpointing is not attributed.

    Args:
        model: its parts are the children of its base model, and its own.
        step: one forward and backward pass.
        device: of the model; on CUDA the time of the kernels counts.

    Returns:
        `{part: {"forward", "backward"}}` in milliseconds, with "rest" for what lies in no part.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with _marked(model), profile(activities=activities) as profiler:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    events = [event for event in profiler.events() if event.device_type == DeviceType.CPU]

    def spent(event: Any) -> float:
        return (event.device_time_total if device.type == "cuda" else event.cpu_time_total) / 1e3

    times: dict[str, dict[str, float]] = {}

    def count(part: str, direction: str, milliseconds: float) -> None:
        entry = times.setdefault(part, {"forward": 0.0, "backward": 0.0})
        entry[direction] += milliseconds

    owner: dict[int, str] = {}  # autograd's number to part; of operations with one number the last made the node
    forward = [event for event in events if not _within(event, _BACKWARD)]
    for event in sorted(forward, key=lambda event: event.time_range.start):
        part = _part(event)
        if event.sequence_nr >= 0:
            owner[event.sequence_nr] = part
        if event.name.startswith(_MARK) or (event.cpu_parent is None and part == REST):
            count(part, "forward", spent(event))
    for event in events:
        if event.name.startswith(_BACKWARD) and not _within(event.cpu_parent, _BACKWARD):
            count(owner.get(event.sequence_nr, REST), "backward", spent(event))
    return times


def _part(event: Any) -> str:
    while event is not None:
        if event.name.startswith(_MARK):
            return event.name.removeprefix(_MARK)
        event = event.cpu_parent
    return REST


def _within(event: Any, prefix: str) -> bool:
    while event is not None:
        if event.name.startswith(prefix):
            return True
        event = event.cpu_parent
    return False


def step_shares(
    model: Any, step: Callable[[], Any], device: torch.device, repeats: int, together: tuple[str, ...] = ()
) -> dict[str, Any]:
    """
    Shares of the parts in a step of forward and backward; the optimizer is not in it.

    Args:
        model: as in [`part_times`].
        step: as there.
        device: as there.
        repeats: profiled steps, after one that is not counted; of every figure the least is kept, which other users of
            the machine disturb least.
        together: parts whose joint share is wanted as well.

    Returns:
        `{"parts": {part: {"forward_ms", "backward_ms", "share"}}, "step_ms", "together": {"parts", "share"} or None}`,
        the largest part first.

    Raises:
        ValueError: `together` names a part that the model lacks.
    """
    part_times(model, step, device)
    rounds = [part_times(model, step, device) for _ in range(repeats)]
    least = {
        part: {way: min(times.get(part, {}).get(way, 0.0) for times in rounds) for way in ("forward", "backward")}
        for part in rounds[0]
    }
    missing = sorted(set(together) - {*part_of_modules(model).values(), REST})
    if missing:
        raise ValueError(f"the step has no part {missing[0]!r}: it has {sorted(least)}.")
    sums = {part: sum(values.values()) for part, values in least.items()}
    total = sum(sums.values())
    parts = {
        part: {
            "forward_ms": least[part]["forward"],
            "backward_ms": least[part]["backward"],
            "share": sums[part] / total,
        }
        for part in sorted(least, key=lambda part: -sums[part])
    }
    joint = None
    if together:
        joint = {"parts": list(together), "share": sum(sums.get(part, 0.0) for part in together) / total}
    return {"parts": parts, "step_ms": total, "together": joint}


def format_shares(shares: dict[str, Any]) -> list[str]:
    """The shares as lines of text."""
    lines = [f"shares of a step of forward and backward, {shares['step_ms']:.0f} ms without what the profiler adds"]
    for name, part in shares["parts"].items():
        lines.append(
            f"  {name:<24}{100 * part['share']:>6.1f} %  forward {part['forward_ms']:.1f} ms, backward "
            f"{part['backward_ms']:.1f} ms"
        )
    if shares["together"] is not None:
        joint = shares["together"]
        lines.append(f"  {' + '.join(joint['parts'])}: {100 * joint['share']:.1f} %")
    return lines
