"""
Sentiment regression of CMU-MOSI and CMU-MOSEI, labels in [−3, 3].

"a/b" in the papers' tables is Has0/Non0: with all samples (y ≥ 0 against p ≥ 0), and without those whose label is
exactly 0 (y > 0 against p > 0). Three definitions of 7-class accuracy are in circulation; ours is `acc7`.
"""

from typing import Any

import datasets
import numpy as np
from numpy.typing import ArrayLike

from .base import LocalMetric, Scores, check_same_length, finite_floats
from .intent import intent_scores, mean_or_nan
from .library import evaluate

VERSION = "1"
REGRESSION_KEYS = ("mae", "corr", "acc7", "acc5", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0")


def round_half_even(values: np.ndarray) -> np.ndarray:
    """±0.5 → 0, ±1.5 → ±2, ±2.5 → ±2: the rounding of NumPy and PyTorch, and of `acc7`."""
    return np.round(values)


def round_half_up(values: np.ndarray) -> np.ndarray:
    """⌊x + 0.5⌋: −2.5 → −2 and 2.5 → 3 (`acc7_half_up`)."""
    return np.floor(values + 0.5)


def round_away_from_zero(values: np.ndarray) -> np.ndarray:
    """0 < x ≤ 1 → 1 and −1 ≤ x < 0 → −1, so class 0 holds only the exact 0 (note of the CMU SDK, `acc7_sdk`)."""
    return np.sign(values) * np.ceil(np.abs(values))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson correlation; NaN when either side is constant, which includes fewer than two samples."""
    if len(labels) == 0 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return float("nan")
    y, p = centred(labels), centred(predictions)
    return float(np.clip(y @ p / np.sqrt((y @ y) * (p @ p)), -1, 1))


def centred(values: np.ndarray) -> np.ndarray:
    """
    Subtract the mean and divide by the largest deviation.

    The correlation does not see it, but squares of very small numbers (a collapsed model) would vanish.
    """
    deviations = values - values.mean()
    largest = np.abs(deviations).max()
    return deviations / largest if largest > 0 else deviations


def _class_accuracy(labels: np.ndarray, predictions: np.ndarray, limit: float, rounding: Any) -> float:
    return mean_or_nan(rounding(np.clip(labels, -limit, limit)) == rounding(np.clip(predictions, -limit, limit)))


def regression_scores(labels: ArrayLike, predictions: ArrayLike, *, other_acc7: bool = False) -> Scores:
    """
    Scores of sentiment regression. The truth comes first: the F1 weights are the class shares of `labels`.

    Args:
        labels: True sentiment, any shape with n entries (flattened).
        predictions: Predicted sentiment, the same number of entries; clipped only for `acc7` and `acc5`.
        other_acc7: Also report the two other definitions of 7-class accuracy, `acc7_half_up` and `acc7_sdk`.

    Returns:
        `mae`, `corr` (NaN if constant), `acc7`, `acc5` (clipped to ±3 and ±2, rounded half to even), `acc2_has0`,
        `f1_has0` (y ≥ 0 against p ≥ 0), `acc2_non0`, `f1_non0` (rows with y = 0 removed; NaN when none is left), `n`
        and `n_non0`. F1 is weighted over the two classes.

    Raises:
        ValueError: Different lengths, or an entry that is NaN or infinite.
    """
    y, p = finite_floats("labels", labels), finite_floats("predictions", predictions)
    n = check_same_length(labels=y, predictions=p)
    kept = y != 0
    has0 = intent_scores((y >= 0).astype(int), (p >= 0).astype(int))
    non0 = intent_scores((y[kept] > 0).astype(int), (p[kept] > 0).astype(int))
    scores = {
        "mae": mean_or_nan(np.abs(p - y)),
        "corr": pearson(y, p),
        "acc7": _class_accuracy(y, p, 3, round_half_even),
        "acc5": _class_accuracy(y, p, 2, round_half_even),
        "acc2_has0": has0["accuracy"],
        "f1_has0": has0["f1_weighted"],
        "acc2_non0": non0["accuracy"],
        "f1_non0": non0["f1_weighted"],
    }
    if other_acc7:
        scores["acc7_half_up"] = _class_accuracy(y, p, 3, round_half_up)
        scores["acc7_sdk"] = _class_accuracy(y, p, 3, round_away_from_zero)
    return {**scores, "n": n, "n_non0": int(kept.sum())}


class RegressionMetric(LocalMetric):
    """
    [`regression_scores`] as an `evaluate.Metric`.

    Args:
        other_acc7: Also report `acc7_half_up` and `acc7_sdk`.
        **kwargs: Arguments of [`LocalMetric`].
    """

    def __init__(self, other_acc7: bool = False, **kwargs: Any) -> None:
        self.other_acc7 = other_acc7
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="MAE, Pearson correlation and binary, 5-class and 7-class accuracy of sentiment regression.",
            citation="",
            inputs_description="\n`predictions` and `references` are real numbers, usually in [-3, 3].",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return regression_scores(references, predictions, other_acc7=self.other_acc7)
