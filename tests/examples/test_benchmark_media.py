"""Throughput from recordings to labels: what is measured, and what has to hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from hf_mmintent.benchmark.media import benchmark_media, format_media_report, measure_decoding
from hf_mmintent.modeling.pipeline_intent import IntentRecognitionPipeline
from hf_mmintent.modeling.processing_media import MediaSettings
from tests.modeling.media_files import write_media
from tests.modeling.pipeline_cases import TASK
from tests.modeling.testers import ALL_TESTERS


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_media(folder / f"{n}.mp4", seconds=0.6 + 0.3 * (n % 4)) for n in range(12)]


def test_the_report(pipe: IntentRecognitionPipeline, clips: list[Path]) -> None:
    report = benchmark_media(pipe, clips[:4], batch_sizes=(1, 4), clock="cpu")
    assert report.clips == 4 and report.media_seconds == pytest.approx(0.6 + 0.9 + 1.2 + 1.5, abs=0.4)
    assert min(report.decode, report.prepare, report.encode, report.classify, *report.in_turn.values()) > 0
    assert report.largest_difference < 1e-5 and set(report.clips_per_second) == set(report.in_turn) == {1, 4}
    assert report.one_core > 0 and report.decode_cores > 0 and 0 < report.most_overlap <= 0.5
    text = format_media_report(report)
    assert "batch 4" in text and "times faster than real time" in text and "ahead saves" in text
    assert json.loads(json.dumps(report.to_dict()))["real_time"] == pytest.approx(report.real_time)


def test_a_checkpoint_of_features_is_refused(tiny_tokenizer: Any, clips: list[Path]) -> None:
    tester = ALL_TESTERS[0]
    features_only = pipeline(TASK, model=tester.model(), processor=tester.processor(tiny_tokenizer), device="cpu")
    with pytest.raises(ValueError, match="with a media encoder"):
        benchmark_media(features_only, clips)


def test_the_rate_of_decoding_is_measured(tmp_path: Path) -> None:
    """Seconds of recording per second of processor time of all threads; MPEG-1/2 at the size of the GRID recordings."""
    codecs = {"video": "mpeg2video", "audio": "mp2", "rate": 48000}
    path = write_media(tmp_path / "clip.mpg", seconds=1.0, size=(288, 360), **codecs)
    begin = time.process_time()
    rate = measure_decoding(path, MediaSettings())
    assert 0 < 1.0 / rate <= time.process_time() - begin + 0.1  # one decoding is a part of what the call took


def test_decoding_goes_on_while_the_model_computes(
    pipe: IntentRecognitionPipeline, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = threading.Semaphore(0)
    preprocess, forward = pipe.preprocess, pipe.forward

    def note(value: Any, **settings: Any) -> Any:
        yield from preprocess(value, **settings)
        decoded.release()

    def wait(*args: Any, **settings: Any) -> Any:
        assert decoded.acquire(timeout=60), "nothing was decoded while the model was busy"
        assert decoded.acquire(timeout=60), "the next clip was not decoded while the model was busy"
        decoded.release()
        return forward(*args, **settings)

    monkeypatch.setattr(pipe, "preprocess", note)
    monkeypatch.setattr(pipe, "forward", wait)
    answers = pipe(clip for clip in clips)
    assert next(answers)["ranking"]
    answers.close()


def test_the_next_group_is_decoded_while_one_is_computed(
    pipe: IntentRecognitionPipeline, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two are formed eight windows at a time: decoding must not rest before the next eight are there."""
    decoded = threading.Semaphore(0)
    preprocess, forward, calls = pipe.preprocess, pipe.forward, []

    def note(value: Any, **settings: Any) -> Any:
        yield from preprocess(value, **settings)
        decoded.release()

    def wait(*args: Any, **settings: Any) -> Any:
        calls.append(1)
        for _ in range(15 if len(calls) == 1 else 0):
            assert decoded.acquire(timeout=60), "decoding rested while the model was busy"
        return forward(*args, **settings)

    monkeypatch.setattr(pipe, "preprocess", note)
    monkeypatch.setattr(pipe, "forward", wait)
    answers = pipe((clip for clip in clips * 2), batch_size=2)
    assert next(answers)["ranking"] and len(calls) == 4
    answers.close()


@pytest.mark.slow
def test_the_script(checkpoint: Path, clips: list[Path], root: Path, tmp_path: Path) -> None:
    script = [sys.executable, "examples/benchmark.py", "media", str(checkpoint), "--batch_sizes", "1", "2"]
    script += ["--repeats", "1"]
    script += ["--clips", str(clips[0]), str(clips[1]), "--clock", "cpu", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(
        script, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].startswith("scores move by")
    assert json.loads((tmp_path / "report.json").read_text())["clips"] == 2
