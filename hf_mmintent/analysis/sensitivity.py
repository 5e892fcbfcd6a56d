"""Validation scores over the values of one setting, everything else fixed (CLCR, Appendix B; any setting of any run).

    python examples/analyze.py sensitivity examples/configs/clcr_cmu_mosi.yaml --field config.intra_loss_weight \\
        --values 0 0.01 0.05 0.1 0.2 0.5 1.0 --seeds 0 1 2 3 4
    python examples/analyze.py sensitivity examples/configs/clcr_cmu_mosi.yaml --field config.inter_weights.0 --values 0 0.33 1

One model per value and seed is trained; finished ones are not trained again, so an interrupted grid goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib import pyplot as plt

from hf_mmintent.registration import model_class
from hf_mmintent.training import RunConfig, train_run
from hf_mmintent.training.run_config import parse_overrides

from .common import sample_std, save, score_axis, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", help="run settings (YAML)")
    parser.add_argument("--field", required=True, help="dotted name of the setting; a last number picks from a list")
    parser.add_argument("--values", nargs="+", required=True, type=yaml.safe_load)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--score", help="validation score to show; MAE or weighted F1 by default")
    parser.add_argument("--output_dir", default="runs/sensitivity")
    parser.add_argument(
        "--override", nargs="*", default=[], metavar="NAME=VALUE", help="further settings, the same for all"
    )


def with_value(settings: RunConfig, field: str, value: Any) -> RunConfig:
    """
    The settings with one of them changed.

    Raises:
        ValueError: the field is not a setting of the run or of its model.
    """
    *groups, last = field.split(".")
    values = settings.to_dict()
    target = values
    for group in groups[:-1] if last.isdigit() else groups:
        if not isinstance(target.get(group), dict):
            raise ValueError(f"`{field}`: {group} is not a group of settings; groups are {_groups(target)}.")
        target = target[group]
    if not last.isdigit():
        target[last] = value
        return RunConfig.from_dict(values)
    name = groups[-1]
    entries = target.get(name)
    if entries is None and groups[:-1] == ["config"]:
        entries = getattr(model_class(settings.model_type).config_class, name, None)  # the default of the architecture
    if not isinstance(entries, (list, tuple)) or int(last) >= len(entries):
        raise ValueError(f"`{field}`: {name} is {entries!r}, which has no entry {last}.")
    target[name] = [value if index == int(last) else entry for index, entry in enumerate(entries)]
    return RunConfig.from_dict(values)


def _groups(values: dict[str, Any]) -> list[str]:
    return sorted(name for name, value in values.items() if isinstance(value, dict))


def run(arguments: argparse.Namespace) -> str:
    settings = RunConfig.load(arguments.settings, parse_overrides([f"--{item}" for item in arguments.override]))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for value in arguments.values:
        changed = with_value(settings, arguments.field, value)
        for seed in arguments.seeds:
            folder = Path(arguments.output_dir) / f"{arguments.field}_{value}" / f"seed_{seed}"
            found.setdefault(str(value), {})[str(seed)] = train_run(changed, seed, folder).validation
    first = next(iter(next(iter(found.values())).values()))
    shown = arguments.score or ("mae" if "mae" in first else "f1_weighted")
    means = [float(np.mean([scores[shown] for scores in seeds.values()])) for seeds in found.values()]
    spread = [sample_std([scores[shown] for scores in seeds.values()]) for seeds in found.values()]
    figure, axis = plt.subplots(figsize=(6, 4))
    axis.errorbar(range(len(found)), means, spread, marker="o", capsize=3)
    axis.set(title="validation", xlabel=arguments.field, xticks=range(len(found)), xticklabels=list(found))
    score_axis(axis.yaxis, shown)
    numbers = {"settings": settings.to_dict(), "field": arguments.field, "validation": found}
    written = save(Path(arguments.output_dir) / f"sensitivity_{arguments.field}", figure, numbers)
    several = len(arguments.seeds) > 1
    rows = [[value, mean, deviation if several else None] for value, mean, deviation in zip(found, means, spread)]
    return f"{table([arguments.field, shown, 'std'], rows, {shown: shown, 'std': shown})}\n{written}"
