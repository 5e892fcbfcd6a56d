"""
Scores as functions of sums over samples, so that thousands of bootstrap resamples need one matrix product.

A resample only changes how often a sample counts. Every [`Statistic`] therefore stores one row per sample (correct
and predicted class counts, moments, n-gram matches) and computes its value from the sum of the rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .base import TrainCounts, class_ids, finite_floats
from .intent import rare_classes
from .sentiment import centred, round_half_even
from .text_overlap import bleu_from_statistics, bleu_statistics, cider_d_each, rouge_l_each, tokenize


@dataclass(frozen=True)
class Statistic:
    """
    A score that depends on sums over samples only.

    Attributes:
        name: The key of the score.
        collect: `(labels, predictions)` of n samples to float64 of shape `(n, d)`.
        reduce: Sums of shape `(R, d)` to values of shape `(R,)`; NaN where the score is undefined.
    """

    name: str
    collect: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reduce: Callable[[np.ndarray], np.ndarray]

    def value(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """The score of the samples as they are."""
        return float(self.reduce(self.collect(labels, predictions).sum(0, keepdims=True))[0])


def divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    """Quotient, `otherwise` where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    out = np.full(shape, otherwise)
    return np.divide(numerator, denominator, out=out, where=np.broadcast_to(denominator, shape) != 0)


def mean_statistic(name: str, each: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Statistic:
    """Mean of a value per sample; `each` maps `(labels, predictions)` to shape `(n,)`, NaN for samples left out."""

    def collect(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        values = np.asarray(each(labels, predictions), dtype=np.float64)
        kept = ~np.isnan(values)
        return np.stack([np.where(kept, values, 0.0), kept], axis=1)

    return Statistic(name, collect, lambda sums: divide(sums[:, 0], sums[:, 1], np.nan))


def class_statistic(name: str, num_classes: int, classes: Sequence[int] | np.ndarray | None = None) -> Statistic:
    """
    One of the averages of [`intent_scores`].

    Args:
        name: `accuracy`, `f1_weighted`, `precision_weighted`, `recall_macro`, `f1_macro` or `precision_macro`.
        num_classes: Class ids are below it.
        classes: Only for macro means: average these classes (those that occur), as `f1_rare` does.

    Raises:
        ValueError: Another name.
    """
    if name not in _CLASS_REDUCTIONS:
        raise ValueError(f"`name` is {name!r} but must be one of {sorted(_CLASS_REDUCTIONS)}.")
    ratio, weighted = _CLASS_REDUCTIONS[name]
    chosen = np.ones(num_classes, bool) if classes is None else np.isin(np.arange(num_classes), classes)

    def collect(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        truth = class_ids("labels", labels, num_classes)
        guess = class_ids("predictions", predictions, num_classes, allow_failure=True)
        identity = np.eye(num_classes + 1)[:, :num_classes]  # −1 picks the last row, which is all zero
        n, predicted = identity[truth], identity[guess]
        return np.concatenate([n * predicted, n, predicted], axis=1)

    def reduce(sums: np.ndarray) -> np.ndarray:
        correct, n, predicted = np.split(sums, 3, axis=1)
        values = ratio(correct, n, predicted)
        weights = n if weighted else chosen * (n + predicted > 0)
        return divide((weights * values).sum(1), weights.sum(1), np.nan)

    return Statistic(name, collect, reduce)


def _recall(correct: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return divide(correct, n, 0.0)


def _precision(correct: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return divide(correct, predicted, 0.0)


def _f1(correct: np.ndarray, n: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return divide(2 * correct, n + predicted, 0.0)


_CLASS_REDUCTIONS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], bool]] = {
    "accuracy": (_recall, True),  # recall weighted by the class shares is the accuracy
    "f1_weighted": (_f1, True),
    "precision_weighted": (_precision, True),
    "recall_macro": (_recall, False),
    "f1_macro": (_f1, False),
    "precision_macro": (_precision, False),
}


def rare_statistic(train_counts: TrainCounts, label_names: Sequence[str] | None = None) -> Statistic:
    """`f1_rare` of [`intent_scores`]."""
    rare = rare_classes(train_counts, label_names)
    macro = class_statistic("f1_macro", len(train_counts if label_names is None else label_names), rare)
    return Statistic("f1_rare", macro.collect, macro.reduce)


def open_statistic(name: str, num_known: int) -> Statistic:
    """
    One of the scores of [`open_scores`]; absent labels stay in the means.

    Args:
        name: `f1_known`, `f1_open`, `oid_f1` or `oid_acc`.
        num_known: K; the id K is UNK.
    """
    if name == "oid_acc":
        accuracy = class_statistic("accuracy", num_known + 1)
        return Statistic(name, accuracy.collect, accuracy.reduce)
    parts = {"f1_known": slice(0, num_known), "f1_open": slice(num_known, None), "oid_f1": slice(None)}
    if name not in parts:
        raise ValueError(f"`name` is {name!r} but must be `oid_acc` or one of {sorted(parts)}.")

    def reduce(sums: np.ndarray) -> np.ndarray:
        return _f1(*np.split(sums, 3, axis=1))[:, parts[name]].mean(1)

    return Statistic(name, class_statistic("f1_macro", num_known + 1).collect, reduce)


def _binary(name: str, zero_counts: bool) -> Statistic:
    """The binary scores of sentiment; `name` begins with acc2 or f1."""
    inner = class_statistic("accuracy" if name.startswith("acc2") else "f1_weighted", 2)

    def collect(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        y, p = finite_floats("labels", labels), finite_floats("predictions", predictions)
        if zero_counts:
            return inner.collect((y >= 0).astype(int), (p >= 0).astype(int))
        return inner.collect((y > 0).astype(int), (p > 0).astype(int)) * (y != 0)[:, None]

    return Statistic(name, collect, inner.reduce)


def _rounded(name: str, limit: float) -> Statistic:
    def each(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        y, p = finite_floats("labels", labels), finite_floats("predictions", predictions)
        return round_half_even(np.clip(y, -limit, limit)) == round_half_even(np.clip(p, -limit, limit))

    return mean_statistic(name, each)


def _correlation() -> Statistic:
    def collect(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        y, p = finite_floats("labels", labels), finite_floats("predictions", predictions)
        y, p = centred(y), centred(p)  # the correlation does not change, but cancellation in the sums shrinks
        return np.stack([np.ones_like(y), y, p, y * y, p * p, y * p], axis=1)

    def reduce(sums: np.ndarray) -> np.ndarray:
        n, y, p, yy, pp, yp = sums.T
        variance_y, variance_p = n * yy - y * y, n * pp - p * p
        # a constant side leaves rounding errors instead of an exact 0
        constant = (variance_y <= 1e-12 * n * yy) | (variance_p <= 1e-12 * n * pp)
        scale = np.sqrt(np.where(constant, 0.0, variance_y * variance_p))
        return np.clip(divide(n * yp - y * p, scale, np.nan), -1, 1)

    return Statistic("corr", collect, reduce)


def _text(name: str) -> Statistic:
    def tokens(values: np.ndarray) -> list[list[str]]:
        return [tokenize(str(text)) for text in values]

    if name == "bleu4":
        return Statistic(name, lambda r, h: bleu_statistics(tokens(r), tokens(h)), bleu_from_statistics)
    if name == "cider_d":  # idf from the whole split, as in the score itself, not from the resample
        return mean_statistic(name, lambda r, h: cider_d_each(tokens(r), tokens(h)))
    beta = {"rouge_l": 1.2, "rouge_l_f1": 1.0}[name]
    return mean_statistic(name, lambda r, h: rouge_l_each(tokens(r), tokens(h), beta))


def statistic(name: str, num_classes: int | None = None) -> Statistic:
    """
    The statistic behind a key.

    Args:
        name: A key of [`intent_scores`] (except `f1_rare`: [`rare_statistic`]), of [`regression_scores`], `joint_accuracy` of
            numbered pairs of labels, or `bleu4`, `rouge_l`, `rouge_l_f1`, `cider_d` on texts as they are.
        num_classes: Needed for the classification keys.

    Raises:
        ValueError: An unknown key, or a classification key without `num_classes`.
    """
    if name in _CLASS_REDUCTIONS:
        if num_classes is None:
            raise ValueError(f"`num_classes` is None but {name!r} is a score over classes: pass their number.")
        return class_statistic(name, num_classes)
    makers: dict[str, Callable[[], Statistic]] = {
        "mae": lambda: mean_statistic("mae", lambda y, p: np.abs(finite_floats("p", p) - finite_floats("y", y))),
        "joint_accuracy": lambda: mean_statistic("joint_accuracy", lambda y, p: np.asarray(y) == np.asarray(p)),
        "corr": _correlation,
        "acc7": lambda: _rounded("acc7", 3),
        "acc5": lambda: _rounded("acc5", 2),
        **{f"{kind}_has0": partial(_binary, f"{kind}_has0", True) for kind in ("acc2", "f1")},
        **{f"{kind}_non0": partial(_binary, f"{kind}_non0", False) for kind in ("acc2", "f1")},
        **{key: partial(_text, key) for key in ("bleu4", "rouge_l", "rouge_l_f1", "cider_d")},
    }
    if name not in makers:
        raise ValueError(f"`name` is {name!r} but must be one of {sorted([*makers, *_CLASS_REDUCTIONS])}.")
    return makers[name]()
