"""Rows of a dataset straight from its memory-mapped columns.

`datasets` gathers a batch by cutting one table per row and joining them; with array columns Arrow compares their types, in
Python, for every row and column, which takes longer than copying a row of features. Here the offsets of every chunk are
looked up once, and a row is a view into the file. Pages that were read are let go of from time to time, so that an epoch does
not leave the whole dataset resident.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.features.features import Array2DExtensionType

from hf_mmintent.data.row_format import FORMAT, chunk_arrays
from hf_mmintent.memory import release_mapped_files

_RELEASE_AFTER = (
    128 << 20
)  # bytes of features handed out between two calls that let go of the pages they were read from


class RowReader:
    """
    A map-style dataset for a `DataLoader`, with the rows that `dataset` gives under the package's row format.

    Args:
        dataset: rows, also a selection or a shuffle of them.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        table = dataset.data.table
        names = dataset.format["columns"]
        self.columns = {name: _Column(table[name]) for name in table.column_names if name in names}
        indices = dataset._indices
        self.order = None if indices is None else indices.column(0).to_numpy().astype(np.int64)  # from uint64
        self._files = [file["filename"] for file in dataset.cache_files]
        self._given = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows at these positions, in this order."""
        if self._given > _RELEASE_AFTER:  # before the next rows: those of the last call were used since
            release_mapped_files(self._files)
            self._given = 0
        wanted = np.asarray(indices, np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {list(indices)} are asked of a dataset of {len(self)}.")
        places = wanted if self.order is None else self.order[wanted]
        values = {name: column.take(places) for name, column in self.columns.items()}
        self._given += sum(item.nbytes for column in values.values() for item in column if isinstance(item, np.ndarray))
        return [dict(zip(values, row)) for row in zip(*values.values())]

    def __getstate__(self) -> Dataset:  # a worker that is not forked opens the files itself
        return self.dataset

    def __setstate__(self, dataset: Dataset) -> None:
        self.__init__(dataset)  # type: ignore[misc]


class _Column:
    """One column: its chunks, where each begins, and for features the views of the chunks that were read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.chunks = column.chunks
        self.starts = np.cumsum([0, *map(len, self.chunks)])
        self.width = column.type.shape[1] if isinstance(column.type, Array2DExtensionType) else None
        self.views: dict[int, Any] = {}

    def take(self, places: np.ndarray) -> list[Any]:
        homes = np.searchsorted(self.starts, places, side="right") - 1
        inner = (places - self.starts[homes]).tolist()
        if self.width is None:
            return [self.chunks[home][place].as_py() for home, place in zip(homes.tolist(), inner)]
        return [self._view(home)(place) for home, place in zip(homes.tolist(), inner)]

    def _view(self, home: int) -> Any:
        if home not in self.views:
            self.views[home] = chunk_arrays(self.chunks[home].storage, self.width)
        return self.views[home]


def direct(rows: Any) -> Any:
    """A [`RowReader`] of a dataset under the package's row format; anything else as it is."""
    plain = isinstance(rows, Dataset) and rows.format["type"] == FORMAT and not rows.format["format_kwargs"]
    return RowReader(rows) if plain else rows
