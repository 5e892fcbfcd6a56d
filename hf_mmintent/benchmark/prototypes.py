"""What keeping class prototypes up to date costs beside the training steps that it serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_mmintent.benchmark.measures import Work, interleaved, make_clock, summary, training_step
from hf_mmintent.benchmark.subject import Subject
from hf_mmintent.modeling.recorder import Recorder

# Training samples of CMU-MOSI and of CMU-MOSEI: the work of a bank grows with them.
BANK_ROWS = (1284, 16326)


def keeps_prototypes(model: Any) -> bool:
    """Whether the model has prototypes that training refreshes."""
    return hasattr(model, "update_prototypes")


def prototype_cost(
    subject: Subject, generator: np.random.Generator, device: torch.device, clock: str, dtype: str, repeats: int
) -> dict[str, Any]:
    """
    Time of one batch's share of a refresh pass, and of following a step with a bank, over the time of a training step.

    A refresh pass reads every batch of an epoch once, so its share of a batch over a step is its share of the epoch. The
    step is the cheaper one of the first stage, optimizer included, and without the refresh itself.

    Args:
        subject: with the schedule `epoch`; stage and schedule are as before afterwards.
        generator: of the batch.
        device, clock, dtype, repeats: as in [`BenchmarkConfig`].

    Returns:
        `step`, `refresh` and one `bank` per size, in ms, and the ratios `refresh_over_step`, `bank_over_step`.
    """
    model = subject.model
    stage, schedule, bank = model.config.training_stage, model.config.prototype_schedule, model.base_model.bank
    rows = subject.rows(generator)
    batch, alone = subject.batch(rows, True, device), subject.batch(rows, False, device)
    alone["labels"] = batch["labels"]
    model.set_stage("alignment")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        training_step(model, batch, dtype)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    try:
        model.config.prototype_schedule = "epoch"
        works: dict[str, Any] = {"step": [step], "refresh": [lambda: model.update_prototypes([alone])]}
        times = interleaved(works, repeats, make_clock(clock, device))
        model.config.prototype_schedule = "bank"
        banks = {f"bank_{size}": [_follow(model, alone, size)] for size in BANK_ROWS}
        times |= interleaved(banks, repeats, make_clock(clock, device))
    finally:
        model.config.prototype_schedule, model.base_model.bank = schedule, bank
        model.set_stage(stage)
    found = {name: summary(values) for name, values in times.items()}
    base = found["step"]["median_ms"]
    return {
        "times": found,
        "refresh_over_step": found["refresh"]["median_ms"] / base,
        "bank_over_step": {str(size): found[f"bank_{size}"]["median_ms"] / base for size in BANK_ROWS},
    }


def _follow(model: Any, batch: dict[str, Tensor], size: int) -> Work:
    """What a step does for a bank of `size` samples beyond its own forward pass."""
    base = model.base_model
    labels, names = batch["labels"], base.config.modalities
    index = torch.arange(size, device=labels.device)
    every = labels[index % len(labels)]
    rows = torch.randn(size, len(names), base.config.hidden_size, generator=torch.Generator().manual_seed(0))
    present = torch.ones(size, len(names), dtype=torch.bool, device=labels.device)
    bank = base.new_bank()
    bank.store(index, rows.to(labels.device), present, base.true_classes(every), every)
    with torch.no_grad():
        encoded = base.encode(batch, Recorder(False, False))

    def follow() -> None:
        base.bank = bank
        base.follow(encoded, labels, index[: len(labels)])

    return follow
