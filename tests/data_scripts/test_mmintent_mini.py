"""The packaged synthetic clips and their builder."""

import importlib
import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import av
import numpy as np
import pytest

from hf_mmintent.data_scripts.mmintent_mini import (
    EXPLANATIONS,
    LABELS,
    STYLES,
    MMIntentMini,
    packaged_folder,
    read_rows,
)

PAIRS = (("Praise", "Taunt"), ("Inform", "Complain"), ("Joke", "Criticize"), ("Comfort", "Prevent"))
PAIR_OF = {label: index for index, pair in enumerate(PAIRS) for label in pair}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return read_rows(packaged_folder())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    builder = MMIntentMini(cache_dir=str(tmp_path_factory.mktemp("cache")))
    builder.download_and_prepare()
    return builder.as_dataset()


@pytest.fixture
def copy(tmp_path) -> Path:
    """A folder with the first three rows."""
    source = packaged_folder()
    (tmp_path / "clips").mkdir()
    lines = (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    for line in lines:
        name = json.loads(line)["clip"]
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def generator(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "examples"))
    return importlib.import_module("make_mmintent_mini")


def edit(folder: Path, line: int, **changes) -> None:
    """Change fields of one line of `metadata.jsonl`."""
    path = folder / "metadata.jsonl"
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    rows[line].update(changes)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def decode(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures (T, 96, 96) and samples (S,)."""
    with av.open(str(path)) as container:
        pictures = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return pictures, samples


def test_builder_yields_balanced_splits_with_mintrec_names(built):
    assert {name: part.num_rows for name, part in built.items()} == {"train": 192, "validation": 64, "test": 96}
    official = "Complain Praise Apologise Thank Criticize Agree Taunt Flaunt Joke Oppose Comfort Care Inform Advise "
    official += "Arrange Introduce Leave Prevent Greet"
    names = built["train"].features["label"].names
    assert names == [name for name in official.split() if name in LABELS] and len(names) == 8
    for part in built.values():
        assert set(Counter(part["label"]).values()) == {part.num_rows // 8}
        assert [names[label] for label in part["label"]] == part["intent"]
        assert part["audio_path"] == part["video_path"]
        assert all(Path(path).is_absolute() and Path(path).is_file() for path in part["video_path"])
        assert all(row[name] for row in part for name in EXPLANATIONS)


def test_splits_share_no_speaker_and_pairs_share_sentences(built, rows):
    speakers = [set(part["speaker"]) for part in built.values()]
    assert len(set.union(*speakers)) == sum(map(len, speakers)) == 22
    for split in built:
        said = defaultdict(Counter)
        for row in rows:
            if row["split"] == split:
                said[row["label"]][row["text"], row["speaker"]] += 1
        for first, second in PAIRS:
            assert said[first] == said[second]  # the same speakers say the same sentences equally often
    assert all(3 <= len(row["text"].split()) <= 10 for row in rows)


def test_any_two_modalities_determine_the_intent_and_one_leaves_two(generator, rows):
    """Each of the four sentence groups, voices and faces belongs to two intents; no two intents share two of them."""
    known = {label: (PAIR_OF[label], *STYLES[label]) for label in LABELS}
    for place in range(3):
        assert set(Counter(cue[place] for cue in known.values()).values()) == {2}
        others = [tuple(c for i, c in enumerate(cue) if i != place) for cue in known.values()]
        assert len(set(others)) == len(LABELS)
    assert set(known) == {row["label"] for row in rows}
    for plan, row in zip(generator.make_plan(0), rows, strict=True):
        assert (plan.voice_style, plan.face_style) == STYLES[row["label"]]
        assert row["audio_caption"] in generator.AUDIO_CAPTIONS[plan.voice_style]
        assert row["video_caption"] in generator.VIDEO_CAPTIONS[plan.face_style]


def test_emotion_and_captions(rows):
    emotions = {row["label"]: row["emotion"] for row in rows}
    assert all((row["label"], row["emotion"]) in emotions.items() for row in rows)
    assert all(emotions[first] != emotions[second] for first, second in PAIRS)
    assert set(emotions.values()) <= {"happy", "surprise", "sad", "disgust", "anger", "fear", "neutral"}
    labels = {label.lower() for label in LABELS}
    for row in rows:  # captions describe, they do not name the answer
        assert not labels & set(f"{row['audio_caption']} {row['video_caption']}".lower().split())


def test_package_is_small_and_clips_are_whole(rows):
    files = [path for path in packaged_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6 and max(path.stat().st_size for path in files) <= 1e6
    assert {path for path in files if path.suffix == ".mp4"} == {Path(row["clip"]) for row in rows}
    assert all(1.5 <= row["duration"] <= 3 for row in rows)
    for row in rows[::60]:
        with av.open(row["clip"]) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert len(container.streams) == 2
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, audio.rate, audio.channels) == (96, 96, 16_000, 1)
        pictures, samples = decode(row["clip"])
        assert len(pictures) == round(row["duration"] * 10)
        assert abs(len(samples) / 16_000 - row["duration"]) < 0.13  # AAC comes in blocks of 64 ms
        assert 0.01 < samples.std() < 0.3 and np.abs(np.diff(pictures.astype(int), axis=0)).max() > 30


def test_streaming_and_columns(copy, tmp_path):
    builder = MMIntentMini(data_dir=str(copy), columns=["text"], cache_dir=str(tmp_path / "cache"))
    rows = list(builder.as_streaming_dataset()["train"])
    assert len(rows) == 3 and rows[0]["text"] and rows[0]["audio_path"] is None and rows[0]["video_path"] is None
    builder = MMIntentMini(data_dir=str(copy), columns="media", cache_dir=str(tmp_path / "cache"))
    row = next(iter(builder.as_streaming_dataset()["train"]))
    assert row["text"] == "" and row["video_path"].endswith(".mp4")
    builder = MMIntentMini(data_dir=str(copy), columns="features", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"`columns` is 'features'"):
        builder.as_streaming_dataset()


def test_another_folder_is_another_cache_entry(copy, tmp_path):
    first = MMIntentMini(cache_dir=str(tmp_path / "cache"))
    second = MMIntentMini(data_dir=str(copy), cache_dir=str(tmp_path / "cache"))
    assert first.cache_dir != second.cache_dir  # rows hold absolute paths


@pytest.mark.parametrize(
    ("line", "changes", "error", "message"),
    [
        (1, {"label": "Boast"}, ValueError, r"metadata.jsonl:2: row 'mini_0002' has the unknown `label` 'Boast'"),
        (2, {"id": "mini_0001"}, ValueError, r"row 'mini_0001' has the `id` of line 1"),
        (1, {"split": "dev"}, ValueError, r"row 'mini_0002' has the unknown `split` 'dev'"),
        (1, {"clip": "clips/none.mp4"}, FileNotFoundError, r"row 'mini_0002' names the `clip` 'clips/none.mp4'"),
        (1, {"clip": "../outside.mp4"}, ValueError, r"'../outside.mp4', which lies outside"),
        (1, {"clip": "/etc/hostname"}, ValueError, r"which lies outside"),
        (1, {"text": None}, ValueError, r"row 'mini_0002' lacks the text field\(s\) `text`"),
    ],
)
def test_bad_rows_are_named(copy, line, changes, error, message):
    edit(copy, line, **changes)
    with pytest.raises(error, match=message):
        read_rows(copy)


def test_other_errors(copy, tmp_path):
    edit(copy, 0, speaker="somebody")
    edit(copy, 1, speaker="somebody", split="test")
    with pytest.raises(ValueError, match="`speaker` 'somebody' into 'test', row 'mini_0001' into 'train'"):
        read_rows(copy)
    (copy / "clips" / "mini_0001.mp4").unlink()
    (copy / "clips" / "mini_0001.mp4").symlink_to(packaged_folder() / "metadata.jsonl")
    with pytest.raises(ValueError, match="lies outside"):
        read_rows(copy)
    (copy / "metadata.jsonl").write_text("{not json\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"metadata\.jsonl:1 is not JSON"):
        read_rows(copy)
    with pytest.raises(FileNotFoundError, match="`data_dir` must be a folder"):
        read_rows(tmp_path / "clips")


def test_plan_is_deterministic_and_agrees_with_the_packaged_rows(generator, rows):
    plans = generator.make_plan(0)
    assert plans == generator.make_plan(0) and plans != generator.make_plan(1)
    assert len(plans) == len(rows)
    for plan, row in zip(plans, rows, strict=True):
        assert (plan.id, plan.split, plan.speaker.name, plan.text, plan.label) == tuple(
            row[name] for name in ("id", "split", "speaker", "text", "label")
        )
        assert generator.describe(plan) == {name: row[name] for name in EXPLANATIONS}


def test_missing_synthesiser_is_named(generator, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        generator.make_dataset(tmp_path / "out", limit=1)


def test_generator_repeats_itself(generator, tmp_path):
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    first, second = (generator.make_dataset(tmp_path / name, seed=0, limit=3) for name in "ab")
    assert first == second and len(first) == 3
    for row in first:
        for left, right in zip(decode(tmp_path / "a" / row["clip"]), decode(tmp_path / "b" / row["clip"]), strict=True):
            np.testing.assert_array_equal(left, right)


def audio_statistics(samples: np.ndarray) -> np.ndarray:
    """Mean and deviation of 40 log-mel bands over the louder frames, and quantiles of the pitch."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    frequency = np.fft.rfftfreq(512, 1 / 16_000)
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    mel = np.log(
        np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2 @ np.clip(np.minimum(rising, falling), 0, None).T + 1e-6
    )
    loud = mel[mel.mean(1) > mel.mean()]
    pitch, clarity = [], []
    for start in range(0, len(samples) - 1024, 320):
        window = samples[start : start + 1024] - samples[start : start + 1024].mean()
        correlation = np.correlate(window, window, "full")[1023:]
        lag = 40 + correlation[40:320].argmax()  # 50 to 400 Hz
        pitch.append(16_000 / lag)
        clarity.append(correlation[lag] / correlation[0] if window.std() > 0.5 * samples.std() else 0.0)
    pitch = np.array(pitch)[np.argsort(clarity)[-20:]]  # the clearest 0.4 s
    return np.r_[loud.mean(0), loud.std(0), np.percentile(pitch, [10, 50, 90]), np.log(pitch).std()]


def video_statistics(pictures: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of the pictures at 24 x 24 pixels."""
    small = pictures.reshape(len(pictures), 24, 4, 24, 4).mean((2, 4))
    return np.r_[small.mean(0).ravel(), small.std(0).ravel()]


@pytest.mark.slow
def test_each_modality_gives_its_cue_and_no_more(rows):
    """Linear probes on the test speakers: the cue of a modality is easy, its ceiling is not beaten by a leak."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    decoded = [decode(row["clip"]) for row in rows]
    audio = np.stack([audio_statistics(samples) for _, samples in decoded])
    video = np.stack([video_statistics(pictures) for pictures, _ in decoded])
    loudness = np.stack([[len(pictures), samples.std(), np.abs(samples).max()] for pictures, samples in decoded])
    text = np.array([row["text"] for row in rows])
    label = np.array([row["label"] for row in rows])
    split = np.array([row["split"] for row in rows])
    pair = np.vectorize(PAIR_OF.get)(label)
    voice, face = np.array([STYLES[name] for name in label]).T

    def score(inputs, target, front, strength=0.01) -> float:
        probe = make_pipeline(front, LogisticRegression(C=strength, max_iter=3000))
        fit, test = split == "train", split == "test"
        return probe.fit(inputs[fit], target[fit]).score(inputs[test], target[test])

    def words() -> TfidfVectorizer:
        return TfidfVectorizer(ngram_range=(1, 2))

    results = {
        "text -> pair": score(text, pair, words(), 30),
        "audio -> voice style": score(audio, voice, StandardScaler()),
        "video -> face style": score(video, face, StandardScaler()),
        "text -> label": score(text, label, words(), 30),
        "audio -> label": score(audio, label, StandardScaler()),
        "video -> label": score(video, label, StandardScaler()),
        "length and loudness -> pair": score(loudness, pair, StandardScaler(), 1.0),
    }
    print(*(f"{name}: {value:.3f}" for name, value in results.items()), sep="\n")
    assert results["text -> pair"] >= 0.97
    assert results["audio -> voice style"] >= 0.95
    assert results["video -> face style"] >= 0.95
    assert results["text -> label"] <= 0.55
    assert results["audio -> label"] <= 0.6
    assert results["video -> label"] <= 0.6
    assert results["length and loudness -> pair"] <= 0.35  # chance is 0.25
