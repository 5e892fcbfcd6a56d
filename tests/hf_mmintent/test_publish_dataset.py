"""Published folders: rows, features and media survive; all or nothing; licences; the Hub and plain `load_dataset`."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Array2D, Dataset, DatasetDict, Features, Value

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.hub import parquet_shards
from hf_mmintent.hub.dataset_rights import dataset_rights
from hf_mmintent.hub.parquet_shards import MEDIA_STRUCT, published_features, write_split
from hf_mmintent.hub.publish_dataset import DatasetSource, publish_dataset, write_dataset
from tests.data_scripts.official_files import MINTREC, write_mintrec, write_mintrec_features
from tests.data_scripts.test_meld import write_meld
from tests.hub_stub import HubStub

FIRST = "S04_E01_1"


@pytest.fixture
def mintrec(tmp_path: Path) -> DatasetSource:
    """MIntRec with features; the first row lacks its audio, and audio holds −inf."""
    folder = write_mintrec(tmp_path / "mintrec")
    bad = np.ones((2, 1, 6))
    bad[0, 0, 1] = -np.inf
    write_mintrec_features(folder, audio={FIRST: ..., "S06_E03_1": bad})
    return DatasetSource("mintrec", folder, options={"strict_counts": False, "check_clips": False})


def with_clips(source: DatasetSource) -> dict[str, bytes]:
    """Add the clips of all rows but one; with `check_clips=False` they are not decoded, so any bytes do."""
    clips = {}
    for number, row in enumerate(row for part in MINTREC.values() for row in part):
        path = Path(str(source.data_dir)) / "raw_data" / "/".join(row[:3])
        path.parent.mkdir(parents=True, exist_ok=True)
        key = "_".join(row[:3])
        clips[key] = bytes([number]) * 5 + b"\0\0"
        if key != FIRST:
            path.with_suffix(".mp4").write_bytes(clips[key])
    return clips


def same(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(b, np.ndarray) else type(a) is type(b) and a == b


def same_rows(some: Any, others: Any) -> bool:
    pairs = zip(list(some), list(others), strict=True)
    return all(a.keys() == b.keys() and all(same(a[name], b[name]) for name in b) for a, b in pairs)


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


# ---- rows


def test_rows_survive(mintrec, tmp_path):
    folder = write_dataset(mintrec, tmp_path / "out")
    ours = load("mintrec", data_dir=mintrec.data_dir, strict_counts=False)
    plain = datasets.load_dataset(str(folder))
    assert list(plain) == ["train", "validation", "test"]
    again = load(folder)
    for split, part in ours.items():
        assert plain[split].features == part.features
        assert same_rows(again[split], part)
    assert plain["test"].features["audio_features"] == Array2D((None, 6), "float32")
    assert plain["test"].features["label"].names[3] == "Thank"
    assert again["train"][0]["audio_features"] is None
    assert again["test"][0]["audio_features"][0, 1] == -np.inf
    assert plain["train"][1]["audio_features"] == ours["train"][1]["audio_features"].tolist()


def test_streaming(mintrec, tmp_path):
    folder = write_dataset(mintrec, tmp_path / "out", shard_bytes=1)
    ours = load("mintrec", data_dir=mintrec.data_dir, strict_counts=False)
    stream = datasets.load_dataset(str(folder), streaming=True)
    for split, part in ours.items():
        for a, b in zip(stream[split], part, strict=True):
            assert (a["id"], a["text"], a["label"]) == (b["id"], b["text"], b["label"])
            if b["audio_features"] is None:
                assert np.isnan(a["audio_features"])
            else:
                assert a["audio_features"] == b["audio_features"].tolist()


def test_media_are_embedded(mintrec, tmp_path):
    clips = with_clips(mintrec)
    folder = write_dataset(mintrec, tmp_path / "out")
    plain = datasets.load_dataset(str(folder))
    assert plain["train"].features["video"] == MEDIA_STRUCT == plain["train"].features["audio"]
    rows = [row for part in load(folder).values() for row in part]
    for row in rows:
        path = f"raw_data/{row['id'].replace('_', '/')}.mp4"
        expected = None if row["id"] == FIRST else {"bytes": clips[row["id"]], "path": path}
        assert row["audio"] == row["video"] == expected
    assert sum(row["video"] is None for row in rows) == 1
    text = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in text
    stream = {row["id"]: row["video"] for row in datasets.load_dataset(str(folder), streaming=True)["train"]}
    assert stream["S04_E01_2"]["bytes"] == clips["S04_E01_2"]


def test_files_outside_the_folder_are_not_published(tmp_path):
    folder = tmp_path / "rows"
    (folder / "clips").mkdir(parents=True)
    (folder / "clips" / "a.mp4").write_bytes(b"clip")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret")

    def written(path, root):
        rows = Dataset.from_dict({"id": ["a"], "video_path": [str(path)]})
        (shard,) = write_split(rows, tmp_path, "train", 1 << 20, root).shards
        return pq.read_table(shard)["video"].to_pylist()

    assert written(folder / "clips" / "a.mp4", folder) == [{"bytes": b"clip", "path": "clips/a.mp4"}]
    for path, root in (
        (tmp_path / "secret", folder),
        (folder / "link.mp4", folder),
        (folder / "clips" / "a.mp4", None),
    ):
        with pytest.raises(DataError, match="would be published"):
            written(path, root)


def test_ready_made_rows_publish_no_file_beside_them(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "rows").mkdir()
    Dataset.from_dict({"id": ["a"], "video_path": [str(tmp_path / "secret")]}).to_parquet(
        tmp_path / "rows" / "train.parquet"
    )
    with pytest.raises(DataError, match="would be published"):
        publish_dataset(DatasetSource(str(tmp_path / "rows")), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_of_pictures_are_left_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    rows = Dataset.from_dict({"id": ["a", "b"], "flow_path": [None, str(tmp_path)]})
    assert list(published_features(rows)) == ["id"]
    assert any("`flow_path` holds folders" in record.message for record in caplog.records)
    assert write_split(rows, tmp_path, "train", 1 << 20).rows == 2


def test_shards_and_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_shards, "_GROUP_BYTES", 4000)
    features = Features({"id": Value("string"), "audio_features": Array2D((None, 10), "float32")})
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(1 + i % 7, 10)).astype(np.float32) for i in range(200)]
    rows = Dataset.from_dict({"id": [str(i) for i in range(200)], "audio_features": arrays}, features=features)
    written = write_split(rows, tmp_path, "train", shard_bytes=9000)
    names = [path.name for path in written.shards]
    assert len(names) > 2 and names == [f"train-{i:05d}-of-{len(names):05d}.parquet" for i in range(len(names))]
    for path in written.shards:
        meta = pq.ParquetFile(path).metadata
        assert all(meta.row_group(i).num_rows <= 48 for i in range(meta.num_row_groups))
    assert written.disk == sum(path.stat().st_size for path in written.shards)
    again = datasets.load_dataset("parquet", data_files={"train": [str(path) for path in written.shards]})["train"]
    assert same_rows(again.with_format(FORMAT), rows.with_format(FORMAT))


def test_column_without_values(tmp_path):
    features = Features({"id": Value("string"), "audio_features": Array2D((None, 10), "float32")})
    rows = Dataset.from_dict({"id": ["a"], "audio_features": [None]}, features=features)
    (path,) = write_split(rows, tmp_path, "train", 1 << 20).shards
    again = datasets.load_dataset("parquet", data_files={"train": str(path)})["train"]
    assert again.features == features and again.with_format(FORMAT)[0]["audio_features"] is None


# ---- card


def test_card(mintrec, tmp_path):
    with_clips(mintrec)
    folder = write_dataset(mintrec, tmp_path / "out", repo_id="me/mintrec")
    data = front_matter(folder)
    assert data["license"] == "cc-by-sa-4.0" and data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["text-classification", "audio-classification", "video-classification"]
    assert {"hf_mmintent", "text", "audio", "video"} <= set(data["tags"])
    assert data["configs"][0]["data_files"][0] == {"split": "train", "path": "mintrec/train-*"}
    assert [split["num_examples"] for split in data["dataset_info"]["splits"]] == [3, 2, 1]
    names = data["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]
    assert list(names.values())[:2] == ["Complain", "Praise"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert 'load_dataset("me/mintrec")' in text and "http" in text and "@inproceedings{zhang2022mintrec" in text
    assert "float32 (steps, 6)" in text and "null in 1 rows" in text
    assert "- non-finite audio: 1 -inf in test" in text
    assert "Options: `strict_counts=False`, `check_clips=False`." in text
    assert "**Do not pass this on: the clips belong to their broadcaster" in text
    assert "| Ask for help | 1 " in text
    assert str(tmp_path) not in text


def test_several_configurations(tmp_path):
    write_meld(tmp_path / "meld")
    source = DatasetSource("meld", tmp_path / "meld", ["sentiment", "emotion"], "text", {"strict_counts": False})
    folder = write_dataset(source, tmp_path / "out")
    first = datasets.load_dataset(str(folder))["train"]
    assert first.features["label"].names == ["neutral", "positive", "negative"]  # the first one is the default
    assert datasets.load_dataset(str(folder), "emotion")["train"].features["label"].num_classes == 7
    theirs = load("meld", data_dir=tmp_path / "meld", name="emotion", columns="text", strict_counts=False)
    assert same_rows(load(folder, name="emotion")["test"], theirs["test"])
    assert same_rows(load(folder, name="emotion")["train"], theirs["train"])  # their rows have contexts


# ---- all or nothing


def test_an_error_leaves_the_former_folder(mintrec, tmp_path, monkeypatch):
    folder = write_dataset(mintrec, tmp_path / "out")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("hf_mmintent.hub.publish_dataset.build_dataset_card", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_dataset(mintrec, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


def test_what_a_killed_process_left_is_replaced(mintrec, tmp_path):
    (tmp_path / ".out.writing" / "mintrec").mkdir(parents=True)
    (tmp_path / ".out.writing" / "mintrec" / "train-00007.parquet").write_bytes(b"half")
    folder = write_dataset(mintrec, tmp_path / "out")
    assert len(list(folder.rglob("*.parquet"))) == 3
    assert not (tmp_path / ".out.writing").exists()


def test_writing_again_gives_the_same_bytes_and_no_leftovers(mintrec, tmp_path):
    folder = write_dataset(mintrec, tmp_path / "out", shard_bytes=1)
    write_dataset(mintrec, folder)
    first = {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}
    assert sorted(first) == [f"{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")]
    write_dataset(mintrec, folder)
    assert {path.name: path.read_bytes() for path in folder.rglob("*.parquet")} == first


@pytest.mark.parametrize("content", ["notes.txt", "README.md", "data.parquet"])
def test_other_folders_are_not_replaced(mintrec, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / content).write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than a published dataset"):
        write_dataset(mintrec, tmp_path / "out")
    assert (tmp_path / "out" / content).read_text() == "mine"


def test_rows_with_errors_are_not_published(tmp_path):
    rows = Dataset.from_dict({"id": ["a", "a"], "text": ["x", "y"]})
    (tmp_path / "in").mkdir()
    rows.to_parquet(tmp_path / "in" / "train.parquet")
    with pytest.raises(DataError, match="1 ids occur more than once in train"):
        write_dataset(DatasetSource(str(tmp_path / "in")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_parquet_folder_can_be_published(tmp_path):
    (tmp_path / "in").mkdir()
    DatasetDict(train=Dataset.from_dict({"id": ["a"], "text": ["x"]}))["train"].to_parquet(
        tmp_path / "in/train.parquet"
    )
    folder = write_dataset(DatasetSource(str(tmp_path / "in")), tmp_path / "out")
    assert datasets.load_dataset(str(folder))["train"].to_list() == [{"id": "a", "text": "x"}]


def test_paths_that_lead_nowhere_or_to_folders(tmp_path):
    (tmp_path / "in").mkdir()
    columns = {"id": ["a", "b"], "text": ["x", "y"], "video_path": [str(tmp_path / "gone.mp4"), None]}
    rows = Dataset.from_dict({**columns, "flow_path": [str(tmp_path), None]})
    rows.to_parquet(tmp_path / "in" / "train.parquet")
    folder = write_dataset(DatasetSource(str(tmp_path / "in")), tmp_path / "out")
    again = datasets.load_dataset(str(folder))["train"]
    assert again.column_names == ["id", "text", "video"] and again["video"][:] == [None, None]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "- `flow_path` of the source leads to folders" in card
    assert "- missing video: all of the 2 rows of train lack it (a, b)." in card
    assert str(tmp_path) not in card


# ---- licences


def test_rights():
    assert dataset_rights("mmintent_mini").refusal(True) is None
    assert dataset_rights("mintrec").refusal(False) is None
    assert "broadcaster" in str(dataset_rights("mintrec").refusal(True))
    assert "CMU does not allow" in str(dataset_rights("cmu_mosi").refusal(False))
    assert "no licence" in str(dataset_rights("/data/somebody").refusal(False))


def test_public_copy_is_refused(mintrec):
    with_clips(mintrec)
    with pytest.raises(PermissionError, match=r"would be public in me/box, but the clips belong.*Nothing was written.*"
                                              r"--private.*leave the media out.*--allow_redistribution"):  # fmt: skip
        publish_dataset(mintrec, repo_id="me/box")


def test_copy_is_refused_before_anything_is_read(shared_data, tmp_path):
    source = DatasetSource("cmu_mosi", shared_data / "cmu_mosi", ["bc_split"])
    with pytest.raises(PermissionError, match="CMU does not allow third parties to redistribute") as error:
        publish_dataset(source, repo_id="me/mosi", output_dir=tmp_path / "out")
    assert "leave the media out" not in str(error.value) and not (tmp_path / "out").exists()
    folder = write_dataset(source, tmp_path / "out")  # for oneself
    assert "**Do not pass this on: CMU does not allow" in (folder / "README.md").read_text(encoding="utf-8")
    assert front_matter(folder)["license"] == "other"


def test_nowhere_to_write(mintrec):
    with pytest.raises(ValueError, match="give `repo_id`, `output_dir`, or both"):
        publish_dataset(mintrec)


# ---- the Hub: one process that publishes, and one visitor without the package, for all tests

PUBLISH = """
import json, sys, traceback
from pathlib import Path
import datasets
from huggingface_hub import HfApi
from hf_mmintent.data.loading import load
from hf_mmintent.hub.publish_dataset import DatasetSource, publish_dataset

whole, changed, log = sys.argv[1], sys.argv[2], {}

def publish(step, folder, repo_id, columns, **options):
    try:
        log[step] = publish_dataset(DatasetSource("mintrec", folder, columns=columns,
                                                  options={"strict_counts": False, "check_clips": False}), repo_id, **options)
    except Exception as error:
        log[step] = f"{type(error).__name__}: {error}"

publish("refused", whole, "me/refused", "auto")
publish("public", whole, "me/public", "auto", allow_redistribution=True)
publish("private", whole, "me/private", "auto", private=True)
log["owner"] = len(datasets.load_dataset("me/private", split="train"))
log["ours"] = load("me/public")["train"][0]["audio_features"] is None
publish("first", whole, "me/again", ["text", "features"], shard_bytes=1)
HfApi().whoami()  # marks the place in the record of requests
publish("same", whole, "me/again", ["text", "features"], shard_bytes=1)
HfApi().whoami()
publish("other", changed, "me/again", "text")
api = HfApi()
api.create_repo("me/foreign", repo_type="dataset")
api.upload_file(path_or_fileobj=b"mine", path_in_repo="foreign.py", repo_id="me/foreign", repo_type="dataset")
publish("foreign", whole, "me/foreign", "text")
publish("visible", whole, "me/foreign", "text", private=True)
Path(sys.argv[3]).write_text(json.dumps(log))
"""

VISIT = """
import os, sys
import numpy as np
from datasets import Array2D, load_dataset
from datasets.exceptions import DatasetNotFoundError

rows = load_dataset("me/public")
assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 2, "test": 1}, rows
assert rows["train"].features["audio_features"] == Array2D((None, 6), "float32")
assert rows["train"].features["label"].names[0] == "Complain"
assert rows["train"][0]["video"] is None and np.isnan(rows["train"][0]["audio_features"])
assert rows["train"][1]["video"] == {"bytes": b"\\1\\1\\1\\1\\1\\0\\0", "path": "raw_data/S04/E01/2.mp4"}
stream = load_dataset("me/public", streaming=True)
assert [row["id"] for row in stream["train"]] == list(rows["train"]["id"])
assert np.array_equal(next(iter(stream["test"]))["video_features"], rows["test"][0]["video_features"])
assert load_dataset("me/again", split="test")["text"][:] == ["new"]
try:
    load_dataset("me/private")
except DatasetNotFoundError:
    print("hidden")
sys.stdout.flush()
os._exit(0)  # the threads of a stream abort an interpreter that ends
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Iterator[tuple[HubStub, dict[str, str]]]:
    """The Hub after everything was published, and what came of it."""
    root = tmp_path_factory.mktemp("published")
    whole = DatasetSource("mintrec", write_mintrec(root / "whole"))
    write_mintrec_features(root / "whole", audio={FIRST: ...})
    with_clips(whole)
    changed = write_mintrec(root / "changed", {**MINTREC, "test": [("S06", "E03", "9", "new", "Leave")]})
    with HubStub(root / "hub") as stub:
        stub.run(PUBLISH, whole.data_dir, changed, root / "log.json", timeout=600)
        yield stub, json.loads((root / "log.json").read_text())


@pytest.mark.hub
def test_plain_load_dataset_reads_what_was_pushed(published):
    stub, log = published
    assert "/me/public/commit/" in log["public"] and log["ours"] is True
    repo = stub.repos["datasets", "me/public"]
    assert not repo.private and len(repo.messages) == 2  # created, and one commit
    assert set(stub.files("me/public", "datasets")) == {
        "README.md", *(f"mintrec/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")),
    }  # fmt: skip
    assert "hidden" in stub.run(VISIT, without_package=True, token=None, timeout=600).stdout


@pytest.mark.hub
def test_second_push_sends_what_is_new_and_deletes_the_rest(published):
    stub, log = published
    marks = [i for i, request in enumerate(stub.requests) if request == "GET /api/whoami-v2"]
    assert "commit" in log["first"] and "commit" in log["same"] and "commit" in log["other"]
    assert not any(request.startswith("PUT") for request in stub.requests[marks[-2] : marks[-1]])
    assert any(request.startswith("PUT") for request in stub.requests[marks[-1] :])
    names = [name for name in stub.files("me/again", "datasets") if name.endswith(".parquet")]
    assert sorted(names) == [f"mintrec/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")]


@pytest.mark.hub
def test_private_is_the_way_out(published):
    stub, log = published
    assert log["refused"].startswith("PermissionError: mintrec would be public in me/refused, but the clips belong")
    assert ("datasets", "me/refused") not in stub.repos
    assert stub.repos["datasets", "me/private"].private and log["owner"] == 3


@pytest.mark.hub
def test_other_repositories_are_left_alone(published):
    stub, log = published
    assert "holds ['foreign.py'], which this package did not write" in log["foreign"]
    assert log["visible"].startswith("ValueError: `private` is True but me/foreign exists and is public")
    assert stub.files("me/foreign", "datasets") == {"foreign.py": b"mine"}


def test_script(mintrec, tmp_path, root, monkeypatch, capsys):
    options = ["--columns", "text", "features", "--options", "{strict_counts: false}", "--shard_megabytes", "1"]
    arguments = ["mintrec", "--data_dir", str(mintrec.data_dir), "--output_dir", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", ["publish_dataset.py", *arguments])
    runpy.run_path(str(root / "examples" / "publish_dataset.py"), run_name="__main__")
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(tmp_path / "out")
    assert len(load(tmp_path / "out")["train"]) == 3
    shutil.rmtree(tmp_path / "out")


# ---- the real files


@pytest.mark.parametrize(("name", "config"), [("grid", "raw"), ("ict_mmmo", "sentiment")])
def test_real_files_survive(shared_data, tmp_path, name, config):
    source = DatasetSource(name, shared_data / name, [config])
    folder = write_dataset(source, tmp_path / "out")
    ours, again = load(name, data_dir=shared_data / name, name=config), load(folder)
    for split, part in ours.items():
        if config == "raw":
            assert list(again[split]["id"]) == list(part["id"])
            for a, b in zip(again[split].select(range(3)), part):
                assert a["video"]["bytes"] == Path(b["video_path"]).read_bytes()
                assert a["video"]["path"] == f"raw/s1/{b['id']}.mpg"
        else:
            assert same_rows(again[split], part)
