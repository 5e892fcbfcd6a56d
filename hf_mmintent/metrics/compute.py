"""The function that `transformers.Trainer` calls after an evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction

from .base import Scores, TrainCounts, counts_by_class, finite_floats
from .intent import intent_scores, multi_label_scores
from .out_of_scope import oos_outputs, oos_scores
from .sentiment import regression_scores

ComputeMetrics = Callable[[EvalPrediction], Scores]
PROBLEM_TYPES = ("single_label_classification", "regression", "multi_label_classification")


def first_output(predictions: Any) -> np.ndarray:
    """The logits: the array itself, or the first entry when a model returns several outputs."""
    return predictions[0] if isinstance(predictions, (tuple, list)) else predictions


def build_compute_metrics(
    problem_type: str,
    label_names: Sequence[str] | None = None,
    train_counts: TrainCounts | None = None,
    *,
    unknown_label: str | None = None,
) -> ComputeMetrics:
    """
    Build `compute_metrics` for `Trainer` from `config.problem_type`.

    Args:
        problem_type: `"single_label_classification"`, `"regression"` or `"multi_label_classification"`.
        label_names: The official label order; the number of logits is checked against it.
        train_counts: Training samples per class; adds `f1_rare` to single-label scores.
        unknown_label: Name of the last label when it means "out of scope"; the scores are then those of
            [`oos_scores`] for a model that predicts this label itself.

    Returns:
        A function from `EvalPrediction` (logits of shape `(n, classes)`, or a tuple that begins with them, and labels)
        to scores. Its keys are plain; `Trainer` adds the `eval_` prefix.

    Raises:
        ValueError: Unknown problem type, or an `unknown_label` that is not the last of `label_names`.
    """
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"`problem_type` is {problem_type!r} but must be one of {PROBLEM_TYPES}.")
    if unknown_label is not None and (not label_names or label_names[-1] != unknown_label):
        raise ValueError(f"`unknown_label` is {unknown_label!r} but must be the last of `label_names`, {label_names}.")

    def compute_metrics(prediction: EvalPrediction) -> Scores:
        labels = np.asarray(first_output(prediction.label_ids))
        if problem_type == "regression":
            return regression_scores(labels, first_output(prediction.predictions))
        logits = finite_floats("logits", first_output(prediction.predictions), ndim=2)
        if label_names is not None and logits.shape[1] != len(label_names):
            raise ValueError(
                f"The model gives {logits.shape[1]} logits but there are {len(label_names)} label names: check "
                f"`config.num_labels` against the dataset."
            )
        if problem_type == "multi_label_classification":
            return multi_label_scores(labels.astype(np.int64), (logits > 0).astype(np.int64))  # sigmoid above 0.5
        if unknown_label is not None:
            num_known = logits.shape[1] - 1
            counts = None if train_counts is None else counts_by_class(train_counts, label_names)[:num_known]
            return oos_scores(labels, *oos_outputs(logits, num_known), num_known, train_counts=counts)
        return intent_scores(labels, logits.argmax(1), train_counts=train_counts, label_names=label_names)

    return compute_metrics
