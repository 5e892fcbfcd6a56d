"""What all analyses need: checkpoints with their rows, forward passes with a bar, results on disk."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no display

import numpy as np
import torch
from datasets import Dataset
from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.evaluation import open_checkpoint, with_features
from hf_mmintent.metrics import build_compute_metrics, format_score
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.metrics.tables import NOT_AVAILABLE, is_percent
from hf_mmintent.run_data import data_of, find_checkpoints

Batch = dict[str, torch.Tensor]


@dataclass
class Subject:
    """A checkpoint with the rows it is looked at on."""

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    rows: Dataset

    @property
    def regression(self) -> bool:
        return self.model.config.problem_type == "regression"

    def labels(self) -> np.ndarray:
        """Targets of the rows as the model encodes them."""
        names = getattr(self.rows.features["label"], "names", None)
        return self.processor.encode_labels([names[i] for i in self.rows["label"]] if names else self.rows["label"])


def add_checkpoint_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """The arguments with which [`open_subjects`] is called."""
    kind: dict[str, Any] = {"nargs": "+"} if several else {}
    parser.add_argument("checkpoint", help="checkpoint, or run folder with seeds", **kind)
    parser.add_argument(
        "--split", default="validation", help="the papers show the test split: ask for it once, at the end"
    )
    parser.add_argument("--dataset", help="dataset to look at; the one of the run by default")
    parser.add_argument("--data_dir", help="folder with the dataset's files")
    parser.add_argument("--config_name", help="configuration of the dataset")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--output_dir", default="runs/analysis")


def run_name(checkpoint: str | Path) -> str:
    """What a checkpoint is called in pictures and file names: its run and seed, where its folder says no more than `final`."""
    path = Path(checkpoint)
    if path.name != "final":
        return path.name
    return f"{path.parent.parent.name}_{path.parent.name}" if path.parent.name.startswith("seed_") else path.parent.name


def open_subject(
    checkpoint: str | Path, arguments: argparse.Namespace, name: str | None = None, media: bool = False
) -> Subject:
    """
    The checkpoint (the first seed of a run folder) and the rows of `arguments.split`.

    With `media` the rows keep their clips, even if the model makes features of them.
    """
    path = find_checkpoints(checkpoint)[0]
    rows = dataset_rows(path, arguments, arguments.split)
    model, processor = open_checkpoint(path)
    return Subject(name or run_name(checkpoint), model, processor, rows if media else with_features(rows, model))


def dataset_rows(checkpoint: Path, arguments: argparse.Namespace, split: str) -> Dataset:
    """Rows of a split of the dataset that the command line names, or else of the one that the checkpoint was trained on."""
    return data_of(checkpoint, arguments.dataset, arguments.data_dir, arguments.config_name).split(split)


def fitting_rows(checkpoint: Path, arguments: argparse.Namespace, split: str | None = None) -> tuple[str, Dataset]:
    """Name and rows of what selected the epoch, or of another split, to fit something on; see [`RunData.for_fitting`]."""
    data = data_of(checkpoint, arguments.dataset, arguments.data_dir, arguments.config_name)
    return data.for_fitting("validation", split)


def with_rows(subject: Subject, rows: Dataset) -> Subject:
    """The same checkpoint with other rows."""
    return Subject(subject.name, subject.model, subject.processor, with_features(rows, subject.model))


def open_subjects(arguments: argparse.Namespace) -> list[Subject]:
    """One [`Subject`] per checkpoint of the command line; those of one name are numbered."""
    subjects = [open_subject(checkpoint, arguments) for checkpoint in arguments.checkpoint]
    names = [subject.name for subject in subjects]
    for index, subject in enumerate(subjects):
        if names.count(subject.name) > 1:
            subject.name = f"{subject.name} ({index})"
    return subjects


@torch.no_grad()
def outputs(
    subject: Subject, batch_size: int, progress: str, change: Callable[[Batch], Batch] | None = None, **kwargs: Any
) -> Iterator[Any]:
    """
    Model outputs batch by batch, in the order of the rows.

    Args:
        subject: what to run.
        batch_size: rows per pass.
        progress: text beside the bar.
        change: applied to every batch before the model sees it.
        kwargs: further arguments of `forward`.
    """
    loader = DataLoader(subject.rows, batch_size=batch_size, collate_fn=MultimodalCollator(subject.processor))
    for batch in tqdm(loader, desc=progress, leave=False):
        batch.pop("labels", None)
        batch = {name: value.to(subject.model.device) for name, value in batch.items()}
        yield subject.model(**(change(batch) if change is not None else batch), **kwargs)


def gather(found: Iterator[Any], *names: str) -> dict[str, np.ndarray]:
    """
    The named tensors of all batches, joined along the samples.

    Raises:
        ValueError: the model gives no such output, at all or with its settings.
    """
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for out in found:
        for name in names:
            if name not in out:
                raise ValueError(
                    f"this analysis looks at `{name}`, which {type(out).__name__} of this checkpoint lacks; it has {list(out)}."
                )
            parts[name].append(out[name].float().cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def scores(subject: Subject, logits: np.ndarray) -> dict[str, float]:
    """All scores of these logits on the subject's rows."""
    compute = build_compute_metrics(subject.model.config.problem_type, subject.processor.label_names, None)
    return compute(EvalPrediction(logits, subject.labels()))


def headline(subject: Subject) -> str:
    """The score that a figure shows."""
    return "mae" if subject.regression else "accuracy"


def with_ending(stem: str | Path, ending: str) -> Path:
    """The stem and the ending; a point in the stem, of a run's or a setting's name, stays, unlike by `with_suffix`."""
    return Path(f"{stem}{ending}")


def save(stem: str | Path, figure: Figure, numbers: dict[str, Any]) -> str:
    """Write `<stem>.png` and `<stem>.json`; returns a line that names both."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(with_ending(stem, ".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)
    with atomic_path(with_ending(stem, ".json")) as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return f"{with_ending(stem, '.png')}  {with_ending(stem, '.json')}"


def save_tables(
    stem: str | Path, tables: dict[str, tuple[list[str], list[list[Any]]]], scores: Mapping[str, str] | None = None
) -> str:
    """
    Write `<stem>.md`, every table under its title, and `<stem>.csv`, every row with its title in front and numbers in full.

    Args:
        stem: path without ending.
        tables: title -> (names of the columns, rows); the columns of all make up those of the CSV file.
        scores: see [`table`].

    Returns:
        A line that names both.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"**{title}**\n\n{table(columns, rows, scores)}" for title, (columns, rows) in tables.items()]
    with atomic_path(with_ending(stem, ".md")) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(name for columns, _ in tables.values() for name in columns))
    with atomic_path(with_ending(stem, ".csv")) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["table", *names], restval="")
        writer.writeheader()
        for title, (columns, rows) in tables.items():
            writer.writerows({"table": title, **dict(zip(columns, row, strict=True))} for row in rows)
    return f"{with_ending(stem, '.md')}  {with_ending(stem, '.csv')}"


def table(columns: list[str], rows: list[list[Any]], scores: Mapping[str, str] | None = None) -> str:
    """
    A Markdown table; numbers with four digits, `n/a` for an undefined or absent one.

    Args:
        columns: their names.
        rows: cells, as many as columns.
        scores: column -> key of the score that it holds, shown as every table shows that score (`71.30` for 0.713).
    """
    cells = [[_shown(cell, (scores or {}).get(name)) for name, cell in zip(columns, row, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *cells])


def _shown(cell: Any, key: str | None) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return NOT_AVAILABLE
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.4f}" if key is None else format_score(key, cell)


def score_axis(axis: Axis, key: str) -> None:
    """Name an axis of scores (fractions) and show it as tables do, in percent where they are."""
    axis.set_label_text(f"{key} (%)" if is_percent(key) else key)
    if is_percent(key):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def sample_std(values: Sequence[float]) -> float:
    """Standard deviation over runs or draws (n − 1), 0 for a single one: the length of an error bar."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
