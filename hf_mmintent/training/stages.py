"""Training in the stages that a model's config declares, one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_mmintent.data.reading import direct
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.modeling.modeling_base import MMIntentPreTrainedModel

from .checkpoints import last_complete_checkpoint
from .peft_runs import load_weights, plain
from .trainer import MultimodalTrainer

logger = logging.get_logger(__name__)

STAGE_FILE = "stage.json"

MakeTrainer = Callable[[str, Path, Mapping[str, Any]], MultimodalTrainer]


@dataclass
class FinishedStage:
    """What a stage came to: its name, epochs that ran, step of the selected weights, their score, seconds."""

    name: str
    epochs: float
    best_step: int | None
    metric: str | None
    score: float | None
    seconds: float


class StageEpochs(TrainerCallback):
    """
    Calls `model.on_stage_epoch_start` before every epoch, with the training rows in order and without augmentation.

    An epoch that is resumed in its middle has had its call. The random state is left as it was, so that what the model does
    here does not shift dropout or the order of the data.

    Args:
        trainer: whose model, rows and collator are used.
    """

    def __init__(self, trainer: MultimodalTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.epoch is not None and not float(state.epoch).is_integer():
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with torch.random.fork_rng(devices=[]):
            model.on_stage_epoch_start(_TrainingRows(self.trainer))


class _TrainingRows:
    """This process's share of the training rows, in batches; nothing is read before somebody iterates."""

    def __init__(self, trainer: MultimodalTrainer) -> None:
        rows: Any = trainer.train_dataset
        accelerator, length = trainer.accelerator, trainer.args.length_column_name
        if length in rows.column_names:  # for the sampler, no input
            rows = rows.remove_columns(length)
        # Not prepared by Accelerate, which repeats rows to give every process the same number of batches.
        share = Subset(direct(rows), range(accelerator.process_index, len(rows), accelerator.num_processes))
        self.loader: DataLoader = DataLoader(
            share, batch_size=trainer.args.eval_batch_size, collate_fn=trainer.eval_collator or trainer.data_collator
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.loader)


def train_in_stages(
    model: MMIntentPreTrainedModel, folder: str | Path, make_trainer: MakeTrainer
) -> tuple[MultimodalTrainer, list[FinishedStage]]:
    """
    Run `model.config.training_stages` in turn, each in `folder/stage_<i>_<name>`, each from the best weights of the one before.

    A stage selects its best epoch by `model.stage_metrics[name]`, or by the run's own metric. An interrupted stage goes on
    from its last complete checkpoint, a finished one is not repeated: its weights lie in `stage_<i>_<name>/best`.

    Args:
        model: whose weights end up as those of the last stage's best epoch.
        folder: of the run.
        make_trainer: called with a stage's name, its folder and the `TrainingArguments` that the stage sets.

    Returns:
        The trainer of the last stage, and what each stage came to.
    """
    stages = model.config.training_stages
    found: list[FinishedStage] = []
    trainer = None
    bar = tqdm(stages, desc="stages", unit="stage", disable=not logging.is_progress_bar_enabled())
    for index, stage in enumerate(bar, start=1):
        bar.set_postfix_str(stage.name)
        place = Path(folder) / f"stage_{index}_{stage.name}"
        model.set_stage(stage.name)
        options: dict[str, Any] = {"num_train_epochs": stage.epochs}
        metric = model.stage_metrics.get(stage.name)
        if metric is not None:
            options |= {"metric_for_best_model": metric, "greater_is_better": not metric.endswith("loss")}
        finished = _finished(place)
        if finished is None:
            trainer = make_trainer(stage.name, place, options)
            finished = _train(trainer, model, stage.name, place)
        else:
            logger.warning(f"{place} is finished already: its best weights are taken.")
            load_weights(model, place / "best")
            trainer = make_trainer(stage.name, place, options) if index == len(stages) else None
        found.append(finished)
    if trainer is None:
        raise ValueError(f"`stages` of {type(model.config).__name__} leaves nothing to train.")
    return trainer, found


def _train(trainer: MultimodalTrainer, model: PreTrainedModel, name: str, place: Path) -> FinishedStage:
    """One stage to its end; the model then has the best weights of it, and so has `place/best`."""
    trainer.add_callback(StageEpochs(trainer))
    start = last_complete_checkpoint(place)
    plain(model).set_training_state({})
    clock = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=str(start) if start else None)
    # A second trainer would wrap the mixed precision of the first once more.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    finished = FinishedStage(
        name=name,
        epochs=round(result.metrics["epoch"], 2),
        best_step=trainer.state.best_global_step,
        metric=trainer.args.metric_for_best_model,
        score=trainer.state.best_metric,
        seconds=time.perf_counter() - clock,
    )
    if trainer.is_world_process_zero():
        model.save_pretrained(place / "best")
        with atomic_path(place / "best" / STAGE_FILE) as temporary:  # last: without it the stage is not finished
            temporary.write_text(json.dumps(asdict(finished), indent=2) + "\n", encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    return finished


def _finished(place: Path) -> FinishedStage | None:
    path = place / "best" / STAGE_FILE
    return FinishedStage(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
