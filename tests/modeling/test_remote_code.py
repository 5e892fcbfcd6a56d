"""A checkpoint opens where the package was never installed: the code beside the weights is complete, and no more."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint_cases import DRIVER, TESTERS, Report, read_reports, write_cases
from tests.hub_stub import HubStub

pytestmark = pytest.mark.hub

ALLOWED = {"torch", "numpy", "transformers", "huggingface_hub"}
GUARDED = {"av", "soxr", "peft", "PIL"}  # extras: only inside a function or a `try`

OPEN = (
    DRIVER
    + """
import transformers
from transformers import AutoConfig, AutoModel, AutoProcessor


def check(name, folder, data):
    Head = getattr(transformers, data["auto_class"])
    for saved in ("head", "base"):
        path = folder / f"{name}_{saved}"
        assert type(AutoConfig.from_pretrained(path, trust_remote_code=True)).__name__ == data["classes"]["config"]
        base = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
        assert type(base).__name__ == data["classes"]["base"]
        with torch.no_grad():
            same(numbers(base(**data["inputs"])), data["expected"]["base"])
        head = Head.from_pretrained(path, trust_remote_code=True).eval()
        assert type(head).__name__ == data["classes"]["head"]
        if saved == "head":
            with torch.no_grad():
                same(numbers(head(**data["inputs"])), data["expected"]["head"])
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
        assert type(processor).__name__ == data["classes"]["processor"]
        made = processor(**data["arguments"])
        assert set(made) == set(data["processed"])
        same([made[key] for key in sorted(made)], [data["processed"][key] for key in sorted(made)])
    assert "hf_mmintent" not in sys.modules
    ours = f"transformers_modules.{name}_"
    loaded = [module for key, module in sys.modules.items() if key.startswith(ours) and module.__file__]
    return sorted({Path(module.__file__).name for module in loaded} - {"__init__.py"})


drive(check)
"""
)

REFUSE = (
    DRIVER
    + """
from transformers import AutoModel, AutoProcessor


def check(name, folder, data):
    for auto in (AutoModel, AutoProcessor):
        try:
            auto.from_pretrained(folder / f"{name}_head", trust_remote_code=False)
        except ValueError:
            continue
        raise AssertionError(f"{auto.__name__} ran code of a checkpoint without being allowed to")


drive(check)
"""
)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStub]:
    with HubStub(tmp_path_factory.mktemp("hub")) as stub:
        yield stub


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), tiny_tokenizer)


@pytest.fixture(scope="module")
def opened(stub: HubStub, cases: Path) -> dict[str, Report]:
    return read_reports(stub.run(OPEN, cases, without_package=True))


@pytest.mark.parametrize("name", TESTERS)
def test_every_auto_class_opens_the_checkpoint(opened: dict[str, Report], name: str) -> None:
    opened[name].get()


@pytest.mark.parametrize("name", TESTERS)
def test_exactly_the_code_that_is_needed_is_copied(opened: dict[str, Report], cases: Path, name: str) -> None:
    needed = set(opened[name].get())
    for part in ("head", "base"):
        copied = {path.name for path in (cases / name / f"{name}_{part}").glob("*.py")}
        assert copied == needed, f"saved by the {part} class: {copied - needed} unused, {needed - copied} absent"


@pytest.mark.parametrize("name", TESTERS)
def test_copied_code_imports_nothing_else(cases: Path, name: str) -> None:
    for path in (cases / name / f"{name}_head").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for module in imported(node):
                top = module.split(".")[0]
                fine = top in ALLOWED | GUARDED or top in sys.stdlib_module_names
                assert fine, f"{path.name} imports {module}"
                assert top not in GUARDED or node not in tree.body, f"{path.name} needs the extra {top} to be imported"


def imported(node: ast.AST) -> list[str]:
    """Absolute modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def test_nothing_runs_unless_it_is_allowed(stub: HubStub, cases: Path) -> None:
    for report in read_reports(stub.run(REFUSE, cases, without_package=True)).values():
        report.get()


def test_folders_are_opened_without_the_network(stub: HubStub, opened: dict[str, Report]) -> None:
    assert not [request for request in stub.requests if "/resolve/" in request], stub.requests
