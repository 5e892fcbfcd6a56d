"""Logits to probabilities, with the temperature that was fitted to make them mean what they say."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def label_probabilities(logits: Tensor, config: Any) -> Tensor:
    """
    Calibrated probabilities of the labels.

    Args:
        logits: (..., num_labels).
        config: of the model; `problem_type` and `calibration_temperature` are read.

    Returns:
        (..., num_labels) float32: softmax(logits / T), or a sigmoid of each label where several may apply. A temperature
        keeps the order of the labels of a sample, so it changes no decision, only how sure it sounds.

    Raises:
        ValueError: a regression has no probabilities.
    """
    if config.problem_type == "regression":
        raise ValueError("`problem_type` is regression: its output is the value itself, it has no probabilities.")
    scaled = logits.float() / config.calibration_temperature
    return scaled.sigmoid() if config.problem_type == "multi_label_classification" else scaled.softmax(-1)
