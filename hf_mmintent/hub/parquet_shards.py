"""Rows as Parquet shards that any version of `datasets` reads: written in batches, media inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import logging
from tqdm.auto import tqdm

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.row_format import FORMAT

logger = logging.get_logger(__name__)

MEDIA_STRUCT = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
_GROUP_BYTES = 16 << 20  # what is in memory at once, and what a stream reads at a time
_ROWS = 16


@dataclass(frozen=True)
class WrittenSplit:
    """What was written of a split: its shards, rows, and bytes in memory and on disk."""

    shards: list[Path]
    rows: int
    memory: int
    disk: int


def published_features(rows: datasets.Dataset) -> datasets.Features:
    """
    Columns of the published rows: `<m>_path` becomes the struct `<m>` of the file's bytes and name.

    A path to a folder, such as one of optical flow pictures, has no such form and is left out with a warning.
    """
    features = {}
    for name, kind in rows.features.items():
        if not is_path(name, kind):
            features[name] = kind
        elif _leads_to_folder(rows, name):
            logger.warning(f"the column `{name}` holds folders, which Parquet cannot hold: it is not published.")
        else:
            features[name.removesuffix("_path")] = MEDIA_STRUCT
    return datasets.Features(features)


def is_path(name: str, kind: object) -> bool:
    """Whether a column names media files."""
    return name.endswith("_path") and kind == datasets.Value("string")


def write_split(
    rows: datasets.Dataset, folder: Path, split: str, shard_bytes: int, root: Path | None = None
) -> WrittenSplit:
    """
    Write `<split>-00000-of-00003.parquet` and so on.

    Args:
        rows: Of the split, at least one. A few megabytes of them are in memory at a time.
        folder: Where to; it must exist.
        split: Name of the split.
        shard_bytes: A shard ends when it holds as many, uncompressed.
        root: Folder of the media; embedded files keep their name below it.

    Raises:
        DataError: A row names a file outside `root`, by a link either: it is not ours to publish.
    """
    features = published_features(rows)
    schema = features.arrow_schema
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    memory, in_shard = 0, shard_bytes
    for table in _groups(rows, features, split, root):
        if in_shard >= shard_bytes:
            if writer is not None:
                writer.close()
            parts.append(folder / f"{split}-{len(parts):05d}.parquet")
            writer, in_shard = pq.ParquetWriter(parts[-1], schema, compression="zstd"), 0
        assert writer is not None
        writer.write_table(table, row_group_size=table.num_rows)
        memory, in_shard = memory + table.nbytes, in_shard + table.nbytes
    if writer is not None:
        writer.close()
    shards = [part.with_name(f"{part.stem}-of-{len(parts):05d}.parquet") for part in parts]
    for part, shard in zip(parts, shards):
        part.rename(shard)
    return WrittenSplit(shards, len(rows), memory, sum(shard.stat().st_size for shard in shards))


def _groups(rows: datasets.Dataset, features: datasets.Features, split: str, root: Path | None) -> Iterator[pa.Table]:
    """The rows as tables of about `_GROUP_BYTES`."""
    has_media = any(is_path(name, kind) for name, kind in rows.features.items())
    waiting: list[pa.Table] = []
    size = 0
    with tqdm(total=len(rows), desc=f"write {split}") as bar:
        for table in rows.with_format("arrow").iter(1 if has_media else _ROWS):
            waiting.append(_published(table, features, root))
            size += waiting[-1].nbytes
            bar.update(table.num_rows)
            if size >= _GROUP_BYTES:
                yield pa.concat_tables(waiting)
                waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _published(table: pa.Table, features: datasets.Features, root: Path | None) -> pa.Table:
    columns = []
    for name, kind in features.items():
        if name in table.column_names:
            columns.append(table[name])
        else:
            storage = datasets.Features({name: kind}).arrow_schema.field(name).type
            files = [_embedded(path, root) for path in table[f"{name}_path"].to_pylist()]
            columns.append(pa.chunked_array([pa.array(files, storage)]))
    return pa.Table.from_arrays(columns, schema=features.arrow_schema)


def _embedded(path: str | None, root: Path | None) -> dict[str, bytes | str] | None:
    if path is None or not Path(path).is_file():  # counted as missing, and told in the card
        return None
    file = Path(path).resolve()
    if root is None or not file.is_relative_to(root.resolve()):
        raise DataError(
            f"the rows name the file {path}, which does not lie in {root or 'a folder of the dataset'}: it would be "
            f"published. Give the folder of the media as `data_dir`, without links that lead out of it."
        )
    return {"bytes": file.read_bytes(), "path": file.relative_to(root.resolve()).as_posix()}


def _leads_to_folder(rows: datasets.Dataset, column: str) -> bool:
    values = rows.select_columns([column]).with_format(FORMAT)
    first = next((row[column] for row in values if row[column] is not None), None)
    return first is not None and Path(first).is_dir()
