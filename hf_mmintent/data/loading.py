"""One way to open a dataset, whatever the version of `datasets`: builder scripts, Parquet folders, Hub ids."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
from packaging.version import Version

import hf_mmintent
from hf_mmintent.data.builder import COLUMN_GROUPS, MultimodalConfig
from hf_mmintent.data.clip_folder import clip_rows, is_clip_folder
from hf_mmintent.data.feature_folder import is_extraction, open_features
from hf_mmintent.data.row_format import FORMAT

_SCRIPTS = Path(str(importlib.import_module("hf_mmintent.data_scripts").__file__)).parent
_SMALL = 8 << 20
_TABLES = {".csv", ".tsv", ".txt", ".json", ".jsonl"}


def list_datasets() -> list[str]:
    """Names of the builders that come with the package."""
    return sorted(path.stem for path in _SCRIPTS.glob("*.py") if not path.stem.startswith("_"))


def load(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    name: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    columns: str | Sequence[str] = "auto",
    **kwargs: Any,
) -> Any:
    """
    Open a dataset.

    Args:
        name_or_path: a builder of the package ("mintrec"), the path of a script, a folder of Parquet files, of extracted
            features or of clips (see [`clip_rows`]), or a Hub id.
        data_dir: folder with the dataset's own files.
        name: configuration of the builder.
        split: one split; all of them as a dict when not given.
        streaming: rows one by one, nothing is written.
        columns: which of text, features and media a builder fills; "auto" is what the files hold.
        kwargs: further options of the builder's configuration, or of `datasets.load_dataset`.

    Returns:
        `DatasetDict` (or `IterableDatasetDict`), or one split of it. Rows hold Python values, features as float32
        arrays (T, D) that lie in the memory-mapped file, and `None` for what is missing. Builders are instantiated
        with every version of `datasets`; edited files are never answered from a stale cache.

    Raises:
        ValueError: neither a builder nor a path nor a Hub id; the message lists the builders.
    """
    if is_extraction(name_or_path):
        return _select(open_features(name_or_path, split), columns)
    script = _script(name_or_path)
    if script is None and is_clip_folder(name_or_path):
        rows = _select(clip_rows(name_or_path), columns)
        return rows if split is None else rows[split]
    if script is None:
        folder = None if data_dir is None else str(data_dir)
        loaded = datasets.load_dataset(
            str(name_or_path), name, data_dir=folder, split=split, streaming=streaming, **kwargs
        )
        return _formatted(_select(loaded, columns))
    builder = make_builder(script, data_dir=data_dir, name=name, columns=columns, **kwargs)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return _formatted(builder.as_dataset(split=split))


def _formatted(loaded: Any) -> Any:
    """Rows as Python values and arrays. A stream hands out what the builder made and needs no format."""
    is_stream = isinstance(loaded, (datasets.IterableDataset, datasets.IterableDatasetDict))
    return loaded if is_stream else loaded.with_format(FORMAT)


def _select(loaded: Any, columns: str | Sequence[str]) -> Any:
    """Without the columns of the groups that were not asked for, where rows come ready-made."""
    wanted = {columns} if isinstance(columns, str) else set(columns)
    if wanted == {"auto"}:
        return loaded
    if not wanted or wanted - set(COLUMN_GROUPS):
        raise ValueError(f"`columns` is {columns!r}: choose 'auto' or some of {list(COLUMN_GROUPS)}.")
    names = loaded.column_names
    names = {name for part in names.values() for name in part} if isinstance(names, dict) else names
    return loaded.remove_columns(sorted(name for name in names if (_group(name) or "auto") not in wanted | {"auto"}))


def _group(column: str) -> str | None:
    """The group of `COLUMN_GROUPS` that a column belongs to."""
    if column == "text" or column.endswith("_features"):
        return "text" if column == "text" else "features"
    return "media" if column in ("audio", "video") or column.endswith("_path") else None


def make_builder(
    script: str | Path, data_dir: str | Path | None = None, name: str | None = None, **options: Any
) -> datasets.DatasetBuilder:
    """The builder of a script, keyed by its code and data: edited files are never answered from a stale cache."""
    kind = _builder_class(Path(script))
    folder = None if data_dir is None else str(Path(data_dir).expanduser().resolve())
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(
            f"`data_dir` {folder} is not a folder: give the one that holds the files of {Path(script).stem}."
        )
    return kind(config_name=name, data_dir=folder, hash=_digest(Path(script), folder), **options)


def find_builder(
    name_or_path: str | Path, data_dir: str | Path | None = None, name: str | None = None, **options: Any
) -> datasets.DatasetBuilder | None:
    """
    The builder of a name or script, `None` for Parquet folders and Hub ids. Its rows are not yet read.

    Args:
        name_or_path, data_dir, name: as in [`load`].
        options: of the builder's configuration; `strict_counts` is dropped for a builder that knows no counts.
    """
    script = _script(name_or_path)
    if script is None:
        return None
    if not issubclass(_builder_class(script).BUILDER_CONFIG_CLASS, MultimodalConfig):
        options.pop("strict_counts", None)
    return make_builder(script, data_dir=data_dir, name=name, **options)


def _builder_class(script: Path) -> type[datasets.GeneratorBasedBuilder]:
    module = _module(script)
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, datasets.GeneratorBasedBuilder)
        and item.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ValueError(f"{script} defines {len(classes)} dataset builders: expected one.")
    return classes[0]


def _script(name_or_path: str | Path) -> Path | None:
    """Path of the builder script, or `None` for Parquet folders and Hub ids."""
    path = Path(name_or_path)
    if path.suffix == ".py":
        if not path.is_file():
            raise ValueError(f"there is no dataset script {path}.")
        return path
    packaged = _SCRIPTS / f"{name_or_path}.py"
    if len(path.parts) == 1 and packaged.is_file():
        return packaged
    if not path.exists() and "/" not in str(name_or_path):
        raise ValueError(f"there is no dataset {str(name_or_path)!r}: builders are {list_datasets()}.")
    return None


def _module(script: Path) -> ModuleType:
    """The script as a module; packaged ones under their own name."""
    if script.parent.resolve() == _SCRIPTS.resolve():
        return importlib.import_module(f"hf_mmintent.data_scripts.{script.stem}")
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise ValueError(f"{script} cannot be read as a Python module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the builder looks its own module up
    spec.loader.exec_module(module)
    return module


def _digest(script: Path, data_dir: str | None) -> str:
    """Of the script, the data files, the code that reads them and the major version of `datasets`."""
    digest = hashlib.sha256(script.read_bytes())
    digest.update(f"{hf_mmintent.__version__} {Version(datasets.__version__).major}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    folder = Path(data_dir) if data_dir else script.with_name("mini_clips")
    for path in _files(folder):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}:{stat.st_size}:".encode())
        # Tables are edited by hand; features and media are large and many, and change their time when they change.
        small = path.suffix.lower() in _TABLES and stat.st_size <= _SMALL
        digest.update(path.read_bytes() if small else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted; links to folders are followed once."""
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [path for name in sorted(names) if (path := Path(parent, name)).is_file()]
    return found
