"""Out-of-scope detection as MIntRec2.0 defines it: a rule fitted on validation rows, and the scores of the protocol."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional as F
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.metrics import detection_scores, doc_thresholds, oos_scores, open_scores
from hf_mmintent.metrics.base import Scores, TrainCounts
from hf_mmintent.metrics.files import set_config_field
from hf_mmintent.modeling.out_of_scope import METHODS, OutOfScope

# Scores of the rule itself, for those whose score is not the largest softmax probability that the protocol ranks by.
_OWN_RANKING = ("energy", "prototype", "doc")


# ---- scoring ---------------------------------------------------------------------------------------------------------


def encode_with_unknown(names: Sequence[str], processor: ProcessorMixin, rule: OutOfScope) -> np.ndarray:
    """Class ids int64 (n,) of label names, with K for the label of what is out of scope; of a class of its own, its id."""
    known = processor.label_names
    if rule.label in known:
        return processor.encode_labels(list(names))
    inside = processor.encode_labels([name if name != rule.label else known[0] for name in names])
    return np.where(np.asarray(names) == rule.label, len(known), inside)


def rejection_scores(
    rule: OutOfScope, outputs: Mapping[str, Tensor], labels: np.ndarray, train_counts: TrainCounts | None = None
) -> tuple[np.ndarray, Scores]:
    """
    Predictions with rejection, and the scores of the protocol.

    Args:
        rule: of the model.
        outputs: `logits` (n, K), or (n, K + 1) of a model with a class for what is out of scope; `embeddings` (n, d).
        labels: int64 (n,), K for what is out of scope.
        train_counts: training samples of the known classes; adds `f1_rare`.

    Returns:
        int64 (n,) with K for a rejection; the keys of [`oos_scores`], with `rejected`, the share of rows that are. Where the
        rule ranks by another score than the largest softmax probability, the detection scores of that one are there as
        well, as `auroc_<method>` and so on.
    """
    logits = outputs["logits"]
    known = logits.shape[1] - (rule.method == "class")
    accepted = rule.accepts(rule.margins(logits, outputs.get("embeddings"))).numpy()
    closed = logits[:, :known].argmax(-1).numpy()
    predictions = np.where(accepted, closed, known)
    confidence = softmax(logits.double().numpy(), axis=1)[:, :known].max(1)
    scores = oos_scores(labels, predictions, closed, confidence, known, train_counts=train_counts)
    scores["rejected"] = float(np.mean(~accepted))
    if rule.method in _OWN_RANKING:
        own = detection_scores(labels < known, rule.scores(logits, outputs.get("embeddings")).double().numpy())
        scores |= {f"{name}_{rule.method}": value for name, value in own.items()}
    return predictions, scores


# ---- fitting ---------------------------------------------------------------------------------------------------------


def fit_rule(
    method: str,
    train: Mapping[str, Tensor] | None,
    validation: Mapping[str, Tensor],
    label: str = "UNK",
    in_scope_recall: float | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> OutOfScope:
    """
    A rule from the outputs of a finished model in evaluation mode.

    What describes the classes (the spread of DOC, prototypes) comes from training rows in scope. The threshold of the others
    comes from validation rows: with rows out of scope among them it is the one with the highest `oid_f1` there, without any,
    or with `in_scope_recall`, the highest that keeps this share of the rows in scope. It lies halfway between two scores.

    Args:
        method: one of [`METHODS`]. DOC takes its thresholds from the training rows alone, as the protocol says.
        train, validation: `logits` (n, K), `embeddings` (n, d), `labels` (n,), with K for what is out of scope. `train` is read
            by `doc` and `prototype` only.
        label: name of what is out of scope.
        in_scope_recall: in (0, 1]; 0.95 where no validation row is out of scope.
        temperature: of `max_softmax` and `energy`.
        scale: of DOC's spread.

    Raises:
        ValueError: the method is unknown, rows that it needs are missing, or a value is out of range.
    """
    if method not in METHODS:
        raise ValueError(f"`method` is {method!r}: choose one of {list(METHODS)}.")
    if in_scope_recall is not None and not 0 < in_scope_recall <= 1:
        raise ValueError(f"`in_scope_recall` is {in_scope_recall}: a share above 0, at most 1.")
    if method == "class":
        return OutOfScope(method, label)
    inside = None if train is None else _in_scope(train)
    if method in ("doc", "prototype") and inside is None:
        raise ValueError(f"{method!r} describes the classes by training rows: pass `train`.")
    rule: dict[str, Any] = {"method": method, "label": label}
    if method == "doc":
        limits = doc_thresholds(inside["logits"].numpy(), inside["labels"].numpy(), scale)
        return _with_facts(OutOfScope(**rule, thresholds=tuple(limits.tolist())), validation, {"scale": scale})
    if method == "prototype":
        rule["prototypes"] = _means(inside["embeddings"], inside["labels"], inside["logits"].shape[1])
    else:
        rule["temperature"] = float(temperature)
    trial = OutOfScope(**rule, threshold=0.0)
    scores = trial.scores(validation["logits"], validation["embeddings"])
    known, labels = validation["logits"].shape[1], validation["labels"]
    if not (labels < known).any():
        raise ValueError("no validation row is in scope: a threshold cannot be fitted.")
    if in_scope_recall is None and (labels == known).any():
        threshold, how = (
            _best_threshold(scores, validation["logits"].argmax(-1), labels, known),
            {"objective": "oid_f1"},
        )
    else:
        recall = 0.95 if in_scope_recall is None else in_scope_recall
        threshold, how = _recall_threshold(scores[labels < known], recall), {"in_scope_recall": recall}
    return _with_facts(dataclasses.replace(trial, threshold=threshold), validation, how)


def _in_scope(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = rows["labels"] < rows["logits"].shape[1]
    return {name: values[kept] for name, values in rows.items()}


def _means(embeddings: Tensor, labels: Tensor, count: int) -> tuple[tuple[float, ...], ...]:
    """Unit-length mean of the unit-length embeddings of every class."""
    missing = sorted(set(range(count)) - set(labels.tolist()))
    if missing:
        raise ValueError(f"the classes {missing} have no training row, so they have no prototype.")
    unit = F.normalize(embeddings.float(), dim=-1)
    means = torch.stack([unit[labels == c].mean(0) for c in range(count)])
    return tuple(tuple(round(value, 6) for value in row) for row in F.normalize(means, dim=-1).tolist())


def _recall_threshold(scores: Tensor, recall: float) -> float:
    """The highest threshold that keeps this share of the scores, halfway to the next lower one."""
    ordered = np.sort(scores.double().numpy())[::-1]
    kept = int(np.ceil(recall * len(ordered) - 1e-9))
    lowest = ordered[kept - 1]
    below = ordered[ordered < lowest]
    return float((lowest + below[0]) / 2 if below.size else lowest - 1e-6)


def _best_threshold(scores: Tensor, closed: Tensor, labels: Tensor, known: int) -> float:
    """The lowest threshold with the highest mean F1 over the known classes and what is out of scope."""
    values, truth, best = scores.double().numpy(), labels.numpy(), closed.numpy()
    ordered = np.unique(values)
    candidates = [ordered[0] - 1e-6, *(ordered[:-1] + ordered[1:]) / 2]
    found = [open_scores(truth, np.where(values >= limit, best, known), known)["oid_f1"] for limit in candidates]
    return float(candidates[int(np.argmax(found))])


def _with_facts(rule: OutOfScope, validation: Mapping[str, Tensor], how: dict[str, Any]) -> OutOfScope:
    """With what the rule does on the rows that it was fitted on."""
    known, labels = validation["logits"].shape[1], validation["labels"]
    accepted = rule.accepts(rule.margins(validation["logits"], validation["embeddings"]))
    shares = {
        name: round(accepted[rows].float().mean().item(), 6)
        for name, rows in (("accepted_in_scope", labels < known), ("accepted_out_of_scope", labels == known))
        if rows.any()
    }
    return dataclasses.replace(rule, fitted={"split": "validation", "n": len(labels), **how, **shares})


def as_config(rule: OutOfScope) -> dict[str, Any]:
    """What `config.out_of_scope` holds: the fields that are set, as plain containers."""
    default = {item.name: item.default for item in dataclasses.fields(OutOfScope)}
    values = dataclasses.asdict(rule)
    kept = {name: value for name, value in values.items() if name in ("method", "label") or value != default[name]}
    return json.loads(json.dumps(kept))


def store_rule(checkpoint: str | Path, rule: OutOfScope | None) -> None:
    """Write a rule into the `config.json` of a checkpoint folder, or take it out with `None`; nothing else changes."""
    set_config_field(checkpoint, "out_of_scope", None if rule is None else as_config(rule))
