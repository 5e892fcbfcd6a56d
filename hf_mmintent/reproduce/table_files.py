"""What a table is: a YAML file with blocks (one per dataset) of rows (one per system), and the paper's numbers."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_mmintent.training import RunConfig

LOWER_IS_BETTER = ("mae",)
TRAINING_SPLITS = ("data.train_split", "data.validation_split")


@dataclass(frozen=True)
class Row:
    """
    One system.

    Args:
        system: name of the row.
        config: run configuration in the folder of configurations; `None` for a system that is not implemented here, of which
            only the paper's numbers are shown.
        set: single settings of the run by dotted name, over those of the block.
        paper: printed values by our key, in the paper's own units (percent where it prints percent).
        paper_std: printed deviations.
        proposed: the paper's own system; compared with the best of the others.
        measure: in place of a `config`, arguments of [`connector_savings`]: the row is measured and not trained.
        note: shown below the table.
    """

    system: str
    config: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    paper_std: dict[str, float] = field(default_factory=dict)
    proposed: bool = False
    measure: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Block:
    """
    The rows that are scored on one split of one dataset.

    Args:
        name: as the paper calls the dataset.
        columns: keys of the scores to show, in order.
        headline: the score that picks the best baseline (on the validation split) and that is tested.
        rows: the systems.
        data: name of the dataset's folder below the data folder; `None` for data that needs no files.
        files: what that folder must hold, as glob patterns; several separated by `|` are alternatives.
        needs: in words, for whoever does not have it.
        set: settings of every run of the block by dotted name.
        split: what is scored, once per run.
        cluster: column whose values are resampled as units, where samples of one unit are not independent.
        seeds: of this block, in place of the table's.
        source: paper and table, in place of the table's.
    """

    name: str
    columns: tuple[str, ...]
    headline: str
    rows: tuple[Row, ...]
    data: str | None = None
    files: tuple[str, ...] = ()
    needs: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    split: str = "test"
    cluster: str | None = None
    seeds: tuple[int, ...] | None = None
    source: str | None = None


@dataclass(frozen=True)
class Table:
    """
    A published table, or one of ours.

    Args:
        name: of the file, without ending.
        title: one line.
        source: paper and table.
        blocks: one per dataset.
        seeds: one run each.
        notes: what a reader of the numbers must know.
        configs: folder of the run configurations.
    """

    name: str
    title: str
    source: str
    blocks: tuple[Block, ...]
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    configs: Path = Path("examples/configs")


def with_settings(table: Table, settings: Mapping[str, Any]) -> Table:
    """
    The table with single settings of every run by dotted name, over those of its rows: a backbone in a folder, for instance.

    Raises:
        ValueError: a setting is unknown, or makes a run train or select on the split that is scored.
    """
    blocks = tuple(
        dataclasses.replace(
            block,
            rows=tuple(
                row if row.config is None else dataclasses.replace(row, set={**row.set, **settings})
                for row in block.rows
            ),
        )
        for block in table.blocks
    )
    changed = dataclasses.replace(table, blocks=blocks)
    _check_table(changed)
    return changed


def list_tables(folder: str | Path) -> list[str]:
    """Names of the tables in a folder."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def load_table(name_or_path: str | Path, folder: str | Path = "examples") -> Table:
    """
    Read a table.

    Args:
        name_or_path: name of a file in `folder/tables`, or a path.
        folder: with `tables` and `configs`.

    Raises:
        ValueError: there is no such table; a field is unknown or missing; a name occurs twice; a run would train or select on
            the split that is scored.
    """
    path, folder = Path(name_or_path), Path(folder)
    if path.suffix != ".yaml":
        path = folder / "tables" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no table {str(name_or_path)!r}: tables are {list_tables(folder / 'tables')}.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    blocks = tuple(_block(item) for item in values.pop("blocks", ()))
    table = _make(Table, {**values, "name": path.stem, "blocks": blocks, "configs": folder / "configs"}, path.name)
    _check_table(table)
    return table


def run_settings(table: Table, block: Block, row: Row, seeds: tuple[int, ...] = (0,)) -> RunConfig:
    """
    The run configuration of a row, without its data folder.

    Raises:
        ValueError: the row has none, or a setting is unknown.
    """
    if row.config is None:
        raise ValueError(f"{row.system!r} has no `config`: only the paper's numbers of it are known.")
    return RunConfig.load(table.configs / row.config, {**block.set, **row.set, "seeds": list(seeds)})


def slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("+", "p")).strip("_")


def _block(values: Mapping[str, Any]) -> Block:
    where = f"block {values.get('name')!r}"
    rows = tuple(_make(Row, item, f"{where}, row {item.get('system')!r}") for item in values.get("rows", ()))
    return _make(Block, {**values, "rows": rows}, where)


def _make(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    known = {item.name: item for item in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"{where}: unknown field `{name}`.{hint} Known: {sorted(known)}.")
    missing = [n for n, f in known.items() if n not in values and f.default is f.default_factory is dataclasses.MISSING]
    if missing:
        raise ValueError(f"{where} lacks {missing}.")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _check_table(table: Table) -> None:
    if not table.blocks:
        raise ValueError(f"{table.name} has no `blocks`.")
    _check_unique("blocks", [slug(block.name) for block in table.blocks])
    for block in table.blocks:
        _check_unique(f"rows of {block.name}", [slug(row.system) for row in block.rows])
        if block.headline not in block.columns:
            raise ValueError(
                f"`headline` {block.headline!r} of {block.name} is not in `columns` {list(block.columns)}."
            )
        for row in block.rows:
            unknown = sorted(set(row.paper) - set(block.columns)) + sorted(set(row.paper_std) - set(row.paper))
            if row.measure and row.config is not None:
                raise ValueError(f"{block.name}, {row.system}: a row has a `config` or a `measure`, not both.")
            if unknown:
                raise ValueError(f"{block.name}, {row.system}: the paper's {unknown} are not in `columns`.")
            if row.config is not None:
                _check_splits(run_settings(table, block, row), block, row)


def _check_unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: {twice} would share a folder, name them apart.")


def _check_splits(run: RunConfig, block: Block, row: Row) -> None:
    """The split that is scored is none that training or selection reads."""
    read = [run.data.train_split]
    if run.data.development_share is None:
        read.append(run.data.validation_split)
    if block.split in read:
        raise ValueError(
            f"{block.name}, {row.system}: the split {block.split!r} is scored, but training reads {read}. Score another one, "
            "or set `data.development_share` to choose epochs on a part of the training rows."
        )
