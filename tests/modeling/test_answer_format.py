"""Answers are read back as they were written, and what cannot be read counts as wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmintent.modeling.answer_format import (
    EMOTIONS,
    FIELDS,
    INTENTS,
    REASON_FIELDS,
    SYNONYMS,
    format_answer,
    label_completions,
    label_spans,
    parse_answer,
)

PAIRS = list(itertools.product(EMOTIONS, INTENTS))
WORDS = ["emotion", "intent", "is", "the", "and", "reason", ":", ",", ".", "\n", *EMOTIONS, *INTENTS, *SYNONYMS]
texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from([*WORDS, "Emotion:", "Intent:", "Joint reason:", "\nEmotion: "]), max_size=40).map(
        " ".join
    ),
)
reason = st.text(st.characters(blacklist_categories=["Cs"]), max_size=80)


@pytest.mark.parametrize("answer_format", ["structured", "sentence"])
@pytest.mark.parametrize("capital", [str.lower, str.capitalize, str.upper])
def test_all_pairs_round_trip(answer_format: str, capital) -> None:
    for emotion, intent in PAIRS:
        values = {"emotion": capital(emotion), "intent": capital(intent), "joint_reason": "She smiles, that is why."}
        text = format_answer(values, answer_format)
        for shown in (text, text.upper(), text.replace("\n", "\n\n"), f"  {text}  "):
            answer = parse_answer(shown)
            assert (answer.emotion, answer.intent) == (emotion, intent), shown
            assert answer.emotion_id == EMOTIONS.index(emotion) and answer.intent_id == INTENTS.index(intent)
            assert answer.parsed and answer.joint_reason.lower() == "she smiles, that is why."


@given(st.sampled_from(PAIRS), st.sets(st.sampled_from(FIELDS), min_size=1), reason, reason, reason)
@settings(max_examples=150, deadline=None)
def test_any_reason_survives_and_missing_lines_stay_missing(pair, there, first, second, third) -> None:
    """Also reasons that look like a field, hold line breaks or state labels."""
    values = dict(zip(FIELDS, (*pair, first, second, third), strict=True))
    values = {name: value if name in there else None for name, value in values.items()}
    if not any((value or "").split() for value in values.values()):
        return
    try:
        text = format_answer(values)
    except ValueError:  # a joint reason that is nothing but the sentence with the labels
        assert set(there) == {"joint_reason"} or not any((values[n] or "").split() for n in there - {"joint_reason"})
        return
    answer = parse_answer(text)
    for name in ("emotion", "intent"):
        if name in there:
            assert getattr(answer, name) == values[name]
    for name in ("emotion_reason", "intent_reason"):
        assert getattr(answer, name) == " ".join((values[name] or "").split())


@given(texts)
@settings(max_examples=400, deadline=None)
def test_any_text_is_parsed_or_fails_openly(text: str) -> None:
    answer = parse_answer(text)
    assert -1 <= answer.emotion_id < len(EMOTIONS) and -1 <= answer.intent_id < len(INTENTS)
    assert (answer.emotion is None) == (answer.emotion_id == -1)
    assert (answer.intent is None) == (answer.intent_id == -1)
    assert answer.parsed == (answer.emotion is not None and answer.intent is not None)


@pytest.mark.parametrize(
    "text", ["", "no label at all", "Emotion: cheerful\nIntent: buying", "happy or sad?", "Emotion:"]
)
def test_failures_are_no_label(text: str) -> None:
    """In particular they are not the majority class, neutral."""
    assert parse_answer(text).emotion_id == -1
    assert not parse_answer(text).parsed


@pytest.mark.parametrize(
    "text",
    [
        "Emotion: neutral",
        "Emotion: neutral\nInt",
        "Emotion: neutral\nEmotion reason: a neutral face,\nneutral words",
        "The emotion is neutral.",
        "**Emotion is:** neutral",
    ],
)
def test_an_answer_that_breaks_off_after_one_label_names_no_other(text: str) -> None:
    """Neutral is an emotion and an intent: read twice, half an answer would count as a whole one of the majority class."""
    answer = parse_answer(text)
    assert (answer.emotion, answer.intent, answer.parsed) == ("neutral", None, False)
    swapped = parse_answer(text.replace("Emotion", "Intent").replace("emotion", "intent"))
    assert (swapped.emotion, swapped.intent) == (None, "neutral")


def test_the_other_label_may_stand_on_the_same_line() -> None:
    for text in (
        "Emotion: sad. Intent: wishing.",
        "Emotion: sad, intent wishing",
        "The emotion is sad, she is wishing.",
    ):
        answer = parse_answer(text)
        assert (answer.emotion, answer.intent) == ("sad", "wishing"), text


def test_first_of_repeated_fields_wins() -> None:
    answer = parse_answer("Emotion: sad\nIntent: wishing\nEmotion: happy\nJoint reason: a\nb\nJoint reason: c")
    assert answer.emotion == "sad" and answer.joint_reason == "a\nb"


@pytest.mark.parametrize("word,label", sorted(SYNONYMS.items()))
def test_synonyms(word: str, label: str) -> None:
    kind = "emotion" if label in EMOTIONS else "intent"
    assert getattr(parse_answer(f"{kind}: {word.capitalize()}."), kind) == label
    assert getattr(parse_answer(f"It is {word} that I hear"), kind) == label


def test_only_label_word_of_a_free_text() -> None:
    answer = parse_answer("I would say she is disgusted and keeps suggesting things.")
    assert (answer.emotion, answer.intent) == ("disgust", "suggesting")
    assert parse_answer("Either sad or afraid, suggesting it.").emotion_id == -1


def test_sentence_without_fields() -> None:
    answer = parse_answer("Here the emotion is Anger, and the intent is Questioning: he shouts. Twice.")
    assert (answer.emotion, answer.intent, answer.joint_reason) == ("anger", "questioning", "he shouts. Twice.")


def test_label_sentence_of_a_joint_reason_is_no_target() -> None:
    text = format_answer(
        {"emotion": "sad", "joint_reason": "The emotion is Sad, and intent is Wishing. The deep reason is: x"}
    )
    assert text == "Emotion: sad\nJoint reason: x"


def test_other_names_of_several_words() -> None:
    names = ("ask for help", "thank")
    text = format_answer({"emotion": "sad", "intent": "Ask for help"})
    assert parse_answer(text, EMOTIONS, names).intent == "ask for help"
    sentence = format_answer({"emotion": "sad", "intent": "Ask for help", "joint_reason": "x"}, "sentence")
    assert parse_answer(sentence, EMOTIONS, names).intent == "ask for help"


def test_label_spans_hold_the_labels() -> None:
    values = {"emotion": "Happy", "intent": "Ask for help", "joint_reason": "happy: ask for help"}
    for answer_format in ("structured", "sentence"):
        text = format_answer(values, answer_format)
        assert [text[a:b] for a, b in label_spans(text, values, answer_format)] == ["happy", "ask for help"]


def test_completions_are_beginnings_of_answers() -> None:
    for answer_format in ("structured", "sentence"):
        emotions, intents = label_completions(EMOTIONS, INTENTS, answer_format)
        text = format_answer({"emotion": "fear", "intent": "consoling", "joint_reason": "x"}, answer_format)
        assert text.startswith(emotions[5] + intents[5])


def test_answers_that_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="none of the targets"):
        format_answer(dict.fromkeys(REASON_FIELDS, " "))
    with pytest.raises(ValueError, match=r"no `intent`.*structured"):
        format_answer({"emotion": "sad"}, "sentence")
