"""Kinetics-Sounds: the clips of Kinetics whose action is heard as well as seen, in 31 to 34 classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, read_table, resolve_inside, whole_number
from hf_mmintent.data.holdout import HoldOutConfig, hold_out
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig, clips_by_name

_ROOTS = (".", "video", "visual", "audio")
_SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_LISTS = {"train": "my_train.txt", "test": "my_test.txt"}
_LISTED = {"train": 14799, "test": 2597}
_LISTED_CLASSES = tuple(f"class_{i:02}" for i in range(31))


@dataclass
class KineticsSoundsConfig(HoldOutConfig, MediaConfig):
    """Options of Kinetics-Sounds: those of every builder, of the held-out validation split, and of clips."""


class KineticsSounds(MediaBuilder):
    """Kinetics-Sounds (Arandjelović and Zisserman, ICCV 2017): actions that are seen and heard, audio and video.

    Configurations and the expected folder (`data_dir`):

        folders     train/tap dancing/-3Mwkq-7TV4_000002_000012.mp4     the class is the folder's name (default)
                    test/tap dancing/-74csnCOiUs_000000_000010.mp4      or val/…; with both, val/ is the validation split
                    audio/train/tap dancing/….wav                       optional sound files by the same names; the clips
                                                                        may then also be in video/train/… or visual/…
        lists       my_train.txt  my_test.txt                           clip,10,number of the class; without header, from
                                                                        GeWu-Lab/OGM-GE_CVPR2022; 14,799 / 2,597
                    video/…  audio/…                                    clips anywhere below the folder, by their names

    **The number of classes differs between works, so name it beside a result; the builder logs it.** The public lists
    have 31 and do not name them (`class_00` … `class_30`), other code names 33, and its model has 34 outputs. Names of
    folders are sorted, with spaces for underscores, since copies mix both.

    A clip's sound file and video file are matched by their name; one without the other leaves a null, which is counted,
    as clips that do not decode are. A clip without a sound file of its own has the sound of its video. Without a
    validation folder a tenth of the training videos of each class is held out, by YouTube id, chosen with a seed
    (`validation_share`, `validation_seed`). There is no text.

    Columns: `id`, `label`, `dialogue_id` (YouTube id), `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{arandjelovic2017look, title={Look, Listen and Learn}, author={Arandjelovi{\\'c}, Relja and "
        "Zisserman, Andrew}, booktitle={IEEE International Conference on Computer Vision}, year={2017}}"
    )
    HOMEPAGE = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022"
    LICENSE = "MIT on the repository with the lists; each clip has the terms of its YouTube video"
    BUILDER_CONFIG_CLASS = KineticsSoundsConfig
    BUILDER_CONFIGS = [KineticsSoundsConfig(name=name) for name in ("folders", "lists")]
    DEFAULT_CONFIG_NAME = "folders"
    TEXT = False
    COLUMNS = {"dialogue_id": datasets.Value("string")}
    MEDIA = ("audio", "video")

    def label_names(self) -> tuple[str, ...]:
        if self.config.name == "lists":
            return _LISTED_CLASSES
        return tuple(sorted({row["label"] for rows in self.foldered.values() for row in rows}))

    def row_counts(self) -> dict[str, int]:
        return {"test": _LISTED["test"]} if self.config.name == "lists" else {}

    def read_tables(self) -> dict[str, list[Row]]:
        tables = self.foldered if self.config.name == "folders" else self._listed()
        self.report.note(
            f"{self.name}/{self.config.name}: {len(self.label_names())} classes; works on this dataset use 31, 33 or 34."
        )
        if "validation" in tables:
            return tables
        return {**hold_out(tables["train"], self.config, group="dialogue_id"), "test": tables["test"]}

    def _listed(self) -> dict[str, list[Row]]:
        tables = {}
        for split, file in _LISTS.items():
            path = find_file(self.folder, file, f"data/KineticSound/{file}")
            lines = read_table(path, ("clip", "seconds", "label"), header=False)
            tables[split] = [_listed_row(line, line["source"]) for line in lines]
        what = "train + validation"
        check_counts({what: len(tables["train"])}, {what: _LISTED["train"]}, self.config.strict_counts, self.name)
        return tables

    @cached_property
    def foldered(self) -> dict[str, list[Row]]:
        """Rows per split of clips that lie in folders by split and class."""
        tables: dict[str, list[Row]] = {}
        for split, names in _SPLITS.items():
            places: dict[str, list[str]] = {}
            for place in (f"{root}/{name}" for root in _ROOTS for name in names):
                for entry in sorted((self.folder / place).iterdir()) if (self.folder / place).is_dir() else ():
                    if entry.is_dir():
                        resolve_inside(self.folder / place, entry.name)
                        places.setdefault(entry.name.replace("_", " ").strip(), []).append(f"{place}/{entry.name}")
            rows = [
                {**_row(clip, label), "files": files}
                for label, folders in sorted(places.items())
                for clip, files in sorted(clips_by_name(self.folder, folders).items())
            ]
            if rows:
                tables[split] = rows
        if "test" not in tables and "validation" in tables:
            self.report.note(
                f"{self.name}: {self.folder} has no test folder, so its validation folder is the test split."
            )
            tables["test"] = tables.pop("validation")
        if not {"train", "test"} <= tables.keys():
            raise FileNotFoundError(
                f"{self.folder} holds no clips in train/<class>/ and test/<class>/ (or in video/… and audio/…): give the "
                "folder with both, or choose the configuration 'lists'."
            )
        return tables

    @cached_property
    def clips(self) -> Mapping[str, Mapping[str, Path]]:
        """Files by name of the clip, then modality."""
        if self.config.name == "folders":
            return {row["id"]: row["files"] for rows in self.foldered.values() for row in rows}
        return clips_by_name(self.folder)

    def found_media(self) -> tuple[str, ...]:
        return tuple(modality for modality in self.MEDIA if any(modality in files for files in self.clips.values()))

    def media_of(self, row: Row) -> dict[str, Path]:
        return dict(self.clips.get(row["id"], {}))


def _row(clip: str, label: str) -> Row:
    video = clip[:11] if clip[11:12] in ("", "_") else clip  # YouTube ids have 11 characters, `_` among them
    return {"id": clip, "label": label, "dialogue_id": video}


def _listed_row(line: Row, where: str) -> Row:
    if not re.fullmatch(r"[\w-]+", line["clip"], re.ASCII):
        raise DataError(f"{where} names the clip {line['clip']!r}, not a YouTube id with numbers as -3Mwkq-7TV4_2.")
    label = whole_number(line["label"], f"{where}: `label`", len(_LISTED_CLASSES) - 1)
    return {**_row(line["clip"], _LISTED_CLASSES[label]), "source": where}
