"""Features of a whole dataset, once, on disk: shards of Arrow that a killed run leaves complete or not at all.

    FOLDER/data/train-00000-of-00012.arrow          rows with their features; memory-mapped when opened
    FOLDER/failures/train-00000-of-00012.jsonl      the clips of that shard that could not be encoded
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
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Array2D, Dataset, Features
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from hf_mmintent.data.collator import MEDIA_COLUMNS
from hf_mmintent.data.feature_folder import SETTINGS_FILE, Shard, shards_of
from hf_mmintent.data.media_features import encode_arrays, encoder_fingerprint, media_column
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.modeling.media_decoding import MediaError
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media

_PATIENCE = timedelta(days=7)  # one process may finish its shards long before another


@dataclass(frozen=True)
class ExtractionOptions:
    """
    How features are extracted.

    Args:
        batch_size: clips per call of the encoder; features do not depend on it.
        shard_size: rows that are written at once, and lost at most when a process is killed.
        drop_failed: leave out rows whose clip cannot be decoded; otherwise they stay, with null features.
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
    """What a run did: rows per split, the failures of all runs together, shards made now and before, seconds."""

    folder: Path
    rows: dict[str, int]
    failures: list[dict[str, Any]]
    made: int
    kept: int
    seconds: float

    def __str__(self) -> str:
        rows = ", ".join(f"{name} {count}" for name, count in self.rows.items())
        count = len(self.failures)
        bad = f"{count} clip{'s' * (count > 1)} failed (failures.jsonl)" if count else "no clip failed"
        return f"{self.folder}: {rows} rows; {bad}; {self.made} shards made, {self.kept} kept, {self.seconds:.1f} s"


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
    shards = shards_of(folder, settings["splits"], options.shard_size)
    if state.is_main_process:
        _begin(folder, settings, encoder, options.save_encoder)
        if options.retry_failed:
            _forget_failed(shards)
    state.wait_for_everyone()
    missing = [shard for shard in shards if not shard.table.exists()]
    state.wait_for_everyone()  # all have the same list before the first shard appears
    _make_shards(missing, splits, columns, encoder.to(state.device).eval(), options, state)
    state.wait_for_everyone()
    failures = [entry for shard in shards for entry in _read_lines(shard.failures)]
    if state.is_main_process:
        _finish(folder, settings, failures)
    state.wait_for_everyone()
    lost = {name: sum(entry["split"] == name for entry in failures) * options.drop_failed for name in splits}
    rows = {name: len(part) - lost[name] for name, part in splits.items()}
    return ExtractionReport(folder, rows, failures, len(missing), len(shards) - len(missing), time.monotonic() - clock)


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
        if _read_lines(shard.failures):
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
            _make_shard(shard, rows, columns, encoder, options, decoders, bar)


def _make_shard(
    shard: Shard,
    rows: Dataset,
    columns: dict[str, str],
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
            found = encode_arrays(encoder, [{} if isinstance(clip, Exception) else clip for clip in clips], columns)
            for place, clip in enumerate(clips):
                row = {name: batch[name][place] for name in kept}
                row |= {f"{name}_features": found[name][place] for name in columns}
                if isinstance(clip, Exception):
                    entry = {"split": shard.split, "row": first + place, "id": row.get("id"), "error": str(clip)}
                    failures.append(entry)
                if not (isinstance(clip, Exception) and options.drop_failed):
                    writer.write(row)
            bar.update(len(clips))
        writer.finalize()
        writer.close()
        with atomic_path(shard.failures) as listed:
            listed.write_text("".join(json.dumps(entry) + "\n" for entry in failures), encoding="utf-8")


def _decoded(
    shard: Shard,
    rows: Dataset,
    columns: dict[str, str],
    encoder: MediaEncoderModel,
    options: ExtractionOptions,
    decoders: ThreadPoolExecutor,
) -> Iterator[tuple[int, dict[str, list[Any]], list[Any]]]:
    """Position, rows and decoded clips (arrays, or the error) of every batch; the next one is decoded meanwhile."""
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


def decode_row(
    row: Mapping[str, Any], columns: Mapping[str, str], settings: MediaSettings
) -> dict[str, np.ndarray] | MediaError | OSError:
    """
    The media of one row as arrays, or why they cannot be had.

    Args:
        row: with its media columns, `start_time` and `end_time` where there are any.
        columns: media column by modality.
        settings: of the encoder.
    """
    media = {name: [row[column]] for name, column in columns.items()}
    times = {key: [row[f"{key}_time"]] for key in ("start", "end") if f"{key}_time" in row}
    try:
        return prepare_media(media.get("audio"), media.get("video"), settings, **times)
    except (MediaError, OSError) as error:
        return error
