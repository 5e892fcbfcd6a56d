"""From a run configuration to a trained checkpoint, and to one per seed."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from hf_mmintent.backbones import resolve_backbone
from hf_mmintent.data.checks import check_ids
from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.extraction import check_encoder
from hf_mmintent.data.feature_folder import is_extraction
from hf_mmintent.data.loading import load
from hf_mmintent.data.media_features import add_media_features, has_raw_media
from hf_mmintent.data.reading import direct
from hf_mmintent.encoders import build_encoder
from hf_mmintent.hub.from_run import summary_from_run
from hf_mmintent.hub.model_card import build_model_card
from hf_mmintent.memory import keep_freed_memory
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.registration import processor_class, task_model_class

from .callbacks import CollatorEpoch
from .checkpoints import last_complete_checkpoint
from .peft_runs import adapt, finish, plain
from .run_config import RunConfig
from .stages import train_in_stages
from .tasks import task_of
from .trainer import MultimodalTrainer, refuse_test_split

logger = logging.get_logger(__name__)

SUMMARY_FILE = "run.json"


@dataclass
class TrainedRun:
    """A finished run: folder of its checkpoint, seed, best validation scores, seconds of training, and the facts."""

    checkpoint: Path
    seed: int
    validation: dict[str, float]
    seconds: float
    facts: dict[str, Any]


def train_seeds(run: RunConfig) -> list[TrainedRun]:
    """One run per seed, in `output_dir/seed_<n>`; finished ones are not repeated."""
    return [train_run(run, seed, Path(run.output_dir) / f"seed_{seed}") for seed in run.seeds]


def train_run(
    run: RunConfig,
    seed: int,
    folder: str | Path,
    callbacks: Sequence[TrainerCallback] = (),
    checkpoint_seconds: float | None = None,
) -> TrainedRun:
    """
    Train one model, selecting the best epoch on the validation split.

    An interrupted run goes on from its last complete checkpoint; a finished one with the same settings is returned.

    Args:
        run: what to train on what.
        seed: of initialisation, data order and dropout.
        folder: for checkpoints; the final model, its processor and `run.json` end up in `folder/final`.
        callbacks: further ones, that watch without changing the run.
        checkpoint_seconds: write a checkpoint only when the last one is that old; `None` writes one per epoch. Changes no
            result: an interrupted run goes on exactly from what there is.

    Raises:
        ValueError: settings contradict each other or the data; `folder` holds a run with other settings.
    """
    folder = Path(folder)
    settings = {**run.to_dict(), "seeds": [seed], "output_dir": str(folder)}
    finished = _finished(folder, settings, seed)
    if finished is not None:
        logger.warning(f"{folder} is finished already: nothing is trained. Delete it to train again.")
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    _remember(folder, settings)
    if not torch.accelerator.is_available():
        keep_freed_memory()

    set_seed(seed)
    with PartialState().main_process_first():  # the others find rows and features in the cache
        splits = read_splits(run)
    train, validation = splits[run.data.train_split], splits[run.data.validation_split]
    model, processor = build(run, train)
    if run.peft is not None:
        model = adapt(model, run.peft, folder, PartialState().is_main_process)
    set_seed(seed)  # what building consumed must not shift the order of the data
    train = _numbered(train, processor)

    def trainer_for(place: Path, options: Mapping[str, Any]) -> MultimodalTrainer:
        trainer = make_trainer(run, seed, place, model, processor, train, validation, options, checkpoint_seconds)
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    if model.config.training_stages:
        trainer, stages, seconds = _train_stages(run, model, folder, trainer_for)
    else:
        trainer, stages, seconds = _train_at_once(folder, trainer_for)
    scores = _plain_scores(trainer.evaluate())
    facts = {
        "model_type": run.model_type,
        "splits": {name: len(rows) for name, rows in splits.items()},
        **stages,
        "dataset": _dataset_facts(train),
        "command": shlex.join(["python", *sys.argv]),
        "commit": _commit(),
        "processes": trainer.accelerator.num_processes,
        "mixed_precision": trainer.accelerator.mixed_precision,
    }
    trained = TrainedRun(folder / "final", seed, scores, seconds, facts)
    if trainer.is_world_process_zero():
        if run.peft is not None:
            model = finish(model, processor, run.peft, folder)
        _save(trained, model, processor, settings)
    trainer.accelerator.wait_for_everyone()
    return trained


def _train_at_once(
    folder: Path, trainer_for: Callable[[Path, Mapping[str, Any]], MultimodalTrainer]
) -> tuple[MultimodalTrainer, dict[str, Any], float]:
    trainer = trainer_for(folder, {})
    start = last_complete_checkpoint(folder)
    clock = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=str(start) if start else None)
    facts = {"epochs": round(result.metrics["epoch"], 2), "best_step": trainer.state.best_global_step}
    return trainer, facts, time.perf_counter() - clock


def _train_stages(
    run: RunConfig,
    model: PreTrainedModel,
    folder: Path,
    trainer_for: Callable[[Path, Mapping[str, Any]], MultimodalTrainer],
) -> tuple[MultimodalTrainer, dict[str, Any], float]:
    if "num_train_epochs" in run.training:
        raise ValueError(
            f"`training.num_train_epochs` is {run.training['num_train_epochs']} but {type(model).__name__} trains in the "
            f"stages {[tuple(stage)[:2] for stage in model.config.training_stages]}: set the epochs in `config.stages`."
        )
    _check_stage_settings(run, model)
    usual = {name: getattr(model.config, name) for weights in run.stage_losses.values() for name in weights}

    def stage_trainer(name: str, place: Path, options: Mapping[str, Any]) -> MultimodalTrainer:
        for weight, value in {**usual, **run.stage_losses.get(name, {})}.items():
            setattr(model.config, weight, value)
        return trainer_for(place, {**run.stage_training.get(name, {}), **options})

    trainer, stages = train_in_stages(model, folder, stage_trainer)
    facts = {
        "epochs": round(sum(stage.epochs for stage in stages), 2),
        "best_step": stages[-1].best_step,
        "stages": [dataclasses.asdict(stage) for stage in stages],
    }
    return trainer, facts, sum(stage.seconds for stage in stages)


def _check_stage_settings(run: RunConfig, model: PreTrainedModel) -> None:
    names = [stage.name for stage in model.config.training_stages]
    for setting in ("stage_training", "stage_losses"):
        unknown = sorted(set(getattr(run, setting)) - set(names))
        if unknown:
            raise ValueError(f"`{setting}` names {unknown} but the stages are {names}.")
    for name in names:
        if "num_train_epochs" in run.stage_training.get(name, {}):
            raise ValueError(f"`stage_training.{name}` has `num_train_epochs`: set the epochs in `config.stages`.")
        for weight in run.stage_losses.get(name, {}):
            if not weight.endswith("_weight") or not hasattr(model.config, weight):
                known = sorted(key for key in model.config.to_dict() if key.endswith("_weight"))
                raise ValueError(f"`stage_losses.{name}` has `{weight}`: the loss weights are {known}.")


# ---- data and model ----------------------------------------------------------------------------------------------


def read_splits(run: RunConfig) -> DatasetDict:
    """
    Training and validation rows, and nothing else: the test split is not even read.

    With `data.development_share` both are parts of the training split.

    Raises:
        ValueError: a split is missing, or is the test split.
    """
    data = run.data
    loaded = load(data.name, **data.load_arguments())
    wanted = (data.train_split, data.validation_split)
    # By name as well: rows of another maker need not know what they are.
    for setting, name in zip(("train_split", "validation_split"), wanted[: 1 if data.development_share else 2]):
        refuse_test_split(f"data.{setting}", name)
    missing = [name for name in wanted if name not in loaded]
    if missing:
        raise ValueError(f"the dataset has the splits {sorted(loaded)}: {missing} is not among them.")
    splits = DatasetDict({name: loaded[name] for name in wanted})
    check_ids(
        {name: ({"id": str(key)} for key in rows["id"]) for name, rows in splits.items() if "id" in rows.column_names}
    )
    if data.development_share is not None:
        parts = development_parts(splits[wanted[0]], data.development_share, data.development_seed)
        splits = DatasetDict(dict(zip(wanted, parts)))
    if run.encoder is not None and is_extraction(data.name):
        check_encoder(data.name, build_encoder(run.encoder))
    elif run.encoder is not None and has_raw_media(splits[wanted[0]]) and _wants_media(run):
        encoder = build_encoder(run.encoder)
        splits = DatasetDict({name: add_media_features(rows, encoder) for name, rows in splits.items()})
    return splits


def development_parts(rows: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training rows without, and only, the share of them that selects epochs; of every class alike."""
    classes = "label" if isinstance(rows.features["label"], ClassLabel) else None
    parts = rows.train_test_split(share, seed=seed, stratify_by_column=classes)
    return parts["train"], parts["test"]


def _wants_media(run: RunConfig) -> bool:
    """Whether the model reads more than text: clips are not decoded for one that does not."""
    modalities = run.config.get("modalities") or task_model_class(run.model_type).config_class().modalities
    return any(name != "text" for name in modalities)


def build(run: RunConfig, train: Dataset) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Model from its pretrained parts, and the processor that fits it and the data."""
    architecture = task_model_class(run.model_type)
    fields: dict[str, Any] = {**({} if architecture.can_generate() else label_fields(train)), **run.config}
    available = [name for name in architecture.config_class().modalities if has_modality(train, name)]
    fields.setdefault("modalities", available)
    backbones = {name: resolve_backbone(value) for name, value in run.backbones.items()}
    if "text" not in fields["modalities"]:
        backbones.pop("text", None)
    encoder = None if run.encoder is None else build_encoder(run.encoder)
    widths = {name: feature_width(train, name) for name in ("audio", "video") if name in fields["modalities"]}
    model = architecture.from_backbones(**backbones, **widths, encoder=encoder, **fields)
    processor = processor_class(run.model_type).from_backbones(model.config, backbones, **run.processor)
    if run.standardize:
        processor.fit_feature_stats(direct(train.select_columns([f"{name}_features" for name in widths])))
    if run.encoder is not None:  # clips that the finished model encodes itself must meet the same treatment
        model.config.media_feature_stats = processor.feature_stats or None
        model.config.media_max_lengths = processor.max_lengths or None
    return model, processor


def _numbered(rows: Dataset, processor: ProcessorMixin) -> Dataset:
    """With the position of every row, for a processor that passes it on."""
    if "sample_index" not in processor.extra_columns or "sample_index" in rows.column_names:
        return rows
    return rows.add_column("sample_index", list(range(len(rows))))


def label_fields(rows: Dataset) -> dict[str, Any]:
    """Config fields that the label column decides."""
    feature = rows.features["label"]
    if isinstance(feature, ClassLabel):
        names = dict(enumerate(feature.names))
        return {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    return {"num_labels": 1, "problem_type": "regression"}


def has_modality(rows: Dataset, name: str) -> bool:
    """Whether the rows have a column for the modality."""
    return ("text" if name == "text" else f"{name}_features") in rows.column_names


def feature_width(rows: Dataset, name: str) -> int | None:
    """Width of `<name>_features` as the dataset declares it."""
    column = f"{name}_features"
    return rows.features[column].shape[1] if column in rows.column_names else None


# ---- trainer -----------------------------------------------------------------------------------------------------


def make_trainer(
    run: RunConfig,
    seed: int,
    folder: Path,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    train: Dataset,
    validation: Dataset,
    options: Mapping[str, Any] | None = None,
    checkpoint_seconds: float | None = None,
) -> MultimodalTrainer:
    """The trainer of a run: every epoch is scored and saved, the best one is kept; `options` override the run's own."""
    task = task_of(model, processor, train, validation, run.validation_new_tokens)
    train = train.remove_columns(list(task.hidden_columns))
    drop = tuple(run.data.drop_modalities)
    kept = [name for name in processor.modalities if name not in drop]
    drops = [(name,) for name in kept] if run.validation_drops and len(kept) > 1 else []
    defaults: dict[str, Any] = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": f"{task.best_metric}_with_drops" if drops else task.best_metric,
        "greater_is_better": task.greater_is_better,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # the patience already used up
        "logging_strategy": "steps",
        "logging_steps": 10,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "use_cpu": not torch.accelerator.is_available(),  # else bf16 is refused where there is no accelerator
    }
    fixed = {"output_dir": str(folder), "seed": seed, "remove_unused_columns": False}
    arguments = TrainingArguments(**{**defaults, **run.training, **(options or {}), **fixed})
    if arguments.train_sampling_strategy == "group_by_length":
        train = train.add_column(arguments.length_column_name, [len((text or "").split()) for text in train["text"]])
    patience = run.early_stopping_patience
    collator = MultimodalCollator(
        processor,
        training=True,
        modality_dropout=run.modality_dropout,
        drop_modalities=drop,
        seed=seed,
        ignore_columns=(arguments.length_column_name,),
        label_column=task.label_column,
    )
    return task.trainer_class(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        data_collator=collator,
        eval_collator=MultimodalCollator(
            processor,
            drop_modalities=drop,
            label_column=task.label_column,
            labelled_view=task.labelled_evaluation,
        ),
        compute_metrics=task.compute_metrics,
        callbacks=[
            CollatorEpoch(collator),
            *([] if patience is None else [EarlyStoppingCallback(early_stopping_patience=patience)]),
        ],
        learning_rates=run.learning_rates,
        evaluation_drops=drops,
        metric=task.best_metric,
        checkpoint_seconds=checkpoint_seconds,
        **task.trainer_options,
    )


def _plain_scores(metrics: dict[str, float]) -> dict[str, float]:
    """Validation scores without the trainer's prefix and timings."""
    skipped = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
    plain = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    return {name: value for name, value in plain.items() if name not in skipped}


# ---- what a run leaves behind ------------------------------------------------------------------------------------


def _remember(folder: Path, settings: dict[str, Any]) -> None:
    """Store the settings; a folder of other settings is not continued."""
    path = folder / "settings.json"
    text = json.dumps(settings, indent=2, sort_keys=True)
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(text):
        raise ValueError(
            f"{folder} holds a run with other settings ({path.name} differs): choose another `output_dir` or delete it."
        )
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _save(trained: TrainedRun, model: PreTrainedModel, processor: ProcessorMixin, settings: dict[str, Any]) -> None:
    """Model and processor first, `run.json` last: a run without it is not finished."""
    trained.checkpoint.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(trained.checkpoint)
    processor.save_pretrained(trained.checkpoint)
    summary = {
        "seed": trained.seed,
        "validation": trained.validation,
        "seconds": trained.seconds,
        "facts": trained.facts,
        "settings": settings,
    }
    card = build_model_card(summary_from_run(plain(model), trained.checkpoint, run=summary))
    card.save(trained.checkpoint / "README.md")
    with atomic_path(trained.checkpoint / SUMMARY_FILE) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _dataset_facts(rows: Dataset) -> dict[str, Any]:
    """Licence of the data and whether it was generated, as its builder says."""
    info = rows.info
    return {"license": info.license or None, "synthetic": "synthetic" in (info.description or "").lower()}


def _commit() -> str | None:
    """Commit of the checkout that runs; `None` for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:  # no git on this machine
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _finished(folder: Path, settings: dict[str, Any], seed: int) -> TrainedRun | None:
    path = folder / "final" / SUMMARY_FILE
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != json.loads(json.dumps(settings)):
        raise ValueError(
            f"{folder} holds a finished run with other settings: choose another `output_dir` or delete it."
        )
    return TrainedRun(path.parent, seed, found["validation"], found["seconds"], found["facts"])
