"""Scores under Gaussian noise on all inputs (CLCR, Fig. 5).

    python examples/analyze.py noise runs/clcr_cmu_mosi runs/mvcl_daf_cmu_mosi --split test --repeats 5

Every feature gets N(0, (σ·s)²) with s its own standard deviation over the valid steps of the split; word embeddings the same
with the deviation of the embedding table. The paper's strengths are lost: these are ours. For every architecture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_mmintent.data.collator import MultimodalCollator

from .common import (
    Batch,
    Subject,
    add_checkpoint_arguments,
    gather,
    headline,
    open_subjects,
    outputs,
    save,
    scores,
    table,
)

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS), help="σ")
    parser.add_argument("--repeats", type=int, default=3, help="draws of the noise per strength")
    parser.add_argument("--seed", type=int, default=0)


def feature_deviations(subject: Subject, batch_size: int) -> dict[str, Tensor]:
    """Standard deviation of every feature over the valid steps, under the name of the input."""
    sums: dict[str, list[Tensor]] = {}
    loader = DataLoader(subject.rows, batch_size=batch_size, collate_fn=MultimodalCollator(subject.processor))
    for batch in loader:
        for name, values in batch.items():
            if name.endswith("_features"):
                mask = batch[f"{name.removesuffix('_features')}_attention_mask"].bool()
                valid = values[mask].double()
                parts = [torch.tensor(float(len(valid))), valid.sum(0), valid.square().sum(0)]
                sums[name] = [a + b for a, b in zip(sums[name], parts, strict=True)] if name in sums else parts
    return {
        name: (square / count - (total / count).square()).clamp(min=0).sqrt().float()
        for name, (count, total, square) in sums.items()
    }


def noisy(strength: float, deviations: dict[str, Tensor], generator: torch.Generator) -> Callable[[Batch], Batch]:
    """Adds noise to the features of a batch; where a mask is 0 it has no effect on the models."""

    def change(batch: Batch) -> Batch:
        batch = dict(batch)
        for name, deviation in deviations.items():
            if name in batch:
                drawn = torch.randn(batch[name].shape, generator=generator)
                batch[name] = batch[name] + (strength * deviation * drawn).to(batch[name])
        return batch

    return change


@contextmanager
def noisy_words(subject: Subject, strength: float, generator: torch.Generator) -> Iterator[None]:
    """Noise on the word embeddings while the block runs; nothing for models without text."""
    if "text" not in subject.model.config.modalities:
        yield
        return
    table_of_words = subject.model.get_input_embeddings()
    deviation = table_of_words.weight.detach().std().item()

    def add(module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> Tensor:
        return made + (strength * deviation * torch.randn(made.shape, generator=generator)).to(made)

    hook = table_of_words.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def noise_curve(
    subject: Subject, strengths: list[float], repeats: int = 3, seed: int = 0, batch_size: int = 32
) -> dict[float, list[dict[str, float]]]:
    """All scores per strength, one entry per draw; without noise one draw is enough."""
    deviations = feature_deviations(subject, batch_size)
    curve: dict[float, list[dict[str, float]]] = {}
    for strength in strengths:
        curve[strength] = []
        for repeat in range(repeats if strength > 0 else 1):
            generator = torch.Generator().manual_seed(seed + repeat)
            with noisy_words(subject, strength, generator):
                change = noisy(strength, deviations, generator)
                label = f"{subject.name}, σ = {strength}"
                logits = gather(outputs(subject, batch_size, label, change), "logits")["logits"]
            curve[strength].append(scores(subject, logits))
    return curve


def run(arguments: argparse.Namespace) -> str:
    subjects = open_subjects(arguments)
    shown = headline(subjects[0])
    figure, axis = plt.subplots(figsize=(6, 4))
    numbers: dict[str, object] = {"split": arguments.split, "seed": arguments.seed, "curves": {}}
    rows = []
    for subject in subjects:
        curve = noise_curve(subject, arguments.strengths, arguments.repeats, arguments.seed, arguments.batch_size)
        means = [float(np.mean([draw[shown] for draw in curve[s]])) for s in arguments.strengths]
        spread = [float(np.std([draw[shown] for draw in curve[s]])) for s in arguments.strengths]
        axis.errorbar(arguments.strengths, means, spread, marker="o", capsize=3, label=subject.name)
        numbers["curves"][subject.name] = {str(s): draws for s, draws in curve.items()}  # type: ignore[index]
        rows.append([subject.name, *means])
    axis.set(xlabel="σ, in standard deviations of each input", ylabel=shown, title=f"{arguments.split} split")
    axis.legend()
    written = save(f"{arguments.output_dir}/noise_{arguments.split}", figure, numbers)
    return f"{table([shown, *(f'σ {s:g}' for s in arguments.strengths)], rows)}\n{written}"
