"""
Saved predictions: the file from which every score can be computed again, and two systems compared sample by sample.

One row per sample: `id`, `label`, `prediction`, `scores` (or null), `seed`, and further columns such as `dialogue_id`.
`.jsonl` and `.parquet` hold the same rows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from .base import check_same_length
from .files import atomic_path

COLUMNS = ("id", "label", "prediction", "scores", "seed")


@dataclass(frozen=True)
class Predictions:
    """
    What one run said about one split.

    Args:
        ids: Unique sample ids, one per sample. Padding of the last distributed batch would repeat ids: refused.
        labels: Shape `(n,)`: class ids, real numbers or texts.
        predictions: Shape `(n,)`, of the same kind; class id −1 where none could be read.
        seed: Seed of the run.
        scores: Logits or probabilities of shape `(n, classes)`, or None.
        columns: Further columns of n entries, for example `{"dialogue_id": [...]}` for a clustered bootstrap.

    Raises:
        ValueError: Lengths differ, an id occurs twice, or a further column has a reserved name.
    """

    ids: Sequence[str]
    labels: np.ndarray
    predictions: np.ndarray
    seed: int
    scores: np.ndarray | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", [str(identifier) for identifier in self.ids])
        object.__setattr__(self, "labels", np.asarray(self.labels))
        object.__setattr__(self, "predictions", np.asarray(self.predictions))
        reserved = sorted(set(self.columns) & set(COLUMNS))
        if reserved:
            raise ValueError(f"`columns` holds {reserved}, which are names of the file itself: rename them.")
        lengths: dict[str, Any] = {"ids": self.ids, "labels": self.labels, "predictions": self.predictions}
        if self.scores is not None:
            object.__setattr__(self, "scores", np.asarray(self.scores))
            lengths["scores"] = self.scores
        check_same_length(**lengths, **self.columns)
        if len(set(self.ids)) != len(self.ids):
            seen: set[str] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise ValueError(
                f"{len(self.ids)} rows hold {len(set(self.ids))} ids, {twice!r} more than once: remove it from the data, or, "
                f"with several processes, gather with `accelerator.gather_for_metrics`, which drops padding."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def aligned_to(self, ids: Sequence[str]) -> "Predictions":
        """
        The same rows in the order of `ids`.

        Raises:
            ValueError: The two sets of ids differ.
        """
        position = {identifier: index for index, identifier in enumerate(self.ids)}
        missing = [i for i in ids if i not in position]
        if missing or len(ids) != len(self.ids):
            extra = [i for i in self.ids if i not in set(ids)]
            raise ValueError(
                f"The systems were scored on different samples: {len(missing)} ids are missing (first: "
                f"{missing[:1]}), {len(extra)} are additional (first: {extra[:1]}). Compare on the same split."
            )
        order = np.array([position[i] for i in ids], dtype=np.int64)
        return Predictions(
            ids=list(ids),
            labels=self.labels[order],
            predictions=self.predictions[order],
            seed=self.seed,
            scores=None if self.scores is None else self.scores[order],
            columns={name: [values[i] for i in order] for name, values in self.columns.items()},
        )

    def _table(self) -> dict[str, list[Any]]:
        scores = [None] * len(self) if self.scores is None else self.scores.tolist()
        return {
            "id": list(self.ids),
            "label": self.labels.tolist(),
            "prediction": self.predictions.tolist(),
            "scores": scores,
            "seed": [self.seed] * len(self),
            **self.columns,
        }

    def save(self, path: str | Path) -> None:
        """Write `.jsonl` or `.parquet`, all or nothing. Values that are NaN or infinite are refused."""
        kind = _kind(path)
        table = self._table()
        for name in ("label", "prediction", "scores"):
            values = np.asarray(table[name])
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"`{name}` holds values that are NaN or infinite: the model diverged.")
        with atomic_path(path) as temporary:
            if kind == ".parquet":
                pa.parquet.write_table(pa.table(table), temporary)
            else:
                with temporary.open("w", encoding="utf-8") as file:
                    for row in zip(*table.values()):
                        file.write(json.dumps(dict(zip(table, row)), ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """
        Read a file written by [`Predictions.save`].

        Raises:
            ValueError: Another file extension, a missing column, no row, or rows of several seeds.
        """
        if _kind(path) == ".parquet":
            table = pa.parquet.read_table(path).to_pydict()
        else:
            with Path(path).open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in file if line.strip()]
            names = list(rows[0]) if rows else []
            if any(list(row) != names for row in rows):
                raise ValueError(f"The rows of {Path(path).name} do not all have the columns {names}.")
            table = {name: [row[name] for row in rows] for name in names}
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            raise ValueError(f"{Path(path).name} lacks the columns {missing}: it needs {list(COLUMNS)}.")
        seeds = set(table["seed"])
        if len(seeds) != 1:
            raise ValueError(f"{Path(path).name} holds the seeds {sorted(seeds)}: write one file per run.")
        scores = table["scores"]
        return cls(
            ids=table["id"],
            labels=np.asarray(table["label"]),
            predictions=np.asarray(table["prediction"]),
            seed=seeds.pop(),
            scores=None if scores[0] is None else np.asarray(scores, dtype=np.float64),
            columns={name: values for name, values in table.items() if name not in COLUMNS},
        )


def _kind(path: str | Path) -> str:
    suffix = Path(path).suffix
    if suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"The predictions file is named {Path(path).name!r}: it must end in .jsonl or .parquet.")
    return suffix
