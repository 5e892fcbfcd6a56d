"""The clips of CMU-MOSI and CMU-MOSEI as MMSA publishes them: `label.csv` and one file per utterance."""

import logging
from pathlib import Path

import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.every_dataset import mmsa, mmsa_clips
from tests.data_scripts.row_errors import raises_data_error

BOTH = pytest.mark.parametrize("name", ["cmu_mosi", "cmu_mosei"])


def read(name: str, folder: Path, config: str = "raw", **options):
    return load(name, data_dir=folder, name=config, **{"strict_counts": False, **options})


@BOTH
@pytest.mark.parametrize("nested", [False, True])
def test_rows_and_clips(tmp_path, name, nested, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    release = tmp_path / name.removeprefix("cmu_").upper() if nested else tmp_path
    mmsa_clips(release)
    rows = read(name, tmp_path)
    assert {split: len(part) for split, part in rows.items()} == {"train": 2, "validation": 1, "test": 1}
    assert rows["train"].column_names == ["id", "text", "label", "audio_path", "video_path", "dialogue_id"]
    clip = str((release / "Raw" / "-3g5yACwYnA" / "10.mp4").resolve())
    assert rows["train"][1] == {
        "id": "-3g5yACwYnA$_$10",
        "text": 'SHE SAID "NO"',
        "label": 0.0,
        "dialogue_id": "-3g5yACwYnA",
        "audio_path": clip,
        "video_path": clip,
    }
    assert rows["train"]["label"][:] == [np.float32(-1.4), 0.0]
    assert rows["test"]["id"][:] == ["0015$_$0007"]  # names are texts: no zero is lost
    assert rows["test"]["video_path"][:] == [None]
    assert any("video file missing in 1 rows (0015$_$0007)" in record.message for record in caplog.records)


@BOTH
@pytest.mark.parametrize("config", ["aligned", "unaligned"])
def test_rows_of_features_have_their_clips(tmp_path, name, config):
    mmsa(config)(tmp_path)
    train = read(name, tmp_path, config)["train"]
    assert [path is None for path in train["video_path"]] == [False, True, True]
    assert train[0]["video_path"].endswith("/Raw/vidtrain/0.mp4") and train[0]["audio_features"] is not None
    assert "video_path" not in read(name, tmp_path, config, columns=["text", "features"])["train"].column_names


@BOTH
def test_the_table_alone(tmp_path, name):
    mmsa_clips(tmp_path)
    (tmp_path / "Raw").rename(tmp_path / "elsewhere")
    assert read(name, tmp_path)["train"].column_names == ["id", "text", "label", "dialogue_id"]
    with pytest.raises(FileNotFoundError, match="`columns` asks for media"):
        read(name, tmp_path, columns=["text", "media"])
    with pytest.raises(FileNotFoundError, match="`columns` asks for features"):
        read(name, tmp_path, columns=["features"])


def test_damaged_clip(tmp_path):
    mmsa_clips(tmp_path)
    clip = tmp_path / "Raw" / "03bSnISJMiM" / "1.mp4"
    clip.write_bytes(clip.read_bytes()[:300])
    assert read("cmu_mosi", tmp_path)["validation"]["video_path"][:] == [None]
    assert read("cmu_mosi", tmp_path, check_clips=False)["validation"]["video_path"][:] == [str(clip.resolve())]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("valid", "dev", r"label\.csv line 4 has the `mode` 'dev', not one of \['train', 'valid', 'test'\]"),
    ("2.6", "much", r"label\.csv line 4: `label` is 'much', not a number"),
    ("2.6", "nan", r"label\.csv line 4: `label` is 'nan', not a finite number"),
    ("2.6", "4", r"label\.csv line 4: row '03bSnISJMiM\$_\$1' of validation has the label 4.0, outside \[-3.0, 3.0\]"),
    ("03bSnISJMiM,1", "03bSnISJMiM,", r"label\.csv line 4 names no clip: .* `clip_id` ''"),
    ("03bSnISJMiM,1", "../x,1", r"label\.csv line 4: row '../x\$_\$1': the data name the file '../x/1.mp4', which does not"),
    ("03bSnISJMiM,1", "-3g5yACwYnA,2", r"label\.csv line 4: the id '-3g5yACwYnA\$_\$2' occurs in train and in validation"),
    ("annotation", "sentiment", r"label\.csv has the columns .*'sentiment'"),
])  # fmt: skip
def test_wrong_tables(tmp_path, old, new, message):
    mmsa_clips(tmp_path)
    path = tmp_path / "label.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with raises_data_error(message):
        read("cmu_mosi", tmp_path)


@BOTH
def test_counts(tmp_path, name):
    mmsa_clips(tmp_path)
    with pytest.raises(DataError, match=f"train has 2 rows instead of {1284 if name == 'cmu_mosi' else 16326}"):
        read(name, tmp_path, strict_counts=True)
