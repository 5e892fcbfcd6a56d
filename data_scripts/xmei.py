"""XMEI: 15,461 clips with an emotion, an intent, a description of each modality and the reasons for both labels."""

import json
from pathlib import Path
from typing import Any

import datasets

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, read_json, read_text, resolve_inside
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig
from hf_mmintent.modeling.answer_format import EMOTIONS, INTENTS

_LABELS = {"intent": INTENTS, "emotion": EMOTIONS}
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_TEXTS = {  # column to field of the annotations
    "text": "subtitle",
    "audio_caption": "audio_description",
    "video_caption": "video_description",
    "emotion_reason": "emotion_reason",
    "intent_reason": "intent_reason",
    "joint_reason": "explanation",
}
_FILES = {"audio": ("audio_path", "audios", ".wav"), "video": ("video_path", "videos", ".mp4")}


class Xmei(MediaBuilder):
    """XMEI (dataset of JX4MEI and XMEI-Qwen): emotion, intent and the reasons for them, from text, audio and video.

    Configurations: the label is the `intent` (9 classes, default) or the `emotion` (7 classes) of the same rows. Both are
    columns in either case.

    Expected folder (`data_dir`), of which only the annotations must be there:

        annotations/
            train.json  val.json  test.json     a list of entries (or .jsonl, one per line): video_id, video_path,
                                                audio_path, subtitle, emotion, intent, video_description,
                                                audio_description, emotion_reason, intent_reason, explanation
        videos/                                 where the entries' `video_path` leads, or videos/<video_id>.mp4
        audios/                                 the same for `audio_path` and .wav; without it the video's sound

    15,461 clips in all; the sizes of the splits were not published. The release names a training and a validation file
    but reports a test: without `test.json` the validation split is the test, and the builder says so. Then choose
    nothing on it.

    Labels are compared in lower case. `text` is the subtitle, in capitals; `joint_reason` is verbatim and begins with a
    sentence that names both labels. Captions are texts of the dataset, not a captioner's. Texts that are missing, and
    clips that are absent or do not decode, become null and are counted.

    Columns: `id`, `text`, `label`, `emotion`, `intent`, `audio_caption`, `video_caption`, `emotion_reason`,
    `intent_reason`, `joint_reason`, `audio_path`, `video_path`.
    """

    CITATION = (
        "@misc{jx4mei, title={JX4MEI: Multimodal Semantically-Enhanced LLM for Joint Multimodal Emotion-Intent "
        "Explanation and Classification}, howpublished={https://github.com/JX4MEI/JX4MEI}}"
    )
    HOMEPAGE = "https://github.com/JX4MEI/JX4MEI"
    LICENSE = "none stated; the clips belong to their broadcasters"
    BUILDER_CONFIG_CLASS = MediaConfig
    BUILDER_CONFIGS = [MediaConfig(name=name) for name in _LABELS]
    DEFAULT_CONFIG_NAME = "intent"
    COLUMNS = dict.fromkeys(
        ("emotion", "intent", *(name for name in _TEXTS if name != "text")), datasets.Value("string")
    )
    MEDIA = ("audio", "video")

    def label_names(self) -> tuple[str, ...]:
        return _LABELS[self.config.name]

    def read_tables(self) -> dict[str, list[Row]]:
        tables = {}
        for split, name in _SPLITS.items():
            files = [f"annotations/{name}.json", f"annotations/{name}.jsonl"]
            if split == "test" and not any((self.folder / file).is_file() for file in files):
                self.report.note(f"{self.name}: {self.folder} has no {files[0]}, so the validation split is the test.")
                continue
            path = find_file(self.folder, *files)
            tables[split] = [self._row(entry, where) for where, entry in _entries(path)]
        found = {"all": sum(len(rows) for rows in tables.values())}
        check_counts(found, {"all": 15461}, False, self.name)  # from the paper, not counted: never an error
        return tables

    def _row(self, entry: Any, where: str) -> Row:
        if not isinstance(entry, dict):
            raise DataError(f"{where} is a {type(entry).__name__}, not an object with the fields of a clip.")
        for field in ("video_id", *_LABELS, "video_path", "audio_path", *_TEXTS.values()):
            if not isinstance(entry.get(field), (str, type(None))):
                raise DataError(f"{where}: `{field}` is {entry[field]!r}, not a text.")
        if not entry.get("video_id"):
            raise DataError(f"{where} has no `video_id`.")
        row: Row = {"id": entry["video_id"], "problems": [], "files": entry, "source": where}
        for field, names in _LABELS.items():
            row[field] = (entry.get(field) or "").strip().lower()
            if row[field] not in names:
                raise DataError(f"{where} ({row['id']}): `{field}` is {entry.get(field)!r}, not one of {list(names)}.")
        for column, field in _TEXTS.items():
            row[column] = entry.get(field) or None
            if row[column] is None:
                row["problems"].append(f"{column} missing")
        return {**row, "label": row[self.config.name]}

    def found_media(self) -> tuple[str, ...]:
        there = {modality: (self.folder / folder).is_dir() for modality, (_, folder, _) in _FILES.items()}
        return tuple(modality for modality in self.MEDIA if there[modality] or there["video"])

    def media_of(self, row: Row) -> dict[str, Path]:
        paths = {modality: self._file(row, *_FILES[modality]) for modality in self.MEDIA}
        if not (self.folder / "audios").is_dir():
            paths["audio"] = paths["video"]
        return paths

    def _file(self, row: Row, field: str, folder: str, ending: str) -> Path:
        """Paths of the annotations are relative to the dataset or to the folder of the modality."""
        name = row["files"].get(field) or f"{row['id']}{ending}"
        direct, below = resolve_inside(self.folder, name), resolve_inside(self.folder, f"{folder}/{name}")
        return direct if direct.is_file() else below


def _entries(path: Path) -> list[tuple[str, Any]]:
    """Where each entry is, for errors, and the entry."""
    if path.suffix == ".json":
        return [(f"{path} entry {number}", entry) for number, entry in enumerate(read_json(path, list), 1)]
    entries = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            entries += [(f"{path} line {number}", json.loads(line))] if line.strip() else []
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is truncated or not JSON: {error}.") from error
    if not entries:
        raise DataError(f"{path} has no rows: it is not the official file.")
    return entries
