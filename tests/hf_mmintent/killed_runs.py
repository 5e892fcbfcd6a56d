"""
Kills `reproduce` at one moment after another, for `test_reproduce_killed.py`:

    python -m tests.hf_mmintent.killed_runs FOLDER TABLE MOMENT [MOMENT ...]

Every moment is tried in a forked process that ends itself there with SIGKILL; then the next one goes on in the same folder.
A number is a moment too: the process is killed after so many seconds, or ends before. Prints one JSON line per process: its
moment, whether it was killed, and the files of finished runs with their times.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import hf_mmintent.reproduce.jobs as jobs
import hf_mmintent.reproduce.report as report
import hf_mmintent.reproduce.runner as runner
import hf_mmintent.training.runs as runs
from hf_mmintent.metrics import files, results
from hf_mmintent.reproduce import load_table
from hf_mmintent.training import MultimodalTrainer

FINISHED = ("result.json", "predictions.jsonl", "final/run.json", "final/model.safetensors")


def die(*args: Any, **kwargs: Any) -> None:
    """End this process as the out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, but its call number `call` (from 1) kills."""
    count = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return die() if count == call else function(*args, **kwargs)

    return counted


def of_result(function: Callable[..., Any]) -> Callable[..., Any]:
    """`os.fsync`, deadly while a result is written: its temporary file is there and is not renamed."""

    def sync(descriptor: int) -> Any:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        return die() if "result.json" in name else function(descriptor)

    return sync


MOMENTS: dict[str, Callable[[], Any]] = {
    "training": lambda: mock.patch.object(MultimodalTrainer, "compute_loss", before(5, MultimodalTrainer.compute_loss)),
    "checkpoint": lambda: mock.patch.object(MultimodalTrainer, "_save_optimizer_and_scheduler", die),
    "last evaluation": lambda: mock.patch.object(runs, "_plain_scores", die),
    "saving": lambda: mock.patch.object(runs, "build_model_card", die),
    "scoring": lambda: mock.patch.object(jobs, "score", die),
    "after predictions": lambda: mock.patch.object(jobs, "describe_hardware", die),
    "result": lambda: mock.patch.object(files.os, "fsync", of_result(os.fsync)),
    "tidying": lambda: mock.patch.object(jobs, "_tidy", die),
    "before report": lambda: mock.patch.object(runner, "write_report", die),
    "report": lambda: mock.patch.object(report, "atomic_path", before(2, report.atomic_path)),
    "nothing": lambda: mock.patch.object(results, "__doc__", results.__doc__),
}


def state(folder: Path) -> dict[str, int]:
    """Files of runs that have a result, with the time of their last change."""
    found = {}
    for result in folder.rglob(jobs.RESULT_FILE):
        for name in FINISHED:
            path = result.parent / name
            found[str(path.relative_to(folder))] = path.stat().st_mtime_ns
    return found


def run(folder: Path, table: str, moment: str) -> dict[str, Any]:
    """One forked process."""
    child = os.fork()
    if child == 0:
        with MOMENTS.get(moment, MOMENTS["nothing"])():
            failed = runner.reproduce(load_table(table), folder, checkpoint_seconds=0.0)
        os._exit(len(failed))
    if moment not in MOMENTS:
        deadline = time.monotonic() + float(moment)
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
    else:
        status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    code = None if killed else os.WEXITSTATUS(status)
    return {"moment": moment, "killed": killed, "code": code, "state": state(folder)}


def main() -> None:
    """See above."""
    folder, table, *moments = sys.argv[1:]
    for moment in moments:
        print(json.dumps(run(Path(folder), table, moment)), flush=True)


if __name__ == "__main__":
    main()
