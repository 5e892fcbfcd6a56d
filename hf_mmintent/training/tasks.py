"""What training does differently for a model that scores classes and for one that writes answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.metrics import build_compute_metrics

from .answer_trainer import AnswerMetrics, AnswerTrainer, LabelMetrics
from .trainer import MultimodalTrainer


@dataclass
class Task:
    """
    Args:
        trainer_class: what trains.
        compute_metrics: scores of the validation rows.
        best_metric: score that selects the epoch.
        greater_is_better: of that score.
        label_column: column with the target of the model, besides texts.
        trainer_options: further arguments of the trainer.
        hidden_columns: targets that training rows do without in the present stage.
        labelled_evaluation: evaluation batches hold what training batches hold, for a loss.
    """

    trainer_class: type[MultimodalTrainer]
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    best_metric: str
    greater_is_better: bool
    label_column: str
    trainer_options: dict[str, Any] = field(default_factory=dict)
    hidden_columns: tuple[str, ...] = ()
    labelled_evaluation: bool = False


def task_of(
    model: PreTrainedModel, processor: ProcessorMixin, train: Dataset, validation: Dataset, max_new_tokens: int | None
) -> Task:
    """
    The task that a model was built for.

    Args:
        model, processor: of the run.
        train, validation: its rows.
        max_new_tokens: of answers in validation; those of the model when `None`. Labels come first in an answer.
    """
    if model.can_generate():
        writes = model.config.stage_runs_language_model
        # No column `labels`: the targets are texts, which the processor takes by name.
        return Task(
            AnswerTrainer,
            AnswerMetrics(processor, validation) if writes else LabelMetrics(),
            "selection" if writes else "loss",
            writes,
            "labels",
            {"max_new_tokens": max_new_tokens},
            tuple(name for name in model.config.hidden_answer_fields if name in train.column_names),
            labelled_evaluation=not writes,
        )
    regression = model.config.problem_type == "regression"
    counts = None if regression else label_counts(train)
    compute = build_compute_metrics(model.config.problem_type, processor.label_names, counts)
    return Task(MultimodalTrainer, compute, "mae" if regression else "f1_weighted", not regression, "label")


def label_counts(rows: Dataset) -> dict[str, int]:
    """Rows of every class by name."""
    names = rows.features["label"].names
    found = Counter(rows["label"])
    return {name: found[index] for index, name in enumerate(names)}
