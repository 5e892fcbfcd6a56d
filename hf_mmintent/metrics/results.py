"""
The result file: one JSON per run with everything that belongs to its numbers.

Scores are stored unrounded, as fractions where tables show percent. JSON has no NaN, so an undefined score is written
as the string "NaN" and read back as a NaN.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import explanation, intent, out_of_scope, sentiment
from .files import atomic_path

SCHEMA = 1
LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "evaluate",
    "numpy",
    "scipy",
    "scikit-learn",
    "sacrebleu",
    "rouge-score",
    "nltk",
)
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def label_order_hash(label_names: Sequence[str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the label names in order: equal only for the same order."""
    text = json.dumps(list(label_names), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number; libraries that are not installed are absent."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def package_version() -> str:
    """Version of this package."""
    from hf_mmintent import __version__

    return __version__


def metric_versions() -> dict[str, str]:
    """Version of every group of metrics: it changes when the same predictions would get another number."""
    return {
        "intent": intent.VERSION,
        "sentiment": sentiment.VERSION,
        "out_of_scope": out_of_scope.VERSION,
        "explanation": explanation.VERSION,
    }


@dataclass(frozen=True)
class ReferenceValue:
    """
    A number printed elsewhere, shown beside ours and never tested against it.

    Attributes:
        key: Our key of the score.
        value: In our scale (a fraction where tables show percent).
        source: Paper and table.
        system: Name of the system there.
    """

    key: str
    value: float
    source: str
    system: str = "paper"


@dataclass(frozen=True)
class RunResult:
    """
    One run on one split.

    Attributes:
        system: Name of the row in a table.
        dataset, configuration, split: What was scored ("mintrec2", "in_scope", "test").
        n: Number of scored samples.
        scores: Key to value, unrounded.
        seed: Seed of the run.
        num_classes: Classes of the task; None for regression and text.
        label_order: [`label_order_hash`] of the label names; None without classes.
        condition: "clean", or what was taken away or added ("without audio", "noise 0.5").
        fold: Index of the fold in cross-validation, else None.
        config: The configuration of model and training.
        checkpoint: Where the weights are.
        device: Hardware in words.
        wall_clock_seconds: Duration of the run.
        settings: Settings of the metrics, such as [`explanation_settings`].
        references: Numbers of the papers with their source.
        metric_versions, package_version, library_versions: Filled in when the run is made.
        schema: Version of this file format.
    """

    system: str
    dataset: str
    configuration: str
    split: str
    n: int
    scores: dict[str, float]
    seed: int
    num_classes: int | None = None
    label_order: str | None = None
    condition: str = "clean"
    fold: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    device: str | None = None
    wall_clock_seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    references: tuple[ReferenceValue, ...] = ()
    metric_versions: dict[str, str] = field(default_factory=metric_versions)
    package_version: str = field(default_factory=package_version)
    library_versions: dict[str, str] = field(default_factory=library_versions)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        scored = self.scores.get("n", self.n)
        if scored != self.n:
            raise ValueError(f"`n` is {self.n} but the scores were computed from {scored} samples.")
        if (self.num_classes is None) != (self.label_order is None):
            raise ValueError(
                f"`num_classes` is {self.num_classes} and `label_order` is {self.label_order}: give both or neither."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        return dataclasses.asdict(self)

    def to_json(self, path: str | Path) -> None:
        """
        Write the file, all or nothing.

        Raises:
            TypeError: `config` or `settings` hold something that JSON cannot express.
        """
        text = json.dumps(_encode(self.to_dict()), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> "RunResult":
        """
        Read a file written by [`RunResult.to_json`].

        Raises:
            ValueError: Another schema, an unknown field, or a missing one.
        """
        name = Path(path).name
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.get("schema") != SCHEMA:
            raise ValueError(f"{name} has schema {content.get('schema')} but this version reads {SCHEMA}.")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(content) - set(fields))
        required = {k for k, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        missing = sorted(required - set(content))
        if unknown or missing:
            raise ValueError(
                f"{name} has the unknown fields {unknown} and lacks {missing}: it is no result file of ours."
            )
        content["scores"] = {key: _decode(value) for key, value in content["scores"].items()}
        content["references"] = tuple(
            ReferenceValue(**{**reference, "value": _decode(reference["value"])})
            for reference in content.get("references", ())
        )
        return cls(**content)


def read_runs(folder: str | Path) -> list[RunResult]:
    """All `*.json` result files of a folder, in the order of their names."""
    return [RunResult.from_json(path) for path in sorted(Path(folder).glob("*.json"))]


def _encode(value: Any) -> Any:
    """Replace NumPy scalars by Python ones, and NaN and infinities by their names."""
    if isinstance(value, dict):
        return {str(key): _encode(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _decode(value: Any) -> float:
    return _NON_FINITE[value] if isinstance(value, str) else value
