"""Out-of-scope protocol: golden values, thresholds, fixed label list, detection against loops."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from hf_mmintent.metrics import (
    OutOfScopeMetric,
    detection_scores,
    doc_predict,
    doc_sigma,
    doc_thresholds,
    intent_scores,
    oos_outputs,
    oos_scores,
    open_scores,
)

Y = [0, 0, 1, 2, 2, 3, 3, 3]
P = [0, 3, 1, 2, 1, 3, 3, 0]
OID = {"oid_acc": 0.625, "f1_known": 0.611111, "f1_open": 0.666667, "oid_f1": 0.625}


def logit(p):
    return np.log(p / (1 - np.asarray(p)))


def test_golden_open_scores():
    assert open_scores(Y, P, num_known=3) == pytest.approx(OID, abs=1e-6)


def test_golden_threshold():
    p = np.array([0.9, 0.8, 0.6])
    assert doc_sigma(p) == pytest.approx(0.264575, abs=1e-6)
    assert doc_sigma(p) == pytest.approx(np.std([*p, *(2 - p)]))  # spread of the mirrored set
    logits = np.stack([logit(p), np.full(3, -5.0)], axis=1)
    logits = np.concatenate([logits, [[0.0, logit(0.01)]]])
    thresholds = doc_thresholds(logits, [0, 0, 0, 1])
    assert thresholds[0] == pytest.approx(0.735425, abs=1e-6)
    assert thresholds[1] == 0.5  # never below one half
    assert doc_thresholds(logits, [0, 0, 0, 1], scale=0.5)[0] == pytest.approx(1 - 0.5 * 0.264575, abs=1e-6)


def test_rejection_uses_the_threshold_of_the_predicted_class():
    logits = logit(np.array([[0.7, 0.6], [0.6, 0.7], [0.74, 0.1], [0.5, 0.2]]))
    assert doc_predict(logits, [0.73, 0.5]).tolist() == [2, 1, 0, 2]
    assert doc_predict(logit(np.array([[0.5, 0.2]])), [0.5, 0.5]).tolist() == [2]  # strictly above


def test_class_without_training_samples_has_no_threshold():
    with pytest.raises(ValueError, match=r"The classes \[1\] have no sample"):
        doc_thresholds(np.zeros((2, 3)), [0, 2])
    with pytest.raises(ValueError, match="2 thresholds but 3 known classes"):
        doc_predict(np.zeros((2, 3)), [0.5, 0.5])


def test_absent_labels_stay_in_place():
    # UNK never occurs: a confusion matrix of the labels that do occur would take label 1 for it
    scores = open_scores([0, 0, 1], [0, 0, 1], num_known=3)
    assert scores["f1_open"] == 0.0
    assert scores["f1_known"] == pytest.approx(2 / 3)
    assert scores["oid_f1"] == pytest.approx(0.5)


def test_detection_equals_loops():
    generator = np.random.default_rng(0)
    inside, score = generator.random(300) < 0.6, generator.random(300).round(2)  # rounded: many ties
    score = np.clip(score + 0.3 * inside, 0, 1)
    result = detection_scores(inside, score)
    assert result["auroc"] == pytest.approx(roc_auc_score(inside, score))
    pairs = [(a > b) + 0.5 * (a == b) for a in score[inside] for b in score[~inside]]
    assert result["auroc"] == pytest.approx(np.mean(pairs))
    for threshold in sorted(set(score), reverse=True):  # the first threshold from above with 95 % of the in-scope
        if (score[inside] >= threshold).mean() >= 0.95:
            break
    assert result["fpr95"] == pytest.approx((score[~inside] >= threshold).mean())
    for key, positive, confidence in (("aupr_in", inside, score), ("aupr_out", ~inside, 1 - score)):
        points = [(0.0, 1.0)]
        for threshold in sorted(set(confidence), reverse=True):
            taken = confidence >= threshold
            points.append((positive[taken].sum() / positive.sum(), positive[taken].mean()))
        recall, precision = np.array(points).T
        assert result[key] == pytest.approx(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def test_detection_extremes():
    perfect = detection_scores([True, True, False], [0.9, 0.8, 0.1])
    assert perfect == pytest.approx({"auroc": 1, "aupr_in": 1, "aupr_out": 1, "fpr95": 0})
    assert detection_scores([True, True, False], [0.1, 0.2, 0.9])["fpr95"] == 1
    assert all(math.isnan(value) for value in detection_scores([True, True], [0.1, 0.2]).values())


def test_whole_protocol_with_thresholds():
    generator = np.random.default_rng(1)
    labels, logits = generator.integers(0, 4, 60), generator.normal(size=(60, 3))
    predictions, closed, confidence = oos_outputs(logits, 3, thresholds=[0.7, 0.6, 0.65])
    assert set(predictions) == {0, 1, 2, 3}
    assert set(closed) == {0, 1, 2}
    scores = oos_scores(labels, predictions, closed, confidence, 3, train_counts=[5, 1, 9])
    known = labels < 3
    expected = intent_scores(labels[known], closed[known], train_counts=[5, 1, 9])
    for key in set(expected) - {"n"}:
        assert scores[key] == expected[key]
    assert scores["f1_open"] == pytest.approx(f1_score(labels == 3, predictions == 3))
    assert (scores["n"], scores["n_in_scope"] + scores["n_out_of_scope"]) == (60, 60)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert scores["auroc"] == pytest.approx(roc_auc_score(known, softmax.max(1)))


def test_model_that_predicts_unknown_itself():
    logits = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0], [0.0, 0.5, 0.4]])
    predictions, closed, confidence = oos_outputs(logits, num_known=2)
    assert predictions.tolist() == [2, 0, 1]
    assert closed.tolist() == [1, 0, 1]
    assert confidence[0] == pytest.approx(np.exp(1) / (1 + np.exp(1) + np.exp(3)))
    with pytest.raises(ValueError, match="`logits` has 3 classes but 4 are needed"):
        oos_outputs(logits, num_known=3)
    with pytest.raises(ValueError, match="leave UNK out"):
        oos_scores([0, 2], [0, 2], [0, 1], [0.9, 0.1], 2, train_counts=[1, 2, 3])


def test_metric_equals_the_function():
    columns = {"in_scope_predictions": [0, 1, 1, 2, 1, 0, 0, 0], "scores": [0.9, 0.3, 0.8, 0.7, 0.6, 0.2, 0.4, 0.5]}
    metric = OutOfScopeMetric(num_known=3)
    expected = oos_scores(Y, P, columns["in_scope_predictions"], columns["scores"], 3)
    assert {key: expected[key] for key in OID} == pytest.approx(OID, abs=1e-6)
    for _ in range(2):
        for part in (slice(0, 5), slice(5, 8)):
            metric.add_batch(
                references=Y[part], predictions=P[part], **{name: values[part] for name, values in columns.items()}
            )
        assert metric.compute() == expected
