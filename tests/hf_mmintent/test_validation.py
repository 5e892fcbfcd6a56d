"""The dataset check: every kind of defect by its own test, on rows, on official files, and on the real ones."""

from __future__ import annotations

import pickle
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.dataset_facts import gather_facts, modality_columns
from hf_mmintent.data.histograms import save_histograms
from hf_mmintent.data.loading import load
from hf_mmintent.data.published_counts import PublishedCounts, published_counts
from hf_mmintent.data.validation import check_published, check_rows, label_table, length_table, validate
from tests.data_scripts import test_mintrec2
from tests.data_scripts.official_files import MINTREC, write_mintrec, write_mintrec_features
from tests.modeling.media_files import write_media

FEATURES = {
    "id": Value("string"),
    "text": Value("string"),
    "label": ClassLabel(names=["no", "yes"]),
    "audio_features": Array2D((None, 3), "float32"),
    "speaker": Value("string"),
    "dialogue_id": Value("string"),
}


def make_row(key: str, **changed: Any) -> dict[str, Any]:
    steps = 2 + len(key)
    row = {"id": key, "text": f"text of {key}", "label": int(key[-1]) % 2, "speaker": key[0],
           "audio_features": np.ones((steps, 3), np.float32), "dialogue_id": f"dialogue {key[0]}"}  # fmt: skip
    return {**row, **changed}


def make(splits: Mapping[str, list[dict[str, Any]]], **features: Any) -> DatasetDict:
    """A dataset of these rows; `features` override the types of columns, and drop those that are `None`."""
    kinds = Features({name: kind for name, kind in {**FEATURES, **features}.items() if kind is not None})
    made = {}
    for split, rows in splits.items():
        made[split] = Dataset.from_dict({name: [row[name] for row in rows] for name in kinds}, features=kinds)
    return DatasetDict(made)


GOOD = {"train": [make_row(f"a{i}") for i in range(4)], "test": [make_row(f"b{i}") for i in range(2)]}


def found(splits: Mapping[str, list[dict[str, Any]]], decode: bool | str = False, **features: Any) -> list[str]:
    return [str(finding) for finding in check_rows(gather_facts(make(splits, **features), decode))]


def with_train(**changed: Any) -> dict[str, list[dict[str, Any]]]:
    """The good rows, the first training row changed."""
    return {**GOOD, "train": [{**GOOD["train"][0], **changed}, *GOOD["train"][1:]]}


# ---- rows


def test_good_rows_have_no_findings():
    assert found(GOOD) == []


def test_counts_of_good_rows():
    facts = gather_facts(make(with_train(audio_features=None)))
    train = facts.splits["train"]
    assert (train.rows, dict(train.labels), dict(train.missing)) == (4, {"no": 2, "yes": 2}, {"audio": ["a0"]})
    assert train.lengths == {"text": [3] * 4, "audio": [4] * 3}
    assert facts.columns == {"text": "text", "audio": "audio_features"}
    assert label_table(facts) == (["label", "train", "test"], [["no", 2, 1], ["yes", 2, 1]])
    assert length_table(facts)[1][2] == ["audio", "train", "steps", 4, 4, 4, 4, 4, "3"]


def test_percentiles_and_range_of_numbers():
    rows = [make_row(f"a{i}", label=float(i), text="w " * (i + 1)) for i in range(5)]
    facts = gather_facts(make({"train": rows}, label=Value("float32")))
    assert length_table(facts)[1][0] == ["text", "train", "words", 1, 1, 3, 4, 5, "–"]
    assert label_table(facts)[1][-3:] == [["smallest", "0"], ["mean", "2"], ["largest", "4"]]
    assert label_table(facts)[1][:2] == [[0.0, 1], [1.0, 1]]
    assert facts.splits["train"].labels == {"zero": 1, "positive": 4}


def test_duplicate_id_in_a_split():
    assert found(with_train(id="a1")) == ["error: duplicate ids: 1 ids occur more than once in train (a1)."]


def test_duplicate_id_in_two_splits():
    assert found(with_train(id="b0")) == ["error: duplicate ids: 1 ids are in train and in test (b0)."]


@pytest.mark.parametrize("label", [None, -1])
def test_row_without_a_class(label):
    assert found(with_train(label=label)) == ["error: labels: 1 rows of train have no class as `label` (a0)."]


@pytest.mark.parametrize("label", [None, float("nan"), float("-inf")])
def test_label_that_is_no_number(label):
    message = "error: labels: 1 rows of train have no finite number as `label` (a0)."
    assert found(with_train(label=label), label=Value("float32")) == [message]


def test_class_without_rows_and_column_without_labels():
    rows = {"train": GOOD["train"], "test": GOOD["test"][:1]}
    assert found(rows) == ["warning: labels: test has no row of 1 classes (yes)."]
    assert found(GOOD, label=None) == ["warning: labels: there is no column `label`: the rows serve prediction only."]


def test_empty_split():
    assert "error: empty split: test has no rows." in found({"train": GOOD["train"], "test": []})


@pytest.mark.parametrize(("changed", "modality"), [
    ({"audio_features": None}, "audio"), ({"text": None}, "text"), ({"text": "  "}, "text"),
])  # fmt: skip
def test_missing_modality(changed, modality):
    assert found(with_train(**changed)) == [f"warning: missing {modality}: 1 of the 4 rows of train lack it (a0)."]


def test_modality_that_a_whole_split_lacks():
    rows = {**GOOD, "test": [{**row, "audio_features": None} for row in GOOD["test"]]}
    assert found(rows) == ["warning: missing audio: all of the 2 rows of test lack it (b0, b1)."]


def test_row_without_any_modality():
    messages = found(with_train(text=None, audio_features=None))
    assert any(message.startswith("error: no modality: 1 rows of train have neither") for message in messages)


def test_values_that_are_not_finite():
    values = np.ones((4, 3), np.float32)
    values[0, 0], values[1, 1:] = np.nan, -np.inf
    message = "warning: non-finite audio: 1 NaN, 2 -inf in train; processors replace them by 0."
    assert found(with_train(audio_features=values)) == [message]


def test_steps_of_different_widths():
    nested = [[Value("float32")]]
    rows = {split: [{**row, "audio_features": row["audio_features"].tolist()} for row in part]
            for split, part in with_train(audio_features=np.ones((2, 5))).items()}  # fmt: skip
    message = "error: width of audio: steps have different numbers of values: 3 in train and test; 5 in train."
    assert found(rows, audio_features=nested) == [message]


@pytest.mark.parametrize("column", ["speaker", "dialogue_id"])
def test_group_in_two_splits(column):
    value = GOOD["test"][0][column]
    message = (f"warning: split overlap: 1 values of `{column}` are in train and in test, with 2 of the 2 rows of test "
               f"({value}).")  # fmt: skip
    assert found(with_train(**{column: value})) == [message]


def test_text_in_two_splits():
    message = "warning: repeated text: 1 rows of test repeat a text of train (b1)."
    assert found(with_train(text="Text of B1 ")) == [message]


def test_missing_and_damaged_files(tmp_path):
    clip = str(write_media(tmp_path / "clip.mp4", seconds=1.0))
    silent = str(write_media(tmp_path / "silent.mp4", seconds=1.0, audio=None))
    (tmp_path / "bad.mp4").write_bytes(b"not a clip")
    paths = [clip, silent, str(tmp_path / "bad.mp4"), str(tmp_path / "absent.mp4")]
    rows = {"train": [make_row(f"a{i}", audio_path=path, video_path=path) for i, path in enumerate(paths)]}
    columns = {"audio_path": Value("string"), "video_path": Value("string"), "audio_features": None}
    missing = [f"warning: missing {m}: 1 of the 4 rows of train lack it (a3)." for m in ("audio", "video")]
    assert found(rows, **columns) == missing
    assert found(rows, decode=True, **columns) == [
        *missing,
        "error: damaged audio: 2 files of train do not decode (a1, a2).",
        "error: damaged video: 1 files of train do not decode (a2).",
    ]


def test_clip_whose_end_is_damaged(tmp_path):
    whole = write_media(tmp_path / "whole.avi", seconds=2.0)
    data = write_media(tmp_path / "whole.mkv", seconds=4.0).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    rows = {"train": [make_row(f"a{i}", video_path=str(path)) for i, path in enumerate((whole, cut))]}
    columns = {"video_path": Value("string"), "audio_features": None}
    assert found(rows, decode=True, **columns) == []
    assert found(rows, decode="whole", **columns) == ["error: damaged video: 1 files of train do not decode (a1)."]
    with pytest.raises(ValueError, match="`decode` is 'all'"):
        found(rows, decode="all", **columns)


def test_embedded_media(tmp_path):
    kind = {"bytes": Value("binary"), "path": Value("string")}
    clip = write_media(tmp_path / "clip.mp4", seconds=1.0).read_bytes()
    values = [{"bytes": clip, "path": None}, {"bytes": None, "path": "absent.mp4"}, None, {"bytes": b"x", "path": "x"}]
    rows = {"train": [make_row(f"a{i}", video=value) for i, value in enumerate(values)]}
    messages = found(rows, decode=True, video=kind)
    assert messages == [
        "warning: missing video: 2 of the 4 rows of train lack it (a1, a2).",
        "error: damaged video: 1 files of train do not decode (a3).",
    ]


def test_splits_of_different_columns():
    splits = make(GOOD)
    splits["test"] = splits["test"].remove_columns("speaker")
    with pytest.raises(ValueError, match="the split 'test' has the columns"):
        gather_facts(splits)


def test_columns_of_modalities():
    names = ["id", "video_path", "text", "audio_features", "audio_path", "lexical_features", "label"]
    columns = {"text": "text", "audio": "audio_features", "lexical": "lexical_features", "video": "video_path"}
    assert modality_columns(names) == columns
    assert modality_columns(["audio", "video", "speaker"]) == {"audio": "audio", "video": "video"}


# ---- published numbers


def test_published_counts():
    facts = gather_facts(make(GOOD))
    published = PublishedCounts({"yes": {"train": 2, "test": 9}, "maybe": {"train": 1}}, {"audio": 4, "video": 7})
    findings = check_published(facts, published)
    assert [str(finding) for finding in findings] == [
        "error: rows per label: test has 1 rows of 'yes', published are 9.",
        "error: rows per label: train has 0 rows of 'maybe', published are 1.",
        "warning: width of audio: steps have 3 values, published features have 4: another extraction.",
    ]
    assert not any(f.is_error for f in check_published(facts, published, is_subset=True))


@pytest.mark.parametrize(("name", "config", "sums"), [
    ("mintrec", "mintrec", (1334, 445, 445)), ("mintrec2", "in_scope", (6165, 1106, 2033)),
    ("meld", "emotion", (9989, 1109, 2610)), ("meld", "sentiment", (9989, 1109, 2610)),
    ("cmu_mosi", "aligned", (1284, 229, 686)), ("ict_mmmo", "binary", (220, 40, 80)),
    ("grid", "features", (640, 160, 0)), ("cmu_mosi", "bc_split", (0, 0, 752)), ("crema_d", "paper", (0, 0, 744)),
    ("crema_d", "actor_fold0", (0, 0, 0)),
    ("mustard", "speaker_independent", (0, 0, 356)), ("mustard", "fold0", (0, 0, 0)),
])  # fmt: skip
def test_labels_of_the_table_sum_to_the_published_splits(name, config, sums):
    labels = published_counts(name, config).labels
    assert tuple(sum(c.get(s, 0) for c in labels.values()) for s in ("train", "validation", "test")) == sums


# ---- whole datasets


@pytest.fixture
def mintrec(tmp_path: Path) -> Path:
    write_mintrec_features(write_mintrec(tmp_path / "mintrec"))
    return tmp_path / "mintrec"


def test_part_of_a_dataset(mintrec):
    report = validate("mintrec", mintrec)
    assert {finding.kind for finding in report.errors} == {"rows", "rows per label"}
    counts = (
        "rows: train has 3 rows instead of 1334, validation has 2 rows instead of 445, test has 1 rows instead of 445"
    )
    assert f"error: {counts}, as published." in str(report)
    part = validate("mintrec", mintrec, is_subset=True)
    assert part.errors == [] and f"warning: {counts}, as published." in str(part)
    assert "warning: width of audio: steps have 6 values, published features have 768" in str(part)


def test_checking_does_not_make_wrong_counts_right(mintrec):
    """Rows that were read for the report must not be what a strict reader finds in the cache."""
    validate("mintrec", mintrec)
    with pytest.raises(DataError, match="train has 3 rows instead of 1334"):
        load("mintrec", data_dir=mintrec)
    assert "instead of 1334" in str(validate("mintrec", mintrec))  # also when the rows come from the cache


def test_counts_that_were_never_verified_are_warnings(tmp_path):
    test_mintrec2.write(tmp_path)
    report = validate("mintrec2", tmp_path, "total31")
    assert [finding.is_error for finding in report.findings if finding.kind == "rows"] == [False]


def unknown_label(folder: Path) -> None:
    write_mintrec(folder, {**MINTREC, "test": [("S06", "E03", "1", "bye", "Leaving")]})


def duplicate_id(folder: Path) -> None:
    write_mintrec(folder, {**MINTREC, "test": [MINTREC["train"][0]]})


def widths(folder: Path) -> None:
    write_mintrec_features(folder, audio={"S06_E03_1": np.ones((2, 1, 7))})


def malicious_pickle(folder: Path) -> None:
    (folder / "audio_data" / "audio_feats.pkl").write_bytes(pickle.dumps({"a": print}))


def no_table(folder: Path) -> None:
    (folder / "test.tsv").unlink()


@pytest.mark.parametrize(("defect", "message"), [
    (unknown_label, "row 'S06_E03_1' of test has the label 'Leaving' (nearest: 'Leave')"),
    (duplicate_id, "the id 'S04_E01_1' occurs in train and in test"),
    (widths, "are 7 wide but those of 'S04_E01_1' are 6 wide"),
    (no_table, "test.tsv does not exist"),
    (malicious_pickle, "builtins.print"),
])  # fmt: skip
def test_files_that_the_builder_refuses(mintrec, defect, message):
    defect(mintrec)
    report = validate("mintrec", mintrec)
    assert [finding.kind for finding in report.errors] == ["unreadable"] and message in str(report)
    assert report.facts is None


def test_what_the_builder_met_is_told_also_from_the_cache(mintrec):
    clip = mintrec / "raw_data" / "S04" / "E01" / "1.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"no clip at all")
    for _ in range(2):
        text = str(validate("mintrec", mintrec, is_subset=True))
        assert "warning: files: video does not decode in 1 rows of train (S04_E01_1)." in text
        assert text.count("occurs in") == 0 and text.count("audio missing in") == 0  # the rows show these


def test_wrong_request(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        validate("mintrec", tmp_path / "absent")
    with pytest.raises(ValueError, match="there is no dataset 'mintrek'"):
        validate("mintrek", tmp_path)


def test_parquet_folder(tmp_path):
    for split, rows in make(with_train(id="b0")).items():
        (tmp_path / "data").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    report = validate(tmp_path / "data")
    assert [finding.kind for finding in report.findings] == ["duplicate ids"]


def test_histograms(tmp_path):
    facts = gather_facts(make(with_train(audio_features=None)))
    picture = matplotlib.image.imread(save_histograms(facts, tmp_path / "deep" / "figure.png", "title"))
    assert min(picture.shape[:2]) > 300 and picture.std() > 0.05
    numbers = gather_facts(make({"train": [make_row(f"a{i}", label=i / 3) for i in range(5)], "test": []},
                                label=Value("float32"), audio_features=None))  # fmt: skip
    assert save_histograms(numbers, tmp_path / "numbers.png").stat().st_size > 1000


def run_script(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the example, run in this process."""
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(root / "examples" / "check_dataset.py"), run_name="__main__")
    return int(end.value.code or 0)


def test_script_exits_with_errors_only(mintrec, tmp_path, root, monkeypatch, capsys):
    assert run_script(root, monkeypatch, "mintrec", "--data_dir", mintrec) == 1
    assert "error: rows: train has 3 rows instead of 1334" in capsys.readouterr().out
    figure = tmp_path / "figure.png"
    assert run_script(root, monkeypatch, "mintrec", "--data_dir", mintrec, "--subset", "--figure", figure) == 0
    assert "0 errors" in capsys.readouterr().out and figure.stat().st_size > 1000


# ---- the real files


@pytest.mark.parametrize(("name", "folder", "config", "warnings"), [
    ("mintrec", "mintrec", None, {"split overlap", "repeated text"}),
    ("meld", "meld", None, {"split overlap", "repeated text"}),
    ("cmu_mosi", "cmu_mosi", "bc_split", set()),
    ("mustard", "mustard", "speaker_independent", {"split overlap", "repeated text"}),
    ("ict_mmmo", "ict_mmmo", "binary", {"missing lexical", "files"}),
    ("grid", "grid", None, {"split overlap"}),
    ("mmintent_mini", None, None, {"repeated text"}),
])  # fmt: skip
def test_real_files_have_no_errors(shared_data, name, folder, config, warnings):
    report = validate(name, None if folder is None else shared_data / folder, config)
    assert [str(finding) for finding in report.errors] == []
    assert {finding.kind for finding in report.warnings} == warnings


def test_real_repeated_texts(shared_data):
    assert "15 rows of test repeat a text of train" in str(validate("mintrec", shared_data / "mintrec"))
