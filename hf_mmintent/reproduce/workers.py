"""Processes that run jobs by name, one at a time, for as long as there are any."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import TextIO

DONE, FAILED = "done", "failed"


def serve(run: Callable[[str], bool], requests: Iterable[str] | None = None, answers: TextIO | None = None) -> None:
    """
    Run every job that is named on a line of `requests`; answer "done NAME" or "failed NAME".

    A process that has imported its libraries and read its data once is worth keeping: that takes as long as a short run.

    Args:
        run: called with a name; whether it went well.
        requests: lines, of standard input by default; the end of them, as when the asking process is gone, ends this one
            after its present job.
        answers: lines; standard output by default, which is then closed to everything else that prints.
    """
    answers = answers or _own_output()
    for line in sys.stdin if requests is None else requests:
        name = line.strip()
        print(DONE if run(name) else FAILED, name, file=answers, flush=True)


def _own_output() -> TextIO:
    """Standard output for the caller alone: what libraries print there goes to standard error from now on."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def run_on_devices(
    names: Sequence[str],
    devices: Sequence[str],
    command: Sequence[str],
    died: Callable[[str, int], None],
    finished: Callable[[], object] = lambda: None,
) -> list[str]:
    """
    One process per device, each with one job at a time; a process that dies takes its job with it and is replaced.

    Args:
        names: of the jobs, in the order in which they are begun.
        devices: "0", "1" for GPUs, "cpu"; a device that is named twice runs two at a time.
        command: of a process that calls [`serve`].
        died: called with the name of a job and the exit code of the process that was at it.
        finished: called after every job.

    Returns:
        Names of the jobs that failed.
    """
    queue: SimpleQueue[str] = SimpleQueue()
    for name in names:
        queue.put(name)
    failed: list[str] = []

    def work(device: str) -> None:
        process: subprocess.Popen[str] | None = None
        while True:
            try:
                name = queue.get_nowait()
            except Empty:
                break
            if process is None:
                process = _start(command, device_environment(device, devices, os.environ))
            if not _ask(process, name, failed):
                died(name, process.wait())
                process = None
            finished()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()

    threads = [threading.Thread(target=work, args=(device,)) for device in devices[: len(names)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def device_environment(device: str, devices: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """
    Environment of a worker: which GPU it sees; of several on the CPU, its share of the cores.

    Without the latter each would start one thread per core, and they would wait for each other most of the time.
    """
    found = {**environment, "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
    on_cpu = devices.count("cpu")
    if device == "cpu" and on_cpu > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found.setdefault("OMP_NUM_THREADS", str(max(1, cores // on_cpu)))
    return found


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(command), env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def _ask(process: subprocess.Popen[str], name: str, failed: list[str]) -> bool:
    """Whether the process lived to answer; a job that failed is put down."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        answer = process.stdout.readline().split(maxsplit=1)
    except BrokenPipeError:
        answer = []
    if not answer or answer[0] != DONE:
        failed.append(name)
    return bool(answer)
