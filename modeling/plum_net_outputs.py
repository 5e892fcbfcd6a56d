"""What PLUM-Net returns, and what it hands on inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .outputs import MultimodalOutput


@dataclass
class PlumNetModelOutput(ModelOutput):
    """
    Output of [`PlumNetModel`]; M modalities in the order of `config.modalities`, C classes, zeros where one is absent.

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): fused representation.
        soft_labels (`torch.FloatTensor` of shape `(batch_size, M, C)`): Eq. (5); zeros where the modality is absent.
        hard_labels (`torch.LongTensor` of shape `(batch_size, M)`): nearest prototype; −1 where the modality is absent.
        raw_embeddings (`torch.FloatTensor` of shape `(batch_size, M, hidden_size)`): h_m.
        projected_embeddings (`torch.FloatTensor` of shape `(batch_size, M, hidden_size)`, *optional*): h_m^com.
        common_embeddings, private_embeddings (`torch.FloatTensor` of shape `(batch_size, M, hidden_size)`, *optional*):
            Pooled states of the two branches.
        presence (`torch.BoolTensor` of shape `(batch_size, M)`): which modalities a sample has.
        hidden_states, attentions (`tuple`, *optional*): of every layer in the order in which they run, on request.
    """

    embeddings: torch.FloatTensor | None = None
    soft_labels: torch.FloatTensor | None = None
    hard_labels: torch.LongTensor | None = None
    raw_embeddings: torch.FloatTensor | None = None
    projected_embeddings: torch.FloatTensor | None = None
    common_embeddings: torch.FloatTensor | None = None
    private_embeddings: torch.FloatTensor | None = None
    presence: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class PlumNetOutput(MultimodalOutput):
    """
    [`MultimodalOutput`] with the fields of [`PlumNetModelOutput`], except for `projected_embeddings`, and the logits
    (batch_size, M, C) of both branches. `modality_weights` stays `None`: the model has none.
    """

    soft_labels: torch.FloatTensor | None = None
    hard_labels: torch.LongTensor | None = None
    common_logits: torch.FloatTensor | None = None
    private_logits: torch.FloatTensor | None = None
    common_embeddings: torch.FloatTensor | None = None
    private_embeddings: torch.FloatTensor | None = None
    raw_embeddings: torch.FloatTensor | None = None
    presence: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class EncodedModalities:
    """
    What the encoders give: F_m (B, T_m, d) with masks for the modalities that the batch has, h_m and h_m^com (B, M, d) with
    zeros where absent, presence (B, M). `projected` holds G_m where the model has a common projection.
    """

    features: dict[str, Tensor]
    masks: dict[str, Tensor]
    projected: dict[str, Tensor]
    raw: Tensor
    common: Tensor | None
    presence: Tensor
