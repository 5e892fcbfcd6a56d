"""Answers about emotion and intent as text: writing them, and reading them back.

Two shapes. `structured` is five lines, of which those without a target are left out:

    Emotion: happy
    Intent: encouraging
    Emotion reason: ...
    Intent reason: ...
    Joint reason: ...

`sentence` is one sentence that names both labels, then the joint reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

AnswerFormat = Literal["structured", "sentence"]

EMOTIONS = ("happy", "surprise", "sad", "disgust", "anger", "fear", "neutral")  # order of MC-EIU
INTENTS = (
    "questioning",
    "agreeing",
    "acknowledging",
    "sympathizing",
    "encouraging",
    "consoling",
    "suggesting",
    "wishing",
    "neutral",
)

REASON_FIELDS = ("emotion_reason", "intent_reason", "joint_reason")
FIELDS = ("emotion", "intent", *REASON_FIELDS)

# Other words of a label; they count only where their label is one of the names in use.
SYNONYMS: dict[str, str] = {
    "happiness": "happy",
    "joy": "happy",
    "surprised": "surprise",
    "sadness": "sad",
    "disgusted": "disgust",
    "angry": "anger",
    "afraid": "fear",
    "scared": "fear",
    "question": "questioning",
    "questions": "questioning",
    "agree": "agreeing",
    "acknowledge": "acknowledging",
    "sympathising": "sympathizing",
    "sympathy": "sympathizing",
    "encourage": "encouraging",
    "console": "consoling",
    "comforting": "consoling",
    "suggest": "suggesting",
    "wish": "wishing",
}

_FIELD_LINE = re.compile(
    r"^[ \t]*(emotion[ _]reason|intent[ _]reason|joint[ _]reason|emotion|intent)[ \t]*:[ \t]*", re.I | re.M
)


@dataclass(frozen=True)
class ParsedAnswer:
    """
    What an answer says.

    Args:
        emotion, intent: label names, `None` where none could be read.
        emotion_id, intent_id: their ids, −1 where none could be read: such an answer counts as wrong.
        emotion_reason, intent_reason, joint_reason: texts, "" where the answer has none.
    """

    emotion: str | None = None
    intent: str | None = None
    emotion_id: int = -1
    intent_id: int = -1
    emotion_reason: str = ""
    intent_reason: str = ""
    joint_reason: str = ""

    @property
    def parsed(self) -> bool:
        """Whether both labels could be read."""
        return self.emotion_id >= 0 and self.intent_id >= 0


# ---- writing -------------------------------------------------------------------------------------------------------


def format_answer(values: Mapping[str, str | None], answer_format: AnswerFormat = "structured") -> str:
    """
    The answer that a model learns to give.

    Args:
        values: text by field of `FIELDS`; `None`, "" or absent where a row has no such target.
        answer_format: "structured" or "sentence". A sentence needs both labels.

    Returns:
        The text, labels in lower case. White space inside a reason becomes single spaces: a line break in it could look
        like the next field.

    Raises:
        ValueError: nothing to say, or a sentence without both labels.
    """
    clean = {name: " ".join((values.get(name) or "").split()) for name in FIELDS}
    for name in ("emotion", "intent"):
        clean[name] = clean[name].lower()
    clean["joint_reason"] = strip_label_prefix(clean["joint_reason"])
    if answer_format == "sentence":
        if not clean["emotion"] or not clean["intent"]:
            missing = "emotion" if not clean["emotion"] else "intent"
            raise ValueError(f"`answer_format` is 'sentence' but a row has no `{missing}`: use 'structured'.")
        opening = f"The speaker's emotion is {clean['emotion']} and the intent is {clean['intent']}."
        return f"{opening} {clean['joint_reason']}".strip()
    lines = [f"{field_title(name)}: {text}" for name, text in clean.items() if text]
    if not lines:
        raise ValueError(f"a row has none of the targets {list(FIELDS)}: there is no answer to learn.")
    return "\n".join(lines)


def field_title(name: str) -> str:
    """`"emotion_reason"` -> `"Emotion reason"`, as the line begins."""
    return name.replace("_", " ").capitalize()


def label_spans(answer: str, values: Mapping[str, str | None], answer_format: AnswerFormat) -> list[tuple[int, int]]:
    """Where the label words of an answer made by [`format_answer`] begin and end."""
    spans = []
    for name in ("emotion", "intent"):
        label = " ".join((values.get(name) or "").split()).lower()
        lead = f"{field_title(name)}: " if answer_format == "structured" else f"{name} is "
        start = answer.find(lead + label) if label else -1
        if start >= 0:
            spans.append((start + len(lead), start + len(lead) + len(label)))
    return spans


def label_completions(
    emotions: Sequence[str], intents: Sequence[str], answer_format: AnswerFormat = "structured"
) -> tuple[list[str], list[str]]:
    """How an answer begins for every emotion, and how it goes on for every intent."""
    if answer_format == "sentence":
        return [f"The speaker's emotion is {name}" for name in emotions], [
            f" and the intent is {name}" for name in intents
        ]
    return [f"Emotion: {name}" for name in emotions], [f"\nIntent: {name}" for name in intents]


# ---- reading -------------------------------------------------------------------------------------------------------


def parse_answer(text: str, emotions: Sequence[str] = EMOTIONS, intents: Sequence[str] = INTENTS) -> ParsedAnswer:
    """
    Read an answer of either shape, in any capitals; never raises.

    A label is taken from its field; without the field from "emotion is X and the intent is Y"; else it is the only label
    word of its set that occurs in the text. Anything else, two different label words too, is a failure: id −1. What the answer
    says of one label is no evidence for the other: an answer that breaks off after "Emotion: neutral" names no intent.

    Args:
        text: generated, without special tokens.
        emotions, intents: label names in id order.

    Returns:
        [`ParsedAnswer`].
    """
    fields = _fields(text)
    sentence = _sentence(text, emotions, intents)
    found: dict[str, int] = {}
    for name, other, names in (("emotion", "intent", emotions), ("intent", "emotion", intents)):
        if name in fields:
            found[name] = _label(fields[name], names)
        elif sentence is not None:
            found[name] = _label(sentence[name], names)
        else:
            found[name] = _only_label(_without(other, name, text), names)
    reasons = {name: fields.get(name, "") for name in REASON_FIELDS}
    if not fields and sentence is not None:
        reasons["joint_reason"] = sentence["rest"]
    return ParsedAnswer(
        emotion=emotions[found["emotion"]] if found["emotion"] >= 0 else None,
        intent=intents[found["intent"]] if found["intent"] >= 0 else None,
        emotion_id=found["emotion"],
        intent_id=found["intent"],
        **reasons,
    )


def _fields(text: str) -> dict[str, str]:
    """Text of every field, up to the next one; of a repeated field the first."""
    starts = list(_FIELD_LINE.finditer(text))
    ends = [*(match.start() for match in starts), len(text)][1:]
    fields: dict[str, str] = {}
    for match, end in zip(starts, ends, strict=True):
        name = match[1].lower().replace(" ", "_")
        fields.setdefault(name, text[match.end() : end].strip())
    return fields


def _sentence(text: str, emotions: Sequence[str], intents: Sequence[str]) -> dict[str, str] | None:
    """Labels of "emotion is X and the intent is Y", and what follows them."""
    first, second = (
        "|".join([*sorted(map(re.escape, names), key=len, reverse=True), r"\w+"]) for names in (emotions, intents)
    )
    match = re.search(rf"emotion is ({first})\W+(?:and )?(?:the )?intent is ({second})\b", text, re.I)
    if match is None:
        return None
    return {"emotion": match[1], "intent": match[2], "rest": text[match.end() :].lstrip(".,;:!? \n\t").strip()}


def _without(label: str, wanted: str, text: str) -> str:
    """The text less its lines `label: …`, up to the word `wanted`, its reason of that label, and "`label` is X"."""
    line = rf"^[ \t]*{label}[ \t]*:.*?(?=$|\b{wanted}\b)"
    why = rf"^[ \t]*{label}[ _]reason[ \t]*:(?s:.*?)(?=\Z|{_FIELD_LINE.pattern})"
    return re.sub(rf"{line}|{why}|\b{label} is\W+\w+", " ", text, flags=re.I | re.M)


def _label(value: str, names: Sequence[str]) -> int:
    """Id of the label that a field holds: the whole line, or the only label word in it."""
    line = value.split("\n", 1)[0].strip().strip("\"'`*_.,;:!?()[] ").lower()
    lower = [name.lower() for name in names]
    line = line if line in lower else SYNONYMS.get(line, line)
    return lower.index(line) if line in lower else _only_label(value.split("\n", 1)[0], names)


def _only_label(text: str, names: Sequence[str]) -> int:
    """Id of the one label that is mentioned, −1 for none or several."""
    lower, words = [name.lower() for name in names], text.lower()
    found = {index for index, name in enumerate(lower) if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words)}
    for word in re.findall(r"\w+", words):
        label = SYNONYMS.get(word)
        if label in lower and word not in lower:
            found.add(lower.index(label))
    return found.pop() if len(found) == 1 else -1


# ---- the sentence that public explanations begin with -------------------------------------------------------------

# A title ends in a full stop that does not end the sentence.
_WITHIN_SENTENCE = r"(?:\b(?:mr|mrs|ms|dr)\.|[^.!?\n])*?"
_LABEL_SENTENCE = re.compile(
    rf"^\s*{_WITHIN_SENTENCE}\bemotion\s+is\b{_WITHIN_SENTENCE}\bintent\s+is\b\W*\w+[\"'”’]?", re.IGNORECASE
)
# What follows the labels still belongs to the sentence, unless it is itself the explanation ("…, because she smiles").
_REST_OF_SENTENCE = re.compile(r"(?!\W*(?:because|since|as)\b)[^.!?:\n]*(?:[.!?:\n]+|$)", re.IGNORECASE)
_REASON_OPENING = re.compile(r"\W*the\s+(?:[\w-]+\s+){0,4}?reason\s+is\b", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s,.;:!?\"'”’)–—-]*")


def strip_label_prefix(text: str) -> str:
    """
    Remove a leading "… emotion is X … intent is Y …" sentence and a "the … reason is:" that follows it.

    The template states the labels, which are scored elsewhere, and inflates the overlap of any two texts. A clause
    that begins with because, since or as is the explanation and is kept. Other texts come back stripped of outer
    white space only.
    """
    labels = _LABEL_SENTENCE.match(text)
    if labels is None:
        return text.strip()
    end = labels.end()
    opening = _REASON_OPENING.match(text, end)
    if opening is None:
        rest = _REST_OF_SENTENCE.match(text, end)
        end = end if rest is None else rest.end()
        opening = _REASON_OPENING.match(text, end)
    end = end if opening is None else opening.end()
    return text[_SEPARATORS.match(text, end).end() :].strip()  # type: ignore[union-attr]  # matches the empty string too
