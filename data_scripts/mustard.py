"""MUStARD: 690 utterances of four television series, half of them sarcastic, with the turns before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_mmintent.data.builder import MultimodalBuilder, MultimodalConfig
from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, read_json
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.safe_pickle import load_pickle
from hf_mmintent.data.word_features import HktFile, cut_to_words, list_of

_FIELDS = {"utterance": str, "speaker": str, "context": list, "context_speakers": list, "show": str, "sarcasm": bool}
_FOLDS = 5
_TABLE = ("data/sarcasm_data.json", "sarcasm_data.json")
_AUDIO = ("data/audio_features.p", "audio_features.p")
_VIDEO = ("data/features/utterances_final/resnet_pool5.hdf5", "features/utterances_final/resnet_pool5.hdf5")


@dataclass
class MustardConfig(MultimodalConfig):
    """
    Options of MUStARD beside those of every builder.

    Args:
        validation_share (`float`, defaults to 0.1): Part of the training rows of each label that is held out for
            validation; 0 for none.
        validation_seed (`int`, defaults to 0): Of the choice of these rows.
        fold_seed (`int`, defaults to 0): Of the folds of `own_fold0` … `own_fold4`.
    """

    validation_share: float = 0.1
    validation_seed: int = 0
    fold_seed: int = 0


class Mustard(MultimodalBuilder):
    """MUStARD (Castro et al., ACL 2019): 345 sarcastic and 345 other utterances of four television series.

    Expected folder (`data_dir`), of which only the table must be there, and `split_indices.p` for the official folds:

        sarcasm_data.json                   id 1_60 -> utterance, speaker, context, context_speakers, show, sarcasm
        split_indices.p                     five pairs (training, test) of positions in the table
        audio_features.p                    id -> (283, frames), stored transposed
        features/utterances_final/resnet_pool5.hdf5    id -> frames of 2,048 numbers

    all of them also below `data/`, as in the official repository.

    Configurations:

        fold0 … fold4           the official folds, 552 / 138
        own_fold0 … own_fold4   folds of this package, stratified by label and drawn with `fold_seed`, 552 / 138; for
                                folders without `split_indices.p`. Not the official folds: say so beside a result
        speaker_independent     test on FRIENDS (356), train on the three other series (334)
        hkt                     the three-way split of matalvepu/HKT, test 68, with its features per word (81 and 371
                                wide) from mustard.pkl (or dataset/…); series and speakers, where the table is there

    The release has no validation split: by default a tenth of the training rows of each label is held out, chosen with
    a seed (`validation_share`, `validation_seed`). In every configuration it shares speakers with the training rows.
    The series gives the label away: 53 of the 54 utterances of GOLDENGIRLS and SARCASMOHOLICS are sarcastic. The folds
    share speakers and series between training and test. A published score on 68 test rows belongs to `hkt`, which has
    its own validation rows; never compare it with those of the folds.

    Columns: `id`, `text`, `label`, `speaker`, `dialogue_id` (the series), `context` (earlier turns, oldest first),
    `audio_features`, `video_features`.
    """

    CITATION = (
        "@inproceedings{castro2019towards, title={Towards Multimodal Sarcasm Detection (An \\_Obviously\\_ Perfect "
        "Paper)}, author={Castro, Santiago and Hazarika, Devamanyu and P{\\'e}rez-Rosas, Ver{\\'o}nica and Zimmermann, "
        "Roger and Mihalcea, Rada and Poria, Soujanya}, booktitle={Annual Meeting of the Association for Computational "
        "Linguistics}, year={2019}}"
    )
    HOMEPAGE = "https://github.com/soujanyaporia/MUStARD"
    LICENSE = "MIT on the repository; the dialogue belongs to its broadcasters"
    BUILDER_CONFIG_CLASS = MustardConfig
    BUILDER_CONFIGS = [
        *(MustardConfig(name=f"{kind}{fold}") for kind in ("fold", "own_fold") for fold in range(_FOLDS)),
        MustardConfig(name="speaker_independent"),
        MustardConfig(name="hkt"),
    ]
    DEFAULT_CONFIG_NAME = "fold0"
    LABELS = ("not_sarcastic", "sarcastic")
    COLUMNS = {
        "speaker": datasets.Value("string"),
        "dialogue_id": datasets.Value("string"),
        "context": [{"speaker": datasets.Value("string"), "text": datasets.Value("string")}],
    }

    def row_counts(self) -> dict[str, int]:
        if self.is_hkt:
            return {}
        return {"test": 356 if self.config.name == "speaker_independent" else 138}

    @cached_property
    def rows(self) -> list[Row]:
        """All rows in the order of the table, to which the official folds refer."""
        path = find_file(self.folder, *_TABLE)
        rows = [_row(key, item, path) for key, item in read_json(path).items()]
        counts = {name: sum(row["label"] == name for row in rows) for name in self.LABELS}
        check_counts(counts, dict.fromkeys(self.LABELS, 345), self.config.strict_counts, self.name)
        return rows

    def read_tables(self) -> dict[str, list[Row]]:
        if self.is_hkt:
            return self._hkt_tables()
        training, test = self._positions()
        held_out = self._validation(training)
        splits = {"train": [i for i in training if i not in held_out], "validation": sorted(held_out), "test": test}
        return {split: [self.rows[i] for i in part] for split, part in splits.items() if part or split != "validation"}

    def _positions(self) -> tuple[list[int], list[int]]:
        """Positions of the training and of the test rows."""
        if self.config.name == "speaker_independent":
            test = {i for i, row in enumerate(self.rows) if row["dialogue_id"] == "FRIENDS"}
        elif self.config.name.startswith("own_fold"):
            test = self._own_fold(int(self.config.name[-1]))
        else:
            return self._official_fold(int(self.config.name[-1]))
        return [i for i in range(len(self.rows)) if i not in test], sorted(test)

    def _own_fold(self, fold: int) -> set[int]:
        test: set[int] = set()
        for order in self._shuffled(range(len(self.rows)), self.config.fold_seed):
            test.update(order[fold::_FOLDS])
        return test

    def _official_fold(self, fold: int) -> tuple[list[int], list[int]]:
        places = [self.folder / place for place in ("data/split_indices.p", "split_indices.p")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"neither {places[0]} nor {places[1]} exists, so the official fold {fold} is unknown: copy the file, or "
                f"choose the configuration 'own_fold{fold}', a fold of this package, or 'speaker_independent'."
            )
        pairs = load_pickle(path, self.config.trust_pickle)
        pairs = [list_of(pair, f"{path}: fold {i}") for i, pair in enumerate(list_of(pairs, f"{path}: the content"))]
        if len(pairs) != _FOLDS or any(len(pair) != 2 for pair in pairs):
            raise DataError(f"{path} does not hold {_FOLDS} pairs of training and test rows: not the official file.")
        training, test = (
            [_position(i, f"{path}: fold {fold}, {name},") for i in list_of(part, f"{path}: fold {fold}, {name},")]
            for name, part in zip(("training", "test"), pairs[fold])
        )
        if sorted(training + test) != list(range(len(self.rows))):
            raise DataError(
                f"{path}: fold {fold} names {len(training)} + {len(test)} rows, which are not the {len(self.rows)} rows of "
                f"{_TABLE[-1]}, each once: the two files do not belong together."
            )
        return training, test

    def _validation(self, training: Sequence[int]) -> set[int]:
        share = self.config.validation_share
        if not 0 <= share < 1:
            raise ValueError(f"`validation_share` is {share}: give a number from 0 (no validation split) to below 1.")
        orders = self._shuffled(training, self.config.validation_seed)
        return {i for order in orders for i in order[: round(share * len(order))]}

    def _shuffled(self, positions: Iterable[int], seed: int) -> list[list[int]]:
        """The positions of each label, in a seeded order."""
        generator = np.random.default_rng(seed)
        by_label = [[i for i in sorted(positions) if self.rows[i]["label"] == name] for name in self.LABELS]
        return [[part[k] for k in generator.permutation(len(part))] for part in by_label]

    def open_features(self) -> dict[str, FeatureFile]:
        if self.is_hkt:
            return self.hkt.feature_files()
        files = {}
        for modality, places in (("audio", _AUDIO), ("video", _VIDEO)):
            path = next((self.folder / place for place in places if (self.folder / place).is_file()), None)
            if path is not None:
                files[modality] = FeatureFile(
                    path, modality, self.report, transpose=modality == "audio", trust_pickle=self.config.trust_pickle
                )
        return files

    # ---- the release of HKT

    @property
    def is_hkt(self) -> bool:
        """Whether rows come from the pickle of HKT."""
        return self.config.name == "hkt"

    @cached_property
    def hkt(self) -> HktFile:
        """The open file of the `hkt` configuration."""
        path = find_file(self.folder, "mustard.pkl", "dataset/mustard.pkl")
        return HktFile(path, self.report, self.LABELS, self.config.trust_pickle)

    def _hkt_tables(self) -> dict[str, list[Row]]:
        check_counts({"test": len(self.hkt.rows["test"])}, {"test": 68}, False, self.name)
        there = any((self.folder / place).is_file() for place in _TABLE)
        known = {row["id"]: row for row in self.rows} if there else {}
        tables: dict[str, list[Row]] = {}
        for split, rows in self.hkt.rows.items():
            tables[split] = []
            for row in rows:
                official = known.get(row["id"], {})
                problems = (
                    ["not in sarcasm_data.json, so speaker and series unknown,"] if known and not official else []
                )
                if official and official["label"] != row["label"]:
                    raise DataError(
                        f"{self.hkt.path} gives {row['id']!r} the label {row['label']!r}, sarcasm_data.json "
                        f"{official['label']!r}: the two files do not belong together."
                    )
                more = {name: official.get(name) for name in ("speaker", "dialogue_id")}
                tables[split].append({**row, **more, "problems": problems})
        return tables

    def features_of(self, row: Row) -> dict[str, Any]:
        features = super().features_of(row)
        return cut_to_words(features, row["words"], self.report, row["id"]) if self.is_hkt else features


def _position(value: Any, where: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DataError(f"{where} holds {value!r:.40}, not the place of a row.")
    return int(value)


def _row(key: str, item: Any, path: Path) -> Row:
    for field, kind in _FIELDS.items():
        if not isinstance(item, dict) or not isinstance(item.get(field), kind):
            found = repr(item[field]) if isinstance(item, dict) and field in item else "nothing"
            raise DataError(f"{path}: item {key!r} has {found:.80} as `{field}`, not a {kind.__name__}.")
    turns, speakers = item["context"], item["context_speakers"]
    if len(turns) != len(speakers):
        raise DataError(
            f"{path}: item {key!r} has {len(turns)} turns of `context` but {len(speakers)} `context_speakers`."
        )
    for field in ("context", "context_speakers"):
        if not all(isinstance(text, str) for text in item[field]):
            raise DataError(f"{path}: item {key!r} has {item[field]!r:.80} as `{field}`, not a list of texts.")
    return {
        "id": key,
        "source": str(path),
        "text": item["utterance"],
        "label": "sarcastic" if item["sarcasm"] else "not_sarcastic",
        "speaker": item["speaker"],
        "dialogue_id": item["show"],
        "context": [{"speaker": speaker, "text": text} for speaker, text in zip(speakers, turns)],
    }
