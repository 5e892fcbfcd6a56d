"""What all metrics share: an offline `evaluate.Metric` and the checks of labels and predictions."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .library import evaluate

Scores = dict[str, float]
"""One number per key. The key carries the averaging; an undefined value is NaN; `n` is the number of samples."""

TrainCounts = Mapping[int, int] | Mapping[str, int] | Sequence[int] | np.ndarray
"""Training samples per class: by class id, by label name, or as a sequence in the official label order."""


class LocalMetric(evaluate.Metric):
    """
    An `evaluate.Metric` that is instantiated directly and never asks the Hub.

    `evaluate` keeps added batches in Arrow files of a user-wide cache. One process needs no files: batches stay in
    memory, and the folder which the base class insists on is a temporary one, removed with the metric.

    Args:
        num_process (`int`, *optional*, defaults to 1): Processes that add to this metric.
        cache_dir (`str`, *optional*): Folder for the Arrow files. Required, and shared, with several processes.
        **kwargs: `process_id`, `experiment_id` and the other arguments of `evaluate.Metric`.

    Raises:
        ValueError: `num_process` is above 1 and no `cache_dir` is given.
    """

    def __init__(self, *, num_process: int = 1, cache_dir: str | None = None, **kwargs: Any) -> None:
        if cache_dir is None:
            if num_process > 1:
                raise ValueError(
                    f"`cache_dir` is None but `num_process` is {num_process}: pass a folder that all processes share, "
                    f"or gather the predictions first and use one process."
                )
            cache_dir = tempfile.mkdtemp(prefix="hf_mmintent_metric_")
            # errors are ignored because at interpreter exit the whole temporary folder may already be gone
            weakref.finalize(self, shutil.rmtree, cache_dir, ignore_errors=True)
        kwargs.setdefault("keep_in_memory", num_process == 1)
        super().__init__(num_process=num_process, cache_dir=cache_dir, **kwargs)


def check_same_length(**columns: Any) -> int:
    """Return the common length of the named columns; raise `ValueError` with all lengths when they differ."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The number of samples differs: {lengths}. Every column needs one entry per sample.")
    return next(iter(lengths.values()))


def class_ids(name: str, values: ArrayLike, num_classes: int | None = None, allow_failure: bool = False) -> np.ndarray:
    """
    Check a column of class ids and return it as int64 of shape `(n,)`.

    Args:
        name: What to call the column in an error.
        values: Integers of shape `(n,)`.
        num_classes: When given, ids must be below it.
        allow_failure: Also accept −1, "no class could be read", which counts as wrong.

    Raises:
        ValueError: Not one-dimensional, not integers, or an id outside the range.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"`{name}` has shape {array.shape}: pass one class id per sample, shape (n,).")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`{name}` has dtype {array.dtype}: pass integer class ids (take the argmax of scores first).")
    low = -1 if allow_failure else 0
    high = np.inf if num_classes is None else num_classes - 1
    wrong = array[(array < low) | (array > high)]
    if wrong.size:
        raise ValueError(f"`{name}` holds the class id {int(wrong[0])}, outside {low}…{high}: check the label order.")
    return array.astype(np.int64)


def finite_floats(name: str, values: ArrayLike, ndim: int = 1) -> np.ndarray:
    """
    Check a column of real numbers and return it as float64 of shape `(n,)` (`ndim=1`) or `(n, C)` (`ndim=2`).

    A comparison with NaN is False, so a diverged model would silently be scored as "negative": it is refused here.

    Raises:
        ValueError: Wrong number of dimensions, or an entry that is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if ndim == 1:
        array = array.reshape(-1)
    elif array.ndim != ndim:
        raise ValueError(f"`{name}` has shape {array.shape} but {ndim} dimensions are needed, (samples, classes).")
    broken = int((~np.isfinite(array)).sum())
    if broken:
        raise ValueError(
            f"`{name}` holds {broken} of {array.size} values that are NaN or infinite: the model diverged."
        )
    return array


def counts_by_class(train_counts: TrainCounts, label_names: Sequence[str] | None = None) -> np.ndarray:
    """
    Bring training counts into the official label order.

    Args:
        train_counts: Counts by id, by name or in label order. A class missing from a mapping has 0 samples.
        label_names: The official order; needed for counts by name.

    Returns:
        int64 array of shape `(classes,)`.

    Raises:
        ValueError: An unknown name or id, names without `label_names`, or another number of classes.
    """
    if not isinstance(train_counts, Mapping):
        counts = np.asarray(train_counts, dtype=np.int64)
        if label_names is not None and len(counts) != len(label_names):
            raise ValueError(f"`train_counts` has {len(counts)} entries but there are {len(label_names)} label names.")
        return counts
    if label_names is not None:
        ids: dict[Any, int] = {name: index for index, name in enumerate(label_names)}
        ids.update({index: index for index in range(len(label_names))})
        size = len(label_names)
    else:
        names = [key for key in train_counts if isinstance(key, str)]
        if names:
            raise ValueError(f"`train_counts` names the class {names[0]!r} but `label_names` is None: pass the order.")
        size = max((int(key) for key in train_counts), default=-1) + 1
        ids = {index: index for index in range(size)}
    counts = np.zeros(size, dtype=np.int64)
    for key, count in train_counts.items():
        if key not in ids:
            raise ValueError(f"`train_counts` holds the class {key!r}, which is not one of the {size} known classes.")
        counts[ids[key]] = count
    return counts
