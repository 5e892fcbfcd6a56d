"""What a builder found in the files: collected while rows are made, logged, kept beside the rows and logged again with them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils import logging

logger = logging.get_logger(__name__)

_SHOWN = 3
SHARED = "occurs in several splits"


@dataclass
class SplitReport:
    """
    Counts of one split.

    Args:
        rows (`int`): Rows yielded.
        labels (`Counter`): Rows per label name; empty in regression.
        lengths (`dict[str, list[int]]`): Per modality the number of steps of every row that has features.
        problems (`dict[str, list[str]]`): What was found, e.g. `"audio missing"`, to the keys of the rows.
        values (`Counter`): Per modality the number of NaN and infinite values, which stay in the rows.
    """

    rows: int = 0
    labels: Counter = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    values: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.rows} rows"]
        for modality, lengths in self.lengths.items():
            low, middle, high, most = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
            parts.append(f"{modality} steps min {low}, median {middle}, 95 % {high}, max {most}")
        if self.labels:
            parts.append("labels " + ", ".join(f"{name} {count}" for name, count in self.labels.most_common()))
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """One sentence per kind of problem, with the first keys."""
        found = [f"{what} in {len(keys)} rows ({_some(keys)})" for what, keys in self.problems.items()]
        return found + [f"{count} NaN or infinite {modality} values kept" for modality, count in self.values.items()]


class BuildReport:
    """
    Counts of one build, per split.

    Args:
        name (`str`): Of the dataset and configuration, for the log.

    Attributes:
        notes (`list[str]`): What is odd about the files as a whole.
        splits (`dict[str, SplitReport]`): Filled while rows are made, or [`read`].
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.notes: list[str] = []
        self.splits: dict[str, SplitReport] = {}
        self.split = SplitReport()

    def note(self, text: str) -> None:
        """Log and keep a sentence about the files as a whole; the same one only once."""
        if text not in self.notes:
            self.notes.append(text)
            logger.warning(text)

    def begin(self, split: str) -> None:
        """Counts from here on belong to `split`."""
        self.split = self.splits[split] = SplitReport()

    def row(self, label: Any) -> None:
        """Count a row; `label` is its class name or value."""
        self.split.rows += 1
        if isinstance(label, str):
            self.split.labels[label] += 1

    def problem(self, what: str, key: str) -> None:
        """Note that `what`, e.g. `"audio missing"`, holds for the row `key`."""
        self.split.problems[what].append(key)

    def features(self, modality: str, key: str, values: np.ndarray) -> None:
        """Count the steps and the non-finite values of `values` (steps, width)."""
        self.split.lengths[modality].append(len(values))
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            self.split.values[modality] += bad
            self.problem(f"non-finite {modality}", key)

    def log(self, split: str) -> None:
        """Write the counts of `split`: numbers as information, problems as one warning."""
        report = self.splits[split]
        if report.rows:  # they are not kept with the rows
            logger.info(f"{self.name} {split}: {report}")
        if found := report.warnings():
            logger.warning(f"{self.name} {split}: {'; '.join(found)}.")

    def save(self, path: Path) -> None:
        """Keep what was found, for those who meet the rows without building them."""
        splits = {split: {"problems": part.problems, "values": part.values} for split, part in self.splits.items()}
        path.write_text(json.dumps({"notes": self.notes, "splits": splits}), encoding="utf-8")

    def repeat(self, path: Path) -> None:
        """Take and log what an earlier build found."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        for text in kept["notes"]:
            self.note(text)
        for split, found in kept["splits"].items():
            self.begin(split)
            self.split.problems.update(found["problems"])
            self.split.values.update(found["values"])
            self.log(split)


def shared_groups(
    tables: Mapping[str, Iterable[Mapping[str, Any]]], columns: Iterable[str]
) -> dict[str, dict[str, list[str]]]:
    """
    Groups that occur in more than one split: a model can recognise them instead of solving the task.

    Args:
        tables: Rows per split.
        columns: Columns that name groups, e.g. `speaker` and `dialogue_id`; absent ones are skipped.

    Returns:
        Column to `"train & test"` to the shared groups, sorted; empty where nothing is shared.
    """
    shared: dict[str, dict[str, list[str]]] = {}
    for column in columns:
        groups = {split: {row[column] for row in rows if row.get(column)} for split, rows in tables.items()}
        names = list(groups)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                if both := groups[first] & groups[second]:
                    shared.setdefault(column, {})[f"{first} & {second}"] = sorted(both)
    return shared


def shared_sentences(shared: dict[str, dict[str, list[str]]]) -> list[str]:
    """One sentence per column whose groups straddle splits."""
    sentences = []
    for column, pairs in shared.items():
        text = "; ".join(f"{pair}: {len(groups)} ({_some(groups)})" for pair, groups in pairs.items())
        sentences.append(f"the same `{column}` {SHARED}, {text}.")
    return sentences


def _some(keys: list[str]) -> str:
    return ", ".join(map(str, keys[:_SHOWN])) + (", …" if len(keys) > _SHOWN else "")
