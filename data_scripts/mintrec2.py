"""MIntRec2.0: 15,040 utterances of dialogues from three television series with one of 30 intents or none of them."""

from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from hf_mmintent.data.checks import (
    DataError,
    Row,
    check_counts,
    find_file,
    read_table,
    resolve_inside,
    source,
    whole_number,
)
from hf_mmintent.data.dialogues import CONTEXT, previous_turns
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

_LABELS = (
    "Acknowledge", "Advise", "Agree", "Apologise", "Arrange", "Ask for help", "Asking for opinions", "Care", "Comfort",
    "Complain", "Confirm", "Criticize", "Doubt", "Emphasize", "Explain", "Flaunt", "Greet", "Inform", "Introduce",
    "Invite", "Joke", "Leave", "Oppose", "Plan", "Praise", "Prevent", "Refuse", "Taunt", "Thank", "Warn",
)  # fmt: skip
_UNKNOWN = "UNK"
_FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
_PARTS = {"in-scope": "in-scope", "out-of-scope": "out-of-scope/MIntRec2.0-OOD", "total": "total"}
_FEATURES = {"audio": "audio_data/wavlm_feats_binary.pkl", "video": "video_data/swin_roi_binary.pkl"}
_IN_SCOPE = {"train": 6165, "validation": 1106, "test": 2033}
# The split sizes of the out-of-scope part are not verified, only their sums.
_REMEMBERED = {
    "in_scope": {},
    "oos": {"test": 2033 + 1197},
    "total31": {"train": 9989, "validation": 1821, "test": 3230},
}


class MIntRec2(MediaBuilder):
    """MIntRec2.0 (Zhang et al., ICLR 2024): text, audio and video of dialogues, 30 intents and out-of-scope turns.

    Configurations; name the one you used with every result:

        in_scope    30 intents, 6,165 / 1,106 / 2,033 rows (default)
        oos         trained and validated as in_scope; the test adds the out-of-scope turns, labelled UNK (id 30)
        total31     all turns, UNK is a 31st class in every split

    Expected folder (`data_dir`); a configuration needs the tables of the parts it reads:

        in-scope/train.tsv  dev.tsv  test.tsv
        in-scope/audio_data/wavlm_feats_binary.pkl       key dia0_utt3 -> frames of 768 numbers (WavLM)
        in-scope/video_data/swin_roi_binary.pkl          key -> frames of 256 numbers (Swin, region of the speaker)
        out-of-scope/MIntRec2.0-OOD/…                    the same, for the turns without an intent
        total/…                                          the same, for all turns
        raw_data/dia0_utt3.mp4                           the clips

    Labels keep the official order; other code bases order them differently, so compare names, not ids. Columns of the
    tables are read by position, since the header of the last one differs between copies. Utterance ids have gaps in
    `in-scope`, so `context` (earlier turns) is taken from the tables of `total` where they are there and else is null.
    Speaker names are verbatim, with placeholders (`superstore person1`) and variants (`Gleen` beside `Glenn`). The
    times in the tables are those of the episode, not of the clip, and are left out. 75 training texts, mostly
    greetings, recur in the in-scope test. Clips that are absent or do not decode become null and are counted.

    Columns: `id`, `text`, `label`, `speaker`, `dialogue_id`, `context`, `audio_features`, `video_features`,
    `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{zhang2024mintrec2, title={MIntRec2.0: A Large-scale Benchmark Dataset for Multimodal Intent "
        "Recognition and Out-of-scope Detection in Conversations}, author={Zhang, Hanlei and Wang, Xin and Xu, Hua "
        "and Zhou, Qianrui and Gao, Kai and Su, Jianhua and Zhao, Jinyue and Li, Wenrui and Chen, Yanting}, "
        "booktitle={International Conference on Learning Representations}, year={2024}}"
    )
    HOMEPAGE = "https://github.com/thuiar/MIntRec2.0"
    LICENSE = "CC BY-NC-SA 4.0 on the repository, CC BY-SA 4.0 on its dataset card; the clips belong to broadcasters"
    BUILDER_CONFIG_CLASS = MediaConfig
    BUILDER_CONFIGS = [MediaConfig(name=name) for name in _REMEMBERED]
    DEFAULT_CONFIG_NAME = "in_scope"
    COLUMNS = {"speaker": datasets.Value("string"), "dialogue_id": datasets.Value("string"), "context": CONTEXT}
    MEDIA = ("audio", "video")

    def label_names(self) -> tuple[str, ...]:
        return _LABELS if self.config.name == "in_scope" else (*_LABELS, _UNKNOWN)

    def row_counts(self) -> dict[str, int]:
        verified = {"in_scope": ("train", "validation", "test"), "oos": ("train", "validation"), "total31": ()}
        return {split: _IN_SCOPE[split] for split in verified[self.config.name]}

    def read_tables(self) -> dict[str, list[Row]]:
        parts = {split: self._parts(split) for split in _FILES}
        tables = {split: [row for part in parts[split] for row in self._rows(part, split)] for split in _FILES}
        found = {split: len(rows) for split, rows in tables.items()}
        check_counts(found, _REMEMBERED[self.config.name], False, self.name)
        if self.config.name == "oos":
            self._check_scopes(tables["test"])
        return {
            split: [{**row, "context": self.contexts.get(row["id"])} for row in rows] for split, rows in tables.items()
        }

    def _parts(self, split: str) -> tuple[str, ...]:
        if self.config.name == "total31":
            return ("total",)
        return ("in-scope", "out-of-scope") if self.config.name == "oos" and split == "test" else ("in-scope",)

    @staticmethod
    def _check_scopes(rows: list[Row]) -> None:
        for row in rows:
            if (row["label"] == _UNKNOWN) != (row["part"] == "out-of-scope"):
                raise DataError(
                    f"{source(row)}row {row['id']!r} of {row['part']} has the label {row['label']!r}: turns of out-of-scope, "
                    f"and no others, are labelled {_UNKNOWN!r} in the official files."
                )

    def _rows(self, part: str, split: str) -> list[Row]:
        path = find_file(self.folder, f"{_PARTS[part]}/{_FILES[split]}")
        return [_row(line, part) for line in read_table(path, 8, delimiter="\t", quoted=False)]

    @cached_property
    def contexts(self) -> dict[str, list[dict[str, str]]]:
        """Earlier turns by id; empty without the tables of `total`."""
        there = [split for split, file in _FILES.items() if (self.folder / _PARTS["total"] / file).is_file()]
        return previous_turns(row for split in there for row in self._rows("total", split))

    @cached_property
    def _part_features(self) -> dict[str, dict[str, FeatureFile]]:
        parts = dict.fromkeys(part for split in _FILES for part in self._parts(split))
        return {part: self._open_part(part) for part in parts}

    def _open_part(self, part: str) -> dict[str, FeatureFile]:
        paths = {name: self.folder / _PARTS[part] / file for name, file in _FEATURES.items()}
        return {
            name: FeatureFile(path, name, self.report, trust_pickle=self.config.trust_pickle)
            for name, path in paths.items()
            if path.is_file()
        }

    def open_features(self) -> dict[str, FeatureFile]:
        parts = list(self._part_features.items())
        first, files = parts[0]
        for part, others in parts[1:]:
            found = [{name: file.width for name, file in some.items()} for some in (files, others)]
            if found[0] != found[1]:
                raise DataError(
                    f"{first} has features of the widths {found[0]}, {part} {found[1]}: both parts must have the same "
                    "extraction."
                )
        return files

    def features_of(self, row: Row) -> dict[str, Any]:
        if not self.feature_files:
            return {}
        return {name: file.get(row["id"]) for name, file in self._part_features[row["part"]].items()}

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if (self.folder / "raw_data").is_dir() else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        clip = resolve_inside(self.folder / "raw_data", f"{row['id']}.mp4")
        return {"audio": clip, "video": clip}


def _row(line: Row, part: str) -> Row:
    whole_number(line["0"], f"{line['source']}: the dialogue id")
    dialogue = f"dia{line['0']}"
    return {
        "id": f"{dialogue}_utt{line['1']}",
        "text": line["2"],
        "label": line["3"],
        "speaker": line["7"],
        "dialogue_id": dialogue,
        "turn": whole_number(line["1"], f"{line['source']}: the utterance id"),
        "part": part,
        "source": line["source"],
    }
