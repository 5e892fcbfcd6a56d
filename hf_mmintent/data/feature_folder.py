"""A folder of extracted features: where its shards lie, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, NamedSplit, concatenate_datasets

from hf_mmintent.data.checks import DataError, read_json
from hf_mmintent.data.row_format import FORMAT

SETTINGS_FILE = "extraction.json"


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of a split, and their files."""

    split: str
    start: int
    stop: int
    table: Path
    failures: Path


def shards_of(folder: Path, sizes: Mapping[str, int], size: int) -> list[Shard]:
    """All shards of a folder, given the rows per split and per shard."""
    shards = []
    for split, rows in sizes.items():
        count = -(-rows // size)
        for index in range(count):
            name = f"{split}-{index:05d}-of-{count:05d}"
            table, failures = folder / "data" / f"{name}.arrow", folder / "failures" / f"{name}.jsonl"
            shards.append(Shard(split, index * size, min((index + 1) * size, rows), table, failures))
    return shards


def is_extraction(folder: str | Path) -> bool:
    """Whether a folder was written by `hf_mmintent.data.extraction`."""
    return (Path(folder) / SETTINGS_FILE).is_file()


def open_features(folder: str | Path, split: str | None = None) -> DatasetDict | Dataset:
    """
    The rows that `hf_mmintent.data.extraction` wrote, memory-mapped where they lie.

    Args:
        folder: of the extraction.
        split: one split; all of them when not given.

    Raises:
        ValueError: the extraction is not finished, has no such split, or a file of it is damaged.
    """
    folder = Path(folder)
    settings = read_json(folder / SETTINGS_FILE)
    if not settings.get("finished"):
        raise ValueError(f"the extraction in {folder} is not finished: give the command that began it again.")
    wanted = list(settings["splits"]) if split is None else [split]
    if unknown := set(wanted) - set(settings["splits"]):
        raise ValueError(f"{folder} has the splits {list(settings['splits'])}: {sorted(unknown)} is not among them.")
    shards = shards_of(folder, settings["splits"], settings["shard_size"])
    opened = DatasetDict()
    for name in wanted:
        parts = [_open(shard.table) for shard in shards if shard.split == name]
        info = DatasetInfo(features=parts[0].features, **settings["info"])
        rows = concatenate_datasets(parts, info=info, split=NamedSplit(name))
        opened[name] = rows.with_format(FORMAT)
    return opened if split is None else opened[split]


def _open(path: Path) -> Dataset:
    try:
        return Dataset.from_file(str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is absent or damaged: {error}. Delete it and give the command that made it again."
        ) from error
