"""How it is measured: interleaved timing, counted FLOPs, peak memory, batch invariance."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from hf_mmintent.benchmark.subject import Subject
from hf_mmintent.memory import release_freed_memory

Work = Callable[[], Any]


def make_clock(kind: str, device: torch.device) -> Callable[[], float]:
    """
    A clock in seconds.

    Args:
        kind: "wall", or "cpu" for the processor time of this process: with one thread it is the one figure that other
            users of a shared machine hardly change; with more, waiting threads count as well.
        device: an accelerator is waited for.
    """
    read = time.process_time if kind == "cpu" else time.perf_counter

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return read()

    return clock


def interleaved(
    works: Mapping[str, Sequence[Work]], repeats: int, clock: Callable[[], float], before: Work = lambda: None
) -> dict[str, list[float]]:
    """
    Time several works in turn, a b c a b c …, so that whatever else the machine does meets all of them.

    Args:
        works: variants of a work by name; round i takes variant i, from the start again when they run out.
        repeats: rounds, after one that is not counted.
        clock: seconds.
        before: run, untimed, ahead of every work.

    Returns:
        `repeats` times in seconds per name.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in tqdm(range(-1, repeats), desc="timing", leave=False, disable=None):
        for name, variants in works.items():
            before()
            start = clock()
            variants[round_ % len(variants)]()
            taken = clock() - start
            if round_ >= 0:
                times[name].append(taken)
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Minimum, median, mean and maximum in milliseconds."""
    return {
        "min_ms": 1e3 * min(times),
        "median_ms": 1e3 * statistics.median(times),
        "mean_ms": 1e3 * statistics.fmean(times),
        "max_ms": 1e3 * max(times),
    }


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Ratio of the medians, of the minima, and the median of the ratios of neighbours in time."""
    return {
        "of_medians": statistics.median(above) / statistics.median(below),
        "of_minima": min(above) / min(below),
        "median_of_pairs": statistics.median(a / b for a, b in zip(above, below, strict=True)),
    }


# ---- FLOPs ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def countable(model: Any) -> Iterator[None]:
    """Attention and LSTMs as matrix products: their fused kernels hide them from the counter."""
    attention, fused = model.config._attn_implementation, torch.backends.mkldnn.is_available()
    model.set_attn_implementation("eager")
    before: Any = torch.backends.mkldnn.set_flags(False) if fused else None
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        if fused:
            torch.backends.mkldnn.set_flags(before[0])


def count_flops(model: Any, work: Work) -> int:
    """Floating-point operations (two per multiply-add) of the matrix products and convolutions in `work`, on CPU."""
    with countable(model), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


# ---- memory --------------------------------------------------------------------------------------------------------


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no field {field}.")


def peak_memory(work: Work, device: torch.device) -> tuple[int | None, str]:
    """
    Bytes that `work` needed at its peak beyond what was there before, and what the figure is.

    On CUDA memory of tensors, on CPU growth of the resident set; `None` where the system does not tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, "CUDA tensors"
    release_freed_memory()  # else what earlier work left would serve this one unseen
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before = _status_bytes("VmRSS")
    except OSError as error:
        work()
        return None, f"not available: {error}"
    work()
    return max(0, _status_bytes("VmHWM") - before), "resident set"


# ---- training, inference, invariance -----------------------------------------------------------------------------------


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision as the Trainer's `bf16` has it, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()


def training_step(model: Any, batch: dict[str, Tensor], dtype: str = "fp32") -> None:
    """Forward and backward of the model's own loss; the optimizer's part is timed for itself."""
    with autocast(model.device, dtype):
        loss = model(**batch).loss
    loss.backward()


def text_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every view of the text that a training step encodes, under one another."""
    views = [value for name, value in batch.items() if name.endswith("input_ids")]
    return {"input_ids": torch.cat(views), "attention_mask": torch.cat([batch["attention_mask"]] * len(views))}


def text_step(text_model: nn.Module, inputs: dict[str, Tensor], device: torch.device, dtype: str = "fp32") -> None:
    """Forward and backward of the text encoder alone."""
    with autocast(device, dtype):
        states = text_model(**inputs).last_hidden_state
    states.float().square().mean().backward()


@torch.no_grad()
def batch_invariance(
    subject: Subject, generator: np.random.Generator, device: torch.device, samples: int = 8
) -> dict[str, float]:
    """
    How far logits move when a sample runs alone, trimmed to its own lengths, in place of in a ragged batch.

    Returns:
        Largest absolute difference, and the largest absolute logit to compare it with.
    """
    model = subject.model.eval()
    rows = subject.rows(generator, ragged=True)
    together = model(**subject.batch(rows, training=False, device=device)).logits.float()
    difference = 0.0
    for index in range(min(samples, len(rows))):
        alone = model(**subject.batch(rows[index : index + 1], training=False, device=device)).logits.float()
        difference = max(difference, (alone[0] - together[index]).abs().max().item())
    return {"max_difference": difference, "max_logit": together.abs().max().item()}
