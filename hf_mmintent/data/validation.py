"""Is this the dataset it should be? A readable report over the files of a user; errors, warnings and numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_mmintent.data.builder import MultimodalBuilder
from hf_mmintent.data.checks import DataError, collect_counts
from hf_mmintent.data.dataset_facts import GROUP_COLUMNS, DatasetFacts, SplitFacts, gather_facts
from hf_mmintent.data.loading import find_builder, load
from hf_mmintent.data.published_counts import PublishedCounts, published_counts
from hf_mmintent.data.report import SHARED
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.data.safe_pickle import PickleFormatError

_SHOWN = 3
_MOST_VALUES = 15  # of a number, that are counted one by one
_SEEN = re.compile(r"\w+ missing|non-finite \w+")  # what a builder counts and the rows show as well
_REFUSALS = (DataError, PickleFormatError, FileNotFoundError, datasets.exceptions.DatasetGenerationError)
PERCENTILES = (0, 5, 50, 95, 100)


@dataclass(frozen=True)
class Finding:
    """
    Something that is not as it should be.

    Args:
        kind: What was checked, e.g. `"duplicate ids"`.
        message: What was found where, and what was expected.
        is_error: Whether training on these files would be wrong; otherwise it is something to know.
    """

    kind: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.kind}: {self.message}"


@dataclass
class ValidationReport:
    """
    The result of a check; `str()` of it is the report.

    Args:
        name: Of the dataset.
        facts: Counts per split; `None` when the files could not be read.
        findings: Errors first.
    """

    name: str
    facts: DatasetFacts | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Findings that make the data unusable."""
        return [finding for finding in self.findings if finding.is_error]

    @property
    def warnings(self) -> list[Finding]:
        """Findings to know."""
        return [finding for finding in self.findings if not finding.is_error]

    def __str__(self) -> str:
        parts = [f"# {self.name}"]
        if self.facts is not None:
            parts += [table(*rows_table(self.facts)), table(*label_table(self.facts)), table(*length_table(self.facts))]
        parts += ["\n".join(map(str, self.findings))]
        parts += [f"{len(self.errors)} errors, {len(self.warnings)} warnings"]
        return "\n\n".join(part for part in parts if part)


def validate(
    name_or_path: str | Path,
    data_dir: str | Path | None = None,
    name: str | None = None,
    is_subset: bool = False,
    decode: bool | str = False,
    **options: Any,
) -> ValidationReport:
    """
    Read a dataset and check it.

    Args:
        name_or_path, data_dir, name: As in [`~hf_mmintent.data.loading.load`].
        is_subset: The files are a part of the dataset: other counts than the published ones are warnings.
        decode: Also decode the start of every sound and clip, or, for `"whole"`, all of it; that takes its time.
        options: Of the builder's configuration, or of `datasets.load_dataset`.

    Returns:
        [`ValidationReport`]. Files that a builder refuses give one error that says why.

    Raises:
        ValueError: There is no such dataset, folder or option.
    """
    title = f"{name_or_path}{'' if name is None else f' / {name}'}"
    try:
        counts = _wrong_counts(name_or_path, data_dir, name, options)
        # A builder stops at the first wrong count; here the rows are to be looked at nevertheless.
        builder = find_builder(name_or_path, data_dir, name, **{**options, "strict_counts": False})
        splits = _read(builder, name_or_path, data_dir, name, options)
    except _REFUSALS as error:
        reason = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        return ValidationReport(title, findings=[Finding("unreadable", str(reason or error))])
    facts = gather_facts(splits, decode)
    findings = check_rows(facts)
    findings += [Finding("rows", f"{text}, as published.", is_error and not is_subset) for text, is_error in counts]
    if builder is not None:
        title = f"{builder.name} / {builder.config.name}"
        findings += check_published(facts, published_counts(builder.name, builder.config.name), is_subset)
    if isinstance(builder, MultimodalBuilder):
        findings += _found_by(builder)
    return ValidationReport(title, facts, sorted(findings, key=lambda finding: not finding.is_error))


def _found_by(builder: MultimodalBuilder) -> Iterable[Finding]:
    """What the builder met in the files, now or when the rows were built, and what the rows do not show."""
    for text in builder.report.notes:
        if SHARED not in text:  # counted from the rows too
            yield Finding("files", text, False)
    for split, part in builder.report.splits.items():
        for what, keys in part.problems.items():
            if not _SEEN.fullmatch(what):
                yield Finding("files", f"{what} in {len(keys)} rows of {split} ({_some(keys)}).", False)


def _wrong_counts(
    source: str | Path, data_dir: Any, name: str | None, options: Mapping[str, Any]
) -> list[tuple[str, bool]]:
    """What the builder finds in its tables, and whether it would stop there; nothing is written."""
    builder = find_builder(source, data_dir, name, **options)
    if not isinstance(builder, MultimodalBuilder):
        return []
    with collect_counts() as found:
        builder.tables  # noqa: B018 - reads and checks them
    return list(dict.fromkeys(found))


def _read(
    builder: datasets.DatasetBuilder | None, source: str | Path, data_dir: Any, name: str | None, options: Any
) -> Mapping[str, datasets.Dataset]:
    if builder is None:
        return load(source, data_dir=data_dir, name=name, **options)
    builder.download_and_prepare()
    return builder.as_dataset().with_format(FORMAT)


# ---- checks --------------------------------------------------------------------------------------------------------


def check_rows(facts: DatasetFacts) -> list[Finding]:
    """Findings that need no knowledge of the dataset."""
    findings = [*_duplicates(facts), *_labels(facts)]
    for split, part in facts.splits.items():
        if not part.rows:
            findings.append(Finding("empty split", f"{split} has no rows."))
        findings += _modalities(split, part)
    return [*findings, *_widths(facts), *_overlaps(facts)]


def _duplicates(facts: DatasetFacts) -> Iterable[Finding]:
    for split, part in facts.splits.items():
        twice = [key for key, count in part.ids.items() if count > 1]
        if twice:
            yield Finding("duplicate ids", f"{len(twice)} ids occur more than once in {split} ({_some(twice)}).")
    for first, second in combinations(facts.splits, 2):
        both = sorted(facts.splits[first].ids.keys() & facts.splits[second].ids.keys())
        if both:
            yield Finding("duplicate ids", f"{len(both)} ids are in {first} and in {second} ({_some(both)}).")


def _labels(facts: DatasetFacts) -> Iterable[Finding]:
    if not facts.has_labels:
        yield Finding("labels", "there is no column `label`: the rows serve prediction only.", False)
    for split, part in facts.splits.items():
        if part.bad_labels:
            kinds = "no class" if facts.label_names else "no finite number"
            yield Finding("labels", f"{len(part.bad_labels)} rows of {split} have {kinds} as `label` "
                                    f"({_some(part.bad_labels)}).")  # fmt: skip
        absent = [name for name in facts.label_names or () if not part.labels[name]]
        if absent and part.rows:
            yield Finding("labels", f"{split} has no row of {len(absent)} classes ({_some(absent)}).", False)


def _modalities(split: str, part: SplitFacts) -> Iterable[Finding]:
    for modality, keys in part.missing.items():
        share = "all" if len(keys) == part.rows else len(keys)
        yield Finding(
            f"missing {modality}", f"{share} of the {part.rows} rows of {split} lack it ({_some(keys)}).", False
        )
    for modality, keys in part.undecodable.items():
        yield Finding(f"damaged {modality}", f"{len(keys)} files of {split} do not decode ({_some(keys)}).")
    if part.without_any:
        yield Finding("no modality", f"{len(part.without_any)} rows of {split} have neither text nor any other modality "
                                     f"({_some(part.without_any)}): nothing can be said about them.")  # fmt: skip
    for modality, counts in part.non_finite.items():
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield Finding(f"non-finite {modality}", f"{found} in {split}; processors replace them by 0.", False)


def _widths(facts: DatasetFacts) -> Iterable[Finding]:
    for modality in facts.modalities:
        found: dict[int, list[str]] = {}
        for split, part in facts.splits.items():
            for width in part.widths.get(modality, ()):
                found.setdefault(width, []).append(split)
        if len(found) > 1:
            text = "; ".join(f"{width} in {' and '.join(splits)}" for width, splits in sorted(found.items()))
            yield Finding(f"width of {modality}", f"steps have different numbers of values: {text}.")


def _overlaps(facts: DatasetFacts) -> Iterable[Finding]:
    for first, second in combinations(facts.splits, 2):
        one, other = facts.splits[first], facts.splits[second]
        for column in GROUP_COLUMNS:
            both = sorted(one.groups[column].keys() & other.groups[column].keys())
            if both:
                rows = sum(other.groups[column][name] for name in both)
                yield Finding("split overlap", f"{len(both)} values of `{column}` are in {first} and in {second}, with "
                              f"{rows} of the {other.rows} rows of {second} ({_some(both)}).", False)  # fmt: skip
        keys = sorted(key for text in one.texts.keys() & other.texts.keys() for key in other.texts[text])
        if keys:
            yield Finding(
                "repeated text", f"{len(keys)} rows of {second} repeat a text of {first} ({_some(keys)}).", False
            )


def check_published(facts: DatasetFacts, published: PublishedCounts, is_subset: bool = False) -> list[Finding]:
    """
    Compare labels and widths with what is published.

    Args:
        facts: Of the files.
        published: Rows per label and widths of features.
        is_subset: Counts only give warnings.
    """
    findings = []
    for label, counts in published.labels.items():
        for split, expected in counts.items():
            found = facts.splits[split].labels[label] if split in facts.splits else 0
            if found != expected:
                text = f"{split} has {found} rows of {label!r}, published are {expected}."
                findings.append(Finding("rows per label", text, not is_subset))
    for modality, expected in published.widths.items():
        widths = {width for part in facts.splits.values() for width in part.widths.get(modality, ())}
        if widths and widths != {expected}:
            text = f"steps have {_some(sorted(widths))} values, published features have {expected}: another extraction."
            findings.append(Finding(f"width of {modality}", text, False))
    return findings


# ---- tables --------------------------------------------------------------------------------------------------------


def rows_table(facts: DatasetFacts) -> tuple[list[str], list[list[Any]]]:
    """Rows, speakers and videos, and rows without each modality, per split."""
    groups = [column for column in GROUP_COLUMNS if any(part.groups[column] for part in facts.splits.values())]
    header = ["split", "rows", *groups, *(f"without {name}" for name in facts.modalities)]
    body = [
        [split, part.rows, *(len(part.groups[c]) for c in groups), *(len(part.missing[m]) for m in facts.modalities)]
        for split, part in facts.splits.items()
    ]
    return header, body


def label_table(facts: DatasetFacts) -> tuple[list[str], list[list[Any]]]:
    """Rows per label and split; of numbers of many values, rows per sign; and their range."""
    counts = {split: part.labels for split, part in facts.splits.items()}
    numbers = sorted({value for part in facts.splits.values() for value in part.values})
    names: list[Any] = facts.label_names or sorted({name for found in counts.values() for name in found})
    if 0 < len(numbers) <= _MOST_VALUES:
        names, counts = numbers, {split: Counter(part.values) for split, part in facts.splits.items()}  # type: ignore
    body: list[list[Any]] = [[name, *(found[name] for found in counts.values())] for name in names]
    for what, of in (("smallest", min), ("mean", np.mean), ("largest", max)):
        if any(part.values for part in facts.splits.values()):
            body.append([what, *(f"{of(part.values):.3g}" if part.values else "" for part in facts.splits.values())])
    return ["label", *facts.splits], body


def length_table(facts: DatasetFacts) -> tuple[list[str], list[list[Any]]]:
    """Percentiles of the lengths, and widths, per modality and split."""
    body = []
    for modality in facts.modalities:
        for split, part in facts.splits.items():
            if lengths := part.lengths.get(modality):
                numbers = [math.floor(value) for value in np.percentile(lengths, PERCENTILES)]
                unit = "words" if modality == "text" else "steps"
                widths = _some(sorted(part.widths[modality])) if modality in part.widths else "–"
                body.append([modality, split, unit, *numbers, widths])
    return ["modality", "split", "unit", *(f"{p} %" for p in PERCENTILES), "width"], body


def table(header: list[str], body: list[list[Any]]) -> str:
    """Markdown, with aligned columns; empty without rows."""
    if not body:
        return ""
    cells = [[str(cell) for cell in row] for row in (header, *body)]
    sizes = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(size) for cell, size in zip(row, sizes)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (size + 2) for size in sizes) + "|", *lines[1:]])


def _some(keys: Iterable[Any]) -> str:
    names = [str(key) for key in keys]
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
