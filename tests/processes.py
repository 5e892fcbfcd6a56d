"""Two real processes for the tests of distributed training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_in_two_processes(root: Path, *command: Any, timeout: float = 300) -> None:
    """
    Run `command` (a script or `-m`, a module, and arguments) twice under torch's launcher, on CPU; both must succeed.

    Args:
        root: the checkout, on the path of both processes and their working directory.
        command: the script and its arguments.
        timeout: seconds.
    """
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",  # without it each process would believe to be the only one
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, *map(str, command)], env=environment, cwd=root, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-3000:]
