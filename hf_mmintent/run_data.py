"""The checkpoints of a run, what training wrote beside them, and the dataset that they are scored or fitted on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from hf_mmintent.data.loading import load
from hf_mmintent.training.runs import SUMMARY_FILE, development_parts
from hf_mmintent.training.trainer import refuse_test_split


def find_checkpoints(path: str | Path) -> list[Path]:
    """The checkpoint itself, or those of all seeds below a run folder."""
    folder = Path(path)
    if (folder / "config.json").exists() or not folder.exists():
        return [folder]
    found = sorted(folder.glob("seed_*/final"), key=lambda item: int(item.parent.name.removeprefix("seed_")))
    if not found:
        raise ValueError(
            f"{folder} is neither a checkpoint nor a run folder: it has no config.json and no seed_*/final."
        )
    return found


def run_facts(checkpoint: Path) -> dict[str, Any]:
    """What training wrote beside a checkpoint; empty for one from elsewhere."""
    path = checkpoint / SUMMARY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@dataclass
class RunData:
    """
    Args:
        name, config_name: of the dataset.
        splits: its rows.
        settings: the run's data settings as far as they hold for this dataset; empty for another one.
        drop_modalities: what the run never saw, whatever the dataset.
    """

    name: str
    config_name: str | None
    splits: DatasetDict
    settings: Mapping[str, Any]
    drop_modalities: tuple[str, ...]

    def split(self, name: str) -> Dataset:
        """
        Raises:
            ValueError: there is no such split; the message lists those that there are.
        """
        if name not in self.splits:
            raise ValueError(f"{self.name} has the splits {sorted(self.splits)}: {name!r} is not among them.")
        return self.splits[name]

    def for_fitting(self, part: str, split: str | None = None) -> tuple[str, Dataset]:
        """
        Rows that something may be fitted on after training, with the name of their split.

        Args:
            part: "train", the rows that trained, or "validation", those that selected the epoch: with
                `data.development_share` these are parts of the training rows, and the validation split is what is reported.
            split: a split by name, in place of the run's.

        Raises:
            ValueError: it is a test split, or there is none of that name.
        """
        name = split or self.settings.get(f"{part}_split") or part
        share = self.settings.get("development_share") if split is None else None
        if share is not None:
            train, held = development_parts(
                self.split(self.settings["train_split"]), share, self.settings["development_seed"]
            )
            return (self.settings["train_split"], train) if part == "train" else ("development", held)
        refuse_test_split(f"{part}_split", name)
        rows = self.split(name)
        refuse_test_split(f"{part}_split", rows)
        return name, rows


def data_of(
    checkpoint: Path, dataset: str | None = None, data_dir: str | None = None, config_name: str | None = None
) -> RunData:
    """
    The dataset that a checkpoint was trained on, or another one.

    Args:
        checkpoint: folder of it.
        dataset, data_dir, config_name: in place of the run's. The run's folder and options do not apply to another dataset.

    Raises:
        ValueError: the checkpoint does not say on which dataset it was trained, and none is named.
    """
    settings = run_facts(checkpoint).get("settings", {}).get("data", {})
    name = dataset or settings.get("name")
    if name is None:
        raise ValueError(f"{checkpoint} does not say on which dataset it was trained: name one with `--dataset`.")
    stored = settings if name == settings.get("name") else {}
    config_name = config_name or stored.get("config_name")
    splits = load(
        name,
        data_dir=data_dir or stored.get("data_dir"),
        name=config_name,
        columns=stored.get("columns", "auto"),
        **stored.get("options", {}),
    )
    return RunData(name, config_name, splits, stored, tuple(settings.get("drop_modalities", ())))
