"""What `examples/reproduce.py` reads and lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .table_files import list_tables, load_table


def parse_seeds(words: Sequence[str] | None) -> tuple[int, ...] | None:
    """
    `["0..2", "7"]` -> `(0, 1, 2, 7)`; `None` when nothing is given.

    Raises:
        ValueError: a word is neither a number nor a range, or a seed is named twice.
    """
    if not words:
        return None
    seeds: list[int] = []
    for word in words:
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", word)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise ValueError(f"`--seeds` {word!r}: write numbers such as `0 1 2`, or a range such as `0..9`.")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"`--seeds` {list(words)} names a seed twice.")
    return tuple(seeds)


def parse_data(words: Sequence[str]) -> dict[str, Path]:
    """
    `["/data", "mintrec=/other"]` -> `{"": Path("/data"), "mintrec": Path("/other")}`.

    Raises:
        ValueError: two folders without a name, or a folder that does not exist.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        name, path = (name, path) if separator else ("", word)
        if name in found:
            raise ValueError(
                f"`--data` names two folders for {name or 'everything'}: give NAME=PATH for single datasets."
            )
        found[name] = Path(path).expanduser().resolve()
        if not found[name].is_dir():
            raise ValueError(f"`--data` {word}: {found[name]} is not a folder.")
    return found


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """
    `["backbones.text=/models/minilm", "config.dropout=0.1"]` -> the same as a mapping; values are YAML.

    Raises:
        ValueError: a word has no `=`.
    """
    pairs = [word.partition("=") for word in words]
    wrong = [name for name, separator, _ in pairs if not separator]
    if wrong:
        raise ValueError(f"`--set` {wrong}: write NAME=VALUE, such as `backbones.text=/models/minilm`.")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def list_text(folder: Path) -> str:
    """Every table with its blocks, rows and the files that it needs."""
    lines = []
    for name in list_tables(folder / "tables"):
        table = load_table(name, folder)
        lines.append(f"{name}: {table.title} ({len(table.seeds)} seeds)")
        for block in table.blocks:
            run = sum(row.config is not None for row in block.rows)
            needed = "" if block.data is None else f"; {block.data}/: {', '.join(block.files)}"
            lines.append(f"    {block.name}: {run} of {len(block.rows)} systems can be run{needed}")
    return "\n".join(lines)
