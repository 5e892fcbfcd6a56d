"""Rows straight from the files: the same rows as through the dataset, and memory that does not follow its size."""

from __future__ import annotations

import mmap
import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Sequence, Value, concatenate_datasets

from hf_mmintent.benchmark.reading import measure_reading, write_rows
from hf_mmintent.benchmark.shapes import Shape
from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.reading import RowReader, direct
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.memory import release_mapped_files
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor

SHAPE = Shape(8, 12, {"audio": (30, 5), "video": (20, 8)})
FEATURES = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "label": ClassLabel(names=["a", "b", "c"]),
        "start_time": Value("float64"),
        "context": [{"speaker": Value("string"), "text": Value("string")}],
        "scores": Sequence(Value("float32")),
        "audio_features": Array2D((None, 5), "float32"),
        "video_features": Array2D((None, 3), "float32"),
    }
)


def make_rows(first: int, count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(first)
    rows = []
    for index in range(first, first + count):
        row: dict[str, Any] = {"id": f"r{index}", "text": None if index % 5 == 4 else "hello you", "label": index % 3}
        row |= {"start_time": None if index % 3 else 0.5 * index, "scores": [float(index), 0.5]}
        row["context"] = [{"speaker": "x", "text": "hi"}] * (index % 3)
        row["audio_features"] = None if index % 4 == 1 else random.normal(size=(1 + index % 6, 5)).astype(np.float32)
        row["video_features"] = None if index % 7 == 2 else random.normal(size=(2 + index % 3, 3)).astype(np.float32)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Several files of several chunks each."""
    parts = [
        Dataset.from_generator(
            make_rows,
            gen_kwargs={"first": first, "count": 23},
            features=FEATURES,
            cache_dir=str(tmp_path_factory.mktemp("rows")),
            writer_batch_size=5,
        )
        for first in (0, 23, 46)
    ]
    return concatenate_datasets(parts).with_format(FORMAT)


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        assert list(left) == list(right)
        for name, value in right.items():
            assert type(left[name]) is type(value), name
            if isinstance(value, np.ndarray):
                assert left[name].dtype == value.dtype == np.float32
                np.testing.assert_array_equal(left[name], value)
            else:
                assert left[name] == value, name


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows,
        lambda rows: rows.shuffle(seed=1),
        lambda rows: rows.select(range(7, 31)),
        lambda rows: rows.select([60, 3, 3, 40]),
        lambda rows: rows.shuffle(seed=2).select(range(3, 20)),
        lambda rows: rows.train_test_split(0.3, seed=0)["test"],
        lambda rows: rows.remove_columns(["video_features", "context"]),
        lambda rows: rows.select_columns(["id", "audio_features"]),
        lambda rows: rows.add_column("length", list(range(len(rows)))),
        lambda rows: rows.filter(lambda row: row["label"] == 1, load_from_cache_file=False),
    ],
)
def test_the_same_rows(rows: Dataset, change: Any) -> None:
    changed = change(rows).with_format(FORMAT)
    reader = direct(changed)
    assert isinstance(reader, RowReader) and len(reader) == len(changed)
    order = np.random.default_rng(0).permutation(len(changed)).tolist()
    assert_same(reader.__getitems__(order), [changed[index] for index in order])
    assert_same([reader[0], reader[-1]], [changed[0], changed[-1]])
    with pytest.raises(IndexError, match=f"of a dataset of {len(changed)}"):
        reader[len(changed)]


def test_other_formats_stay(rows: Dataset) -> None:
    plain = rows.with_format(None)
    assert direct(plain) is plain and direct([1, 2]) == [1, 2]
    some = rows.with_format(FORMAT, columns=["id", "label"])
    assert_same(direct(some).__getitems__([3, 1]), [some[3], some[1]])


def test_views_of_the_file_are_not_copies(rows: Dataset) -> None:
    features = direct(rows)[0]["audio_features"]
    assert not features.flags.owndata and not features.flags.writeable


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_loader(rows: Dataset, tiny_tokenizer: Any, workers: int) -> None:
    some = rows.select_columns(["id", "text", "label", "audio_features", "video_features"])
    whole = some.select([index for index in range(len(rows)) if index % 5 != 4])  # with text
    processor = MultimodalProcessor(tiny_tokenizer, feature_sizes={"audio": 5, "video": 3}, label_names=["a", "b", "c"])
    options = {"batch_size": 8, "collate_fn": MultimodalCollator(processor), "num_workers": workers}
    found = list(torch.utils.data.DataLoader(direct(whole), **options))
    expected = list(torch.utils.data.DataLoader(whole, **options))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_a_reader_survives_pickling(rows: Dataset) -> None:
    again = pickle.loads(pickle.dumps(direct(rows)))
    assert_same(again.__getitems__([5, 50]), direct(rows).__getitems__([5, 50]))


def test_letting_go_of_pages_changes_no_row(rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for rows that were handed out before; rows that lie in memory and not in a file are left alone."""
    monkeypatch.setattr("hf_mmintent.data.reading._RELEASE_AFTER", 0)
    released: list[int] = []
    monkeypatch.setattr(
        "hf_mmintent.data.reading.release_mapped_files", lambda paths: released.append(release_mapped_files(paths))
    )
    kept_in_memory = Dataset.from_dict({name: rows[name] for name in rows.column_names}, FEATURES).with_format(FORMAT)
    expected = [rows[index] for index in range(len(rows))]
    for source, on_linux in ((rows, True), (kept_in_memory, False)):
        reader = direct(source)
        first = reader.__getitems__(range(10))
        assert_same([*first, *reader.__getitems__(range(10, len(rows)))], expected)
        assert_same(list(reader), expected)
        assert first[0]["audio_features"].sum() == expected[0]["audio_features"].sum()
        if sys.platform.startswith("linux"):
            assert (max(released) > 0) == on_linux
        released.clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory map of the process")
def test_pages_of_a_mapped_file_are_let_go_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "with a space"
    path.write_bytes(bytes(range(256)) * 2**16)  # 16 MiB
    with path.open("r+b") as file:
        read = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    private[5] = 99
    assert sum(read[:: mmap.PAGESIZE]) == 0
    before = resident()
    assert release_mapped_files([path]) == len(read)
    assert before - resident() > 12
    assert read[255] == 255 and private[5] == 99  # what is written to a private map lies nowhere else
    assert release_mapped_files([tmp_path / "absent"]) == release_mapped_files([]) == 0


def resident() -> float:
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell anonymous memory")
def test_memory_does_not_follow_the_dataset(tmp_path: Path) -> None:
    """Eight times the rows, 0.4 and 3 MB of features: reading them takes what reading the small one takes."""
    shape = Shape(8, 12, {"audio": (60, 5), "video": (40, 20)})
    small, large = (measure_reading(write_rows(tmp_path, shape, count), shape, 32) for count in (400, 3200))
    assert (small.rows, large.rows) == (400, 3200) and large.size > 7 * small.size
    assert large.growth <= small.growth + large.size / 4  # all of it in memory would be `large.size`


def test_the_script_prints_every_size(root: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    arguments = ["--shape", "mini", "--rows", "64", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", *arguments])
    monkeypatch.setenv("PYTHONPATH", str(root))
    runpy.run_path(str(root / "examples" / "benchmark_data.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith("    64 rows of ") and "rows/s of processor time, memory grows by" in printed
    assert not list(tmp_path.iterdir())
