"""Saved checkpoints of every tester with what they must answer, for processes that open them afresh."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.modeling.testers import ALL_TESTERS, ModelTester

TESTERS = {type(tester).__name__: tester for tester in ALL_TESTERS}

# For scripts: runs `check(name, folder, data)` for every case and reports each, so that one failure hides no other.
DRIVER = """
import json, sys, traceback
from pathlib import Path
import torch


def numbers(output):
    return [t for t in output.to_tuple() if isinstance(t, torch.Tensor) and t.is_floating_point()]


def same(found, expected, **tolerance):
    assert len(found) == len(expected) > 0, (len(found), len(expected))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, **tolerance)


def drive(check):
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        data, report = torch.load(folder / "data.pt"), {"name": folder.name, "error": None}
        try:
            report["result"] = check(folder.name, folder, data)
        except Exception:
            report["error"] = traceback.format_exc()
        print("REPORT " + json.dumps(report), flush=True)
"""


@dataclass
class Report:
    """What a script said about one case."""

    name: str
    error: str | None
    result: Any = None

    def get(self) -> Any:
        assert self.error is None, self.error
        return self.result


def read_reports(process: subprocess.CompletedProcess[str]) -> dict[str, Report]:
    """Reports of a process that used `DRIVER`, by case."""
    lines = [line.removeprefix("REPORT ") for line in process.stdout.splitlines() if line.startswith("REPORT ")]
    reports = {report.name: report for report in (Report(**json.loads(line)) for line in lines)}
    assert set(reports) == set(TESTERS), process.stderr[-3000:]
    return reports


def head_auto_class(tester: ModelTester) -> str:
    """Name of the Auto class that opens the tester's `model_class`, from what the family declares."""
    wanted = tester.model_class.__name__
    (name, *_) = [auto for auto, place in tester.model_class._auto_map.items() if place.split(".")[1] == wanted]
    return name


def processor_arguments(tester: ModelTester) -> dict[str, Any]:
    """Two samples, the second without audio and video where it has text: a call of the tester's processor."""
    second = (lambda value: None) if "text" in tester.modality_inputs else (lambda value: value[1].numpy())
    inputs = tester.inputs()
    features = {name: [value[0].numpy(), second(value)] for name, value in inputs.items() if name.endswith("_features")}
    return {"text": ["you are late again", "please help"], **features}


def numbers(output: Any) -> list[Tensor]:
    return [value for value in output.to_tuple() if isinstance(value, torch.Tensor) and value.is_floating_point()]


def write_cases(root: Path, tokenizer: Any) -> Path:
    """
    One folder per tester: `<name>_head/` and `<name>_base/` (saved by either class), `data.pt` (inputs, answers).

    The folders' names differ because transformers names the modules that it loads from a folder after it.

    Args:
        root: an empty folder.
        tokenizer: with which the processors are made.
    """
    for name, tester in TESTERS.items():
        folder = root / name
        processor, arguments, model = tester.processor(tokenizer), processor_arguments(tester), tester.model()
        base = getattr(model, model.base_model_prefix) if tester.base_class is not tester.model_class else model
        for part, saved in (("head", model), ("base", base)):
            saved.save_pretrained(folder / f"{name}_{part}")
            processor.save_pretrained(folder / f"{name}_{part}")
        inputs = tester.inputs()
        with torch.no_grad():
            expected = {"head": numbers(model(**inputs)), "base": numbers(base.eval()(**inputs))}
        arguments = {  # torch's own file format holds no numpy arrays
            key: [torch.as_tensor(v) if hasattr(v, "shape") else v for v in value] for key, value in arguments.items()
        }
        data = {
            "auto_class": head_auto_class(tester),
            "classes": {"head": tester.model_class.__name__, "base": tester.base_class.__name__,
                        "processor": type(processor).__name__, "config": type(model.config).__name__},
            "inputs": inputs,
            "expected": expected,
            "arguments": arguments,
            "processed": dict(processor(**arguments)),
        }  # fmt: skip
        torch.save(data, folder / "data.pt")
    return root
