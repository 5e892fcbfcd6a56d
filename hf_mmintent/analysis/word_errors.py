"""Errors as speech recognition makes them: words replaced by ones that sound alike, lost, or heard where none were said."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

# How errors divide. Ours: recognisers replace most often, lose less often, and seldom add.
KINDS = {"substitution": 0.6, "deletion": 0.25, "insertion": 0.15}

# Letters that stand for much the same sound in English; vowels are kept apart from consonants, not from each other.
_SOUNDS = (
    ("ph", "f"), ("gh", ""), ("ck", "k"), ("sh", "x"), ("ch", "x"), ("th", "t"), ("wh", "w"), ("q", "k"), ("c", "k"),
    ("z", "s"), ("d", "t"), ("b", "p"), ("v", "f"), ("g", "k"), ("j", "x"),
)  # fmt: skip

_NEIGHBOURS = 20  # words on either side that a word is compared with


def sound_key(word: str) -> str:
    """A rough spelling of how an English word sounds: the same for `knight` and `night`, and for `write` and `ride`."""
    key = re.sub(r"[^a-z]", "", word.lower())
    key = re.sub(r"^(k)(?=n)|^(w)(?=r)|(?<=[a-z]{2})e$", "", key)  # letters that are not heard
    for letters, sound in _SOUNDS:
        key = key.replace(letters, sound)
    key = re.sub(r"[aeiouy]+", "a", key)
    return re.sub(r"(.)\1+", r"\1", key)


class SoundAlikes:
    """
    The words of a vocabulary that sound most like a word.

    Args:
        texts: the vocabulary is every word of these.
        count: alternatives per word.
    """

    def __init__(self, texts: Sequence[str | None], count: int = 3) -> None:
        words = {bare(word) for text in texts if text for word in text.split()} - {""}
        self.count = count
        self._sorted = sorted((sound_key(word), word) for word in words)
        self._found: dict[str, list[str]] = {}

    def __call__(self, word: str) -> list[str]:
        """Alternatives, the most alike first; empty when the vocabulary has no other word."""
        word = bare(word)
        if word not in self._found:
            key = sound_key(word)
            # Words that begin alike are neighbours; comparing with the whole vocabulary would take minutes.
            place = bisect_left(self._sorted, (key, word))
            near = [pair for pair in self._sorted[max(place - _NEIGHBOURS, 0) : place + _NEIGHBOURS] if pair[1] != word]
            scored = [(-SequenceMatcher(None, key, other, autojunk=False).ratio(), name) for other, name in near]
            self._found[word] = [name for _, name in sorted(scored)[: self.count]]
        return self._found[word]


def bare(word: str) -> str:
    """A word in lower case without the punctuation around it."""
    return re.sub(r"^\W+|\W+$", "", word.lower())


def corrupt_texts(
    texts: Sequence[str | None],
    rate: float,
    seed: int = 0,
    kinds: dict[str, float] | None = None,
    alike: SoundAlikes | None = None,
) -> list[str | None]:
    """
    The texts with word errors.

    Exactly round(rate · n) of the n words of all texts together are hit, drawn without replacement, so the rate is the one
    asked for and not a draw around it. With one seed the words hit at a lower rate are among those hit at a higher one.
    A substitution takes the place of its word, a deletion loses it, an insertion puts a word behind it. A text that would
    lose every word keeps one: whether a text is missing altogether is another question.

    Args:
        texts: one per sample, `None` where a sample has none.
        rate: errors per word in [0, 1].
        seed: of positions, kinds and words.
        kinds: shares of substitutions, deletions and insertions, by name; [`KINDS`] by default.
        alike: where other words come from; the words of `texts` by default.

    Raises:
        ValueError: a rate outside of [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` is {rate}: errors per word, from 0 to 1.")
    shares = KINDS if kinds is None else kinds
    generator = np.random.default_rng([seed, 3])
    split = [[] if text is None else text.split() for text in texts]
    places = [(row, column) for row, words in enumerate(split) for column in range(len(words))]
    order = generator.permutation(len(places))
    limits = np.cumsum([shares.get(name, 0.0) for name in KINDS])
    draws = generator.random((len(places), 2))  # of kind and of word; drawn for every word, so that rates are nested
    others = alike or SoundAlikes(texts)
    made: list[list[list[str]]] = [[[word] for word in words] for words in split]
    for hit in order[: round(rate * len(places))]:
        row, column = places[hit]
        word = split[row][column]
        kind = list(KINDS)[min(int(np.searchsorted(limits / limits[-1], draws[hit, 0], side="right")), 2)]
        options = others(word) or [bare(word) or word]
        chosen = options[int(draws[hit, 1] * len(options))]
        made[row][column] = {"substitution": [chosen], "deletion": [], "insertion": [word, chosen]}[kind]
    found: list[str | None] = []
    for text, words, parts in zip(texts, split, made, strict=True):
        joined = " ".join(word for part in parts for word in part)
        found.append(text if text is None or not words else joined or words[0])
    return found


def word_error_rate(reference: str, heard: str) -> float:
    """Least number of substitutions, deletions and insertions that make one of the other, per word of the reference."""
    truth, guess = reference.split(), heard.split()
    if not truth:
        raise ValueError("`reference` has no words: a rate per word is undefined.")
    row = list(range(len(guess) + 1))
    for number, word in enumerate(truth, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(guess, 1):
            before, row[place] = row[place], min(before + (word != other), row[place] + 1, row[place - 1] + 1)
    return row[-1] / len(truth)
