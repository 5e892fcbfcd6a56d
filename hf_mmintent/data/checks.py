"""What every builder verifies before it yields a row, and the tables it reads them from."""

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without byte order mark; an error names the file and line that are not UTF-8."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {line} is not UTF-8: {error}.") from error
    if (place := data.find(b"\0")) >= 0:  # what a disk or a download leaves in a damaged file
        line = data.count(b"\n", 0, place) + 1
        raise DataError(f"{path} line {line} holds a NUL byte: the file is damaged.")
    return text


def whole_number(text: str, where: str, most: int | None = None) -> int:
    """
    A whole number of a table, from 0 to `most`.

    Args:
        text: As in the table.
        where: Names file, line and field in the error.
        most: The largest one.

    Raises:
        DataError: `text` is none; digits of other scripts and signs are not taken.
    """
    if not (text.isascii() and text.isdigit()) or (most is not None and int(text) > most):
        limits = "" if most is None else f" from 0 to {most}"
        raise DataError(f"{where} is {text!r}, not a whole number{limits}: this is not the official file.")
    return int(text)


def number(text: str, where: str) -> float:
    """
    A finite number of a table.

    Args:
        text: As in the table.
        where: Names file, line and field in the error.

    Raises:
        DataError: `text` is no number.
    """
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError as error:
        raise DataError(f"{where} is {text!r}, not a number.") from error
    if not math.isfinite(value):
        raise DataError(f"{where} is {text!r}, not a finite number.")
    return value


def read_table(
    path: str | Path,
    columns: Sequence[str] | int,
    delimiter: str = ",",
    quoted: bool = True,
    header: bool | None = True,
) -> list[Row]:
    """
    Read a CSV or TSV file in UTF-8, with or without byte order mark, with any line ends.

    Args:
        path: Of the table.
        columns: Names that the header must have, in this order, or the number of columns to be named by position
            (`"0"`, `"1"`, …) where headers differ between copies.
        delimiter: Between columns.
        quoted: Whether double quotes enclose fields; otherwise they are text.
        header: Whether the first line is the header. `None` where only some copies have one: the line is skipped when it
            holds the names of `columns`.

    Returns:
        One dict per line, all values strings, with the line number under `"line"` and `<path> line <number>` under
        `"source"`; one at least.

    Raises:
        DataError: Wrong header, no line but it, or a line with another number of columns.
    """
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, quoting=quoting, strict=quoted)
    try:
        lines = [(reader.line_num, line) for line in reader if line or reader.line_num == 1]
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not part of a table: {error}.") from error
    expected = [str(i) for i in range(columns)] if isinstance(columns, int) else list(columns)
    first = [name.strip() for name in lines[0][1]] if lines else []
    if header:
        if not isinstance(columns, int) and first != expected:
            raise DataError(f"{path} has the columns {first}, not {expected}: this is not the official file.")
        if len(first) != len(expected):
            raise DataError(
                f"{path} has {len(first)} columns {first}, not {len(expected)}: this is not the official file."
            )
    start = 1 if header or (header is None and first == expected) else 0
    body = [(at, line) for at, line in lines[start:] if line]
    if not body:
        raise DataError(f"{path} has no rows: it is truncated, or not the official file.")
    for at, line in body:
        if len(line) != len(expected):
            raise DataError(f"{path} line {at} has {len(line)} columns instead of {len(expected)}: {line[:6]}.")
    return [{**dict(zip(expected, line)), "line": at, "source": f"{path} line {at}"} for at, line in body]


def read_json(path: str | Path, kind: type = dict) -> Any:
    """
    Read a JSON file in UTF-8.

    Args:
        path: Of the file.
        kind: What its outermost value must be, `dict` or `list`.

    Raises:
        DataError: Not JSON, another or an empty outermost value, or an object with a key twice, of which JSON silently
            keeps one.
    """
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is truncated or not JSON: {error}.") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}, not a {kind.__name__}: this is not the official file.")
    if not value:
        raise DataError(f"{path} has no rows: it is not the official file.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON."""
    items = dict(pairs)
    if len(items) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise DataError(f"an object has the key {twice!r} twice: this is not the official file.")
    return items


def source(row: Row) -> str:
    """Where a row comes from, to begin an error with; empty where the builder does not say under `source`."""
    return f"{row['source']}: " if "source" in row else ""


def check_ids(tables: Mapping[str, Iterable[Row]]) -> None:
    """Raise unless every row has an `id`, which occurs once over all splits."""
    seen: dict[str, str] = {}
    for split, rows in tables.items():
        for row in rows:
            key = row["id"]
            if not key.strip():
                raise DataError(f"{source(row)}a row of {split} has the empty id {key!r}.")
            if key in seen:
                where = f"twice in {split}" if seen[key] == split else f"in {seen[key]} and in {split}"
                raise DataError(
                    f"{source(row)}the id {key!r} occurs {where}: an id names one row of all splits, remove the copy."
                )
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
                    f"{source(row)}row {row['id']!r} of {split} has the label {row['label']!r}{hint}, not one of "
                    f"{list(names)}."
                )


def check_values(tables: Mapping[str, Iterable[Row]], low: float, high: float) -> None:
    """Raise unless every row's `label` is a finite number in [`low`, `high`]."""
    for split, rows in tables.items():
        for row in rows:
            if not math.isfinite(row["label"]) or not low <= row["label"] <= high:
                raise DataError(
                    f"{source(row)}row {row['id']!r} of {split} has the label {row['label']}, outside [{low}, {high}]."
                )


_collected: ContextVar[list[tuple[str, bool]] | None] = ContextVar("collected", default=None)


@contextmanager
def collect_counts() -> Iterator[list[tuple[str, bool]]]:
    """Collect what [`check_counts`] finds, with whether it would have raised, for a report of all of it."""
    collected: list[tuple[str, bool]] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


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
    if (collected := _collected.get()) is not None:
        collected.append((text, strict))
        return
    if strict:
        raise DataError(f"{name}: {text}. Check that the files are the official ones, or pass strict_counts=False.")
    logger.warning(f"{name}: {text}.")
