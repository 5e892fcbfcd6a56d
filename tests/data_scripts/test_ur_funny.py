"""UR-FUNNY: the official pickles with their traps, and the pickle of HKT."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.data.safe_pickle import PickleFormatError, UnsafePickleError
from tests.data_scripts.hkt_files import SENTENCES, hkt_examples
from tests.data_scripts.row_errors import raises_data_error
from tests.data_scripts.test_mintrec import Touch
from tests.data_scripts.tiny_media import write_media

FOLDS = {"train": [10, 2, 30], "dev": [4], "test": np.array([5, 60])}
KEYS = [10, 2, 30, 4, 5, 60]
LABELS = dict(zip(KEYS, (0, np.array([1]), 0.0, 1, np.array(0), True)))


def language() -> dict:
    """Sentences as texts or lists of words; contexts of 0, 1 and 2 sentences."""
    entries = {}
    for i, (key, text) in enumerate(zip(KEYS, SENTENCES)):
        entries[key] = {
            "punchline_sentence": text.split() if i == 1 else text,
            "context_sentences": [["one", "two"], "three four"][: i % 3],
            "punchline_embedding_indexes": list(range(len(text.split()))),
        }
    return entries


def features(width: int, **replaced) -> dict:
    rng = np.random.default_rng(width)
    entries = {}
    for key, text in zip(KEYS, SENTENCES):
        values = rng.normal(size=(len(text.split()), width))
        entries[key] = {"punchline_features": values, "context_features": [values]}
        if key in (2, 5):  # lists of lists, as in the release
            entries[key]["punchline_features"] = values.tolist()
    for key, values in replaced.items():
        entries[int(key[1:])]["punchline_features"] = values
    return entries


def write(folder: Path, **replaced) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "data_folds": FOLDS, "language_sdk": language(), "humor_label_sdk": LABELS,
        "covarep_features_sdk": features(5), "openface_features_sdk": features(7), **replaced,
    }  # fmt: skip
    for name, value in content.items():
        if value is not None:
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol=2))
    return folder


def read(folder: Path, name: str = "v2", **options):
    return load("ur_funny", data_dir=folder, name=name, **{"strict_counts": False, **options})


def test_rows(tmp_path):
    rows = read(write(tmp_path), columns="text")
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 1, "test": 2}
    assert rows["train"].column_names == ["id", "text", "label", "context"]
    assert rows["train"][2] == {
        "id": "30",
        "text": "thank you",
        "label": 0,
        "context": [{"speaker": None, "text": "one two"}, {"speaker": None, "text": "three four"}],
    }
    assert list(rows["train"]["text"]) == SENTENCES[:3]
    assert rows["train"][0]["context"] == []


@pytest.mark.parametrize("config", ["v2", "hkt"])
@pytest.mark.parametrize("order", [1, -1])
def test_label_order_does_not_follow_the_rows(tmp_path, config, order):
    write(tmp_path, data_folds={part: list(keys)[::order] for part, keys in FOLDS.items()})
    examples = {part: made[::order] for part, made in hkt_examples(KEYS).items()}
    (tmp_path / "ur_funny.pkl").write_bytes(pickle.dumps(examples))
    rows = read(tmp_path, config)
    assert rows["train"].features["label"].names == ["not_humorous", "humorous"]
    for part in rows.values():
        assert all(row["label"] == SENTENCES.index(row["text"]) % 2 for row in part)


def test_features(tmp_path):
    made = {"audio": features(5), "video": features(7)}
    rows = read(write(tmp_path))
    for modality, width in (("audio", 5), ("video", 7)):
        assert rows["train"].features[f"{modality}_features"].shape == (None, width)
        for part in rows.values():
            for row in part:
                stored = np.asarray(made[modality][int(row["id"])]["punchline_features"], np.float32)
                np.testing.assert_array_equal(row[f"{modality}_features"], stored)


def test_oddities_are_handled_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    bad = np.ones((5, 5))
    bad[0, 0], bad[1, 1] = -np.inf, np.nan
    texts = language()
    del texts[2]
    audio = features(5, k4=bad, k5=np.ones((3, 5)), k60=np.zeros((0, 5)))
    del audio[30]
    write(tmp_path, covarep_features_sdk=audio, language_sdk=texts)
    rows = read(tmp_path)
    assert rows["train"][1]["text"] is None
    assert [None if x is None else len(x) for x in rows["train"]["audio_features"]] == [4, 6, None]
    assert rows["validation"][0]["audio_features"][0, 0] == -np.inf
    assert [None if x is None else len(x) for x in rows["test"]["audio_features"]] == [1, None]
    assert len(rows["test"][1]["video_features"]) == 4
    said = " ".join(record.getMessage() for record in caplog.records)
    for what in (
        "text missing in 1 rows (2)",
        "audio missing in 1 rows (30)",
        "audio of zero length in 1 rows (60)",
        "2 NaN or infinite audio values kept",
        "numbers of words and of feature vectors differ, cut to the fewest, in 1 rows (5)",
    ):
        assert said.count(what) == 1, said


def test_all_streams_are_cut_to_the_fewest(tmp_path):
    rows = read(write(tmp_path, openface_features_sdk=features(7, k10=np.arange(21).reshape(3, 7))))["train"]
    assert len(rows[0]["audio_features"]) == len(rows[0]["video_features"]) == 3
    np.testing.assert_array_equal(
        rows[0]["audio_features"], features(5)[10]["punchline_features"][:3].astype(np.float32)
    )


def without(name: str) -> dict:
    return {key: {field: value for field, value in entry.items() if field != name} for key, entry in language().items()}


@pytest.mark.parametrize(("replaced", "message"), [
    ({"humor_label_sdk": {**LABELS, 4: 2}}, "the label of 4 is 2, neither 0 nor 1"),
    ({"humor_label_sdk": {**LABELS, 4: "1"}}, "the label of 4 is '1'"),
    ({"humor_label_sdk": {2: 0}}, "has no label of 10"),
    ({"data_folds": {**FOLDS, "test": [10]}}, "'10' occurs in train and in test"),
    ({"data_folds": {"train": [2]}}, r"has the parts \['train'\]"),
    ({"data_folds": {**FOLDS, "dev": None}}, r"data_folds\.pkl: `dev` is None, not a list"),
    ({"data_folds": {**FOLDS, "dev": [[4]]}}, r"data_folds\.pkl: `dev`, entry 0, is \[4\], neither a text nor a whole"),
    ({"data_folds": {**FOLDS, "dev": [4.0]}}, r"data_folds\.pkl: `dev`, entry 0, is 4\.0, neither"),
    ({"data_folds": {**FOLDS, "dev": []}}, r"data_folds\.pkl: `dev` has no rows"),
    ({"humor_label_sdk": {**LABELS, 4: [[0], [1, 2]]}}, r"humor_label_sdk\.pkl: the label of 4 is \[\[0\], \[1, 2\]\]"),
    ({"language_sdk": {**language(), 30: {"punchline_sentence": "a", "context_sentences": 7}}},
     r"language_sdk\.pkl: of 30 `context_sentences` is 7, not a list"),
    ({"covarep_features_sdk": features(5, k60=[[1.0], [1.0, 2.0]])}, "of 60 are frames of different shapes"),
    ({"data_folds": [2]}, r"data_folds\.pkl holds a list, not a dict"),
    ({"language_sdk": without("punchline_sentence")}, "of 10 there is no `punchline_sentence`: .* V2"),
    ({"language_sdk": {**language(), 30: {"punchline_sentence": 7, "context_sentences": []}}},
     "of 30 `punchline_sentence` is 7, neither a sentence"),
    ({"covarep_features_sdk": {key: {} for key in KEYS}}, "entry 10 has no 'punchline_features'"),
    ({"covarep_features_sdk": features(5, k60=np.ones((4, 6)))}, "of 60 are 6 wide but those of 10 are 5 wide"),
    ({"covarep_features_sdk": features(5, k60=np.ones(4))}, r"features of 60 have the shape \(4,\)"),
])  # fmt: skip
def test_wrong_content(tmp_path, replaced, message):
    with raises_data_error(message):
        read(write(tmp_path, **replaced))


def test_broken_and_malicious_files(tmp_path):
    path = write(tmp_path) / "language_sdk.pkl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PickleFormatError, match=r"language_sdk\.pkl"):
        read(tmp_path)
    path.write_bytes(pickle.dumps({10: Touch(tmp_path / "ran")}))
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"language_sdk\.pkl does not exist"):
        read(tmp_path)


def test_clips_and_counts(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    clip = write_media(write(tmp_path) / "urfunny2_videos" / "5.mp4")
    rows = read(tmp_path, columns=("text", "media"))["test"]
    assert list(rows["video_path"]) == list(rows["audio_path"]) == [str(clip.resolve()), None]
    assert any("train has 3 rows instead of 7614" in record.getMessage() for record in caplog.records)
    with pytest.raises(DataError, match="all has 6 rows instead of 10166"):
        read(tmp_path, strict_counts=True)


# ---- HKT


@pytest.mark.parametrize("place", [".", "dataset"])
def test_hkt(tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    made = hkt_examples([7, 8, 9, 10, 11, 12])
    (tmp_path / place / "ur_funny.pkl").write_bytes(pickle.dumps(made))
    rows = read(tmp_path, "hkt", strict_counts=True)
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 1, "test": 2}
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        for row, (punchline, context, key, _) in zip(rows[split], made[name], strict=True):
            assert (row["id"], row["text"]) == (str(key), punchline[0])
            assert [turn["text"] for turn in row["context"]] == context[0]
            np.testing.assert_array_equal(row["video_features"], punchline[1].astype(np.float32))
            np.testing.assert_array_equal(row["audio_features"], punchline[2].astype(np.float32))


@pytest.mark.parametrize(("example", "message"), [
    ((), r"dev example 1 is not \(punchline, context, id, label\)"),
    ((("a",), ("b",), 1, 1), "dev example 1 is not"),
    ((("a", 0, 0, 0), (["b"], 0, 0, 0), 99, 3), "dev example 1: the label is 3"),
    (((None, 0, 0, 0), (["b"], 0, 0, 0), 99, 0), "dev example 1: the punchline is None"),
    ((("a", 0, 0, 0), (None, 0, 0, 0), 99, 0), r"ur_funny\.pkl dev example 1: the context is None, not a list"),
    ((("a", 0, 0, 0), (["b"], 0, 0, 0), None, 0), r"ur_funny\.pkl dev example 1: the id is None, neither a text nor"),
    ((("a", 0, 0, 0), (["b"], 0, 0, 0), 99, 0), r"features of '99' have the shape \(\)"),
])  # fmt: skip
def test_wrong_hkt(tmp_path, example, message):
    made = hkt_examples([7, 8, 9, 10, 11, 12])
    made["dev"].append(example)
    (tmp_path / "ur_funny.pkl").write_bytes(pickle.dumps(made))
    with raises_data_error(message):
        read(tmp_path, "hkt")
    for part, other in (("test", None), ("dev", [])):
        made = {**hkt_examples([7, 8, 9, 10, 11, 12]), part: other}
        (tmp_path / "ur_funny.pkl").write_bytes(pickle.dumps(made))
        with pytest.raises(DataError, match=f"no list of examples '{part}'"):
            read(tmp_path, "hkt")
