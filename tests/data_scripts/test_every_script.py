"""What holds for every builder: both loaders give equal rows, Parquet keeps them, cards have their fields."""

import importlib
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from packaging.version import Version

from hf_mmintent.data.builder import MultimodalBuilder
from hf_mmintent.data.loading import list_datasets, load
from hf_mmintent.data.row_format import FORMAT
from tests.data_scripts import (
    test_ave,
    test_crema_d,
    test_kinetics_sounds,
    test_mc_eiu,
    test_mustard,
    test_ucf101,
    test_ur_funny,
    test_xmei,
)
from tests.data_scripts.hkt_files import hkt_examples
from tests.data_scripts.tiny_media import write_media


def ave(folder: Path) -> None:
    test_ave.write_features(test_ave.write(folder))
    write_media(folder / "AVE" / "RUhOCu3LNXM.mp4")


def crema_d(folder: Path) -> None:
    write_media(test_crema_d.write(folder) / "AudioWAV" / f"{test_crema_d.TEST[0]}.wav")


def mc_eiu(folder: Path) -> None:
    test_mc_eiu.write_features(test_mc_eiu.write(folder), A={"s1_d1_0": ...})
    test_mc_eiu.write_speakers(folder)


def ucf101(folder: Path) -> None:
    test_ucf101.write_flow(test_ucf101.write(folder), "u and v", "v_YoYo_g01_c01")
    write_media(folder / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi")


def xmei(folder: Path) -> None:
    write_media(test_xmei.write(folder) / "videos" / "a_1.mp4")


def hkt(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / f"{name}.pkl").write_bytes(pickle.dumps(hkt_examples([1, 2, 3, 4, 5, 6])))


WRITERS: dict[tuple[str, str], Callable[[Path], object]] = {
    ("ave", "ave"): ave,
    ("crema_d", "paper"): crema_d,
    ("crema_d", "actor_fold1"): crema_d,
    ("kinetics_sounds", "folders"): test_kinetics_sounds.write,
    ("kinetics_sounds", "lists"): test_kinetics_sounds.write_lists,
    ("mc_eiu", "emotion_fold1"): mc_eiu,
    ("mustard", "hkt"): hkt("mustard"),
    ("mustard", "own_fold1"): test_mustard.write,
    ("ucf101", "split1"): ucf101,
    ("ur_funny", "v2"): test_ur_funny.write,
    ("ur_funny", "hkt"): hkt("ur_funny"),
    ("xmei", "intent"): xmei,
    ("xmei", "emotion"): xmei,
}


@pytest.fixture(params=WRITERS, ids="-".join)
def dataset(request, tmp_path) -> tuple[str, str, Path]:
    """Name, configuration and a small folder in the official layout."""
    WRITERS[request.param](tmp_path)
    return *request.param, tmp_path


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
    name, config, folder = dataset
    ours = load(name, data_dir=folder, name=config, strict_counts=False)
    script = str(root / "data_scripts" / f"{name}.py")
    theirs = datasets.load_dataset(script, config, data_dir=str(folder), strict_counts=False, trust_remote_code=True)
    assert_equal(ours, theirs)


def test_by_path_and_streaming_and_parquet(dataset, root, tmp_path):
    name, config, folder = dataset
    ours = load(name, data_dir=folder, name=config, strict_counts=False)
    assert_equal(ours, load(root / "data_scripts" / f"{name}.py", data_dir=folder, name=config, strict_counts=False))
    stream = load(name, data_dir=folder, name=config, strict_counts=False, streaming=True)
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
