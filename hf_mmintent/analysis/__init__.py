"""What the papers analyse beside scores: one module per analysis, each writes a picture and its numbers.

An analysis is a module with `add_arguments(parser)` and `run(arguments) -> str`; `examples/analyze.py NAME` calls it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# A new analysis is one line: its name on the command line, and its module.
ANALYSES: dict[str, str] = {
    "levels": "levels",
    "noise": "noise",
    "budgets": "budgets",
    "robustness": "robustness",
    "confusion": "confusion",
    "per-class": "per_class",
    "calibration": "calibration",
    "modality-attention": "modality_attention",
    "attribution": "attribution",
    "card": "card",
    "tsne": "tsne",
    "sensitivity": "sensitivity",
    "label-distribution": "label_distribution",
    "common-similarity": "common_similarity",
    "query-attention": "query_attention",
    "convergence": "convergence",
}


def analysis(name: str) -> ModuleType:
    """
    The module of an analysis.

    Raises:
        ValueError: there is none of that name; the message lists the known ones.
    """
    if name not in ANALYSES:
        raise ValueError(f"there is no analysis {name!r}: known are {sorted(ANALYSES)}.")
    return importlib.import_module(f"{__name__}.{ANALYSES[name]}")
