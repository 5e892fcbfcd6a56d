"""A finished checkpoint learns to say "none of these": its rule is fitted on validation rows and stored in its config."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.evaluation import model_outputs, named_labels, open_checkpoint, with_features
from hf_mmintent.modeling.out_of_scope import OutOfScope
from hf_mmintent.out_of_scope import encode_with_unknown, fit_rule, store_rule
from hf_mmintent.run_data import data_of, find_checkpoints
from hf_mmintent.training.trainer import refuse_test_split

NEEDS_TRAINING_ROWS = ("doc", "prototype")


def fit_checkpoints(
    checkpoint: str | Path,
    method: str,
    label: str = "UNK",
    dataset: str | None = None,
    data_dir: str | None = None,
    config_name: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    in_scope_recall: float | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    batch_size: int = 32,
) -> dict[Path, OutOfScope]:
    """
    Fit a rule for a checkpoint, or for those of all seeds below a run folder, and store it in each `config.json`.

    Args:
        checkpoint: folder of a checkpoint or of a run.
        method, label, in_scope_recall, temperature, scale: see [`fit_rule`].
        dataset, data_dir, config_name: where the rows are; of the training run when not given. A configuration whose validation
            split holds rows with `label` lets them choose the threshold.
        train_split, validation_split: names of the splits; by default the rows that trained and those that selected the
            epoch, see [`RunData.for_fitting`].
        batch_size: rows per forward pass.

    Returns:
        The rule of every checkpoint.

    Raises:
        ValueError: a split is a test split or is missing, or [`fit_rule`] refuses.
    """
    found = {}
    for path in find_checkpoints(checkpoint):
        data = data_of(path, dataset, data_dir, config_name)
        model, processor = open_checkpoint(path)
        model.config.out_of_scope = None  # a new rule knows nothing of an old one
        splits = {"validation": validation_split}
        if method in NEEDS_TRAINING_ROWS:
            splits["train"] = train_split
        outputs = {}
        for part, split in splits.items():
            _, rows = data.for_fitting(part, split)
            outputs[part] = outputs_for_fitting(model, processor, rows, label, data.drop_modalities, batch_size)
        rule = fit_rule(method, outputs.get("train"), outputs["validation"], label, in_scope_recall, temperature, scale)
        rule.check(model.config.id2label)
        store_rule(path, rule)
        found[path] = rule
    return found


@torch.no_grad()
def outputs_for_fitting(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    label: str = "UNK",
    drop_modalities: tuple[str, ...] = (),
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """
    `logits` (n, K), `embeddings` (n, d) and `labels` (n,) of rows, in evaluation mode, as [`fit_rule`] reads them.

    Raises:
        ValueError: the rows are a test split: nothing is fitted on it.
    """
    refuse_test_split("rows", rows)
    labels = encode_with_unknown(named_labels(rows), processor, OutOfScope("class", label))
    collator = MultimodalCollator(processor, drop_modalities=drop_modalities)
    rows = with_features(rows, model).remove_columns("label")
    outputs = model_outputs(model.eval(), rows, collator, batch_size, "reading", ("logits", "embeddings"))
    return {**outputs, "labels": torch.from_numpy(labels)}
