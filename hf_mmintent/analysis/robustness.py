"""What a checkpoint still knows when its inputs get worse: noise, missing modalities, lost frames and words.

    python examples/analyze.py robustness runs/mvcl_daf_mmintent_mini --split test
    python examples/analyze.py robustness runs/mvcl_daf runs/concat_fusion --split test --metric f1_weighted --level clips

Noise: N(0, (σ·s)²) on every value of one modality, s its own standard deviation over the split; of text on the word
embeddings. Frames: a share of the steps of audio or video is lost at random. Cut: the end of every sentence is. Word errors:
words are replaced by ones that sound alike, lost or added, as by speech recognition. Missing: every subset of the modalities.
Shuffled: one modality is taken from a sample with another label, with its caption, and where the model reads captions these
alone; if nothing changes, the model does not use it.

Features are perturbed as the model reads them, with `--level clips` the sound and pictures before the model's own encoder.
Every seed of a run folder and every draw counts as a point of the mean. The area under a curve is divided by its width, so it
is the mean score over the strengths; "kept" is its share of the clean score. For every architecture.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_mmintent.metrics import format_score
from hf_mmintent.run_data import find_checkpoints

from .answers import Answers, answer, default_score
from .common import (
    Subject,
    add_checkpoint_arguments,
    open_subject,
    run_name,
    sample_std,
    save,
    save_tables,
    score_axis,
    table,
)
from .noise import noisy_words
from .perturbations import (
    PACKET_SECONDS,
    Change,
    ChangedRows,
    DecodedRows,
    add_noise,
    deviations,
    drop_frames,
    other_label_donors,
    own_columns,
    replace_text,
    sequence_column,
    take_from,
    truncate_text,
)
from .word_errors import SoundAlikes, corrupt_texts

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
RATES = (0.0, 0.1, 0.2, 0.3, 0.5)
AXES = {
    "noise": "σ, in standard deviations of the input",
    "frames": "share of the steps lost",
    "cut": "share of the words cut off",
    "word errors": "errors per word",
    "missing": "modalities missing",
}
LOWER_IS_BETTER = {"mae", "hamming_loss"}


@dataclass
class Curve:
    """
    Scores over the strengths of one perturbation.

    Args:
        kind: a key of `AXES`.
        modality: that is perturbed; "any" where all subsets of that size are averaged.
        x: strengths, from none upwards.
        draws: per strength the scores of every seed and draw.
    """

    kind: str
    modality: str
    x: list[float]
    draws: list[list[dict[str, float]]]

    def means(self, metric: str) -> list[float]:
        return [float(np.mean([draw[metric] for draw in draws])) for draws in self.draws]

    def spread(self, metric: str) -> list[float]:
        return [sample_std([draw[metric] for draw in draws]) for draws in self.draws]

    def area(self, metric: str) -> float:
        return area_under(self.x, self.means(metric))


@dataclass
class Robustness:
    """
    Everything that was found of one run.

    Args:
        clean: scores of every seed.
        curves: see [`Curve`].
        subsets: given modalities -> scores of every seed.
        shuffled: modality -> scores of every seed and draw.
        changed: modality -> mean share of the answers that change when it is shuffled.
        notes: what was left out, and why.
    """

    clean: list[dict[str, float]] = field(default_factory=list)
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    subsets: dict[tuple[str, ...], list[dict[str, float]]] = field(default_factory=dict)
    shuffled: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    changed: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    guess: dict[str, float] = field(default_factory=dict)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, several=True)
    parser.add_argument("--level", choices=("features", "clips"), default="features", help="what is perturbed")
    parser.add_argument("--metric", help="score to show; accuracy, MAE or joint accuracy by default")
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS), help="σ of the noise")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of frames lost and of words cut")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="errors per word")
    parser.add_argument("--repeats", type=int, default=3, help="draws per strength")
    parser.add_argument("--seed", type=int, default=0)


def area_under(x: Sequence[float], y: Sequence[float]) -> float:
    """
    Area under a curve by the trapezoidal rule, divided by its width: the mean of y over x.

    Raises:
        ValueError: fewer than two points, or x that does not grow.
    """
    if len(x) < 2 or len(x) != len(y) or any(b <= a for a, b in itertools.pairwise(x)):
        raise ValueError(f"an area needs two or more points from left to right: x is {list(x)}, y has {len(y)} values.")
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


# ---- one checkpoint -------------------------------------------------------------------------------------------------


@dataclass
class _Bench:
    """One checkpoint with readable rows, and where its results go."""

    subject: Subject
    rows: Any
    found: Robustness
    batch_size: int
    seed: int
    repeats: int

    def run(
        self,
        what: str,
        change: Change | None = None,
        drop: tuple[str, ...] = (),
        around: AbstractContextManager[Any] | None = None,
    ) -> Answers:
        rows = self.rows if change is None else ChangedRows(self.rows, change)
        with around or nullcontext():
            return answer(self.subject, rows, drop, self.batch_size, f"{self.subject.name}: {what}")

    def curve(
        self, kind: str, modality: str, x: Sequence[float], point: Callable[[float, int], Answers], repeats: int
    ) -> None:
        """Score `point(strength, seed)` for every strength and draw; without perturbation one is enough."""
        curve = self.found.curves.setdefault((kind, modality), Curve(kind, modality, list(x), [[] for _ in x]))
        for strength, draws in zip(x, curve.draws, strict=True):
            for draw in range(repeats if strength > 0 else 1):
                draws.append(point(strength, self.seed + draw).scores)

    @property
    def modalities(self) -> list[str]:
        return list(self.subject.processor.modalities)

    def texts(self) -> list[str | None]:
        return [self.rows[index].get("text") for index in range(len(self.rows))]


def measure(
    subject: Subject,
    found: Robustness | None = None,
    level: str = "features",
    strengths: Sequence[float] = STRENGTHS,
    shares: Sequence[float] = SHARES,
    rates: Sequence[float] = RATES,
    repeats: int = 3,
    seed: int = 0,
    batch_size: int = 32,
) -> Robustness:
    """
    All perturbations of one checkpoint.

    Args:
        subject: model, processor and rows; with clips where `level` is "clips".
        found: results of other seeds of the same run, to which these are added.
        level: "features" or "clips".
        strengths, shares, rates: x of the curves, from 0 upwards.
        repeats: draws per strength.
        seed: of the first draw.
        batch_size: rows per pass.

    Raises:
        ValueError: strengths that do not grow, or clips for a checkpoint that takes features.
    """
    for name, values in (("strengths", strengths), ("shares", shares), ("rates", rates)):
        if len(values) < 2 or any(b <= a for a, b in itertools.pairwise(values)) or values[0] < 0:
            raise ValueError(f"`{name}` is {list(values)}: give two or more values from 0 upwards.")
    rows = (
        DecodedRows(subject.rows, subject.processor) if level == "clips" else ChangedRows(subject.rows, lambda _, r: r)
    )
    bench = _Bench(subject, rows, found or Robustness(), batch_size, seed, repeats)
    clean = bench.run("clean")
    bench.found.clean.append(clean.scores)
    bench.found.guess = best_guess(clean)
    for modality in bench.modalities:
        if modality == "text":
            _worsen_text(bench, strengths, shares, rates)
        else:
            _worsen_sequence(bench, modality, level, strengths, shares)
    _leave_out(bench, clean)
    _shuffle(bench, clean)
    return bench.found


def _worsen_text(bench: _Bench, strengths: Sequence[float], shares: Sequence[float], rates: Sequence[float]) -> None:
    texts = bench.texts()
    if all(text is None for text in texts):
        bench.found.note("text: no row has any.")
        return

    alike = SoundAlikes(texts)

    def noise(strength: float, seed: int) -> Answers:
        around = noisy_words(bench.subject, strength, torch.Generator().manual_seed(seed))
        return bench.run(f"noise on text, σ = {strength:g}", around=around)

    def errors(rate: float, seed: int) -> Answers:
        return bench.run(f"word errors, {rate:g}", replace_text(corrupt_texts(texts, rate, seed, alike=alike)))

    bench.curve("noise", "text", strengths, noise, bench.repeats)
    bench.curve("cut", "text", shares, lambda share, _: bench.run(f"cut text, {share:g}", truncate_text(share)), 1)
    bench.curve("word errors", "text", rates, errors, bench.repeats)


def _worsen_sequence(
    bench: _Bench, modality: str, level: str, strengths: Sequence[float], shares: Sequence[float]
) -> None:
    if all(sequence_column(bench.rows[index], modality) is None for index in range(len(bench.rows))):
        bench.found.note(f"{modality}: no row holds it as an array, so it gets no noise and loses no frames.")
        return
    limit = bench.subject.processor.max_lengths.get(modality)
    deviation = deviations(bench.rows, modality, limit)
    packet = 1
    if level == "clips":
        packet = max(round(PACKET_SECONDS * bench.rows.settings.sampling_rate), 1)

    def noise(strength: float, seed: int) -> Answers:
        return bench.run(f"noise on {modality}, σ = {strength:g}", add_noise(modality, strength, deviation, seed))

    def frames(share: float, seed: int) -> Answers:
        return bench.run(f"lost frames of {modality}, {share:g}", drop_frames(modality, share, seed, packet))

    bench.curve("noise", modality, strengths, noise, bench.repeats)
    bench.curve("frames", modality, shares, frames, bench.repeats)


def _leave_out(bench: _Bench, clean: Answers) -> None:
    """Every non-empty subset of the modalities, the largest first, and the curve over their number."""
    names = bench.modalities
    if len(names) < 2:
        return
    missing = {index: set(names) - set(_present(bench.rows[index], names)) for index in range(len(bench.rows))}
    for size in range(len(names), 0, -1):
        for given in itertools.combinations(names, size):
            drop = tuple(name for name in names if name not in given)
            empty = [index for index, absent in missing.items() if set(given) <= absent]
            if empty:
                bench.found.note(f"only {' and '.join(given)}: left out, {len(empty)} rows have none of it.")
                continue
            found = clean if not drop else bench.run(f"without {' and '.join(drop)}", drop=drop)
            bench.found.subsets.setdefault(given, []).append(found.scores)
    sizes = sorted({len(given) for given in bench.found.subsets}, reverse=True)
    draws = [
        [scores for given, found in bench.found.subsets.items() if len(given) == size for scores in found]
        for size in sizes
    ]
    if len(sizes) > 1:
        x = [float(len(names) - size) for size in sizes]
        bench.found.curves["missing", "any"] = Curve("missing", "any", x, draws)


def _present(row: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if any(row.get(column) is not None for column in (name, f"{name}_features", f"{name}_path")):
            yield name


def _shuffle(bench: _Bench, clean: Answers) -> None:
    labels = np.stack([np.asarray(task.labels) for task in clean.tasks], -1)
    if len(labels) != len(bench.rows):
        bench.found.note("shuffled: left out, rows without a target have no other label to take from.")
        return
    exchanged: dict[str, Callable[[dict[str, Any]], list[str]]] = {
        modality: partial(own_columns, modality=modality) for modality in bench.modalities
    }
    first = bench.rows[0]
    for column in bench.subject.processor.extra_columns:
        if column.endswith("_caption") and column in first:  # what a caption adds to its modality
            exchanged[column.replace("_", " ")] = lambda _, name=column: [name]
    for name, columns in exchanged.items():
        for draw in range(bench.repeats):
            change = take_from(bench.rows, other_label_donors(labels, bench.seed + draw), columns)
            found = bench.run(f"{name} shuffled", change)
            bench.found.shuffled.setdefault(name, []).append(found.scores)
            bench.found.changed.setdefault(name, []).append(found.changed(clean))


def best_guess(found: Answers) -> dict[str, float]:
    """Scores of the best constant answer on these rows, which a useless input leaves: the most frequent class, the median."""
    task = found.tasks[0]
    if task.labels.dtype.kind == "f":
        return {"mae": float(np.abs(task.labels - np.median(task.labels)).mean())}
    if len(found.tasks) > 1:
        pairs = np.stack([task.labels for task in found.tasks], 1)
        return {"joint_accuracy": float(np.unique(pairs, axis=0, return_counts=True)[1].max() / len(pairs))}
    return {} if task.labels.ndim > 1 else {"accuracy": float(np.bincount(task.labels).max() / len(task.labels))}


# ---- what is shown --------------------------------------------------------------------------------------------------


def mean(scores: Sequence[dict[str, float]], metric: str) -> float:
    return float(np.mean([score[metric] for score in scores]))


def tables(name: str, found: Robustness, metric: str) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Areas under the curves, subsets of the modalities, and shuffled modalities, as rows of numbers."""
    clean = mean(found.clean, metric)

    def share(value: float) -> float:
        return value / clean if clean else float("nan")

    areas = []
    for curve in found.curves.values():
        area = curve.area(metric)
        areas.append([name, curve.kind, curve.modality, clean, area, share(area), curve.x[-1], curve.means(metric)[-1]])
    subsets = [
        [name, " + ".join(given), len(scores), mean(scores, metric), share(mean(scores, metric))]
        for given, scores in found.subsets.items()
    ]
    shuffled = [
        [name, modality, mean(scores, metric), clean - mean(scores, metric), float(np.mean(found.changed[modality]))]
        for modality, scores in found.shuffled.items()
    ]
    return {
        f"Area under the curve of {metric}": (
            ["checkpoint", "perturbation", "modality", "clean", "area", "kept", "strongest", "at the strongest"],
            areas,
        ),
        f"{metric} with some modalities only": (["checkpoint", "given", "seeds", metric, "kept"], subsets),
        f"{metric} with a modality of another label": (
            ["checkpoint", "shuffled", metric, "lost", "answers changed"],
            shuffled,
        ),
    }


def score_columns(metric: str) -> dict[str, str]:
    """The columns of [`tables`] that hold the metric, and shares of it or of the answers, which are shown in percent too."""
    of_metric = dict.fromkeys((metric, "clean", "area", "at the strongest", "lost"), metric)
    return {**of_metric, "kept": "kept", "answers changed": "changed"}


def draw(name: str, found: Robustness, metric: str, split: str) -> Figure:
    """One picture: noise, lost frames and words, missing and shuffled modalities."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5))
    colours = {modality: f"C{index}" for index, modality in enumerate(_modalities(found))}
    colours["any"] = "black"
    panels = (("noise",), ("frames", "cut", "word errors"))
    for axis, kinds in zip(axes[0], panels, strict=True):
        _draw_curves(axis, [curve for curve in found.curves.values() if curve.kind in kinds], metric, colours)
    axes[0, 0].set(title="noise on one modality", xlabel=AXES["noise"])
    axes[0, 1].set(title="lost frames and words", xlabel="share lost, or errors per word")
    bars = {" + ".join(given): [score[metric] for score in scores] for given, scores in found.subsets.items()}
    _draw_bars(axes[1, 0], bars or {"all": [score[metric] for score in found.clean]}, metric, "tab:gray")
    axes[1, 0].set(title="given only")
    swapped = {modality: [score[metric] for score in scores] for modality, scores in found.shuffled.items()}
    if swapped:
        _draw_bars(axes[1, 1], swapped, metric, [colours[name] for name in swapped])
    axes[1, 1].set(title="taken from a sample with another label")
    clean, guess = mean(found.clean, metric), found.guess.get(metric)
    for axis in axes.flat:
        score_axis(axis.yaxis if axis in axes[0] else axis.xaxis, metric)
        line = axis.axhline if axis in axes[0] else axis.axvline
        line(clean, color="black", linewidth=0.8, linestyle="--")
        if guess is not None:
            line(guess, color="gray", linewidth=0.8, linestyle=":")
        if metric not in LOWER_IS_BETTER:
            (axis.set_ylim if axis in axes[0] else axis.set_xlim)(0, 1.03)
    legend = f"dashed: clean {format_score(metric, clean)}"
    legend += "" if guess is None else f"   dotted: best constant answer {format_score(metric, guess)}"
    figure.suptitle(f"{name}, {split} split    {legend}", fontsize=11)
    figure.tight_layout()
    return figure


def _modalities(found: Robustness) -> list[str]:
    names = [*found.shuffled, *(name for given in found.subsets for name in given)]
    names += [curve.modality for curve in found.curves.values() if curve.modality != "any"]
    return list(dict.fromkeys(names))


def _draw_curves(axis: Axes, curves: Sequence[Curve], metric: str, colours: dict[str, str]) -> None:
    looks = {"noise": "-", "frames": "-", "cut": "--", "word errors": ":"}
    for curve in curves:
        label = curve.modality if curve.kind == "noise" else f"{curve.kind}: {curve.modality}"
        axis.errorbar(
            curve.x,
            curve.means(metric),
            curve.spread(metric),
            marker="o",
            markersize=4,
            capsize=3,
            color=colours[curve.modality],
            linestyle=looks[curve.kind],
            label=label if curve.modality != "text" or curve.kind == "noise" else f"text: {curve.kind}",
        )
    if curves:
        axis.legend(fontsize=8)


def _draw_bars(axis: Axes, bars: dict[str, list[float]], metric: str, colour: Any) -> None:
    places = np.arange(len(bars))[::-1]
    means, spread = [np.mean(values) for values in bars.values()], [sample_std(values) for values in bars.values()]
    drawn = axis.barh(places, means, xerr=spread if max(spread) > 0 else None, color=colour, alpha=0.75, capsize=3)
    axis.bar_label(drawn, [format_score(metric, value) for value in means], label_type="center", fontsize=8)
    axis.set(yticks=places, yticklabels=list(bars))


def as_numbers(found: Robustness, metric: str) -> dict[str, Any]:
    """For JSON: all scores of all draws."""
    return {
        "clean": found.clean,
        "best_constant_answer": found.guess,
        "curves": [
            {
                "kind": curve.kind,
                "modality": curve.modality,
                "x": curve.x,
                "axis": AXES[curve.kind],
                "mean": curve.means(metric),
                "std": curve.spread(metric),
                "area": curve.area(metric),
                "draws": curve.draws,
            }
            for curve in found.curves.values()
        ],
        "subsets": [{"given": list(given), "seeds": scores} for given, scores in found.subsets.items()],
        "shuffled": [
            {"modality": name, "changed": found.changed[name], "draws": scores}
            for name, scores in found.shuffled.items()
        ],
        "notes": found.notes,
    }


def measure_run(checkpoint: str | Path, arguments: argparse.Namespace) -> tuple[Robustness, str]:
    """All seeds of a run folder, or one checkpoint; and the score to show."""
    found, metric = Robustness(), arguments.metric
    for path in find_checkpoints(checkpoint):
        subject = open_subject(path, arguments, run_name(checkpoint), media=arguments.level == "clips")
        metric = metric or default_score(subject)
        measure(
            subject,
            found,
            arguments.level,
            arguments.strengths,
            arguments.shares,
            arguments.rates,
            arguments.repeats,
            arguments.seed,
            arguments.batch_size,
        )
    if metric not in found.clean[0]:
        raise ValueError(f"`--metric {metric}`: the scores are {sorted(found.clean[0])}.")
    return found, metric


def run(arguments: argparse.Namespace) -> str:
    merged: dict[str, tuple[list[str], list[list[Any]]]] = {}
    scores: dict[str, str] = {}
    lines = []
    for place, checkpoint in enumerate(arguments.checkpoint):
        found, metric = measure_run(checkpoint, arguments)
        name = run_name(checkpoint)
        if [run_name(other) for other in arguments.checkpoint].count(name) > 1:
            name = f"{name}_{place}"
        scores |= score_columns(metric)
        for title, (columns, rows) in tables(name, found, metric).items():
            merged.setdefault(title, (columns, []))[1].extend(rows)
        numbers = {
            "checkpoint": str(checkpoint),
            "split": arguments.split,
            "metric": metric,
            "level": arguments.level,
            "seed": arguments.seed,
            "repeats": arguments.repeats,
            **as_numbers(found, metric),
        }
        stem = f"{arguments.output_dir}/robustness_{name}_{arguments.split}_{arguments.level}"
        lines += [*found.notes, save(stem, draw(name, found, metric, arguments.split), numbers)]
    written = save_tables(f"{arguments.output_dir}/robustness_{arguments.split}_{arguments.level}", merged, scores)
    parts = [f"{title}\n\n{table(columns, rows, scores)}" for title, (columns, rows) in merged.items()]
    return "\n\n".join([*parts, "\n".join([written, *lines])])
