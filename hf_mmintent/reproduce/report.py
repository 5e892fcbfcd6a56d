"""The results of a table as Markdown, CSV and JSON: our mean ± std, the paper's value, the difference, the test."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mmintent.metrics import (
    BootstrapResult,
    Predictions,
    RunResult,
    Summary,
    format_score,
    format_summary,
    holm,
    mean_std,
    paired_bootstrap,
    to_csv,
    to_markdown,
)
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.metrics.tables import NOT_AVAILABLE, PAPER_NOTE, is_percent

from .jobs import FAILURE_FILE, PREDICTIONS_FILE, Job, expand, finished_result, missing_files, references
from .measured import measured
from .table_files import LOWER_IS_BETTER, Block, Row, Table, slug

MINUS = "−"


@dataclass(frozen=True)
class RowResult:
    """
    What is known about one row.

    Args:
        row: of the table.
        planned, results: seeds that were asked for, and results that are there, by seed.
        failed: seeds whose run failed.
        scores, validation: our scores on the reported and on the validation split over the seeds that are there.
        paper: the paper's numbers in our scale.
        command: trains the row without this machinery.
    """

    row: Row
    planned: tuple[int, ...]
    results: dict[int, RunResult]
    failed: tuple[int, ...]
    scores: dict[str, Summary]
    validation: dict[str, Summary]
    paper: dict[str, float]
    command: str | None


@dataclass(frozen=True)
class Comparison:
    """A proposed system against the baseline that is best on the validation split."""

    system: str
    baseline: str
    key: str
    result: BootstrapResult
    adjusted_p: float


@dataclass(frozen=True)
class BlockReport:
    """One block of a table: its rows, comparisons, and the files it waits for."""

    block: Block
    source: str
    rows: list[RowResult]
    comparisons: list[Comparison]
    missing: list[str]


@dataclass(frozen=True)
class TableReport:
    """Everything that is written about a table."""

    table: Table
    blocks: list[BlockReport]
    commands: tuple[str, ...]


def table_report(
    table: Table,
    output_dir: str | Path,
    data: Mapping[str, Path] | None = None,
    seeds: tuple[int, ...] | None = None,
    commands: Sequence[str] = (),
) -> TableReport:
    """Collect what the finished runs of a table left behind; see [`reproduce`] for the arguments."""
    jobs = expand(table, output_dir, data or {}, seeds)
    blocks = []
    for block in table.blocks:
        source = block.source or table.source
        folder = Path(output_dir) / table.name / slug(block.name)
        of_block = [job for job in jobs if job.block == block]
        rows = [_row_result(block, row, source, of_block, table, folder / slug(row.system)) for row in block.rows]
        by_row = {row.row.system: [job for job in of_block if job.row == row.row] for row in rows}
        blocks.append(
            BlockReport(block, source, rows, _comparisons(block, rows, by_row), missing_files(block, data or {}))
        )
    return TableReport(table, blocks, tuple(commands))


def _row_result(block: Block, row: Row, source: str, of_block: list[Job], table: Table, folder: Path) -> RowResult:
    jobs = [job for job in of_block if job.row == row]
    found = {job.seed: result for job in jobs if (result := finished_result(job)) is not None}
    scores = [measured(row.measure, folder)] if row.measure else [result.scores for result in found.values()]
    failed = tuple(job.seed for job in jobs if job.seed not in found and (job.folder / FAILURE_FILE).exists())
    return RowResult(
        row=row,
        planned=tuple(job.seed for job in jobs),
        results=found,
        failed=failed,
        scores=_summaries(scores),
        validation=_summaries([result.config["validation"] for result in found.values()]),
        paper={reference.key: reference.value for reference in references(block, row, source)},
        command=_train_command(block, row, jobs, table),
    )


def _summaries(scores: list[dict[str, float]]) -> dict[str, Summary]:
    common = [key for key in scores[0] if all(key in score for score in scores)] if scores else []
    return {key: mean_std([score[key] for score in scores]) for key in common}


def _train_command(block: Block, row: Row, jobs: list[Job], table: Table) -> str | None:
    """`examples/train.py` with the settings of the row."""
    if row.config is None:
        return None
    settings = {**block.set, **row.set}
    if jobs and jobs[0].run.data.data_dir:
        settings["data.data_dir"] = jobs[0].run.data.data_dir
    config = Path(os.path.relpath(table.configs / row.config))  # a report is read on other machines
    words = ["python", "examples/train.py", config.as_posix()]
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join([*words, *(["--seeds", *(str(job.seed) for job in jobs)] if jobs else [])])


# ---- which baseline, and how far from it ---------------------------------------------------------------------------


def best_baseline(rows: Sequence[RowResult], key: str) -> RowResult | None:
    """The row that is not proposed with the best mean **validation** score; the reported split has no say in it."""
    known = [
        row
        for row in rows
        if not row.row.proposed and key in row.validation and not math.isnan(row.validation[key].mean)
    ]
    sign = -1 if key in LOWER_IS_BETTER else 1
    return max(known, key=lambda row: sign * row.validation[key].mean, default=None)


def _comparisons(block: Block, rows: list[RowResult], jobs: Mapping[str, list[Job]]) -> list[Comparison]:
    baseline = best_baseline(rows, block.headline)
    proposed = [row for row in rows if row.row.proposed and row.results]
    if baseline is None or not proposed:
        return []
    against = _predictions(jobs[baseline.row.system])
    found = [
        paired_bootstrap(_predictions(jobs[row.row.system]), against, block.headline, cluster=block.cluster)
        for row in proposed
    ]
    adjusted = holm([result.p_value for result in found])
    return [
        Comparison(row.row.system, baseline.row.system, block.headline, result, p)
        for row, result, p in zip(proposed, found, adjusted, strict=True)
    ]


def _predictions(jobs: list[Job]) -> list[Predictions]:
    return [Predictions.load(job.folder / PREDICTIONS_FILE) for job in jobs if finished_result(job) is not None]


# ---- as text ---------------------------------------------------------------------------------------------------------


def write_report(
    table: Table,
    output_dir: Path,
    data: Mapping[str, Path] | None = None,
    seeds: tuple[int, ...] | None = None,
    commands: Sequence[str] = (),
) -> TableReport:
    """Write `<table>.md`, `.csv` and `.json` into `output_dir/<table>`; returns what they show."""
    report = table_report(table, output_dir, data, seeds, commands)
    folder = output_dir / table.name
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        ".md": markdown(report),
        ".csv": to_csv(csv_cells(report)),
        ".json": json.dumps(as_dict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for ending, text in texts.items():
        with atomic_path(folder / f"{table.name}{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return report


def markdown(report: TableReport) -> str:
    """The whole report as Markdown."""
    table = report.table
    parts = [
        f"# {table.title}",
        f"Source: {table.source}. Every cell: ours (mean ± std over seeds) / paper / difference.",
    ]
    parts += [_block_markdown(block) for block in report.blocks]
    if table.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in table.notes))
    if report.commands:
        parts.append("## Commands\n\n```bash\n" + "\n".join(report.commands) + "\n```")
    made = _made_with(report)
    if made:
        parts.append(made)
    return "\n\n".join(parts) + "\n"


def _block_markdown(report: BlockReport) -> str:
    block = report.block
    header = ["System", *block.columns, "n", "Runs"]
    cells = [
        header,
        *([_label(row), *(_cell(row, key) for key in block.columns), *_counts(row)] for row in report.rows),
    ]
    scored = [f"Scored once per run: the split `{block.split}`."] if any(row.command for row in report.rows) else []
    parts = [f"## {block.name}", *scored, to_markdown(cells).rstrip()]
    if report.missing:
        needs = f" {block.needs}" if block.needs else ""
        parts.append(f"**Not run**: the data folder lacks {', '.join(f'`{name}`' for name in report.missing)}.{needs}")
    for comparison in report.comparisons:
        parts.append(_comparison_line(comparison, block))
    parts += [f"{row.row.system}: {row.row.note}" for row in report.rows if row.row.note]
    parts += [
        f"**Failed**: {row.row.system}, seeds {list(row.failed)}; the reason is in `{FAILURE_FILE}` of each run."
        for row in report.rows
        if row.failed
    ]
    commands = [row.command for row in report.rows if row.command]
    if commands:
        parts.append("```bash\n" + "\n".join(commands) + "\n```")
    return "\n\n".join(parts)


def _label(row: RowResult) -> str:
    name = f"**{row.row.system}**" if row.row.proposed else row.row.system
    return name if row.row.config or row.row.measure else f"{name} (paper only)"


def _cell(row: RowResult, key: str) -> str:
    ours = format_summary(key, row.scores[key]) if key in row.scores else "–"
    if key not in row.paper:
        return ours
    paper = format_score(key, row.paper[key])
    if key in row.row.paper_std:
        std = row.row.paper_std[key]
        paper += f" ± {format_score(key, std / 100 if is_percent(key) else std)}"
    return f"{ours} / {paper} / {_difference(row, key)}" if key in row.scores else f"– / {paper}"


def _difference(row: RowResult, key: str) -> str:
    value = row.scores[key].mean - row.paper[key]
    if math.isnan(value):
        return NOT_AVAILABLE
    return f"{'+' if value >= 0 else MINUS}{format_score(key, abs(value))}"


def _counts(row: RowResult) -> list[str]:
    sizes = sorted({result.n for result in row.results.values()})
    done = str(len(row.results))
    runs = done if len(row.results) == len(row.planned) else f"{done} of {len(row.planned)}"
    return [", ".join(map(str, sizes)) or "–", runs if row.planned else "measured" if row.row.measure else "–"]


def _comparison_line(comparison: Comparison, block: Block) -> str:
    result = comparison.result
    delta, low, high = (
        ("+" if value >= 0 else MINUS) + format_score(comparison.key, abs(value)) if not math.isnan(value) else "n/a"
        for value in (result.delta, result.low, result.high)
    )
    unit = f"units of `{block.cluster}`" if block.cluster else "samples"
    return (
        f"{comparison.system} against {comparison.baseline} (best baseline on the validation split), {comparison.key}: "
        f"Δ {delta}, 95 % interval {low} … {high}, p = {result.p_value:.4f}, Holm-corrected {comparison.adjusted_p:.4f} "
        f"(paired bootstrap, {result.resamples} resamples of {result.clusters} {unit}, seeds {result.seeds_a} and "
        f"{result.seeds_b})."
    )


def _made_with(report: TableReport) -> str:
    results = [r for block in report.blocks for row in block.rows for r in row.results.values()]
    if not results:
        return ""
    devices = sorted({str(result.device) for result in results})
    commits = sorted({str(result.config["facts"].get("commit")) for result in results})
    libraries = results[0].library_versions
    versions = ", ".join(
        f"{name} {libraries[name]}" for name in ("torch", "transformers", "datasets") if name in libraries
    )
    minutes = sum(result.wall_clock_seconds or 0.0 for result in results) / 60
    return (
        f"{len(results)} runs, {minutes:.0f} minutes of training in all, on {', '.join(devices)}; {versions}; commit "
        f"{', '.join(commits)}. The paper's values: {PAPER_NOTE}; only the difference of means can be read from them."
    )


def csv_cells(report: TableReport) -> list[list[str]]:
    """One line per block, system and score, unrounded, in our scale."""
    cells = [
        ["block", "system", "proposed", "split", "key", "runs", "n", "mean", "std", "values", "paper", "difference"]
    ]
    for block in report.blocks:
        for row in block.rows:
            for key in block.block.columns:
                cells.append(
                    [
                        block.block.name,
                        row.row.system,
                        str(row.row.proposed).lower(),
                        block.block.split,
                        key,
                        *_figures(row, key),
                    ]
                )
    return cells


def _figures(row: RowResult, key: str) -> list[str]:
    summary, paper = row.scores.get(key), row.paper.get(key)
    n = "|".join(str(size) for size in sorted({result.n for result in row.results.values()}))
    shown = "" if paper is None else repr(paper)
    if summary is None:
        return ["0", n, "", "", "", shown, ""]
    difference = "" if paper is None else repr(summary.mean - paper)
    values = "|".join(repr(value) for value in summary.values)
    return [str(summary.n), n, repr(summary.mean), repr(summary.std), values, shown, difference]


def as_dict(report: TableReport) -> dict[str, Any]:
    """Plain containers for JSON; an undefined number is null."""
    return {
        "table": report.table.name,
        "title": report.table.title,
        "source": report.table.source,
        "notes": list(report.table.notes),
        "commands": list(report.commands),
        "blocks": [
            {
                "name": block.block.name,
                "split": block.block.split,
                "missing": block.missing,
                "rows": [_row_dict(row) for row in block.rows],
                "comparisons": [_plain(dataclasses.asdict(comparison)) for comparison in block.comparisons],
            }
            for block in report.blocks
        ],
    }


def _row_dict(row: RowResult) -> dict[str, Any]:
    return _plain(
        {
            "system": row.row.system,
            "proposed": row.row.proposed,
            "planned_seeds": row.planned,
            "finished_seeds": list(row.results),
            "failed_seeds": row.failed,
            "scores": {key: dataclasses.asdict(summary) for key, summary in row.scores.items()},
            "validation": {key: dataclasses.asdict(summary) for key, summary in row.validation.items()},
            "paper": row.paper,
            "paper_std": row.row.paper_std,
            "note": row.row.note,
            "command": row.command,
            "seconds": {seed: result.wall_clock_seconds for seed, result in row.results.items()},
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
