"""The split of a block, scored once: a classifier or regressor by its outputs, a model that writes by its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.evaluation import evaluate
from hf_mmintent.explanations import LABELS, AnswerEvaluation, evaluate_answers
from hf_mmintent.metrics import Predictions


@dataclass(frozen=True)
class Scored:
    """
    Args:
        scores: by key.
        predictions: of every row, for the paired bootstrap.
        condition: under which they were made.
        label_names: in the order of their ids; `None` in regression.
        answers: of a model that writes.
    """

    scores: dict[str, float]
    predictions: Predictions
    condition: str
    label_names: list[str] | None
    answers: AnswerEvaluation | None = None


def score(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, drop_modalities: tuple[str, ...], seed: int
) -> Scored:
    """
    Scores and predictions on rows.

    The predictions of a model that writes are pairs of emotion and intent, numbered together, so that a prediction is right
    when both are; −1 where either could not be read.
    """
    if model.can_generate():
        found = evaluate_answers(model, processor, rows, drop_modalities)
        names = {"emotion": processor.emotion_names, "intent": processor.intent_names}
        labels, predictions = (_pairs(values, names) for values in (rows, found.answers))
        pairs = [f"{emotion} and {intent}" for emotion in names["emotion"] for intent in names["intent"]]
        saved = Predictions([answer.id for answer in found.answers], labels, predictions, seed)
        return Scored(found.scores, saved, found.condition, pairs, found)
    given = evaluate(model, processor, rows, drop_modalities, seed=seed)
    config: Any = model.config
    classes = None if config.problem_type == "regression" else [config.id2label[i] for i in range(config.num_labels)]
    return Scored(given.scores, given.predictions, given.condition, classes)


def _pairs(values: Any, names: dict[str, list[str]]) -> np.ndarray:
    """Numbers of (emotion, intent) pairs of rows or answers, −1 where one is missing."""
    columns = []
    for name in LABELS:
        words = values[name] if isinstance(values, Dataset) else [getattr(answer, name) for answer in values]
        known = {label.lower(): index for index, label in enumerate(names[name])}
        columns.append([-1 if word is None else known[word.lower()] for word in words])
    emotions, intents = (np.asarray(column, np.int64) for column in columns)
    return np.where((emotions < 0) | (intents < 0), -1, emotions * len(names["intent"]) + intents)
