"""Rows of a plain folder of clips: one row per media file, with text and labels from a table where there is one."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, NamedSplit, Value

from hf_mmintent.data.checks import DataError, read_text
from hf_mmintent.data.row_format import FORMAT

SOUND = {".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac", ".opus"}
PICTURES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".mpg", ".mpeg", ".m4v"}
TABLES = ("metadata.csv", "metadata.jsonl")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


def find_clips(folder: str | Path) -> list[Path]:
    """Media files below `folder`, sorted; hidden ones are left out."""
    root = Path(folder)
    found = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SOUND | PICTURES and path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def is_clip_folder(folder: str | Path) -> bool:
    """Whether a folder holds media files and no tables of rows that `datasets` would read."""
    root = Path(folder)
    if not root.is_dir() or any(next(root.rglob(f"*{ending}"), None) for ending in (".parquet", ".arrow")):
        return False
    return bool(find_clips(root))


def clip_rows(folder: str | Path) -> DatasetDict:
    """
    Rows of a folder of clips.

    Args:
        folder: media files, at any depth. When every file lies below `train`, `validation` (also `valid`, `dev`) or
            `test`, these are the splits; otherwise everything is `train`. `metadata.csv` or `metadata.jsonl` may give,
            by `file_name` (relative to the folder), `text` and `label`: numbers, or names.

    Returns:
        `id` (the relative path without its suffix), `audio_path`, `video_path` (null for sound alone), and the table's
        `text` and `label`.

    Raises:
        DataError: no clips, two clips of one id, or a table that names other files than there are.
    """
    root = Path(folder).resolve()
    clips = find_clips(root)
    if not clips:
        raise DataError(f"{root} holds no media files ({', '.join(sorted(SOUND | PICTURES))}).")
    table = _read_table(root)
    names = {str(path.relative_to(root)) for path in clips}
    if table and set(table) != names:
        odd = sorted(set(table) ^ names)
        raise DataError(f"the table and the clips of {root} differ in {len(odd)} files, {odd[0]!r} among them.")
    rows: dict[str, list[dict[str, Any]]] = {}
    split = _split_by_folder(root, clips)
    seen: set[str] = set()
    for path in clips:
        key = str(path.relative_to(root).with_suffix(""))
        if key in seen:
            raise DataError(f"{root} holds two clips named {key}, with different suffixes: keep one.")
        seen.add(key)
        row = {"id": key, "audio_path": str(path), **table.get(str(path.relative_to(root)), {})}
        row["video_path"] = str(path) if path.suffix.lower() in PICTURES else None
        rows.setdefault(split[path], []).append(row)
    features = _features(table)
    info = DatasetInfo(features=features, description=f"Clips of the folder {root.name}")
    made = {
        name: Dataset.from_list(part, features=features, info=info, split=NamedSplit(name))
        for name, part in rows.items()
    }
    return DatasetDict(made).with_format(FORMAT)


def _split_by_folder(root: Path, clips: list[Path]) -> dict[Path, str]:
    tops = {path: path.relative_to(root).parts[0] for path in clips}
    if all(top in _SPLITS for top in tops.values()):
        return {path: _SPLITS[top] for path, top in tops.items()}
    return dict.fromkeys(clips, "train")


def _read_table(root: Path) -> dict[str, dict[str, Any]]:
    """`text` and `label` by file name."""
    path = next((root / name for name in TABLES if (root / name).is_file()), None)
    if path is None:
        return {}
    lines = _csv_lines(path) if path.suffix == ".csv" else _json_lines(path)
    kept = [name for name in ("text", "label") if lines and name in lines[0][1]]
    table: dict[str, dict[str, Any]] = {}
    for where, line in lines:
        name = line.get("file_name")
        if not isinstance(name, str) or not name or name in table or any(line.get(column) is None for column in kept):
            raise DataError(f"{where}: give `file_name` once per clip, and {kept} in every entry.")
        for column, kinds in (("text", str), ("label", (str, int, float))):
            if column in kept and not isinstance(line[column], kinds):
                what = "a text" if column == "text" else "a name or a number"
                raise DataError(f"{where}: `{column}` of {name!r} is {line[column]!r:.60}, not {what}.")
        table[name] = {column: line[column] for column in kept}
    return table


def _csv_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Where each entry is, and the entry."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [(f"{path} line {reader.line_num}", line) for line in reader]
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not part of a table: {error}.") from error


def _json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            where = f"{path} line {number}"
            try:
                entry = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(f"{where} is truncated or not JSON: {error}.") from error
            if not isinstance(entry, dict):
                raise DataError(f"{where} holds {entry!r:.60}, not an object with `file_name`.")
            lines.append((where, entry))
    return lines


def _features(table: dict[str, dict[str, Any]]) -> Features:
    columns: dict[str, Any] = {name: Value("string") for name in ("id", "audio_path", "video_path")}
    first: dict[str, Any] = next(iter(table.values()), {})
    if "text" in first:
        columns["text"] = Value("string")
    if "label" in first:
        labels = [row["label"] for row in table.values()]
        try:
            values = [float(label) for label in labels]
        except ValueError:
            columns["label"] = ClassLabel(names=sorted(set(map(str, labels))))
        else:
            bad = next((name for name, value in zip(table, values) if not math.isfinite(value)), None)
            if bad is not None:
                raise DataError(f"the table's `label` of {bad!r} is {table[bad]['label']!r}, not a finite number.")
            columns["label"] = Value("float32")
            for row, value in zip(table.values(), values, strict=True):
                row["label"] = value
    return Features(columns)
