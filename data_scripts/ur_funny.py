"""UR-FUNNY: punchlines of talks with the sentences before them, humorous or not."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, resolve_inside
from hf_mmintent.data.dialogues import CONTEXT
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig
from hf_mmintent.data.word_features import (
    PARTS,
    HktFile,
    binary_label,
    cut_to_words,
    identifier,
    list_of,
    load_dict,
    sentence,
)

_LABELS = ("not_humorous", "humorous")
_FEATURES = {"audio": "covarep_features_sdk.pkl", "video": "openface_features_sdk.pkl"}
_CLIPS = "urfunny2_videos"
_REMEMBERED = {"v2": {"train": 7614, "validation": 980, "test": 1572}, "hkt": {"test": 994}}


@dataclass
class UrFunnyConfig(MediaConfig):
    """Options of UR-FUNNY: those of every builder and of clips."""


class UrFunny(MediaBuilder):
    """UR-FUNNY (Hasan et al., EMNLP 2019): text, audio and video of punchlines in TED talks, with their context.

    Configurations and the expected folder (`data_dir`); name the one you used, and the number of test rows, with every
    result:

        v2      data_folds.pkl                  train, dev, test -> ids; 10,166 rows in all (default)
                language_sdk.pkl                id -> punchline_sentence, context_sentences, punchline_embedding_indexes …
                humor_label_sdk.pkl             id -> 1 humorous, 0 not
                covarep_features_sdk.pkl        optional; id -> punchline_features (words, 81), context_features
                openface_features_sdk.pkl       optional; id -> punchline_features (words, 371), context_features
                urfunny2_videos/1.mp4           optional; clips of context and punchline together
        hkt     ur_funny.pkl (or dataset/…)     the subset of matalvepu/HKT, to which results that are multiples of
                                                1/994 belong; its humour-centric features are left out

    The first version of the dataset (V1, 16,514 rows) is other data, without sentences, and is not read. The files do not
    name the talks or the speakers: whether they are in two splits cannot be checked.

    `text` is the punchline, `context` the sentences before it. Features are means per word of the punchline; those of
    the context are left out. Where the numbers of words and of vectors differ, features are cut to the fewest and the
    row is counted; so are missing sentences and features, which are null.

    Columns: `id`, `text`, `label`, `context`, `audio_features`, `video_features`, `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{hasan2019urfunny, title={UR-FUNNY: A Multimodal Language Dataset for Understanding Humor}, "
        "author={Hasan, Md Kamrul and Rahman, Wasifur and Zadeh, AmirAli Bagher and Zhong, Jianyuan and Tanveer, Md "
        "Iftekhar and Morency, Louis-Philippe and Hoque, Mohammed (Ehsan)}, booktitle={Conference on Empirical Methods "
        "in Natural Language Processing}, year={2019}}"
    )
    HOMEPAGE = "https://github.com/ROC-HCI/UR-FUNNY"
    LICENSE = "none stated; the talks belong to TED"
    BUILDER_CONFIG_CLASS = UrFunnyConfig
    BUILDER_CONFIGS = [UrFunnyConfig(name=name) for name in _REMEMBERED]
    DEFAULT_CONFIG_NAME = "v2"
    LABELS = _LABELS
    COLUMNS = {"context": CONTEXT}
    MEDIA = ("audio", "video")

    @cached_property
    def hkt(self) -> HktFile:
        """The open file of the `hkt` configuration."""
        path = find_file(self.folder, "ur_funny.pkl", "dataset/ur_funny.pkl")
        return HktFile(path, self.report, _LABELS, self.config.trust_pickle)

    def read_tables(self) -> dict[str, list[Row]]:
        tables = self.hkt.rows if self.config.name == "hkt" else self._official()
        found = {split: len(rows) for split, rows in tables.items()}
        check_counts(found, _REMEMBERED[self.config.name], False, self.name)
        return tables

    def _official(self) -> dict[str, list[Row]]:
        folds, language, labels = (self._load(name) for name in ("data_folds", "language_sdk", "humor_label_sdk"))
        tables = {}
        for split, part in PARTS.items():
            if part not in folds:
                raise DataError(f"data_folds.pkl has the parts {list(folds)}, not {list(PARTS.values())}.")
            where = f"data_folds.pkl: `{part}`"
            keys = [identifier(key, f"{where}, entry {i},") for i, key in enumerate(list_of(folds[part], where))]
            if not keys:
                raise DataError(f"{where} has no rows: it is not the official file.")
            tables[split] = [self._row(key, language, labels) for key in keys]
        found = {"all": sum(len(rows) for rows in tables.values())}
        check_counts(found, {"all": 10166}, self.config.strict_counts, self.name)
        return tables

    def _load(self, name: str) -> dict[Any, Any]:
        return load_dict(find_file(self.folder, f"{name}.pkl"), self.config.trust_pickle)

    @staticmethod
    def _row(key: Any, language: dict[Any, Any], labels: dict[Any, Any]) -> Row:
        if key not in labels:
            raise DataError(f"humor_label_sdk.pkl has no label of {key!r}, which data_folds.pkl names.")
        label = binary_label(labels[key], f"humor_label_sdk.pkl: the label of {key!r}")
        row = {"id": str(key), "key": key, "label": _LABELS[label], "text": None, "context": [], "words": 0,
               "source": "data_folds.pkl"}  # fmt: skip
        entry = language.get(key)
        if entry is None:
            return {**row, "problems": ["text missing"]}
        where = f"language_sdk.pkl: of {key!r}"
        for field in ("punchline_sentence", "context_sentences"):
            if not isinstance(entry, dict) or field not in entry:
                raise DataError(f"{where} there is no `{field}`: this is not the file of UR-FUNNY V2.")
        row["text"] = sentence(entry["punchline_sentence"], f"{where} `punchline_sentence`")
        turns = list_of(entry["context_sentences"], f"{where} `context_sentences`")
        row["context"] = [{"speaker": None, "text": sentence(turn, f"{where} `context_sentences`")} for turn in turns]
        words = entry.get("punchline_embedding_indexes", row["text"].split())
        row["words"] = len(list_of(words, f"{where} `punchline_embedding_indexes`"))
        return row

    def open_features(self) -> dict[str, FeatureFile]:
        if self.config.name == "hkt":
            return self.hkt.feature_files()
        options = {"field": "punchline_features", "trust_pickle": self.config.trust_pickle}
        paths = {modality: self.folder / name for modality, name in _FEATURES.items()}
        return {name: FeatureFile(path, name, self.report, **options) for name, path in paths.items() if path.is_file()}

    def features_of(self, row: Row) -> dict[str, Any]:
        features = {modality: file.get(row["key"]) for modality, file in self.feature_files.items()}
        return cut_to_words(features, row["words"], self.report, row["id"])

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if self.config.name == "v2" and (self.folder / _CLIPS).is_dir() else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        clip = resolve_inside(self.folder / _CLIPS, f"{row['id']}.mp4")
        return {"audio": clip, "video": clip}
