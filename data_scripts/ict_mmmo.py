"""ICT-MMMO: 340 video reviews of films with a sentiment between 1 and 5, as sequences of words."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_mmintent.data.builder import MultimodalBuilder, MultimodalConfig
from hf_mmintent.data.checks import DataError, Row, find_file
from hf_mmintent.data.feature_files import FeatureFile, open_npz

_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_STREAMS = {"lexical": "text", "audio": "audio", "video": "video"}
_POSITIVE = 3.5  # the threshold of published binary results


class IctMmmo(MultimodalBuilder):
    """ICT-MMMO (Wöllmer et al., IEEE Intelligent Systems 2013): sentiment of film reviews, 20 words of each.

    Configurations: `sentiment` (from 1 to 5 in steps of 0.5, default) and `binary` (positive from 3.5 on).

    Expected folder (`data_dir`):

        mmmo.npz    for train, valid, test: <split>_audio (N, 20, 74), <split>_video (N, 20, 36), <split>_y (N,), and for
                    valid and test also <split>_text (N, 20, 300), word vectors

    Splits 220 / 40 / 80. The words themselves are not in the release: there is no `text`, and the word vectors are the
    modality `lexical`, **missing in every training row**. One step is one word in all streams. Steps at either edge at
    which all streams of a review are zero are padding and are removed from all of them together, and reported. Zero
    steps inside, common in video, and those that only one stream has, stay. The release names no reviews: ids are the
    split and the place in it, and reviews of one film or speaker cannot be told apart.

    Columns: `id`, `label`, `lexical_features`, `audio_features`, `video_features`.
    """

    CITATION = (
        "@article{wollmer2013youtube, title={YouTube Movie Reviews: Sentiment Analysis in an Audio-Visual Context}, "
        'author={W{\\"o}llmer, Martin and Weninger, Felix and Knaup, Tobias and Schuller, Bj{\\"o}rn and Sun, Congkai '
        "and Sagae, Kenji and Morency, Louis-Philippe}, journal={IEEE Intelligent Systems}, volume={28}, number={3}, "
        "year={2013}}"
    )
    HOMEPAGE = "https://github.com/pliang279/MFN"
    LICENSE = "MIT on the repository with these features; the terms of ICT-MMMO itself were not seen"
    BUILDER_CONFIGS = [MultimodalConfig(name=name) for name in ("sentiment", "binary")]
    DEFAULT_CONFIG_NAME = "sentiment"
    LABEL_RANGE = (1.0, 5.0)
    TEXT = False
    COUNTS = {"train": 220, "validation": 40, "test": 80}

    def label_names(self) -> tuple[str, ...] | None:
        return ("negative", "positive") if self.config.name == "binary" else None

    def read_tables(self) -> dict[str, list[Row]]:
        return {split: self._rows(split) for split in _SPLITS}

    def _rows(self, split: str) -> list[Row]:
        low, high = self.LABEL_RANGE
        rows = []
        for index, value in enumerate(self._array(split, "y", 1).tolist()):
            source = f"{self.path}: `{_SPLITS[split]}_y`, entry {index}"
            if not low <= value <= high:
                raise DataError(f"{source}, is {value}, not a number from {low} to {high}.")
            label = value if self.config.name == "sentiment" else ("negative", "positive")[value >= _POSITIVE]
            rows.append({"id": _key(split, index), "label": label, "source": source})
        return rows

    @cached_property
    def path(self) -> Path:
        """The archive."""
        return find_file(self.folder, "mmmo.npz")

    @cached_property
    def archive(self) -> Any:
        """Arrays by name."""
        return open_npz(self.path)

    def _array(self, split: str, name: str, dimensions: int) -> np.ndarray:
        return self.archive.array(f"{_SPLITS[split]}_{name}", "biuf", dimensions)

    def open_features(self) -> dict[str, FeatureFile]:
        entries: dict[str, dict[str, np.ndarray]] = {modality: {} for modality in _STREAMS}
        for split in _SPLITS:
            for index, (start, stop) in enumerate(self.extents[split]):
                for modality, array in self.streams[split].items():
                    entries[modality][_key(split, index)] = array[index, start:stop]
        where = str(self.path)
        return {
            name: FeatureFile(values, name, self.report, source=where) for name, values in entries.items() if values
        }

    @cached_property
    def streams(self) -> dict[str, dict[str, np.ndarray]]:
        """Padded arrays (N, T, D) by split and modality; those that a split lacks are left out."""
        found = {
            split: {
                modality: self._array(split, name, 3)
                for modality, name in _STREAMS.items()
                if modality != "lexical" or f"{_SPLITS[split]}_{name}" in self.archive
            }
            for split in _SPLITS
        }
        for split, arrays in found.items():
            rows = len(self._array(split, "y", 1))
            shapes = {modality: array.shape for modality, array in arrays.items()}
            steps = shapes["audio"][1:2]
            if any(shape[:2] != (rows, *steps) for shape in shapes.values()):
                raise DataError(f"{self.path}: the arrays of {split} are {shapes}, not (N, T, D) with N = {rows}.")
        return found

    @cached_property
    def extents(self) -> dict[str, list[tuple[int, int]]]:
        """Per split and row the first step, and the one after the last, at which any stream is not zero."""
        return {split: [_extent(row) for row in _used(arrays)] for split, arrays in self.streams.items()}

    def features_of(self, row: Row) -> dict[str, Any]:
        values = super().features_of(row)
        split, index = row["id"].rsplit("_", 1)
        start, stop = self.extents[split][int(index)]
        for edge, steps in (("start", start), ("end", self.streams[split]["audio"].shape[1] - stop)):
            if steps:
                self.report.problem(f"steps of zeros at the {edge} removed", row["id"])
        for modality, array in values.items():
            if array is not None and not np.any(array, axis=1).all():
                self.report.problem(f"steps of zeros in {modality} kept", row["id"])
        return values


def _key(split: str, index: int) -> str:
    return f"{split}_{index:03d}"


def _used(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(N, T) bool: whether any stream has a number other than zero; NaN is one."""
    return np.any([np.any(array != 0, axis=2) for array in arrays.values()], axis=0)


def _extent(used: np.ndarray) -> tuple[int, int]:
    steps = np.flatnonzero(used)
    return (int(steps[0]), int(steps[-1]) + 1) if len(steps) else (0, 0)
