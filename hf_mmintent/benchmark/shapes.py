"""Named input shapes, and the distribution of real text lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """
    Size of a padded batch.

    Args:
        batch_size: samples.
        text: tokens with specials, and with label slots where the architecture has them.
        features: (steps, width) of every modality that is not text.
        num_labels: classes; 1 is regression.
    """

    batch_size: int
    text: int
    features: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    num_labels: int = 20


SHAPES: dict[str, Shape] = {
    # 41 tokens, 230 frames and 480 steps of sound are what the published loaders of MIntRec pad every batch to.
    "mintrec": Shape(32, 41, {"video": (230, 1024), "audio": (480, 768)}, 20),
    # Unaligned files of CMU-MOSI as distributed with MMSA.
    "mosi": Shape(32, 50, {"audio": (375, 5), "video": (500, 20)}, 1),
    # One picture as CLIP ViT-L/14 sees it, 16 x 16 patches and the class token, for a connector.
    "clip_grid": Shape(8, 16, {"video": (257, 1024)}),
    # Seconds on any machine: to try the script out, not to compare.
    "mini": Shape(8, 16, {"audio": (24, 12), "video": (16, 16)}, 4),
}

# How many of the 2224 utterances of MIntRec have how many wordpieces under BERT's uncased vocabulary, without special tokens
# and label slots. MVCL-DAF adds two and four: 16.2 tokens on average, 29 in the longest of a random 32.
MINTREC_WORDPIECES: dict[int, int] = {
    2: 55, 3: 39, 4: 74, 5: 113, 6: 145, 7: 192, 8: 221, 9: 253, 10: 214, 11: 179, 12: 179, 13: 133, 14: 106, 15: 86,
    16: 58, 17: 43, 18: 25, 19: 19, 20: 14, 21: 13, 22: 17, 23: 8, 24: 10, 25: 3, 26: 5, 27: 4, 28: 4, 29: 4, 30: 3,
    31: 1, 32: 2, 35: 2,
}  # fmt: skip

LENGTHS: dict[str, Mapping[int, int]] = {"mintrec": MINTREC_WORDPIECES}


def shape_named(name: str) -> Shape:
    """
    A shape of the table.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in SHAPES:
        raise ValueError(f"there is no shape {name!r}: known are {sorted(SHAPES)}.")
    return SHAPES[name]
