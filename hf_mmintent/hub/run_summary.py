"""The facts of one run from which its model card is written."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

import hf_mmintent

Score = float | Sequence[float]
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "huggingface_hub")


@dataclass
class SplitScores:
    """
    Results on one split.

    Args:
        split (`str`): name of the split as the dataset has it (`"test"`).
        n (`int`): number of samples behind every score.
        scores (`dict[str, float | list[float]]`): metric name with its averaging (`f1_macro`) -> value, or one value
            per seed, in the order of [`RunSummary`]'s `seeds`.
    """

    split: str
    n: int
    scores: Mapping[str, Score]


@dataclass
class AblationRow:
    """
    Results of the same checkpoint when it is given only some modalities.

    Args:
        modalities (`list[str]`): what the model received.
        scores (`dict[str, float | list[float]]`): as in [`SplitScores`].
    """

    modalities: Sequence[str]
    scores: Mapping[str, Score]


@dataclass
class AreaRow:
    """
    Area under the curve of a score over the strengths of one perturbation, divided by the curve's width.

    Args:
        perturbation (`str`), modality (`str`): what was made worse.
        clean (`float`): the score without perturbation.
        area (`float`): mean score over all strengths.
        strongest (`float`): the greatest strength.
        at_strongest (`float`): the score there.
    """

    perturbation: str
    modality: str
    clean: float
    area: float
    strongest: float
    at_strongest: float


@dataclass
class CalibrationFacts:
    """Temperature of the probabilities, the split it was fitted on, and expected calibration errors with 1 and with it."""

    temperature: float
    fitted_on: str
    measured_on: str
    ece_before: float
    ece_after: float


@dataclass
class ReferenceRow:
    """Numbers that somebody else reported, for comparison: `source` says where (paper and table)."""

    name: str
    source: str
    scores: Mapping[str, Score]


@dataclass
class InputRow:
    """One input tensor of the model: its name, its shape in words (`(batch, audio_length, 768)`) and its dtype."""

    name: str
    shape: str
    dtype: str


@dataclass
class RunSummary:
    """
    What a model card says. Only the first three fields must be given: whatever else is absent is left out of the card,
    or said to be not recorded where a reader would look for it.

    Args:
        model_name (`str`): title of the card and name in its `model-index`.
        architecture (`str`): class of the checkpoint (`"MvclDafForSequenceClassification"`).
        model_type (`str`): the configuration's `model_type`, used as a tag.
        auto_class (`str`): Auto class that opens the checkpoint.
        repo_id (`str`): where the checkpoint lives or will live; the usage example needs it.
        description (`str`): a sentence or two on the architecture.
        task (`str`): what is predicted, in words ("Intent recognition").
        problem_type (`str`): the configuration's `problem_type`.
        pipeline_tag (`str`): task name of the Hub; when absent it follows from the modalities.
        language (`str` or `list[str]`): codes such as `"en"`.
        modalities (`list[str]`): what the model takes.
        inputs (`list[InputRow]`): tensors of the model, see [`describe_inputs`].
        usage (`str`): Python lines that make `inputs` from `processor`; when absent a sentence alone is processed.
        class_names (`list[str]`): in the order of the logits; empty for a regression.
        num_parameters (`int`): of the whole model, backbones included.
        base_models (`dict[str, str]`): part ("text") -> checkpoint it started from. A folder is shown by its name.
        dataset_name (`str`), dataset_id (`str`), dataset_config (`str`): in words, its id on the Hub, configuration.
        dataset_license (`str`), split_sizes (`dict[str, int]`): of the training data.
        synthetic (`bool`): the training data was generated, not recorded from people.
        results (`list[SplitScores]`): evaluation; `selection` says how the checkpoint was chosen.
        references (`list[ReferenceRow]`): numbers of others.
        ablation (`list[AblationRow]`), ablation_split (`str`): results with modalities dropped, and where.
        areas (`list[AreaRow]`), area_metric (`str`), area_split (`str`): robustness, of which score, on which split.
        calibration ([`CalibrationFacts`]): of a classifier whose probabilities were calibrated.
        seeds (`list[int]`), command (`str`), commit (`str`), hardware (`str`), duration (`float`, seconds),
        libraries (`dict[str, str]`): how the numbers came about.
        limits (`list[str]`): known limits of this very checkpoint.
        license (`str`), license_link (`str`): of the weights; code is Apache-2.0.
        citation (`str`): BibTeX entries.
        images (`dict[str, str]`): path inside the repository -> caption.
    """

    model_name: str
    architecture: str
    model_type: str
    auto_class: str = "AutoModelForSequenceClassification"
    repo_id: str | None = None
    description: str | None = None
    task: str | None = None
    problem_type: str | None = None
    pipeline_tag: str | None = None
    language: str | list[str] | None = "en"
    modalities: Sequence[str] = ()
    inputs: Sequence[InputRow] = ()
    usage: str | None = None
    class_names: Sequence[str] = ()
    num_parameters: int | None = None
    base_models: Mapping[str, str] = field(default_factory=dict)
    dataset_name: str | None = None
    dataset_id: str | None = None
    dataset_config: str | None = None
    dataset_license: str | None = None
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    synthetic: bool = False
    results: Sequence[SplitScores] = ()
    selection: str | None = None
    references: Sequence[ReferenceRow] = ()
    ablation: Sequence[AblationRow] = ()
    ablation_split: str | None = None
    areas: Sequence[AreaRow] = ()
    area_metric: str | None = None
    area_split: str | None = None
    calibration: CalibrationFacts | None = None
    seeds: Sequence[int] = ()
    command: str | None = None
    commit: str | None = None
    hardware: str | None = None
    duration: float | None = None
    libraries: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()
    license: str | None = None
    license_link: str | None = None
    citation: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for scores in (*(row.scores for row in self.results), *(row.scores for row in self.ablation)):
            for name, score in scores.items():
                count = np.size(np.asarray(score))
                if count == 0 or (count > 1 and self.seeds and count != len(self.seeds)):
                    raise ValueError(
                        f"`{name}` has {count} values but `seeds` lists {len(self.seeds)} ({list(self.seeds)}): give "
                        f"one value, or one per seed."
                    )
        for path in self.images:
            check_repo_path(path)

    @classmethod
    def from_model(
        cls, model: PreTrainedModel, model_name: str, batch: Mapping[str, Any] | None = None, **facts: Any
    ) -> RunSummary:
        """
        Fill in what the model and this machine know: class, labels, size, inputs, library versions and hardware.

        Args:
            model ([`PreTrainedModel`]): the trained model.
            model_name (`str`): title of the card.
            batch (`dict[str, torch.Tensor]`, *optional*): a batch as the collator makes it; gives the table of inputs.
            **facts: further fields of [`RunSummary`]; they win over what is found here.

        Returns:
            [`RunSummary`]
        """
        config = model.config
        id2label = config.id2label or {}
        regression = config.problem_type == "regression"
        generates = bool(model.can_generate())
        found: dict[str, Any] = {
            "architecture": type(model).__name__,
            "model_type": config.model_type,
            "auto_class": "AutoModelForImageTextToText" if generates else "AutoModelForSequenceClassification",
            "problem_type": config.problem_type,
            "modalities": list(config.to_dict().get("modalities") or ()),
            "class_names": [] if regression or generates else [name for _, name in sorted(id2label.items())],
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "inputs": describe_inputs(batch) if batch is not None else [],
            "libraries": library_versions(),
            "hardware": describe_hardware(),
        }
        return cls(model_name=model_name, **{**found, **facts})


def check_repo_path(path: str) -> None:
    """Raise `ValueError` unless `path` is a relative path that stays inside the repository."""
    parts = path.replace("\\", "/").split("/")
    if not path or path.startswith(("/", "\\")) or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"`{path}` is not a path inside the repository: give a relative one such as `images/curve.png`."
        )


def mean_and_std(score: Score) -> tuple[float, float | None]:
    """Mean of a score and, when there are several seeds, its sample standard deviation (n - 1)."""
    values = np.asarray(score, dtype=float).reshape(-1)
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else None


def describe_inputs(batch: Mapping[str, Any]) -> list[InputRow]:
    """
    Names, shapes in words and dtypes of the tensors of a batch; labels are left out.

    The axes that vary are named after the package's conventions (`<modality>_features` is `(batch, <modality>_length,
    width)`); only widths are shown as numbers.

    Args:
        batch (`dict[str, torch.Tensor]`): what a collator returns.

    Returns:
        `list[InputRow]`, in the order of the batch.
    """
    rows = []
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or name == "labels":
            continue
        if name.startswith("input_values"):
            steps = "samples at 16 kHz"
        elif name.startswith("pixel_values"):
            steps = "frames"
        elif name.endswith(("_features", "_attention_mask")):
            steps = name.removesuffix("_features").removesuffix("_attention_mask") + "_length"
        else:
            steps = "text_length"
        axes = ["batch", steps, *map(str, value.shape[2:])][: value.ndim]
        rows.append(InputRow(name, f"({', '.join(axes)})", str(value.dtype).removeprefix("torch.")))
    return rows


def library_versions() -> dict[str, str]:
    """Versions of the package and of the libraries under it; one that is not installed is left out."""
    versions = {"hf_mmintent": hf_mmintent.__version__}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # an optional one: nothing to record
            continue
    return versions


def describe_hardware() -> str:
    """GPUs by name, or the processor's architecture and number of cores."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} x {torch.cuda.get_device_name(0)}"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
