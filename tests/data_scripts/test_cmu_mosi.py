"""CMU-MOSI: the files of MMSA with every trap, the release with one vector per utterance, and its real copy."""

import logging

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.official_files import mmsa_parts, write_mmsa


@pytest.mark.parametrize("name", ["aligned", "unaligned"])
@pytest.mark.parametrize("place", [".", "Processed", "MOSI/Processed"])
def test_mmsa_file(tmp_path, name, place):
    parts = mmsa_parts(name == "aligned")
    write_mmsa(tmp_path / place, f"{name}_50", parts)
    rows = load("cmu_mosi", data_dir=tmp_path, name=name, strict_counts=False)
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 2, "test": 2}
    assert rows["train"].features["audio_features"].shape == (None, 5)
    assert rows["train"].features["video_features"].shape == (None, 20)
    first = rows["validation"][1]
    assert first["id"] == "vidvalid$_$1"
    assert first["dialogue_id"] == "vidvalid"
    assert first["text"] == "TEXT 1 OF valid"
    assert first["label"] == 3.0
    for split, part in (("train", "train"), ("validation", "valid"), ("test", "test")):
        for i, row in enumerate(rows[split]):
            for column, stream in (("audio_features", "audio"), ("video_features", "vision")):
                stored = parts[part][stream][i].astype(np.float32)
                length = len(row[column])
                np.testing.assert_array_equal(row[column], stored[:length])
                assert not stored[length:].any()  # what was removed is padding, and all of it
                assert stored[length - 1].any()
    assert rows["train"][0]["audio_features"][0, 0] == -np.inf


def test_unknown_file_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True))
    load("cmu_mosi", data_dir=tmp_path, name="aligned", strict_counts=False)
    assert any("SHA-256" in record.message for record in caplog.records)
    assert any("1 NaN or infinite audio values kept" in record.message for record in caplog.records)


def broken(change) -> dict:
    parts = mmsa_parts(False)
    change(parts)
    return parts


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p.pop("valid"), "does not hold"),
    (lambda p: p["test"].update(audio=p["test"]["audio"][:1]), r"has the shape \(1, .* for each of 2 ids"),
    (lambda p: p["test"].update(audio=p["test"]["audio"][..., :4]), r"`audio` has the widths \[4, 5\]"),
    (lambda p: p["test"].update(id=np.array(["a_1", "b_2"])), r"'a_1' of test is not <video>\$_\$<clip>"),
    (lambda p: p["test"].update(id=p["train"]["id"][:2]), "occurs in train and in test"),
    (lambda p: p["test"].update(regression_labels=np.array([0.0, 3.5])), r"label 3.5, outside \[-3.0, 3.0\]"),
    (lambda p: p["test"].update(regression_labels=np.array([0.0, np.nan])), "label nan"),
    (lambda p: p["test"].update(regression_labels=["good", "bad"]), "`regression_labels` of test does not hold numbers"),
    (lambda p: p["test"].update(audio=p["test"]["audio"].tolist()), "`audio` of test does not hold numbers"),
    (lambda p: p["test"].update(raw_text=["fine", None]), "in test is None, not text"),
    (lambda p: p["test"].update(raw_text=None), "`raw_text` of test is None, not a list of texts"),
    (lambda p: p["test"].update(id=[3, 4]), "`id` of '3' in test is 3, not text"),
    (lambda p: p["test"].update(regression_labels=[[1.0], [1.0, 2.0]]), "`regression_labels` of test is no array"),
    (lambda p: p["test"].update(regression_labels=np.zeros((2, 1))), r"`regression_labels` of test has the shape \(2, 1\)"),
    (lambda p: p["test"].update(vision=None), "`vision` of test does not hold numbers but NoneType"),
    (lambda p: p["test"].pop("vision_lengths"), "test has no `vision_lengths`, so the padding cannot be told apart"),
    (lambda p: p["test"].pop("id"), "test is no mapping with `id`"),
    (lambda p: p["test"].update(audio_lengths=[1, -2]), r"`audio_lengths` of .* in test is -2 but `audio` has \d+ steps"),
    (lambda p: p["test"].update(audio_lengths=[1, 999]), r"`audio_lengths` of .* in test is 999"),
    (lambda p: p["test"].update(audio_lengths=[1]), "`audio_lengths` of test has the shape .* one entry for each of 2 ids"),
    (lambda p: p["test"].update(vision_lengths=[1.0, np.nan]), "`vision_lengths` of test holds float64, not whole numbers"),
])  # fmt: skip
def test_broken_mmsa_file(tmp_path, change, message):
    write_mmsa(tmp_path, "unaligned_50", broken(change))
    with pytest.raises(DataError, match=message):
        load("cmu_mosi", data_dir=tmp_path, name="unaligned", strict_counts=False)


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: p["test"].pop("text_bert"), "test has neither `audio_lengths` nor `text_bert`"),
    (lambda p: p["test"].update(text_bert=None), "`text_bert` of test does not hold numbers but NoneType"),
    (lambda p: p["test"].update(text_bert=p["test"]["text_bert"][:, :1]), "`text_bert` of test has the shape"),
    (lambda p: p["test"].update(text_bert=p["test"]["text_bert"][..., :-1]), "with the steps .* of the other streams"),
    (lambda p: p["test"].update(text_bert=p["test"]["text_bert"] * 3), r"the mask in `text_bert` of 'vidtest\$_\$0' in test"),
])  # fmt: skip
def test_broken_mask_of_an_aligned_file(tmp_path, change, message):
    parts = mmsa_parts(True)
    change(parts)
    write_mmsa(tmp_path, "aligned_50", parts)
    with pytest.raises(DataError, match=message) as error:
        load("cmu_mosi", data_dir=tmp_path, name="aligned", strict_counts=False)
    assert str(error.value).startswith(str(tmp_path / "aligned_50.pkl"))


def test_empty_sequence_is_missing(tmp_path):
    write_mmsa(tmp_path, "unaligned_50", broken(lambda p: p["train"].update(audio_lengths=np.array([0, 2, 3]))))
    rows = load("cmu_mosi", data_dir=tmp_path, name="unaligned", strict_counts=False)["train"]
    assert rows[0]["audio_features"] is None
    assert rows[0]["video_features"] is not None


def test_exchanged_length_fields_are_read_for_each_other_and_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    long, short = np.ones((3, 9, 5), np.float32), np.ones((3, 4, 20), np.float32)
    lengths = {"audio_lengths": [4, 3, 2], "vision_lengths": [9, 8, 7]}  # audio has 9 steps, vision 4
    write_mmsa(tmp_path, "unaligned_50", broken(lambda p: p["train"].update(audio=long, vision=short, **lengths)))
    rows = load("cmu_mosi", data_dir=tmp_path, name="unaligned", strict_counts=False)["train"]
    assert [len(values) for values in rows["audio_features"]] == [9, 8, 7]
    assert [len(values) for values in rows["video_features"]] == [4, 3, 2]
    assert any("`audio_lengths` and `vision_lengths` of train are exchanged" in r.message for r in caplog.records)


def test_text_only_leaves_the_features_out(tmp_path):
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True))
    rows = load("cmu_mosi", data_dir=tmp_path, name="aligned", strict_counts=False, columns="text")["train"]
    assert rows.column_names == ["id", "text", "label", "dialogue_id"]


def test_counts(tmp_path):
    write_mmsa(tmp_path, "aligned_50", mmsa_parts(True))
    with pytest.raises(DataError, match="train has 3 rows instead of 1284"):
        load("cmu_mosi", data_dir=tmp_path, name="aligned")


def write_utterances(folder, lines):
    """`mosi_index.csv` and `mosi_utt.npz` for (video, segment, text, sentiment, split)."""
    header = "id,vid,seg,text,sentiment,std_fold_LEAKS,bc_split\n"
    text = "".join(f'{v}_{s},{v},{s},"{t}",{y},test,{split}\n' for v, s, t, y, split in lines)
    (folder / "mosi_index.csv").write_text(header + text, encoding="utf-8")
    ids = np.array([f"{v}_{s}" for v, s, *_ in lines])
    values = np.arange(len(lines) * 3, dtype=np.float32).reshape(-1, 3)
    np.savez(folder / "mosi_utt.npz", id=ids, audio=values, video=values[:, :2])


LINES = [
    ("a", 1, "ONE, TWO", -3.0, "train"),
    ("a", 10, "TEN", 1.5, "train"),
    ("a", 2, "TWO", 0.0, "train"),
    ("b", 1, "B", 0.2, "train"),
    ("c", 1, "C", 3.0, "test"),
]


def read_utterances(folder, **options):
    return load(
        "cmu_mosi", data_dir=folder, name="bc_split", **{"strict_counts": False, "validation_videos": 1, **options}
    )


def test_utterance_vectors(tmp_path):
    write_utterances(tmp_path, LINES)
    rows = read_utterances(tmp_path, validation_videos=0)
    assert list(rows) == ["train", "test"]
    assert list(rows["train"]["id"]) == ["a_1", "a_2", "a_10", "b_1"]  # in the order of the video
    assert rows["train"][0]["text"] == "ONE, TWO"
    assert rows["train"][1]["audio_features"].tolist() == [[6, 7, 8]]
    assert rows["train"][1]["video_features"].shape == (1, 2)


def test_leaking_folds_are_refused(tmp_path):
    write_utterances(tmp_path, LINES)
    with pytest.raises(ValueError, match="fitted on videos that other folds put into the test"):
        read_utterances(tmp_path, split_column="std_fold_LEAKS")


@pytest.mark.parametrize("count", [-1, 2])
def test_impossible_validation(tmp_path, count):
    write_utterances(tmp_path, LINES)
    with pytest.raises(ValueError, match=f"`validation_videos` is {count} but there are 2 training videos"):
        read_utterances(tmp_path, validation_videos=count)


def test_pickled_array_in_the_archive_is_not_executed(tmp_path):
    write_utterances(tmp_path, LINES)
    evil = np.array([print] * 5, dtype=object)
    np.savez(tmp_path / "mosi_utt.npz", id=evil, audio=np.zeros((5, 3)), video=np.zeros((5, 3)))
    with pytest.raises(Exception, match=r"mosi_utt\.npz\[id\] asks for `builtins\.print`"):
        read_utterances(tmp_path)


@pytest.fixture(scope="module")
def real(shared_data):
    return load("cmu_mosi", data_dir=shared_data / "cmu_mosi", name="bc_split")


def test_real_utterances(real):
    assert len(real["train"]) + len(real["validation"]) == 1447
    assert len(real["test"]) == 752
    labels = np.array([*real["train"]["label"], *real["validation"]["label"]])
    assert [(labels < 0).sum(), (labels == 0).sum(), (labels > 0).sum()] == [738, 65, 644]
    assert real["train"].features["audio_features"].shape == (None, 73)
    assert real["train"].features["video_features"].shape == (None, 100)
    row = real["test"][0]
    assert row["audio_features"].shape == (1, 73)
    assert row["text"].isupper()


def test_real_splits_share_no_video(real):
    videos = {split: set(rows["dialogue_id"]) for split, rows in real.items()}
    assert {split: len(names) for split, names in videos.items()} == {"train": 51, "validation": 11, "test": 31}
    assert not videos["train"] & videos["validation"]
    assert not videos["test"] & (videos["train"] | videos["validation"])


def test_real_validation_depends_on_the_seed_only(real, shared_data):
    other = load("cmu_mosi", data_dir=shared_data / "cmu_mosi", name="bc_split", validation_seed=1)
    again = load("cmu_mosi", data_dir=shared_data / "cmu_mosi", name="bc_split", columns="text")
    assert list(again["validation"]["id"]) == list(real["validation"]["id"])
    assert set(other["validation"]["dialogue_id"]) != set(real["validation"]["dialogue_id"])
    assert list(other["test"]["id"]) == list(real["test"]["id"])
