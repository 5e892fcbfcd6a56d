"""How rows leave Arrow: Python values, and features as arrays that still lie in the memory-mapped file.

`datasets` can do neither for variable-length arrays: as Python lists a batch with one missing feature raises, and as
numpy a missing feature becomes NaN and bytes lose trailing zeros. `dataset.with_format("multimodal")` returns text as
`str`, numbers as Python numbers, features as float32 views of shape (T, D), missing ones as `None`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from datasets.features.features import Array2DExtensionType
from datasets.formatting import _register_formatter
from datasets.formatting.formatting import Formatter

FORMAT = "multimodal"


class RowFormatter(Formatter[dict, list, dict]):
    """Arrow table to rows, columns or batches of the values described above."""

    def __init__(self, features: Any = None, **kwargs: Any) -> None:
        kwargs.pop("columns", None)
        super().__init__(features=features, **kwargs)

    def format_row(self, pa_table: pa.Table) -> dict[str, Any]:
        return {name: values[0] for name, values in self.format_batch(pa_table).items()}

    def format_column(self, pa_table: pa.Table) -> list[Any]:
        return _values(pa_table.column(0))

    def format_batch(self, pa_table: pa.Table) -> dict[str, list[Any]]:
        return {name: _values(pa_table[name]) for name in pa_table.column_names}


def _values(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if not isinstance(kind, Array2DExtensionType):
        return column.to_pylist()
    # Without the extension type, which `datasets` parses anew from JSON whenever a chunk is touched.
    storage = column.cast(kind.storage_type)
    return [array for chunk in storage.chunks for array in map(chunk_arrays(chunk, kind.shape[1]), range(len(chunk)))]


def chunk_arrays(steps: pa.ListArray, width: int) -> Callable[[int], np.ndarray | None]:
    """
    Views (T, D) of one chunk, by row.

    Args:
        steps: per row a list of T lists of D numbers, back to back.
        width: D.
    """
    numbers = steps.values
    flat = numbers.values.to_numpy(zero_copy_only=False)
    bounds = steps.offsets.to_numpy()
    valid = steps.is_valid().to_numpy(zero_copy_only=False) if steps.null_count else None
    starts = numbers.offsets.to_numpy()

    def row(index: int) -> np.ndarray | None:
        if valid is not None and not valid[index]:
            return None
        low, high = bounds[index], bounds[index + 1]
        first = starts[low]
        return flat[first : first + (high - low) * width].reshape(-1, width)

    return row


def as_features(value: Any) -> np.ndarray | None:
    """
    Features of one row, however the dataset was formatted.

    Args:
        value: An array, a tensor or nested lists (T, D); `None`, or the NaN that `datasets` makes of it.

    Returns:
        The array, or `None`.
    """
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return None
    array = np.asarray(value)
    return None if array.ndim == 0 and np.isnan(array) else array


_register_formatter(RowFormatter, FORMAT)
