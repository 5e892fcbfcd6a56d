"""
Classification scores: intents, emotions, sarcasm, actions.

With n_c true, m_c predicted and t_c correct samples of class c, undefined ratios are 0 and macro means run over the
classes that occur among the labels or the predictions (scikit-learn's defaults). A class that is predicted but never
true therefore counts as 0 in a macro mean. The prediction −1 means "no class could be read from the answer": it is
wrong for its label, and it is not a class of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from .base import LocalMetric, Scores, TrainCounts, check_same_length, class_ids, counts_by_class
from .library import evaluate

VERSION = "1"
INTENT_KEYS = ("accuracy", "f1_weighted", "precision_weighted", "recall_macro", "f1_macro", "precision_macro")
MULTI_LABEL_KEYS = ("subset_accuracy", "hamming_loss", "f1_micro", "f1_macro", "f1_weighted")


def mean_or_nan(values: np.ndarray) -> float:
    """Mean of an array, NaN when it is empty: an undefined value is never reported as 0."""
    return float(np.mean(values)) if values.size else float("nan")


def rare_classes(train_counts: TrainCounts, label_names: Sequence[str] | None = None) -> np.ndarray:
    """
    The third of the classes (rounded down, at least one) with the fewest training samples, as sorted ids.

    Ties go to the class that comes first in the official order.
    """
    counts = counts_by_class(train_counts, label_names)
    return np.sort(np.argsort(counts, kind="stable")[: max(1, len(counts) // 3)])


def _num_classes(label_names: Sequence[str] | None, train_counts: TrainCounts | None) -> int | None:
    if label_names is not None:
        return len(label_names)
    return None if train_counts is None else len(counts_by_class(train_counts))


def intent_scores(
    labels: ArrayLike,
    predictions: ArrayLike,
    *,
    train_counts: TrainCounts | None = None,
    label_names: Sequence[str] | None = None,
) -> Scores:
    """
    Scores of single-label classification. The truth comes first, as in scikit-learn.

    Args:
        labels: True class ids, shape `(n,)`.
        predictions: Predicted class ids, shape `(n,)`; −1 where none could be read.
        train_counts: Training samples per class; adds `f1_rare`, the mean F1 of the third of classes with the fewest.
        label_names: The official label order; ids must then be below its length.

    Returns:
        `accuracy` (Σ t_c / n), `f1_weighted` and `precision_weighted` (weights n_c / n), `recall_macro` (also called
        UAR), `f1_macro`, `precision_macro`, `f1_rare` with `train_counts`, and `n`. All NaN for no sample at all.
        `f1_rare` averages the rare classes that occur among labels or predictions; NaN when none does.

    Raises:
        ValueError: Different lengths, ids that are not integers or outside the label order.
    """
    size = _num_classes(label_names, train_counts)
    labels = class_ids("labels", labels, size)
    predictions = class_ids("predictions", predictions, size, allow_failure=True)
    n = check_same_length(labels=labels, predictions=predictions)
    present = np.union1d(labels, predictions[predictions >= 0])
    rare = None if train_counts is None else rare_classes(train_counts, label_names)
    if n == 0:
        keys = INTENT_KEYS if rare is None else (*INTENT_KEYS, "f1_rare")
        return {**dict.fromkeys(keys, float("nan")), "n": 0}
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predictions, labels=present, average=None, zero_division=0
    )
    weights = support / n
    scores = {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1_weighted": float(weights @ f1),
        "precision_weighted": float(weights @ precision),
        "recall_macro": float(recall.mean()),
        "f1_macro": float(f1.mean()),
        "precision_macro": float(precision.mean()),
    }
    if rare is not None:
        scores["f1_rare"] = mean_or_nan(f1[np.isin(present, rare)])
    return {**scores, "n": n}


def joint_scores(tasks: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Scores:
    """
    Scores of several labels per sample (emotion and intent of MC-EIU and XMEI).

    Args:
        tasks: Task name to `(labels, predictions)`, all of shape `(n,)` and in the same order of samples.

    Returns:
        The keys of [`intent_scores`] prefixed by the task (`emotion_f1_macro`), `joint_accuracy`, the share of samples
        with every task right, and `n`.

    Raises:
        ValueError: No task, or tasks of different length.
    """
    if not tasks:
        raise ValueError("`tasks` is empty: pass at least one task with its labels and predictions.")
    right: dict[str, np.ndarray] = {}
    scores: Scores = {}
    for task, (labels, predictions) in tasks.items():
        for key, value in intent_scores(labels, predictions).items():
            if key != "n":
                scores[f"{task}_{key}"] = value
        right[task] = np.asarray(labels) == np.asarray(predictions)
    n = check_same_length(**right)
    scores["joint_accuracy"] = mean_or_nan(np.all(list(right.values()), axis=0))
    return {**scores, "n": n}


def multi_label_scores(labels: ArrayLike, predictions: ArrayLike) -> Scores:
    """
    Scores of multi-label classification.

    Args:
        labels: 0/1 of shape `(n, classes)`.
        predictions: 0/1 of shape `(n, classes)`.

    Returns:
        `subset_accuracy` (all labels of a sample right), `hamming_loss`, `f1_micro`, `f1_macro` and `f1_weighted`
        (over the classes that occur among labels or predictions; NaN if none does), `n`.

    Raises:
        ValueError: Shapes differ, are not two-dimensional, or hold something besides 0 and 1.
    """
    truth, guess = np.asarray(labels), np.asarray(predictions)
    if truth.ndim != 2 or truth.shape != guess.shape:
        raise ValueError(
            f"`labels` has shape {truth.shape} and `predictions` {guess.shape}: both must be (n, classes)."
        )
    if not (np.isin(truth, (0, 1)).all() and np.isin(guess, (0, 1)).all()):
        raise ValueError("`labels` and `predictions` of a multi-label task may hold only 0 and 1: apply a threshold.")
    n = len(truth)
    if n == 0:
        return {**dict.fromkeys(MULTI_LABEL_KEYS, float("nan")), "n": 0}
    support, predicted, correct = truth.sum(0), guess.sum(0), (truth * guess).sum(0)
    present = support + predicted > 0
    f1 = 2 * correct[present] / (support + predicted)[present]
    nan = float("nan")
    return {
        "subset_accuracy": float((truth == guess).all(1).mean()),
        "hamming_loss": float((truth != guess).mean()),
        "f1_micro": float(2 * correct.sum() / (support + predicted).sum()) if present.any() else nan,
        "f1_macro": mean_or_nan(f1),
        "f1_weighted": float((support[present] / support.sum()) @ f1) if support.sum() else nan,
        "n": n,
    }


@dataclass(frozen=True)
class PerClassReport:
    """
    What the averages hide.

    Attributes:
        names: Class names in the official order.
        n, predicted, precision, recall, f1: One entry per class, shape `(classes,)`; undefined ratios are 0.
        unread: Samples of the class whose prediction was −1, shape `(classes,)`.
        confusion: int64 of shape `(classes, classes)`: row = true class, column = predicted class.
    """

    names: tuple[str, ...]
    n: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    unread: np.ndarray
    confusion: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary per class, ready for JSON or a data frame."""
        return [
            {
                "class": name,
                "n": int(self.n[i]),
                "predicted": int(self.predicted[i]),
                "precision": float(self.precision[i]),
                "recall": float(self.recall[i]),
                "f1": float(self.f1[i]),
                "unread": int(self.unread[i]),
            }
            for i, name in enumerate(self.names)
        ]


def per_class_report(labels: ArrayLike, predictions: ArrayLike, label_names: Sequence[str]) -> PerClassReport:
    """
    Precision, recall and F1 of every class, and the confusion matrix.

    Args:
        labels: True class ids, shape `(n,)`.
        predictions: Predicted class ids, shape `(n,)`; −1 where none could be read.
        label_names: The official order. It fixes rows and columns, so that absent classes keep their place.

    Returns:
        [`PerClassReport`].
    """
    size = len(label_names)
    labels = class_ids("labels", labels, size)
    predictions = class_ids("predictions", predictions, size, allow_failure=True)
    check_same_length(labels=labels, predictions=predictions)
    table = np.zeros((size, size + 1), dtype=np.int64)  # the last column collects −1
    np.add.at(table, (labels, predictions), 1)
    confusion = table[:, :size]
    n, predicted, correct = table.sum(1), confusion.sum(0), np.diag(confusion)
    return PerClassReport(
        names=tuple(label_names),
        n=n,
        predicted=predicted,
        precision=_ratio(correct, predicted),
        recall=_ratio(correct, n),
        f1=_ratio(2 * correct, n + predicted),
        unread=table[:, size],
        confusion=confusion,
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


class IntentMetric(LocalMetric):
    """
    [`intent_scores`] as an `evaluate.Metric`.

    Args:
        train_counts: Training samples per class; adds `f1_rare`.
        label_names: The official label order.
        **kwargs: Arguments of [`LocalMetric`].

    Example:

        >>> IntentMetric().compute(predictions=[0, 1, 1], references=[0, 1, 0])["f1_macro"]
        0.6666666666666666
    """

    def __init__(
        self, train_counts: TrainCounts | None = None, label_names: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        self.train_counts = train_counts
        self.label_names = label_names
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and averaged precision, recall and F1 of single-label classification.",
            citation="",
            inputs_description="\n`predictions` and `references` are class ids; the prediction -1 counts as wrong.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, *, predictions: Any, references: Any) -> Scores:
        return intent_scores(references, predictions, train_counts=self.train_counts, label_names=self.label_names)
