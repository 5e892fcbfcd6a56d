"""Checkpoints by the clock: the same epoch is chosen, the same weights come out, and an interrupted run goes on exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_mmintent.training import RunConfig, last_complete_checkpoint, train_run
from hf_mmintent.training.best_weights import BEST_FILE
from hf_mmintent.training.runs import TrainedRun

from .training_cases import settings

NEVER, ALWAYS = 3600.0, 0.0


class KilledError(Exception):
    """Stands for a process that ends."""


class KillAt(TrainerCallback):
    """Ends training at the start of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.step:
            raise KilledError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> RunConfig:
    """Eight epochs of three steps at a rate at which the validation score goes up and down."""
    folder = tmp_path_factory.mktemp("run")
    values = settings(folder, tiny_tokenizer, training={"num_train_epochs": 8, "learning_rate": 5e-2})
    values.update(model_type="concat_fusion", config={"hidden_size": 8, "encoder_heads": 2, "encoder_layers": 1})
    return RunConfig.from_dict(values)


@pytest.fixture(scope="module")
def whole(run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A checkpoint per epoch, and never interrupted; its best epoch is neither the first nor the last."""
    folder = tmp_path_factory.mktemp("whole")
    trained = train_run(run, 0, folder)
    assert 3 < trained.facts["best_step"] < 21 and list(folder.glob("checkpoint-*"))
    return trained


def assert_same_run(whole: TrainedRun, folder: Path) -> None:
    other = json.loads((folder / "final" / "run.json").read_text())
    assert other["validation"] == whole.validation
    assert all(other["facts"][name] == whole.facts[name] for name in ("best_step", "epochs"))
    one, two = (load_file(place / "model.safetensors") for place in (whole.checkpoint, folder / "final"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def killed_at(step: int, run: RunConfig, folder: Path, seconds: float | None) -> Path | None:
    """The checkpoint that is left."""
    with pytest.raises(KilledError):
        train_run(run, 0, folder, [KillAt(step)], checkpoint_seconds=seconds)
    return last_complete_checkpoint(folder)


def test_memory_selects_what_checkpoints_select(run: RunConfig, whole: TrainedRun, tmp_path: Path) -> None:
    train_run(run, 0, tmp_path, checkpoint_seconds=NEVER)
    assert not list(tmp_path.glob("checkpoint-*"))
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("later", [-1, 4])
def test_an_interrupted_run_ends_as_one_that_was_not(
    run: RunConfig, whole: TrainedRun, tmp_path: Path, later: int
) -> None:
    """Killed before, and well after the best epoch, whose weights are then in a checkpoint of later ones."""
    step = whole.facts["best_step"] + later
    place = killed_at(step, run, tmp_path, ALWAYS)
    assert place is not None and (place / BEST_FILE).exists() == (later > 0)
    train_run(run, 0, tmp_path, checkpoint_seconds=ALWAYS)
    assert_same_run(whole, tmp_path)


def test_a_run_without_a_checkpoint_begins_again(run: RunConfig, whole: TrainedRun, tmp_path: Path) -> None:
    assert killed_at(20, run, tmp_path, NEVER) is None
    train_run(run, 0, tmp_path, checkpoint_seconds=NEVER)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("first, then", [(None, NEVER), (ALWAYS, None)])
def test_checkpoints_of_one_kind_are_resumed_by_the_other(
    run: RunConfig, whole: TrainedRun, tmp_path: Path, first: float | None, then: float | None
) -> None:
    place = killed_at(whole.facts["best_step"] + 4, run, tmp_path, first)
    assert place is not None and (place / BEST_FILE).exists() == (first is not None)
    train_run(run, 0, tmp_path, checkpoint_seconds=then)
    assert_same_run(whole, tmp_path)


def test_a_checkpoint_killed_between_its_files_is_passed_over(
    run: RunConfig, whole: TrainedRun, tmp_path: Path
) -> None:
    good = killed_at(whole.facts["best_step"] + 4, run, tmp_path, ALWAYS)
    assert good is not None
    later = tmp_path / "checkpoint-999"
    shutil.copytree(good, later)
    content = (later / BEST_FILE).read_bytes()
    (later / BEST_FILE).write_bytes(content[: len(content) // 2])
    assert last_complete_checkpoint(tmp_path) == good
