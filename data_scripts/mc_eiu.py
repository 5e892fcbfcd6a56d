"""MC-EIU: utterances of dialogues in English and Mandarin with an emotion and an intent, as features of three modalities."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_mmintent.data.builder import MultimodalBuilder, MultimodalConfig
from hf_mmintent.data.checks import DataError, Row, find_file
from hf_mmintent.data.feature_files import FeatureFile, load_npy, open_h5
from hf_mmintent.modeling.answer_format import EMOTIONS, INTENTS

_LABELS = {"intent": INTENTS, "emotion": EMOTIONS}
_SPLITS = {"train": "trn", "validation": "val", "test": "tst"}
_FOLDERS = {"audio": "A", "video": "V", "lexical": "L"}
_FOLDS = range(1, 11)
_NAME = re.compile(r"([^_]+_[^_]+)_(\d+)")


@dataclass
class McEiuConfig(MultimodalConfig):
    """
    Options of MC-EIU beside those of every builder.

    Args:
        audio_type, video_type, lexical_type (`str`, *optional*): Name of the feature file, e.g. `"wav2vec"` for
            `A/wav2vec.h5`; must be given where a folder holds several.
    """

    audio_type: str | None = None
    video_type: str | None = None
    lexical_type: str | None = None


class McEiu(MultimodalBuilder):
    """MC-EIU (Liu et al., 2024, arXiv:2407.02751): emotion and intent of utterances in conversations, from features.

    Configurations: `intent_fold1` … `intent_fold10` (9 classes) and `emotion_fold1` … `emotion_fold10` (7 classes), the
    label and the fold of the release. Both labels are columns in either case.

    Expected folder (`data_dir`), one for English and one for Mandarin, of which only the targets of the fold must be
    there:

        target/1/                               … target/10/
            trn_int2name.npy                    names of the utterances, <a>_<b>_<turn>; also val_ and tst_
            trn_emotion_label.npy               (N, 7) one-hot, in the order of the names
            trn_intent_label.npy                (N, 9) one-hot
        A/wav2vec.h5                            name -> (frames, 512)
        V/ResNet-50.h5                          name -> (frames, 342)
        L/RoBERTa_base.h5                       name -> (tokens, 768)
        Speaker/speaker.h5                      name -> number of the speaker in the dialogue

    The release has no text: `lexical_features` are a further modality, for models that take it. Sizes were not
    published, so no number of rows is checked. `dialogue_id` is the first two parts of the name; the builder warns of
    dialogues in two splits. Features and speakers that are missing become null and are counted.

    Columns: `id`, `label`, `emotion`, `intent`, `speaker`, `dialogue_id`, `audio_features`, `video_features`,
    `lexical_features`.
    """

    CITATION = (
        "@article{liu2024emotion, title={Emotion and Intent Joint Understanding in Multimodal Conversation: A "
        "Benchmarking Dataset}, author={Liu, Rui and Zuo, Haolin and Lian, Zheng and Xing, Xiaofen and Schuller, "
        'Bj{\\"o}rn W. and Li, Haizhou}, journal={arXiv:2407.02751}, year={2024}}'
    )
    HOMEPAGE = "https://github.com/MC-EIU/MC-EIU"
    LICENSE = "CC BY-NC 4.0"
    BUILDER_CONFIG_CLASS = McEiuConfig
    BUILDER_CONFIGS = [McEiuConfig(name=f"{label}_fold{fold}") for label in _LABELS for fold in _FOLDS]
    DEFAULT_CONFIG_NAME = "intent_fold1"
    TEXT = False
    COLUMNS = dict.fromkeys(("emotion", "intent", "speaker", "dialogue_id"), datasets.Value("string"))

    @property
    def target(self) -> str:
        """`"intent"` or `"emotion"`."""
        return self.config.name.partition("_")[0]

    def label_names(self) -> tuple[str, ...]:
        return _LABELS[self.target]

    def read_tables(self) -> dict[str, list[Row]]:
        return {split: self._rows(part) for split, part in _SPLITS.items()}

    def _rows(self, part: str) -> list[Row]:
        fold = self.config.name.rpartition("fold")[2]
        path = find_file(self.folder, f"target/{fold}/{part}_int2name.npy")
        names = [_decoded(name, f"{path} row {i}") for i, name in enumerate(np.ravel(load_npy(path)).tolist())]
        labels = {
            field: _one_hot(path, path.with_name(f"{part}_{field}_label.npy"), names, _LABELS[field])
            for field in _LABELS
        }
        rows = []
        for place, name in enumerate(names):
            match = _NAME.fullmatch(name)
            if match is None:
                raise DataError(f"{path} row {place} is the name {name!r}, not <a>_<b>_<turn>: not the official file.")
            row = {"id": name, "dialogue_id": match[1], **{field: found[place] for field, found in labels.items()}}
            speaker = self.speakers.get(name)
            problems = ["speaker missing"] if self.speakers and speaker is None else []
            more = {"label": row[self.target], "speaker": speaker, "problems": problems}
            rows.append({**row, **more, "source": f"{path} row {place}"})
        return rows

    @cached_property
    def speakers(self) -> dict[str, str]:
        """Speaker by name of the utterance, with the dialogue, in which alone the numbers hold."""
        path = self.folder / "Speaker" / "speaker.h5"
        if not path.is_file():
            return {}
        file = open_h5(path)
        speakers = {}
        for name in file:
            value = np.asarray(file.dataset(name)[()]).reshape(-1)
            if value.size != 1:
                raise DataError(f"{path}: the speaker of {name!r} has {value.size} values, not one.")
            speaker = _decoded(value[0].item(), f"{path}: the speaker of {name!r}")
            speakers[name] = f"{name.rpartition('_')[0]}_{speaker}"
        return speakers

    def open_features(self) -> dict[str, FeatureFile]:
        named = {"audio": self.config.audio_type, "video": self.config.video_type, "lexical": self.config.lexical_type}
        files = {}
        for modality, folder in _FOLDERS.items():
            found = sorted((self.folder / folder).glob("*.h5"))
            if named[modality] is not None:
                found = [path for path in found if path.stem == named[modality]]
                if not found:
                    raise FileNotFoundError(f"{self.folder / folder / str(named[modality])}.h5 does not exist.")
            if len(found) > 1:
                raise DataError(
                    f"{self.folder / folder} holds {[path.stem for path in found]}: choose one with `{modality}_type`."
                )
            if found:
                files[modality] = FeatureFile(found[0], modality, self.report)
        return files


def _decoded(value: Any, where: str) -> str:
    """A name or a number as text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is {value!r}, which is not UTF-8.") from error
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise DataError(f"{where} is {value!r:.60}, neither a name nor a number.")
    return str(value)


def _one_hot(named: Path, path: Path, names: list[str], labels: tuple[str, ...]) -> list[str]:
    """Label names of a one-hot array, whose rows are in the order of the names in another file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the folder of a fold holds names and both labels.")
    array = np.asarray(load_npy(path))
    if array.dtype.kind not in "biuf" or array.shape != (len(names), len(labels)):
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}, not ({len(names)}, {len(labels)}) numbers, one row for each "
            f"name in {named.name}."
        )
    wrong = np.flatnonzero(((array != 0) & (array != 1)).any(1) | (array.sum(1) != 1))
    if wrong.size:
        place = int(wrong[0])
        raise DataError(f"{path} row {place} ({names[place]}) is {array[place].tolist()}, not one-hot.")
    return [labels[place] for place in array.argmax(1).tolist()]
