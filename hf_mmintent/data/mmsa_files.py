"""The feature files that MMSA publishes for CMU-MOSI and CMU-MOSEI: one pickle of padded arrays per alignment."""

import hashlib
from pathlib import Path

import numpy as np

from hf_mmintent.data.checks import DataError, Row
from hf_mmintent.data.report import BuildReport
from hf_mmintent.data.safe_pickle import load_pickle

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
STREAMS = {"audio": "audio", "video": "vision"}


class MmsaFile:
    """
    `aligned_50.pkl` or `unaligned_50.pkl`.

    Holds per split (`train`, `valid`, `test`) `id` (`video$_$clip`), `raw_text`, `regression_labels`, `audio` and
    `vision` (N, T, D) padded at the end, and either `audio_lengths` and `vision_lengths` (unaligned) or, in
    `text_bert[:, 1]`, the mask that audio and vision share with the text (aligned).

    Args:
        path: Of the file.
        report: Where empty and non-finite features are counted.
        sha256: Of the official file; another file gives a warning.
        trust_pickle: See [`~hf_mmintent.data.safe_pickle.load_pickle`].

    Raises:
        DataError: Arrays are missing or do not have one entry per id.
    """

    def __init__(self, path: Path, report: BuildReport, sha256: str | None = None, trust_pickle: bool = False):
        self.path, self.report = path, report
        if sha256 is not None and (found := _sha256(path)) != sha256:
            self.report.note(f"{path} has the SHA-256 {found}, the published file {sha256}: these are other features.")
        self.parts = load_pickle(path, trust_pickle)
        if not isinstance(self.parts, dict) or not all(name in self.parts for name in SPLITS.values()):
            raise DataError(f"{path} does not hold {list(SPLITS.values())}: this is not a file of MMSA.")
        for split in SPLITS:
            self._check(split)
        self.widths = {name: self._width(stream) for name, stream in STREAMS.items()}
        self.lengths = {split: self._read_lengths(split) for split in SPLITS}

    def _width(self, stream: str) -> int:
        widths = {self.parts[part][stream].shape[-1] for part in SPLITS.values()}
        if len(widths) != 1:
            raise DataError(
                f"{self.path}: `{stream}` has the widths {sorted(widths)} in the three splits, expected one."
            )
        return widths.pop()

    def _check(self, split: str) -> None:
        part = self.parts[SPLITS[split]]
        if not isinstance(part, dict) or "id" not in part:
            raise DataError(f"{self.path}: {split} is no mapping with `id`: this is not a file of MMSA.")
        for name in ("raw_text", "regression_labels", *STREAMS.values()):
            found = len(part[name]) if name in part else 0
            if found != len(part["id"]):
                raise DataError(f"{self.path}: {split} has {len(part['id'])} ids but {found} entries of `{name}`.")
        for name in ("regression_labels", *STREAMS.values()):
            array = part[name] if name in STREAMS.values() else np.asarray(part[name])
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                raise DataError(f"{self.path}: `{name}` of {split} does not hold numbers.")
            if name in STREAMS.values() and array.ndim != 3:
                raise DataError(f"{self.path}: `{name}` of {split} has shape {array.shape}, not (N, T, D).")
        for key, text in zip(part["id"], part["raw_text"]):
            if not isinstance(text, str):
                raise DataError(f"{self.path}: `raw_text` of {str(key)!r} in {split} is {text!r}, not text.")

    def _read_lengths(self, split: str) -> dict[str, np.ndarray]:
        """Steps of every sample before the padding; empty for an aligned file, whose mask says it."""
        part = self.parts[SPLITS[split]]
        lengths = {name: np.asarray(part[f"{name}_lengths"]) for name in STREAMS.values() if f"{name}_lengths" in part}
        for name, values in lengths.items():
            if values.shape != (len(part["id"]),) or values.dtype.kind not in "iu":
                raise DataError(
                    f"{self.path}: `{name}_lengths` of {split} has shape {values.shape} of {values.dtype}, expected one "
                    f"whole number for each of {len(part['id'])} ids."
                )
        limits = {name: part[name].shape[1] for name in lengths}
        if len(lengths) == 2 and not _fit(lengths, limits) and _fit(exchanged := _exchanged(lengths), limits):
            self.report.note(
                f"{self.path}: `audio_lengths` and `vision_lengths` of {split} are exchanged, as their limits {limits} show: "
                f"each is read for the other."
            )
            lengths = exchanged
        for name, values in lengths.items():
            for index in np.flatnonzero((values < 0) | (values > limits[name]))[:1]:
                raise DataError(
                    f"{self.path}: `{name}_lengths` of {str(part['id'][index])!r} in {split} is {values[index]} but "
                    f"`{name}` has {limits[name]} steps."
                )
        return lengths

    def rows(self, split: str) -> list[Row]:
        """Rows of a split without features; `index` is the place in the file."""
        part = self.parts[SPLITS[split]]
        rows = []
        for index, (key, text, label) in enumerate(zip(part["id"], part["raw_text"], part["regression_labels"])):
            video, separator, clip = str(key).partition("$_$")
            if not separator or not video or not clip:
                raise DataError(f"{self.path}: the id {str(key)!r} of {split} is not <video>$_$<clip>.")
            place = {"index": index, "split": split}
            rows.append({"id": str(key), "text": str(text), "label": float(label), "dialogue_id": video, **place})
        return rows

    def features(self, row: Row) -> dict[str, np.ndarray | None]:
        """Features of a row without the padding of the file, float32 (T, D); `None` where nothing is left."""
        part, index = self.parts[SPLITS[row["split"]]], row["index"]
        values: dict[str, np.ndarray | None] = {}
        for modality, stream in STREAMS.items():
            array = part[stream][index][: self._length(row["split"], stream, index)]
            if not len(array):
                self.report.problem(f"{modality} of zero length", row["id"])
                values[modality] = None
                continue
            array = np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
            self.report.features(modality, row["id"], array)
            values[modality] = array
        return values

    def _length(self, split: str, stream: str, index: int) -> int:
        part = self.parts[SPLITS[split]]
        if stream in self.lengths[split]:
            return int(self.lengths[split][stream][index])
        if "text_bert" in part:
            return int(np.asarray(part["text_bert"][index][1]).sum())
        raise DataError(
            f"{self.path} has neither `{stream}_lengths` nor `text_bert`: its padding cannot be told apart."
        )


def _fit(lengths: dict[str, np.ndarray], limits: dict[str, int]) -> bool:
    return all(((values >= 0) & (values <= limits[name])).all() for name, values in lengths.items())


def _exchanged(lengths: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(lengths, reversed(lengths.values())))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
