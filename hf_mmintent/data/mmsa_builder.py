"""What CMU-MOSI and CMU-MOSEI share: MMSA publishes the features and the clips of both in the same layout."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets

from hf_mmintent.data.checks import DataError, Row, find_file, number, read_table, resolve_inside
from hf_mmintent.data.media_files import MediaBuilder
from hf_mmintent.data.mmsa_files import SPLITS, MmsaFile

_COLUMNS = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")
_MODES = {part: split for split, part in SPLITS.items()}


class MmsaBuilder(MediaBuilder):
    """
    Base of the builders whose files are those of MMSA; their `config` has the options of `MediaConfig`.

    The configurations `aligned` and `unaligned` read a pickle of features, `raw` the table of the clips. Rows of all three
    have the paths of the clips where the folder holds `Raw/`.

    Attributes:
        RELEASE: Name of the dataset's folder in MMSA's release.
        SHA256: Of the official pickles, by configuration.
    """

    RELEASE: ClassVar[str] = ""
    SHA256: ClassVar[Mapping[str, str]] = {}
    LABEL_RANGE = (-3.0, 3.0)
    COLUMNS = {"dialogue_id": datasets.Value("string")}
    MEDIA = ("audio", "video")

    @cached_property
    def mmsa(self) -> MmsaFile:
        """The open pickle of the `aligned` or `unaligned` configuration."""
        file = f"{self.config.name}_50.pkl"
        path = find_file(self.folder, file, f"Processed/{file}", f"{self.RELEASE}/Processed/{file}")
        return MmsaFile(path, self.report, self.SHA256[self.config.name], self.config.trust_pickle)

    @property
    def has_mmsa_features(self) -> bool:
        """Whether rows have the features of a pickle."""
        return self.config.name in self.SHA256 and self.config.wants("features")

    def read_tables(self) -> dict[str, list[Row]]:
        if self.config.name in self.SHA256:
            return {split: self.mmsa.rows(split) for split in SPLITS}
        return self._listed()

    def feature_widths(self) -> dict[str, int]:
        return self.mmsa.widths if self.has_mmsa_features else super().feature_widths()

    def features_of(self, row: Row) -> dict[str, Any]:
        return self.mmsa.features(row) if self.has_mmsa_features else super().features_of(row)

    # ---- the clips

    def _listed(self) -> dict[str, list[Row]]:
        """Rows of `label.csv`."""
        path = find_file(self.folder, "label.csv", f"{self.RELEASE}/label.csv")
        tables: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for line in read_table(path, _COLUMNS):
            where = line["source"]
            if line["mode"] not in _MODES:
                raise DataError(f"{where} has the `mode` {line['mode']!r}, not one of {list(_MODES)}.")
            if not line["video_id"] or not line["clip_id"]:
                raise DataError(f"{where} names no clip: `video_id` is {line['video_id']!r}, `clip_id` "
                                f"{line['clip_id']!r}.")  # fmt: skip
            tables[_MODES[line["mode"]]].append(
                {
                    "id": f"{line['video_id']}$_${line['clip_id']}",
                    "text": line["text"],
                    "label": number(line["label"], f"{where}: `label`"),
                    "dialogue_id": line["video_id"],
                    "source": where,
                }
            )
        return tables

    @cached_property
    def clip_folder(self) -> Path | None:
        """`Raw/`, with one folder per video; `None` where it is absent."""
        places = (self.folder / "Raw", self.folder / self.RELEASE / "Raw")
        return next((place for place in places if place.is_dir()), None)

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if self.clip_folder is not None else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        assert self.clip_folder is not None  # without it no row is asked for its clip
        clip = resolve_inside(self.clip_folder, row["id"].replace("$_$", "/") + ".mp4")
        return {"audio": clip, "video": clip}
