"""Where the queries of the connectors look: attention over frames, places of the picture and time (XMEI-Qwen).

    python examples/analyze.py query-attention runs/xmei_qwen_mmintent_mini --samples 4

One line of pictures per sample and one column per modality: queries against the steps of the modality, the mean over heads and
layers. A dashed line parts queries of the caption (above) from learned ones. Of a patch grid the places come first; they have a
column of their own, as a map.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .common import Subject, add_checkpoint_arguments, open_subject, save, table, with_rows
from .connectors import connector_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--samples", type=int, default=4, help="samples in the picture, from the first on")
    parser.add_argument("--layer", type=int, help="one layer with cross-attention, from 0; the mean of all by default")


def attention_maps(subject: Subject, batch_size: int = 32, layer: int | None = None) -> list[dict[str, np.ndarray]]:
    """
    Per row and modality that it has, the attention of the queries over its valid steps (N, K): the mean over heads, and over
    the layers unless one is named. Queries that passed by in a layer (Cat-MoD) count 0 there. Steps are those that the
    connector reads, after the convolutions of sound.

    Raises:
        ValueError: there is no such layer.
    """
    found: list[dict[str, np.ndarray]] = []
    for batch, outs in connector_outputs(subject, batch_size, "attention", output_attentions=True):
        rows: list[dict[str, np.ndarray]] = [{} for _ in batch["input_ids"]]
        for name, out in outs.items():
            layers = out.cross_attentions
            if layer is not None and not 0 <= layer < len(layers):
                raise ValueError(f"`layer` is {layer} but the {name} connector has {len(layers)} with cross-attention.")
            chosen = layers if layer is None else layers[layer : layer + 1]
            maps = sum(weights.float().mean(1) for weights in chosen) / len(chosen)  # (B, N, K)
            for row, weights in enumerate(maps.cpu().numpy()):
                valid = weights.sum(0) > 0  # padding gets exactly nothing
                if valid.any():
                    rows[row][name] = weights[:, : int(valid.nonzero()[0][-1]) + 1]
        found += rows
    return found


def columns(subject: Subject, names: list[str]) -> list[tuple[str, str]]:
    """(modality, "places" or "steps") of each picture in a line."""
    kinds = []
    for name in names:
        if subject.model.config.num_grid_tokens(name):
            kinds.append((name, "places"))
        kinds.append((name, "steps"))
    return kinds


def part(weights: np.ndarray, places: int, kind: str) -> np.ndarray:
    """The picture of one kind: places as the mean map over the queries, square where they are; steps as (N, steps)."""
    if kind == "steps":
        return weights[:, places:]
    mean = weights[:, :places].mean(0)
    side = math.isqrt(places)
    return mean.reshape(side, side) if side * side == places else mean[None]


def draw(axis: Axes, weights: np.ndarray, kind: str, title: str, caption: int) -> None:
    """
    One picture with its colour bar.

    Args:
        axis: to draw on.
        weights: what [`part`] made.
        kind: "places" or "steps".
        title: of the picture.
        caption: queries in front that belong to a caption.
    """
    axis.set_title(title, fontsize=7)
    image = axis.imshow(weights, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    for one in (axis.xaxis, axis.yaxis):  # queries and steps are counted
        one.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if kind == "steps":
        axis.set_xlabel("step", fontsize=7)
        axis.set_ylabel("query", fontsize=7)
        if 0 < caption < len(weights):
            axis.axhline(caption - 0.5, color="white", linewidth=1, linestyle="--")
    axis.tick_params(labelsize=6)
    bar = axis.figure.colorbar(image, ax=axis)
    bar.set_label("attention", fontsize=7)
    bar.ax.tick_params(labelsize=6)


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments, media=True)
    first = subject.rows.select(range(min(arguments.samples, len(subject.rows))))  # clips of others are not encoded
    subject = with_rows(subject, first)
    maps = attention_maps(subject, arguments.batch_size, arguments.layer)
    names = [name for name in subject.model.config.media if any(name in row for row in maps)]
    kinds, places = columns(subject, names), {name: subject.model.config.num_grid_tokens(name) for name in names}
    figure, axes = plt.subplots(len(maps), len(kinds), figsize=(4 * len(kinds), 2 * len(maps)), squeeze=False)
    samples: dict[str, Any] = {}
    lines: list[list[Any]] = []
    for row, (weights, identifier) in enumerate(zip(maps, map(str, subject.rows["id"]), strict=True)):
        for axis, (name, kind) in zip(axes[row], kinds, strict=True):
            title, caption = f"{identifier}: {name}, {kind}", subject.model.config.num_caption_tokens(name)
            if name in weights:
                draw(axis, part(weights[name], places[name], kind), kind, title, caption)
            else:
                axis.set_title(f"{title}: absent", fontsize=7)
                axis.axis("off")
        samples[identifier] = {name: values.tolist() for name, values in weights.items()}
        lines += [[identifier, name, values.shape[1], spread(values)] for name, values in weights.items()]
    figure.tight_layout()
    numbers = {
        "checkpoint": str(arguments.checkpoint),
        "split": arguments.split,
        "layer": arguments.layer,
        "grid_tokens": places,
        "samples": samples,
    }
    written = save(f"{arguments.output_dir}/query_attention_{subject.name}_{arguments.split}", figure, numbers)
    return f"{table(['sample', 'modality', 'steps', 'entropy / log(steps)'], lines)}\n{written}"


def spread(weights: np.ndarray) -> float:
    """Mean entropy of the queries' attention, 1 where they look everywhere alike; queries without attention are left out."""
    sums = weights.sum(1, keepdims=True)
    shares = weights[sums[:, 0] > 0] / sums[sums[:, 0] > 0]
    if weights.shape[1] == 1:
        return 0.0
    entropy = -(shares * np.log(np.clip(shares, 1e-12, None))).sum(1)
    return float(entropy.mean() / math.log(weights.shape[1]))
