"""The layout of HKT's pickles, written by the tests of UR-FUNNY and of MUStARD."""

import numpy as np

SENTENCES = [
    "and that is why",
    "so I said hello to him",
    "thank you",
    "it was not me at all",
    "never",
    "we did it again",
]


def part(words: int, seed: int, text: object) -> tuple:
    """(words, visual, acoustic, humour-centric features)."""
    rng = np.random.default_rng(seed)
    return (text, rng.normal(size=(words, 7)), rng.normal(size=(words, 5)), rng.normal(size=(words, 4)))


def hkt_examples(keys: list) -> dict[str, list[tuple]]:
    """Six examples, three for training; every other one is positive, labels come in three types."""
    labels = (0, np.array([1]), 0.0, np.int64(1), [0], 1.0)
    examples = []
    for i, (key, text, label) in enumerate(zip(keys, SENTENCES, labels)):
        context = part(4, 100 + i, ["first sentence", "second sentence"][: i % 3])
        examples.append((part(len(text.split()), i, text), context, key, label))
    return {"train": examples[:3], "dev": examples[3:4], "test": examples[4:]}
