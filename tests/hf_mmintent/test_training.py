"""Training runs: what they log, select, refuse, and how they survive being killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, NamedSplit
from safetensors.torch import load_file
from torch.utils.data import ConcatDataset, Subset
from transformers import TrainingArguments

from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import evaluate, open_checkpoint
from hf_mmintent.training import MultimodalTrainer, RunConfig, last_complete_checkpoint, train_run
from hf_mmintent.training.run_config import parse_overrides
from hf_mmintent.training.runs import build, read_splits
from hf_mmintent.training.runs import make_trainer as trainer_of_run
from hf_mmintent.training.trainer import refuse_test_split
from tests.modeling.testers import ALL_TESTERS, ModelTester

from .training_cases import settings


@pytest.fixture
def run(tmp_path: Path, tiny_tokenizer: Any) -> RunConfig:
    return RunConfig.from_dict(settings(tmp_path, tiny_tokenizer))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def log_history(folder: Path) -> list[dict[str, float]]:
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


# ---- a whole run -------------------------------------------------------------------------------------------------


def test_a_run_learns_selects_on_validation_and_reloads(run: RunConfig, tmp_path: Path) -> None:
    run.training["num_train_epochs"] = 12
    trained = train_run(run, seed=0, folder=tmp_path / "run")
    assert trained.validation["accuracy"] >= 0.8
    assert trained.facts["splits"] == {"train": 24, "validation": 9}  # the test rows were not even read
    logs = [entry for entry in log_history(tmp_path / "run") if "loss" in entry]
    terms = {"loss_cls", "loss_prototype", "loss_contrastive_text", "loss_contrastive_audio", "loss_contrastive_fused"}
    assert len(logs) == 36 and all(terms <= entry.keys() for entry in logs)  # every step
    assert all({"weight_video", "weight_audio", "weight_coarse"} <= entry.keys() for entry in logs)
    assert all(8 / 3 <= entry["samples_per_class"] <= 8 for entry in logs)  # batches of 8, at most three classes
    best = max(entry["eval_f1_weighted"] for entry in log_history(tmp_path / "run") if "eval_f1_weighted" in entry)
    assert trained.validation["f1_weighted"] == pytest.approx(best)


def test_the_epoch_can_be_selected_with_modalities_dropped(run: RunConfig, tmp_path: Path) -> None:
    run.validation_drops = True
    trained = train_run(run, seed=0, folder=tmp_path / "a")
    scores = trained.validation
    names = ["f1_weighted", *(f"f1_weighted_without_{name}" for name in ("text", "audio", "video"))]
    assert scores["f1_weighted_with_drops"] == pytest.approx(sum(scores[name] for name in names) / 4)
    # What is written beside the plain score is what scoring the finished checkpoint without the modality gives.
    model, processor = open_checkpoint(trained.checkpoint)
    rows = load(run.data.name)["validation"]
    for dropped in ("text", "audio", "video"):
        found = evaluate(model, processor, rows, drop_modalities=(dropped,))
        assert found.scores["f1_weighted"] == pytest.approx(scores[f"f1_weighted_without_{dropped}"])
    means = [entry["eval_f1_weighted_with_drops"] for entry in log_history(tmp_path / "a") if "eval_loss" in entry]
    assert len(means) == 3 and scores["f1_weighted_with_drops"] == pytest.approx(max(means))


def test_every_step_is_in_the_history(run: RunConfig, tmp_path: Path) -> None:
    """Shown are means over some steps; of accumulated batches a step has the mean."""
    run.training.update(
        num_train_epochs=2, logging_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    train_run(run, 0, tmp_path / "run")
    history = log_history(tmp_path / "run")
    steps = [entry for entry in history if "loss_cls" in entry and "loss" not in entry]
    shown = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6] and [entry["step"] for entry in shown] == [4]
    for name in ("loss_cls", "loss_prototype", "loss_contrastive_text", "weight_audio", "samples_per_class"):
        assert shown[0][name] == pytest.approx(sum(step[name] for step in steps[:4]) / 4, abs=2e-6)
    assert len({entry["loss_cls"] for entry in steps}) == 6


def test_other_rows_are_scored_with_drops_too(run: RunConfig, tmp_path: Path) -> None:
    """The drops are those of the rows that are evaluated, not of the trainer's own validation rows."""
    run.validation_drops = True
    splits = read_splits(run)
    model, processor = build(run, splits["train"])
    trainer = trainer_of_run(run, 0, tmp_path / "t", model, processor, splits["train"], splits["validation"])
    own, other = trainer.evaluate(), trainer.evaluate(splits["train"])
    found = evaluate(model.eval(), processor, load(run.data.name)["train"], drop_modalities=("audio",))
    assert other["eval_f1_weighted_without_audio"] == pytest.approx(found.scores["f1_weighted"])
    assert other["eval_f1_weighted_without_audio"] != own["eval_f1_weighted_without_audio"]


def test_the_same_seed_gives_the_same_weights(run: RunConfig, tmp_path: Path) -> None:
    run.training["num_train_epochs"] = 1
    first, second, other = (train_run(run, seed, tmp_path / name) for seed, name in ((3, "a"), (3, "b"), (4, "c")))
    assert all(
        torch.equal(value, weights(second.checkpoint)[name]) for name, value in weights(first.checkpoint).items()
    )
    assert not torch.equal(
        weights(first.checkpoint)["classifier.weight"], weights(other.checkpoint)["classifier.weight"]
    )


def test_a_finished_run_is_not_repeated(run: RunConfig, tmp_path: Path) -> None:
    run.training["num_train_epochs"] = 1
    first = train_run(run, 0, tmp_path / "run")
    stamp = (first.checkpoint / "model.safetensors").stat().st_mtime_ns
    again = train_run(run, 0, tmp_path / "run")
    assert again.validation == first.validation
    assert (first.checkpoint / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_folder_of_other_settings_is_refused(run: RunConfig, tmp_path: Path) -> None:
    run.training["num_train_epochs"] = 1
    train_run(run, 0, tmp_path / "run")
    run.training["learning_rate"] = 1e-4
    with pytest.raises(ValueError, match="other settings"):
        train_run(run, 0, tmp_path / "run")


# ---- interruption ------------------------------------------------------------------------------------------------


def test_resuming_gives_what_an_uninterrupted_run_gives(run: RunConfig, tmp_path: Path) -> None:
    run.training["save_total_limit"] = 3  # every epoch's checkpoint stays
    run.modality_dropout = 0.3
    whole = train_run(run, 1, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in (tmp_path / "cut").glob("checkpoint-*"):
        if path.name != "checkpoint-6":
            shutil.rmtree(path)
    shutil.rmtree(tmp_path / "cut" / "final")
    stored = json.loads((tmp_path / "cut" / "settings.json").read_text())
    (tmp_path / "cut" / "settings.json").write_text(json.dumps({**stored, "output_dir": str(tmp_path / "cut")}))
    state = tmp_path / "cut" / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text().replace(str(tmp_path / "whole"), str(tmp_path / "cut")))
    resumed = train_run(run, 1, tmp_path / "cut")
    final = json.loads((resumed.checkpoint / "run.json").read_text())
    assert final["validation"] == whole.validation
    assert all(
        torch.equal(value, weights(resumed.checkpoint)[name]) for name, value in weights(whole.checkpoint).items()
    )


@pytest.mark.parametrize("damage", ["no_state", "cut_weights", "cut_state", "no_optimizer", "cut_optimizer"])
def test_a_checkpoint_killed_while_saving_is_passed_over(run: RunConfig, tmp_path: Path, damage: str) -> None:
    run.training["num_train_epochs"] = 2
    train_run(run, 0, tmp_path / "run")
    good = last_complete_checkpoint(tmp_path / "run")
    assert good is not None
    bad = tmp_path / "run" / "checkpoint-999"
    shutil.copytree(good, bad)
    if damage == "no_state":
        (bad / "trainer_state.json").unlink()
    elif damage == "no_optimizer":
        (bad / "optimizer.pt").unlink()
    else:
        name = {"cut_weights": "model.safetensors", "cut_optimizer": "optimizer.pt"}.get(damage, "trainer_state.json")
        content = (bad / name).read_bytes()
        (bad / name).write_bytes(content[: len(content) // 2])
    assert last_complete_checkpoint(tmp_path / "run") == good


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(tmp_path: Path, tiny_tokenizer: Any, root: Path) -> None:
    values = settings(tmp_path, tiny_tokenizer, training={"num_train_epochs": 30, "logging_steps": 50})
    script = (
        "import json, sys; from hf_mmintent.training import RunConfig, train_run; "
        "values = json.load(open(sys.argv[1])); train_run(RunConfig.from_dict(values), 0, values['output_dir'])"
    )
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(values))
    command = [sys.executable, "-c", script, str(path)]
    folder = Path(values["output_dir"])
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and last_complete_checkpoint(folder) is None and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_complete_checkpoint(folder) is not None and not (folder / "final" / "run.json").exists()
    subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    killed = json.loads((folder / "final" / "run.json").read_text())
    whole = train_run(RunConfig.from_dict(values), 0, tmp_path / "whole")
    assert killed["validation"] == whole.validation


# ---- the trainer -------------------------------------------------------------------------------------------------


def make_trainer(tester: ModelTester, folder: Path, **options: Any) -> MultimodalTrainer:
    batch = tester.inputs(training=True)
    rows = Dataset.from_dict({"row": list(range(8))})

    def collate(chosen: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        index = torch.tensor([row["row"] % 4 for row in chosen])
        return {name: value[index] for name, value in batch.items()}

    arguments = {"learning_rates": options.pop("learning_rates", None)}
    training = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        max_steps=1,
        disable_tqdm=True,
        save_strategy="no",
        **{"per_device_train_batch_size": 8, "logging_steps": 1, **options},
    )
    return MultimodalTrainer(
        model=tester.model().train(), args=training, train_dataset=rows, data_collator=collate, **arguments
    )


@pytest.mark.parametrize("tester", ALL_TESTERS, ids=lambda tester: type(tester).__name__)
def test_accumulation_takes_the_mean_of_its_batches(tester: ModelTester, tmp_path: Path) -> None:
    """Four batches of two: the logged loss is the weighted sum of the mean terms, not four times that."""
    trainer = make_trainer(tester, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    terms = {name.removeprefix("loss_"): torch.tensor(v) for name, v in logged.items() if name.startswith("loss_")}
    assert terms and logged["loss"] == pytest.approx(tester.weighted_sum(trainer.model.config, terms), abs=1e-4)


def test_learning_rates_by_name_and_no_decay_on_norms(tmp_path: Path) -> None:
    tester = ALL_TESTERS[0]
    trainer = make_trainer(tester, tmp_path, learning_rates={"text_model": 1e-5}, learning_rate=1e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    found = {(group["lr"], group["weight_decay"]): group["params"] for group in optimizer.param_groups}
    assert set(found) == {(1e-5, 0.1), (1e-5, 0.0), (1e-3, 0.1), (1e-3, 0.0)}
    model = trainer.model
    text = {id(p) for p in model.base_model.text_model.parameters()}
    assert {id(p) for (rate, _), group in found.items() if rate == 1e-5 for p in group} == text
    plain = {id(p) for (_, decay), group in found.items() if decay == 0.0 for p in group}
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms and all(id(norm.weight) in plain for norm in norms)


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_the_test_split_is_refused(name: str, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"row": [1]}, split=NamedSplit("test"))
    with pytest.raises(ValueError, match="test split"):
        MultimodalTrainer(model=ALL_TESTERS[0].model(), args=TrainingArguments(str(tmp_path)), **{name: rows})


def test_the_test_split_finds_no_other_way_in(tmp_path: Path) -> None:
    """By position, later, by name, in a mapping, and as a part of something."""
    test, validation = (Dataset.from_dict({"row": [1, 2]}, split=NamedSplit(name)) for name in ("test", "validation"))
    for part in (
        test.select([0]), test.shuffle(seed=0), test.map(lambda row: row), {"a": validation, "b": test}, "test",
        Subset(test, [0]), ConcatDataset([validation, test]),
        Dataset.from_dict({"row": [1]}, split=NamedSplit("validation+test[:50%]")),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="`rows` is the test split"):
            refuse_test_split("rows", part)
    for part in (validation, None, "validation", {"a": validation}, Subset(validation, [0]), "latest"):
        refuse_test_split("rows", part)
    model, arguments = ALL_TESTERS[0].model(), TrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="`eval_dataset` is the test split"):
        MultimodalTrainer(model, arguments, None, validation, test)
    trainer = MultimodalTrainer(model, arguments, None, validation, validation)
    with pytest.raises(ValueError, match="`eval_dataset` is the test split"):
        trainer.evaluate({"also": test})
    trainer.train_dataset = trainer.eval_dataset = test
    with pytest.raises(ValueError, match="`eval_dataset` is the test split"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="`train_dataset` is the test split"):
        trainer.train()


@pytest.mark.parametrize("setting", ["train_split", "validation_split"])
def test_a_run_is_not_given_the_test_split(setting: str, run: RunConfig) -> None:
    setattr(run.data, setting, "test")
    with pytest.raises(ValueError, match=f"`data.{setting}` is the test split"):
        read_splits(run)


# ---- settings ----------------------------------------------------------------------------------------------------


def test_unknown_settings_name_the_closest() -> None:
    with pytest.raises(ValueError, match=r"unknown run setting `modeltype`.*`model_type`"):
        RunConfig.from_dict({"modeltype": "mvcl_daf"})
    with pytest.raises(ValueError, match=r"unknown data setting `datadir`.*`data_dir`"):
        RunConfig.from_dict({"data": {"datadir": "x"}})
    with pytest.raises(ValueError, match=r"unknown training setting `learning_rte`. Did you mean `learning_rate`"):
        RunConfig.from_dict({"training": {"learning_rte": 1e-4}})
    with pytest.raises(ValueError, match="no architecture 'mvcl'"):
        from hf_mmintent.registration import model_class

        model_class("mvcl")


@pytest.mark.parametrize("seeds", [[0, 1, 0], 3, [], ["a"], [0.5], [True]])
def test_seeds_are_different_whole_numbers(seeds: Any) -> None:
    with pytest.raises(ValueError, match="`seeds` is "):
        RunConfig.from_dict({"seeds": seeds})


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {name: mintrec}\nconfig: {temperature: 0.1}\n")
    flags = ["--config.temperature", "0.5", "--seeds", "1", "2", "--data.data_dir=/x", "--standardize"]
    flags += ["--training.learning_rate", "2e-4"]  # no point: text for YAML 1.1
    run = RunConfig.load(path, parse_overrides(flags))
    assert run.training == {"learning_rate": 2e-4}
    assert run.config == {"temperature": 0.5} and list(run.seeds) == [1, 2]
    assert run.data.data_dir == "/x" and run.data.name == "mintrec" and run.standardize is True


def test_an_id_in_two_splits_stops_the_run(run: RunConfig, tmp_path: Path) -> None:
    folder = Path(run.data.name)
    rows = Dataset.from_parquet(str(folder / "validation.parquet"))
    rows.map(lambda row: {"id": row["id"].replace("validation_4", "train_2")}).to_parquet(folder / "validation.parquet")
    with pytest.raises(ValueError, match="the id 'train_2' occurs in train and in validation"):
        train_run(run, 0, tmp_path / "run")


def test_a_misspelt_config_field_stops_the_run(run: RunConfig, tmp_path: Path) -> None:
    run.config["temprature"] = 0.1
    with pytest.raises(ValueError, match="Did you mean `temperature`"):
        train_run(run, 0, tmp_path / "run")


def test_overrides_stay_as_the_caller_holds_them() -> None:
    shared = {"processor": {}, "processor.max_lengths": {"audio": 72}}
    assert RunConfig.load(None, shared).processor == {"max_lengths": {"audio": 72}}
    assert shared["processor"] == {}, "the rows of a table share the settings of their block"
