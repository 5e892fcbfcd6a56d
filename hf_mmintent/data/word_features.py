"""Releases of punchlines with one feature vector per word: UR-FUNNY, and the pickles of HKT for it and for MUStARD."""

from pathlib import Path
from typing import Any

import numpy as np

from hf_mmintent.data.checks import DataError, Row
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.report import BuildReport
from hf_mmintent.data.safe_pickle import load_pickle

PARTS = {"train": "train", "validation": "dev", "test": "test"}
_PLACES = {"video": 1, "audio": 2}  # in the tuple (words, visual, acoustic, humour-centric features)


def load_dict(path: Path, trust_pickle: bool = False) -> dict[Any, Any]:
    """A pickle that must hold a dict."""
    value = load_pickle(path, trust_pickle)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a dict: this is not the official file.")
    return value


def sentence(value: Any, where: str) -> str:
    """A sentence, stored as a text or as its words."""
    is_list = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)
    words: list[Any] = list(value) if is_list else [value]
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"{where} is {value!r:.80}, neither a sentence nor a list of its words.")
    return " ".join(words)


def binary_label(value: Any, where: str) -> int:
    """0 or 1, stored as a number, or as an array of one."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise DataError(f"{where} is {value!r:.80}, neither 0 nor 1.") from error
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise DataError(f"{where} is {value!r:.80}, neither 0 nor 1.")
    return int(array.item())


def identifier(value: Any, where: str) -> str | int:
    """The key of a row: a text or a whole number."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise DataError(f"{where} is {value!r:.80}, neither a text nor a whole number.")
    return value


def list_of(value: Any, where: str) -> list[Any]:
    """The entries of a list, a tuple or an array of one dimension."""
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise DataError(f"{where} is {value!r:.80}, not a list.")
    return list(value)


def cut_to_words(
    features: dict[str, np.ndarray | None], words: int, report: BuildReport, key: str
) -> dict[str, np.ndarray | None]:
    """
    Features of one punchline, cut where they have more steps than the punchline words, or one another.

    Args:
        features: (words, width) by modality.
        words: In the punchline.
        report: Where a difference is counted.
        key: Of the row.
    """
    lengths = {len(values) for values in features.values() if values is not None}
    if lengths <= {words}:
        return features
    report.problem("numbers of words and of feature vectors differ, cut to the fewest,", key)
    fewest = min(lengths | {words}) or min(lengths)  # a text without words says nothing about the features
    return {modality: None if values is None else values[:fewest] for modality, values in features.items()}


class HktFile:
    """
    A pickle of matalvepu/HKT: `{"train", "dev", "test"}` to lists of (punchline, context, id, label), where punchline and
    context are (words, visual, acoustic, humour-centric features). The last of these are left out.

    Args:
        path: Of the file.
        report: Where missing, empty and non-finite features are counted.
        labels: Names of 0 and 1.
        trust_pickle: See [`~hf_mmintent.data.safe_pickle.load_pickle`].

    Raises:
        DataError: Another structure; the message names the example.
    """

    def __init__(self, path: Path, report: BuildReport, labels: tuple[str, str], trust_pickle: bool = False) -> None:
        self.path, self.report = path, report
        self.rows: dict[str, list[Row]] = {}
        entries: dict[str, dict[str, Any]] = {modality: {} for modality in _PLACES}
        parts = load_dict(path, trust_pickle)
        for split, part in PARTS.items():
            if not isinstance(parts.get(part), (list, tuple)) or not parts[part]:
                raise DataError(f"{path} has no list of examples {part!r}: this is not a file of HKT.")
            self.rows[split] = []
            for number, example in enumerate(parts[part]):
                row, punchline = _example(example, labels, f"{path} {part} example {number}")
                self.rows[split].append(row)
                for modality, place in _PLACES.items():
                    entries[modality][row["id"]] = punchline[place]
        self.entries = entries

    def feature_files(self) -> dict[str, FeatureFile]:
        """Features of the punchlines, by modality."""
        return {
            modality: FeatureFile(entries, modality, self.report, source=str(self.path))
            for modality, entries in sorted(self.entries.items())
        }


def _example(example: Any, labels: tuple[str, str], where: str) -> tuple[Row, Any]:
    sizes = [len(part) if isinstance(part, (list, tuple)) else 0 for part in example[:2]] if _four(example) else []
    if sizes != [4, 4]:
        raise DataError(f"{where} is not (punchline, context, id, label) with four parts in the first two.")
    punchline, context, key, label = example
    text = sentence(punchline[0], f"{where}: the punchline")
    turns = [context[0]] if isinstance(context[0], str) else list_of(context[0], f"{where}: the context")
    name = str(identifier(key, f"{where}: the id"))
    row = {
        "id": name,
        "key": name,
        "source": where,
        "text": text,
        "label": labels[binary_label(label, f"{where}: the label")],
        "context": [{"speaker": None, "text": sentence(turn, f"{where}: the context")} for turn in turns],
        "words": len(text.split()),
    }
    return row, punchline


def _four(example: Any) -> bool:
    return isinstance(example, (list, tuple)) and len(example) == 4
