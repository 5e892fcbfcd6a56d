"""All jobs of a table: one after another, or one at a time on each device."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_mmintent.metrics.files import atomic_path

from .jobs import FAILURE_FILE, Job, expand, finished_result, run_job
from .report import write_report
from .table_files import Table

logger = logging.get_logger(__name__)


def reproduce(
    table: Table,
    output_dir: str | Path = "runs/tables",
    data: Mapping[str, Path] | None = None,
    seeds: tuple[int, ...] | None = None,
    devices: Sequence[str] = (),
    keep: str = "final",
    only: Sequence[str] = (),
    worker_command: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> list[str]:
    """
    Run what of a table is not done yet, then write its report.

    Interrupted at any moment and called again, it repeats no finished run and goes on with the one that was cut short from
    its last complete checkpoint. A run that fails is written down and the others go on.

    Args:
        table: from [`load_table`].
        output_dir: a folder for all tables.
        data: folders by dataset name, see [`data_folder`].
        seeds: in place of the table's.
        devices: run one job at a time on each, "0" or "1" for GPUs, "cpu"; in this process when none is named.
        keep: which weights stay, see [`run_job`].
        only: names of jobs; the others are left out, and no report is written.
        worker_command: how a single job is started for `devices`; `--only NAME` is added.
        commands: shown in the report.

    Returns:
        Names of the jobs that failed.
    """
    every = expand(table, output_dir, data, seeds)
    jobs = [job for job in every if not only or job.name in only]
    unknown = sorted(set(only) - {job.name for job in jobs})
    if unknown:
        raise ValueError(f"`only` names {unknown}: the jobs are {[job.name for job in every]}.")
    pending = [job for job in jobs if finished_result(job) is None]
    logger.warning(f"{table.name}: {len(jobs)} runs, {len(jobs) - len(pending)} finished already.")
    if devices:
        failed = _on_devices(pending, devices, worker_command)
    else:
        failed = [
            job.name for job in tqdm(pending, desc=table.name, disable=len(pending) < 2) if not _attempt(job, keep)
        ]
    if not only:
        write_report(table, Path(output_dir), data or {}, seeds, commands)
    return failed


def _attempt(job: Job, keep: str) -> bool:
    """Run one job unless another process is at it; a failure is written beside it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.folder / "job.lock", blocking=False):
            run_job(job, keep)
    except Timeout:
        logger.warning(f"{job.name} is run by another process: left to it.")
    except Exception:  # one broken run must not cost the night's other thirty
        with atomic_path(job.folder / FAILURE_FILE) as temporary:
            temporary.write_text(traceback.format_exc(), encoding="utf-8")
        logger.error(f"{job.name} failed, see {job.folder / FAILURE_FILE}:\n{traceback.format_exc(limit=-2)}")
        return False
    return True


def _on_devices(jobs: Sequence[Job], devices: Sequence[str], command: Sequence[str]) -> list[str]:
    """One process per job, one job at a time per device."""
    if not command:
        raise ValueError("`devices` are named but `worker_command` is empty: say how a single job is started.")
    queue: SimpleQueue[Job] = SimpleQueue()
    for job in jobs:
        queue.put(job)
    failed: list[str] = []

    def work(device: str) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
        while True:
            try:
                job = queue.get_nowait()
            except Empty:
                return
            done = subprocess.run([*command, "--only", job.name], env=environment, stdout=sys.stderr)
            if done.returncode != 0:
                failed.append(job.name)
            progress.update()

    with tqdm(total=len(jobs), desc="runs") as progress:
        threads = [threading.Thread(target=work, args=(device,)) for device in devices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return failed
