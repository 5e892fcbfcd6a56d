"""Tables run again: files, expansion, interruption, what selects and what is only scored, and the report."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import load_dataset
from filelock import FileLock
from safetensors.torch import load_file

from hf_mmintent.metrics import RunResult, mean_std
from hf_mmintent.registration import task_model_class
from hf_mmintent.reproduce import (
    Block,
    Row,
    expand,
    list_tables,
    load_table,
    missing_files,
    reproduce,
    run_job,
    with_settings,
)
from hf_mmintent.reproduce.command_line import list_text, parse_data, parse_seeds, parse_settings
from hf_mmintent.reproduce.jobs import FAILURE_FILE, PREDICTIONS_FILE, RESULT_FILE, finished_result
from hf_mmintent.reproduce.report import RowResult, best_baseline, table_report
from hf_mmintent.reproduce.table_files import run_settings

from .training_cases import settings

COLUMNS = ["accuracy", "f1_weighted"]


def write_configs(folder: Path, tokenizer: Any, **training: Any) -> None:
    """`small.yaml` and `text.yaml` in `folder/configs`, on the tiny dataset."""
    values = settings(folder, tokenizer)
    values["training"].update(training)
    values.update(model_type="concat_fusion", config={"hidden_size": 8, "encoder_heads": 2, "encoder_layers": 1})
    text = {**values, "model_type": "unimodal", "config": {**values["config"], "modalities": ["text"]}}
    (folder / "configs").mkdir(exist_ok=True)
    for name, content in (("small", values), ("text", text)):
        (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def table_values(**block: Any) -> dict[str, Any]:
    rows = [
        {"system": "Text alone", "config": "text.yaml", "paper": {"accuracy": 33.3}},
        {"system": "Elsewhere", "paper": {"accuracy": 50.0, "f1_weighted": 48.5}},
        {"system": "Fusion++", "config": "small.yaml", "proposed": True, "set": {"config.fusion_dropout": 0.0},
         "paper": {"accuracy": 71.25}, "paper_std": {"accuracy": 0.4}},
    ]  # fmt: skip
    first = {"name": "Tiny", "columns": COLUMNS, "headline": "accuracy", "rows": rows, **block}
    absent = {"name": "Absent", "columns": COLUMNS, "headline": "accuracy", "data": "nowhere",
              "files": ["train.tsv", "a.pkl|b/a.pkl"], "needs": "Ask its makers.", "rows": copy.deepcopy(rows)}  # fmt: skip
    return {
        "title": "A table",
        "source": "Nobody, Table 1",
        "seeds": [0, 1],
        "blocks": [first, absent],
        "notes": ["N."],
    }


def write_table(folder: Path, values: dict[str, Any], name: str = "tiny.one") -> Path:
    path = folder / "tables" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A folder as `examples/`, with one table."""
    write_configs(tmp_path, tiny_tokenizer, num_train_epochs=2)
    write_table(tmp_path, table_values())
    return tmp_path


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_table_expands_seed_by_seed(folder: Path) -> None:
    jobs = expand(load_table("tiny.one", folder), folder / "out")
    assert [job.name for job in jobs] == [
        "tiny/text_alone/seed_0", "tiny/fusionpp/seed_0", "tiny/text_alone/seed_1", "tiny/fusionpp/seed_1"
    ]  # fmt: skip
    assert jobs[1].run.config["fusion_dropout"] == 0.0 and jobs[1].run.seeds == [0]
    assert jobs[1].folder == folder / "out" / "tiny.one" / "tiny" / "fusionpp" / "seed_0"
    assert len(expand(load_table("tiny.one", folder), folder / "out", seeds=(7,))) == 2


def test_data_folders_are_found_by_name_and_missing_files_are_named(folder: Path) -> None:
    absent = load_table("tiny.one", folder).blocks[1]
    assert missing_files(absent, {}) == ["nowhere/train.tsv", "nowhere/a.pkl or nowhere/b/a.pkl"]
    place = folder / "data root" / "nowhere"
    (place / "b").mkdir(parents=True)
    (place / "train.tsv").touch()
    assert missing_files(absent, {"": place.parent}) == ["a.pkl or b/a.pkl"]
    (place / "b" / "a.pkl").touch()
    for data in ({"": place.parent}, {"": place}, {"nowhere": place}):
        assert missing_files(absent, data) == []
    jobs = expand(load_table("tiny.one", folder), folder / "out", {"nowhere": place})
    assert {job.run.data.data_dir for job in jobs if job.block == absent} == {str(place)}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"headline": "mae"}, "`headline` 'mae' of Tiny is not in `columns`"),
        ({"head_line": "mae"}, "Did you mean `headline`"),
        ({"split": "validation"}, "'validation' is scored, but training reads"),
        ({"split": "train"}, "'train' is scored"),
        ({"set": {"data.validation_split": "test"}}, "'test' is scored, but training reads"),
        ({"rows": [{"system": "A"}, {"system": "a!"}]}, "would share a folder"),
        ({"rows": [{"system": "A", "paper": {"mae": 1.0}}]}, r"the paper's \['mae'\]"),
        ({"rows": [{"config": "small.yaml"}]}, r"lacks \['system'\]"),
    ],
)
def test_tables_that_make_no_sense(folder: Path, change: dict[str, Any], message: str) -> None:
    write_table(folder, table_values(**change), "bad")
    with pytest.raises(ValueError, match=message):
        load_table("bad", folder)


def test_an_unknown_table_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no table 'two'.*tiny\.one"):
        load_table("two", folder)


def test_command_line_values(tmp_path: Path) -> None:
    assert parse_seeds(["0..3", "9"]) == (0, 1, 2, 3, 9) and parse_seeds(None) is None
    for words in (["3..1"], ["a"], ["0..2", "1"]):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(words)
    assert parse_data([str(tmp_path), f"mintrec={tmp_path}"]) == {"": tmp_path, "mintrec": tmp_path}
    for words in ([str(tmp_path), str(tmp_path)], [str(tmp_path / "no")]):
        with pytest.raises(ValueError, match="--data"):
            parse_data(words)


def test_a_setting_for_every_run(folder: Path) -> None:
    settings = parse_settings(["config.fusion_dropout=0.3", "backbones.text=/somewhere"])
    assert settings == {"config.fusion_dropout": 0.3, "backbones.text": "/somewhere"}
    table = with_settings(load_table("tiny.one", folder), {"training.learning_rate": 0.5})
    jobs = expand(table, folder / "out", seeds=(0,))
    assert [job.run.training["learning_rate"] for job in jobs] == [0.5, 0.5]
    assert jobs[1].run.config["fusion_dropout"] == 0.0  # what the row sets itself stays
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_settings(["fast"])
    with pytest.raises(ValueError, match="'test' is scored, but training reads"):
        with_settings(table, {"data.validation_split": "test"})
    with pytest.raises(ValueError, match="Did you mean `standardize`"):
        with_settings(table, {"standardise": True})


@pytest.mark.parametrize("name", list_tables(Path(__file__).parents[2] / "examples" / "tables"))
def test_every_table_is_readable(root: Path, name: str) -> None:
    """Files load, configurations exist, and the settings are fields of their architecture."""
    table = load_table(name, root / "examples")
    assert table.seeds and name in list_text(root / "examples")
    for block in table.blocks:
        assert block.data is None or (block.files and block.needs), block.name
        for row in block.rows:
            if row.config is None:
                continue
            run = run_settings(table, block, row)
            architecture = task_model_class(run.model_type)
            if architecture.can_generate():  # its config needs the parts that the run puts together
                known = {field.name for field in dataclasses.fields(architecture.config_class)}
                assert set(run.config) <= known, sorted(set(run.config) - known)
                continue
            labels: dict[str, Any] = {"id2label": {0: "a", 1: "b", 2: "c"}}
            if "mae" in block.columns:
                labels = {"num_labels": 1}
            architecture.config_class(**{**labels, **run.config})


# ---- running ----------------------------------------------------------------------------------------------------------


def test_a_table_runs_and_reports(folder: Path) -> None:
    table, out = load_table("tiny.one", folder), folder / "out"
    assert reproduce(table, out, commands=["python examples/reproduce.py --table tiny.one"]) == []
    stem = out / "tiny.one" / "tiny.one"
    text = stem.with_name("tiny.one.md").read_text()
    report = json.loads(stem.with_name("tiny.one.json").read_text())
    rows = {row["system"]: row for row in report["blocks"][0]["rows"]}
    with stem.with_name("tiny.one.csv").open() as file:
        cells = {(row["block"], row["system"], row["key"]): row for row in csv.DictReader(file)}

    fusion = rows["Fusion++"]["scores"]["accuracy"]
    stored = [
        RunResult.from_json(out / f"tiny.one/tiny/fusionpp/seed_{seed}/{RESULT_FILE}").scores["accuracy"]
        for seed in (0, 1)
    ]
    assert fusion["values"] == stored and fusion["mean"] == pytest.approx(sum(stored) / 2)
    shown = f"{100 * fusion['mean']:.2f} ± {100 * mean_std(stored).std:.2f} / 71.25 ± 0.40 / "
    sign, difference = ("+", fusion["mean"] - 0.7125) if fusion["mean"] >= 0.7125 else ("−", 0.7125 - fusion["mean"])
    assert shown + f"{sign}{100 * difference:.2f}" in text
    line = cells["Tiny", "Fusion++", "accuracy"]
    assert float(line["difference"]) == pytest.approx(fusion["mean"] - 0.7125) and line["runs"] == "2"
    assert cells["Tiny", "Elsewhere", "f1_weighted"]["paper"] == repr(0.485)
    assert "| Elsewhere (paper only) | – / 50.00 | – / 48.50 | – | – |" in text
    assert "**Not run**: the data folder lacks `nowhere/train.tsv`, `nowhere/a.pkl or nowhere/b/a.pkl`. Ask its" in text
    assert "Fusion++ against Text alone (best baseline on the validation split), accuracy: Δ" in text
    (comparison,) = report["blocks"][0]["comparisons"]
    delta = fusion["mean"] - rows["Text alone"]["scores"]["accuracy"]["mean"]
    assert comparison["result"]["delta"] == pytest.approx(delta, abs=1e-9)
    assert comparison["result"]["n"] == 9 and comparison["result"]["seeds_a"] == 2
    assert "examples/train.py" in text and "--config.fusion_dropout 0.0 --seeds 0 1" in text
    assert "python examples/reproduce.py --table tiny.one" in text and "4 runs" in text
    assert not list(out.rglob("checkpoint-*")) and len(list(out.rglob("model.safetensors"))) == 4


def test_finished_runs_are_not_repeated_and_other_settings_are_refused(folder: Path) -> None:
    table, out = load_table("tiny.one", folder), folder / "out"
    (job, *_) = expand(table, out, seeds=(0,))
    first = run_job(job, keep="none")
    assert not list(out.rglob("*.safetensors"))
    stamp = (job.folder / RESULT_FILE).stat().st_mtime_ns
    assert run_job(job) == first == finished_result(job)
    assert (job.folder / RESULT_FILE).stat().st_mtime_ns == stamp
    moved = dataclasses.replace(job.run, data=dataclasses.replace(job.run.data, data_dir="elsewhere"))
    assert finished_result(dataclasses.replace(job, run=moved)) == first  # data may move
    changed = dataclasses.replace(job.run, standardize=True)
    with pytest.raises(ValueError, match=r"other settings \(standardize differ\)"):
        finished_result(dataclasses.replace(job, run=changed))


def test_a_broken_run_does_not_stop_the_others(folder: Path) -> None:
    values = table_values()
    values["blocks"][0]["rows"][0]["set"] = {"training.learning_rate": "fast"}
    write_table(folder, values)
    table = load_table("tiny.one", folder)
    assert reproduce(table, folder / "out", seeds=(0,)) == ["tiny/text_alone/seed_0"]
    place = folder / "out" / "tiny.one" / "tiny"
    assert "TypeError" in (place / "text_alone" / "seed_0" / FAILURE_FILE).read_text()
    assert (place / "fusionpp" / "seed_0" / RESULT_FILE).exists()
    text = (folder / "out" / "tiny.one" / "tiny.one.md").read_text()
    assert "**Failed**: Text alone, seeds [0]" in text and "| Text alone | – / 33.30 | – | – | 0 of 1 |" in text


def test_a_run_that_another_process_is_at_is_left_to_it(folder: Path) -> None:
    table, out = load_table("tiny.one", folder), folder / "out"
    (job, *_) = expand(table, out, seeds=(0,))
    job.folder.mkdir(parents=True)
    with FileLock(job.folder / "job.lock"):
        assert reproduce(table, out, seeds=(0,), only=[job.name]) == []
    assert finished_result(job) is None
    with pytest.raises(ValueError, match="`only` names"):
        reproduce(table, out, only=["tiny/nothing/seed_0"])


# ---- the scored split has no say -----------------------------------------------------------------------------------


def test_the_scored_split_changes_no_weight_and_no_choice(folder: Path) -> None:
    """Two datasets that differ in nothing but the test split give the same weights and the same chosen epoch."""
    (job, *_) = (job for job in expand(load_table("tiny.one", folder), folder / "out") if "fusion" in job.name)
    results = {"as it is": run_job(job, keep="final")}
    test = folder / "data" / "test.parquet"
    rows = load_dataset(str(folder / "data"), split="test", cache_dir=str(folder / "cache"))
    shifted = rows.map(lambda row: {"label": (row["label"] + 1) % 3}, load_from_cache_file=False).select(range(7))
    stamp = pq.read_table(test).num_rows
    shifted.to_parquet(test)
    assert pq.read_table(test).num_rows == 7 != stamp
    other = dataclasses.replace(job, folder=folder / "other")
    results["changed"] = run_job(other, keep="final")
    first, second = (load_file(job.folder / "final" / "model.safetensors") for job in (job, other))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    one, two = (result.config for result in results.values())
    assert one["validation"] == two["validation"] and one["facts"]["best_step"] == two["facts"]["best_step"]
    assert (results["as it is"].n, results["changed"].n) == (9, 7)
    assert results["as it is"].scores != results["changed"].scores


def row_result(system: str, validation: float, test: float, proposed: bool = False) -> RowResult:
    scores, known = {"accuracy": mean_std([test])}, {"accuracy": mean_std([validation])}
    return RowResult(Row(system, proposed=proposed), (0,), {}, (), scores, known, {}, None)


def test_the_best_baseline_is_the_one_that_validation_says() -> None:
    rows = [
        row_result("lucky", 0.6, 0.9),
        row_result("good", 0.8, 0.7),
        row_result("undefined", math.nan, 1.0),
        row_result("ours", 0.9, 0.9, proposed=True),
    ]
    chosen = best_baseline(rows, "accuracy")
    assert chosen is not None and chosen.row.system == "good"
    assert best_baseline(rows[3:], "accuracy") is None


def test_the_smaller_error_is_the_better_baseline() -> None:
    low, high = (
        RowResult(Row(n), (0,), {}, (), {}, {"mae": mean_std([v])}, {}, None) for n, v in (("a", 0.7), ("b", 0.9))
    )
    assert best_baseline([low, high], "mae") is low


def test_a_table_without_runs_still_shows_the_paper(folder: Path) -> None:
    report = table_report(load_table("tiny.one", folder), folder / "out")
    assert [len(block.comparisons) for block in report.blocks] == [0, 0]
    assert isinstance(report.blocks[0].block, Block) and report.blocks[0].rows[2].paper == {"accuracy": 0.7125}


def test_a_measured_row_is_counted_once_and_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of eight queries leave in one of two layers: an eighth of the queries' part, less of the rest."""
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2,
             "vocab_size": 30, "num_guide_tokens": 4, "num_explorer_tokens": 4, "guide_schedule": [4, 2]}  # fmt: skip
    row = {"system": "Pruned", "measure": {"model_type": "cat_mod", "steps": 10, "width": 12, "fields": small}}
    columns = ["saved_query", "saved_cross", "saved_full"]
    block = {"name": "Cost", "columns": columns, "headline": columns[0], "rows": [{**row, "paper": {columns[0]: 37.0}}]}
    write_table(folder, {"title": "Cost", "source": "S", "blocks": [block]}, "cost")
    table = load_table("cost", folder)
    assert reproduce(table, folder / "out") == []
    text = (folder / "out" / "cost" / "cost.md").read_text()
    assert "| Pruned | 12.50 / 37.00 / −24.50 |" in text and "| – | measured |" in text
    monkeypatch.setattr("hf_mmintent.reproduce.measured.connector_savings", None)  # not called again
    (block_report,) = table_report(table, folder / "out").blocks
    saved = [block_report.rows[0].scores[key].mean for key in columns]
    assert saved[0] == pytest.approx(0.125) and saved[0] > saved[1] > saved[2] > 0
    row["config"] = "small.yaml"
    write_table(folder, {"title": "Cost", "source": "S", "blocks": [{**block, "rows": [row]}]}, "both")
    with pytest.raises(ValueError, match="not both"):
        load_table("both", folder)


# ---- interruption ------------------------------------------------------------------------------------------------------


def start(root: Path, table: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "examples/reproduce.py", "--table", str(table), "--output_dir", str(out), *more]
    command += ["--checkpoint_minutes", "0"]  # runs of seconds would have none
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def wait_for(process: subprocess.Popen[bytes], *patterns: tuple[Path, str]) -> None:
    """Until every pattern is there, or the process ends."""
    deadline = time.monotonic() + 200
    while process.poll() is None and not all(any(place.glob(pattern)) for place, pattern in patterns):
        assert time.monotonic() < deadline, "the process is stuck"
        time.sleep(0.05)
    assert process.poll() is None, process.stdout.read().decode() if process.stdout else "it ended"


def test_a_killed_process_loses_nothing_and_repeats_nothing(folder: Path, tiny_tokenizer: Any, root: Path) -> None:
    """SIGKILL in the middle of the second run; the first is not touched again, the second goes on where it was."""
    write_configs(folder, tiny_tokenizer, num_train_epochs=6)
    values = table_values()
    for row in values["blocks"][0]["rows"]:
        if "config" in row:
            row["config"] = str(folder / "configs" / row["config"])
    for row in values["blocks"][1]["rows"]:
        row.pop("config", None)
    path, out = write_table(folder, {**values, "seeds": [0]}), folder / "out"
    place = out / "tiny.one" / "tiny"
    process = start(root, path, out)
    first, second = place / "text_alone" / "seed_0", place / "fusionpp" / "seed_0"
    wait_for(process, (first, RESULT_FILE), (second, "checkpoint-6/trainer_state.json"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (first / RESULT_FILE).exists() and not (second / RESULT_FILE).exists()
    stamps = {file: file.stat().st_mtime_ns for file in first.rglob("*") if file.is_file() and file.suffix != ".lock"}
    states = {path.name for path in second.glob("checkpoint-*")}
    assert states

    process = start(root, path, out)
    printed = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, printed
    assert "2 runs, 1 finished already" in printed
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    whole = expand(load_table(path, folder), folder / "whole", seeds=(0,))
    for job in whole:  # the same numbers as without any interruption
        result = run_job(job)
        again = RunResult.from_json(place / job.folder.parent.name / "seed_0" / RESULT_FILE)
        assert again.scores == result.scores and again.config["validation"] == result.config["validation"]
        texts = [
            (folder / job.folder.parent.name / "seed_0" / PREDICTIONS_FILE) for folder in (place, job.folder.parents[1])
        ]
        assert texts[0].read_text() == texts[1].read_text()


@pytest.mark.slow
def test_one_job_at_a_time_on_each_device(folder: Path, root: Path) -> None:
    values = table_values()
    for block in values["blocks"]:
        for row in block["rows"]:
            if "config" in row:
                row["config"] = str(folder / "configs" / row["config"])
    path, out = write_table(folder, values), folder / "out"
    process = start(root, path, out, "--devices", "cpu", "cpu", "--keep", "none")
    printed = process.communicate(timeout=500)[0].decode()
    assert process.returncode == 0, printed
    assert len(list(out.rglob(RESULT_FILE))) == 4 and not list(out.rglob("*.safetensors"))
    assert "| **Fusion++** |" in printed
