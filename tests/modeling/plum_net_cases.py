"""Models and batches of the tests of PLUM-Net; no test code in here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_mmintent.modeling.modeling_plum_net import PlumNetForSequenceClassification

from .testers import PlumNetTester, tiny_bert

TESTER = PlumNetTester()
REGRESSION: dict[str, Any] = {
    "num_labels": 1, "problem_type": "regression", "id2label": {0: "value"}, "label2id": {"value": 0},
}  # fmt: skip
VALUES = torch.tensor([-1.5, 0.0, 2.0, 0.5])


def batch(regression: bool = False) -> dict[str, Tensor]:
    found = TESTER.inputs(training=True)
    return {**found, "labels": VALUES} if regression else found


def make(**overrides: Any) -> PlumNetForSequenceClassification:
    """A model past its warm-up, with prototypes of the batch."""
    regression = overrides.get("problem_type") == "regression"
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(**overrides)).eval()
    absent = {"text", "audio", "video"} - set(model.config.modalities)
    inputs = TESTER.without(batch(regression), *absent)
    for _ in range(model.config.psl_warmup_epochs + 1):
        model.base_model.labeller.epochs_started += 1
    model.update_prototypes([inputs])
    return model


def batches() -> list[dict[str, Tensor]]:
    found = [TESTER.random_batch(seed) for seed in range(3)]
    for index, inputs in enumerate(found):
        inputs["labels"] = torch.tensor([0, 1, 1, 0]) if index else torch.tensor([0, 1, -100, 1])
    found[1]["video_attention_mask"][2] = 0
    return found


def still_bert() -> Any:
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def numbered(count: int) -> list[dict[str, Tensor]]:
    return [{**TESTER.random_batch(s), "sample_index": torch.arange(4 * s, 4 * s + 4)} for s in range(count)]
