"""The script as a user starts it: killed and resumed, in two processes, with a bad clip."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_mmintent.data.loading import load
from tests.examples.test_scripts import LAUNCHER
from tests.hf_mmintent.test_extraction import make_clips, shard_bytes

SCRIPT = "examples/extract_features.py"
OPTIONS = ("--set", "image_size=24", "grid_size=4", "num_mel_bins=6", "--shard_size", "2", "--batch_size", "2")


def begin(root: Path, *command: str, **environment: str) -> subprocess.Popen:
    variables = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == code, printed[-2000:] + errors[-4000:]
    return printed


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_clips(tmp_path_factory.mktemp("clips") / "clips", count=30)
    (folder / "train" / "c11.mp4").write_bytes(b"no clip at all")
    return folder


@pytest.fixture(scope="module")
def whole(clips: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extraction that nothing interrupted; its bad clip shows in the exit code."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    printed = finish(begin(root, sys.executable, SCRIPT, str(clips), str(folder), *OPTIONS), code=3)
    start = f"{folder}: train 30, validation 30 rows, 3 rows without audio, 1 row without video; "
    start += "1 clip failed (failures.jsonl); 30 shards made, 0 kept, "
    assert printed.splitlines()[-1].startswith(start)
    assert '"id": "train/c11"' in (folder / "failures.jsonl").read_text()
    without = [row["id"] for row in load(folder)["train"] if row["video_features"] is None]
    assert without == ["train/c11"]
    return folder


def test_a_killed_run_goes_on_where_it_was(clips: Path, whole: Path, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = (sys.executable, SCRIPT, str(clips), str(folder), *OPTIONS, "--decoders", "1")
    process = begin(root, *command)
    limit = time.monotonic() + 120
    while len(list((folder / "data").glob("*.arrow")) if folder.exists() else []) < 3:
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in (folder / "data").glob("*.arrow")}
    assert 3 <= len(done) < 30
    for path in done:
        assert path.read_bytes() == (whole / "data" / path.name).read_bytes()
    with pytest.raises(ValueError, match="is not finished"):
        load(folder)
    printed = finish(begin(root, *command), code=3)
    assert f"; {30 - len(done)} shards made, {len(done)} kept, " in printed
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())
    assert shard_bytes(folder) == shard_bytes(whole)
    assert (folder / "failures.jsonl").read_text() == (whole / "failures.jsonl").read_text()
    assert not list(folder.rglob("*.tmp"))
    assert load(folder)["train"]["id"] == load(whole)["train"]["id"]


@pytest.mark.distributed
def test_two_processes_share_the_shards(clips: Path, whole: Path, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = (*LAUNCHER, SCRIPT, str(clips), str(folder), *OPTIONS)
    printed = finish(begin(root, *command, ACCELERATE_USE_CPU="true"), code=1)  # the launcher's, for any but 0
    assert printed.count("30 shards made, 0 kept") == 1  # one summary; each process alone would make them all
    assert shard_bytes(folder) == shard_bytes(whole)
