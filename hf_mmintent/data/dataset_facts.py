"""What the rows of a dataset hold, counted in one pass: for reports and for dataset cards."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from hf_mmintent.data.row_format import FORMAT, as_features
from hf_mmintent.modeling.media_decoding import MediaError, decode_audio, decode_video

GROUP_COLUMNS = ("speaker", "dialogue_id")
_BATCH = 32
_HEARD = 0.5  # seconds of sound that are decoded to see whether it can be


@dataclass
class SplitFacts:
    """
    Counts of one split.

    Args:
        rows (`int`): Rows.
        ids (`Counter`): Rows per id; empty without such a column.
        labels (`Counter`): Rows per class name, or per sign of a number ("negative", "zero", "positive").
        values (`list[float]`): Finite labels of a regression.
        bad_labels (`list[str]`): Ids of rows whose label is absent, no class of the column, or not finite.
        lengths (`dict[str, list[int]]`): Per modality the steps (of text the words) of every row that has it.
        missing (`dict[str, list[str]]`): Per modality the ids of the rows without it.
        non_finite (`dict[str, Counter]`): Per modality the number of "NaN", "+inf" and "-inf" values.
        widths (`dict[str, Counter]`): Per modality rows per number of values in a step.
        groups (`dict[str, Counter]`): Per column of `GROUP_COLUMNS` the rows of each speaker or video.
        texts (`dict[str, list[str]]`): Text, without case and outer blanks, to the ids of its rows.
        undecodable (`dict[str, list[str]]`): Per modality the ids of the rows whose media file has no such stream that
            decodes; filled only when asked for.
        without_any (`list[str]`): Ids of rows that have no modality at all.
    """

    rows: int = 0
    ids: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    values: list[float] = field(default_factory=list)
    bad_labels: list[str] = field(default_factory=list)
    lengths: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    missing: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    non_finite: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    widths: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    groups: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    undecodable: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    without_any: list[str] = field(default_factory=list)


@dataclass
class DatasetFacts:
    """
    Counts of all splits.

    Args:
        splits (`dict[str, SplitFacts]`): By name.
        label_names (`list[str]`, *optional*): Classes in order; `None` when the label is a number, or absent.
        columns (`dict[str, str]`): Column of every modality, e.g. `{"text": "text", "audio": "audio_features"}`.
        has_labels (`bool`): Whether there is a column `label`.
    """

    splits: dict[str, SplitFacts]
    label_names: list[str] | None
    columns: dict[str, str]
    has_labels: bool

    @property
    def modalities(self) -> list[str]:
        """Names, text first."""
        return list(self.columns)


def modality_columns(names: Sequence[str]) -> dict[str, str]:
    """Column of every modality: `text`, `<m>_features`, `<m>_path`, or embedded `audio` and `video`."""
    found = {"text": "text"} if "text" in names else {}
    for suffix in ("_features", "_path"):
        for name in names:
            if name.endswith(suffix):
                found.setdefault(name.removesuffix(suffix), name)
    for name in ("audio", "video", "flow"):
        if name in names:
            found.setdefault(name, name)
    return found


def gather_facts(splits: Mapping[str, datasets.Dataset], decode: bool | str = False) -> DatasetFacts:
    """
    Read every row once.

    Args:
        splits: Of one dataset, with the same columns.
        decode: Also decode the start of every sound and clip, or all of it for `"whole"`; needs PyAV.

    Raises:
        ValueError: The splits have different columns, or another `decode`.
    """
    if decode not in (True, False, "whole"):
        raise ValueError(f"`decode` is {decode!r}: give True for the start of every clip, or 'whole'.")
    names = {split: rows.column_names for split, rows in splits.items()}
    first = next(iter(names.values()))
    for split, columns in names.items():
        if columns != first:
            raise ValueError(f"the split {split!r} has the columns {columns}, another one {first}: they must agree.")
    columns = modality_columns(first)
    features = next(iter(splits.values())).features
    label = features.get("label")
    facts = {split: _split_facts(split, rows, columns, label, decode) for split, rows in splits.items()}
    return DatasetFacts(facts, list(label.names) if isinstance(label, datasets.ClassLabel) else None, columns,
                        label is not None)  # fmt: skip


def _split_facts(
    split: str, rows: datasets.Dataset, columns: Mapping[str, str], label: Any, decode: bool | str
) -> SplitFacts:
    facts = SplitFacts()
    rows = rows.with_format(FORMAT)
    with tqdm(total=len(rows), desc=f"check {split}", leave=False) as bar:
        for begin in range(0, len(rows), _BATCH):
            batch = rows[begin : begin + _BATCH]
            count = len(next(iter(batch.values())))
            for index in range(count):
                row = {name: values[index] for name, values in batch.items()}
                key = str(row.get("id", begin + index))
                _add(facts, row, key, columns, label)
                if decode:
                    _try_media(facts, row, key, columns, decode == "whole")
            bar.update(count)
    return facts


def _add(facts: SplitFacts, row: Mapping[str, Any], key: str, columns: Mapping[str, str], label: Any) -> None:
    facts.rows += 1
    if "id" in row:
        facts.ids[key] += 1
    if label is not None:
        _add_label(facts, row["label"], key, label)
    there = [_add_modality(facts, modality, row[column], key) for modality, column in columns.items()]
    if there and not any(there):
        facts.without_any.append(key)
    for column in GROUP_COLUMNS:
        if row.get(column):
            facts.groups[column][row[column]] += 1
    if row.get("text"):
        facts.texts[row["text"].strip().lower()].append(key)


def _add_label(facts: SplitFacts, value: Any, key: str, label: Any) -> None:
    if isinstance(label, datasets.ClassLabel):
        if value is None or not 0 <= value < label.num_classes:
            facts.bad_labels.append(key)
        else:
            facts.labels[label.names[value]] += 1
    elif isinstance(value, str):
        facts.labels[value] += 1
    elif value is None or not math.isfinite(value):
        facts.bad_labels.append(key)
    else:
        facts.values.append(float(value))
        facts.labels["negative" if value < 0 else "positive" if value > 0 else "zero"] += 1


def _add_modality(facts: SplitFacts, modality: str, value: Any, key: str) -> bool:
    """Count what a row has of a modality; returns whether it has it."""
    if isinstance(value, str) and modality == "text":
        there = bool(value.strip())
        if there:
            facts.lengths["text"].append(len(value.split()))
    elif isinstance(value, str):
        there = Path(value).exists()
    elif isinstance(value, Mapping):
        there = bool(value.get("bytes")) or bool(value.get("path") and Path(value["path"]).is_file())
    else:
        there = _add_array(facts, modality, as_features(value))
    if not there:
        facts.missing[modality].append(key)
    return there


def _try_media(facts: SplitFacts, row: Mapping[str, Any], key: str, columns: Mapping[str, str], whole: bool) -> None:
    for modality, decoder in (("audio", decode_audio), ("video", decode_video)):
        column = columns.get(modality, "")
        if column not in (modality, f"{modality}_path") or key in facts.missing.get(modality, [])[-1:]:
            continue
        options: dict[str, Any] = {"size": 16} if modality == "video" else {}
        if not whole:
            options |= {"max_frames": 1} if modality == "video" else {"end": _HEARD}
        try:
            found = decoder(row[column], **options)
        except MediaError:
            found = None
        if found is None:
            facts.undecodable[modality].append(key)


def _add_array(facts: SplitFacts, modality: str, array: np.ndarray | None) -> bool:
    if array is None or not len(array):
        return False
    facts.lengths[modality].append(len(array))
    facts.widths[modality][array.shape[1] if array.ndim == 2 else 0] += 1
    if not np.isfinite(array).all():
        kinds = {"NaN": np.isnan(array), "+inf": np.isposinf(array), "-inf": np.isneginf(array)}
        facts.non_finite[modality].update({name: int(found.sum()) for name, found in kinds.items() if found.any()})
    return True
