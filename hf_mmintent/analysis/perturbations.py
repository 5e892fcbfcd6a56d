"""Rows made worse on purpose, before the processor sees them: the same for every architecture and dataset.

A change is a function `(index, row) -> row`. Every random draw depends on the seed, the modality and the row alone, so
neither batch size nor order matter, and curves over strengths are smooth: noise is one draw, scaled; frames and words lost
at a low rate are among those lost at a higher one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_mmintent.data.collator import MEDIA_COLUMNS
from hf_mmintent.data.reading import direct
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media

Row = dict[str, Any]
Change = Callable[[int, Row], Row]

PACKET_SECONDS = 0.02  # of sound, what a voice call loses at once


class ChangedRows(torch.utils.data.Dataset):
    """
    The rows of a dataset with a change applied when they are read.

    Args:
        rows: dataset or another map-style collection of rows.
        change: gets the position and a copy of the row.
    """

    def __init__(self, rows: Any, change: Change) -> None:
        self.rows, self.change = direct(rows), change

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.change(index, dict(self.rows[index]))


class DecodedRows(torch.utils.data.Dataset):
    """
    Rows with their clips as arrays: `audio` a waveform (samples,) float32 in about [−1, 1], `video` frames (T, H, W, 3)
    uint8, cut and sized as the model's encoder wants them. Columns that name files or times are gone.

    Args:
        rows: with media.
        processor: of a checkpoint that takes clips.
        keep_bytes: decoded clips are kept up to this many bytes; the rest is decoded again when it is asked for.

    Raises:
        ValueError: the checkpoint takes no clips.
    """

    def __init__(self, rows: Any, processor: Any, keep_bytes: int = 1 << 30) -> None:
        if processor.media is None:
            raise ValueError(
                "this checkpoint takes extracted features, no clips: perturb those (`--level features`), or train with an "
                "`encoder`."
            )
        self.rows, self.settings, self.modalities = direct(rows), MediaSettings(**processor.media), processor.modalities
        self.room, self._kept = keep_bytes, {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        if index in self._kept:
            return dict(self._kept[index])
        row = dict(self.rows[index])
        sources = {
            name: next((row[column] for column in MEDIA_COLUMNS[name] if row.get(column) is not None), None)
            for name in ("audio", "video")
        }
        times = [row.pop(name, None) for name in ("start_time", "end_time")]
        for column in {column for columns in MEDIA_COLUMNS.values() for column in columns}:
            row.pop(column, None)
        found = prepare_media([sources["audio"]], [sources["video"]], self.settings, *([time] for time in times))
        row["audio"] = found["input_values"][0] if "input_values" in found else None
        row["video"] = self._pictures(found["pixel_values"][0]) if "pixel_values" in found else None
        size = sum(row[name].nbytes for name in ("audio", "video") if row[name] is not None)
        if size <= self.room:
            self.room -= size
            self._kept[index] = row
        return dict(row)

    def _pictures(self, normalised: np.ndarray) -> np.ndarray:
        """(T, 3, H, W) as the model reads them, back to (T, H, W, 3) uint8."""
        mean, std = (np.asarray(getattr(self.settings, f"image_{name}"), np.float32) for name in ("mean", "std"))
        values = normalised.transpose(0, 2, 3, 1) * std + mean
        return np.clip(np.round(255 * values), 0, 255).astype(np.uint8)


# ---- columns --------------------------------------------------------------------------------------------------------


def sequence_column(row: Mapping[str, Any], modality: str) -> str | None:
    """The column that holds a modality of this row as an array: features, or a decoded clip."""
    for name in (f"{modality}_features", modality):
        if modality != "text" and isinstance(row.get(name), np.ndarray):
            return name
    return None


def own_columns(row: Mapping[str, Any], modality: str) -> list[str]:
    """All columns of a modality, with the caption of it."""
    names = (modality, f"{modality}_features", f"{modality}_path", f"{modality}_caption")
    return [name for name in names if name in row]


def _generator(seed: int, what: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(what.encode()), index])


# ---- changes --------------------------------------------------------------------------------------------------------


def deviations(rows: Any, modality: str, limit: int | None = None) -> np.ndarray | None:
    """
    Standard deviation of every feature column over all steps; of a waveform over its samples, of frames per channel.

    Args:
        rows: to measure.
        modality: not text.
        limit: steps of a row that the model reads; all when `None`. Of features only.

    Returns:
        float32, broadcasting against a row's array; `None` when no row has the modality.
    """
    rows, count, total, square = direct(rows), 0, 0.0, 0.0
    for index in range(len(rows)):
        row = rows[index]
        column = sequence_column(row, modality)
        if column is None:
            continue
        values = np.asarray(row[column])
        if column != modality:
            values = np.nan_to_num(values[:limit], nan=0.0, posinf=0.0, neginf=0.0)
        flat = values.astype(np.float64).reshape(-1, 1 if values.ndim == 1 else values.shape[-1])
        count, total, square = count + len(flat), total + flat.sum(0), square + np.square(flat).sum(0)
    if not count:
        return None
    return np.sqrt(np.maximum(square / count - np.square(total / count), 0)).astype(np.float32)


def add_noise(modality: str, strength: float, deviation: np.ndarray, seed: int = 0) -> Change:
    """N(0, (strength · deviation)²) on every value of a modality; frames stay within 0…255."""

    def change(index: int, row: Row) -> Row:
        column = sequence_column(row, modality)
        if column is None or strength == 0:
            return row
        values = np.asarray(row[column])
        drawn = _generator(seed, f"noise {modality}", index).standard_normal(values.shape, dtype=np.float32)
        noisy = values + strength * deviation * drawn
        row[column] = (
            np.clip(np.round(noisy), 0, 255).astype(np.uint8) if values.dtype == np.uint8 else noisy.astype(np.float32)
        )
        return row

    return change


def drop_frames(modality: str, share: float, seed: int = 0, packet: int = 1) -> Change:
    """
    Lose a share of the steps of a modality, drawn at random; at least one stays.

    Steps of features and frames are taken out. Of a waveform (samples,) whole packets fall silent, as in a call: samples
    have their time.

    Args:
        modality: not text.
        share: of the steps, rounded down per row.
        seed: of the draw.
        packet: samples of a waveform that are lost together.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` is {share}: between 0 and 1.")

    def change(index: int, row: Row) -> Row:
        column = sequence_column(row, modality)
        if column is None or share == 0:
            return row
        values = np.asarray(row[column])
        steps = -(-len(values) // packet) if values.ndim == 1 else len(values)
        lost = _generator(seed, f"frames {modality}", index).permutation(steps)[: min(int(share * steps), steps - 1)]
        if values.ndim == 1:
            silent = np.isin(np.arange(len(values)) // packet, lost)
            row[column] = np.where(silent, values.dtype.type(0), values)
        else:
            row[column] = np.delete(values, lost, axis=0)
        return row

    return change


def truncate_text(share: float) -> Change:
    """Cut a share of the words off the end, rounded down; at least one stays."""
    if not 0 <= share <= 1:
        raise ValueError(f"`share` is {share}: between 0 and 1.")

    def change(index: int, row: Row) -> Row:
        if row.get("text") is not None:
            words = row["text"].split()
            row["text"] = " ".join(words[: max(len(words) - int(share * len(words)), 1)])
        return row

    return change


def replace_text(texts: Sequence[str | None]) -> Change:
    """Other words for every row."""

    def change(index: int, row: Row) -> Row:
        row["text"] = texts[index]
        return row

    return change


def other_label_donors(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """
    For every sample another one, drawn at random among those with a different label; among all others where all have the
    same.

    Args:
        labels: (n,) class ids or values, or (n, K).
        seed: of the draw.

    Returns:
        (n,) int64.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(labels) < 2:
        raise ValueError(f"there are {len(labels)} samples: nothing can be exchanged between fewer than two.")
    generator = np.random.default_rng([seed, 7])
    flat = np.asarray(labels).reshape(len(labels), -1)
    found = np.empty(len(flat), np.int64)
    for index in range(len(flat)):
        others = np.flatnonzero((flat != flat[index]).any(1))
        if not others.size:
            others = np.delete(np.arange(len(flat)), index)
        found[index] = generator.choice(others)
    return found


def take_from(rows: Any, donors: np.ndarray, columns: Callable[[Row], list[str]]) -> Change:
    """
    Some columns of another row: what they say no longer goes with the label.

    Args:
        rows: in which the donors are looked up.
        donors: (n,) position of the row that each one takes from.
        columns: names of the columns of a row that are exchanged, such as [`own_columns`] of a modality.
    """
    rows = direct(rows)

    def change(index: int, row: Row) -> Row:
        donor = rows[int(donors[index])]
        return {**row, **{name: donor[name] for name in columns(row)}}

    return change
