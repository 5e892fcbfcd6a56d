"""One way to open a dataset, whatever the version of `datasets`: builder scripts, Parquet folders, Hub ids."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
from packaging.version import Version

import hf_mmintent.data_scripts

_SMALL = 1 << 20


def list_datasets() -> list[str]:
    """Names of the builders that come with the package."""
    folder = Path(hf_mmintent.data_scripts.__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


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
        name_or_path: a builder of the package ("mintrec"), the path of a script, a folder of Parquet files, or a Hub id.
        data_dir: folder with the dataset's own files.
        name: configuration of the builder.
        split: one split; all of them as a dict when not given.
        streaming: rows one by one, nothing is written.
        columns: which of text, features and media a builder fills; "auto" is what the files hold.
        kwargs: further options of the builder's configuration.

    Returns:
        `DatasetDict` (or `IterableDatasetDict`), or one split of it.

    Raises:
        ValueError: neither a builder nor a path nor a Hub id; the message lists the builders.
    """
    script = _script(name_or_path)
    if script is None:
        return datasets.load_dataset(str(name_or_path), name, split=split, streaming=streaming, **kwargs)
    builder = make_builder(script, data_dir=data_dir, name=name, columns=columns, **kwargs)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def make_builder(
    script: str | Path, data_dir: str | Path | None = None, name: str | None = None, **options: Any
) -> datasets.DatasetBuilder:
    """The builder of a script, keyed by its code and data: edited files are never answered from a stale cache."""
    script = Path(script)
    module = _module(script)
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, datasets.GeneratorBasedBuilder) and item.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ValueError(f"{script} defines {len(classes)} dataset builders: expected one.")
    folder = None if data_dir is None else str(Path(data_dir).expanduser().resolve())
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"`data_dir` {folder} is not a folder: give the one that holds the files of {script.stem}.")
    return classes[0](config_name=name, data_dir=folder, hash=_digest(script, folder), **options)


def _script(name_or_path: str | Path) -> Path | None:
    """Path of the builder script, or `None` for Parquet folders and Hub ids."""
    path = Path(name_or_path)
    if path.suffix == ".py":
        if not path.is_file():
            raise ValueError(f"there is no dataset script {path}.")
        return path
    packaged = Path(hf_mmintent.data_scripts.__file__).parent / f"{name_or_path}.py"
    if len(path.parts) == 1 and packaged.is_file():
        return packaged
    if not path.exists() and "/" not in str(name_or_path):
        raise ValueError(f"there is no dataset {str(name_or_path)!r}: builders are {list_datasets()}.")
    return None


def _module(script: Path) -> ModuleType:
    """The script as a module; packaged ones under their own name."""
    if script.parent.resolve() == Path(hf_mmintent.data_scripts.__file__).parent.resolve():
        return importlib.import_module(f"hf_mmintent.data_scripts.{script.stem}")
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise ValueError(f"{script} cannot be read as a Python module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the builder looks its own module up
    spec.loader.exec_module(module)
    return module


def _digest(script: Path, data_dir: str | None) -> str:
    """Of the script, the data files (contents where small, else size and time) and the library's major version."""
    digest = hashlib.sha256(script.read_bytes())
    digest.update(str(Version(datasets.__version__).major).encode())
    folders = [Path(data_dir)] if data_dir else [script.with_name("mini_clips")]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.relative_to(folder)}:{stat.st_size}".encode())
                digest.update(path.read_bytes() if stat.st_size <= _SMALL else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()
