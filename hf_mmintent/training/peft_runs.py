"""Adapters in training runs: LoRA on the language model, connectors and heads in full beside it.

peft is imported when a run asks for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.memory import release_freed_memory

OWN_SETTINGS = ("merge", "quantization")
BASE, ADAPTER = "base", "adapter"


def adapt(
    model: PreTrainedModel, settings: Mapping[str, Any], folder: str | Path, is_main_process: bool = True
) -> nn.Module:
    """
    Give a model an adapter.

    The model without it is stored in `folder/base`, which an adapter that is saved alone names as what it belongs to.

    Args:
        model: whose class says by `adapter_targets` and `adapter_modules` what is adapted, and what trains in full.
        settings: fields of `peft.LoraConfig`; `merge`: store the finished model with the adapter merged into it (default);
            `quantization`: fields of `BitsAndBytesConfig` for the frozen weights of the language model (QLoRA).
        folder: of the run.
        is_main_process: writes the base.

    Returns:
        `PeftModel`. Parameters that were frozen stay frozen, also inside of the modules that train in full.

    Raises:
        ValueError: a setting is unknown, the model does not say what is adapted, or quantized weights are to be merged.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    fields = {name: value for name, value in settings.items() if name not in OWN_SETTINGS}
    known = [item.name for item in dataclasses.fields(LoraConfig)]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *OWN_SETTINGS], n=1)
            raise ValueError(f"unknown peft setting `{name}`." + (f" Did you mean `{close[0]}`?" if close else ""))
    if not getattr(model, "adapter_targets", None) and "target_modules" not in fields:
        raise ValueError(f"{type(model).__name__} does not say what is adapted: set `peft.target_modules`.")
    if settings.get("quantization") and settings.get("merge", True):
        raise ValueError("`peft.quantization` is set and `peft.merge` is not false: quantized weights are not merged.")
    base = Path(folder) / BASE
    if is_main_process:
        model.save_pretrained(base)
    if settings.get("quantization"):
        PartialState().wait_for_everyone()  # the base is complete
        options = BitsAndBytesConfig(**{"llm_int8_skip_modules": unquantized(model), **settings["quantization"]})
        kind = type(model)
        del model
        release_freed_memory()
        model = kind.from_pretrained(base, quantization_config=options)
    frozen = frozen_in_full_modules(model)  # before everything is frozen for the adapter
    if settings.get("quantization"):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(**{**default_fields(model), **fields})
    with warnings.catch_warnings():  # peft asks for a property under its former name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    for name, parameter in adapted.named_parameters():
        if _without_wrapper(name) in frozen:
            parameter.requires_grad_(False)
    return adapted


def default_fields(model: PreTrainedModel) -> dict[str, Any]:
    """What the model's class says about its adapters; modules that this model lacks are left out."""
    modules = [
        name
        for name in model.adapter_modules
        if getattr(model, name, None) is not None and any(True for _ in getattr(model, name).parameters())
    ]
    return {"target_modules": model.adapter_targets, "modules_to_save": modules}


def unquantized(model: PreTrainedModel) -> list[str]:
    """Parts that stay in full precision: all but the language model's layers."""
    parts = {name.split(".")[0] for name, _ in model.named_parameters()} - {"language_model"}
    return [*sorted(parts), "lm_head"]


def frozen_in_full_modules(model: PreTrainedModel) -> set[str]:
    """Names of frozen parameters; peft makes every parameter of a module that it copies train."""
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _without_wrapper(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")


def is_adapted(model: nn.Module) -> bool:
    """Whether the model carries an adapter of [`adapt`]."""
    return isinstance(getattr(model, "peft_config", None), dict) and not isinstance(model, PreTrainedModel)


def plain(model: nn.Module) -> PreTrainedModel:
    """The model inside of an adapted one, or the model itself."""
    return model.get_base_model() if is_adapted(model) else model  # type: ignore[operator,return-value]


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Weights that `save_pretrained` wrote into the model that is there: all of them, or those of its adapter."""
    if is_adapted(model):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    else:
        model.load_state_dict(type(model).from_pretrained(folder).state_dict())  # type: ignore[attr-defined]


@torch.no_grad()
def finish(model: nn.Module, processor: ProcessorMixin, settings: Mapping[str, Any], folder: str | Path) -> nn.Module:
    """
    The model that a finished run stores; its adapter alone goes to `folder/adapter`, with the processor.

    Returns:
        The plain model with the adapter merged into it, or the adapted one with `merge: false`.
    """
    place = Path(folder) / ADAPTER
    model.save_pretrained(place)  # type: ignore[operator]
    processor.save_pretrained(place)
    return model.merge_and_unload() if settings.get("merge", True) else model  # type: ignore[operator]
