"""How fast rows come from Arrow files to padded batches, and what that takes of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from hf_mmintent.benchmark.shapes import Shape, shape_named
from hf_mmintent.benchmark.subject import single_token_words, synthetic_tokenizer
from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.reading import direct
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor

_NAMES = ["a", "b", "c"]


@dataclass
class Reading:
    """
    What reading a dataset once, in random order, came to.

    Args:
        rows: read.
        wall, cpu: rows per second by the clock on the wall and by that of this process.
        growth: MiB of anonymous memory above what one batch took; pages of mapped files are not counted.
        size: MiB of the dataset's file.
    """

    rows: int
    wall: float
    cpu: float
    growth: float
    size: float

    def __str__(self) -> str:
        return (
            f"{self.rows:6d} rows of {self.size:.0f} MiB: {self.wall:.0f} rows/s on the wall clock, {self.cpu:.0f} rows/s "
            f"of processor time, memory grows by {self.growth:.1f} MiB"
        )


def write_rows(folder: Path, shape: Shape, count: int) -> Path:
    """An Arrow file of `count` rows of full length, with random features; the same for the same arguments."""
    path = folder / f"{count}.arrow"
    words = single_token_words(synthetic_tokenizer())
    columns: dict[str, Any] = {"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=_NAMES)}
    columns |= {f"{name}_features": Array2D((None, width), "float32") for name, (_, width) in shape.features.items()}
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    writer = ArrowWriter(features=Features(columns), path=str(path), writer_batch_size=64)
    for index in tqdm(range(count), desc="writing rows", leave=False):
        row: dict[str, Any] = {"id": str(index), "label": index % len(_NAMES)}
        row["text"] = " ".join(random.choice(words, shape.text - 2))
        for name, (steps, width) in shape.features.items():
            row[f"{name}_features"] = random.standard_normal((steps, width), dtype=np.float32)
        writer.write(row)
    writer.finalize()
    writer.close()
    return path


def own_memory() -> float:
    """
    MiB of anonymous memory of this process.

    Raises:
        RuntimeError: the system does not tell; Linux does.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the anonymous memory of a process: measure on Linux.")


def measure_reading(path: Path, shape: Shape, batch_size: int = 64, seed: int = 0) -> Reading:
    """Read every row of an Arrow file in random order, as a training epoch does, on one core."""
    torch.set_num_threads(1)
    sizes = {name: width for name, (_, width) in shape.features.items()}
    processor = MultimodalProcessor(
        synthetic_tokenizer(),
        modalities=("text", *sizes),
        feature_sizes=sizes,
        label_names=_NAMES,
        max_text_length=shape.text,
    )
    rows = direct(Dataset.from_file(str(path)).with_format(FORMAT))
    collate = MultimodalCollator(processor)
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    collate(rows.__getitems__(order[:batch_size]))
    before = peak = own_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    for first in tqdm(range(0, len(order), batch_size), desc="reading", leave=False, mininterval=1.0):
        collate(rows.__getitems__(order[first : first + batch_size]))
        peak = max(peak, own_memory())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Reading(len(rows), len(rows) / wall, len(rows) / cpu, peak - before, path.stat().st_size / 2**20)


def measure_sizes(folder: Path, shape: str = "mosi", sizes: tuple[int, ...] = (2000, 16000)) -> list[Reading]:
    """[`Reading`] of datasets of several sizes, each in a process of its own so that no memory is left of another."""
    found = []
    for count in sizes:
        path = write_rows(folder, shape_named(shape), count)
        command = [sys.executable, "-m", __name__, str(path), shape]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found.append(Reading(**json.loads(done.stdout.splitlines()[-1])))
        path.unlink()
    return found


if __name__ == "__main__":
    print(json.dumps(vars(measure_reading(Path(sys.argv[1]), shape_named(sys.argv[2])))))
