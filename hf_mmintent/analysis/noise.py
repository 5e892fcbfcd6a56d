"""Scores under Gaussian noise on all inputs (CLCR, Fig. 5).

    python examples/analyze.py noise runs/clcr_cmu_mosi runs/mvcl_daf_cmu_mosi --split test --repeats 5

Every feature gets N(0, (σ·s)²) with s its own standard deviation over the valid steps of the split; word embeddings the same
with the deviation of the embedding table. The paper's strengths are lost: these are ours. For every architecture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from .answers import answer, default_score
from .common import Subject, add_checkpoint_arguments, open_subjects, sample_std, save, score_axis, table
from .perturbations import Change, ChangedRows, Row, add_noise, deviations

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS), help="σ")
    parser.add_argument("--repeats", type=int, default=3, help="draws of the noise per strength")
    parser.add_argument("--seed", type=int, default=0)


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
    limits = subject.processor.max_lengths
    found = {m: deviations(subject.rows, m, limits.get(m)) for m in subject.processor.modalities if m != "text"}
    curve: dict[float, list[dict[str, float]]] = {}
    for strength in strengths:
        curve[strength] = []
        for repeat in range(repeats if strength > 0 else 1):
            changes = [add_noise(m, strength, s, seed + repeat) for m, s in found.items() if s is not None]
            rows = ChangedRows(subject.rows, lambda index, row, all=changes: _in_turn(all, index, row))
            with noisy_words(subject, strength, torch.Generator().manual_seed(seed + repeat)):
                scores = answer(subject, rows, batch_size=batch_size, progress=f"{subject.name}, σ = {strength}").scores
            curve[strength].append(scores)
    return curve


def _in_turn(changes: Sequence[Change], index: int, row: Row) -> Row:
    for change in changes:
        row = change(index, row)
    return row


def run(arguments: argparse.Namespace) -> str:
    subjects = open_subjects(arguments)
    shown = default_score(subjects[0])
    figure, axis = plt.subplots(figsize=(6, 4))
    numbers: dict[str, object] = {"split": arguments.split, "seed": arguments.seed, "curves": {}}
    rows = []
    for subject in subjects:
        curve = noise_curve(subject, arguments.strengths, arguments.repeats, arguments.seed, arguments.batch_size)
        means = [float(np.mean([draw[shown] for draw in curve[s]])) for s in arguments.strengths]
        spread = [sample_std([draw[shown] for draw in curve[s]]) for s in arguments.strengths]
        axis.errorbar(arguments.strengths, means, spread, marker="o", capsize=3, label=subject.name)
        numbers["curves"][subject.name] = {str(s): draws for s, draws in curve.items()}  # type: ignore[index]
        rows.append([subject.name, *means])
    axis.set(xlabel="σ, in standard deviations of each input", title=f"{arguments.split} split")
    score_axis(axis.yaxis, shown)
    axis.legend()
    written = save(f"{arguments.output_dir}/noise_{arguments.split}", figure, numbers)
    columns = [f"σ {s:g}" for s in arguments.strengths]
    return f"{table([shown, *columns], rows, dict.fromkeys(columns, shown))}\n{written}"
