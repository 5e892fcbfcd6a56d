"""Rows of a dataset to a batch of model inputs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch

from hf_mmintent.data.flow_files import flow_stacks
from hf_mmintent.data.row_format import as_features

MEDIA_COLUMNS = {"audio": ("audio_path", "audio"), "video": ("video_path", "video")}

# Columns that rows may hold beside text, features, media and the label.
OTHER_COLUMNS = frozenset(
    {
        "id", "text", "label", "labels", "speaker", "dialogue_id", "start_time", "end_time", "context", "flow_path",
        "audio_caption", "video_caption", "emotion", "intent", "sentiment", "emotion_reason", "intent_reason",
        "joint_reason",
    }
)  # fmt: skip


@dataclass
class MultimodalCollator:
    """
    Calls the processor on the columns of a list of rows: text, features or else raw media, labels, and the columns
    that the processor names in `extra_columns`.

    Args:
        processor: of the model.
        training: ask for the labelled text view where the processor has one, and apply `modality_dropout`.
        labelled_view: ask for it outside of training, too.
        modality_dropout: probability of hiding each modality of a training row; one always stays.
        drop_modalities: hidden in every row.
        label_column: column with the target; rows without it give a batch without labels.
        seed: of the modality dropout. What is hidden depends on the seed, the epoch and the rows of the batch only, so
            it is the same with any number of workers and after a resumed training.
        ignore_columns: further columns of the rows that are no input.
        flow_count: stacks of optical flow per clip, of rows with `flow_path`.

    Raises:
        ValueError: a modality that the processor does not have, or a dropout that is no probability.
    """

    processor: Any
    training: bool = False
    modality_dropout: float = 0.0
    drop_modalities: tuple[str, ...] = ()
    label_column: str = "label"
    seed: int = 0
    ignore_columns: tuple[str, ...] = ()
    epoch: int = 0
    flow_count: int = 3
    labelled_view: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.drop_modalities) - set(self.processor.modalities)
        if unknown:
            raise ValueError(
                f"`drop_modalities` names {sorted(unknown)}: the processor has {list(self.processor.modalities)}."
            )
        if set(self.drop_modalities) == set(self.processor.modalities):
            raise ValueError(f"`drop_modalities` = {list(self.drop_modalities)} leaves no modality.")
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(f"`modality_dropout` is {self.modality_dropout}: choose a value in [0, 1).")

    def set_epoch(self, epoch: int) -> None:
        """Change the modality dropout of batches that come again with the same rows."""
        self.epoch = epoch

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows: of a dataset, with the same columns.

        Returns:
            What the processor makes of them.

        Raises:
            ValueError: columns that are unknown, double or differ between rows; a label outside the known names.
        """
        self._check_columns(rows)
        kept = [name for name in self.processor.modalities if name not in self.drop_modalities]
        columns = {name: self._column(rows, name) for name in kept}
        if self.training and self.modality_dropout > 0:
            self._hide(columns, rows)
        inputs: dict[str, Any] = {
            key: values for key, values in columns.values() if any(value is not None for value in values)
        }
        wanted = list(self.processor.extra_columns)
        if "audio" in inputs or "video" in inputs:
            wanted += ["start_time", "end_time"]
        inputs.update({name: [row[name] for row in rows] for name in wanted if name in rows[0]})
        if (self.training or self.labelled_view) and self.processor.has_labelled_view:
            inputs["return_labelled_view"] = True
        labels = self._labels(rows)
        try:
            return dict(self.processor(labels=labels, **inputs))
        except ValueError as error:  # counts from the start of the batch, which after shuffling says nothing
            found = re.search(r"\bsample (\d+)\b", str(error))
            if found is not None and "id" in rows[0] and int(found[1]) < len(rows):
                error.add_note(f"Sample {found[1]} of this batch is the row with the id {rows[int(found[1])]['id']!r}.")
            raise

    # ---- columns ------------------------------------------------------------------------------------------------

    def _check_columns(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            raise ValueError("the batch has no rows.")
        names = rows[0].keys()
        for index, row in enumerate(rows):
            if row.keys() != names:
                odd = sorted(set(row) ^ set(names))
                raise ValueError(f"row {index} of the batch does not have the columns of row 0: they differ in {odd}.")
        if self.label_column != "labels" and {"labels", self.label_column} <= names:
            raise ValueError(f"the rows have two columns of labels, `labels` and `{self.label_column}`: remove one.")
        for modality, columns in MEDIA_COLUMNS.items():
            if set(columns) <= names:
                raise ValueError(f"the rows have {modality} twice, in `{columns[0]}` and `{columns[1]}`: remove one.")
        known = {*OTHER_COLUMNS, *self.ignore_columns, *self.processor.extra_columns, self.label_column}
        for name in sorted(set(names) - known):
            if not self._is_modality_column(name):
                self._refuse_column(name, known)

    def _is_modality_column(self, name: str) -> bool:
        """Also of a modality that this processor leaves out, such as video for a model of text and audio."""
        modalities = {*self.processor.modalities, *MEDIA_COLUMNS, "flow", "lexical"}
        return name in {f"{m}_features" for m in modalities} | {c for pair in MEDIA_COLUMNS.values() for c in pair}

    def _refuse_column(self, name: str, known: Iterable[str]) -> None:
        columns = [f"{modality}_features" for modality in self.processor.modalities if modality != "text"]
        close = get_close_matches(name, [*known, *columns], 1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise ValueError(
            f"`{name}` is no column that the model takes: its modalities are {list(self.processor.modalities)}.{hint} "
            "Rename or remove it, or name it in `ignore_columns`."
        )

    def _column(self, rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, list[Any]]:
        """Keyword of the processor and one value per row: text, features where there are any, or raw media."""
        if name == "text":
            return "text", [row.get("text") for row in rows]
        if f"{name}_features" in rows[0]:
            return f"{name}_features", [as_features(row[f"{name}_features"]) for row in rows]
        for column in MEDIA_COLUMNS.get(name, ()):
            if column in rows[0]:
                return name, [row[column] for row in rows]
        if f"{name}_path" in rows[0]:
            return f"{name}_features", [self._flow(name, row) for row in rows]
        return f"{name}_features", [None] * len(rows)

    def _flow(self, name: str, row: Mapping[str, Any]) -> np.ndarray | None:
        """The pictures that a folder of optical flow holds, in the size that the model takes."""
        size = self.processor.feature_sizes[name]
        if not isinstance(size, (list, tuple)):
            raise ValueError(
                f"the rows have `{name}_path`, folders of pictures, but the model takes {name} features of size {size}: "
                "give a `feature_size` of [channels, height, width], or rows with features."
            )
        path = row[f"{name}_path"]
        return None if path is None else flow_stacks(path, self.flow_count, size[0] // 2, size[1:])

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> list[Any] | None:
        """The targets, checked here because only here the row's id is known."""
        if self.label_column not in rows[0]:
            return None
        labels = [row[self.label_column] for row in rows]
        names = self.processor.label_names
        for index, (row, label) in enumerate(zip(rows, labels)):
            where = f"row {row.get('id', index)!r}"
            if label is None:
                raise ValueError(
                    f"{where} has no label: remove the row, or the column `{self.label_column}` to predict."
                )
            if not names or not isinstance(label, (str, int, np.integer)):
                continue
            if label not in names if isinstance(label, str) else label != -100 and not 0 <= label < len(names):
                raise ValueError(
                    f"{where} has the label {label!r}, outside the {len(names)} names of the model: {list(names)}."
                )
        return labels

    # ---- modality dropout ---------------------------------------------------------------------------------------

    def _hide(self, columns: dict[str, tuple[str, list[Any]]], rows: Sequence[Mapping[str, Any]]) -> None:
        """Modality dropout, in place; a row never loses its last modality."""
        names = "\n".join(str(row.get("id", row.get("text"))) for row in rows)
        generator = np.random.default_rng([self.seed, self.epoch, zlib.crc32(names.encode())])
        for row in range(len(rows)):
            there = [name for name, (_, values) in columns.items() if values[row] is not None]
            hidden = [name for name in there if generator.random() < self.modality_dropout]
            if hidden and len(hidden) == len(there):
                hidden.pop(generator.integers(len(hidden)))
            for name in hidden:
                columns[name][1][row] = None
