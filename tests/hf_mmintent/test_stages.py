"""Training in stages: which weights they start from, what they select on, and how they survive being interrupted."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainerCallback

from hf_mmintent.training import RunConfig, TrainedRun, train_run
from hf_mmintent.training import stages as stages_module

from .training_cases import settings

STAGES = [["alignment", 2], ["refinement", 3]]
FOLDERS = ("stage_1_alignment", "stage_2_refinement")


@pytest.fixture(scope="module")
def module_values(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> dict[str, Any]:
    found = settings(tmp_path_factory.mktemp("stages"), tiny_tokenizer, model_type="plum_net")
    del found["training"]["num_train_epochs"]
    found["config"] = {
        "hidden_size": 16,
        "av_encoder_layers": 1,
        "encoder_heads": 2,
        "tfb_heads": 2,
        "prm_heads": 2,
        "dropout": 0.1,
        "stages": STAGES,
    }
    return found


@pytest.fixture
def values(module_values: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(module_values)


@pytest.fixture(scope="module")
def whole(module_values: dict[str, Any]) -> TrainedRun:
    """A run that was not interrupted."""
    return train_run(RunConfig.from_dict(module_values), 0, module_values["output_dir"])


@pytest.fixture
def whole_folder(whole: TrainedRun) -> Path:
    """Its folder."""
    return whole.checkpoint.parent


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def history(folder: Path) -> list[dict[str, float]]:
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


class InterruptedRunError(Exception):
    """Stands for a killed process."""


class InterruptAt(TrainerCallback):
    """Stops at the `count`-th optimizer step of the process, whichever stage that is in."""

    def __init__(self, count: int) -> None:
        self.left = count

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedRunError


def interrupted_run(run: RunConfig, folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until `step` optimizer steps have been made, and die."""
    callback = InterruptAt(step)

    class WithInterruption(stages_module.StageEpochs):
        def __init__(self, trainer: Any) -> None:
            super().__init__(trainer)
            trainer.add_callback(callback)

    with monkeypatch.context() as patch:
        patch.setattr(stages_module, "StageEpochs", WithInterruption)
        with pytest.raises(InterruptedRunError):
            train_run(run, 0, folder)


def test_stages_run_in_turn_and_select_on_their_own_scores(whole: TrainedRun, whole_folder: Path) -> None:
    first, second = (whole_folder / name for name in FOLDERS)
    found = {stage["name"]: stage for stage in whole.facts["stages"]}
    assert list(found) == ["alignment", "refinement"] and whole.facts["epochs"] == 5
    losses = [entry["eval_loss"] for entry in history(first) if "eval_loss" in entry]
    assert len(losses) == 2 and found["alignment"]["score"] == min(losses)
    scores = [entry["eval_f1_weighted"] for entry in history(second) if "eval_f1_weighted" in entry]
    assert len(scores) == 3 and found["refinement"]["score"] == max(scores)
    assert whole.validation["f1_weighted"] == pytest.approx(max(scores))
    terms = {"loss_common", "loss_private", "loss_msa_inter", "loss_msa_intra"}
    for entry in history(first):
        assert "loss" not in entry or (terms <= entry.keys() and "loss_task" not in entry)
    for entry in history(second):
        assert "loss" not in entry or terms | {"loss_task"} <= entry.keys()
    stored = AutoModelForSequenceClassification.from_pretrained(whole.checkpoint)
    assert stored.config.training_stage == "refinement"
    assert json.loads((first / "best" / "config.json").read_text())["training_stage"] == "alignment"


def test_the_first_stage_leaves_the_refinement_alone_and_the_second_starts_from_it(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["training"]["learning_rate"] = 0.0
    train_run(RunConfig.from_dict(values), 0, tmp_path / "still")
    start = weights(tmp_path / "still" / FOLDERS[0] / "best")
    end = weights(tmp_path / "still" / "final")
    assert same(
        {name: value for name, value in start.items() if "epochs_started" not in name},
        {name: value for name, value in end.items() if "epochs_started" not in name},
    )
    values["training"]["learning_rate"] = 3e-3
    train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
    first = weights(tmp_path / "run" / FOLDERS[0] / "best")
    moved = {name for name in start if not torch.equal(start[name], first[name])}
    assert any("branches" in name for name in moved)
    assert not any(part in name for name in moved for part in ("refinements", "fusion", "classifier"))
    second = weights(tmp_path / "run" / "final")
    assert not torch.equal(first["model.fusion.weight"], second["model.fusion.weight"])
    for name in ("prototypes", "prototype_counts", "bin_values"):
        assert torch.equal(first[f"model.labeller.{name}"], second[f"model.labeller.{name}"])


# 24 rows in batches of 8: 3 steps an epoch, 6 in the first stage, 9 in the second
@pytest.mark.parametrize("step", [5, 11, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 3, 4, 6, 7, 9))])
def test_an_interrupted_run_ends_like_one_that_was_not(
    values: dict[str, Any],
    whole: TrainedRun,
    whole_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    run = RunConfig.from_dict(values)
    interrupted_run(run, tmp_path / "cut", step, monkeypatch)
    assert not (tmp_path / "cut" / "final" / "run.json").exists()
    resumed = train_run(run, 0, tmp_path / "cut")
    assert same(weights(resumed.checkpoint), weights(whole.checkpoint))
    assert resumed.validation == whole.validation
    for name in FOLDERS:
        assert same(weights(tmp_path / "cut" / name / "best"), weights(whole_folder / name / "best"))


@pytest.mark.parametrize("step", [5, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_that_saves_within_epochs_goes_on_within_them(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The refresh before an epoch is not repeated in its middle."""
    values["training"] |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    run = RunConfig.from_dict(values)
    whole = train_run(run, 0, tmp_path / "whole")
    interrupted_run(run, tmp_path / "cut", step, monkeypatch)
    assert same(weights(train_run(run, 0, tmp_path / "cut").checkpoint), weights(whole.checkpoint))


def test_a_bank_goes_on_where_it_was(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are of many steps, which no pass over the training rows brings back; killed in either stage."""
    values["training"] |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    values["config"] |= {
        "stages": [["alignment", 2], ["refinement", 2]],
        "prototype_schedule": "bank",
        "refresh_in_stage2": True,
        "psl_warmup_epochs": 0,
    }
    run = RunConfig.from_dict(values)
    whole = train_run(run, 0, tmp_path / "whole")
    interrupted_run(run, tmp_path / "cut", 5, monkeypatch)
    interrupted_run(run, tmp_path / "cut", 2 + 5, monkeypatch)  # steps 5 and 6 of the first stage, then 5 of the second
    resumed = train_run(run, 0, tmp_path / "cut")
    assert same(weights(resumed.checkpoint), weights(whole.checkpoint))
    assert not list(resumed.checkpoint.glob("training_state*"))


def test_patience_that_was_used_up_stays_used_up(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["config"]["stages"] = [["alignment", 1], ["refinement", 6]]
    values["training"]["learning_rate"] = 0.0  # nothing ever gets better: the patience ends the stage
    values["early_stopping_patience"] = 2
    run = RunConfig.from_dict(values)
    whole = train_run(run, 0, tmp_path / "whole")
    assert whole.facts["stages"][1]["epochs"] == 3
    interrupted_run(run, tmp_path / "cut", 3 + 2 * 3 + 1, monkeypatch)
    assert train_run(run, 0, tmp_path / "cut").facts["stages"][1]["epochs"] == 3


def test_a_finished_stage_is_not_repeated(
    values: dict[str, Any], whole: TrainedRun, whole_folder: Path, tmp_path: Path
) -> None:
    """Killed between the last stage and the final checkpoint."""
    folder = Path(shutil.copytree(whole_folder, tmp_path / "run"))
    stored = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**stored, "output_dir": str(folder)}))
    kept, stamp = weights(whole.checkpoint), (folder / FOLDERS[1] / "best" / "stage.json").stat().st_mtime_ns
    shutil.rmtree(folder / "final")
    again = train_run(RunConfig.from_dict(values), 0, folder)
    assert same(weights(again.checkpoint), kept) and again.validation == whole.validation
    assert (folder / FOLDERS[1] / "best" / "stage.json").stat().st_mtime_ns == stamp


def test_a_reduced_model_skips_the_stage_that_has_no_loss(values: dict[str, Any], tmp_path: Path) -> None:
    values["config"] |= {"use_msa": False, "use_psl_tfb": False, "use_prm": False}
    trained = train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
    assert [stage["name"] for stage in trained.facts["stages"]] == ["refinement"]


@pytest.mark.parametrize("schedule", ["bank", "batch"])
def test_other_prototype_schedules_train(values: dict[str, Any], tmp_path: Path, schedule: str) -> None:
    values["config"] |= {"prototype_schedule": schedule, "psl_warmup_epochs": 0, "psl_target": "soft"}
    trained = train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
    counts = weights(trained.checkpoint)["model.labeller.prototype_counts"]
    assert counts.sum(1).tolist() == [24, 24, 24] if schedule == "bank" else counts.sum(1).max() <= 8


def test_training_rows_grouped_by_length_are_read_in_order(values: dict[str, Any], tmp_path: Path) -> None:
    values["training"]["train_sampling_strategy"] = "group_by_length"
    values["config"]["stages"] = [["alignment", 1]]
    trained = train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
    assert weights(trained.checkpoint)["model.labeller.class_counts"].tolist() == [8, 8, 8]


def test_epochs_beside_stages_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    values["training"]["num_train_epochs"] = 3
    with pytest.raises(ValueError, match=r"num_train_epochs.*config.stages"):
        train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
