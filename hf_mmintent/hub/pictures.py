"""Pictures of a run beside its checkpoint, with the numbers that its card shows: written by an analysis, read for the card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_mmintent.metrics.files import atomic_path

from .run_summary import AreaRow, CalibrationFacts

PICTURES_FOLDER, FACTS_NAME = "pictures", "pictures.json"


def write_pictures(
    checkpoint: str | Path,
    images: Mapping[str, str],
    areas: Sequence[AreaRow] = (),
    metric: str | None = None,
    split: str | None = None,
    calibration: CalibrationFacts | None = None,
) -> Path:
    """
    Note what lies in the folder of pictures.

    Args:
        checkpoint: folder of the checkpoint.
        images: name of a file in `pictures/` -> caption.
        areas, metric, split: of the table of robustness.
        calibration: of a classifier.

    Raises:
        FileNotFoundError: a picture is not there.
    """
    folder = Path(checkpoint) / PICTURES_FOLDER
    missing = [name for name in images if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks the pictures {missing}: draw them first.")
    facts: dict[str, Any] = {
        "images": dict(images),
        "areas": [asdict(row) for row in areas],
        "metric": metric,
        "split": split,
        "calibration": None if calibration is None else asdict(calibration),
    }
    with atomic_path(folder / FACTS_NAME) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / FACTS_NAME


def read_pictures(checkpoint: str | Path) -> dict[str, Any]:
    """
    Fields of a [`RunSummary`] from what was drawn for a checkpoint; empty where nothing was.

    Raises:
        FileNotFoundError: a picture that is noted was deleted.
    """
    folder = Path(checkpoint) / PICTURES_FOLDER
    path = folder / FACTS_NAME
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in found["images"] if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path} lists the pictures {missing}, which are gone: draw them again, or delete {path}."
        )
    calibration = found["calibration"]
    return {
        "images": {f"{PICTURES_FOLDER}/{name}": caption for name, caption in found["images"].items()},
        "areas": [AreaRow(**row) for row in found["areas"]],
        "area_metric": found["metric"],
        "area_split": found["split"],
        "calibration": None if calibration is None else CalibrationFacts(**calibration),
    }


def attachments(checkpoint: str | Path) -> dict[str, Path]:
    """Path in a repository -> file, of every picture that the card shows."""
    return {name: Path(checkpoint) / name for name in read_pictures(checkpoint).get("images", {})}
