"""How fast the queries of a connector settle: similarity of a query with itself one layer earlier (Cat-MoD).

    python examples/analyze.py convergence runs/xmei_qwen_mmintent_mini

The claim behind Cat-MoD is that queries which start from a caption converge early, so that later layers need not update them.
The picture shows the mean cosine of consecutive states per layer, of guides and of learned queries. Look at a dense connector:
a guide that a layer leaves out is similar to itself by construction.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import torch
from matplotlib import pyplot as plt

from .common import Subject, add_checkpoint_arguments, open_subject, save, table
from .connectors import connector_outputs

GUIDES, LEARNED = "guides", "learned"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)


def convergence(subject: Subject, batch_size: int = 32) -> dict[str, dict[str, list[float]]]:
    """
    Mean cosine of the states before and after every layer.

    Returns:
        Per modality `{"guides": [...], "learned": [...]}`, one value per layer over all samples that have the modality;
        a kind that the connector has no queries of is left out.
    """
    sums: dict[tuple[str, str], torch.Tensor] = {}
    counts: dict[str, int] = defaultdict(int)
    for batch, outs in connector_outputs(subject, batch_size, "layers", output_hidden_states=True):
        for name, out in outs.items():
            there = _present(batch, name, len(batch["input_ids"]))
            states = torch.stack([layer.float()[there] for layer in out.hidden_states])  # (L + 1, b, N, d)
            similar = torch.cosine_similarity(states[1:], states[:-1], dim=-1)  # (L, b, N)
            first = subject.model.config.num_caption_tokens(name)
            counts[name] += int(there.sum())
            for kind, values in ((GUIDES, similar[..., :first]), (LEARNED, similar[..., first:])):
                if values.shape[-1]:
                    sums[name, kind] = sums.get((name, kind), 0) + values.mean(-1).sum(1)
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (name, kind), total in sums.items():
        if counts[name]:
            found[name][kind] = (total / counts[name]).tolist()
    return dict(found)


def _present(batch: dict[str, torch.Tensor], name: str, rows: int) -> torch.Tensor:
    mask = batch.get(f"{name}_attention_mask")
    return torch.ones(rows, dtype=torch.bool) if mask is None else mask.bool().any(1)


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    found = convergence(subject, arguments.batch_size)
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 3.5), squeeze=False)
    lines = []
    for axis, (name, kinds) in zip(axes[0], found.items(), strict=True):
        for kind, values in kinds.items():
            axis.plot(np.arange(1, len(values) + 1), values, marker="o", label=kind)
            lines += [[name, kind, layer, value] for layer, value in enumerate(values, start=1)]
        axis.set(title=name, xlabel="layer", ylabel="cosine with the state before", ylim=(None, 1.01))
        axis.legend()
    figure.tight_layout()
    numbers = {"checkpoint": str(arguments.checkpoint), "split": arguments.split, "cosine": found}
    written = save(f"{arguments.output_dir}/convergence_{subject.name}_{arguments.split}", figure, numbers)
    return f"{table(['modality', 'queries', 'layer', 'cosine'], lines)}\n{written}"
