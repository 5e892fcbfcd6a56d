"""Any `AutoModel` encoder as the text backbone of a composite model."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel


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


def run_text_backbone(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **kwargs: Any
) -> Any:
    """Call the backbone with the arguments that it takes (not every encoder knows segments)."""
    if token_type_ids is not None and "token_type_ids" in inspect.signature(model.forward).parameters:
        kwargs["token_type_ids"] = token_type_ids
    return model(input_ids=input_ids, attention_mask=attention_mask.long(), **kwargs)
