"""Validation of models that write answers: generate, parse, compare labels and wording."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import EvalPrediction
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.metrics import joint_scores, rouge_l_each, strip_label_prefix, tokenize

from .trainer import MultimodalTrainer

LABELS = ("emotion", "intent")
IGNORED = -100


class LabelMetrics:
    """`compute_metrics` over the label ids that a stage without the language model predicts: scores of both labels."""

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        labels, found = np.asarray(prediction.label_ids), np.asarray(prediction.predictions)  # (n, 2) each
        known = (labels != IGNORED).all(1)
        return joint_scores({name: (labels[known, i], found[known, i]) for i, name in enumerate(LABELS)})


class AnswerMetrics:
    """
    `compute_metrics` over generated tokens.

    Scores of both labels, `joint_accuracy`, `parse_rate`, `rouge_l` of the joint reason, and `selection`, which is the joint
    accuracy with ties decided by ROUGE-L. An answer that cannot be parsed is wrong.

    Args:
        processor: reads answers.
        rows: validation rows, in the order of the predictions.
    """

    def __init__(self, processor: ProcessorMixin, rows: Dataset) -> None:
        self.processor = processor
        has = "joint_reason" in rows.column_names
        self.references = list(rows["joint_reason"]) if has else [None] * len(rows)

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        answers = self.processor.decode_answers(np.asarray(prediction.predictions))
        labels = np.asarray(prediction.label_ids)  # (n, 2)
        found = np.array([[answer.emotion_id, answer.intent_id] for answer in answers])
        known = (labels != IGNORED).all(1)
        tasks = {name: (labels[known, column], found[known, column]) for column, name in enumerate(LABELS)}
        scores = joint_scores(tasks)
        scores["parse_rate"] = float(np.mean([answer.parsed for answer in answers]))
        pairs = [
            (tokenize(strip_label_prefix(reference)), tokenize(strip_label_prefix(answer.joint_reason)))
            for reference, answer in zip(self.references, answers, strict=True)
            if reference
        ]
        scores["rouge_l"] = float(rouge_l_each(*zip(*pairs)).mean()) if pairs else float("nan")
        # Accuracies of up to 10,000 rows differ by more than the whole range of the second term.
        scores["selection"] = scores["joint_accuracy"] + 1e-4 * np.nan_to_num(scores["rouge_l"])
        return scores


class AnswerTrainer(MultimodalTrainer):
    """
    A [`MultimodalTrainer`] whose evaluation generates, or reads labels off the model's logits in a stage in which its language
    model is not run.

    Args:
        max_new_tokens: of an answer in evaluation; those of the model's generation config when `None`.
        kwargs: arguments of [`MultimodalTrainer`].
    """

    def __init__(self, *args: Any, max_new_tokens: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generation_options = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        """
        Tokens of the answers, without the prompts, and (B, 2) label ids, −100 for none. Where nothing is written: the loss,
        and predicted ids (B, 2) in place of tokens, if the model predicts labels.
        """
        inputs = self._prepare_inputs(inputs)
        rows, length = inputs["input_ids"].shape
        nothing = torch.full((rows,), IGNORED, device=inputs["input_ids"].device)
        targets = torch.stack([inputs.get(f"{name}_labels", nothing) for name in LABELS], 1)
        if not self.accelerator.unwrap_model(self.model).config.stage_runs_language_model:
            with self.compute_loss_context_manager():
                out = model(**inputs)
            logits = [out.get(f"{name}_logits") for name in LABELS]
            if any(values is None for values in logits):
                return out.loss.detach(), None, targets
            return out.loss.detach(), torch.stack([values.argmax(-1) for values in logits], 1), targets
        with self.compute_loss_context_manager():
            sequences = self.accelerator.unwrap_model(model).generate(**inputs, **self.generation_options)
        return None, sequences[:, length:].contiguous(), targets

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As in transformers; an adapter that is loaded makes everything in it train, also what a stage froze."""
        trains = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(trains[name])
