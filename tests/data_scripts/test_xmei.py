"""XMEI: the official layout with its traps: capitals, missing texts and clips, no test file."""

import json
import logging
from pathlib import Path

import pytest

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.loading import load
from tests.data_scripts.tiny_media import write_media

EMOTIONS = ["happy", "surprise", "sad", "disgust", "anger", "fear", "neutral"]
INTENTS = [
    "questioning", "agreeing", "acknowledging", "sympathizing", "encouraging", "consoling", "suggesting", "wishing",
    "neutral",
]  # fmt: skip


def entry(name: str, emotion: str = "Happy", intent: str = "Suggesting", **changes) -> dict:
    """An entry as in the release; `...` removes a field."""
    made = {
        "video_id": name,
        "video_path": f"videos/{name}.mp4",
        "audio_path": f"audios/{name}.wav",
        "subtitle": f"IT’S {name.upper()}!",
        "emotion": emotion,
        "intent": intent,
        "video_description": "A person smiles.",
        "audio_description": "The voice is bright.",
        "emotion_reason": "Because of the smile.",
        "intent_reason": "Because of the words.",
        "explanation": f"The user's emotion is {emotion}, and intent is {intent}. The deep reason is: hope.",
    }
    return {field: value for field, value in {**made, **changes}.items() if value is not ...}


ENTRIES = {
    "train": [entry("a_1"), entry("a_2", "NEUTRAL", "Neutral"), entry("a_3", " fear ", "wishing")],
    "val": [entry("b_1", "anger", "Questioning")],
    "test": [entry("c_1", "sad", "consoling")],
}


def write(folder: Path, entries: dict | None = None, lines: bool = False) -> Path:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for name, part in (entries or ENTRIES).items():
        text = "\n".join(map(json.dumps, part)) if lines else json.dumps(part, indent=2, ensure_ascii=False)
        path = folder / "annotations" / f"{name}.json{'l' * lines}"
        path.write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, **options):
    return load("xmei", data_dir=folder, **options)


@pytest.mark.parametrize("lines", [False, True])
def test_rows(tmp_path, lines):
    rows = read(write(tmp_path, lines=lines))
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "validation": 1, "test": 1}
    assert rows["train"][0] == {
        "id": "a_1",
        "text": "IT’S A_1!",
        "label": 6,
        "emotion": "happy",
        "intent": "suggesting",
        "audio_caption": "The voice is bright.",
        "video_caption": "A person smiles.",
        "emotion_reason": "Because of the smile.",
        "intent_reason": "Because of the words.",
        "joint_reason": "The user's emotion is Happy, and intent is Suggesting. The deep reason is: hope.",
    }


@pytest.mark.parametrize(("name", "names"), [("intent", INTENTS), ("emotion", EMOTIONS)])
@pytest.mark.parametrize("order", [1, -1])
def test_label_order_does_not_follow_the_rows(tmp_path, name, names, order):
    rows = read(write(tmp_path, {split: part[::order] for split, part in ENTRIES.items()}), name=name)
    assert rows["train"].features["label"].names == names
    for part in rows.values():
        assert [names[row["label"]] for row in part] == [row[name] for row in part]


def test_missing_texts_are_null_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    changes = {"subtitle": ..., "audio_description": "", "explanation": None}
    rows = read(write(tmp_path, {**ENTRIES, "val": [entry("b_1", **changes)]}))["validation"]
    assert (rows[0]["text"], rows[0]["audio_caption"], rows[0]["joint_reason"]) == (None, None, None)
    assert rows[0]["video_caption"] == "A person smiles."
    (said,) = [text for text in (r.getMessage() for r in caplog.records) if "validation: " in text]
    for column in ("text", "audio_caption", "joint_reason"):
        assert f"{column} missing in 1 rows (b_1)" in said


def test_without_test_file(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    rows = read(write(tmp_path, {split: ENTRIES[split] for split in ("train", "val")}))
    assert list(rows) == ["train", "validation"]
    assert any("so the validation split is the test" in record.getMessage() for record in caplog.records)
    assert any("all has 4 rows instead of 15461" in record.getMessage() for record in caplog.records)


def test_media(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    train = [
        entry("a_1"),
        entry("a_2", video_path="a_2.mp4", audio_path=""),  # below the folder of the modality, and by the id
        entry("a_3", video_path=..., audio_path=...),
        entry("a_4"),
    ]
    write(tmp_path, {**ENTRIES, "train": train})
    for name in ("a_1", "a_2", "a_3"):
        write_media(tmp_path / "videos" / f"{name}.mp4", sound=False)
        write_media(tmp_path / "audios" / f"{name}.wav")
    cut = tmp_path / "videos" / "a_3.mp4"
    cut.write_bytes(cut.read_bytes()[:300])
    rows = read(tmp_path)["train"]
    root = tmp_path.resolve()
    assert list(rows["audio_path"]) == [*(str(root / f"audios/a_{i}.wav") for i in (1, 2, 3)), None]
    assert list(rows["video_path"]) == [str(root / "videos/a_1.mp4"), str(root / "videos/a_2.mp4"), None, None]
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "video does not decode in 1 rows (a_3)" in said
    assert "audio file missing in 1 rows (a_4)" in said


def test_sound_of_the_video_without_sound_files(tmp_path):
    clip = write_media(write(tmp_path) / "videos" / "a_1.mp4")
    rows = read(tmp_path, columns=["media"])["train"]
    assert rows[0]["audio_path"] == rows[0]["video_path"] == str(clip.resolve())
    assert "text" not in rows.column_names


@pytest.mark.parametrize("path", ["../secret.mp4", "/etc/hostname"])
def test_clip_outside_the_folder(tmp_path, path):
    write(tmp_path, {**ENTRIES, "val": [entry("b_1", video_path=path)]})
    (tmp_path / "videos").mkdir()
    with pytest.raises(Exception) as error:
        read(tmp_path)
    assert "does not lie inside" in str(error.value.__cause__ or error.value)
    assert read(tmp_path, columns="text")["validation"][0]["id"] == "b_1"


@pytest.mark.parametrize(("changed", "message"), [
    (entry("b_9", "Hapy"), r"val\.json entry 2 \(b_9\): `emotion` is 'Hapy', not one of \['happy'"),
    (entry("b_9", intent="joking"), r"entry 2 \(b_9\): `intent` is 'joking'"),
    (entry("b_9", intent=...), r"entry 2 \(b_9\): `intent` is None"),
    (entry("b_9", subtitle=3), "entry 2: `subtitle` is 3, not a text"),
    (entry("b_9", video_id=""), "entry 2 has no `video_id`"),
    (entry("a_1"), "'a_1' occurs in train and in validation"),
    (["b_9"], "entry 2 is a list, not an object"),
])  # fmt: skip
def test_wrong_entries(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, {**ENTRIES, "val": [*ENTRIES["val"], changed]}))


@pytest.mark.parametrize(("content", "message"), [
    (b"[{", r"val\.json is truncated or not JSON"),
    (b"", r"val\.json is truncated or not JSON"),
    (b"{}", r"val\.json holds a dict, not a list"),
    (b'[\n"\xff"]', r"val\.json line 2 is not UTF-8"),
    (b"[]", r"val\.json has no rows"),
])  # fmt: skip
def test_broken_files(tmp_path, content, message):
    (write(tmp_path) / "annotations" / "val.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_broken_lines(tmp_path):
    with (write(tmp_path, lines=True) / "annotations" / "val.jsonl").open("a") as file:
        file.write('\n{"video_id": "b_2"')
    with pytest.raises(DataError, match=r"val\.jsonl line 2 is truncated or not JSON"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.json or .*train\.jsonl does not exist"):
        read(tmp_path / "annotations")
