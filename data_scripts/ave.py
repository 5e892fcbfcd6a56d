"""AVE: 4,143 audio-visual events of 28 categories, each localised in a clip of ten seconds."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, read_table, resolve_inside, whole_number
from hf_mmintent.data.feature_files import FeatureFile, open_h5, open_h5_rows
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

_CATEGORIES = (  # in the order of Annotations.txt
    "Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane", "Race car, auto racing",
    "Female speech, woman speaking", "Helicopter", "Violin, fiddle", "Flute", "Ukulele", "Frying (food)", "Truck",
    "Shofar", "Motorcycle", "Acoustic guitar", "Train horn", "Clock", "Banjo", "Goat", "Baby cry, infant cry", "Bus",
    "Chainsaw", "Cat", "Horse", "Toilet flush", "Rodents, rats, mice", "Accordion", "Mandolin",
)  # fmt: skip
_FIELDS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_COUNTS = {"train": 3339, "validation": 402, "test": 402}
_FEATURES = {"audio": "audio_feature.h5", "video": "visual_feature.h5"}
_SECONDS = 10
_GRIDS = ("mean", "flatten")


@dataclass
class AveConfig(MediaConfig):
    """
    Options of AVE beside those of clips.

    Args:
        drop_ambiguous (`bool`, defaults to `False`): Leave out the videos with events of two categories.
        video_grid (`str`, defaults to `"mean"`): What becomes of the 7 x 7 places of `visual_feature.h5`: `"mean"` of
            them, 512 wide, or `"flatten"`, 25,088 wide.
    """

    drop_ambiguous: bool = False
    video_grid: str = "mean"


class Ave(MediaBuilder):
    """AVE (Tian et al., ECCV 2018): which of 28 events is heard and seen, and when.

    Expected folder (`data_dir`), where the tables and features may also be in `data/`:

        Annotations.txt                             Category&VideoID&Quality&StartTime&EndTime, with or without this header
        trainSet.txt  valSet.txt  testSet.txt       the same lines by split; or, as in the authors' repository,
        train_order.h5  val_order.h5  test_order.h5     `order`: places in Annotations.txt
        AVE/RUhOCu3LNXM.mp4                         the clips, ten seconds
        audio_feature.h5                            optional; `avadataset` (4143, 10, 128), VGGish, in the order of
        visual_feature.h5                           Annotations.txt; (4143, 10, 7, 7, 512), VGG-19

    Splits 3,339 / 402 / 402. A row is an event: `start_time` and `end_time` are its seconds in the clip, and features are
    cut to them, one step per second. The one event of zero length has its whole clip, with null times, and is counted.

    45 videos have events of two categories, and 18 of these are in two splits, so the id is video and category.
    `drop_ambiguous=True` leaves these videos out of all splits. Labels are in the order of Annotations.txt; other code
    orders them by another file, so compare names, not ids. Clips that are absent or do not decode become null and are
    counted. There is no text.

    Columns: `id`, `label`, `dialogue_id` (video), `start_time`, `end_time`, `audio_features`, `video_features`,
    `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{tian2018audio, title={Audio-Visual Event Localization in Unconstrained Videos}, author={Tian, "
        "Yapeng and Shi, Jing and Li, Bochen and Duan, Zhiyao and Xu, Chenliang}, booktitle={European Conference on "
        "Computer Vision}, year={2018}}"
    )
    HOMEPAGE = "https://github.com/YapengTian/AVE-ECCV18"
    LICENSE = "none stated; the clips come from YouTube"
    BUILDER_CONFIG_CLASS = AveConfig
    BUILDER_CONFIGS = [AveConfig(name="ave")]
    LABELS = _CATEGORIES
    TEXT = False
    COLUMNS = {
        "dialogue_id": datasets.Value("string"),
        "start_time": datasets.Value("float32"),
        "end_time": datasets.Value("float32"),
    }
    MEDIA = ("audio", "video")

    def _find(self, name: str) -> Path:
        return find_file(self.folder, name, f"data/{name}")

    @cached_property
    def events(self) -> list[Row]:
        """All events, in the order of Annotations.txt."""
        return self._lines("Annotations.txt")

    def _lines(self, file: str) -> list[Row]:
        path = self._find(file)
        lines = read_table(path, _FIELDS, delimiter="&", quoted=False, header=None)
        return [_row(line, line["source"]) for line in lines]

    def row_counts(self) -> dict[str, int]:
        return {} if self.config.drop_ambiguous else _COUNTS

    def read_tables(self) -> dict[str, list[Row]]:
        tables = {split: self._split(name) for split, name in _SPLITS.items()}
        if not self.config.drop_ambiguous:
            return tables
        found = {split: len(rows) for split, rows in tables.items()}
        check_counts(found, _COUNTS, self.config.strict_counts, self.name)
        categories: dict[str, set[str]] = defaultdict(set)
        for event in self.events:
            categories[event["dialogue_id"]].add(event["label"])
        double = {video for video, names in categories.items() if len(names) > 1}
        self.report.note(f"{self.name}: {len(double)} videos with events of several categories are left out.")
        return {split: [row for row in rows if row["dialogue_id"] not in double] for split, rows in tables.items()}

    def _split(self, name: str) -> list[Row]:
        if any((self.folder / place / f"{name}Set.txt").is_file() for place in (".", "data")):
            known = {event["id"] for event in self.events}
            rows = self._lines(f"{name}Set.txt")
            for row in rows:
                if row["id"] not in known:
                    raise DataError(f"{name}Set.txt has the event {row['id']!r}, which Annotations.txt does not have.")
            return rows
        path = self._find(f"{name}_order.h5")
        order = np.asarray(open_h5(path).dataset("order")[()])
        if order.ndim != 1 or order.dtype.kind not in "iu" or (order < 0).any() or (order >= len(self.events)).any():
            raise DataError(f"{path}: `order` are not places in the {len(self.events)} lines of Annotations.txt.")
        return [self.events[place] for place in order.tolist()]

    def open_features(self) -> dict[str, FeatureFile]:
        if self.config.video_grid not in _GRIDS:
            raise ValueError(f"`video_grid` is {self.config.video_grid!r}: choose one of {list(_GRIDS)}.")
        keys = [event["id"] for event in self.events]
        changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {"audio": np.asarray, "video": self._places}
        files = {}
        for modality, name in _FEATURES.items():
            for path in (self.folder / name, self.folder / "data" / name):
                if path.is_file() and modality not in files:
                    rows = open_h5_rows(path, "avadataset", keys, changes[modality], "line of Annotations.txt")
                    files[modality] = FeatureFile(rows, modality, self.report, source=str(path))
        return files

    def _places(self, values: np.ndarray) -> np.ndarray:
        """(10, 7, 7, 512) as steps of one vector; another shape is refused by the reader of features."""
        if values.ndim != 4 or values.dtype.kind not in "biuf":
            return values
        grid = values.reshape(len(values), -1, values.shape[-1])
        return grid.mean(1) if self.config.video_grid == "mean" else grid.reshape(len(values), -1)

    def features_of(self, row: Row) -> dict[str, Any]:
        features = super().features_of(row)
        for modality, values in features.items():
            if values is not None and len(values) != _SECONDS:
                raise DataError(
                    f"{self.feature_files[modality].source}: the {modality} features of {row['id']!r} have {len(values)} "
                    f"steps, not one for each of {_SECONDS} seconds."
                )
        if row["start_time"] is None:
            return features
        part = slice(int(row["start_time"]), int(row["end_time"]))
        return {modality: None if values is None else values[part] for modality, values in features.items()}

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if (self.folder / "AVE").is_dir() else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        clip = resolve_inside(self.folder / "AVE", f"{row['dialogue_id']}.mp4")
        return {"audio": clip, "video": clip}


def _row(line: Row, where: str) -> Row:
    if line["Category"] not in _CATEGORIES:
        raise DataError(f"{where} has the category {line['Category']!r}, not one of {list(_CATEGORIES)}.")
    start, end = (
        float(whole_number(line[name], f"{where}: `{name}`, in seconds,", _SECONDS))
        for name in ("StartTime", "EndTime")
    )
    if end < start:
        raise DataError(f"{where} has an event from second {line['StartTime']} to {line['EndTime']}.")
    slug = re.sub(r"[^a-z]+", "-", line["Category"].lower()).strip("-")
    return {
        "id": f"{line['VideoID']}__{slug}",
        "label": line["Category"],
        "dialogue_id": line["VideoID"],
        "start_time": start if end > start else None,
        "end_time": end if end > start else None,
        "source": where,
        "problems": [] if end > start else ["event of zero length, the whole clip taken,"],
    }
