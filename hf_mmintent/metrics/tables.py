"""
Tables from result files: percent with two decimals, MAE, Corr and other non-percent scores with three, `n/a` for an
undefined value, mean ± standard deviation over runs with their number.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .files import atomic_path
from .results import ReferenceValue, RunResult, read_runs
from .significance import Summary, mean_std

NOT_AVAILABLE = "n/a"
PAPER_NOTE = "other code, other splits possible"
_RAW_KEYS = ("mae", "mse", "rmse", "corr", "pearson", "perplexity", "cider_d", "length_ratio")
_CONDITION = re.compile(r"_(?:with_drops|without_.*|stripped|raw)$")  # of a score, such as `mae_without_text`
_HEADERS = {
    "accuracy": "ACC",
    "f1_weighted": "WF1",
    "precision_weighted": "WP",
    "recall_macro": "R",
    "mae": "MAE",
    "corr": "Corr",
}


def is_count(key: str) -> bool:
    """Whether a key is a number of samples (`n`, `joint_n`, `n_in_scope`)."""
    return key == "n" or key.endswith("_n") or key.startswith("n_")


def is_percent(key: str) -> bool:
    """Whether tables show a score in percent: all but counts, the loss, errors, correlations, CIDEr-D, length ratios."""
    base = _CONDITION.sub("", key)
    return not (is_count(key) or base == "loss" or any(base == raw or base.endswith(f"_{raw}") for raw in _RAW_KEYS))


def units(keys: Sequence[str]) -> str:
    """What a table of these scores says about its numbers: `in percent`, or `in percent except mae and corr`."""
    raw = [key for key in keys if not is_percent(key) and not is_count(key)]
    if len(raw) == len(keys):
        return "as they are"
    listed = " and ".join([", ".join(raw[:-1]), raw[-1]] if len(raw) > 1 else raw)
    return f"in percent except {listed}" if raw else "in percent"


def format_score(key: str, value: float) -> str:
    """One value: `71.30` (percent), `0.708` (MAE, Corr, CIDEr-D), `445` (n), `n/a` for NaN."""
    if math.isnan(value):
        return NOT_AVAILABLE
    if is_count(key):
        return f"{value:.0f}"
    return f"{100 * value:.2f}" if is_percent(key) else f"{value:.3f}"


def format_summary(key: str, summary: Summary) -> str:
    """`71.30 ± 0.52`; without ± for a single run; `n/a` when a run is undefined."""
    mean = format_score(key, summary.mean)
    if mean == NOT_AVAILABLE or math.isnan(summary.std) or is_count(key):
        return mean
    return f"{mean} ± {format_score(key, summary.std)}"


@dataclass(frozen=True)
class TableRow:
    """
    One system under one condition.

    Attributes:
        system, condition: Names of the row.
        task: Data set, configuration and split.
        summaries: Key to summary over runs; a key which some run lacks is absent.
        n: Samples per run; of folds, their sum.
        runs: Number of runs.
        unit: "seeds" or "folds".
        references: Numbers of the papers.
    """

    system: str
    condition: str
    task: str
    summaries: dict[str, Summary]
    n: int
    runs: int
    unit: str
    references: tuple[ReferenceValue, ...] = field(default=())


def table_rows(runs: Sequence[RunResult]) -> list[TableRow]:
    """
    Group runs into rows: in order of first appearance, the clean condition of a system before its others.

    Raises:
        ValueError: Runs of one row differ in n or label order, repeat a seed, or mix seeds and folds; or the conditions
            of a system were run with different seeds.
    """
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in runs:
        task = f"{run.dataset}/{run.configuration}/{run.split}"
        groups.setdefault((task, run.system, run.condition), []).append(run)
    first = {key: index for index, key in reversed(list(enumerate(key[:2] for key in groups)))}
    ordered = sorted(groups, key=lambda key: (first[key[:2]], key[2] != "clean"))  # stable: else order of appearance
    seeds: dict[tuple[str, str], set[tuple[int, int | None]]] = {}
    rows = []
    for key in ordered:
        members = groups[key]
        ids = {(run.seed, run.fold) for run in members}
        expected = seeds.setdefault(key[:2], ids)
        if ids != expected:
            raise ValueError(
                f"{key[1]!r} was run with (seed, fold) {sorted(ids, key=str)} under {key[2]!r} but with "
                f"{sorted(expected, key=str)} under its first condition: use the same runs."
            )
        rows.append(_row(key, members))
    return rows


def _row(key: tuple[str, str, str], runs: list[RunResult]) -> TableRow:
    task, system, condition = key
    folds = [run.fold is not None for run in runs]
    if any(folds) and not all(folds):
        raise ValueError(f"The row {system!r} mixes folds and seeds: report them in two rows.")
    unit = "folds" if folds[0] else "seeds"
    ids = [run.fold if unit == "folds" else run.seed for run in runs]
    if len(set(ids)) != len(ids):
        raise ValueError(
            f"The row {system!r} ({task}, {condition}) has the {unit} {ids}: every run must be another one."
        )
    orders = {run.label_order for run in runs}
    sizes = {run.n for run in runs}
    if len(orders) > 1 or (unit == "seeds" and len(sizes) > 1):
        raise ValueError(
            f"The runs of {system!r} ({task}, {condition}) have n = {sorted(sizes)} and label orders "
            f"{sorted(map(str, orders))}: they did not score the same task."
        )
    common = [k for k in runs[0].scores if all(k in run.scores for run in runs)]
    return TableRow(
        system=system,
        condition=condition,
        task=task,
        summaries={k: mean_std([run.scores[k] for run in runs], unit) for k in common},
        n=sum(run.n for run in runs) if unit == "folds" else runs[0].n,
        runs=len(runs),
        unit=unit,
        references=tuple(dict.fromkeys(reference for run in runs for reference in run.references)),
    )


def table_cells(runs: Sequence[RunResult], keys: Sequence[str], references: bool = True) -> list[list[str]]:
    """
    Header and rows of a table as text.

    Args:
        runs: Result files.
        keys: Scores to show, in order; a score that a row lacks is `n/a`.
        references: Also give the papers' numbers below the rows of their task, each with its source. Only the
            difference of means can be read from them; no test is possible.
    """
    rows = table_rows(runs)
    conditions = any(row.condition != "clean" for row in rows)
    tasks = len({row.task for row in rows}) > 1
    header = [*(["Task"] if tasks else []), "System", *(["Condition"] if conditions else [])]
    cells = [[*header, *(_HEADERS.get(key, key) for key in keys), "n", "Runs"]]
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        for row in of_task:
            names = [*([task] if tasks else []), row.system, *([row.condition] if conditions else [])]
            values = [format_summary(k, row.summaries[k]) if k in row.summaries else NOT_AVAILABLE for k in keys]
            unit = row.unit if row.runs > 1 else row.unit[:-1]
            cells.append([*names, *values, str(row.n), f"{row.runs} {unit}"])
        found = dict.fromkeys(reference for row in of_task for reference in row.references) if references else {}
        for system, source in dict.fromkeys((r.system, r.source) for r in found):
            given = {r.key: r.value for r in found if (r.system, r.source) == (system, source)}
            label = f"{system} [{source}; {PAPER_NOTE}]"
            names = [*([task] if tasks else []), label, *(["–"] if conditions else [])]
            values = [format_score(k, given[k]) if k in given else NOT_AVAILABLE for k in keys]
            cells.append([*names, *values, "–", "–"])
    return cells


def difference_from_paper(summary: Summary, reference: ReferenceValue) -> str:
    """The difference of means as text, marked as what it is: a comparison with a number from other code."""
    difference = summary.mean - reference.value
    if math.isnan(difference):
        return NOT_AVAILABLE
    sign = "+" if difference >= 0 else "−"
    return f"{sign}{format_score(reference.key, abs(difference))} ({reference.source}; {PAPER_NOTE})"


def to_markdown(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in cells]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    lines.insert(1, "|" + "---|" * len(escaped[0]))
    return "\n".join(lines) + "\n"


def to_csv(cells: Sequence[Sequence[str]]) -> str:
    """The same cells as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(cells)
    return buffer.getvalue()


def write_table(folder: str | Path, keys: Sequence[str], path: str | Path) -> None:
    """
    Render all result files of a folder to a `.md` or `.csv` file.

    Raises:
        ValueError: The folder holds no result file, or `path` ends otherwise.
    """
    writers = {".md": to_markdown, ".csv": to_csv}
    if Path(path).suffix not in writers:
        raise ValueError(f"The table is named {Path(path).name!r}: it must end in .md or .csv.")
    runs = read_runs(folder)
    if not runs:
        raise ValueError(f"{Path(folder).name!r} holds no *.json result file.")
    with atomic_path(path) as temporary:
        temporary.write_text(writers[Path(path).suffix](table_cells(runs, keys)), encoding="utf-8")
