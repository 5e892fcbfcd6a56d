"""The rule for what is out of scope: scores by hand, what a config accepts, and that it travels with a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from hf_mmintent.modeling.out_of_scope import OutOfScope

from .testers import UnimodalTextTester

NAMES = {0: "complain", 1: "praise", 2: "inform"}
LOGITS = torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0], [0.0, 0.0]])


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_max_softmax_by_hand() -> None:
    rule = OutOfScope("max_softmax", threshold=0.75)
    torch.testing.assert_close(rule.scores(LOGITS), torch.tensor([0.75, 0.9, 0.5]))
    assert rule.accepts(torch.tensor([0.0, -1e-6, 1e-6])).tolist() == [True, False, True]  # at the threshold: in scope
    assert rule.accepts(rule.margins(LOGITS[1:])).tolist() == [True, False]
    warm = OutOfScope("max_softmax", threshold=0.5, temperature=2.0)
    root = math.sqrt(3.0)  # softmax(0, ln 3 / 2)
    torch.testing.assert_close(warm.scores(LOGITS[:1]), torch.tensor([root / (1 + root)]))


def test_energy_by_hand() -> None:
    rule = OutOfScope("energy", threshold=1.0)
    torch.testing.assert_close(rule.scores(LOGITS), torch.tensor([math.log(4.0), math.log(10.0), math.log(2.0)]))
    assert rule.accepts(rule.margins(LOGITS)).tolist() == [True, True, False]
    warm = OutOfScope("energy", threshold=1.0, temperature=2.0)
    torch.testing.assert_close(warm.scores(LOGITS[1:2]), torch.tensor([2 * math.log(4.0)]))  # 2 ln(√9 + 1)
    # unlike the softmax it sees how large the logits are
    assert rule.scores(LOGITS + 5)[2] - rule.scores(LOGITS)[2] == pytest.approx(5.0, abs=1e-5)


def test_prototype_by_hand() -> None:
    rule = OutOfScope("prototype", threshold=0.75, prototypes=((1.0, 0.0), (0.0, 1.0)))
    embeddings = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.1, 0.0]])
    torch.testing.assert_close(rule.scores(LOGITS, embeddings), torch.tensor([0.8, -0.6, 1.0]))
    assert rule.accepts(rule.margins(LOGITS, embeddings)).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="pass `embeddings`"):
        rule.scores(LOGITS)
    with pytest.raises(ValueError, match="prototypes of width 2 but embeddings have 3"):
        rule.scores(LOGITS, torch.ones(3, 3))


def test_doc_by_hand() -> None:
    """The threshold of the class that wins decides, and reaching it is not enough."""
    rule = OutOfScope("doc", thresholds=(0.73, 0.5))
    logits = torch.tensor([[logit(p), logit(q)] for p, q in ((0.7, 0.6), (0.6, 0.7), (0.74, 0.1))])
    torch.testing.assert_close(rule.scores(logits), torch.tensor([0.7, 0.7, 0.74]))
    torch.testing.assert_close(rule.margins(logits), torch.tensor([-0.03, 0.2, 0.01]), atol=1e-6, rtol=0)
    assert rule.accepts(rule.margins(logits)).tolist() == [False, True, True]
    assert rule.accepts(torch.tensor([0.0])).tolist() == [False]


def test_a_class_of_its_own() -> None:
    rule = OutOfScope("class")
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert rule.accepts(rule.margins(logits)).tolist() == [True, False, False]  # the last class is out of scope


@pytest.mark.parametrize("values, message", [
    ({"method": "guess", "threshold": 0.5}, "the method 'guess'"),
    ({"threshold": 0.5}, r"holds \['threshold'\]"),
    ({"method": "energy", "limit": 0.5}, r"holds \['limit', 'method'\]"),
    ({"method": "energy"}, r"takes \['threshold'\], but \[\] is given"),
    ({"method": "doc", "threshold": 0.5}, r"takes \['thresholds'\], but \['threshold'\]"),
    ({"method": "prototype", "threshold": 0.5}, r"takes \['prototypes', 'threshold'\]"),
    ({"method": "energy", "threshold": 0.5, "temperature": 0.0}, "temperature 0.0"),
    ({"method": "doc", "thresholds": [0.5, 0.5]}, "has 2 thresholds but the model has 3 classes"),
    ({"method": "energy", "threshold": 0.5, "label": "praise"}, "'praise', which must be none of the classes"),
    ({"method": "class", "label": "UNK"}, "'UNK', which must be one of the classes"),
    ({"method": "class", "label": "praise"}, "must be the last class, but that is 'inform'"),
])  # fmt: skip
def test_a_config_refuses_what_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        UnimodalTextTester().config(out_of_scope=values).validate()


def test_a_regression_has_no_classes() -> None:
    with pytest.raises(Exception, match="it is a rule for classes"):
        UnimodalTextTester().config(
            num_labels=1, problem_type="regression", out_of_scope={"method": "energy", "threshold": 0.0}
        ).validate()


def test_the_rule_travels_with_the_config(tmp_path: Path) -> None:
    values = {"method": "prototype", "threshold": 0.25, "prototypes": [[1.0, 0.0]] * 3, "fitted": {"n": 7}}
    config = UnimodalTextTester().config(out_of_scope=values)
    config.save_pretrained(tmp_path)
    found = AutoConfig.from_pretrained(tmp_path)
    assert found.out_of_scope == values and found.id2label == NAMES
    rule = OutOfScope.of(found)
    assert rule is not None and rule.label == "UNK" and rule.fitted == {"n": 7}
    assert OutOfScope.of(UnimodalTextTester().config()) is None
