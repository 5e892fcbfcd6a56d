"""Throughput from recordings to labels, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_mmintent.benchmark.measures import make_clock
from hf_mmintent.modeling.media_decoding import decode_clip
from hf_mmintent.modeling.pipeline_intent import IntentRecognitionPipeline
from hf_mmintent.modeling.processing_media import MediaSettings


@dataclass
class MediaReport:
    """
    Args:
        clips: how many recordings.
        media_seconds: their length together.
        clock: "wall", or "cpu" (processor time of this process, all threads).
        decode, prepare, encode, classify: seconds for all clips, one after the other: packets to arrays; padding and
            normalising; arrays to features; features to logits.
        clips_per_second: end to end by batch size, decoding ahead in a thread.
        in_turn: the same for the first batch size with decoding and computing in turn.
        largest_difference: of a score between batch sizes.
    """

    clips: int
    media_seconds: float
    clock: str
    decode: float
    prepare: float
    encode: float
    classify: float
    clips_per_second: dict[int, float]
    in_turn: float
    largest_difference: float

    @property
    def real_time(self) -> float:
        """Seconds of media decoded per second."""
        return self.media_seconds / self.decode

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "real_time": self.real_time}


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
    pipe: IntentRecognitionPipeline, inputs: Sequence[Any], batch_sizes: Sequence[int] = (1, 8), clock: str = "wall"
) -> MediaReport:
    """
    Run recordings through a pipeline, by batch size, and the parts of the way alone.

    Args:
        pipe: of a checkpoint that takes recordings.
        inputs: what the pipeline takes, with media.
        batch_sizes: windows per call of the model.
        clock: "wall" or "cpu".

    Raises:
        ValueError: the checkpoint has no media encoder.
    """
    if pipe.model.config.encoder_config is None:
        raise ValueError("this checkpoint takes extracted features: measure one with a media encoder.")
    now = make_clock(clock, pipe.device)
    pipe(inputs[0])  # first calls allocate and compile
    parts_of_way, seconds = _parts_of_way(pipe, inputs, now)
    rates, rankings = {}, []
    for size in batch_sizes:
        begin = now()
        answers = pipe(list(inputs), batch_size=size)
        rates[size] = len(inputs) / (now() - begin)
        rankings.append([{entry["label"]: entry["score"] for entry in answer["ranking"]} for answer in answers])
    begin = now()
    pipe(list(inputs), batch_size=batch_sizes[0], num_workers=0)
    in_turn = len(inputs) / (now() - begin)
    differences = [
        abs(score - other[label])
        for ranking in rankings[1:]
        for one, other in zip(ranking, rankings[0], strict=True)
        for label, score in one.items()
    ]
    return MediaReport(len(inputs), seconds, clock, *parts_of_way, rates, in_turn, max(differences, default=0.0))


@torch.no_grad()
def _parts_of_way(
    pipe: IntentRecognitionPipeline, inputs: Sequence[Any], now: Callable[[], float]
) -> tuple[list[float], float]:
    """Seconds of decoding, preparing, encoding and classifying, and the length of the media."""
    spent = [0.0] * 4
    seconds = 0.0
    media = ("input_values", "input_values_mask", "pixel_values", "pixel_values_mask")
    for value in inputs:
        times = [now()]
        parts = list(pipe.preprocess(value))
        times.append(now())
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
    return spent, seconds


def format_media_report(report: MediaReport) -> str:
    """A table for people."""
    total = report.decode + report.prepare + report.encode + report.classify
    lines = [f"{report.clips} clips, {report.media_seconds:.1f} s of media, {report.clock} time", ""]
    for name in ("decode", "prepare", "encode", "classify"):
        spent = getattr(report, name)
        lines.append(f"{name:<10}{1000 * spent / report.clips:8.1f} ms per clip  {spent / total:6.1%}")
    lines += ["", f"decoding is {report.real_time:.0f} times faster than real time"]
    for size, rate in report.clips_per_second.items():
        lines.append(f"batch size {size:<4}{rate:8.2f} clips/s")
    lines.append(f"in turn   {report.in_turn:12.2f} clips/s at batch size {next(iter(report.clips_per_second))}")
    lines.append(f"scores move by {report.largest_difference:.0e} at most with the batch size")
    return "\n".join(lines)
