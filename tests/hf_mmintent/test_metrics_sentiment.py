"""Sentiment regression: golden values, rounding, Has0/Non0, and the label statistics of the real test split."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, mean_absolute_error

from hf_mmintent.metrics import RegressionMetric, regression_scores
from hf_mmintent.metrics.sentiment import round_away_from_zero, round_half_even, round_half_up

P = [0.5, -0.5, 1.5, -1.2, 0, 2.6, -3.4, 0.2]
Y = [0.4, -0.6, 2, -1, 0, 2.4, -3, -0.2]
GOLDEN = {
    "mae": 0.2375,
    "corr": 0.985952,
    "acc7": 0.75,
    "acc5": 0.875,
    "acc2_has0": 0.875,
    "f1_has0": 0.873016,
    "acc2_non0": 0.857143,
    "f1_non0": 0.857143,
    "n": 8,
    "n_non0": 7,
}
HALVES = np.array([-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5])


def test_golden_values():
    assert regression_scores(Y, P) == pytest.approx(GOLDEN, abs=1e-6)
    assert RegressionMetric().compute(references=Y, predictions=P) == pytest.approx(GOLDEN, abs=1e-6)


def test_three_roundings():
    assert round_half_even(HALVES).tolist() == [-2, -2, 0, 0, 0, 2, 2]
    assert round_half_up(HALVES).tolist() == [-2, -1, 0, 0, 1, 2, 3]
    assert round_away_from_zero(HALVES).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    scores = regression_scores([0.5, 2.5, 0.2], [0.0, 2.0, 0.9], other_acc7=True)
    assert scores["acc7"] == pytest.approx(2 / 3)  # 0.5 → 0, 2.5 → 2, but 0.2 → 0 against 0.9 → 1
    assert scores["acc7_half_up"] == pytest.approx(0)  # 0.5 → 1, 2.5 → 3
    assert scores["acc7_sdk"] == pytest.approx(1 / 3)  # 0.2 and 0.9 are both "slightly positive"
    assert "acc7_sdk" not in regression_scores(Y, P)
    assert "acc7_sdk" in RegressionMetric(other_acc7=True).compute(references=Y, predictions=P)


def test_clipping_is_for_classes_only():
    scores = regression_scores([3.0, -3.0], [9.0, -9.0])
    assert (scores["acc7"], scores["acc5"], scores["mae"]) == (1.0, 1.0, 6.0)
    assert regression_scores([2.0, 0.0], [3.0, 0.0])["acc5"] == 1.0
    assert regression_scores([2.0, 0.0], [3.0, 0.0])["acc7"] == 0.5


def test_has0_and_non0():
    # label 0 counts as "not negative" with zeros, and is removed without; prediction 0 is then "not positive"
    scores = regression_scores([0.0, 0.0, 1.0, -1.0], [0.1, -0.1, 0.0, -1.0])
    assert scores["acc2_has0"] == 0.75
    assert scores["acc2_non0"] == 0.5
    assert scores["n_non0"] == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-15, 15), st.floats(-4, 4)), min_size=2, max_size=30), st.randoms())
def test_equals_scikit_learn_in_any_order(pairs, random):
    y, p = np.array([a / 5 for a, _ in pairs]), np.array([b for _, b in pairs])
    scores = regression_scores(y, p)
    assert scores["mae"] == pytest.approx(mean_absolute_error(y, p))
    assert scores["f1_has0"] == pytest.approx(f1_score(y >= 0, p >= 0, average="weighted", zero_division=0))
    if (y != 0).any():
        expected = f1_score(y[y != 0] > 0, p[y != 0] > 0, average="weighted", zero_division=0)
        assert scores["f1_non0"] == pytest.approx(expected)
    random.shuffle(pairs)
    shuffled = regression_scores([a / 5 for a, _ in pairs], [b for _, b in pairs])
    assert shuffled == pytest.approx(scores, nan_ok=True, abs=1e-9)


def test_swapped_arguments_change_the_weights():
    y, p = [1, 1, 1, -1, -1], [1, 1, 1, 1, -1]
    straight, swapped = regression_scores(y, p), regression_scores(p, y)
    assert straight["acc2_has0"] == swapped["acc2_has0"]
    assert straight["f1_has0"] == pytest.approx(f1_score([1, 1, 1, 0, 0], [1, 1, 1, 1, 0], average="weighted"))
    assert straight["f1_has0"] != pytest.approx(swapped["f1_has0"], abs=1e-3)


def test_undefined_values_are_nan():
    constant = regression_scores([1.0, -1.0, 0.5], [0.3, 0.3, 0.3])
    assert math.isnan(constant["corr"])
    assert not math.isnan(constant["mae"])
    zeros = regression_scores([0.0, 0.0], [1.0, -1.0])
    assert math.isnan(zeros["acc2_non0"]) and math.isnan(zeros["f1_non0"]) and math.isnan(zeros["corr"])
    assert zeros["acc2_has0"] == 0.5
    empty = regression_scores([], [])
    assert all(math.isnan(value) for key, value in empty.items() if not key.startswith("n"))


def test_correlation_does_not_depend_on_the_scale():
    expected = regression_scores(Y, P)["corr"]
    for scale in (1e-200, 1e-300, 1e200):
        assert regression_scores(Y, np.array(P) * scale)["corr"] == pytest.approx(expected)
    assert regression_scores(Y, -np.array(Y))["corr"] == pytest.approx(-1)
    assert regression_scores(Y, P)["corr"] == pytest.approx(np.corrcoef(Y, P)[0, 1])


def test_diverged_and_ragged_predictions_are_refused():
    with pytest.raises(ValueError, match="`predictions` holds 1 of 2 values that are NaN"):
        regression_scores([0.0, 1.0], [float("nan"), 1.0])
    with pytest.raises(ValueError, match=r"\{'labels': 2, 'predictions': 3\}"):
        regression_scores([0.0, 1.0], [0.0, 1.0, 2.0])


def test_columns_of_logits_are_flattened():
    assert regression_scores(np.array(Y), np.array(P)[:, None]) == regression_scores(Y, P)


def test_statistics_of_the_real_test_split(shared_data):
    with (shared_data / "cmu_mosi" / "mosi_index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["std_fold_LEAKS"] == "test"]
    y = np.array([float(row["sentiment"]) for row in rows])
    assert (len(y), int((y != 0).sum())) == (686, 656)
    even, up, sdk = (f(np.clip(y, -3, 3)) for f in (round_half_even, round_half_up, round_away_from_zero))
    assert ((even != up).sum(), (even != sdk).sum()) == (13, 263)
    assert ((even == 0).sum(), (sdk == 0).sum()) == (106, 30)
    always_negative = regression_scores(y, np.full(len(y), -1.0))  # the majority class
    assert round(100 * always_negative["acc2_has0"], 1) == 55.2
    assert round(100 * always_negative["acc2_non0"], 1) == 57.8
