"""`reproduce` killed with SIGKILL at every kind of moment: no finished run is repeated, none is lost."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_mmintent.metrics import RunResult
from hf_mmintent.reproduce import expand, load_table
from hf_mmintent.reproduce.jobs import RESULT_FILE

from .test_reproduce import table_values, write_configs, write_table

# In the order of one run's life: twice training, writing, scoring, then the table.
MOMENTS = [
    "training", "checkpoint", "last evaluation", "saving", "scoring", "tidying", "after predictions", "result", "training",
    "scoring", "before report", "report", "nothing",
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """Two systems, one seed, three epochs each."""
    write_configs(tmp_path, tiny_tokenizer, num_train_epochs=3)
    values = table_values()
    del values["blocks"][1]
    for row in values["blocks"][0]["rows"]:
        if "config" in row:
            row["config"] = str(tmp_path / "configs" / row["config"])
    return write_table(tmp_path, {**values, "seeds": [0]})


def kill(root: Path, folder: Path, table: Path, moments: list[str]) -> list[dict[str, Any]]:
    """What [`killed_runs`] saw."""
    command = [sys.executable, "-m", "tests.hf_mmintent.killed_runs", str(folder), str(table), *moments]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"moment"')]


def assert_nothing_repeated_or_lost(seen: list[dict[str, Any]]) -> None:
    for earlier, later in itertools.pairwise(seen):
        kept = {name: later["state"].get(name) for name in earlier["state"]}
        assert kept == earlier["state"], (earlier["moment"], later["moment"])


def scores(folder: Path, table: Path) -> dict[str, Any]:
    """By job, with the score that selected its epoch."""
    found = {job.name: RunResult.from_json(job.folder / RESULT_FILE) for job in expand(load_table(table), folder)}
    return {name: (result.scores, result.config["validation"]) for name, result in found.items()}


def test_killed_at_every_moment(root: Path, tmp_path: Path, table: Path) -> None:
    seen = kill(root, tmp_path / "out", table, MOMENTS)
    assert [step["moment"] for step in seen] == MOMENTS
    assert [step["killed"] for step in seen] == [True] * (len(MOMENTS) - 1) + [False], "a moment was not met"
    assert seen[-1]["code"] == 0
    assert_nothing_repeated_or_lost(seen)
    finished = [sum(name.endswith(RESULT_FILE) for name in step["state"]) for step in seen]
    assert finished == [0] * 8 + [1] * 2 + [2] * 3
    report = tmp_path / "out" / table.stem
    assert {path.name for path in report.glob(f"{table.stem}.*")} == {
        f"{table.stem}.{end}" for end in ("md", "csv", "json")
    }
    assert not list(report.rglob("checkpoint-*")) and not list(report.rglob("*.tmp"))
    # the very numbers of an undisturbed call
    assert [step["killed"] for step in kill(root, tmp_path / "calm", table, ["nothing"])] == [False]
    assert scores(tmp_path / "out", table) == scores(tmp_path / "calm", table)


@pytest.mark.slow
def test_killed_at_random_moments(root: Path, tmp_path: Path, table: Path) -> None:
    """Until a call lives to its end; every call gets a little more time, so that one does."""
    draw = random.Random(0)
    moments = [f"{draw.uniform(0.1, 0.6) * (1 + 0.2 * number):.2f}" for number in range(16)]
    seen = kill(root, tmp_path / "out", table, [*moments, "nothing"])
    assert any(step["killed"] for step in seen) and not seen[-1]["killed"] and seen[-1]["code"] == 0
    assert_nothing_repeated_or_lost(seen)
    kill(root, tmp_path / "calm", table, ["nothing"])
    assert scores(tmp_path / "out", table) == scores(tmp_path / "calm", table)
