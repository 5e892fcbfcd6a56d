"""Shared fixtures. Every test runs offline, on one thread, from a fresh Hugging Face home."""

import os
import tempfile
from pathlib import Path
from typing import Any

_HOME = tempfile.mkdtemp(prefix="hf_mmintent_home_")  # before any Hugging Face import: the libraries read it once
os.environ.update(
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    MPLBACKEND="Agg",
    WANDB_DISABLED="true",
)

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["tests.hub_fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # with several workers on two cores, more threads are a hundred times slower


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real datasets used in development; never part of the repository."""
    folder = Path(os.environ.get("HF_MMINTENT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder with the real datasets is absent (set HF_MMINTENT_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def local_models() -> Path:
    """Folder with small pretrained models, one folder each, for the tests that need trained weights."""
    folder = os.environ.get("HF_MMINTENT_MODELS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no folder with pretrained models (set HF_MMINTENT_MODELS)")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A BERT WordPiece tokenizer made on the spot, with words for the tests and single letters for the rest."""
    from transformers import BertTokenizer

    sentences = ["hello you are late again", "thank you so much", "please leave now", "i think this is great"]
    labels = ["complain", "praise", "apologise", "apolog ##ise", "inform", "ask for help", "joke", "taunt", "flaunt"]
    words = " ".join([*sentences, *labels]).split()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789'.,?!")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = list(dict.fromkeys([*specials, *words, *letters, *(f"##{c}" for c in letters)]))
    path = Path(tempfile.mkdtemp(prefix="tiny_tokenizer_")) / "vocab.txt"
    path.write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return BertTokenizer(vocab=str(path), do_lower_case=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A tiny classifier that takes raw clips; files with a subject of their own put another one in its place."""
    from tests.modeling.pipeline_cases import save_clip_checkpoint

    return save_clip_checkpoint(tmp_path_factory.mktemp("checkpoint"), tiny_tokenizer)


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> Any:
    """The pipeline of that checkpoint."""
    from transformers import pipeline

    from tests.modeling.pipeline_cases import TASK

    return pipeline(TASK, model=str(checkpoint), device="cpu")
