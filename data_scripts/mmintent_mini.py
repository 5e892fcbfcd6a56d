"""`mmintent-mini`: the small synthetic dataset of real-media clips that ships with the package.

    hf_mmintent.load("mmintent_mini")

Drawn faces, a speech synthesiser's voices and our own sentences; nobody was recorded. Eight intents, under MIntRec's
names, form four pairs. The two intents of a pair share their sentences and speakers; voice and face separate them. Every
voice and every face belongs to two intents, too, that have nothing else in common:

| sentences of the pair | intent | voice | face |
|---|---|---|---|
| 1 | Praise | bright | smile |
| 1 | Taunt | dark | frown |
| 2 | Inform | bright | neutral |
| 2 | Complain | dark | alarm |
| 3 | Joke | neutral | smile |
| 3 | Criticize | whisper | frown |
| 4 | Comfort | neutral | neutral |
| 4 | Prevent | whisper | alarm |

The classes are balanced in every split, so the best accuracy that each set of modalities allows follows by counting: one
modality leaves two intents, 1/2; any two leave one, 1; none leaves all, 1/8.

| modalities | intents left | ceiling |
|---|---|---|
| none | 8 | 0.125 |
| text, or audio (*), or video | 2 | 0.5 |
| any two, or all three | 1 | 1 |

(*) Of how it is said, not of what is said: the words are in the sound, and a model that recognises them knows the pair as
well and reaches 1 from audio alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import datasets

LABELS = ("Complain", "Praise", "Criticize", "Taunt", "Joke", "Comfort", "Inform", "Prevent")  # MIntRec's order
SPLITS = ("train", "validation", "test")
EXPLANATIONS = (
    "audio_caption",
    "video_caption",
    "emotion",
    "intent",
    "emotion_reason",
    "intent_reason",
    "joint_reason",
)
# Voice and face of an intent: what its clips are made with. Any two of sentence, voice and face determine the intent.
STYLES = {
    "Praise": ("bright", "smile"),
    "Taunt": ("dark", "frown"),
    "Inform": ("bright", "neutral"),
    "Complain": ("dark", "alarm"),
    "Joke": ("neutral", "smile"),
    "Criticize": ("whisper", "frown"),
    "Comfort": ("neutral", "neutral"),
    "Prevent": ("whisper", "alarm"),
}
# The configuration `explanation`: short reasons, so that an answer is some 40 tokens long.
_VOICES = {"bright": "lively", "dark": "flat", "neutral": "even", "whisper": "hushed"}
_FACES = {"smile": "smiling", "frown": "frowning", "neutral": "calm", "alarm": "startled"}
_MEANINGS = {
    "Praise": "praise",
    "Taunt": "mockery",
    "Inform": "news",
    "Complain": "a complaint",
    "Joke": "a joke",
    "Criticize": "criticism",
    "Comfort": "comfort",
    "Prevent": "a warning",
}
_FEELINGS = {
    "happy": "joy",
    "disgust": "disgust",
    "surprise": "surprise",
    "sad": "sadness",
    "anger": "anger",
    "fear": "fear",
}
REQUIRED = ("id", "split", "clip", "text", "label", "speaker", *EXPLANATIONS)


def packaged_folder() -> Path:
    """Folder of the clips that come with the package."""
    return Path(str(resources.files("hf_mmintent.data_scripts") / "mini_clips"))


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """
    Read and check `metadata.jsonl`.

    Args:
        folder: holds `metadata.jsonl` and the clips it names.

    Returns:
        The rows of all splits; `clip` is made absolute.

    Raises:
        FileNotFoundError: `metadata.jsonl` or a clip is missing.
        ValueError: a line is not a JSON object with every field, an id occurs twice, a label or split is unknown, a
            clip lies outside the folder, or a speaker occurs in two splits. The message names the row.
    """
    root = Path(folder).resolve()
    path = root / "metadata.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"`{path}` is missing: `data_dir` must be a folder written by examples/make_mmintent_mini.py, "
            "or None for the packaged clips."
        )
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}  # id -> line
    split_of: dict[str, tuple[str, str]] = {}  # speaker -> split and the first row that says so
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = _parse(line, f"{path}:{number}")
        where = f"{path}:{number}: row {row['id']!r}"
        if row["id"] in lines:
            raise ValueError(f"{where} has the `id` of line {lines[row['id']]}: ids must be unique over all splits.")
        lines[row["id"]] = number
        if row["label"] not in LABELS:
            raise ValueError(f"{where} has the unknown `label` {row['label']!r}: expected one of {', '.join(LABELS)}.")
        if row["split"] not in SPLITS:
            raise ValueError(f"{where} has the unknown `split` {row['split']!r}: expected one of {', '.join(SPLITS)}.")
        split, first = split_of.setdefault(row["speaker"], (row["split"], row["id"]))
        if split != row["split"]:
            raise ValueError(
                f"{where} puts `speaker` {row['speaker']!r} into {row['split']!r}, row {first!r} into {split!r}: "
                "a speaker must stay in one split."
            )
        rows.append({**row, "clip": str(_clip(root, row["clip"], where))})
    return rows


def _parse(line: str, where: str) -> dict[str, Any]:
    """One line as a row that has every field as text."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} holds a {type(row).__name__}: expected an object.")
    wrong = [name for name in REQUIRED if not isinstance(row.get(name), str)]
    if wrong:
        raise ValueError(
            f"{where}: row {row.get('id')!r} lacks the text field(s) {', '.join(f'`{n}`' for n in wrong)}."
        )
    return row


def _clip(root: Path, clip: str, where: str) -> Path:
    """The clip's absolute path, links followed; it must stay inside the folder."""
    path = (root / clip).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{where} names the `clip` {clip!r}, which lies outside {root}: use a path inside the folder.")
    if not path.is_file():
        raise FileNotFoundError(f"{where} names the `clip` {clip!r}, but there is no file {path}.")
    return path


def short_explanation(label: str, emotion: str) -> dict[str, str]:
    """
    Emotion, intent and three short reasons that name what is heard and seen.

    Args:
        label: intent, one of `LABELS`.
        emotion: of the row; in each pair of intents the two emotions differ.
    """
    voice, face = _VOICES[STYLES[label][0]], _FACES[STYLES[label][1]]
    return {
        "emotion": emotion,
        "intent": label.lower(),
        "emotion_reason": f"The voice is {voice}, the face {face}.",
        "intent_reason": f"The {voice} voice makes it {_MEANINGS[label]}.",
        "joint_reason": f"They show {_FEELINGS[emotion]} and so {_MEANINGS[label]}.",
    }


@dataclass
class MMIntentMiniConfig(datasets.BuilderConfig):
    """
    Configuration of `mmintent-mini`.

    Args:
        columns: "auto" for text and media; or "text", "media" or a sequence of them: what is not named stays null
            (media) or empty (text). Labels, speakers and explanations are always filled.
        short_reasons: replace the reasons by the short ones of the configuration `explanation`.
    """

    columns: str | list[str] | tuple[str, ...] = "auto"
    short_reasons: bool = False

    def wanted(self) -> set[str]:
        """The kinds of columns to fill."""
        names = {self.columns} if isinstance(self.columns, str) else set(self.columns)
        if names == {"auto"}:
            return {"text", "media"}
        if not names or names - {"text", "media"}:
            raise ValueError(
                f"`columns` is {self.columns!r}, but mmintent-mini has text and media: choose 'auto', 'text', 'media' or both."
            )
        return names


class MMIntentMini(datasets.GeneratorBasedBuilder):
    """
    Builder of `mmintent-mini`; without `data_dir` it reads the clips of the package.

    Rows: `id`, `text`, `label` (ClassLabel of 8 names), `audio_path` and `video_path` (both the absolute path of the
    mp4), `speaker`, `dialogue_id` (the speaker: the unit that splits keep apart), captions, emotion and reasons.
    """

    VERSION = datasets.Version("2.0.0")
    BUILDER_CONFIG_CLASS = MMIntentMiniConfig
    BUILDER_CONFIGS = [
        MMIntentMiniConfig(name="default", version=VERSION, description="text, sound and picture"),
        MMIntentMiniConfig(
            name="explanation",
            version=VERSION,
            description="the same with short reasons, for models that write them",
            short_reasons=True,
        ),
    ]
    DEFAULT_CONFIG_NAME = "default"

    def __init__(self, *args: Any, data_dir: str | None = None, **kwargs: Any) -> None:
        # Rows hold absolute paths: the folder must be part of the cache's key, also when it is the packaged one.
        super().__init__(*args, data_dir=str(Path(data_dir or packaged_folder()).resolve()), **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        text = datasets.Value("string")
        features = {
            "id": text,
            "text": text,
            "label": datasets.ClassLabel(names=list(LABELS)),
            "audio_path": text,
            "video_path": text,
            "speaker": text,
            "dialogue_id": text,
            **dict.fromkeys(EXPLANATIONS, text),
        }
        return datasets.DatasetInfo(
            description="Synthetic clips of drawn, talking faces: eight intents; any two of words, voice and face tell which.",
            features=datasets.Features(features),
            license="apache-2.0",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        folder = self.config.data_dir
        self.config.wanted()  # a wrong setting should fail before anything is written
        present = {row["split"] for row in read_rows(folder)}
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"folder": folder, "split": split})
            for split in SPLITS
            if split in present
        ]

    def _generate_examples(self, folder: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        wanted = self.config.wanted()
        for key, row in enumerate(row for row in read_rows(folder) if row["split"] == split):
            clip = row["clip"] if "media" in wanted else None
            explained = {name: row[name] for name in EXPLANATIONS}
            if self.config.short_reasons:
                explained |= short_explanation(row["label"], row["emotion"])
            yield (
                key,
                {
                    "id": row["id"],
                    "text": row["text"] if "text" in wanted else "",
                    "label": row["label"],
                    "audio_path": clip,
                    "video_path": clip,
                    "speaker": row["speaker"],
                    "dialogue_id": row["speaker"],
                    **explained,
                },
            )
