"""What holds for every builder: both loaders give equal rows, Parquet keeps them, cards have their fields."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from packaging.version import Version

from hf_mmintent.data.builder import MultimodalBuilder
from hf_mmintent.data.loading import list_datasets, load
from hf_mmintent.data.row_format import FORMAT
from tests.data_scripts.every_dataset import OPTIONS, WRITERS


@pytest.fixture(params=WRITERS, ids="-".join)
def dataset(request, tmp_path) -> tuple[str, str, Path, dict[str, Any]]:
    """Name, configuration, a small folder in the official layout, and options."""
    WRITERS[request.param](tmp_path)
    return *request.param, tmp_path, {"strict_counts": False, **OPTIONS.get(request.param, {})}


def assert_equal(ours: datasets.DatasetDict, theirs: datasets.DatasetDict) -> None:
    assert ours.keys() == theirs.keys()
    for split, part in ours.items():
        assert theirs[split].features == part.features
        for left, right in zip(part, theirs[split].with_format(FORMAT), strict=True):
            assert left.keys() == right.keys()
            for name, value in left.items():
                if isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(right[name], value)
                else:
                    assert right[name] == value, name


@pytest.mark.skipif(Version(datasets.__version__).major >= 4, reason="scripts are loaded by datasets 3 only")
def test_datasets_3_loads_the_script_itself(dataset, root):
    name, config, folder, options = dataset
    ours = load(name, data_dir=folder, name=config, **options)
    script = str(root / "data_scripts" / f"{name}.py")
    theirs = datasets.load_dataset(script, config, data_dir=str(folder), **options, trust_remote_code=True)
    assert_equal(ours, theirs)


def test_by_path_and_streaming_and_parquet(dataset, root, tmp_path):
    name, config, folder, options = dataset
    ours = load(name, data_dir=folder, name=config, **options)
    assert_equal(ours, load(root / "data_scripts" / f"{name}.py", data_dir=folder, name=config, **options))
    stream = load(name, data_dir=folder, name=config, **options, streaming=True)
    for split, part in ours.items():
        assert [row["id"] for row in stream[split]] == list(part["id"])
        (tmp_path / "published").mkdir(exist_ok=True)
        part.to_parquet(tmp_path / "published" / f"{split}.parquet")
    assert_equal(ours, load(tmp_path / "published"))


@pytest.mark.parametrize("name", [name for name in list_datasets() if name != "mmintent_mini"])
def test_card_and_docstring(name):
    module = importlib.import_module(f"hf_mmintent.data_scripts.{name}")
    (builder,) = (
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, MultimodalBuilder) and item.__module__ == module.__name__
    )
    assert builder.CITATION.startswith("@") and builder.CITATION.count("{") == builder.CITATION.count("}")
    assert builder.HOMEPAGE.startswith("https://")
    assert builder.LICENSE
    text = inspect.getdoc(builder)
    for part in ("xpected folder (`data_dir`)", "\nColumns: `id`"):
        assert part in text, part
    names = [config.name for config in builder.BUILDER_CONFIGS]
    assert len(names) == len(set(names))
    assert len(names) == 1 or builder.DEFAULT_CONFIG_NAME in names
    for column in builder.COLUMNS:
        assert f"`{column}`" in text, column
