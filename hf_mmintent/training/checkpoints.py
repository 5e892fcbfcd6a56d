"""Which of the checkpoints in a folder are complete."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)

_STEP = re.compile(r"checkpoint-(\d+)")


def is_complete(checkpoint: str | Path) -> bool:
    """
    Whether a trainer checkpoint was written to its end.

    The trainer writes weights first and its state last; a process that is killed in between leaves a folder without the
    state, or with a file that is cut.
    """
    checkpoint = Path(checkpoint)
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        weights = sorted(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safe_open(str(path), framework="pt") as file:  # checks the header against the file's length
                file.keys()
    except (OSError, ValueError, SafetensorError):
        return False
    # torch writes these as zip archives, whose directory comes last: a cut file is none
    archives = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *checkpoint.glob("rng_state*.pth")]
    return "global_step" in state and bool(weights) and len(archives) > 2 and all(map(zipfile.is_zipfile, archives))


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete `checkpoint-<step>` below `folder`, or `None`; incomplete ones are named in a warning."""
    found = [
        (int(match[1]), path) for path in Path(folder).glob("checkpoint-*") if (match := _STEP.fullmatch(path.name))
    ]
    for _, path in sorted(found, reverse=True):
        if is_complete(path):
            return path
        logger.warning(f"{path} is incomplete (its saving was interrupted): an earlier checkpoint is used.")
    return None
