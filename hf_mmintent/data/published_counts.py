"""Published rows per label and split, to compare files with; rows per split are known to the builders themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PublishedCounts:
    """
    What is published about a configuration of a dataset.

    Args:
        labels: Label to rows per split; a label of a regression is its sign, `"negative"`, `"zero"` or `"positive"`.
        widths: Numbers per step of the published features, by modality; others exist and only give a warning.
    """

    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)


def published_counts(name: str, config: str) -> PublishedCounts:
    """What is known about a configuration of a builder; empty where nothing is."""
    full = f"{name}/{config}"
    return PublishedCounts(_parse(_LABELS.get(full, _LABELS.get(name, ""))), _WIDTHS.get(full, _WIDTHS.get(name, {})))


def _parse(table: str) -> dict[str, dict[str, int]]:
    """`label, train, validation, test; …`, with `-` for a split that the dataset does not have."""
    counts = {}
    for entry in filter(None, (part.strip() for part in table.split(";"))):
        label, *numbers = (part.strip() for part in entry.split(","))
        counts[label] = {split: int(number) for split, number in zip(SPLITS, numbers) if number != "-"}
    return counts


# Counted in the official tables.
_LABELS = {
    "mintrec": """
        Complain, 172, 57, 57; Praise, 127, 43, 43; Apologise, 82, 27, 27; Thank, 74, 25, 25; Criticize, 70, 24, 23;
        Agree, 35, 12, 12; Taunt, 38, 12, 12; Flaunt, 32, 10, 10; Joke, 31, 10, 10; Oppose, 31, 10, 10;
        Comfort, 52, 18, 18; Care, 57, 19, 19; Inform, 170, 57, 57; Advise, 73, 24, 25; Arrange, 66, 22, 22;
        Introduce, 63, 21, 21; Leave, 51, 17, 17; Prevent, 43, 15, 15; Greet, 36, 12, 12; Ask for help, 31, 10, 10""",
    "mintrec2/in_scope": """
        Acknowledge, 199, 40, 68; Advise, 244, 34, 97; Agree, 242, 37, 64; Apologise, 177, 29, 65; Arrange, 190, 18, 51;
        Ask for help, 102, 16, 37; Asking for opinions, 166, 37, 48; Care, 147, 28, 47; Comfort, 153, 31, 49;
        Complain, 345, 60, 107; Confirm, 319, 59, 93; Criticize, 129, 22, 47; Doubt, 473, 79, 135; Emphasize, 67, 10, 17;
        Explain, 484, 88, 193; Flaunt, 63, 8, 22; Greet, 200, 47, 66; Inform, 603, 106, 217; Introduce, 192, 58, 60;
        Invite, 76, 16, 17; Joke, 85, 17, 29; Leave, 164, 18, 53; Oppose, 328, 63, 117; Plan, 123, 27, 38;
        Praise, 302, 57, 113; Prevent, 82, 15, 31; Refuse, 70, 7, 17; Taunt, 184, 32, 58; Thank, 193, 30, 58;
        Warn, 63, 17, 19""",
    "meld/emotion": """
        neutral, 4710, 470, 1256; joy, 1743, 163, 402; surprise, 1205, 150, 281; anger, 1109, 153, 345;
        sadness, 683, 111, 208; disgust, 271, 22, 68; fear, 268, 40, 50""",
    "meld/sentiment": "neutral, 4710, 470, 1256; negative, 2945, 406, 833; positive, 2334, 233, 521",
    "mustard/speaker_independent": "sarcastic, -, -, 152; not_sarcastic, -, -, 204",
    "cmu_mosi/aligned": "negative, 552, 92, 379; zero, 53, 13, 30; positive, 679, 124, 277",
    "cmu_mosi/unaligned": "negative, 552, 92, 379; zero, 53, 13, 30; positive, 679, 124, 277",
    "cmu_mosi/raw": "negative, 552, 92, 379; zero, 53, 13, 30; positive, 679, 124, 277",
    "cmu_mosi/bc_split": "negative, -, -, 285; zero, -, -, 31; positive, -, -, 436",
    "ict_mmmo/binary": "negative, 98, 15, 28; positive, 122, 25, 52",
    "crema_d/paper": """
        neutral, -, -, 114; happy, -, -, 123; sad, -, -, 140; fear, -, -, 133; disgust, -, -, 129; anger, -, -, 105""",
    "grid/features": "bin, 153, 35, -; lay, 160, 40, -; place, 167, 39, -; set, 160, 46, -",
}

_WIDTHS = {
    "mintrec": {"audio": 768, "video": 256},
    "mintrec2": {"audio": 768, "video": 256},
    "cmu_mosi/aligned": {"audio": 5, "video": 20},
    "cmu_mosi/unaligned": {"audio": 5, "video": 20},
    "cmu_mosi/bc_split": {"audio": 73, "video": 100},
    "cmu_mosei": {"audio": 74, "video": 35},
    "ur_funny": {"audio": 81, "video": 371},
    "mustard": {"audio": 283, "video": 2048},
    "mustard/hkt": {"audio": 81, "video": 371},
    "ave": {"audio": 128, "video": 512},
    "mc_eiu": {"audio": 512, "video": 342, "lexical": 768},
    "ict_mmmo": {"lexical": 300, "audio": 74, "video": 36},
    "grid/features": {"audio": 20, "video": 768},
}
