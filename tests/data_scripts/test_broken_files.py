"""Every file of every dataset, damaged in every way: it is refused by name, or read as what it is; never by accident."""

import copy
import csv
import io
import json
import pickle
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import _builder_class, _script
from hf_mmintent.data.safe_pickle import PickleFormatError
from tests.data_scripts.every_dataset import OPTIONS, WRITERS

MEDIA = {".mp4", ".wav", ".avi", ".mpg", ".flv", ".jpg"}  # not parsed when rows are made
TEXTS = {".csv": ",", ".tsv": "\t", ".txt": " ", ".json": "", ".align": " "}
UNREAD = {  # files in the folder that a configuration does not read, or only for rows it does not have
    "in_scope": ("out-of-scope/*", "total/*/*.pkl"),
    "oos": ("out-of-scope/*/train.tsv", "out-of-scope/*/dev.tsv", "total/*/*.pkl"),
    "total31": ("in-scope/*", "out-of-scope/*"),
    "own_fold1": ("split_indices.p",),
}
REFUSALS = (DataError, PickleFormatError, FileNotFoundError)


def build(name: str, config: str, folder: Path) -> int:
    """Rows of all splits, encoded by their types but not written."""
    options = {"strict_counts": False, "trust_pickle": False, **OPTIONS.get((name, config), {})}
    builder = _builder_class(_script(name))(config_name=config, data_dir=str(folder), hash="test", **options)
    count = 0
    for split in builder._split_generators(None):
        for _, row in builder._generate_examples(**split.gen_kwargs):
            for column in {"id", "text", "speaker", "dialogue_id"} & row.keys():
                assert row[column] is None or type(row[column]) is str, (column, row[column])
            builder.info.features.encode_example(row)
            count += 1
    return count


# ---- damage ----------------------------------------------------------------------------------------------------------


def broken_bytes(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a full disk, an interrupted copy or another program leaves; never a file that can be read."""
    data = path.read_bytes()
    yield "empty", b""
    yield "other bytes", bytes(range(256)) * 8
    if path.suffix in TEXTS:
        lines = data.split(b"\n")
        middle = lines[len(lines) // 2 - 1]
        for what, bad in (("not UTF-8", b"\xff\xfe"), ("NUL", b"\0")):
            yield what, data.replace(middle, middle[:2] + bad + middle[2:], 1)
    else:
        yield "first half", data[: len(data) // 2]


WRONG = (None, "x", 3.5, True, [], {}, [[]], np.array(["a"]), np.zeros((2, 2, 2)), np.array(3.0), b"\xff", float("nan"))


def broken_content(path: Path) -> Iterator[tuple[str, bytes]]:
    """Files that can be read but hold something else: other types, shapes, lengths, keys; some are as good as before."""
    if path.suffix in (".pkl", ".p"):
        value = pickle.loads(path.read_bytes())
        yield from ((what, pickle.dumps(new)) for what, new in broken_tree(value, WRONG))
    elif path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        yield from ((what, json.dumps(new).encode()) for what, new in broken_tree(value, WRONG[:7]))
    elif path.suffix in (".npz", ".npy"):
        arrays = np.load(path)
        for what, new in broken_arrays(dict(arrays) if path.suffix == ".npz" else {"": arrays}):
            buffer = io.BytesIO()
            np.savez(buffer, **new) if path.suffix == ".npz" else np.save(buffer, new.get("", np.zeros(0)))
            yield what, buffer.getvalue()
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path) as file:
            arrays = {name: file[name][()] for name in file}
        for what, new in broken_arrays(arrays):
            if not any(array.dtype.kind in "MO" for array in new.values()):
                buffer = io.BytesIO()
                with h5py.File(buffer, "w") as file:
                    for name, array in new.items():
                        file[name] = array.astype("S") if array.dtype.kind == "U" else array
                yield what, buffer.getvalue()
    elif path.suffix in TEXTS:
        yield from broken_table(path.read_text(encoding="utf-8-sig"), path.suffix)


def broken_tree(value: Any, wrong: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Every leaf and branch of the first two entries replaced or, in a dict, removed."""
    for place in places(value):
        for other in wrong:
            yield f"{place} = {other!r:.20}", replaced(value, place, other)
        if place and isinstance(at(value, place[:-1]), dict):
            rest = {key: item for key, item in at(value, place[:-1]).items() if key != place[-1]}
            yield f"without {place}", replaced(value, place[:-1], rest)


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    yield place
    if len(place) < 5 and isinstance(value, (dict, list, tuple)):
        keys = list(value)[: 12 if len(value) <= 12 and isinstance(value, dict) else 2]
        for key in keys if isinstance(value, dict) else range(min(2, len(value))):
            yield from places(value[key], (*place, key))


def at(value: Any, place: tuple) -> Any:
    for key in place:
        value = value[key]
    return value


def replaced(value: Any, place: tuple, other: Any) -> Any:
    if not place:
        return other
    changed = list(value) if isinstance(value, tuple) else copy.copy(value)
    changed[place[0]] = replaced(value[place[0]], place[1:], other)
    return tuple(changed) if isinstance(value, tuple) else changed


def broken_arrays(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for name in list(arrays)[:8]:
        array = np.asarray(arrays[name])
        yield f"without {name}", {key: value for key, value in arrays.items() if key != name}
        others = {
            "texts": np.full(array.shape, "x"), "bytes": np.full(array.shape, b"\xff\xfe"), "scalar": np.array(3.0),
            "one more dimension": array[None], "complex": np.zeros(array.shape, complex),
            "times": np.zeros(array.shape, "datetime64[s]"), "structs": np.zeros(array.shape, [("x", "f4")]),
        }  # fmt: skip
        if array.ndim:
            others |= {"too short": array[:-1], "nothing": array[:0], "too long": np.concatenate([array, array])}
        if array.dtype.kind in "iuf":
            others |= {"negative": -np.abs(array.astype(float)) - 7, "large": np.full(array.shape, 2**40)}
        for what, other in others.items():
            yield f"{name}: {what}", {**arrays, name: other}


def broken_table(text: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    delimiter = "&" if "&" in text[:200] else "," if "," in text[:200] and suffix == ".txt" else TEXTS[suffix]
    quoting: Any = csv.QUOTE_MINIMAL if suffix == ".csv" else csv.QUOTE_NONE
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting))

    def written(lines: list[list[str]]) -> bytes:
        file = io.StringIO()
        if suffix != ".csv":
            return "".join(delimiter.join(line) + "\n" for line in lines).encode()
        csv.writer(file).writerows(lines)
        return file.getvalue().encode()

    for row in range(min(2, len(rows))):
        line = rows[row]
        changes = {f"column {i} = {w!r}": [*line[:i], w, *line[i + 1 :]] for i in range(len(line))
                   for w in ("", " ", "x", "-1", "nan", "1e400", "٣", "../../x")}  # fmt: skip
        for what, new in {**changes, "too short": line[:-1], "too long": [*line, "x"]}.items():
            yield f"row {row}, {what}", written([*rows[:row], new, *rows[row + 1 :]])


# ---- tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=WRITERS, ids="-".join)
def dataset(request, tmp_path) -> tuple[str, str, Path]:
    """Name, configuration and a small folder in the official layout."""
    WRITERS[request.param](tmp_path)
    return *request.param, tmp_path


def read_files(config: str, folder: Path) -> list[Path]:
    """All files that the configuration reads."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in MEDIA]
    return [
        path
        for path in found
        if not any(fnmatch(path.relative_to(folder).as_posix(), part) for part in UNREAD.get(config, ()))
    ]


def outcome(name: str, config: str, folder: Path, path: Path, data: bytes) -> str | None:
    """`None` where the files were read, else the error; an error that is not one of ours goes through."""
    whole = path.read_bytes()
    path.unlink()  # HDF5 would go on reading a file that is open
    path.write_bytes(data)
    try:
        build(name, config, folder)
    except REFUSALS as error:
        return str(error)
    finally:
        path.unlink()
        path.write_bytes(whole)
    return None


def test_damaged_files_are_named(dataset):
    name, config, folder = dataset
    assert build(name, config, folder) > 0
    for path in read_files(config, folder):
        for what, data in broken_bytes(path):
            error = outcome(name, config, folder, path, data)
            assert error is not None and path.name in error, (path.name, what, error)


@pytest.mark.slow
def test_wrong_content_is_refused_by_name_or_read(dataset):
    name, config, folder = dataset
    refused = 0
    for path in read_files(config, folder):
        for what, data in broken_content(path):
            try:
                error = outcome(name, config, folder, path, data)
            except ValueError as other:  # too few training rows for the share that is held out
                assert "`validation_share` is" in str(other), (path.name, what)
                continue
            assert error is None or path.name in error, (path.name, what, error)
            refused += error is not None
    assert refused > 0 or name == "kinetics_sounds"  # folders of clips have no file that is parsed
