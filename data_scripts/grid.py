"""GRID: sentences of six words, read to the camera; one of the words is to be told from sound and lips."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_mmintent.data.checks import DataError, Row, find_file, read_text, resolve_inside
from hf_mmintent.data.feature_files import FeatureFile, open_npz
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

# Place in the sentence to the letter that stands for a word in a file name and the word.
_WORDS = {
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "color": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    "digit": {
        "z": "zero", "1": "one", "2": "two", "3": "three", "4": "four",
        "5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine",
    },
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}  # fmt: skip
_PLACES = tuple(_WORDS)
_ARCHIVE = "grid_tiny.npz"
_SPLITS = {"train": "train", "dev": "validation"}
_SILENCES = ("sil", "sp")
_LIGHTEST = np.float32(255)


@dataclass
class GridConfig(MediaConfig):
    """
    Options of GRID beside those of every builder and of clips.

    Args:
        target (`str`, defaults to `"command"`): The word that is the label: `command`, `color`, `preposition`,
            `letter`, `digit` or `adverb`.
        validation_speakers (`Sequence[str]`, *optional*): `raw` only. Speakers whose clips are the validation split, for
            a model of speakers it has not seen.
        validation_share (`float`, defaults to 0.2): `raw` only. Part of the clips of each word held out for validation
            where neither speakers nor the archive name the split.
        validation_seed (`int`, defaults to 0): Of the choice of these clips.
    """

    target: str = "command"
    validation_speakers: Sequence[str] = ()
    validation_share: float = 0.2
    validation_seed: int = 0


class Grid(MediaBuilder):
    """GRID (Cooke et al., JASA 2006): six-word sentences such as "bin blue at f two now", seen and heard.

    Configurations and the expected folder (`data_dir`):

        features    grid_tiny.npz                   id, split, words (N, 6), mel (N, 20, 150), mouth (N, 38, 24, 32),
                                                    n_frames; 800 sentences of speaker s1
        raw         raw/s1/bbaf2n.mpg               the clips, one folder per speaker
                    raw/alignments/s1/bbaf2n.align  optional: the words with their times, compared with the file's name;
                                                    both also without `raw/`

    The label is the command (`bin`, `lay`, `place`, `set`); `target` chooses another of the six words. **There is no
    text**: the transcript holds the label. So does the id, which is the file's name, the initials of the words.

    `features`: `audio_features` (150, 20) is a log-mel spectrogram, 50 steps per second; `video_features` (38, 768) the
    grey region of the mouth, 24 by 32 pixels in [0, 1], every second frame. A clip of 74 frames (`n_frames`; two have
    them) has 37 steps: the archive repeats its last frame. Splits as in the archive, 640 / 160, drawn at random.

    `raw`: clips of 3 s, video at 25 Hz, sound at 44.1 kHz. With one speaker and `grid_tiny.npz` in the folder the
    splits are those of the archive. Otherwise `validation_speakers`, or a seeded `validation_share` of each word's clips.
    With more than one speaker the ids begin with the speaker's name, for all speakers read the same sentences. Clips that
    do not decode become null and are counted.

    There is no test split. Without `validation_speakers` the speakers of both splits are the same.

    Columns: `id`, `label`, `speaker`, and `audio_features`, `video_features` or `audio_path`, `video_path`.
    """

    CITATION = (
        "@article{cooke2006audio, title={An audio-visual corpus for speech perception and automatic speech recognition}, "
        "author={Cooke, Martin and Barker, Jon and Cunningham, Stuart and Shao, Xu}, journal={The Journal of the "
        "Acoustical Society of America}, volume={120}, number={5}, year={2006}}"
    )
    HOMEPAGE = "https://doi.org/10.5281/zenodo.3625687"
    LICENSE = "CC BY 4.0 according to third parties that name the Zenodo record; attribution needed"
    BUILDER_CONFIG_CLASS = GridConfig
    BUILDER_CONFIGS = [GridConfig(name=name) for name in ("features", "raw")]
    DEFAULT_CONFIG_NAME = "features"
    TEXT = False
    COLUMNS = {"speaker": datasets.Value("string")}
    MEDIA = ("audio", "video")

    def label_names(self) -> tuple[str, ...]:
        if self.config.target not in _WORDS:
            raise ValueError(f"`target` is {self.config.target!r}: choose one of {list(_PLACES)}.")
        return tuple(_WORDS[self.config.target].values())

    def row_counts(self) -> dict[str, int]:
        return {} if self.is_raw else {"train": 640, "validation": 160}

    @property
    def is_raw(self) -> bool:
        """Whether rows are clips."""
        return self.config.name == "raw"

    def read_tables(self) -> dict[str, list[Row]]:
        rows = self._clips() if self.is_raw else self._archived()
        splits: dict[str, list[Row]] = {"train": [], "validation": []}
        for row in rows:
            splits[row["split"]].append(row)
        return splits

    # ---- the archive

    @cached_property
    def archive(self) -> dict[str, np.ndarray]:
        """The small arrays of the archive, one entry per clip."""
        path = find_file(self.folder, _ARCHIVE)
        arrays = open_npz(path)
        found = {"id": arrays.array("id", "U", 1)}
        count = len(found["id"])
        for name, kinds, dimensions in (("split", "U", 1), ("words", "U", 2), ("n_frames", "iu", 1)):
            found[name] = arrays.array(name, kinds, dimensions, count)
        if found["words"].shape[1] != len(_PLACES):
            raise DataError(f"{path}: `words` has the shape {found['words'].shape}, not six words per clip.")
        unknown = set(found["split"].tolist()) - set(_SPLITS)
        if unknown:
            raise DataError(f"{path} has the split {sorted(unknown)[0]!r}, not one of {list(_SPLITS)}.")
        return found

    def _archived(self) -> list[Row]:
        names, splits, sentences = (self.archive[name].tolist() for name in ("id", "split", "words"))
        rows = []
        for name, split, words in zip(names, splits, sentences):
            expected = _words_of(name, f"the id {name!r} of {_ARCHIVE}")
            if list(expected) != words:
                raise DataError(f"{_ARCHIVE}: the words of {name!r} are {words}, its name stands for {list(expected)}.")
            made = {"id": name, "label": self._target(expected), "speaker": "s1", "split": _SPLITS[split]}
            rows.append({**made, "source": _ARCHIVE})
        return rows

    def open_features(self) -> dict[str, FeatureFile]:
        if self.is_raw:
            return {}
        path = find_file(self.folder, _ARCHIVE)
        arrays, names = open_npz(path), self.archive["id"].tolist()
        mel = arrays.array("mel", "f", 3, len(names))  # (N, bands, steps)
        mouth = arrays.array("mouth", "u", 4, len(names))  # (N, steps, height, width)
        frames = self.archive["n_frames"].tolist()
        for name, count in zip(names, frames):
            if (
                not 2 * mouth.shape[1] - 3 <= count <= 2 * mouth.shape[1]
            ):  # every second frame, the last one repeated once
                raise DataError(
                    f"{path}: `n_frames` of {name!r} is {count}, but `mouth` has {mouth.shape[1]} pictures."
                )
        # Every second frame from the first on; a clip that is a frame short has one picture less than the array holds.
        lips = [picture[: (count + 1) // 2] for picture, count in zip(mouth.reshape(*mouth.shape[:2], -1), frames)]
        return {
            "audio": FeatureFile(dict(zip(names, mel)), "audio", self.report, transpose=True, source=str(path)),
            "video": FeatureFile(dict(zip(names, lips)), "video", self.report, source=str(path)),
        }

    def features_of(self, row: Row) -> dict[str, Any]:
        values = super().features_of(row)
        if values.get("video") is not None:
            values["video"] = values["video"] / _LIGHTEST
        return values

    # ---- the clips

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if self.is_raw else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        return {"audio": row["clip"], "video": row["clip"]}

    @cached_property
    def raw_folder(self) -> Path:
        """Folder with one folder of clips per speaker."""
        return self.folder / "raw" if (self.folder / "raw").is_dir() else self.folder

    def _clips(self) -> list[Row]:
        files = sorted(self.raw_folder.glob("*/*.mpg"))
        if not files:
            raise FileNotFoundError(f"{self.raw_folder} holds no clip <speaker>/<sentence>.mpg, e.g. s1/bbaf2n.mpg.")
        speakers = {path.parent.name for path in files}
        rows: list[Row] = []
        for path in files:
            resolve_inside(self.raw_folder, path.relative_to(self.raw_folder))
            speaker, name = path.parent.name, path.stem
            words = _words_of(name, str(path))
            _check_alignment(resolve_inside(self.raw_folder, f"alignments/{speaker}/{name}.align"), words)
            key = name if len(speakers) == 1 else f"{speaker}_{name}"
            rows.append({"id": key, "name": name, "label": self._target(words), "speaker": speaker, "clip": path})
        splits = self._clip_splits(rows, speakers)
        return [{**row, "split": splits[row["id"]]} for row in rows]

    def _clip_splits(self, rows: list[Row], speakers: set[str]) -> dict[str, str]:
        held_out = set(self.config.validation_speakers)
        if held_out:
            if not held_out < speakers:
                raise ValueError(
                    f"`validation_speakers` is {sorted(held_out)}: name some, not all, of the speakers {sorted(speakers)}."
                )
            return {row["id"]: "validation" if row["speaker"] in held_out else "train" for row in rows}
        if len(speakers) == 1 and (self.folder / _ARCHIVE).is_file():
            known = dict(zip(self.archive["id"].tolist(), self.archive["split"].tolist()))
            unknown = [row["name"] for row in rows if row["name"] not in known]
            if unknown:
                raise DataError(
                    f"{_ARCHIVE} names no split for the clip {unknown[0]!r} (and {len(unknown) - 1} more): move the archive "
                    "away to have the clips split by `validation_share`."
                )
            return {row["id"]: _SPLITS[known[row["name"]]] for row in rows}
        return self._drawn_splits(rows)

    def _drawn_splits(self, rows: list[Row]) -> dict[str, str]:
        share = self.config.validation_share
        if not 0 < share < 1:
            raise ValueError(f"`validation_share` is {share}: give a number between 0 and 1.")
        generator = np.random.default_rng(self.config.validation_seed)
        splits = {}
        for name in self.label_names():
            keys = [row["id"] for row in rows if row["label"] == name]
            order = generator.permutation(len(keys))
            for place, index in enumerate(order):
                splits[keys[index]] = "validation" if place < round(share * len(keys)) else "train"
        return splits

    def _target(self, words: Sequence[str]) -> str:
        self.label_names()  # refuses an unknown target before the first row
        return words[_PLACES.index(self.config.target)]


def _words_of(name: str, where: str) -> tuple[str, ...]:
    """The six words that a file's name stands for."""
    words = tuple(initials.get(letter) for letter, initials in zip(name, _WORDS.values()))
    if len(name) != len(_PLACES) or None in words:
        raise DataError(f"{where}: {name!r} is no name of a sentence, six initials such as 'bbaf2n'.")
    return tuple(word for word in words if word is not None)


def _check_alignment(path: Path, words: tuple[str, ...]) -> None:
    """Raise unless the table of word times, where there is one, holds the words of the file's name."""
    if not path.is_file():
        return
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    bad = next((line for line in lines if len(line) != 3), None)
    if bad is not None:
        raise DataError(f"{path}: {' '.join(bad)!r} is not 'start end word'.")
    found = tuple(line[2] for line in lines if line[2] not in _SILENCES)
    if found != words:
        raise DataError(f"{path} holds the words {list(found)}, the file's name stands for {list(words)}.")
