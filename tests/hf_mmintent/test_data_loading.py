"""`hf_mmintent.load`, the containers of features, the checks of builders, and the memory all that takes."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest
from packaging.version import Version

import hf_mmintent
from hf_mmintent.data.checks import DataError, read_table, resolve_inside
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.loading import list_datasets, load, make_builder
from hf_mmintent.data.report import BuildReport, shared_groups
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.data.safe_pickle import UnsafePickleError
from tests.data_scripts.official_files import MINTREC, write_mintrec, write_mintrec_features

FIRST = "S04_E01_1"


@pytest.fixture
def folder(tmp_path) -> Path:
    """MIntRec with features; the first row lacks its audio."""
    write_mintrec_features(write_mintrec(tmp_path / "mintrec"), audio={FIRST: ...})
    return tmp_path / "mintrec"


def same(a: object, b: object) -> bool:
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    return np.array_equal(a, b) if isinstance(b, np.ndarray) else type(a) is type(b) and a == b


def rows_of(part) -> list[dict]:
    return [part[i] for i in range(len(part))]


# ---- load


def test_load_is_there_at_the_top():
    assert hf_mmintent.load is load
    assert {"mintrec", "cmu_mosi"} <= set(list_datasets())
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = hf_mmintent.lod


def test_by_name_by_path_and_by_split(folder, root, tmp_path):
    whole = load("mintrec", data_dir=folder, strict_counts=False)
    script = root / "data_scripts" / "mintrec.py"
    copy = shutil.copy(script, tmp_path / "my_script.py")
    for source in (script, str(script), copy):
        again = load(source, data_dir=str(folder), strict_counts=False)
        assert all(same(a, b) for split in whole for a, b in zip(rows_of(again[split]), rows_of(whole[split])))
    part = load("mintrec", data_dir=folder, strict_counts=False, split="validation")
    assert list(part["id"]) == list(whole["validation"]["id"])


@pytest.mark.parametrize(("name", "message"), [
    ("mintrek", r"there is no dataset 'mintrek': builders are \['.*'mintrec'"),
    ("nowhere/script.py", "there is no dataset script nowhere/script.py"),
])  # fmt: skip
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_data_dir_must_exist(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        load("mintrec", data_dir=tmp_path / "absent")


def test_script_without_one_builder(tmp_path):
    (tmp_path / "empty_script.py").write_text("import datasets\n")
    with pytest.raises(ValueError, match="defines 0 dataset builders"):
        load(tmp_path / "empty_script.py", data_dir=tmp_path)


def test_streaming_gives_the_same_rows(folder):
    whole = load("mintrec", data_dir=folder, strict_counts=False)
    stream = load("mintrec", data_dir=folder, strict_counts=False, streaming=True)
    for split, part in whole.items():
        for a, b in zip(stream[split], rows_of(part), strict=True):
            absent = a["audio_features"] is None or np.ndim(a["audio_features"]) == 0
            assert absent == (b["audio_features"] is None)
            assert same({**a, "audio_features": 0}, {**b, "audio_features": 0})


@pytest.mark.parametrize("change", ["table", "features", "new file"])
def test_edited_files_are_read_again(folder, change):
    before = load("mintrec", data_dir=folder, strict_counts=False)
    if change == "table":
        write_mintrec(folder, {**MINTREC, "test": [("S06", "E03", "1", "abc", "Leave")]})  # the same size
        assert load("mintrec", data_dir=folder, strict_counts=False)["test"][0]["text"] == "abc"
    elif change == "features":
        write_mintrec_features(folder, audio={key: np.ones((2, 1, 6)) for key in ("S06_E03_1", FIRST)})
        after = load("mintrec", data_dir=folder, strict_counts=False)
        assert (after["train"][0]["audio_features"] == 1).all()
        assert before["train"][0]["audio_features"] is None
    else:
        (folder / "raw_data").mkdir()
        (folder / "raw_data" / "clip.mp4").touch()
        assert "video_path" in load("mintrec", data_dir=folder, strict_counts=False)["test"].column_names


def test_the_second_load_reads_the_cache(folder):
    first = load("mintrec", data_dir=folder, strict_counts=False, split="train")
    written = [Path(file["filename"]).stat().st_mtime_ns for file in first.cache_files]
    again = load("mintrec", data_dir=folder, strict_counts=False, split="train")
    assert [Path(file["filename"]).stat().st_mtime_ns for file in again.cache_files] == written


def test_options_have_caches_of_their_own(folder):
    assert "audio_features" in load("mintrec", data_dir=folder, strict_counts=False)["train"].column_names
    assert (
        "audio_features"
        not in load("mintrec", data_dir=folder, strict_counts=False, columns="text")["train"].column_names
    )


@pytest.mark.skipif(Version(datasets.__version__).major >= 4, reason="scripts are loaded by datasets 3 only")
def test_datasets_3_loads_the_script_itself(folder, root):
    ours = load("mintrec", data_dir=folder, strict_counts=False)
    script = str(root / "data_scripts" / "mintrec.py")
    theirs = datasets.load_dataset(script, data_dir=str(folder), strict_counts=False, trust_remote_code=True)
    for split, part in ours.items():
        assert theirs[split].features == part.features
        pairs = zip(rows_of(theirs[split].with_format(FORMAT)), rows_of(part), strict=True)
        assert all(same(a, b) for a, b in pairs)


# ---- Parquet


def test_parquet_round_trip(folder, tmp_path):
    whole = load("mintrec", data_dir=folder, strict_counts=False)
    for split, part in whole.items():
        (tmp_path / "published").mkdir(exist_ok=True)
        part.to_parquet(tmp_path / "published" / f"{split}.parquet")
    again = load(tmp_path / "published")
    for split, part in whole.items():
        assert again[split].features == part.features
        assert all(same(a, b) for a, b in zip(rows_of(again[split]), rows_of(part), strict=True))
    assert again["train"][0]["audio_features"] is None
    text = load(tmp_path / "published", columns="text", split="train")
    assert text.column_names == ["id", "text", "label", "dialogue_id"]
    with pytest.raises(ValueError, match="`columns` is 'sound'"):
        load(tmp_path / "published", columns="sound")


def test_builder_writes_parquet_itself(folder, tmp_path):
    builder = make_builder(hf_mmintent.__path__[-1] + "/data_scripts/mintrec.py", data_dir=folder, strict_counts=False)
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    files = {split: str(tmp_path / "out" / f"mintrec-{split}.parquet") for split in ("train", "validation", "test")}
    again = datasets.load_dataset("parquet", data_files=files).with_format(FORMAT)
    assert again["train"][0]["audio_features"] is None
    assert again["train"][1]["audio_features"].dtype == np.float32


# ---- rows


def test_row_format_of_every_access(folder):
    part = load("mintrec", data_dir=folder, strict_counts=False)["train"]
    batch = part[[2, 0, 1]]
    assert [None if x is None else x.shape for x in batch["audio_features"]] == [(4, 6), None, (3, 6)]
    assert [None if x is None else len(x) for x in part["audio_features"]] == [None, 3, 4]
    shuffled = part.shuffle(seed=1).select(range(2))
    by_id = {row["id"]: row for row in rows_of(part)}
    assert all(same(row, by_id[row["id"]]) for row in rows_of(shuffled))
    mapped = part.map(lambda row: {"steps": -1 if row["audio_features"] is None else len(row["audio_features"])})
    assert list(mapped["steps"]) == [-1, 3, 4]
    assert len(part.filter(lambda row: row["audio_features"] is None)) == 1


def test_features_are_views_of_the_mapped_file(folder):
    part = load("mintrec", data_dir=folder, strict_counts=False)["train"]
    features = part[1]["audio_features"]
    assert not features.flags.owndata
    assert not features.flags.writeable
    first = part.data.column("audio_features").chunk(0).storage.values.values.to_numpy()
    assert np.shares_memory(features, first)


def test_bytes_keep_their_zeros():
    part = datasets.Dataset.from_dict({"audio": [{"bytes": b"ab\0\0", "path": None}]}).with_format(FORMAT)
    assert part[0]["audio"] == {"bytes": b"ab\0\0", "path": None}


# ---- containers of features


def containers(folder: Path, values: dict[str, np.ndarray]) -> dict[str, FeatureFile]:
    (folder / "x.pkl").write_bytes(pickle.dumps(values))
    np.savez(folder / "x.npz", **values)
    np.savez_compressed(folder / "compressed.npz", **values)
    with h5py.File(folder / "x.h5", "w") as file:
        for key, value in values.items():
            file[key] = value
    (folder / "arrays").mkdir()
    for key, value in values.items():
        np.save(folder / "arrays" / f"{key}.npy", value)
    objects = np.empty(len(values), dtype=object)
    objects[:] = list(values.values())
    np.save(folder / "x.npy", objects, allow_pickle=True)
    keys = list(values)
    paths = ("x.pkl", "x.npz", "compressed.npz", "x.h5", "arrays", "x.npy")
    return {path: FeatureFile(folder / path, "audio", keys=keys) for path in paths}


def test_every_container_gives_the_same(tmp_path):
    values = {"a": np.arange(6.0).reshape(2, 1, 3), "b": np.full((4, 3), np.nan, np.float32), "c": np.zeros((0, 3))}
    for path, file in containers(tmp_path, values).items():
        assert file.width == 3, path
        assert len(file) == 3
        assert sorted(file.keys()) == ["a", "b", "c"]
        a, b = file.get("a"), file.get("b")
        assert a.dtype == np.float32
        assert a.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert b.shape == (4, 3)
        assert file.get("c") is None
        assert file.get("absent") is None
        split = file.report.split
        assert dict(split.problems) == {
            "non-finite audio": ["b"],
            "audio of zero length": ["c"],
            "audio missing": ["absent"],
        }
        assert split.values["audio"] == 12
        assert split.lengths["audio"] == [2, 4]


def test_single_array_with_keys(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(2, 2, 3))
    assert FeatureFile(tmp_path / "x.npy", "audio", keys=["a", "b"]).get("b").tolist() == [[6, 7, 8], [9, 10, 11]]
    with pytest.raises(DataError, match="2 entries but 3 keys"):
        FeatureFile(tmp_path / "x.npy", "audio", keys=["a", "b", "c"])


def test_nested_transposed_and_vectors():
    assert FeatureFile({"a": {"x": np.ones((2, 3))}}, "audio", field="x").get("a").shape == (2, 3)
    assert FeatureFile({"a": np.ones((3, 2))}, "audio", transpose=True).get("a").shape == (2, 3)
    assert FeatureFile({"a": np.ones(3)}, "audio", vectors=True).get("a").shape == (1, 3)
    assert FeatureFile({"a": [np.ones(3), np.zeros(3)]}, "audio").get("a").tolist() == [[1, 1, 1], [0, 0, 0]]
    assert FeatureFile({"a": [[1, 2], [3, 4]]}, "audio").get("a").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("value", "message"), [
    (np.ones(3), r"have the shape \(3,\)"),
    (np.ones((2, 2, 3)), r"have the shape \(2, 2, 3\)"),
    (np.ones((2, 0)), r"have the shape \(2, 0\)"),
    (np.float32(1), r"have the shape \(\)"),
    (np.array(["a"]), "no numbers"),
    ("text", "no numbers"),
    ([np.ones(3), np.ones(2)], r"frames of different shapes \[\(2,\), \(3,\)\]"),
])  # fmt: skip
def test_entries_that_are_no_sequences(value, message):
    with pytest.raises(DataError, match=rf"features of 'k'.*{message}"):
        FeatureFile({"k": value}, "audio").get("k")


def test_widths_must_agree():
    file = FeatureFile({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, "video")
    assert file.width == 3
    with pytest.raises(DataError, match=r"video features of 'b' are 4 wide but those of 'a' are 3 wide"):
        file.get("b")


def test_no_features_at_all():
    with pytest.raises(DataError, match="holds no audio features at all"):
        _ = FeatureFile({"a": []}, "audio").width


def test_wrong_containers(tmp_path):
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    for name in ("bad.npz", "bad.h5", "bad.npy"):
        (tmp_path / name).write_bytes(b"not what it says")
    for name in ("list.pkl", "bad.npz", "bad.h5", "bad.npy"):
        with pytest.raises(DataError, match=name):
            FeatureFile(tmp_path / name, "audio", keys=["a"])


def test_truncated_archive(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.random.default_rng(0).normal(size=(500, 3)))
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"x\.npz"):
        FeatureFile(tmp_path / "x.npz", "audio")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_objects_in_arrays_are_not_executed(tmp_path, name):
    evil = np.array([os.system, os.system])
    if name == "x.npy":
        np.save(tmp_path / name, evil, allow_pickle=True)
    else:
        np.savez(tmp_path / name, a=evil)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        FeatureFile(tmp_path / name, "audio", keys=["a", "b"]).get("a")


def test_hdf5_does_not_lead_out_of_the_file(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones((2, 3))
    (tmp_path / "raw.bin").write_bytes(np.ones((2, 3), np.float32).tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["fine"] = np.ones((2, 3))
        file["linked"] = h5py.ExternalLink("other.h5", "/secret")
        file.create_dataset("outside", (2, 3), "f4", external=[("raw.bin", 0, 24)])
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (2, 3))
        file.create_virtual_dataset("virtual", layout)
    file = FeatureFile(tmp_path / "x.h5", "audio")
    assert file.get("fine").shape == (2, 3)
    for key in ("linked", "outside", "virtual"):
        with pytest.raises(DataError, match=f"'{key}'"):
            file.get(key)


# ---- checks


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "..\\x", "\\\\host\\x", "", "a\0b", "a/.."]
)
def test_paths_that_lead_out(tmp_path, name):
    with pytest.raises(DataError, match="does not lie inside"):
        resolve_inside(tmp_path, name)


def test_links(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "x").touch()
    (inside / "x").symlink_to(outside / "x")
    with pytest.raises(DataError, match="a link out of"):
        resolve_inside(inside, "x")
    (tmp_path / "shortcut").symlink_to(outside)  # the user's own link to the folder
    assert resolve_inside(tmp_path / "shortcut", "x") == (outside / "x").resolve()
    assert resolve_inside(inside, "a/b.mp4") == inside.resolve() / "a" / "b.mp4"


def test_table_variants(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa,b\r\n1,"x, ""y"""\r\n\r\n2,"two\nlines"\r\n'.encode())
    assert read_table(path, ["a", "b"]) == [
        {"a": "1", "b": 'x, "y"', "line": 2, "source": f"{path} line 2"},
        {"a": "2", "b": "two\nlines", "line": 5, "source": f"{path} line 5"},
    ]
    assert read_table(path, 2)[0] == {"0": "1", "1": 'x, "y"', "line": 2, "source": f"{path} line 2"}
    with pytest.raises(DataError, match=r"has 2 columns \['a', 'b'\], not 3"):
        read_table(path, 3)
    path.write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(path, ["a", "b"])
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"has the columns \[\]"):
        read_table(path, ["a", "b"])


def test_report():
    report = BuildReport("x")
    report.begin("train")
    for i in range(4):
        report.row("Praise")
        report.features("audio", str(i), np.ones((i + 1, 2)))
        report.problem("video missing", str(i))
    assert str(report.splits["train"]) == "4 rows; audio steps min 1, median 2, 95 % 3, max 4; labels Praise 4"
    assert report.splits["train"].warnings() == ["video missing in 4 rows (0, 1, 2, …)"]


def test_report_of_an_earlier_build(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    report = BuildReport("x")
    for _ in range(2):
        report.note("the folder is odd.")  # kept and told once
    report.begin("train")
    report.row("Praise")
    report.features("audio", "a", np.array([[np.nan, np.inf]]))
    report.save(tmp_path / "found.json")
    caplog.clear()
    later = BuildReport("x")
    later.repeat(tmp_path / "found.json")
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the folder is odd.",
        "x train: non-finite audio in 1 rows (a); 2 NaN or infinite audio values kept.",
    ]
    assert later.splits["train"].problems == {"non-finite audio": ["a"]}


def test_shared_groups():
    tables = {"train": [{"speaker": "a"}, {"speaker": "b"}], "test": [{"speaker": "b"}, {"speaker": None}]}
    assert shared_groups(tables, ("speaker", "dialogue_id")) == {"speaker": {"train & test": ["b"]}}


# ---- memory


def measure_memory(
    counts: list[int], video_steps: int, audio_steps: int, folder: Path, root: Path
) -> list[tuple[int, int, int, float]]:
    """
    For every number of rows the peak of the loading process's own memory and of its resident set, mapped pages included, the
    size of the feature files (MiB each) and the seconds; measured in a fresh process, the smallest first.
    """
    arguments = [",".join(map(str, counts)), str(video_steps), str(audio_steps), str(folder)]
    command = [sys.executable, "-m", "tests.hf_mmintent.memory_case", *arguments]
    environment = {**os.environ, "HF_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for child in folder.iterdir():
        shutil.rmtree(child)
    results = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return [(int(own), int(resident), int(size), float(seconds)) for own, resident, size, seconds in results]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path, root):
    (few, _, few_size, _), (many, _, many_size, _) = measure_memory([40, 400], 100, 200, tmp_path, root)
    print(f"{few_size} MiB of features: {few} MiB of memory; {many_size} MiB: {many} MiB")
    assert many_size > 9 * few_size
    assert many - few < 60
    assert many < many_size / 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_mintrec_at_full_size(tmp_path, root):
    """2,224 rows of up to 230 × 1024 and 480 × 768 numbers; takes about twice the size of the features on disk."""
    ((own, resident, size, seconds),) = measure_memory([2224], 230, 480, tmp_path, root)
    print(f"{size} MiB of features: {own} MiB of own memory, {resident} MiB with mapped pages, {seconds} s")
    assert size > 2500
    assert own < 1024 and resident < 1024  # also with the mapped pages, which the system could take back
