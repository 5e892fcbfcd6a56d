"""Classification scores: golden values, scikit-learn, traps, and the `evaluate.Metric` behind them."""

import gc
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, precision_score, recall_score

from hf_mmintent.metrics import (
    IntentMetric,
    intent_scores,
    joint_scores,
    multi_label_scores,
    per_class_report,
    rare_classes,
)

Y = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
P = [0, 0, 1, 1, 2, 2, 2, 0, 2, 2]
GOLDEN = {
    "accuracy": 0.6,
    "f1_weighted": 0.566667,
    "precision_weighted": 0.54,
    "recall_macro": 0.479167,
    "f1_macro": 0.458333,
    "precision_macro": 0.441667,
    "n": 10,
}


def sklearn_scores(y, p):
    return {
        "accuracy": accuracy_score(y, p),
        "f1_weighted": f1_score(y, p, average="weighted", zero_division=0),
        "precision_weighted": precision_score(y, p, average="weighted", zero_division=0),
        "recall_macro": recall_score(y, p, average="macro", zero_division=0),
        "f1_macro": f1_score(y, p, average="macro", zero_division=0),
        "precision_macro": precision_score(y, p, average="macro", zero_division=0),
        "n": len(y),
    }


def test_golden_values():
    assert intent_scores(Y, P) == pytest.approx(GOLDEN, abs=1e-6)


def test_equals_scikit_learn_on_random_vectors_with_absent_classes():
    generator = np.random.default_rng(0)
    absent = 0
    for _ in range(200):
        classes, n = generator.integers(2, 31), generator.integers(1, 60)
        y, p = generator.integers(0, classes, n), generator.integers(0, classes, n)
        absent += len(np.union1d(y, p)) < classes
        assert intent_scores(y, p) == pytest.approx(sklearn_scores(y, p), abs=1e-12)
    assert absent > 50


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30), st.randoms())
def test_order_of_samples_and_names_of_classes_do_not_matter(pairs, random):
    expected = intent_scores(*zip(*pairs))
    random.shuffle(pairs)
    assert intent_scores(*zip(*pairs)) == pytest.approx(expected)
    renamed = list(range(5))
    random.shuffle(renamed)
    assert intent_scores(*zip(*[(renamed[y], renamed[p]) for y, p in pairs])) == pytest.approx(expected)


def test_a_class_that_is_predicted_but_never_true_counts_as_zero():
    assert intent_scores([0, 0, 1, 1], [0, 2, 1, 1])["recall_macro"] == pytest.approx(0.5)


def test_weights_come_from_the_truth():
    straight, swapped = intent_scores(Y, P), intent_scores(P, Y)
    assert straight["accuracy"] == swapped["accuracy"]
    assert straight["f1_macro"] == pytest.approx(swapped["f1_macro"])  # a macro mean cannot see the swap
    assert straight["f1_weighted"] != pytest.approx(swapped["f1_weighted"], abs=1e-3)
    metric = IntentMetric()
    assert metric.compute(references=Y, predictions=P)["f1_weighted"] == pytest.approx(straight["f1_weighted"])
    with pytest.raises(TypeError):
        metric.compute(Y, P)  # the order cannot be mistaken: only keywords


def test_unread_answers_are_wrong_but_no_class():
    scores = intent_scores([0, 0, 1, 1], [0, -1, 1, -1])
    assert scores["accuracy"] == 0.5
    assert scores["recall_macro"] == 0.5  # of two classes, not three
    assert scores["precision_macro"] == 1.0
    with pytest.raises(ValueError, match="`labels` holds the class id -1"):
        intent_scores([0, -1], [0, 0])


def test_rare_classes_follow_the_training_counts():
    # a tie between 1 and 3 goes to the first in the official order
    assert rare_classes([9, 2, 8, 2, 7, 9]).tolist() == [1, 3]
    assert rare_classes([9, 2, 8, 2, 1, 9]).tolist() == [1, 4]
    assert rare_classes({"a": 5, "c": 1}, label_names=["a", "b", "c"]).tolist() == [1]  # b has no sample at all
    assert rare_classes([3, 4]).tolist() == [0]
    per_class = f1_score(Y, P, average=None)
    scores = intent_scores(Y, P, train_counts=[40, 3, 50, 60])
    assert scores["f1_rare"] == pytest.approx(per_class[1])
    assert math.isnan(intent_scores([0, 0], [0, 0], train_counts=[5, 1, 7])["f1_rare"])
    assert "f1_rare" not in intent_scores(Y, P)


def test_counts_must_fit_the_labels():
    with pytest.raises(ValueError, match="'z', which is not one of the 2 known classes"):
        intent_scores([0], [0], train_counts={"z": 1}, label_names=["a", "b"])
    with pytest.raises(ValueError, match="names the class 'a' but `label_names` is None"):
        intent_scores([0], [0], train_counts={"a": 1})
    with pytest.raises(ValueError, match="has 3 entries but there are 2 label names"):
        intent_scores([0], [0], train_counts=[1, 2, 3], label_names=["a", "b"])


def test_no_sample_is_undefined_not_zero():
    scores = intent_scores([], [], train_counts=[1, 2, 3])
    assert scores.pop("n") == 0
    assert "f1_rare" in scores
    assert all(math.isnan(value) for value in scores.values())


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], "{'labels': 2, 'predictions': 1}"),
        ([0, 1], [0.0, 1.0], "`predictions` has dtype float64"),
        ([0, 1], [[0, 1], [1, 0]], r"`predictions` has shape \(2, 2\)"),
        ([0, 1], [0, 2], "`predictions` holds the class id 2, outside -1…1"),
    ],
)
def test_wrong_columns_are_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        intent_scores(labels, predictions, label_names=["a", "b"])


def test_per_class_report_keeps_absent_classes_in_place():
    report = per_class_report([0, 0, 2, 2, 2], [0, 2, 2, -1, 2], ["a", "b", "c"])
    np.testing.assert_array_equal(report.confusion, [[1, 0, 1], [0, 0, 0], [0, 0, 2]])
    assert report.unread.tolist() == [0, 0, 1]
    assert report.n.tolist() == [2, 0, 3]
    rows = report.rows()
    assert rows[1] == {"class": "b", "n": 0, "predicted": 0, "precision": 0, "recall": 0, "f1": 0, "unread": 0}
    assert rows[2]["recall"] == pytest.approx(2 / 3)
    assert rows[2]["precision"] == pytest.approx(2 / 3)
    full = per_class_report(Y, P, "abcd")
    assert full.f1 == pytest.approx(f1_score(Y, P, average=None))
    assert full.confusion.sum() == len(Y)


def test_joint_accuracy_needs_every_task_right():
    scores = joint_scores({"emotion": ([0, 1, 2, 0], [0, 1, 0, -1]), "intent": ([1, 1, 0, 0], [1, 0, 0, 0])})
    assert scores["joint_accuracy"] == 0.25
    assert scores["emotion_accuracy"] == 0.5
    assert scores["intent_accuracy"] == 0.75
    assert scores["n"] == 4
    with pytest.raises(ValueError, match="number of samples differs"):
        joint_scores({"emotion": ([0], [0]), "intent": ([0, 1], [0, 1])})


def test_multi_label_scores_equal_scikit_learn():
    generator = np.random.default_rng(0)
    y, p = generator.integers(0, 2, (40, 5)), generator.integers(0, 2, (40, 5))
    expected = {
        "subset_accuracy": accuracy_score(y, p),
        "hamming_loss": hamming_loss(y, p),
        "f1_micro": f1_score(y, p, average="micro"),
        "f1_macro": f1_score(y, p, average="macro"),
        "f1_weighted": f1_score(y, p, average="weighted"),
        "n": 40,
    }
    assert multi_label_scores(y, p) == pytest.approx(expected)
    nothing = multi_label_scores(np.zeros((3, 2), int), np.zeros((3, 2), int))
    assert nothing["subset_accuracy"] == 1.0
    assert math.isnan(nothing["f1_macro"]) and math.isnan(nothing["f1_micro"]) and math.isnan(nothing["f1_weighted"])
    with pytest.raises(ValueError, match="only 0 and 1"):
        multi_label_scores([[0, 2]], [[0, 1]])


def test_metric_can_be_used_again_and_again():
    metric = IntentMetric(train_counts=[40, 3, 50, 60], label_names=["a", "b", "c", "d"])
    expected = intent_scores(Y, P, train_counts=[40, 3, 50, 60])
    for _ in range(3):
        for start in range(0, len(Y), 4):  # the last batch is ragged
            metric.add_batch(references=Y[start : start + 4], predictions=np.array(P[start : start + 4]))
        assert metric.compute() == expected
    metric.add(reference=0, prediction=0)
    assert metric.compute()["n"] == 1  # nothing is left over from before
    with pytest.raises(ValueError, match="class id 9"):
        metric.compute(references=[9], predictions=[0])
    assert metric.compute(references=Y, predictions=P) == expected  # an error leaves nothing behind either
    with pytest.raises(ValueError, match="number of predictions"):
        metric.compute(references=[0, 1], predictions=[0])


def test_two_metrics_at_once_do_not_mix():
    first, second = IntentMetric(), IntentMetric()
    first.add_batch(references=[0, 1], predictions=[0, 1])
    second.add_batch(references=[0, 1, 1], predictions=[1, 0, 0])
    assert first.compute()["accuracy"] == 1.0
    assert second.compute()["accuracy"] == 0.0


def test_temporary_folder_goes_with_the_metric():
    metric = IntentMetric()
    folder = Path(metric._data_dir_root)
    assert folder.is_dir()
    metric.compute(references=Y, predictions=P)
    del metric
    gc.collect()
    assert not folder.exists()


def test_files_instead_of_memory_give_the_same(tmp_path):
    metric = IntentMetric(cache_dir=str(tmp_path), keep_in_memory=False)
    for _ in range(2):
        metric.add_batch(references=Y, predictions=P)
        assert metric.compute() == intent_scores(Y, P)
    assert not list(tmp_path.rglob("*.arrow"))


def test_several_processes_need_a_shared_folder():
    with pytest.raises(ValueError, match="`cache_dir` is None but `num_process` is 2"):
        IntentMetric(num_process=2, process_id=0)
