"""Worker processes: one job at a time each, alive between jobs, replaced when they die; and what they need not read."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import DatasetDict

from hf_mmintent.metrics.sample_statistics import statistic
from hf_mmintent.reproduce.scored import _pairs
from hf_mmintent.reproduce.workers import device_environment, run_on_devices, serve
from hf_mmintent.training import RunConfig, runs

from .test_prediction import rows_of

# Notes its process and device for every job; "bad" fails, "dead" takes the process with it.
WORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
def run(name):
    print("noise of a library")
    with Path(sys.argv[1]).open("a") as file:
        file.write(f"{name} {os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']!r}\\n")
    if name == "dead":
        os.kill(os.getpid(), signal.SIGKILL)
    return name != "bad"
import importlib.util
spec = importlib.util.spec_from_file_location("workers", sys.argv[2] + "/hf_mmintent/reproduce/workers.py")
workers = importlib.util.module_from_spec(spec); spec.loader.exec_module(workers)
workers.serve(run)
"""


def start(
    tmp_path: Path, root: Path, names: list[str], devices: list[str]
) -> tuple[list[str], list[Any], list[list[str]]]:
    """What failed, who died, and one `[name, pid, device]` per job."""
    log, deaths = tmp_path / "log", []
    command = [sys.executable, "-c", WORKER, str(log), str(root)]
    failed = run_on_devices(names, devices, command, lambda name, code: deaths.append((name, code)))
    return failed, deaths, [line.split() for line in log.read_text().splitlines()]


def test_a_process_is_kept_for_all_of_its_jobs(tmp_path: Path, root: Path) -> None:
    failed, deaths, done = start(tmp_path, root, ["a", "b", "c"], ["cpu"])
    assert not failed and not deaths
    assert [name for name, *_ in done] == ["a", "b", "c"] and len({pid for _, pid, _ in done}) == 1


def test_a_failure_or_a_death_costs_one_job(tmp_path: Path, root: Path) -> None:
    failed, deaths, done = start(tmp_path, root, ["a", "bad", "dead", "b"], ["cpu"])
    assert failed == ["bad", "dead"] and deaths == [("dead", -signal.SIGKILL)]
    pids = [pid for _, pid, _ in done]
    assert [name for name, *_ in done] == ["a", "bad", "dead", "b"]
    assert len(set(pids[:3])) == 1 and pids[3] != pids[0]


def test_every_job_runs_once_on_some_device(tmp_path: Path, root: Path) -> None:
    names = [f"job{number}" for number in range(12)]
    failed, _, done = start(tmp_path, root, names, ["0", "1"])
    assert not failed and sorted(name for name, *_ in done) == sorted(names)
    assert {device for *_, device in done} <= {"'0'", "'1'"} and len({pid for _, pid, _ in done}) <= 2


def test_jobs_come_by_lines_and_end_with_them() -> None:
    answers, seen = io.StringIO(), []
    serve(lambda name: not seen.append(name) and name != "b", io.StringIO("a\nb\n"), answers)
    assert seen == ["a", "b"] and answers.getvalue() == "done a\nfailed b\n"


def test_processes_on_the_same_cpu_share_its_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert "OMP_NUM_THREADS" not in device_environment("cpu", ["cpu"], {})
    assert device_environment("cpu", ["cpu", "cpu"], {})["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert device_environment("cpu", ["cpu", "cpu"], {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert device_environment("1", ["0", "1"], {"A": "b"}) == {"A": "b", "CUDA_VISIBLE_DEVICES": "1"}


def test_clips_are_not_decoded_for_a_model_of_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])  # the files do not exist
    parts = {name: rows.select([number]) for number, name in enumerate(("train", "validation", "test"))}
    monkeypatch.setattr(runs, "load", lambda *_, **__: DatasetDict(parts))
    values = {"model_type": "unimodal", "encoder": {"audio_front_end": "log_mel", "video_front_end": "pixel_grid"}}
    words = RunConfig.from_dict({**values, "config": {"modalities": ["text"]}})
    assert set(runs.read_splits(words)) == {"train", "validation"}
    with pytest.raises(Exception, match=r"a\.mp4"):
        runs.read_splits(RunConfig.from_dict({**values, "config": {"modalities": ["audio"]}}))


def test_pairs_of_labels_are_numbered_together() -> None:
    names = {"emotion": ["happy", "sad"], "intent": ["joke", "warn", "ask"]}
    answers = [("Sad", "warn"), ("happy", "ask"), (None, "joke"), ("sad", None), ("happy", "joke")]
    found = _pairs([SimpleNamespace(emotion=emotion, intent=intent) for emotion, intent in answers], names)
    assert found.tolist() == [4, 2, -1, -1, 0]
    assert statistic("joint_accuracy").value(np.array([4, 2, 0, 5, 1]), found) == pytest.approx(0.4)
