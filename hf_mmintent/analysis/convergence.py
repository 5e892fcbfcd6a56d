"""How fast the queries of a connector stop changing, caption slots and learned queries apart (Cat-MoD, its claim).

    python examples/analyze.py convergence runs/xmei_qwen_cat_mod_mmintent_mini/seed_0/final --split test

For every layer the mean cosine between a query's states before and after it. A connector that prunes runs densely, as the claim
is about the states that a router finds, not those that it left out. For models with a connector.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.reading import direct
from hf_mmintent.modeling.modeling_connector import ConnectorPreTrainedModel

from .common import Subject, add_checkpoint_arguments, open_subject, save, table

KINDS = ("caption", "learned")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)


def connectors(model: nn.Module) -> dict[str, ConnectorPreTrainedModel]:
    """
    The connectors of a model by name; one that is shared comes once.

    Raises:
        ValueError: it has none.
    """
    found = {name: part for name, part in model.named_modules() if isinstance(part, ConnectorPreTrainedModel)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no connector: its queries cannot be followed.")
    return {name or type(model).__name__: part for name, part in found.items()}


def layer_cosines(states: tuple[Tensor, ...]) -> Tensor:
    """(layers, B, N): cosine of every query's state before and after each layer, of (layers + 1) tensors (B, N, d)."""
    pairs = itertools.pairwise(states)
    return torch.stack([nn.functional.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in pairs])


@contextmanager
def watched(parts: dict[str, ConnectorPreTrainedModel], found: dict[str, list[dict[str, Any]]]) -> Iterator[None]:
    """Note with what every connector is called; they answer as ever."""

    def note(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
            found[name].append(dict(options))

        return hook

    hooks = [part.register_forward_pre_hook(note(name), with_kwargs=True) for name, part in parts.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def dense(part: ConnectorPreTrainedModel) -> Iterator[None]:
    """A connector with a router keeps everyone while the block runs."""
    if not hasattr(part, "set_router_progress"):
        yield
        return
    before = part.host_progress()
    part.set_router_progress(0.0)
    try:
        yield
    finally:
        part.set_router_progress(before)


@torch.no_grad()
def query_convergence(subject: Subject, batch_size: int = 16) -> dict[str, dict[str, np.ndarray]]:
    """
    Returns:
        Connector -> kind of query ("caption", "learned") -> (layers, 2) mean and standard deviation of the cosine over
        samples that have the modality. A kind that a connector has not is left out.
    """
    parts = connectors(subject.model)
    column = "labels" if subject.model.can_generate() else "label"
    collator = MultimodalCollator(subject.processor, label_column=column)
    sums: dict[tuple[str, str], list[Tensor]] = {}
    loader = DataLoader(direct(subject.rows), batch_size=batch_size, collate_fn=collator)
    for batch in tqdm(loader, desc=subject.name, leave=False):
        calls: dict[str, list[dict[str, Any]]] = {name: [] for name in parts}
        inputs = {name: value.to(subject.model.device) for name, value in batch.items() if "label" not in name}
        with watched(parts, calls):
            subject.model(**inputs)
        for name, part in parts.items():
            for options in calls[name]:
                _add(sums, name, part, options)
    found: dict[str, dict[str, np.ndarray]] = {}
    for (name, kind), values in sums.items():
        joined = torch.cat(values, 1)  # (layers, samples · queries)
        deviation = joined.std(1) if joined.shape[1] > 1 else torch.zeros(len(joined))
        found.setdefault(name, {})[kind] = torch.stack([joined.mean(1), deviation], 1).numpy()
    return found


def _add(sums: dict[tuple[str, str], list[Tensor]], name: str, part: Any, options: dict[str, Any]) -> None:
    options = {key: value for key, value in options.items() if not key.startswith("output_") and key != "return_dict"}
    with dense(part):
        out = part(**options, output_hidden_states=True)
    cosines = layer_cosines(out.hidden_states).cpu()
    mask = options.get("encoder_attention_mask")
    if mask is not None:
        cosines = cosines[:, mask.bool().any(1).cpu()]
    captions, _ = part.config.query_counts
    for kind, values in zip(KINDS, (cosines[:, :, :captions], cosines[:, :, captions:]), strict=True):
        if values.numel():
            sums.setdefault((name, kind), []).append(values.flatten(1))


def draw_convergence(found: dict[str, dict[str, np.ndarray]], title: str = "") -> Figure:
    """One panel per connector, one line per kind of query."""
    figure, axes = plt.subplots(1, len(found), figsize=(5.2 * len(found), 3.8), squeeze=False, sharey=True)
    for axis, (name, kinds) in zip(axes[0], found.items(), strict=True):
        for kind, values in kinds.items():
            layers = np.arange(1, len(values) + 1)
            look = {"label": f"{kind} queries", "color": "tab:orange" if kind == "caption" else "tab:blue"}
            axis.plot(layers, values[:, 0], marker="o", **look)
            axis.fill_between(
                layers, *(values[:, 0] + sign * values[:, 1] for sign in (-1, 1)), alpha=0.15, color=look["color"]
            )
            axis.set(xticks=layers)
        axis.set(title=name, xlabel="layer", ylabel="cosine of the states before and after")
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


def run(arguments: argparse.Namespace) -> str:
    subject = open_subject(arguments.checkpoint, arguments)
    found = query_convergence(subject, arguments.batch_size)
    rows = [
        [name, kind, layer, *map(float, values)]
        for name, kinds in found.items()
        for kind, table_of in kinds.items()
        for layer, values in enumerate(table_of, 1)
    ]
    numbers = {"split": arguments.split, "n": len(subject.rows), "connectors": {
        name: {kind: values.tolist() for kind, values in kinds.items()} for name, kinds in found.items()
    }}  # fmt: skip
    figure = draw_convergence(found, f"{subject.name}, {arguments.split} split, n = {len(subject.rows)}")
    written = save(f"{arguments.output_dir}/convergence_{subject.name}_{arguments.split}", figure, numbers)
    return f"{table(['connector', 'queries', 'layer', 'mean cosine', 'std'], rows)}\n{written}"
