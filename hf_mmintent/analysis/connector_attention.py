"""Which parts of the picture and which moments a connector's queries look at (heat maps of LQ-Former and Cat-MoD).

    python examples/analyze.py connector-attention runs/xmei_qwen_mmintent_mini/seed_0/final --split test
    python examples/analyze.py connector-attention runs/xmei_qwen --split test --grid 16 16 --row ID

Cross-attention over the features, averaged over layers, heads and queries, caption slots and learned queries apart. Features
that begin with a grid of picture parts, as `visual_tokens: spatiotemporal` makes them, are drawn as a picture with
`--grid ROWS COLUMNS`; all others over their order in time. Of one row, or the mean over the split, in which every sample's
features are stretched to the longest one's. For models with a connector.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.reading import direct

from .common import Subject, add_checkpoint_arguments, open_subject, save, table
from .convergence import KINDS, connectors, dense, watched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--row", help="id of one row; the mean over the split by default")
    parser.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="of the picture's parts")


def query_shares(maps: tuple[Tensor, ...], mask: Tensor | None, captions: int) -> dict[str, list[np.ndarray]]:
    """
    What every kind of query looks at.

    Args:
        maps: per layer (B, H, N, K) attention.
        mask: (B, K) of the features.
        captions: the first so many of the N queries are slots of a caption.

    Returns:
        Kind -> per sample that has features its shares (K_i,) over the valid ones, which sum to 1. A kind without queries is
        left out.
    """
    mean = torch.stack([layer.float().mean(1) for layer in maps]).mean(0).cpu()  # (B, N, K)
    valid = torch.ones(mean.shape[0], mean.shape[2], dtype=torch.bool) if mask is None else mask.bool().cpu()
    found: dict[str, list[np.ndarray]] = {}
    for kind, part in zip(KINDS, (mean[:, :captions], mean[:, captions:]), strict=True):
        if part.shape[1]:
            rows = [values.mean(0)[keep].numpy() for values, keep in zip(part, valid, strict=True) if keep.any()]
            found[kind] = [row / max(float(row.sum()), 1e-12) for row in rows]
    return found


@torch.no_grad()
def attention_shares(subject: Subject, batch_size: int = 16) -> dict[str, dict[str, list[np.ndarray]]]:
    """Connector -> kind of query -> shares of every sample that has its modality, see [`query_shares`]."""
    parts = connectors(subject.model)
    collator = MultimodalCollator(subject.processor, label_column="labels" if subject.model.can_generate() else "label")
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in parts}
    loader = DataLoader(direct(subject.rows), batch_size=batch_size, collate_fn=collator)
    for batch in tqdm(loader, desc=subject.name, leave=False):
        calls: dict[str, list[dict[str, Any]]] = {name: [] for name in parts}
        inputs = {name: value.to(subject.model.device) for name, value in batch.items() if "label" not in name}
        with watched(parts, calls):
            subject.model(**inputs)
        for name, part in parts.items():
            for options in calls[name]:
                options = {key: value for key, value in options.items() if not key.startswith("output_")}
                with dense(part):  # a pruned query has no map
                    out = part(**options, output_attentions=True)
                shares = query_shares(
                    out.cross_attentions, options.get("encoder_attention_mask"), part.config.query_counts[0]
                )
                for kind, rows in shares.items():
                    found[name].setdefault(kind, []).extend(rows)
    return found


def stretched_mean(rows: list[np.ndarray]) -> np.ndarray:
    """Mean of distributions of different lengths, each stretched to the longest; sums to 1."""
    longest = max(map(len, rows))
    places = (np.arange(longest) + 0.5) / longest
    stretched = [row[np.minimum((places * len(row)).astype(int), len(row) - 1)] for row in rows]
    mean = np.mean([row / row.sum() for row in stretched], axis=0)
    return mean / mean.sum()


def draw_attention(
    found: dict[str, dict[str, np.ndarray]], grid: tuple[int, int] | None = None, title: str = ""
) -> Figure:
    """
    One row per connector: where a grid fits a picture per kind of query, then the curves over what follows it.

    Args:
        found: connector -> kind -> shares (K,).
        grid: rows and columns of the picture's parts, the first rows · columns features.
        title: above the picture.
    """
    cells = 0 if grid is None else grid[0] * grid[1]
    pictures = max((len(kinds) for kinds in found.values()), default=0) if cells else 0
    figure, axes = plt.subplots(
        len(found), pictures + 1, figsize=(3.2 * pictures + 5.5, 3.0 * len(found) + 0.4), squeeze=False,
        width_ratios=[1.0] * pictures + [1.7],
    )  # fmt: skip
    for row, (name, kinds) in zip(axes, found.items(), strict=True):
        for place in range(pictures):
            row[place].axis("off")
        for place, (kind, shares) in enumerate(kinds.items()):
            rest = shares
            if cells and len(shares) >= cells:
                row[place].imshow(shares[:cells].reshape(grid), cmap="inferno")
                row[place].set_title(f"{name}: {kind} queries", fontsize=9)
                rest = shares[cells:]
            colour = "tab:orange" if kind == "caption" else "tab:blue"
            if len(rest):
                row[-1].step(np.arange(len(rest)) + 0.5, rest, where="mid", color=colour, label=f"{kind} queries")
                row[-1].axhline(1 / len(shares), color="gray", linewidth=0.8, linestyle=":")
        row[-1].set(title=name, xlabel="feature, in order of time", ylabel="share of the attention", ylim=(0, None))
        if row[-1].lines:
            row[-1].legend(fontsize=8)
    figure.suptitle(f"{title}    dotted: all alike", fontsize=11)
    figure.tight_layout()
    return figure


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    title, name = f"{subject.name}, {arguments.split} split", "mean"
    if arguments.row is not None:
        ids = [str(identifier) for identifier in subject.rows["id"]]
        if arguments.row not in ids:
            raise ValueError(f"`--row {arguments.row}`: the split has no such id; the first ones are {ids[:5]}.")
        subject.rows = subject.rows.select([ids.index(arguments.row)])
        title, name = f"{subject.name}, {arguments.row}", arguments.row
    shares = attention_shares(subject, arguments.batch_size)
    found = {
        part: {kind: stretched_mean(rows) for kind, rows in kinds.items() if rows} for part, kinds in shares.items()
    }
    found = {part: kinds for part, kinds in found.items() if kinds}
    if not found:
        raise ValueError(f"no row of the {arguments.split} split has a modality that a connector reads.")
    rows = []
    for part, kinds in found.items():
        for kind, values in kinds.items():
            entropy = float(-(values * np.log(np.clip(values, 1e-12, None))).sum() / max(np.log(len(values)), 1e-12))
            rows.append([part, kind, len(values), int(values.argmax()), float(values.max()), entropy])
    grid = None if arguments.grid is None else tuple(arguments.grid)
    numbers = {"split": arguments.split, "row": arguments.row, "grid": grid, "shares": {
        part: {kind: values.tolist() for kind, values in kinds.items()} for part, kinds in found.items()
    }}  # fmt: skip
    stem = f"{arguments.output_dir}/connector_attention_{subject.name}_{arguments.split}_{name}"
    written = save(stem, draw_attention(found, grid, title), numbers)
    columns = ["connector", "queries", "features", "strongest", "its share", "entropy / that of all alike"]
    return f"{table(columns, rows)}\n{written}"
