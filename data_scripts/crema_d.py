"""CREMA-D: 7,442 clips of 91 actors who say twelve sentences in six emotions."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, read_table, resolve_inside
from hf_mmintent.data.holdout import HoldOutConfig, hold_out
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

_EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}
_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_[A-Z]+")
_FOLDS = 5
_SPLITS = {"train": 6698, "test": 744}
_SOUND = {"AudioWAV": ".wav", "AudioMP3": ".mp3", "VideoFlash": ".flv"}  # best first: some flv files had no sound


@dataclass
class CremaDConfig(HoldOutConfig, MediaConfig):
    """Options of CREMA-D: those of every builder, of the held-out validation split, and of clips."""


class CremaD(MediaBuilder):
    """CREMA-D (Cao et al., IEEE Transactions on Affective Computing 2014): acted emotions, audio and video.

    Configurations:

        paper               train.csv and test.csv of GeWu-Lab/OGM-GE_CVPR2022, 6,698 / 744 (default). **All 91 actors
                            are in both**, so it measures emotions of voices and faces that were seen in training
        actor_fold0 … 4     the same clips; actors whose id leaves this remainder when divided by 5 are the test

    Expected folder (`data_dir`), of which the tables must be there (for actor folds, SentenceFilenames.csv alone will do):

        train.csv  test.csv                         1001_DFA_ANG_XX,ANG without header; or in data/CREMAD/
        SentenceFilenames.csv                       Stimulus_Number, Filename: all clips of the release
        AudioWAV/1001_DFA_ANG_XX.wav                sound; without this folder AudioMP3/….mp3, else that of the video
        VideoFlash/1001_DFA_ANG_XX.flv              video

    A file is named actor, sentence, emotion, level. The label is the emotion that was to be acted, not the one that
    raters saw. No table names a validation split: a tenth of the training clips of each class is held out, in the actor
    folds a tenth of the training actors, chosen with a seed (`validation_share`, `validation_seed`). There is no text:
    the sentences are the same in all emotions. The media come by Git LFS; a pointer in place of a clip is an error.
    Clips that are absent or do not decode become null and are counted.

    Columns: `id`, `label`, `speaker` (actor), `audio_path`, `video_path`.
    """

    CITATION = (
        "@article{cao2014crema, title={CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset}, author={Cao, Houwei "
        "and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and Nenkova, Ani and Verma, Ragini}, "
        "journal={IEEE Transactions on Affective Computing}, volume={5}, number={4}, year={2014}}"
    )
    HOMEPAGE = "https://github.com/CheyneyComputerScience/CREMA-D"
    LICENSE = "ODbL 1.0, its contents DbCL 1.0"
    BUILDER_CONFIG_CLASS = CremaDConfig
    BUILDER_CONFIGS = [CremaDConfig(name=name) for name in ("paper", *(f"actor_fold{i}" for i in range(_FOLDS)))]
    DEFAULT_CONFIG_NAME = "paper"
    LABELS = tuple(_EMOTIONS.values())
    TEXT = False
    COLUMNS = {"speaker": datasets.Value("string")}
    MEDIA = ("audio", "video")

    def row_counts(self) -> dict[str, int]:
        return {"test": _SPLITS["test"]} if self.config.name == "paper" else {}

    def read_tables(self) -> dict[str, list[Row]]:
        if self.config.name == "paper":
            parts = {split: self._listed(split) for split in _SPLITS}
            self._check("train + validation", len(parts["train"]), _SPLITS["train"])
            return {**hold_out(parts["train"], self.config), "test": parts["test"]}
        rows = self._all_clips()
        self._check("all", len(rows), sum(_SPLITS.values()))
        fold = int(self.config.name[-1])
        test = [row for row in rows if int(row["speaker"]) % _FOLDS == fold]
        training = [row for row in rows if int(row["speaker"]) % _FOLDS != fold]
        return {**hold_out(training, self.config, group="speaker", stratify=None), "test": test}

    def _check(self, what: str, found: int, size: int) -> None:
        check_counts({what: found}, {what: size}, self.config.strict_counts, self.name)

    def _listed(self, split: str) -> list[Row]:
        path = find_file(self.folder, f"{split}.csv", f"data/CREMAD/{split}.csv")
        return [_row(line) for line in read_table(path, ("name", "label"), header=False)]

    def _all_clips(self) -> list[Row]:
        path = self.folder / "SentenceFilenames.csv"
        if not path.is_file():
            return sorted((row for split in _SPLITS for row in self._listed(split)), key=lambda row: row["id"])
        lines = read_table(path, ("Stimulus_Number", "Filename"))
        return [_row({"name": line["Filename"], "source": line["source"]}) for line in lines]

    def found_media(self) -> tuple[str, ...]:
        there = {"audio": self._sound() is not None, "video": (self.folder / "VideoFlash").is_dir()}
        return tuple(modality for modality in self.MEDIA if there[modality])

    def _sound(self) -> str | None:
        return next((name for name in _SOUND if (self.folder / name).is_dir()), None)

    def media_of(self, row: Row) -> dict[str, Path]:
        places = {"audio": self._sound(), "video": "VideoFlash"}
        return {
            modality: resolve_inside(self.folder / place, row["id"] + _SOUND[place])
            for modality, place in places.items()
            if place is not None
        }


def _row(line: Row) -> Row:
    where = line["source"]
    name = _NAME.fullmatch(line["name"])
    if name is None:
        raise DataError(
            f"{where} names the clip {line['name']!r}, not actor_sentence_emotion_level as 1001_DFA_ANG_XX."
        )
    actor, _, emotion = name.groups()
    if emotion not in _EMOTIONS:
        raise DataError(f"{where}: the emotion of {line['name']!r} is {emotion!r}, not one of {list(_EMOTIONS)}.")
    if line.get("label", emotion) != emotion:
        raise DataError(f"{where} gives {line['name']!r} the label {line['label']!r}, but its name says {emotion!r}.")
    return {"id": line["name"], "label": _EMOTIONS[emotion], "speaker": actor, "source": where}
