"""Rows of a dataset to a batch of model inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.processing_utils import ProcessorMixin

MEDIA_COLUMNS = {"audio": ("audio_path", "audio"), "video": ("video_path", "video")}


@dataclass
class MultimodalCollator:
    """
    Calls the processor on the columns of a list of rows.

    Args:
        processor: of the model.
        training: ask for the labelled text view where the processor has one, and apply `modality_dropout`.
        modality_dropout: probability of hiding each modality of a training row; one always stays.
        drop_modalities: hidden in every row.
        label_column: column with the target.
        seed: of the modality dropout.
    """

    processor: ProcessorMixin
    training: bool = False
    modality_dropout: float = 0.0
    drop_modalities: tuple[str, ...] = ()
    label_column: str = "label"
    seed: int = 0
    _generator: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        unknown = set(self.drop_modalities) - set(self.processor.modalities)
        if unknown:
            raise ValueError(f"`drop_modalities` names {sorted(unknown)}: the processor has {self.processor.modalities}.")
        if set(self.drop_modalities) == set(self.processor.modalities):
            raise ValueError(f"`drop_modalities` = {list(self.drop_modalities)} leaves no modality.")
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(f"`modality_dropout` is {self.modality_dropout}: choose a value in [0, 1).")
        self._generator = np.random.default_rng(self.seed)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        columns = {name: self._column(rows, name) for name in self.processor.modalities if name not in self.drop_modalities}
        if self.training and self.modality_dropout > 0:
            self._hide(columns, len(rows))
        inputs: dict[str, Any] = {}
        for key, values in columns.values():
            if any(value is not None for value in values):
                inputs[key] = values
        labels = [row[self.label_column] for row in rows] if self.label_column in rows[0] else None
        for name in self.processor.extra_columns:
            inputs[name] = [row[name] for row in rows]
        if "audio" in inputs or "video" in inputs:
            for name in ("start_time", "end_time"):
                if name in rows[0]:
                    inputs[name] = [row[name] for row in rows]
        if self.training and self.processor.has_labelled_view:
            inputs["return_labelled_view"] = True
        return dict(self.processor(labels=labels, **inputs))

    def _column(self, rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, list[Any]]:
        """Keyword of the processor and one value per row: text, features where there are any, or raw media."""
        if name == "text":
            return "text", [row.get("text") for row in rows]
        if f"{name}_features" in rows[0]:
            return f"{name}_features", [_array_or_none(row[f"{name}_features"]) for row in rows]
        for column in MEDIA_COLUMNS.get(name, ()):
            if column in rows[0]:
                return name, [row[column] for row in rows]
        return f"{name}_features", [None] * len(rows)

    def _hide(self, columns: dict[str, tuple[str, list[Any]]], count: int) -> None:
        """Modality dropout, in place; a row never loses its last modality."""
        for row in range(count):
            there = [name for name, (_, values) in columns.items() if values[row] is not None]
            hidden = [name for name in there if self._generator.random() < self.modality_dropout]
            if len(hidden) == len(there) and hidden:
                hidden.remove(hidden[self._generator.integers(len(hidden))])
            for name in hidden:
                columns[name][1][row] = None


def _array_or_none(value: Any) -> Any:
    """A null in an `Array2D` column comes back as NaN when it is read by row."""
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else value
