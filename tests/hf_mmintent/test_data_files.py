"""What several builders share: text files, clips by name, a held-out validation split, rows of HDF5 files."""

import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from hf_mmintent.data.checks import (
    DataError,
    check_ids,
    check_labels,
    check_values,
    number,
    read_json,
    read_table,
    read_text,
    whole_number,
)
from hf_mmintent.data.feature_files import FeatureFile, open_h5, open_h5_rows
from hf_mmintent.data.holdout import HoldOutConfig, hold_out
from hf_mmintent.data.media_files import check_no_stub, clips_by_name, decodes
from hf_mmintent.data_scripts.mmintent_mini import packaged_folder

# ---- text files


def test_table_without_header(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffBell&x\r\nMale speech, man&y\r\n".encode())
    rows = read_table(path, ("name", "id"), delimiter="&", quoted=False, header=False)
    assert [(row["name"], row["id"], row["line"]) for row in rows] == [("Bell", "x", 1), ("Male speech, man", "y", 2)]
    for text, count in (("name&id\nBell&x\n", 1), ("Bell&x\n", 1)):
        path.write_text(text)
        assert len(read_table(path, ("name", "id"), delimiter="&", quoted=False, header=None)) == count
    path.write_text("Bell&x\nBell\n")
    with pytest.raises(DataError, match=r"t\.txt line 2 has 1 columns instead of 2"):
        read_table(path, ("name", "id"), delimiter="&", quoted=False, header=None)
    for header in (None, False):
        path.write_text("")
        with pytest.raises(DataError, match=r"t\.txt has no rows"):
            read_table(path, ("name", "id"), header=header)


def test_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("a,b\n1,é\n".encode() + b"2,\xff\n")
    for read in (read_text, read_json, lambda path: read_table(path, ("a", "b"))):
        with pytest.raises(DataError, match=r"t\.csv line 3 is not UTF-8"):
            read(path)


def test_table_of_a_header_alone_and_damaged_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n")
    with pytest.raises(DataError, match=r"t\.csv has no rows"):
        read_table(path, ("a", "b"))
    path.write_bytes(b"a,b\n1,2\n\0\0,3\n")
    with pytest.raises(DataError, match=r"t\.csv line 3 holds a NUL byte"):
        read_table(path, ("a", "b"))


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1.0", "²", "٣", "11", "x"])
def test_whole_numbers(text):
    with pytest.raises(DataError, match=r"line 2: `seg` is '.*', not a whole number from 0 to 10"):
        whole_number(text, "line 2: `seg`", 10)
    assert whole_number("010", "", 10) == 10


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e400", "1,5", "٣"])
def test_numbers(text):
    with pytest.raises(DataError, match=r"line 2: `label` is '.*', not a (finite )?number"):
        number(text, "line 2: `label`")
    assert number("-1.5", "") == -1.5


def test_errors_say_where_a_row_comes_from():
    row = {"id": "a", "label": "x", "source": "t.csv line 2"}
    for check in (lambda rows: check_labels(rows, ["y"]), lambda rows: check_ids({**rows, "test": [row]})):
        with pytest.raises(DataError, match=r"^t\.csv line 2: "):
            check({"train": [row]})
    with pytest.raises(DataError, match=r"^t\.csv line 2: row 'a' of train has the label 4"):
        check_values({"train": [{**row, "label": 4}]}, 0, 3)
    with pytest.raises(DataError, match=r"^t\.csv line 2: a row of train has the empty id ' '"):
        check_ids({"train": [{**row, "id": " "}]})


@pytest.mark.parametrize(("text", "message"), [
    ("[1, 2", "truncated or not JSON"),
    ("", "truncated or not JSON"),
    ('{"a": {"b": 1, "c": 2, "b": 3}}', "key 'b' twice"),
    ("[]", "holds a list, not a dict"),
])  # fmt: skip
def test_broken_json(tmp_path, text, message):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_json(path)
    assert str(error.value).startswith(str(path))
    path.write_text('\ufeff{"a": "é"}', encoding="utf-8")
    assert read_json(path) == {"a": "é"}


# ---- validation


def table(count: int = 40) -> list[dict]:
    return [{"id": f"r{i:02}", "label": "ab"[i % 4 == 0], "video": f"v{i // 2:02}"} for i in range(count)]


def test_hold_out_is_stratified_seeded_and_independent_of_the_order():
    rows = table()
    parts = hold_out(rows, HoldOutConfig(validation_share=0.2))
    assert Counter(row["label"] for row in parts["validation"]) == {"a": 6, "b": 2}
    assert sorted(row["id"] for part in parts.values() for row in part) == [row["id"] for row in rows]
    assert [row["id"] for row in parts["train"]] == sorted(row["id"] for row in parts["train"])
    backwards = hold_out(rows[::-1], HoldOutConfig(validation_share=0.2))
    assert backwards["validation"] == parts["validation"][::-1]
    assert hold_out(rows, HoldOutConfig(validation_share=0.2, validation_seed=1))["validation"] != parts["validation"]


@pytest.mark.parametrize("stratify", ["label", None])
def test_hold_out_keeps_groups_together(stratify):
    parts = hold_out(table(), HoldOutConfig(validation_share=0.3), group="video", stratify=stratify)
    videos = [{row["video"] for row in part} for part in parts.values()]
    assert videos[0].isdisjoint(videos[1])
    assert len(videos[1]) == 6


def test_hold_out_share():
    assert list(hold_out(table(), HoldOutConfig(validation_share=0))) == ["train"]
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match="`validation_share` is"):
            hold_out(table(), HoldOutConfig(validation_share=share))
    with pytest.raises(ValueError, match="less than one of the 40 groups"):
        hold_out(table(), HoldOutConfig(validation_share=0.001))


# ---- clips


def test_clips_by_name(tmp_path):
    for name in ("video/a/x.mp4", "video/a/y.AVI", "audio/a/x.wav", "audio/z.wav", "other/w.mp4", "video/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = clips_by_name(tmp_path, ("video", "audio", "absent"))
    assert found == {
        "x": {"audio": tmp_path / "audio/a/x.wav", "video": tmp_path / "video/a/x.mp4"},
        "y": {"audio": tmp_path / "video/a/y.AVI", "video": tmp_path / "video/a/y.AVI"},
        "z": {"audio": tmp_path / "audio/z.wav"},
    }
    assert set(clips_by_name(tmp_path, (".", "video"))) == {"w", "x", "y", "z"}
    (tmp_path / "other" / "x.mkv").touch()
    with pytest.raises(DataError, match="have the same name: which is the video"):
        clips_by_name(tmp_path)


def test_clips_by_name_refuses_links_out_of_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "in" / "x.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(DataError, match="a link out of"):
        clips_by_name(tmp_path / "in")


def test_stub_of_git_lfs(tmp_path):
    path = tmp_path / "x.flv"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match=r"x\.flv is a pointer of Git LFS"):
        check_no_stub(path)
    path.write_bytes(b"FLV")
    check_no_stub(path)


def test_decodes(tmp_path):
    pytest.importorskip("av", reason="clips are decoded with PyAV")
    good = Path(shutil.copy(next(packaged_folder().rglob("*.mp4")), tmp_path / "good.mp4"))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:200])
    assert decodes(good, "audio")
    assert decodes(good, "video")
    assert not decodes(bad, "video")


# ---- HDF5


def test_rows_of_an_array(tmp_path):
    path = tmp_path / "f.h5"
    values = np.arange(24, dtype=np.float64).reshape(3, 4, 2)
    with h5py.File(path, "w") as file:
        file["x"] = values
        file.create_group("g")
        file["away"] = h5py.ExternalLink("other.h5", "x")
    rows = FeatureFile(open_h5_rows(path, "x", ["a", "b", "c"]), "audio", source=str(path))
    np.testing.assert_array_equal(rows.get("b"), values[1])
    assert rows.width == 2
    for name, keys, message in (
        ("y", "abc", "holds no array 'y'"),
        ("g", "abc", "holds no array 'g'"),
        ("away", "abc", "a link to somewhere else"),
        ("x", "ab", r"`x` has the shape \(3, 4, 2\), expected 2 rows"),
    ):
        with pytest.raises(DataError, match=message):
            open_h5_rows(path, name, list(keys))


def test_damaged_array(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "x", data=np.random.default_rng(0).normal(size=(2, 4000)), chunks=(1, 4000), compression="gzip"
        )
        chunk = file["x"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 400] = b"\xff" * 400
    path.write_bytes(data)
    rows = open_h5_rows(path, "x", ["a", "b"])
    assert len(rows["a"]) == 4000
    with pytest.raises(DataError, match=r"f\.h5: the row of 'b' is damaged"):
        _ = rows["b"]
    with pytest.raises(DataError, match=r"f\.h5: 'x' is damaged"):
        _ = open_h5(path)["x"]
    cut = tmp_path / "cut.h5"
    cut.write_bytes(bytes(data)[:3000])
    with pytest.raises(DataError, match=r"cut\.h5 is truncated"):
        open_h5(cut)
