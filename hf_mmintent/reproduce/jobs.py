"""One job: train one system with one seed, score it once, keep what the tables are made of."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub.run_summary import describe_hardware
from hf_mmintent.metrics import ReferenceValue, RunResult, label_order_hash
from hf_mmintent.metrics.tables import is_percent
from hf_mmintent.training import RunConfig, train_run

from .scored import score
from .table_files import Block, Row, Table, run_settings, slug

logger = logging.get_logger(__name__)

RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.jsonl"
ANSWERS_FILE = "answers.jsonl"  # of a model that writes
FAILURE_FILE = "failure.txt"
CHECKPOINT_SECONDS = (
    300.0  # what an interruption may cost; a checkpoint per epoch costs short runs a good part of their time
)


@dataclass(frozen=True)
class Job:
    """
    One run of a table.

    Args:
        block, row: where its result belongs.
        seed: of the run.
        run: what to train, with its data folder.
        folder: of everything that it leaves behind.
        source: of the paper's numbers.
    """

    block: Block
    row: Row
    seed: int
    run: RunConfig
    folder: Path
    source: str

    @property
    def name(self) -> str:
        """As it is called on the command line and in reports."""
        return f"{slug(self.block.name)}/{slug(self.row.system)}/seed_{self.seed}"


def data_folder(block: Block, data: Mapping[str, Path]) -> Path | None:
    """
    Where the files of a block are; `None` without any, or for data that needs no files.

    Args:
        block: of a table.
        data: folders by dataset name; the one named "" holds one folder per dataset, or the files of a single one.
    """
    if block.data is None:
        return None
    if block.data in data:
        return data[block.data]
    root = data.get("")
    if root is None:
        return None
    nested = root / block.data
    return nested if nested.is_dir() or not _found(root, block.files) else root


def _found(folder: Path, patterns: tuple[str, ...]) -> bool:
    return bool(patterns) and all(any(any(folder.glob(p)) for p in pattern.split("|")) for pattern in patterns)


def missing_files(block: Block, data: Mapping[str, Path]) -> list[str]:
    """What a block lacks before it can run, in words; empty when everything is at hand."""
    if block.data is None:
        return []
    folder = data_folder(block, data)
    if folder is None or not folder.is_dir():
        return [f"{block.data}/{pattern.replace('|', f' or {block.data}/')}" for pattern in block.files or ("",)]
    return [p.replace("|", " or ") for p in block.files if not any(any(folder.glob(one)) for one in p.split("|"))]


def expand(
    table: Table,
    output_dir: str | Path,
    data: Mapping[str, Path] | None = None,
    seeds: tuple[int, ...] | None = None,
) -> list[Job]:
    """
    All runs of a table whose data is at hand, one seed of every row after another: what is there early can be compared.

    Args:
        table: from [`load_table`].
        output_dir: a folder for all tables; this one's is `output_dir/<table>`.
        data: see [`data_folder`].
        seeds: in place of the table's.
    """
    found = []
    for block in table.blocks:
        if missing_files(block, data or {}):
            continue
        folder = data_folder(block, data or {})
        for seed in seeds or block.seeds or table.seeds:
            for row in block.rows:
                if row.config is None:
                    continue
                place = Path(output_dir) / table.name / slug(block.name) / slug(row.system) / f"seed_{seed}"
                run = run_settings(table, block, row, (seed,))
                where = dataclasses.replace(run.data, data_dir=str(folder) if folder else run.data.data_dir)
                run = dataclasses.replace(run, data=where, output_dir=str(place))
                found.append(Job(block, row, seed, run, place, block.source or table.source))
    return found


def finished_result(job: Job) -> RunResult | None:
    """
    The result of a job that is done.

    Raises:
        ValueError: the folder holds the result of other settings.
    """
    path = job.folder / RESULT_FILE
    if not path.exists():
        return None
    result = RunResult.from_json(path)
    stored, wanted = _settings(result.config["run"]), _settings(job.run.to_dict())
    if stored != wanted:
        differing = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
        raise ValueError(
            f"{job.folder} holds a result of other settings ({', '.join(differing)} differ): delete it or choose another "
            "output folder."
        )
    return result


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about a run's numbers: not where its files lie."""
    plain = json.loads(json.dumps(run))
    data = {name: value for name, value in plain.pop("data").items() if name != "data_dir"}
    return {**{name: value for name, value in plain.items() if name != "output_dir"}, "data": data}


def run_job(job: Job, keep: str = "final", checkpoint_seconds: float = CHECKPOINT_SECONDS) -> RunResult:
    """
    Train, score the split of the block once, store scores and predictions.

    An interrupted job goes on from its last complete checkpoint; a finished one is returned. The split that is scored is
    opened after training and selection are over.

    Args:
        job: from [`expand`].
        keep: "final" deletes the checkpoints of the epochs, "none" the final weights as well, "all" nothing.
        checkpoint_seconds: a checkpoint is written when the last one is that old; 0 writes one per epoch.

    Raises:
        ValueError: the folder holds a run of other settings; what training itself raises.
    """
    done = finished_result(job)
    if done is not None:
        return done
    trained = train_run(job.run, job.seed, job.folder, checkpoint_seconds=checkpoint_seconds)
    model, processor = open_checkpoint(trained.checkpoint)
    if torch.accelerator.is_available():
        device: Any = torch.accelerator.current_accelerator()
        model.to(device)
    rows = load(job.run.data.name, **job.run.data.load_arguments())[job.block.split]
    found = score(model, processor, rows, tuple(job.run.data.drop_modalities), job.seed)
    names = found.label_names
    if found.answers is not None:
        found.answers.save(job.folder / ANSWERS_FILE)
    found.predictions.save(job.folder / PREDICTIONS_FILE)
    _tidy(job.folder, keep)  # before the result, which ends the job: an interruption in between leaves nothing behind
    result = RunResult(
        system=job.row.system,
        dataset=job.run.data.name,
        configuration=job.run.data.config_name or "default",
        split=job.block.split,
        n=len(found.predictions),
        scores={name: value for name, value in found.scores.items() if name != "n"},
        seed=job.seed,
        num_classes=None if names is None else len(names),
        label_order=None if names is None else label_order_hash(names),
        condition=found.condition,
        config={"run": job.run.to_dict(), "validation": trained.validation, "facts": trained.facts},
        device=describe_hardware(),
        wall_clock_seconds=trained.seconds,
        references=references(job.block, job.row, job.source),
    )
    result.to_json(job.folder / RESULT_FILE)
    (job.folder / FAILURE_FILE).unlink(missing_ok=True)
    if keep == "none":  # after it: without result and weights the job would have to train again
        for path in (job.folder / "final").glob("*.safetensors"):
            path.unlink()
    return RunResult.from_json(job.folder / RESULT_FILE)  # as every later call will read it


def references(block: Block, row: Row, source: str) -> tuple[ReferenceValue, ...]:
    """The paper's numbers of a row in our scale: fractions where tables show percent."""
    values = {key: value / 100 if is_percent(key) else value for key, value in row.paper.items()}
    return tuple(ReferenceValue(key, values[key], f"{source}, {block.name}", row.system) for key in values)


def _tidy(folder: Path, keep: str) -> None:
    """Delete what the finished training needs no more, and half-written files."""
    for path in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
        path.unlink()
    if keep == "all":
        return
    for path in [*folder.rglob("checkpoint-*"), *folder.glob("stage_*/best")]:
        shutil.rmtree(path)
