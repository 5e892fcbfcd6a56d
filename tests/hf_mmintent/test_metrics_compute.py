"""`build_compute_metrics`: what Trainer hands over, and a Trainer that uses it."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

from hf_mmintent.metrics import (
    build_compute_metrics,
    intent_scores,
    multi_label_scores,
    oos_outputs,
    oos_scores,
    regression_scores,
)

NAMES = ["a", "b", "c"]
LOGITS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 20)


def test_single_label():
    expected = intent_scores(LABELS, LOGITS.argmax(1), train_counts=[3, 1, 2])
    compute = build_compute_metrics("single_label_classification", NAMES, {"a": 3, "b": 1, "c": 2})
    assert compute(EvalPrediction(LOGITS, LABELS)) == expected
    # further outputs of the model (loss terms, embeddings) follow the logits
    assert compute(EvalPrediction((LOGITS, {"ce": np.zeros(5)}), LABELS)) == expected


def test_regression():
    compute = build_compute_metrics("regression")
    values = LOGITS[:, :1]
    assert compute(EvalPrediction(values, LABELS.astype(np.float32))) == regression_scores(LABELS, values)


def test_multi_label():
    truth = (LOGITS[::-1] > 0.3).astype(np.float32)
    compute = build_compute_metrics("multi_label_classification", NAMES)
    assert compute(EvalPrediction(LOGITS, truth)) == multi_label_scores(truth.astype(int), (LOGITS > 0).astype(int))


def test_unknown_label():
    compute = build_compute_metrics("single_label_classification", NAMES, {"a": 9, "b": 2}, unknown_label="c")
    expected = oos_scores(LABELS, *oos_outputs(LOGITS, 2), 2, train_counts=[9, 2])
    assert compute(EvalPrediction(LOGITS, LABELS)) == expected
    assert "f1_open" in expected and "f1_rare" in expected
    with pytest.raises(ValueError, match="must be the last"):
        build_compute_metrics("single_label_classification", NAMES, unknown_label="a")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="`problem_type` is 'ranking'"):
        build_compute_metrics("ranking")
    with pytest.raises(ValueError, match="3 logits but there are 2 label names"):
        build_compute_metrics("single_label_classification", ["a", "b"])(EvalPrediction(LOGITS, LABELS))
    broken = np.where(LOGITS > 1, np.nan, LOGITS)
    with pytest.raises(ValueError, match="NaN or infinite"):
        build_compute_metrics("single_label_classification", NAMES)(EvalPrediction(broken, LABELS))


def test_trainer_scores_every_sample_of_a_ragged_set(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=30, num_labels=3, **sizes)
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(0, 30, (11, 4), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": ids[i], "labels": i % 3} for i in range(11)]
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=4, report_to=[], use_cpu=True)
    compute = build_compute_metrics("single_label_classification", NAMES)
    scores = Trainer(model, arguments, eval_dataset=rows, compute_metrics=compute).evaluate()
    with torch.no_grad():
        predictions = model(ids).logits.argmax(1).numpy()
    expected = intent_scores([row["labels"] for row in rows], predictions)
    assert expected["n"] == 11
    assert {key: scores[f"eval_{key}"] for key in expected} == expected
