"""`transformers.Trainer`, and the little that it lacks for these models."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset
from transformers import Trainer
from transformers.data.data_collator import DataCollator
from transformers.processing_utils import ProcessorMixin
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hf_mmintent.data.reading import direct
from hf_mmintent.hub.model_card import build_model_card
from hf_mmintent.hub.run_summary import RunSummary

from .best_weights import BestWeights
from .callbacks import RouterWarmup, ZeroDiagnosticWarning

TRAINING_STATE_FILE = "training_state.safetensors"


class MultimodalTrainer(Trainer):
    """
    A [`transformers.Trainer`] that logs every loss term, modality weight and diagnostic figure (means at every log, and each
    step for itself in the history that checkpoints store), takes a collator of its own for evaluation, has learning rates by
    parameter name, and refuses test rows.

    Args:
        eval_collator: collator of evaluation batches (no labelled view, no modality dropout); `data_collator` when absent.
        card_summary: facts for the model card that `push_to_hub` writes; what the model knows of itself when absent.
        learning_rates: learning rate by regular expression on parameter names, the first match wins.
        evaluation_drops: sets of modalities; evaluation scores `metric` without each of them as well, and their mean with the
            plain score as `<metric>_with_drops`, which can then select the epoch. Needs a `MultimodalCollator`.
        metric: the score that `evaluation_drops` repeats, such as "f1_weighted".
        checkpoint_seconds: write a checkpoint only when the last one is that old, see [`BestWeights`]; `None` writes all that
            the arguments ask for. Several processes, whose clocks differ, write all.
        kwargs: arguments of [`transformers.Trainer`].

    Raises:
        ValueError: a test split is passed: it is scored once, by `examples/evaluate.py`, and never selects anything.
    """

    def __init__(
        self,
        *args: Any,
        eval_collator: DataCollator | None = None,
        card_summary: RunSummary | None = None,
        learning_rates: Mapping[str, float] | None = None,
        evaluation_drops: Sequence[tuple[str, ...]] = (),
        metric: str | None = None,
        checkpoint_seconds: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name in ("train_dataset", "eval_dataset"):
            refuse_test_split(name, getattr(self, name))
        # The library takes every argument of `forward` with "label" in its name for a target, label slots too.
        self.label_names = ["labels"]
        self.eval_collator = eval_collator
        self.card_summary = card_summary
        self.learning_rates = dict(learning_rates or {})
        self.evaluation_drops, self.metric = tuple(evaluation_drops), metric
        self._figures: dict[int, list[dict[str, torch.Tensor]]] = defaultdict(list)  # by step, of each of its batches
        self._shown_next: list[dict[str, float]] = []  # steps in the history whose mean was not logged yet
        self.add_callback(ZeroDiagnosticWarning())
        self.add_callback(RouterWarmup())
        alone = self.args.world_size == 1 and not self.is_deepspeed_enabled and not self.is_fsdp_enabled
        self.best_weights = BestWeights(self.model, checkpoint_seconds if alone else None)
        self.add_callback(self.best_weights)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        # The library aligns special tokens with the processor's tokenizer, and does not expect that there is none.
        processor = self.processing_class
        if isinstance(processor, ProcessorMixin) and processor.tokenizer is None:
            self.processing_class = None
        try:
            self._hidden_processor = processor
            return super().train(*args, **kwargs)
        finally:
            self.processing_class = processor

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self.processing_class = self._hidden_processor  # checkpoints hold it
        return super()._inner_training_loop(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # The best weights first: the state of the trainer, written last, is what makes a checkpoint complete.
        self.best_weights.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", self.state)
        super()._save_checkpoint(*args, **kwargs)

    def _load_best_model(self) -> None:
        if not self.best_weights.in_charge:  # else they are put back when training ends
            super()._load_best_model()

    def get_train_dataloader(self) -> DataLoader:
        refuse_test_split("train_dataset", self.train_dataset)
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        refuse_test_split("eval_dataset", self.eval_dataset if eval_dataset is None else eval_dataset)
        return self._with_eval_collator(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self._with_eval_collator(super().get_test_dataloader, test_dataset)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        options = (prediction_loss_only, ignore_keys, metric_key_prefix)
        output = super().evaluation_loop(dataloader, description, *options)
        if self.evaluation_drops and metric_key_prefix == "eval":
            name = f"{metric_key_prefix}_{self.metric}"
            scores = [output.metrics[name]]
            whole = self.eval_collator

            def rows_again() -> DataLoader:  # the rows that are evaluated, which need not be the trainer's own
                return self.get_eval_dataloader(dataloader.dataset)

            try:
                for dropped in self.evaluation_drops:
                    self.eval_collator = dataclasses.replace(whole, drop_modalities=(*whole.drop_modalities, *dropped))
                    without = super().evaluation_loop(rows_again(), description, *options)
                    scores.append(without.metrics[name])
                    output.metrics[f"{name}_without_{'_'.join(dropped)}"] = scores[-1]
            finally:
                self.eval_collator = whole
            output.metrics[f"{name}_with_drops"] = sum(scores) / len(scores)
        return output

    def _get_dataloader(self, dataset: Any, *args: Any, sampler_fn: Any = None, **kwargs: Any) -> DataLoader:
        # Rows straight from the files; samplers still see the dataset, for its columns.
        rows = dataset if self.args.remove_unused_columns else direct(dataset)
        sampler = None if sampler_fn is None else lambda _: sampler_fn(dataset)
        return super()._get_dataloader(rows, *args, sampler_fn=sampler, **kwargs)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # In order: the library would sort evaluation rows by length too, and needs a length column for it.
        return None

    def _with_eval_collator(self, make: Any, dataset: Any) -> DataLoader:
        if self.eval_collator is None:
            return make(dataset)
        training, self.data_collator = self.data_collator, self.eval_collator
        try:
            return make(dataset)
        finally:
            self.data_collator = training

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training:
            self._collect(outputs)
        return (loss, outputs) if return_outputs else loss

    def _collect(self, outputs: Any) -> None:
        found = {f"loss_{name}": term.detach() for name, term in (outputs.get("loss_terms") or {}).items()}
        weights = outputs.get("modality_weights")
        if weights is not None and weights.numel():
            names = self.accelerator.unwrap_model(self.model).config.modality_weight_names
            means = weights.detach().float().mean(0)
            found |= {f"weight_{name}": value for name, value in zip(names, means, strict=True)}
        found |= {name: value.detach().float() for name, value in (outputs.get("diagnostics") or {}).items()}
        self._figures[self.state.global_step + 1].append(found)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._figures:
            steps = self._figures_of_steps()
            # The saved history holds every step, whatever the interval at which means are shown.
            self.state.log_history += [{"step": step, **figures} for step, figures in steps.items()]
            self._shown_next += steps.values()
        if "loss" in logs:
            logs.update(_means(self._shown_next))
            self._shown_next.clear()
        super().log(logs, *args, **kwargs)

    def _figures_of_steps(self) -> dict[int, dict[str, float]]:
        """
        By step since the last log the mean of its batches in all processes.

        A batch may lack a figure, when it lacks a modality.
        """
        own = {
            step: [dict(zip(found, torch.stack(list(found.values())).tolist())) if found else {} for found in batches]
            for step, batches in self._figures.items()
        }
        self._figures.clear()
        every = gather_object([own]) if self.accelerator.num_processes > 1 else [own]
        return {step: _means(found for process in every for found in process.get(step, [])) for step in sorted(own)}

    # What a model keeps beside its weights lies beside the optimizer's state, which is written before the trainer's own: a
    # checkpoint that is complete has it.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        # The trainer also takes models of other packages, which have no such state.
        state = getattr(self.accelerator.unwrap_model(self.model), "training_state", dict)()
        if state and self.args.should_save:
            tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
            save_file(tensors, Path(output_dir) / TRAINING_STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = None if checkpoint is None else Path(checkpoint) / TRAINING_STATE_FILE
        if path is not None and path.exists():
            self.accelerator.unwrap_model(self.model).set_training_state(load_file(path))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write our card in place of the library's, which is half placeholder text; called by `push_to_hub`."""
        if self.is_world_process_zero():
            model = self.accelerator.unwrap_model(self.model)
            name = (self.args.hub_model_id or Path(self.args.output_dir).name).split("/")[-1]
            facts = {"seeds": [self.args.seed], "base_models": {}, "citation": model.citation or None}
            summary = self.card_summary or RunSummary.from_model(model, name, repo_id=self.args.hub_model_id, **facts)
            build_model_card(summary).save(Path(self.args.output_dir) / "README.md")

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        # Modules whose few parameters are no matrices say so: thresholds and scales would be pulled to 0.
        plain = {
            f"{prefix}.{name}"
            for prefix, module in model.named_modules()
            if getattr(module, "no_weight_decay", False)
            for name, _ in module.named_parameters(recurse=False)
        }
        return [name for name in super().get_decay_parameter_names(model) if name not in plain]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if not self.learning_rates or self.optimizer is not None:
            return super().create_optimizer(model)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = optimizer_class(self._parameter_groups(model or self.model), **options)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = next(
                    (rate for pattern, rate in self.learning_rates.items() if re.search(pattern, name)),
                    self.args.learning_rate,
                )
                groups[(rate, self.args.weight_decay if name in decayed else 0.0)].append(parameter)
        return [
            {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
        ]


def _means(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every figure over those that have it."""
    found: dict[str, list[float]] = defaultdict(list)
    for some in figures:
        for name, value in some.items():
            found[name].append(value)
    return {name: round(sum(values) / len(values), 6) for name, values in sorted(found.items())}


def refuse_test_split(name: str, rows: Any) -> None:
    """
    Training and selection see no test rows.

    Args:
        name: of the argument, for the message.
        rows: a dataset, or several of them in a mapping, a subset or a concatenation; or the name of a split.

    Raises:
        ValueError: some of the rows are of the test split of their source.
    """
    if any(part.split("[")[0].strip() == "test" for split in _split_names(rows) for part in split.split("+")):
        raise ValueError(
            f"`{name}` is the test split: training and model selection read train and validation only. "
            f"Score a finished checkpoint with `examples/evaluate.py --split test`."
        )


def _split_names(rows: Any) -> list[str]:
    """What datasets call the splits that they are of, such as `validation[:50%]`; nothing of those that do not know it."""
    if isinstance(rows, str):
        return [rows]
    if isinstance(rows, Mapping):
        return [name for part in rows.values() for name in _split_names(part)]
    if isinstance(rows, Subset):
        return _split_names(rows.dataset)
    if isinstance(rows, ConcatDataset):
        return [name for part in rows.datasets for name in _split_names(part)]
    known = isinstance(rows, (Dataset, IterableDataset)) and rows.split is not None  # a stream may have lost it
    return [str(rows.split)] if known else []
