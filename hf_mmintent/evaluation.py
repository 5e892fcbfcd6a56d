"""Score a finished checkpoint on a split, with all modalities or with some dropped."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoProcessor, EvalPrediction, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import find_adapter_config_file

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.media_features import add_media_features, has_raw_media
from hf_mmintent.data.reading import direct
from hf_mmintent.metrics import Predictions, build_compute_metrics
from hf_mmintent.modeling.out_of_scope import OutOfScope
from hf_mmintent.out_of_scope import encode_with_unknown, rejection_scores
from hf_mmintent.registration import task_auto_class


@dataclass
class Evaluation:
    """Scores on one split under one condition, and the predictions behind them."""

    condition: str
    scores: dict[str, float]
    predictions: Predictions

    def save(self, path: str | Path) -> None:
        """One JSON line per prediction."""
        self.predictions.save(path)


def open_checkpoint(path: str | Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Model in eval mode and processor of a checkpoint: folder or Hub id; an adapter comes with its base.

    The architecture says what opens it: a classifier or regressor, or a model that writes.
    """
    config = AutoConfig.from_pretrained(adapter_base(path) or str(path))
    model = task_auto_class(config).from_pretrained(str(path))
    return model.eval(), AutoProcessor.from_pretrained(str(path))


def adapter_base(path: str | Path) -> str | None:
    """What an adapter belongs to; `None` for a checkpoint of a whole model."""
    found = find_adapter_config_file(str(path))
    return None if found is None else json.loads(Path(found).read_text(encoding="utf-8"))["base_model_name_or_path"]


def with_features(rows: Dataset, model: PreTrainedModel) -> Dataset:
    """The rows with the features that the model's own encoder makes of their media, if it has one and reads them."""
    reads = any(name != "text" for name in model.config.modalities)
    if model.config.encoder_config is None or not reads or not has_raw_media(rows):
        return rows
    return add_media_features(rows, model.backbone_owner().media_encoder)


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    rows: Dataset,
    collator: MultimodalCollator,
    batch_size: int = 32,
    progress: str | None = None,
) -> np.ndarray:
    """Logits (n, num_labels) float32 of every row, in order."""
    return model_outputs(model, rows, collator, batch_size, progress)["logits"].numpy()


@torch.no_grad()
def model_outputs(
    model: PreTrainedModel,
    rows: Dataset,
    collator: MultimodalCollator,
    batch_size: int = 32,
    progress: str | None = None,
    names: Sequence[str] = ("logits",),
) -> dict[str, torch.Tensor]:
    """Some outputs of every row, in order, float32 on the CPU; labels are kept from the model."""
    loader = DataLoader(direct(rows), batch_size=batch_size, collate_fn=collator)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for batch in tqdm(loader, desc=progress or "predicting", disable=progress is None, leave=False):
        batch.pop("labels", None)
        outputs = model(**{name: value.to(model.device) for name, value in batch.items()})
        for name in names:
            found[name].append(outputs[name].float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    drop_modalities: Sequence[str] = (),
    batch_size: int = 32,
    seed: int = 0,
    train_counts: dict[str, int] | None = None,
    progress: bool = True,
) -> Evaluation:
    """
    Scores of `specs`' keys (`accuracy`, `f1_weighted`, `mae`, …) on `rows`.

    Args:
        model, processor: from [`open_checkpoint`].
        rows: with `label`, and features or media.
        drop_modalities: what the model does not get to see.
        batch_size: does not change the scores.
        seed: of the run that is scored; stored with the predictions.
        train_counts: training samples per class, for `f1_rare`.
        progress: show a bar.

    Returns:
        [`Evaluation`]. A model with a rule for what is out of scope is scored by [`hf_mmintent.out_of_scope.rejection_scores`]:
        rows that carry the rule's label are expected to be rejected, and predictions are with rejection (id K).
    """
    condition = "clean" if not drop_modalities else "without " + " and ".join(drop_modalities)
    rule = OutOfScope.of(model.config)
    names = named_labels(rows)
    labels = processor.encode_labels(names) if rule is None else encode_with_unknown(names, processor, rule)
    rows = with_features(rows, model)
    collator = MultimodalCollator(processor, drop_modalities=tuple(drop_modalities))
    wanted = ("logits",) if rule is None else ("logits", "embeddings")
    outputs = model_outputs(
        model, rows.remove_columns("label"), collator, batch_size, condition if progress else None, wanted
    )
    logits = outputs["logits"].numpy()
    groups = {name: list(rows[name]) for name in ("dialogue_id", "speaker") if name in rows.column_names}
    regression = model.config.problem_type == "regression"
    if rule is not None:
        values, scores = rejection_scores(rule, outputs, labels, train_counts)
    else:
        compute = build_compute_metrics(model.config.problem_type, processor.label_names, train_counts)
        values = logits.squeeze(-1) if regression else logits.argmax(-1)
        scores = compute(EvalPrediction(logits, labels))
    saved = Predictions(list(rows["id"]), labels, values, seed, None if regression else logits, groups)
    return Evaluation(condition, scores, saved)


def named_labels(rows: Dataset) -> list[Any]:
    """
    Targets of the rows; names where the dataset has them, since two label orders must not be compared by id.

    Raises:
        ValueError: a row has no label (id −1, as test sets with hidden labels have it).
    """
    feature, values = rows.features["label"], list(rows["label"])
    if not isinstance(feature, ClassLabel):
        return values
    for identifier, value in zip(rows["id"], values, strict=True):
        if not 0 <= value < feature.num_classes:
            raise ValueError(f"row {identifier!r} has the label id {value} outside [0, {feature.num_classes}).")
    return [feature.names[value] for value in values]


def drop_conditions(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Nothing dropped, each modality dropped, then all but one dropped."""
    each = [(name,) for name in modalities] if len(modalities) > 1 else []
    all_but_one = list(itertools.combinations(modalities, len(modalities) - 1)) if len(modalities) > 2 else []
    return [(), *each, *all_but_one]
