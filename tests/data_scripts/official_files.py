"""Small folders in the layout of the official files, written by the tests."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

MINTREC = {
    "train": [
        ("S04", "E01", "1", 'he said "no, and', "Complain"),
        ("S04", "E01", "2", "café, please.", "Ask for help"),
        ("S05", "E16", "329", 'it\'s "fine"', "Inform"),
    ],
    "dev": [("S04", "E02", "7", "thanks", "Thank"), ("S04", "E02", "8", "hello", "Greet")],
    "test": [("S06", "E03", "1", "bye", "Leave")],
}


def mintrec_keys() -> list[str]:
    return ["_".join(row[:3]) for rows in MINTREC.values() for row in rows]


def write_mintrec(
    folder: Path, rows: dict[str, list[tuple]] | None = None, header: tuple = (), ends: str = "\n", bom: bool = False
) -> Path:
    """The three tables; `ends` and `bom` are the variants that copies come in."""
    folder.mkdir(parents=True, exist_ok=True)
    header = header or ("season", "episode", "clip", "text", "label")
    for split, lines in (rows or MINTREC).items():
        text = "".join("\t".join(line) + ends for line in (header, *lines))
        (folder / f"{split}.tsv").write_bytes(("\ufeff" * bom + text).encode())
    return folder


def write_mintrec_features(
    folder: Path, widths: dict[str, int] | None = None, **replaced: dict[str, Any]
) -> dict[str, dict]:
    """`audio_feats.pkl` as arrays (T, 1, D), `video_feats.pkl` as lists of frames; `replaced` overrides entries."""
    widths = widths or {"audio": 6, "video": 4}
    made: dict[str, dict] = {}
    for modality, width in widths.items():
        random = np.random.default_rng(width)
        entries = {key: random.normal(size=(i + 2, 1, width)) for i, key in enumerate(mintrec_keys())}
        if modality == "video":
            entries = {key: list(value.astype(np.float32)) for key, value in entries.items()}
        entries.update(replaced.get(modality, {}))
        entries = {key: value for key, value in entries.items() if value is not Ellipsis}
        (folder / f"{modality}_data").mkdir(exist_ok=True)
        (folder / f"{modality}_data" / f"{modality}_feats.pkl").write_bytes(pickle.dumps(entries))
        made[modality] = entries
    return made


def mmsa_parts(aligned: bool, widths: tuple[int, int] = (5, 20)) -> dict[str, dict]:
    """The dict that MMSA pickles, 3 / 2 / 2 utterances, padded at the end; −inf in audio."""
    random = np.random.default_rng(0)
    parts: dict[str, dict] = {}
    for part, count in (("train", 3), ("valid", 2), ("test", 2)):
        steps = {"audio": 8, "vision": 8 if aligned else 11}
        lengths = {name: [int(n) for n in random.integers(1, limit, count)] for name, limit in steps.items()}
        if aligned:
            lengths["vision"] = lengths["audio"]
        fields: dict[str, Any] = {"id": np.array([f"vid{part}$_${i}" for i in range(count)])}
        fields["raw_text"] = np.array([f"TEXT {i} OF {part}" for i in range(count)])
        fields["regression_labels"] = np.linspace(-3, 3, count).astype(np.float32)
        fields["classification_labels"] = np.zeros(count)
        fields["annotations"] = np.array(["Positive"] * count)
        for (name, limit), width in zip(steps.items(), widths):
            values = random.normal(size=(count, limit, width))
            for i, length in enumerate(lengths[name]):
                values[i, length:] = 0
            fields[name] = values
            if not aligned:
                fields[f"{name}_lengths"] = lengths[name]
        mask = np.zeros((count, 8))
        for i, length in enumerate(lengths["audio"]):
            mask[i, :length] = 1
        fields["text_bert"] = np.stack([mask * 7, mask, mask * 0], axis=1)
        parts[part] = fields
    parts["train"]["audio"][0, 0, 0] = -np.inf
    return parts


def write_mmsa(folder: Path, name: str, parts: dict[str, dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(parts))
    return folder
