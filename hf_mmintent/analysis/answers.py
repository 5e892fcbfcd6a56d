"""What a checkpoint answers on rows, the same for classifiers, regressors and models that write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.reading import direct
from hf_mmintent.evaluation import named_labels
from hf_mmintent.metrics import build_compute_metrics, joint_scores
from hf_mmintent.run_data import find_checkpoints

from .common import Subject, open_subject, run_name

WRITTEN = ("emotion", "intent")
_TARGETS = (*WRITTEN, "emotion_reason", "intent_reason", "joint_reason", "label")


@dataclass
class Task:
    """
    One question that is answered for every sample.

    Args:
        name: "label", or "emotion" and "intent" of a model that writes.
        labels: (n,) true class ids, or float values in regression; (n, K) of 0 and 1 with several labels.
        predictions: the same shape and kind.
        names: of the classes, in id order; empty in regression.
        logits: (n, K) float32 where the model gives them.
    """

    name: str
    labels: np.ndarray
    predictions: np.ndarray
    names: list[str]
    logits: np.ndarray | None = None


@dataclass
class Answers:
    """All tasks of a checkpoint, and the scores of the answers by the names that `examples/evaluate.py` uses."""

    tasks: list[Task]
    scores: dict[str, float] = field(default_factory=dict)

    def changed(self, other: Answers) -> float:
        """Share of the samples whose answer differs; of a regression the mean change of the value."""
        if self.tasks[0].predictions.dtype.kind == "f":
            return float(np.abs(self.tasks[0].predictions - other.tasks[0].predictions).mean())
        pairs = zip(self.tasks, other.tasks, strict=True)
        differs = [np.reshape(a.predictions != b.predictions, (len(a.labels), -1)).any(1) for a, b in pairs]
        return float(np.any(differs, axis=0).mean())


@torch.no_grad()
def answer(
    subject: Subject, rows: Any = None, drop: tuple[str, ...] = (), batch_size: int = 32, progress: str = ""
) -> Answers:
    """
    Answers on the subject's rows, compared with their labels.

    Args:
        subject: model, processor, rows with labels.
        rows: what the model gets to see in place of the subject's rows, in their order; see [`ChangedRows`].
        drop: modalities that are hidden.
        batch_size: does not change the answers.
        progress: text beside the bar.

    Raises:
        ValueError: no row has a target.
    """
    seen = subject.rows if rows is None else rows
    if subject.model.can_generate():
        return _written(subject, seen, drop, batch_size, progress)
    batches = _batches(subject, seen, drop, batch_size, progress)
    logits = np.concatenate([subject.model(**batch).logits.float().cpu().numpy() for batch in batches])
    problem = subject.model.config.problem_type
    labels = subject.processor.encode_labels(named_labels(subject.rows))
    if problem == "regression":
        tasks = [Task("label", labels, logits[:, 0], [])]
    else:
        several = problem == "multi_label_classification"
        predictions = (logits > 0).astype(np.int64) if several else logits.argmax(1)
        truth = labels.astype(np.int64)
        tasks = [Task("label", truth, predictions, list(subject.processor.label_names or ()), logits)]
    compute = build_compute_metrics(problem, subject.processor.label_names, None)
    return Answers(tasks, compute(EvalPrediction(logits, labels)))


def _written(subject: Subject, rows: Any, drop: tuple[str, ...], batch_size: int, progress: str) -> Answers:
    """Labels by the likelihood of their words, which needs no text to be written."""
    words = subject.processor.label_token_ids()
    found: dict[str, list[np.ndarray]] = {name: [] for name in WRITTEN}
    for batch in _batches(subject, rows, drop, batch_size, progress):
        chosen = subject.model.score_labels(batch, *words)
        for name in WRITTEN:
            found[name].append(getattr(chosen, f"{name}_ids").cpu().numpy())
    names = {"emotion": subject.processor.emotion_names, "intent": subject.processor.intent_names}
    tasks = []
    for name in WRITTEN:
        lower = [value.lower() for value in names[name]]
        truth = np.array([-100 if value is None else lower.index(value.lower()) for value in subject.rows[name]])
        tasks.append(Task(name, truth, np.concatenate(found[name]), list(names[name])))
    known = np.logical_and.reduce([task.labels != -100 for task in tasks])
    if not known.any():
        raise ValueError("no row has an `emotion` and an `intent` to compare with.")
    tasks = [Task(task.name, task.labels[known], task.predictions[known], task.names) for task in tasks]
    return Answers(tasks, joint_scores({task.name: (task.labels, task.predictions) for task in tasks}))


def _batches(
    subject: Subject, rows: Any, drop: tuple[str, ...], batch_size: int, progress: str
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches on the model's device, without labels."""
    column = "labels" if subject.model.can_generate() else "label"
    collator = MultimodalCollator(subject.processor, drop_modalities=drop, label_column=column)
    loader = DataLoader(_Unlabelled(rows), batch_size=batch_size, collate_fn=collator)
    for batch in tqdm(loader, desc=progress or subject.name, leave=False):
        yield {name: value.to(subject.model.device) for name, value in batch.items()}


class _Unlabelled(torch.utils.data.Dataset):
    """Rows without their targets, which no model is to see."""

    def __init__(self, rows: Any) -> None:
        self.rows = direct(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: value for name, value in self.rows[index].items() if name not in _TARGETS}


@dataclass
class RunAnswers:
    """Answers of one checkpoint of a run: its path, the name of the run, and the tasks."""

    path: Path
    name: str
    tasks: list[Task]


def answer_each(checkpoint: str | Path, arguments: Any) -> Iterator[RunAnswers]:
    """The checkpoint, or every seed of a run folder, on the split of the command line (see `add_checkpoint_arguments`)."""
    for path in find_checkpoints(checkpoint):
        subject = open_subject(path, arguments, run_name(checkpoint))
        yield RunAnswers(path, subject.name, answer(subject, batch_size=arguments.batch_size).tasks)


def answer_run(checkpoint: str | Path, arguments: Any) -> tuple[str, list[Task], int]:
    """As [`answer_each`], with the samples of all seeds in a row; name of the run, its tasks, and the number of seeds."""
    found = list(answer_each(checkpoint, arguments))
    return found[0].name, join([each.tasks for each in found]), len(found)


def join(tasks: Sequence[list[Task]]) -> list[Task]:
    """The same tasks of several seeds as one, samples in a row."""
    joined = []
    for same in zip(*tasks, strict=True):
        logits = None if same[0].logits is None else np.concatenate([task.logits for task in same])
        labels, predictions = (
            np.concatenate([getattr(task, name) for task in same]) for name in ("labels", "predictions")
        )
        joined.append(Task(same[0].name, labels, predictions, same[0].names, logits))
    return joined


def default_score(subject: Subject) -> str:
    """The score that figures show of this kind of model."""
    if subject.model.can_generate():
        return "joint_accuracy"
    return {"regression": "mae", "multi_label_classification": "f1_macro"}.get(
        subject.model.config.problem_type, "accuracy"
    )
