"""Connectors open where hf_mmintent is not installed: the code beside the weights is complete, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub_stub import HubStub

from .connector_testers import CatModTester, ConnectorTester, LQFormerTester
from .test_connectors import run

pytestmark = pytest.mark.hub

TESTERS: dict[str, ConnectorTester] = {"lq_former": LQFormerTester(), "cat_mod": CatModTester()}

OPEN = """
import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

for folder in sorted(Path(sys.argv[1]).iterdir()):
    data = torch.load(folder / "data.pt")
    path = folder / f"{folder.name}_model"
    assert AutoConfig.from_pretrained(path, trust_remote_code=True).model_type == folder.name
    model = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(model(**data["inputs"]).last_hidden_state, data["expected"])
    assert "hf_mmintent" not in sys.modules
    ours = f"transformers_modules.{folder.name}_"
    loaded = [module.__file__ for key, module in sys.modules.items() if key.startswith(ours) and module.__file__]
    names = sorted({Path(file).name for file in loaded} - {"__init__.py"})
    print("LOADED " + json.dumps([folder.name, names]))
"""


def test_connectors_open_without_the_package(tmp_path: Path) -> None:
    for name, tester in TESTERS.items():
        model, inputs = tester.model(), tester.inputs()
        model.save_pretrained(tmp_path / "cases" / name / f"{name}_model")
        torch.save(
            {"inputs": inputs, "expected": run(model, inputs).last_hidden_state}, tmp_path / "cases" / name / "data.pt"
        )
    with HubStub(tmp_path / "hub") as stub:
        output = stub.run(OPEN, tmp_path / "cases", without_package=True).stdout
    lines = [line.removeprefix("LOADED ") for line in output.splitlines() if line.startswith("LOADED ")]
    loaded: dict[str, Any] = dict(json.loads(line) for line in lines)
    for name in TESTERS:
        copied = {path.name for path in (tmp_path / "cases" / name / f"{name}_model").glob("*.py")}
        assert set(loaded[name]) == copied, f"{name}: {copied ^ set(loaded[name])}"
        assert f"modeling_{name}.py" in copied
