"""
Out-of-scope detection of MIntRec2.0 (protocol of the public repository thuiar/MIntRec2.0).

K known intents carry the ids 0…K−1 and the out-of-scope label `UNK` the id K. A K-way model rejects by thresholds in
the style of DOC (Shu et al., 2017); a (K+1)-way model predicts UNK itself. The public code keeps a softmax
cross-entropy loss and yet thresholds sigmoids of the logits; we keep that for comparison.
"""

from typing import Any

import datasets
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax
from sklearn.metrics import auc, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from .base import LocalMetric, Scores, TrainCounts, check_same_length, class_ids, counts_by_class, finite_floats
from .intent import intent_scores, mean_or_nan
from .library import evaluate

VERSION = "1"
OID_KEYS = ("oid_acc", "f1_known", "f1_open", "oid_f1")
DETECTION_KEYS = ("auroc", "aupr_in", "aupr_out", "fpr95")


def doc_sigma(probabilities: ArrayLike) -> float:
    """
    Spread of the probabilities p of one class around 1: √(mean (1 − p)²).

    This is the standard deviation of the set {p} ∪ {2 − p}, whose mean is 1 by construction.
    """
    p = finite_floats("probabilities", probabilities)
    if len(p) == 0:
        raise ValueError("`probabilities` is empty: a class needs training samples to get a threshold.")
    return float(np.sqrt(np.mean((1 - p) ** 2)))


def doc_thresholds(train_logits: ArrayLike, train_labels: ArrayLike, scale: float = 1.0) -> np.ndarray:
    """
    Rejection threshold of every known class, max(0.5, 1 − scale · σ_c), with σ_c of [`doc_sigma`].

    Args:
        train_logits: Logits of the in-scope training samples **in evaluation mode**, shape `(n, K)`.
        train_labels: Their class ids, shape `(n,)`.
        scale: Factor of σ_c.

    Returns:
        float64 of shape `(K,)`.

    Raises:
        ValueError: A class has no training sample.
    """
    logits = finite_floats("train_logits", train_logits, ndim=2)
    labels = class_ids("train_labels", train_labels, logits.shape[1])
    check_same_length(train_logits=logits, train_labels=labels)
    missing = np.setdiff1d(np.arange(logits.shape[1]), labels)
    if missing.size:
        raise ValueError(
            f"The classes {missing.tolist()} have no sample in `train_labels`, so their thresholds are undefined: "
            f"pass the whole training split."
        )
    own = expit(logits[np.arange(len(labels)), labels])
    return np.array([max(0.5, 1 - scale * doc_sigma(own[labels == c])) for c in range(logits.shape[1])])


def doc_predict(logits: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """
    The class with the largest sigmoid if that exceeds the threshold of the class, else UNK = K.

    Args:
        logits: Shape `(n, K)`.
        thresholds: Shape `(K,)`, from [`doc_thresholds`].

    Returns:
        int64 of shape `(n,)` with ids 0…K.
    """
    probabilities = expit(finite_floats("logits", logits, ndim=2))
    limits = finite_floats("thresholds", thresholds)
    if len(limits) != probabilities.shape[1]:
        raise ValueError(f"There are {len(limits)} thresholds but {probabilities.shape[1]} known classes in `logits`.")
    best = probabilities.argmax(1)
    return np.where(probabilities.max(1) > limits[best], best, len(limits))


def open_scores(labels: ArrayLike, predictions: ArrayLike, num_known: int) -> Scores:
    """
    Scores with rejection over all K + 1 labels. Absent labels stay in the means (as 0): the label list is fixed.

    Args:
        labels: True ids 0…K, shape `(n,)`; K is UNK.
        predictions: Predicted ids 0…K, shape `(n,)`.
        num_known: K.

    Returns:
        `oid_acc`, `f1_known` (mean F1 of the K known labels), `f1_open` (F1 of UNK), `oid_f1` (mean of all K + 1).
    """
    labels = class_ids("labels", labels, num_known + 1)
    predictions = class_ids("predictions", predictions, num_known + 1)
    if check_same_length(labels=labels, predictions=predictions) == 0:
        return dict.fromkeys(OID_KEYS, float("nan"))
    f1 = f1_score(labels, predictions, labels=np.arange(num_known + 1), average=None, zero_division=0)
    return {
        "oid_acc": mean_or_nan(labels == predictions),
        "f1_known": mean_or_nan(f1[:-1]),
        "f1_open": float(f1[-1]),
        "oid_f1": float(f1.mean()),
    }


def detection_scores(in_scope: ArrayLike, scores: ArrayLike) -> Scores:
    """
    How well a score separates in-scope (positive) from out-of-scope samples.

    Args:
        in_scope: True for in-scope samples, shape `(n,)`.
        scores: High for in-scope, in [0, 1] (the largest softmax probability), shape `(n,)`.

    Returns:
        `auroc`; `aupr_in` and `aupr_out` (area under the precision-recall curve by the trapezoidal rule, as in the
        public code; `aupr_out` has the out-of-scope samples positive and uses 1 − score); `fpr95`, the share of
        out-of-scope samples at or above the first threshold, coming from high scores, whose in-scope recall reaches
        95 %. All NaN unless both kinds of samples are present.
    """
    positive, confidence = np.asarray(in_scope, dtype=bool), finite_floats("scores", scores)
    check_same_length(in_scope=positive, scores=confidence)
    if positive.all() or not positive.any():
        return dict.fromkeys(DETECTION_KEYS, float("nan"))
    false_rate, true_rate, _ = roc_curve(positive, confidence, drop_intermediate=False)
    precision_in, recall_in, _ = precision_recall_curve(positive, confidence)
    precision_out, recall_out, _ = precision_recall_curve(~positive, 1 - confidence)
    return {
        "auroc": float(roc_auc_score(positive, confidence)),
        "aupr_in": float(auc(recall_in, precision_in)),
        "aupr_out": float(auc(recall_out, precision_out)),
        "fpr95": float(false_rate[np.argmax(true_rate >= 0.95)]),
    }


def oos_scores(
    labels: ArrayLike,
    predictions: ArrayLike,
    in_scope_predictions: ArrayLike,
    scores: ArrayLike,
    num_known: int,
    *,
    train_counts: TrainCounts | None = None,
) -> Scores:
    """
    The whole protocol.

    Args:
        labels: True ids 0…K, shape `(n,)`; K is UNK.
        predictions: Predicted ids 0…K **with** rejection, shape `(n,)`.
        in_scope_predictions: Predicted ids 0…K−1 **without** rejection, shape `(n,)`.
        scores: Largest softmax probability among the known classes, shape `(n,)`.
        num_known: K.
        train_counts: Training samples of the known classes; adds `f1_rare`.

    Returns:
        The keys of [`intent_scores`] on the in-scope rows without rejection, those of [`open_scores`] and
        [`detection_scores`] on all rows, `n` (all rows), `n_in_scope` and `n_out_of_scope`.
    """
    labels = class_ids("labels", labels, num_known + 1)
    closed = class_ids("in_scope_predictions", in_scope_predictions, num_known)
    n = check_same_length(labels=labels, predictions=predictions, in_scope_predictions=closed, scores=scores)
    known = labels < num_known
    if train_counts is not None and len(counts_by_class(train_counts)) != num_known:
        raise ValueError(
            f"`train_counts` covers {len(counts_by_class(train_counts))} classes but there are {num_known} known ones: "
            f"leave UNK out."
        )
    return {
        **intent_scores(labels[known], closed[known], train_counts=train_counts),
        **open_scores(labels, predictions, num_known),
        **detection_scores(known, scores),
        "n": n,
        "n_in_scope": int(known.sum()),
        "n_out_of_scope": int((~known).sum()),
    }


def oos_outputs(
    logits: ArrayLike, num_known: int, thresholds: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Read the three columns of [`oos_scores`] from logits.

    Args:
        logits: Shape `(n, K)` with `thresholds`, or `(n, K + 1)`, the last class being UNK, without.
        num_known: K.
        thresholds: Shape `(K,)`, from [`doc_thresholds`].

    Returns:
        `predictions` with rejection, `in_scope_predictions` without (argmax over the K known classes), and `scores`,
        the largest softmax probability of a known class (of a (K+1)-way model: in the softmax over all K + 1).

    Raises:
        ValueError: The number of logits and the presence of thresholds do not fit.
    """
    values = finite_floats("logits", logits, ndim=2)
    wanted = num_known + 1 if thresholds is None else num_known
    if values.shape[1] != wanted:
        raise ValueError(
            f"`logits` has {values.shape[1]} classes but {wanted} are needed: {num_known} known classes with "
            f"`thresholds`, or {num_known + 1} classes, UNK last, without."
        )
    predictions = values.argmax(1) if thresholds is None else doc_predict(values, thresholds)
    known = values[:, :num_known]
    return predictions, known.argmax(1), softmax(values, axis=1)[:, :num_known].max(1)


class OutOfScopeMetric(LocalMetric):
    """
    [`oos_scores`] as an `evaluate.Metric`; batches also carry `in_scope_predictions` and `scores`.

    Args:
        num_known: K; the id K is UNK.
        train_counts: Training samples of the known classes; adds `f1_rare`.
        **kwargs: Arguments of [`LocalMetric`].
    """

    def __init__(self, num_known: int, train_counts: TrainCounts | None = None, **kwargs: Any) -> None:
        self.num_known = num_known
        self.train_counts = train_counts
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Out-of-scope protocol of MIntRec2.0: in-scope quality, open classification, detection.",
            citation="",
            inputs_description="\n`predictions` reject, `in_scope_predictions` do not; `scores` are max softmax.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "in_scope_predictions": datasets.Value("int64"),
                    "scores": datasets.Value("float64"),
                }
            ),
        )

    def _compute(self, *, predictions: Any, references: Any, in_scope_predictions: Any, scores: Any) -> Scores:
        return oos_scores(
            references, predictions, in_scope_predictions, scores, self.num_known, train_counts=self.train_counts
        )
