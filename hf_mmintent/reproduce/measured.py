"""Rows that are measured and not trained: the operations that a connector saves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mmintent.benchmark.connectors import OWN, flops_by_scope
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.registration import model_class

MEASURED_FILE = "measured.json"


def connector_savings(
    model_type: str, steps: int, width: int, fields: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, float]:
    """
    Share of the floating-point operations that a connector saves against the first dense one that it names.

    Args:
        model_type: architecture of the connector.
        steps, width: of the features that it reads.
        fields: of its config.
        seed: of weights and inputs; the shares do not depend on it.

    Returns:
        `saved_query`, `saved_cross`, `saved_full`: of the queries' part of the cross-attention, of the whole cross-attention,
        of the whole connector. The formula is checked against counted operations.

    Raises:
        ArithmeticError: formula and count disagree.
    """
    kind: Any = model_class(model_type, "AutoModel")
    own = kind.from_backbones(video=width, **(fields or {}))
    name, dense = next(iter(own.dense_configs().items()))
    saved = flops_by_scope({OWN: own, name: kind(dense)}, steps, seed)["saved"]
    return {f"saved_{scope}": float(found[name]) for scope, found in saved.items()}


def measured(arguments: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """[`connector_savings`], remembered in `folder` for these arguments."""
    path = folder / MEASURED_FILE
    wanted = json.loads(json.dumps(arguments))
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["arguments"] == wanted:
            return stored["values"]
    values = connector_savings(**arguments)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"arguments": wanted, "values": values}, indent=2) + "\n", encoding="utf-8")
    return values
