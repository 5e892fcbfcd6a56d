"""How alike the common representations of the modalities become during training (PLUM-Net, Fig. 6).

    python examples/analyze.py common-similarity examples/configs/plum_net_cmu_mosi.yaml --seed 1111

Trains without the alignment losses (`use_msa=False`, as the figure; `--keep_msa` trains with them) and after every epoch takes
the mean cosine between the common embeddings of every pair of modalities, over the validation samples that have both. A run
that was interrupted goes on; a finished one is drawn again. For models with `common_embeddings` and `presence`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.training import RunConfig, train_run
from hf_mmintent.training.run_config import parse_overrides

from .common import save, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", help="run settings (YAML)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep_msa", action="store_true", help="train with the alignment losses")
    parser.add_argument("--output_dir", default="runs/common_similarity")
    parser.add_argument("--override", nargs="*", default=[], metavar="NAME=VALUE", help="further settings")


def pairwise_cosine(embeddings: Tensor, presence: Tensor) -> Tensor:
    """
    Args:
        embeddings: (B, M, d).
        presence: (B, M) bool.

    Returns:
        (B, M, M) cosines, NaN where a sample lacks one of the two.
    """
    unit = nn.functional.normalize(embeddings.float(), dim=-1)
    both = presence[:, :, None] & presence[:, None]
    return (unit @ unit.transpose(1, 2)).masked_fill(~both, float("nan"))


@torch.no_grad()
def common_similarity(model: nn.Module, loader: DataLoader) -> dict[str, float]:
    """Mean cosine per pair of modalities over a loader, and "mean", that of the pairs."""
    training = model.training
    model.eval()
    found = []
    for batch in loader:
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        out = model(**inputs)
        found.append(pairwise_cosine(out.common_embeddings, out.presence).cpu().double())
    model.train(training)
    means = torch.cat(found).nanmean(0)
    names = model.config.modalities
    pairs = {f"{names[i]}-{names[j]}": means[i, j].item() for i, j in itertools.combinations(range(len(names)), 2)}
    known = [value for value in pairs.values() if not np.isnan(value)]
    return {**pairs, "mean": float(np.mean(known)) if known else float("nan")}


class CommonSimilarity(TrainerCallback):
    """
    Writes [`common_similarity`] of the evaluation rows after every evaluation to a JSON file.

    Args:
        path: of the file, `{stage: {epoch: {pair: value}}}`. The first value of an epoch stays: an epoch that is trained
            again gives the same one, and after the last epoch the best weights are evaluated once more.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def records(self) -> dict[str, dict[str, dict[str, float]]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        stage, epoch = getattr(model.config, "training_stage", "training"), f"{state.epoch:g}"
        records = self.records()
        if epoch in records.get(stage, {}):
            return
        with torch.random.fork_rng(devices=[]):  # iterating draws a number: the run is to stay what it is without this
            found = common_similarity(model, eval_dataloader)
        if not state.is_world_process_zero:
            return
        records.setdefault(stage, {})[epoch] = found
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def run(arguments: argparse.Namespace) -> str:
    settings = copy.deepcopy(
        RunConfig.load(arguments.settings, parse_overrides([f"--{x}" for x in arguments.override]))
    )
    if not arguments.keep_msa:
        settings.config["use_msa"] = False
    kind = "with_msa" if arguments.keep_msa else "without_msa"
    folder = Path(arguments.output_dir) / kind / f"seed_{arguments.seed}"
    callback = CommonSimilarity(folder / "common_similarity.json")
    train_run(settings, arguments.seed, folder, callbacks=[callback])
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    ends, start = {}, 0.0
    for stage, epochs in callback.records().items():
        for epoch, found in sorted(epochs.items(), key=lambda item: float(item[0])):
            for pair, value in found.items():
                curves[pair].append((start + float(epoch), value))
        start += max(map(float, epochs))
        ends[stage] = start
    figure, axis = plt.subplots(figsize=(6, 4))
    for pair, points in curves.items():
        look = {"color": "black", "linewidth": 2} if pair == "mean" else {"alpha": 0.6}
        axis.plot(*zip(*points, strict=True), label=pair, **look)
    for end in list(ends.values())[:-1]:
        axis.axvline(end, linestyle=":", color="gray")
    axis.set(xlabel="epoch", ylabel="cosine of the common representations", title=kind.replace("_", " "))
    axis.legend()
    numbers = {"settings": settings.to_dict(), "seed": arguments.seed, "stages": ends, "curves": curves}
    written = save(f"{arguments.output_dir}/common_similarity_{kind}", figure, numbers)
    rows = [[pair, points[0][1], max(v for _, v in points), points[-1][1]] for pair, points in curves.items()]
    return f"{table(['pair', 'first epoch', 'highest', 'last'], rows)}\n{written}"
