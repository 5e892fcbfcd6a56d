"""What every builder verifies before it yields a row, and the tables it reads them from."""

import csv
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from datasets.utils import logging

logger = logging.get_logger(__name__)

Row = dict[str, Any]


class DataError(ValueError):
    """The files are not the dataset that the builder reads; the message says where and what to do."""


def resolve_inside(folder: str | Path, relative: str | Path) -> Path:
    """
    The file that data name by a relative path, which may not lead out of `folder`, by `..` or by a link either.

    Args:
        folder: Given by the user; it may be a link itself.
        relative: Read from the data, with `/` between parts.

    Raises:
        DataError: The path is absolute or leads outside.
    """
    text = str(relative)
    windows = PureWindowsPath(text)
    parts = {*PurePosixPath(text).parts, *windows.parts}
    root = Path(folder).resolve()
    if not text or "\0" in text or ".." in parts or windows.drive or windows.root or PurePosixPath(text).is_absolute():
        raise DataError(
            f"the data name the file {text!r}, which does not lie inside {root}: the files are not trustworthy."
        )
    path = (root / text).resolve()
    if not path.is_relative_to(root):
        raise DataError(
            f"the data name the file {text!r}, a link out of {root} to {path}: copy the file into the folder."
        )
    return path


def find_file(folder: str | Path, *candidates: str) -> Path:
    """The first of the official places of a file that exists; an error names them all."""
    for candidate in candidates:
        if (Path(folder) / candidate).is_file():
            return Path(folder) / candidate
    places = " or ".join(str(Path(folder) / candidate) for candidate in candidates)
    raise FileNotFoundError(f"{places} does not exist: `data_dir` is the folder that holds the official files.")


def read_table(path: str | Path, columns: Sequence[str] | int, delimiter: str = ",", quoted: bool = True) -> list[Row]:
    """
    Read a CSV or TSV file in UTF-8, with or without byte order mark, with any line ends.

    Args:
        path: Of the table; its first line is the header.
        columns: Names that the header must have, in this order, or the number of columns to be named by position
            (`"0"`, `"1"`, …) where headers differ between copies.
        delimiter: Between columns.
        quoted: Whether double quotes enclose fields; otherwise they are text.

    Returns:
        One dict per line, all values strings, with the line number under `"line"`.

    Raises:
        DataError: Wrong header, or a line with another number of columns.
    """
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=quoted)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if line]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is not a table in UTF-8: {error}.") from error
    expected = [str(i) for i in range(columns)] if isinstance(columns, int) else list(columns)
    if not isinstance(columns, int) and header != expected:
        raise DataError(f"{path} has the columns {header}, not {expected}: this is not the official file.")
    if len(header) != len(expected):
        raise DataError(
            f"{path} has {len(header)} columns {header}, not {len(expected)}: this is not the official file."
        )
    for number, line in lines:
        if len(line) != len(expected):
            raise DataError(f"{path} line {number} has {len(line)} columns instead of {len(expected)}: {line[:6]}.")
    return [{**dict(zip(expected, line)), "line": number} for number, line in lines]


def check_ids(tables: Mapping[str, Iterable[Row]]) -> None:
    """Raise unless every `id` occurs once over all splits."""
    seen: dict[str, str] = {}
    for split, rows in tables.items():
        for row in rows:
            key = row["id"]
            if key in seen:
                where = f"twice in {split}" if seen[key] == split else f"in {seen[key]} and in {split}"
                raise DataError(f"the id {key!r} occurs {where}: ids are unique over all splits in the official files.")
            seen[key] = split


def check_labels(tables: Mapping[str, Iterable[Row]], names: Sequence[str]) -> None:
    """Raise unless every row's `label` is one of `names`."""
    known = set(names)
    for split, rows in tables.items():
        for row in rows:
            if row["label"] not in known:
                close = difflib.get_close_matches(str(row["label"]), names, 1, 0.5)
                hint = f" (nearest: {close[0]!r})" if close else ""
                raise DataError(
                    f"row {row['id']!r} of {split} has the label {row['label']!r}{hint}, not one of {list(names)}."
                )


def check_values(tables: Mapping[str, Iterable[Row]], low: float, high: float) -> None:
    """Raise unless every row's `label` is a finite number in [`low`, `high`]."""
    for split, rows in tables.items():
        for row in rows:
            if not math.isfinite(row["label"]) or not low <= row["label"] <= high:
                raise DataError(f"row {row['id']!r} of {split} has the label {row['label']}, outside [{low}, {high}].")


def check_counts(found: Mapping[str, int], expected: Mapping[str, int], strict: bool, name: str) -> None:
    """
    Compare the rows per split with the published sizes.

    Args:
        found: Rows per split.
        expected: Sizes to be met; splits not named are not compared.
        strict: Raise on a difference; otherwise warn, for subsets and for sizes that were never verified.
        name: Of the dataset.
    """
    wrong = {split: (found.get(split, 0), size) for split, size in expected.items() if found.get(split, 0) != size}
    if not wrong:
        return
    text = ", ".join(f"{split} has {rows} rows instead of {size}" for split, (rows, size) in wrong.items())
    if strict:
        raise DataError(f"{name}: {text}. Check that the files are the official ones, or pass strict_counts=False.")
    logger.warning(f"{name}: {text}.")
