"""What the analyses of query-based connectors share: their outputs over the rows of a subject, without a language model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.explanations import LABELS, REASONS

from .common import Batch, Subject

TARGETS = (*LABELS, *REASONS, "label")


@torch.no_grad()
def connector_outputs(
    subject: Subject, batch_size: int, progress: str, **options: bool
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """
    Batches, and per modality that a batch has what its connector returned, in the order of the rows.

    Args:
        subject: a model that reads media into prompts (`read_media`).
        batch_size: rows per pass.
        progress: text beside the bar.
        options: of the connectors: `output_attentions`, `output_hidden_states`.

    Raises:
        ValueError: the model has no connectors.
    """
    if not subject.model.can_generate():
        raise ValueError(f"{type(subject.model).__name__} has no connectors: name a model that writes answers.")
    rows = subject.rows.remove_columns([name for name in TARGETS if name in subject.rows.column_names])
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=MultimodalCollator(subject.processor))
    for batch in tqdm(loader, desc=progress, leave=False):
        batch = {name: value.to(subject.model.device) for name, value in batch.items()}
        yield batch, subject.model.read_media(len(batch["input_ids"]), batch, **options)[1]
