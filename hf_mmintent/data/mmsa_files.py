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

    def __init__(self, path: Path, report: BuildReport, sha256: str | None = None, trust_pickle: bool = False) -> None:
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
        for name in ("id", "raw_text"):
            if not isinstance(part.get(name), (list, tuple, np.ndarray)) or np.ndim(part[name]) == 0:
                raise DataError(f"{self.path}: `{name}` of {split} is {part.get(name)!r:.60}, not a list of texts.")
        count = len(part["id"])
        if len(part["raw_text"]) != count:
            raise DataError(f"{self.path}: {split} has {count} ids but {len(part['raw_text'])} entries of `raw_text`.")
        for key, text in zip(part["id"], part["raw_text"]):
            if not isinstance(key, str) or not isinstance(text, str):
                name, value = ("raw_text", text) if isinstance(key, str) else ("id", key)
                raise DataError(f"{self.path}: `{name}` of {str(key)!r} in {split} is {value!r:.60}, not text.")
        part["regression_labels"] = self._numbers(split, "regression_labels", 1)
        for name in STREAMS.values():
            self._numbers(split, name, 3)

    def _numbers(self, split: str, name: str, dimensions: int) -> np.ndarray:
        """An array of numbers with one entry per id; one of three dimensions is not copied."""
        part = self.parts[SPLITS[split]]
        where = f"{self.path}: `{name}` of {split}"
        value = part.get(name)
        try:
            array = np.asarray(value) if isinstance(value, (list, tuple)) and dimensions == 1 else value
        except ValueError as error:  # lists of different lengths
            raise DataError(f"{where} is no array: {error}.") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            found = array.dtype if isinstance(array, np.ndarray) else type(value).__name__
            raise DataError(f"{where} does not hold numbers but {found}.")
        if array.ndim != dimensions or len(array) != len(part["id"]):
            wanted = f"{dimensions} dimension{'s' * (dimensions > 1)} and one entry for each of {len(part['id'])} ids"
            raise DataError(f"{where} has the shape {array.shape}, expected {wanted}.")
        return array

    def _read_lengths(self, split: str) -> dict[str, np.ndarray]:
        """Steps of every sample before the padding, by stream."""
        part = self.parts[SPLITS[split]]
        fields = [f"{name}_lengths" for name in STREAMS.values()]
        limits = {name: part[name].shape[1] for name in STREAMS.values()}
        absent = [field for field in fields if field not in part]
        if len(absent) == len(fields):
            return dict.fromkeys(limits, self._masked(split, limits))
        if absent:
            raise DataError(f"{self.path}: {split} has no `{absent[0]}`, so the padding cannot be told apart.")
        lengths = {name: self._numbers(split, f"{name}_lengths", 1) for name in limits}
        for name, values in lengths.items():
            if values.dtype.kind not in "iu":
                raise DataError(f"{self.path}: `{name}_lengths` of {split} holds {values.dtype}, not whole numbers.")
        if not _fit(lengths, limits) and _fit(exchanged := _exchanged(lengths), limits):
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

    def _masked(self, split: str, limits: dict[str, int]) -> np.ndarray:
        """Lengths of an aligned file: audio and vision have the mask of the text."""
        part = self.parts[SPLITS[split]]
        if "text_bert" not in part:
            raise DataError(
                f"{self.path}: {split} has neither `audio_lengths` nor `text_bert`, so the padding cannot be told apart."
            )
        text = self._numbers(split, "text_bert", 3)
        if text.shape[1] < 2 or set(limits.values()) != {text.shape[2]}:
            raise DataError(
                f"{self.path}: `text_bert` of {split} has the shape {text.shape}, not (N, 3, T) with the steps {limits} of "
                "the other streams."
            )
        mask = text[:, 1]
        for index in np.flatnonzero(((mask != 0) & (mask != 1)).any(1))[:1]:
            raise DataError(
                f"{self.path}: the mask in `text_bert` of {str(part['id'][index])!r} in {split} holds {mask[index].max()}, "
                "not only 0 and 1."
            )
        return mask.sum(1).astype(np.int64)

    def rows(self, split: str) -> list[Row]:
        """Rows of a split without features; `index` is the place in the file."""
        part = self.parts[SPLITS[split]]
        rows = []
        for index, (key, text, label) in enumerate(zip(part["id"], part["raw_text"], part["regression_labels"])):
            video, separator, clip = str(key).partition("$_$")
            if not separator or not video or not clip:
                raise DataError(f"{self.path}: the id {str(key)!r} of {split} is not <video>$_$<clip>.")
            place = {"index": index, "split": split, "source": f"{self.path}: entry {index} of {SPLITS[split]}"}
            rows.append({"id": str(key), "text": str(text), "label": float(label), "dialogue_id": video, **place})
        return rows

    def features(self, row: Row) -> dict[str, np.ndarray | None]:
        """Features of a row without the padding of the file, float32 (T, D); `None` where nothing is left."""
        part, index = self.parts[SPLITS[row["split"]]], row["index"]
        values: dict[str, np.ndarray | None] = {}
        for modality, stream in STREAMS.items():
            array = part[stream][index][: int(self.lengths[row["split"]][stream][index])]
            if not len(array):
                self.report.problem(f"{modality} of zero length", row["id"])
                values[modality] = None
                continue
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is counted as that
                array = np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])
            self.report.features(modality, row["id"], array)
            values[modality] = array
        return values


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
