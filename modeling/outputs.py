"""Output classes shared by the classifiers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MultimodalOutput(ModelOutput):
    """
    What every classifier and regressor returns.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): weighted sum of the terms, when labels are given.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`): before softmax; the value itself in regression.
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): fused representation that the head reads.
        loss_terms (`dict[str, torch.FloatTensor]`, *optional*):
            Every computed term by name, unweighted, detached, shape `()`.
        modality_weights (`torch.FloatTensor` of shape `(batch_size, num_sources)`, *optional*):
            How much each source contributed, where the architecture computes it.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    loss_terms: dict[str, torch.FloatTensor] | None = None
    modality_weights: torch.FloatTensor | None = None
