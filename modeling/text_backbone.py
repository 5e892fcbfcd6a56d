"""Any `AutoModel` encoder as the text backbone of a composite model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .layers import values_are_at_hand

# Rows of similar length run through the backbone together, cut to the longest of them: with the texts of MIntRec a
# batch padded to its own longest is 44 % padding, four groups leave 15 %. Fewer rows would starve the matrix products.
MAX_GROUPS = 4
MIN_GROUP_ROWS = 8
WORTHWHILE = 0.9  # of the positions that a single run computes


def build_text_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A freshly initialised backbone without pooler, where the class has one: unused parameters break data parallelism."""
    accepts = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in accepts else {}
    return AutoModel.from_config(config, **extra)


def load_text_backbone(name_or_model: str | PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """The pretrained backbone that `config` was read from."""
    if isinstance(name_or_model, PreTrainedModel):
        return name_or_model
    accepts = inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in accepts else {}
    return AutoModel.from_pretrained(name_or_model, config=config, **extra)


def length_groups(mask: Tensor) -> list[tuple[Tensor, int]]:
    """
    Split a batch by length, on CPU; an accelerator would wait for the lengths and is not filled by small groups.

    Args:
        mask: (B, L) bool or integer, right-padded.

    Returns:
        Row numbers and common length of every group; empty when one run is as good.
    """
    if not values_are_at_hand(mask):
        return []
    count = min(MAX_GROUPS, len(mask) // MIN_GROUP_ROWS)
    if count < 2:
        return []
    position = torch.arange(1, mask.shape[1] + 1)
    lengths = (mask.to(torch.bool) * position).amax(1).clamp(min=1)
    groups = [(rows, int(lengths[rows[-1]])) for rows in lengths.argsort(stable=True).tensor_split(count)]
    computed = sum(len(rows) * length for rows, length in groups)
    return groups if computed < WORTHWHILE * mask.numel() else []


def run_text_backbone(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
    in_one_piece: bool = False,
    **kwargs: Any,
) -> Any:
    """
    Call the backbone with the arguments that it takes (not every encoder knows segments).

    Texts of very different length run in groups, see [`length_groups`]; positions behind a group's longest text are then
    zeros in the states. Attention maps have no common size, so a call that asks for them runs in one piece; so does one with
    `in_one_piece`, for callers that reach into the backbone's layers row by row.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
    if token_type_ids is not None and "token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["token_type_ids"] = token_type_ids
    groups = [] if in_one_piece or kwargs.get("output_attentions") else length_groups(attention_mask)
    if not groups:
        return model(**inputs, **kwargs)
    outputs = [
        model(**{name: value[rows, :length] for name, value in inputs.items()}, **kwargs) for rows, length in groups
    ]
    back = torch.cat([rows for rows, _ in groups]).argsort()

    def join(parts: list[Tensor]) -> Tensor:
        """Groups of (b, l, D) -> (B, L, D) in the order of the batch."""
        length = input_ids.shape[1]
        return torch.cat([nn.functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in parts]).index_select(
            0, back
        )

    layers = None
    if kwargs.get("output_hidden_states"):
        layers = tuple(join(list(parts)) for parts in zip(*(out.hidden_states for out in outputs), strict=True))
    return BaseModelOutput(last_hidden_state=join([out.last_hidden_state for out in outputs]), hidden_states=layers)
