"""Throughput from recordings to labels, and where the time goes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

from hf_mmintent.benchmark.measures import make_clock
from hf_mmintent.data.loading import load
from hf_mmintent.modeling.media_decoding import decode_clip
from hf_mmintent.modeling.pipeline_intent import IntentRecognitionPipeline
from hf_mmintent.modeling.processing_media import MediaSettings

GRID_SIZE, GRID_RATE = (288, 360), 8.0  # height and width in pixels, frames per second: of the rate of one core


@dataclass
class MediaReport:
    """
    Args:
        clips: how many recordings.
        media_seconds: their length together.
        clock: "wall", or "cpu" (processor time of this process, all threads).
        decode, prepare, encode, classify: seconds for all clips, one after the other: packets to arrays; padding and
            normalising; arrays to features; features to logits.
        decode_cores: cores that decoding used on average.
        one_core: seconds of the recordings decoded to 360x288 at 8 frames per second, per second of processor time.
        clips_per_second: end to end by batch size, decoding ahead in a thread.
        in_turn: the same with decoding and computing in turn.
        largest_difference: of a score between batch sizes.
    """

    clips: int
    media_seconds: float
    clock: str
    decode: float
    prepare: float
    encode: float
    classify: float
    decode_cores: float
    one_core: float
    clips_per_second: dict[int, float]
    in_turn: dict[int, float]
    largest_difference: float

    @property
    def real_time(self) -> float:
        """Seconds of media decoded per second, at the sizes and rates of the checkpoint."""
        return self.media_seconds / self.decode

    @property
    def most_overlap(self) -> float:
        """What decoding beside the rest could save at most of the time of both, as the parts alone say."""
        rest = self.prepare + self.encode + self.classify
        return min(self.decode, rest) / (self.decode + rest)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "real_time": self.real_time, "most_overlap": self.most_overlap}


def measure_decoding(path: str | Path, settings: MediaSettings, repeats: int = 3) -> float:
    """
    Seconds of a recording decoded per second of processor time, sound and pictures together.

    Args:
        path: media file.
        settings: rates and size.
        repeats: the fastest one counts; what else runs on the machine only slows down.
    """
    best, length = float("inf"), 0.0
    for _ in range(repeats):
        begin = time.process_time()
        clip = decode_clip(path, settings.sampling_rate, settings.frame_rate, settings.image_shape)
        best, length = min(best, time.process_time() - begin), clip.duration
    return length / best


def benchmark_media(
    pipe: IntentRecognitionPipeline,
    inputs: Sequence[Any],
    batch_sizes: Sequence[int] = (1, 8),
    clock: str = "wall",
    repeats: int = 1,
) -> MediaReport:
    """
    Run recordings through a pipeline, by batch size, and the parts of the way alone.

    Args:
        pipe: of a checkpoint that takes recordings.
        inputs: what the pipeline takes, with media.
        batch_sizes: windows per call of the model.
        clock: "wall" or "cpu".
        repeats: of every batch size, with and without decoding ahead in turn; the fastest counts, as what else runs on the
            machine only slows down.

    Raises:
        ValueError: the checkpoint has no media encoder.
    """
    if pipe.model.config.encoder_config is None:
        raise ValueError("this checkpoint takes extracted features: measure one with a media encoder.")
    now = make_clock(clock, pipe.device)
    pipe(inputs[0])  # first calls allocate and compile
    parts_of_way, seconds, cores = _parts_of_way(pipe, inputs, now)
    ahead, in_turn = ({size: float("inf") for size in batch_sizes} for _ in range(2))
    rankings = {}
    for _ in range(repeats):
        for size in batch_sizes:
            for workers, found in ((1, ahead), (0, in_turn)):
                begin = now()
                answers = pipe(list(inputs), batch_size=size, num_workers=workers)
                found[size] = min(found[size], now() - begin)
            rankings[size] = [{entry["label"]: entry["score"] for entry in answer["ranking"]} for answer in answers]
    first, *others = rankings.values()
    differences = [
        abs(score - other[label])
        for ranking in others
        for one, other in zip(ranking, first, strict=True)
        for label, score in one.items()
    ]
    rates = ({size: len(inputs) / spent for size, spent in found.items()} for found in (ahead, in_turn))
    largest = max(differences, default=0.0)
    return MediaReport(len(inputs), seconds, clock, *parts_of_way, cores, _one_core(inputs), *rates, largest)


def _one_core(inputs: Sequence[Any]) -> float:
    """Seconds of the recordings per second of processor time, decoded as the rate of one core is stated."""
    settings = MediaSettings(frame_rate=GRID_RATE, image_size=GRID_SIZE)
    sources = [value.get("clip", value.get("video")) if isinstance(value, dict) else value for value in inputs]
    rates = [measure_decoding(source, settings, 2) for source in sources[:8]]
    return len(rates) / sum(1 / rate for rate in rates)


@torch.no_grad()
def _parts_of_way(
    pipe: IntentRecognitionPipeline, inputs: Sequence[Any], now: Callable[[], float]
) -> tuple[list[float], float, float]:
    """Seconds of decoding, preparing, encoding and classifying, the length of the media, and cores that decoding used."""
    spent = [0.0] * 4
    seconds = busy = passed = 0.0
    media = ("input_values", "input_values_mask", "pixel_values", "pixel_values_mask")
    for value in inputs:
        begin = time.perf_counter(), time.process_time()
        times = [now()]
        parts = list(pipe.preprocess(value))
        times.append(now())
        passed, busy = passed + time.perf_counter() - begin[0], busy + time.process_time() - begin[1]
        made = {name: tensor.to(pipe.device) for name, tensor in pipe._collate(parts, None).items()}
        times.append(now())
        features = pipe.model.base_model.encode_media(*(made.pop(name, None) for name in media))
        times.append(now())
        for name, (states, mask) in features.items():
            made |= {f"{name}_features": states, f"{name}_attention_mask": mask}
        pipe.model(**made)
        times.append(now())
        spent = [total + b - a for total, a, b in zip(spent, times, times[1:], strict=False)]
        seconds += parts[-1].window.end - parts[0].window.start
    return spent, seconds, busy / passed


def format_media_report(report: MediaReport) -> str:
    """A table for people."""
    total = report.decode + report.prepare + report.encode + report.classify
    lines = [f"{report.clips} clips, {report.media_seconds:.1f} s of media, {report.clock} time", ""]
    for name in ("decode", "prepare", "encode", "classify"):
        spent = getattr(report, name)
        lines.append(f"{name:<10}{1000 * spent / report.clips:8.1f} ms per clip  {spent / total:6.1%}")
    lines += [
        "",
        f"decoding is {report.real_time:.0f} times faster than real time, on {report.decode_cores:.1f} cores; to 360x288 at "
        f"{GRID_RATE:g} frames/s one core is {report.one_core:.0f} times faster",
        "",
        "clips/s      decoding ahead     in turn     ahead saves     against one by one",
    ]
    alone = report.clips_per_second[min(report.clips_per_second)]
    for size, rate in report.clips_per_second.items():
        saved = 1 - report.in_turn[size] / rate
        lines.append(f"batch {size:<6}{rate:15.2f}{report.in_turn[size]:12.2f}{saved:15.1%}{rate / alone:18.2f}x")
    lines.append(f"decoding ahead could save {report.most_overlap:.1%} at most, were nothing shared")
    lines.append(f"scores move by {report.largest_difference:.0e} at most with the batch size")
    return "\n".join(lines)


_DESCRIPTION = """Clips per second from files to labels, and the share of decoding, encoding and classifying.

    python examples/benchmark.py media runs/quickstart/seed_0/final
    python examples/benchmark.py media CHECKPOINT --clips folder/*.mp4 --batch_sizes 1 16 --threads 1

Without `--clips` the test clips of mmintent-mini are taken, with their words. Every batch size runs with decoding ahead of
the model in a thread, and in turn. `--clock cpu` takes processor time, on a machine that others use; overlapping is seen on
the wall clock only. The last line is how far scores move with the batch size.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Measure as a command line says and print the report.

    Args:
        arguments: of the command line; those of this process by default.
    """
    parser = argparse.ArgumentParser(
        prog="benchmark.py media", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a checkpoint with a media encoder")
    parser.add_argument(
        "--clips", nargs="+", help="media files; the test clips of mmintent-mini with their words otherwise"
    )
    parser.add_argument("--limit", type=int, help="take only so many")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3, help="of every batch size; the fastest counts")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--threads", type=int, help="threads of torch on CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.clips:
        inputs: list[Any] = [Path(clip) for clip in given.clips]
    else:
        rows = load("mmintent_mini")["test"]
        inputs = [{"clip": row["video_path"], "text": row["text"]} for row in rows]
    pipe = pipeline("multimodal-intent-recognition", model=given.checkpoint, device=given.device)
    report = benchmark_media(pipe, inputs[: given.limit], given.batch_sizes, given.clock, given.repeats)
    if given.json:
        Path(given.json).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    print(format_media_report(report))
