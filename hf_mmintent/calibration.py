"""How well a classifier's probabilities say how often it is right, and one temperature that makes them say it better.

Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", 2017: expected calibration error over bins of equal
width, and the temperature that minimises the negative log-likelihood of held-out rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, log_expit, log_softmax, softmax

from hf_mmintent.metrics.files import set_config_field

FIELD = "calibration_temperature"
# 1/T is looked for in these limits: outside of them probabilities are 1/K or 1 to all digits anyway.
_SLOWEST, _SHARPEST = 1e-3, 1e3


@dataclass
class Reliability:
    """
    Confidence against how often it was right, in bins of equal width over [0, 1].

    Args:
        edges: (bins + 1,); a confidence c belongs to the bin with edges[i] < c ≤ edges[i + 1].
        count: (bins,) decisions per bin.
        confidence, accuracy: (bins,) means per bin, NaN in an empty one.
        ece: Σ count/n · |accuracy − confidence|, the expected calibration error.
        mce: the largest |accuracy − confidence| of a bin that is not empty.
        nll: mean negative log-likelihood of the labels, in nats.
        brier: mean squared error of the probabilities, summed over the classes of a single-label model.
        n: number of decisions.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    mce: float
    nll: float
    brier: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `None` where a bin is empty."""
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(self).items()
        }
        for name in ("confidence", "accuracy"):
            plain[name] = [None if np.isnan(value) else value for value in plain[name]]
        return plain


def reliability(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0, bins: int = 15) -> Reliability:
    """
    Reliability of the decisions that these logits make at a temperature.

    Args:
        logits: (n, K).
        labels: (n,) class ids: the confidence is that of the most probable class, and it is right if that is the label.
            (n, K) of 0 and 1 for a model of several labels: each label of each sample is a decision, its confidence the
            larger of p and 1 − p, and it is right if p > ½ says what the label says.
        temperature: T > 0.
        bins: number of bins.

    Raises:
        ValueError: shapes that do not fit, no sample, or a temperature that is not positive.
    """
    values, truth = _checked(logits, labels)
    if not temperature > 0:
        raise ValueError(f"`temperature` is {temperature}: it must be above 0.")
    if bins < 1:
        raise ValueError(f"`bins` is {bins}: at least one.")
    scaled = values / temperature
    if truth.ndim == 2:
        positive = expit(scaled)
        confidence = np.maximum(positive, 1 - positive).ravel()
        right = ((positive > 0.5) == (truth == 1)).ravel()
        nll = -np.where(truth == 1, log_expit(scaled), log_expit(-scaled)).mean()
        brier = np.square(positive - truth).mean()
    else:
        probabilities = softmax(scaled, axis=1)
        confidence, right = probabilities.max(1), values.argmax(1) == truth
        nll = -log_softmax(scaled, axis=1)[np.arange(len(truth)), truth].mean()
        brier = np.square(probabilities - np.eye(values.shape[1])[truth]).sum(1).mean()
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    known = count > 0
    mean = np.full((2, bins), np.nan)
    for row, found in enumerate((confidence, right)):
        mean[row, known] = np.bincount(place, weights=found, minlength=bins)[known] / count[known]
    gaps = np.abs(mean[1] - mean[0])[known]
    ece = float((count[known] / len(confidence)) @ gaps)
    return Reliability(
        edges, count, mean[0], mean[1], ece, float(gaps.max()), float(nll), float(brier), len(confidence)
    )


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """
    The temperature with the smallest negative log-likelihood on these rows.

    The likelihood is convex in 1/T, so the one root of its slope is the answer.

    Args:
        logits: (n, K) on rows that trained nothing: the validation split.
        labels: (n,) class ids, or (n, K) of 0 and 1.

    Raises:
        ValueError: no temperature is best: every decision is right, so that any smaller one is better still; or the logits
            say nothing about the labels, so that any larger one is.
    """
    values, truth = _checked(logits, labels)

    def slope(inverse: float) -> float:  # of the negative log-likelihood, by 1/T
        if truth.ndim == 2:
            return float(((expit(inverse * values) - truth) * values).mean())
        expected = (softmax(inverse * values, axis=1) * values).sum(1)
        return float((expected - values[np.arange(len(truth)), truth]).mean())

    if slope(_SLOWEST) >= 0:
        raise ValueError(
            f"no temperature fits these {len(truth)} rows: the logits say nothing about the labels, so that the flattest "
            "probabilities are the likeliest. Train the model before calibrating it."
        )
    if slope(_SHARPEST) <= 0:
        raise ValueError(
            f"no temperature fits these {len(truth)} rows: every decision is right, so that the likelihood grows without "
            "end as the temperature falls. Fit on more or harder rows, or keep the temperature of 1."
        )
    return 1 / float(brentq(slope, _SLOWEST, _SHARPEST, xtol=1e-12))


def save_temperature(checkpoint: str | Path, temperature: float) -> None:
    """
    Write the temperature into the config of a checkpoint folder, all or nothing; weights are not touched.

    Raises:
        FileNotFoundError: the folder has no `config.json`: a checkpoint of the Hub has to be downloaded first.
        ValueError: the temperature is not a positive number.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"`temperature` is {temperature}: give a positive number.")
    set_config_field(checkpoint, FIELD, float(temperature))


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, truth = np.asarray(logits, np.float64), np.asarray(labels)
    if values.ndim != 2 or not len(values) or truth.shape not in (values.shape[:1], values.shape):
        raise ValueError(
            f"`logits` has shape {values.shape} and `labels` {truth.shape}: expected (n, K), n ≥ 1, with (n,) class ids or "
            "(n, K) of 0 and 1. A regression has no probabilities to calibrate."
        )
    if truth.ndim == 1:
        truth = truth.astype(np.int64)
        if truth.min() < 0 or truth.max() >= values.shape[1]:
            raise ValueError(
                f"`labels` holds ids from {truth.min()} to {truth.max()} but `logits` has {values.shape[1]} classes."
            )
    return values, truth
