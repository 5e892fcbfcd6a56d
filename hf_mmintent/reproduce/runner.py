"""All jobs of a table: one after another, or one at a time on each device."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_mmintent.metrics.files import atomic_path

from .jobs import CHECKPOINT_SECONDS, FAILURE_FILE, Job, expand, finished_result, run_job
from .report import write_report
from .table_files import Table
from .workers import run_on_devices, serve

logger = logging.get_logger(__name__)

LOCK_FILE = "job.lock"


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
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
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
        worker_command: how a process that calls [`work`] is started for `devices`.
        commands: shown in the report.
        checkpoint_seconds: a running job writes a checkpoint when its last one is that old.

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
        bar = tqdm(pending, desc=table.name, disable=len(pending) < 2)
        failed = [job.name for job in bar if not _attempt(job, keep, checkpoint_seconds)]
    if not only:
        # What another process was at, one that outlived an interrupted call for instance, belongs in the report too.
        elsewhere = [job for job in pending if job.name not in failed and finished_result(job) is None]
        failed += [job.name for job in elsewhere if not _attempt(job, keep, checkpoint_seconds, wait=True)]
        write_report(table, Path(output_dir), data or {}, seeds, commands)
    return failed


def work(
    table: Table,
    output_dir: str | Path,
    data: Mapping[str, Path] | None = None,
    seeds: tuple[int, ...] | None = None,
    keep: str = "final",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Run the jobs that are named on standard input, one a line, and answer each on standard output; see [`serve`]."""
    jobs = {job.name: job for job in expand(table, output_dir, data, seeds)}
    serve(lambda name: _attempt(jobs[name], keep, checkpoint_seconds))


def _attempt(job: Job, keep: str, checkpoint_seconds: float, wait: bool = False) -> bool:
    """Run one job unless another process is at it, or after that process; a failure is written beside it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if wait:
        logger.warning(f"{job.name} is run by another process: waiting for it.")
    try:
        with FileLock(job.folder / LOCK_FILE, blocking=wait):
            run_job(job, keep, checkpoint_seconds)
    except Timeout:
        logger.warning(f"{job.name} is run by another process: left to it.")
    except Exception:  # one broken run must not cost the night's other thirty
        _put_down(job, traceback.format_exc())
        logger.error(f"{job.name} failed, see {job.folder / FAILURE_FILE}:\n{traceback.format_exc(limit=-2)}")
        return False
    return True


def _put_down(job: Job, reason: str) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(job.folder / FAILURE_FILE) as temporary:
        temporary.write_text(reason, encoding="utf-8")


def _on_devices(jobs: Sequence[Job], devices: Sequence[str], command: Sequence[str]) -> list[str]:
    """The jobs in processes of their own; one that dies is put down as failed."""
    if not command:
        raise ValueError("`devices` are named but `worker_command` is empty: say how a worker is started.")
    by_name = {job.name: job for job in jobs}

    def died(name: str, code: int) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        _put_down(by_name[name], f"the process that ran {name} ended with {how}.\n")
        logger.error(f"{name} failed: its process ended with {how}. The same command tries it again.")

    with tqdm(total=len(jobs), desc="runs") as progress:
        return run_on_devices(list(by_name), devices, command, died, progress.update)
