"""Features of a whole dataset, once, on disk: shards of Arrow that a killed run leaves complete or not at all.

    FOLDER/data/train-00000-of-00012.arrow          rows with their features; memory-mapped when opened
    FOLDER/failures/train-00000-of-00012.jsonl      the clips of that shard that failed or were null before
    FOLDER/failures.jsonl                           all of them
    FOLDER/encoder/                                 the encoder, for checkpoints that take clips
    FOLDER/extraction.json                          what was extracted by what; `finished` at the end

Shard k belongs to process k modulo the number of processes, which may differ from run to run.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Array2D, Dataset, Features
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from hf_mmintent.data.collator import MEDIA_COLUMNS
from hf_mmintent.data.feature_folder import SETTINGS_FILE, Shard, shards_of
from hf_mmintent.data.media_features import LongClip, decode_row, encode_decoded, encoder_fingerprint, media_column
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.processing_media import MediaSettings

_PATIENCE = timedelta(days=7)  # one process may finish its shards long before another


@dataclass(frozen=True)
class ExtractionOptions:
    """
    How features are extracted.

    Args:
        batch_size: clips per call of the encoder; features do not depend on it.
        shard_size: rows that are written at once, and lost at most when a process is killed.
        drop_failed: leave out rows whose clip cannot be decoded, or is null; otherwise they stay, with null features.
        retry_failed: do shards with failures again, once the clips were repaired.
        save_encoder: keep the encoder beside its features.
        decoders: threads that decode clips while the encoder computes.
    """

    batch_size: int = 8
    shard_size: int = 256
    drop_failed: bool = False
    retry_failed: bool = False
    save_encoder: bool = True
    decoders: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size", "decoders"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it must be 1 or more.")


@dataclass
class ExtractionReport:
    """
    What a run did, with what earlier runs did in the same folder.

    Args:
        rows: per split, as written.
        failures: entries of `failures.jsonl`: `split`, `row`, `id`, `kind`, `error` and whether the row was `dropped`. The
            kind is "failed" for a clip that cannot be decoded, "null" for a row whose medium is null although others have
            theirs: its file was absent, or did not decode, when the rows were made.
        nulls: written rows without features, by modality, for whatever reason; a clip may well be silent.
        made, kept: shards of this run, and of earlier ones.
        seconds: of this run.
    """

    folder: Path
    rows: dict[str, int]
    failures: list[dict[str, Any]]
    nulls: dict[str, int]
    made: int
    kept: int
    seconds: float

    def __str__(self) -> str:
        rows = ", ".join(f"{name} {count}" for name, count in self.rows.items())
        failed, null = (sum(entry["kind"] == kind for entry in self.failures) for kind in ("failed", "null"))
        bad = [f"{failed} clip{'s' * (failed > 1)} failed"] * (failed > 0)
        bad += [f"{null} row{'s' * (null > 1)} with a null clip"] * (null > 0)
        told = f"{', '.join(bad)} (failures.jsonl)" if bad else "no clip failed"
        without = "".join(
            f", {count} row{'s' * (count > 1)} without {name}" for name, count in self.nulls.items() if count
        )
        shards = f"{self.made} shards made, {self.kept} kept, {self.seconds:.1f} s"
        return f"{self.folder}: {rows} rows{without}; {told}; {shards}"


def processes() -> PartialState:
    """This process among those of `accelerate launch`; they wait for each other as long as it takes."""
    # Without an accelerator the library forms a group only when it is told to use the CPU.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != state.num_processes:
        raise RuntimeError(
            f"{launched} processes were launched but this one is among {state.num_processes}: each would do all the work. "
            "Call `hf_mmintent.data.extraction.processes()` before anything else of accelerate."
        )
    return state


def extract_features(
    splits: Mapping[str, Dataset],
    encoder: MediaEncoderModel,
    folder: str | Path,
    options: ExtractionOptions | None = None,
) -> ExtractionReport:
    """
    Encode the media of every row and write the rows with their features; finished shards of an earlier run are kept.

    Under `accelerate launch` the shards are shared out, and every process returns the whole report.

    Args:
        splits: rows with `audio_path`/`video_path` or embedded `audio`/`video`, by split.
        encoder: moved to the device of this process.
        folder: of the result; `hf_mmintent.load(folder)` opens it.
        options: [`ExtractionOptions`].

    Returns:
        [`ExtractionReport`]. All columns are kept except embedded media.

    Raises:
        ValueError: nothing to encode, features that are there already, or a folder of other rows or another encoder.
    """
    options, folder, clock = options or ExtractionOptions(), Path(folder), time.monotonic()
    state = processes()
    columns = _media_columns(splits, encoder)
    settings: dict[str, Any] = {
        "rows": _digest(splits),
        "encoder": encoder_fingerprint(encoder),
        "media": columns,
        "shard_size": options.shard_size,
        "drop_failed": options.drop_failed,
        "splits": {name: len(rows) for name, rows in splits.items()},
        "info": _info(splits),
    }
    expected = _expected(splits, columns)
    shards = shards_of(folder, settings["splits"], options.shard_size)
    if state.is_main_process:
        _begin(folder, settings, encoder, options.save_encoder)
        if options.retry_failed:
            _forget_failed(shards)
    state.wait_for_everyone()
    missing = [shard for shard in shards if not shard.table.exists()]
    state.wait_for_everyone()  # all have the same list before the first shard appears
    _make_shards(missing, splits, columns, expected, encoder.to(state.device).eval(), options, state)
    state.wait_for_everyone()
    failures = [entry for shard in shards for entry in _read_lines(shard.failures)]
    if state.is_main_process:
        _finish(folder, settings, failures)
    state.wait_for_everyone()
    lost = Counter(entry["split"] for entry in failures if entry["dropped"])
    rows = {name: len(part) - lost[name] for name, part in splits.items()}
    nulls = _count_nulls(shards, columns)
    kept = len(shards) - len(missing)
    return ExtractionReport(folder, rows, failures, nulls, len(missing), kept, time.monotonic() - clock)


def check_encoder(folder: str | Path, encoder: MediaEncoderModel) -> None:
    """Raise a `ValueError` unless the features of `folder` were made by this encoder."""
    settings = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
    if settings["encoder"] != encoder_fingerprint(encoder):
        raise ValueError(
            f"the features in {folder} were made by another encoder than `encoder` describes: a model trained on them "
            f"would meet other features in clips. Set `encoder` to {{path: {folder}/encoder}}, or leave it out."
        )


# ---- what is extracted -----------------------------------------------------------------------------------------------


def _media_columns(splits: Mapping[str, Dataset], encoder: MediaEncoderModel) -> dict[str, str]:
    """The column that holds the media of every modality of the encoder."""
    if not splits or not all(len(rows) for rows in splits.values()):
        raise ValueError(
            f"the splits have { ({name: len(rows) for name, rows in splits.items()}) } rows: give some in each."
        )
    names = next(iter(splits.values())).column_names
    sizes = {"audio": encoder.config.audio_feature_size, "video": encoder.config.video_feature_size}
    wanted = [name for name, size in sizes.items() if size is not None]
    found = {name: column for name in wanted if (column := media_column(names, name)) is not None}
    if not found:
        raise ValueError(f"the rows have the columns {names}: none of them holds media for the encoder's {wanted}.")
    if double := [f"{name}_features" for name in found if f"{name}_features" in names]:
        raise ValueError(
            f"the rows have {double} already: remove these columns, or leave the modality out of the encoder "
            f"(`{double[0].split('_')[0]}_front_end=None`)."
        )
    return found


def _expected(splits: Mapping[str, Dataset], columns: Mapping[str, str]) -> set[str]:
    """Modalities that some row has: where a whole dataset lacks one, a null is nothing to report."""
    tables = [rows.data.table for rows in splits.values()]
    found = {name for name, column in columns.items() if any(t[column].null_count < len(t) for t in tables)}
    return found or set(columns)


def _count_nulls(shards: list[Shard], columns: Mapping[str, str]) -> dict[str, int]:
    tables = [Dataset.from_file(str(shard.table)).data.table for shard in shards]
    return {name: sum(table[f"{name}_features"].null_count for table in tables) for name in columns}


def _digest(splits: Mapping[str, Dataset]) -> str:
    """Of the columns, and of the ids and media paths of all rows."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        digest.update(f"{name} {len(rows)} {rows.features}".encode())
        paths = [column for column in rows.column_names if column == "id" or column.endswith("_path")]
        for column in paths:
            digest.update("\n".join(map(str, rows[column])).encode())
    return digest.hexdigest()


def _info(splits: Mapping[str, Dataset]) -> dict[str, Any]:
    info = next(iter(splits.values())).info
    return {key: getattr(info, key) or "" for key in ("description", "citation", "homepage", "license")}


def _begin(folder: Path, settings: dict[str, Any], encoder: MediaEncoderModel, save_encoder: bool) -> None:
    """Remember what is extracted; a folder of something else is not continued."""
    path = folder / SETTINGS_FILE
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        plain = json.loads(json.dumps(settings))
        if odd := sorted(key for key in plain if before.get(key) != plain[key]):
            raise ValueError(
                f"{folder} holds an extraction that differs in {odd}: choose another folder, or delete this one."
            )
    if save_encoder and not (folder / "encoder" / "config.json").exists():
        encoder.save_pretrained(folder / "encoder")
    for name in ("data", "failures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for rest in (folder / name).glob(".*.tmp"):  # of a killed run
            rest.unlink()
    _write_settings(folder, settings, finished=False)


def _finish(folder: Path, settings: dict[str, Any], failures: list[dict[str, Any]]) -> None:
    with atomic_path(folder / "failures.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in failures), encoding="utf-8")
    _write_settings(folder, settings, finished=True)


def _write_settings(folder: Path, settings: dict[str, Any], finished: bool) -> None:
    with atomic_path(folder / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps({**settings, "finished": finished}, indent=2) + "\n", encoding="utf-8")


def _forget_failed(shards: list[Shard]) -> None:
    for shard in shards:
        if any(entry["kind"] == "failed" for entry in _read_lines(shard.failures)):
            shard.table.unlink(missing_ok=True)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- one shard -------------------------------------------------------------------------------------------------------


def _make_shards(
    missing: list[Shard],
    splits: Mapping[str, Dataset],
    columns: dict[str, str],
    expected: set[str],
    encoder: MediaEncoderModel,
    options: ExtractionOptions,
    state: PartialState,
) -> None:
    """This process's share of the shards."""
    mine = missing[state.process_index :: state.num_processes]
    total = sum(shard.stop - shard.start for shard in mine)
    with (
        ThreadPoolExecutor(options.decoders, "decode") as decoders,
        tqdm(total=total, desc="clips to features", unit="clip", disable=not state.is_local_main_process) as bar,
    ):
        for shard in mine:
            rows = splits[shard.split].with_format(FORMAT)
            _make_shard(shard, rows, columns, expected, encoder, options, decoders, bar)


def _make_shard(
    shard: Shard,
    rows: Dataset,
    columns: dict[str, str],
    expected: set[str],
    encoder: MediaEncoderModel,
    options: ExtractionOptions,
    decoders: ThreadPoolExecutor,
    bar: Any,
) -> None:
    """Failures first, the table last: a shard whose table exists is complete."""
    sizes = {"audio": encoder.config.audio_feature_size, "video": encoder.config.video_feature_size}
    kept = [name for name in rows.column_names if name not in MEDIA_COLUMNS]  # embedded media stay where they are
    made = {f"{name}_features": Array2D((None, sizes[name]), "float32") for name in columns}
    features = Features({**{name: rows.features[name] for name in kept}, **made})
    failures: list[dict[str, Any]] = []
    with atomic_path(shard.table) as temporary:
        writer = ArrowWriter(features=features, path=str(temporary), writer_batch_size=16)
        for first, batch, clips in _decoded(shard, rows, columns, encoder, options, decoders):
            found, errors = encode_decoded(encoder, clips, columns)
            for place, clip in enumerate(clips):
                row = {name: batch[name][place] for name in kept}
                row |= {f"{name}_features": found[name][place] for name in columns}
                problem = _problem(errors[place], {name: batch[columns[name]][place] for name in expected}, columns)
                drop = options.drop_failed and problem.pop("lost", False)
                if problem:
                    where = {"split": shard.split, "row": first + place, "id": row.get("id")}
                    failures.append({**where, **problem, "dropped": drop})
                if not drop:
                    writer.write(row)
                if isinstance(clip, LongClip):  # its features alone are many: they do not wait for those of other rows
                    writer.write_examples_on_file()
            bar.update(len(clips))
        writer.finalize()
        writer.close()
        with atomic_path(shard.failures) as listed:
            listed.write_text("".join(json.dumps(entry) + "\n" for entry in failures), encoding="utf-8")


def _problem(error: Exception | None, media: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """`kind` and `error` of a row that did not give what it should, `lost` when it gave nothing; else empty."""
    if error is not None:
        return {"kind": "failed", "error": str(error), "lost": True}
    absent = [f"`{columns[name]}` is null" for name in sorted(media) if media[name] is None]
    if not absent:
        return {}
    return {"kind": "null", "error": " and ".join(absent), "lost": len(absent) == len(media)}


def _decoded(
    shard: Shard,
    rows: Dataset,
    columns: dict[str, str],
    encoder: MediaEncoderModel,
    options: ExtractionOptions,
    decoders: ThreadPoolExecutor,
) -> Iterator[tuple[int, dict[str, list[Any]], list[Any]]]:
    """Position, rows and decoded clips (see [`decode_row`]) of every batch; the next one is decoded meanwhile."""
    settings = MediaSettings.from_config(encoder.config)

    def begin(first: int) -> tuple[int, dict[str, list[Any]], list[Future]]:
        batch = rows[first : min(first + options.batch_size, shard.stop)]
        size = len(next(iter(batch.values())))
        clips = [{name: values[place] for name, values in batch.items()} for place in range(size)]
        return first, batch, [decoders.submit(decode_row, clip, columns, settings) for clip in clips]

    starts = iter(range(shard.start, shard.stop, options.batch_size))
    pending = begin(next(starts))
    for start in starts:
        ahead = begin(start)
        yield pending[0], pending[1], [clip.result() for clip in pending[2]]
        pending = ahead
    yield pending[0], pending[1], [clip.result() for clip in pending[2]]
