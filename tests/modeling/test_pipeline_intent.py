"""Recordings of every kind through `pipeline(...)`: what goes through, what it says, and one clear error for the rest."""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import pipeline

from hf_mmintent.modeling.media_decoding import MediaError, decode_clip
from hf_mmintent.modeling.pipeline_intent import IntentRecognitionPipeline, run_ahead
from hf_mmintent.prediction import predict_one

from .media_files import rotate_mp4, write_media
from .pipeline_cases import TASK, save_clip_checkpoint
from .testers import ALL_TESTERS, LABELS, ModelTester


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_media(folder / "whole.mp4", seconds=1.0)
    write_media(folder / "longer.mp4", seconds=1.6)
    write_media(folder / "silent.mp4", seconds=1.0, audio=None)
    write_media(folder / "sound.wav", seconds=1.0, video=None, audio="pcm_s16le")
    write_media(folder / "long.mp4", seconds=7.3, fps=8)
    return folder


def scores(answer: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer["ranking"]}


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert scores(first) == pytest.approx(scores(second), abs=1e-5)
    assert first["used"] == second["used"]


# ---- inputs ---------------------------------------------------------------------------------------------------------


def test_every_way_to_name_a_clip_gives_the_same(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    path = clips / "whole.mp4"
    expected = pipe(str(path))
    assert expected["used"] == ["video", "audio"] and set(scores(expected)) == set(LABELS.values())
    data = path.read_bytes()
    sources = [path, path.as_uri(), data, bytearray(data), io.BytesIO(data), {"bytes": data, "path": None}]
    sources += [{"path": str(path)}, {"clip": path}, {"video": path}, {"video": path, "audio": str(path)}]
    for source in [*sources, {"audio_path": str(path), "video_path": str(path), "text": None, "label": 1, "id": "row"}]:
        same(pipe(source), expected)
    with path.open("rb") as file:
        same(pipe(file), expected)


def test_the_answer_is_that_of_the_model(pipe: IntentRecognitionPipeline, checkpoint: Path, clips: Path) -> None:
    answer = pipe({"clip": clips / "whole.mp4", "text": "hello you are late"}, top_k=2)
    plain = predict_one(checkpoint, clip=clips / "whole.mp4", text="hello you are late", top_k=2)
    assert [entry["label"] for entry in answer["ranking"]] == [name for name, _ in plain.ranking]
    assert [entry["score"] for entry in answer["ranking"]] == pytest.approx([p for _, p in plain.ranking], abs=1e-6)
    assert answer["modality_weights"] == pytest.approx(plain.modality_weights, abs=1e-6)
    assert answer["text"] == "hello you are late" and answer["notes"] == []
    json.dumps(answer)  # plain values only


def test_parts_of_a_sample(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    path = clips / "whole.mp4"
    assert pipe({"text": "hello"})["used"] == ["text"]
    assert pipe({"audio": path})["used"] == ["audio"]
    assert pipe({"video": path, "audio": None})["used"] == ["video"]
    assert pipe({"video": clips / "silent.mp4", "audio": clips / "sound.wav"})["used"] == ["video", "audio"]
    clip = decode_clip(path, size=24)
    arrays = {"audio": clip.audio, "video": clip.frames}
    same(pipe(arrays), pipe(path))
    same(pipe({**arrays, "audio": {"array": clip.audio, "sampling_rate": 16000}}), pipe(path))
    half = pipe({"clip": path, "start_time": 0.25, "end_time": 0.75})
    assert (half["windows"][0]["start"], half["windows"][0]["end"]) == (0.25, 0.75)
    same(half, pipe({"audio": clip.audio[4000:12000], "video": clip.frames[2:6]}))


def test_lists_generators_and_batches(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    inputs = [clips / "whole.mp4", {"text": "hello"}, {"clip": clips / "long.mp4", "text": "thank you"}]
    inputs += [clips / "silent.mp4", {"clip": clips / "longer.mp4", "text": "help"}, clips / "sound.wav"]
    expected = [pipe(value, window_seconds=2.0) for value in inputs]
    assert pipe([]) == []
    for size in (1, 2, 4, 16):
        for workers in (0, 1):
            found = pipe(inputs, batch_size=size, num_workers=workers, window_seconds=2.0)
            assert isinstance(found, list) and len(found) == len(inputs)
            for one, other in zip(found, expected, strict=True):
                same(one, other)
                assert len(one["windows"]) == len(other["windows"])
    lazy = pipe((value for value in inputs), batch_size=2, window_seconds=2.0)
    same(next(lazy), expected[0])
    assert len(list(lazy)) == len(inputs) - 1


def test_rows_of_a_dataset(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    paths = [str(clips / "whole.mp4"), str(clips / "longer.mp4"), None]
    columns = {"id": list("abc"), "text": ["hello", None, "please"], "label": [0, 1, 2]}
    columns |= {"audio_path": paths, "video_path": paths, "speaker": list("xyz")}
    features = {"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=list(LABELS.values()))}
    features |= dict.fromkeys(("audio_path", "video_path", "speaker"), Value("string"))
    rows = Dataset.from_dict(columns, features=Features(features))
    answers = list(pipe(rows, batch_size=3))
    assert [answer["used"] for answer in answers] == [["text", "video", "audio"], ["video", "audio"], ["text"]]
    same(answers[0], pipe({"clip": paths[0], "text": "hello"}))
    for one, other in zip(pipe(rows.to_iterable_dataset()), answers, strict=True):
        same(one, other)
    embedded = {"video": {"bytes": Path(paths[0]).read_bytes(), "path": None}, "audio": None, "text": "hello"}
    assert pipe(embedded)["used"] == ["text", "video"]


@pytest.mark.parametrize("tester", ALL_TESTERS, ids=lambda tester: type(tester).__name__)
def test_every_architecture_answers_on_features(tester: ModelTester, tiny_tokenizer: Any) -> None:
    model, processor = tester.model(), tester.processor(tiny_tokenizer)
    pipe = pipeline(TASK, model=model, processor=processor, device="cpu")
    features = {name: value for name, value in tester.inputs().items() if name.endswith("_features")}
    rows: list[dict[str, Any]] = [{name: value[row].numpy() for name, value in features.items()} for row in range(2)]
    if "text" in processor.modalities:
        rows = [{**row, "text": "please help"} for row in rows]
    answers = pipe(rows, batch_size=2)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with torch.no_grad():
        logits = model(**processor(**columns)).logits
    for answer, row in zip(answers, logits.softmax(-1), strict=True):
        expected = {model.config.id2label[index]: value for index, value in enumerate(row.tolist())}
        assert scores(answer) == pytest.approx(expected, abs=1e-5)
        assert answer["used"] == processor.modalities


def test_modalities_can_be_left_out(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    sample = {"clip": clips / "whole.mp4", "text": "hello"}
    whole = pipe(sample)
    for kept in (["text"], ["audio", "video"], ["video"]):
        answer = pipe(sample, modalities=kept)
        assert set(answer["used"]) == set(kept)
        assert scores(answer) != pytest.approx(scores(whole), abs=1e-6)
    same(pipe(sample, modalities=["audio"]), pipe({"audio": clips / "whole.mp4"}))
    with pytest.raises(ValueError, match=r"`modalities` is \['smell'\]"):
        pipe(sample, modalities=["smell"])
    with pytest.raises(ValueError, match="has none of the modalities"):
        pipe({"text": "hello"}, modalities=["audio"])


def test_regression_and_several_labels(tmp_path: Path, tiny_tokenizer: Any, clips: Path) -> None:
    one = {"id2label": {0: "value"}, "label2id": {"value": 0}, "problem_type": "regression"}
    for name, fields in {"value": one, "several": {"problem_type": "multi_label_classification"}}.items():
        unused = {"prototype_loss_weight": 0.0, "contrastive_loss_weight": 0.0}  # both need classes
        folder = save_clip_checkpoint(tmp_path / name, tiny_tokenizer, **fields, **unused)
        answer = pipeline(TASK, model=str(folder), device="cpu")(clips / "whole.mp4")
        expected = predict_one(folder, clip=clips / "whole.mp4").ranking
        assert [(e["label"], pytest.approx(e["score"], abs=1e-5)) for e in answer["ranking"]] == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "nothing to label"),
        ({"id": "a", "text": None}, "nothing to label"),
        ({"vidoe": "a.mp4", "text": "x"}, "did you mean 'video'"),
        ({"texts": "a"}, "did you mean 'text'"),
        ("hello you are late", "words go under 'text'"),
        ({"text": "  "}, "is empty"),
        ({"video": "a.mp4", "video_path": "b.mp4"}, "given twice"),
        (np.zeros(100, np.float32), "say what it is"),
        ("ftp://host/clip.mp4", "scheme 'ftp'"),
        ({"clip": 3}, "not int"),
    ],
)
def test_inputs_that_make_no_sense(pipe: IntentRecognitionPipeline, value: Any, message: str) -> None:
    for workers in (0, 1):
        with pytest.raises((ValueError, TypeError), match=message):
            pipe(value, num_workers=workers)


def test_settings_are_checked(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    with pytest.raises(ValueError, match="windowseconds"):
        pipe(clips / "whole.mp4", windowseconds=3)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        pipe(clips / "whole.mp4", batch_size=0)
    with pytest.raises(ValueError, match="0 < stride <= seconds"):
        pipe(clips / "whole.mp4", window_seconds=1.0, stride_seconds=2.0)
    with pytest.raises(ValueError, match="pass `processor="):
        IntentRecognitionPipeline(model=pipe.model)


def test_a_checkpoint_of_features_refuses_recordings(tiny_tokenizer: Any, clips: Path) -> None:
    tester = ALL_TESTERS[0]
    pipe = pipeline(TASK, model=tester.model(), processor=tester.processor(tiny_tokenizer), device="cpu")
    with pytest.raises(ValueError, match="takes extracted features of widths"):
        pipe(clips / "whole.mp4")


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(clips: Path) -> Iterator[str]:
    """Serves the clips, and misbehaves under some names."""
    data = (clips / "whole.mp4").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/to_file":
                self.send_response(302)
                self.send_header("Location", (clips / "whole.mp4").as_uri())
                self.end_headers()
            elif self.path in ("/whole.mp4", "/cut.mp4", "/moved.mp4"):
                self.send_response(302 if self.path == "/moved.mp4" else 200)
                self.send_header("Location", "/whole.mp4")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: 2000 if self.path == "/cut.mp4" else None])
            else:
                self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_clips_behind_addresses(pipe: IntentRecognitionPipeline, clips: Path, server: str) -> None:
    same(pipe(f"{server}/whole.mp4"), pipe(clips / "whole.mp4"))
    same(pipe({"audio": f"{server}/moved.mp4", "video": clips / "whole.mp4"}), pipe(clips / "whole.mp4"))
    for name, message in {
        "absent.mp4": "404",
        "cut.mp4": "broke off after 2000",
        "to_file": "cannot be fetched",
    }.items():
        with pytest.raises(MediaError, match=message) as caught:
            pipe(f"{server}/{name}")
        assert name in str(caught.value)


# ---- recordings -----------------------------------------------------------------------------------------------------

SOUND, PICTURES, BOTH = ["audio"], ["video"], ["video", "audio"]


def recordings(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """File and what is in it."""
    upright = folder / "phone.mp4"
    upright.write_bytes(rotate_mp4(write_media(folder / "plain.mp4", seconds=1.0).read_bytes(), 90))
    uneven = [0.0, 0.04, 0.3, 0.34, 0.6, 0.9]
    sound: dict[str, Any] = {"seconds": 1.0, "video": None}
    mp2 = {"video": "mpeg2video", "audio": "mp2", "rate": 48000}
    return {
        "wav": (write_media(folder / "a.wav", audio="pcm_s16le", **sound), SOUND),
        "mp3": (write_media(folder / "a.mp3", audio="libmp3lame", **sound), SOUND),
        "webm": (write_media(folder / "a.webm", seconds=1.0, video="libvpx", audio="libopus", rate=48000), BOTH),
        "mpg": (write_media(folder / "a.mpg", seconds=1.0, **mp2), BOTH),
        "portrait": (upright, BOTH),
        "variable frame rate": (write_media(folder / "b.mkv", seconds=1.0, times=uneven), BOTH),
        "8 kHz mono": (write_media(folder / "c.wav", audio="pcm_s16le", rate=8000, layout="mono", **sound), SOUND),
        "48 kHz stereo": (write_media(folder / "d.mp4", seconds=1.0, rate=48000), BOTH),
        "5.1": (write_media(folder / "e.mp4", seconds=1.0, rate=48000, layout="5.1"), BOTH),
        "only sound": (write_media(folder / "f.m4a", **sound), SOUND),
        "only pictures": (write_media(folder / "g.mp4", seconds=1.0, audio=None), PICTURES),
    }


def test_recordings_of_every_kind(pipe: IntentRecognitionPipeline, tmp_path: Path) -> None:
    for kind, (path, parts) in recordings(tmp_path).items():
        answer = pipe(path)
        assert answer["used"] == parts, kind
        assert answer["windows"][0]["end"] == pytest.approx(1.0, abs=0.15), kind
        clip = decode_clip(path, size=24)  # one pass for both gives the same as the windows' two
        same(
            answer, pipe({name: v for name, v in {"audio": clip.audio, "video": clip.frames}.items() if v is not None})
        )
        missing = {"audio": "sound", "video": "pictures"}
        for name, what in missing.items():
            assert any(what in note for note in answer["notes"]) == (name not in parts), kind


def damaged(folder: Path, clip: Path) -> dict[str, Path]:
    data = clip.read_bytes()
    files = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"this is not a film"}
    middle = bytearray(data)
    start = data.index(b"mdat") + len(data) // 3
    middle[start : start + 600] = bytes(600)
    files["corrupt"] = bytes(middle)
    for name, content in files.items():
        (folder / f"{name}.mp4").write_bytes(content)
    return {name: folder / f"{name}.mp4" for name in files}


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "corrupt"])
def test_damaged_recordings_are_one_clear_error(
    pipe: IntentRecognitionPipeline, clips: Path, tmp_path: Path, kind: str
) -> None:
    path = damaged(tmp_path, clips / "long.mp4")[kind]
    for source in (path, {"clip": path, "text": "hello"}):
        for seconds in (None, 1.0):
            with pytest.raises(MediaError, match=f"{kind}.mp4"):
                pipe(source, window_seconds=seconds)
    with pytest.raises(MediaError) as caught:
        pipe([clips / "whole.mp4", path, clips / "whole.mp4"], batch_size=2)
    assert "input 1 of the pipeline" in "".join(caught.value.__notes__)


# ---- words ----------------------------------------------------------------------------------------------------------


class Listener:
    """Stands for a speech recognition pipeline: says how long the sound is that it gets."""

    class feature_extractor:  # noqa: N801 - the attribute's name is the library's
        sampling_rate = 8000

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, sound: dict[str, Any]) -> dict[str, str]:
        self.lengths.append(len(sound["raw"]))
        return {"text": " please help " if sound["raw"].std() > 0.01 else " "}


def test_words_are_heard_where_none_are_given(
    pipe: IntentRecognitionPipeline, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    answer = pipe(clips / "whole.mp4", asr=listener)
    assert answer["text"] == "please help" and answer["used"] == ["text", "video", "audio"]
    assert listener.lengths == [pytest.approx(8000, rel=0.05)]
    assert any("speech recognition" in note for note in answer["notes"])
    same(answer, pipe({"clip": clips / "whole.mp4", "text": "please help"}))
    assert pipe({"clip": clips / "whole.mp4", "text": "hello"}, asr=listener)["text"] == "hello"
    assert len(listener.lengths) == 1  # words that are given are not asked for
    same(pipe(clips / "whole.mp4", asr=listener, modalities=["text"]), pipe({"text": "please help"}))
    windows = pipe(clips / "long.mp4", asr=listener, window_seconds=4.0)["windows"]
    assert [window["text"] for window in windows] == ["please help"] * len(windows)


def test_without_words_the_answer_says_so(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    assert any("answered without text" in note for note in pipe(clips / "whole.mp4")["notes"])
    silence = {"audio": np.zeros(16000, np.float32), "video": clips / "silent.mp4"}
    answer = pipe(silence, asr=Listener())
    assert answer["text"] is None and answer["notes"] == ["no words were heard: answered without text."]
    assert pipe(clips / "whole.mp4", modalities=["audio"])["notes"] == []


@pytest.mark.slow
def test_a_real_recogniser(checkpoint: Path, local_models: Path, root: Path) -> None:
    """mmintent-mini is spoken by a synthesiser, which Whisper's smallest model understands in good part."""
    from hf_mmintent import load

    row = next(row for row in load("mmintent_mini")["test"] if len(row["text"].split()) > 4)
    listening = pipeline(TASK, model=str(checkpoint), asr=str(local_models / "whisper-tiny-en"), device="cpu")
    answer = listening({"audio_path": row["audio_path"], "video_path": row["video_path"]})
    heard, said = (
        set(words.lower().replace(".", "").replace(",", "").split()) for words in (answer["text"], row["text"])
    )
    assert len(heard & said) >= len(said) / 2, (answer["text"], row["text"])


# ---- running ahead --------------------------------------------------------------------------------------------------


def test_running_ahead_keeps_order_and_bounds() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    items = run_ahead(numbers(), 3)
    assert next(items) == 0
    assert len(made) <= 5
    assert list(items) == list(range(1, 20))


def test_an_error_ahead_comes_in_its_turn() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)
        raise KeyError("third")

    items = run_ahead(numbers(), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="third"):
        next(items)


@pytest.mark.parametrize("workers", [0, 1])
def test_answers_before_a_failure_are_given(pipe: IntentRecognitionPipeline, clips: Path, workers: int) -> None:
    """Also of those that share a batch, or a group of batches, with what fails."""
    words = [{"text": "thank you"}, {"clip": clips / "whole.mp4"}, {"text": "please leave now"}]
    for inputs in ([*words, b"no clip", words[0]], (row for row in [*words, {"clip": b""}])):
        found = []
        with pytest.raises(MediaError) as caught:
            for answer in pipe(iter(inputs), batch_size=2, num_workers=workers):
                found.append(answer)
        assert len(found) == 3 and "input 3 of the pipeline" in "".join(caught.value.__notes__)
        for answer, row in zip(found, words, strict=True):
            same(answer, pipe(row))


def test_rows_that_the_processor_refuses_are_found_among_the_inputs(pipe: IntentRecognitionPipeline) -> None:
    good, bad = {"text": "thank you"}, {"text": "  "}
    with pytest.raises(ValueError, match="text of sample 1 is empty") as caught:
        pipe([good, good, good, bad], batch_size=2)
    assert "rows of this batch are the inputs 2, 3 of the pipeline" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("value", [None, 3])
def test_what_is_no_input_at_all(pipe: IntentRecognitionPipeline, value: Any) -> None:
    with pytest.raises(TypeError, match=f"the input is {type(value).__name__}: pass a recording"):
        pipe(value)


def test_an_abandoned_iterator_leaves_no_thread(pipe: IntentRecognitionPipeline, clips: Path) -> None:
    before = threading.active_count()
    answers = pipe(clips / "whole.mp4" for _ in range(1000))
    next(answers)
    answers.close()
    assert threading.active_count() <= before


# ---- saving ---------------------------------------------------------------------------------------------------------

OPEN = """
import json, sys
mode, clip, *places = sys.argv[1:]
if mode == "package":
    import hf_mmintent
from transformers import pipeline
TASK = "multimodal-intent-recognition"
for place in places:
    for task in (TASK, None) if mode == "trusted" else (TASK,):
        pipe = pipeline(task, model=place, device="cpu", **({"trust_remote_code": True} if mode == "trusted" else {}))
        print("ANSWER " + json.dumps(pipe({"clip": clip, "text": "hello"})))
if mode == "trusted":
    try:
        pipeline(TASK, model=places[0], trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    else:
        raise AssertionError("code of a checkpoint ran without being allowed to")
assert ("hf_mmintent" in sys.modules) == (mode == "package")
"""
PUSH = """
import sys, hf_mmintent
from transformers import pipeline
pipeline("multimodal-intent-recognition", model=sys.argv[1], device="cpu").push_to_hub("me/clips")
"""


def answers_of(process: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    lines = [line.removeprefix("ANSWER ") for line in process.stdout.splitlines() if line.startswith("ANSWER ")]
    return [json.loads(line) for line in lines]


@pytest.mark.hub
def test_saved_and_pushed_pipelines_run_in_a_fresh_process(
    pipe: IntentRecognitionPipeline, clips: Path, tmp_path: Path
) -> None:
    from tests.hub_stub import HubStub

    folder = tmp_path / "saved_pipeline"
    pipe.save_pretrained(folder)
    clip = clips / "whole.mp4"
    expected = pipe({"clip": clip, "text": "hello"})
    with HubStub(tmp_path / "hub") as stub:
        stub.run(PUSH, folder)
        assert "pipeline_intent.py" in stub.files("me/clips")
        trusted = answers_of(stub.run(OPEN, "trusted", clip, folder, "me/clips", without_package=True))
        installed = answers_of(stub.run(OPEN, "package", clip, folder, "me/clips"))
    assert len(trusted) == 4 and len(installed) == 2
    for answer in (*trusted, *installed):
        same(answer, expected)


# ---- real recordings, memory ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_real_recording(pipe: IntentRecognitionPipeline, shared_data: Path) -> None:
    from hf_mmintent import load

    paths = sorted((shared_data / "grid" / "raw").rglob("*.mpg"))
    assert paths
    for answer in pipe((path for path in paths), batch_size=8):
        assert answer["used"] == ["video", "audio"] and 2.5 < answer["windows"][0]["end"] < 3.5
    rows = load("mmintent_mini")["test"]
    answers = list(pipe(rows, batch_size=8))
    assert len(answers) == len(rows) and all(answer["used"] == ["text", "video", "audio"] for answer in answers)


PEAK = """
import re, sys
import torch
torch.set_num_threads(1)
import hf_mmintent
from transformers import pipeline
pipe = pipeline("multimodal-intent-recognition", model=sys.argv[1], device="cpu")
answer = pipe(sys.argv[2])
print(answer["windows"][-1]["end"], re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory that Linux keeps")
def test_ten_minutes_take_hardly_more_memory_than_ten_seconds(checkpoint: Path, tmp_path: Path, root: Path) -> None:
    for kind in ("mp4", "mpg"):
        codecs = {} if kind == "mp4" else {"video": "mpeg2video", "audio": "mp2"}
        peaks = []
        for seconds in (10, 600):
            rate = {"fps": 8, "rate": 16000} if kind == "mp4" else {"fps": 25, "rate": 48000}
            path = write_media(tmp_path / f"{seconds}.{kind}", seconds=seconds, size=(240, 320), **rate, **codecs)
            run = [sys.executable, "-c", PEAK, str(checkpoint), str(path)]
            output = subprocess.run(run, cwd=root, capture_output=True, text=True, check=True).stdout.split()
            assert float(output[0]) == pytest.approx(seconds, rel=0.02)
            peaks.append(int(output[1]))
        assert peaks[1] < 1.5 * peaks[0], f"peak memory for 10 s and 600 s of {kind}: {peaks} kB"
