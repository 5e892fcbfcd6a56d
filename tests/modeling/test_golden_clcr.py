"""Stored outputs of CLCR models whose weights and inputs come from a formula: they guard against unnoticed changes.

`python -m tests.modeling.test_golden_clcr` writes the numbers anew; whoever does explains the difference.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from .test_golden import golden_batch, wave
from .testers import ClcrTester, tiny_bert

STORED = Path(__file__).parent / "golden" / "clcr.json"
TESTER = ClcrTester()
REGRESSION = {"problem_type": "regression", "id2label": {0: "value"}, "label2id": {"value": 0}}
# Names of the cases: what is special about them; `lacking` is not given to the model at all.
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "tight": {"budget_init": (0.05, 0.2, 0.5), "budget_penalty": 0.1, "gate_scale_init": 5.0},
    "dense": {"use_budget_projection": False, "whitening_solver": "eigh", "regularizer_reduction": "mean"},
    "two modalities": {"modalities": ("audio", "video"), "text_config": None, "budget_learnable": False},
    "without exchange": {"use_intra_ced": False},
    "without selection": {"use_inter_cad": False, "shared_size": 6, "private_size": 7, "exchange_heads": 3},
    "deep only": {"levels": ("deep",), "basis_map": "matrix_exp", "position_embedding": "learned"},
    "mixed levels": {"level_order": {"text": (1, 2, 0), "audio": (2, 0, 1)}, "inter_stat_rank": None},
    "regression": REGRESSION,
    "no video in the batch": {"lacking": "video"},
}


def fill(model: torch.nn.Module) -> None:
    """Every tensor by the formula, in the order of names; norms keep 1 and 0, budgets their start."""
    start = 0
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if not tensor.is_floating_point() or "budget" in name or (tensor.dim() == 1 and "norm" in name.lower()):
                continue
            scale = 0.3 if tensor.dim() == 1 else 1.2 / math.sqrt(tensor[0].numel())
            tensor.copy_(scale * wave(tensor.numel(), start).reshape(tensor.shape))
            start += tensor.numel()


def batch_of(case: dict[str, Any]) -> dict[str, Tensor]:
    batch = golden_batch()
    taken = {*case.get("modalities", ("text", "audio", "video"))} - {case.get("lacking")}
    names = ["input_ids", "attention_mask"] if "text" in taken else []
    names += [f"{name}_{kind}" for name in taken - {"text"} for kind in ("features", "attention_mask")]
    labels = torch.tensor([0.5, -1.0, 2.0, 0.0]) if case.get("problem_type") == "regression" else batch["labels"]
    return {**{name: batch[name] for name in names}, "labels": labels}


def compute(case: dict[str, Any]) -> dict[str, Any]:
    fields = {
        "text_config": tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        "tcn_dropout": 0.0,
        "head_dropout": 0.0,
        **{name: value for name, value in case.items() if name != "lacking"},
    }
    model = TESTER.model(**fields).train()
    fill(model)
    out = model(**batch_of(case))
    out.loss.backward()
    squares: dict[str, float] = {}  # of the gradients, by part of the model
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[1:3]) if name.startswith("model.") else name.split(".")[0]
        if parameter.grad is not None:
            squares[part] = squares.get(part, 0.0) + parameter.grad.double().square().sum().item()
    return {
        "logits": out.logits.tolist(),
        "embeddings": out.embeddings[:, ::5].tolist(),
        "level_weights": out.level_weights.tolist(),
        "modality_weights": out.modality_weights.tolist(),
        "private_gates": out.private_gates.tolist(),
        "participation": [] if out.participation is None else out.participation.tolist(),
        "budget_tight": [] if out.budget_tight is None else out.budget_tight.float().tolist(),
        "token_weights": {name: weight.sum().item() for name, weight in out.token_weights.items()},
        "loss": out.loss.item(),
        "loss_terms": {name: term.item() for name, term in out.loss_terms.items()},
        "diagnostics": {name: value.item() for name, value in out.diagnostics.items()},
        "gradient_norms": {part: math.sqrt(value) for part, value in squares.items()},
    }


@pytest.mark.parametrize("case", CASES)
def test_stored_numbers(case: str) -> None:
    stored, found = json.loads(STORED.read_text())[case], compute(CASES[case])
    assert set(stored) == set(found)
    for name, expected in stored.items():
        if isinstance(expected, list):
            torch.testing.assert_close(
                torch.tensor(found[name]), torch.tensor(expected), atol=1e-4, rtol=1e-4, msg=name
            )
        else:
            tolerance = 1e-3 if name == "gradient_norms" else 1e-4
            assert found[name] == pytest.approx(expected, abs=1e-4, rel=tolerance), name


def test_cases_differ_and_budgets_bind_in_some() -> None:
    stored = json.loads(STORED.read_text())
    assert set(stored) == set(CASES)
    losses = [round(case["loss"], 5) for case in stored.values()]
    assert len(set(losses)) == len(losses)
    tight = torch.tensor(stored["tight"]["budget_tight"])
    assert tight.mean() > 0 and 0 < torch.tensor(stored["tight"]["participation"]).mean() < 1
    assert all(norm > 0 for case in stored.values() for norm in case["gradient_norms"].values())


if __name__ == "__main__":
    STORED.write_text(json.dumps({name: compute(case) for name, case in CASES.items()}, indent=1) + "\n")
