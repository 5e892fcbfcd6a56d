"""A classifier as one ONNX graph that takes any number of samples, any lengths, and any subset of its modalities."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.modeling.out_of_scope import OutOfScope

from .onnx_runtime import ONNX_NAME, SCOPE_KEY, OnnxClassifier, require_onnx
from .recurrences import fold_parametrizations, replace_loops

__all__ = ["ONNX_NAME", "compare_logits", "example_inputs", "export_onnx"]

_OPSET = 20
_LENGTHS = (12, 9, 7, 10, 11)  # steps of the example's modalities; all different, so that no two axes are taken for one


class BoolWhere(TorchFunctionMode):
    """`torch.where` on bool values by logic: onnxruntime has no such operator."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if (
            func is torch.where
            and len(args) == 3
            and all(isinstance(x, Tensor) and x.dtype == torch.bool for x in args)
        ):
            condition, yes, no = args
            return (condition & yes) | (~condition & no)
        return func(*args, **(kwargs or {}))


class ClassifierGraph(nn.Module):
    """The model with its inputs by position, and the outputs that a graph has."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.rule = OutOfScope.of(model.config)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with BoolWhere():
            return tuple(self.found(*inputs).values())

    def found(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        outputs = self.model(**dict(zip(self.names, inputs, strict=True)))
        names = [name for name in ("logits", "embeddings", "modality_weights") if outputs.get(name) is not None]
        found = {name: outputs[name].float() for name in names}
        if self.rule is not None:
            found["margins"] = self.rule.margins(outputs.logits, outputs.embeddings)
        return found


def example_inputs(model: PreTrainedModel, batch_size: int = 3, seed: int = 0, longer: int = 0) -> dict[str, Tensor]:
    """
    Random inputs of every modality, ragged, with the second sample lacking the last modality.

    Args:
        model: a classifier or regressor.
        batch_size: number of samples.
        seed: of the values.
        longer: added to the steps of every modality, as far as the config allows.

    Returns:
        By name, what `model(**inputs)` takes: ids, features and masks.

    Raises:
        ValueError: a modality is pictures, which no graph with free axes can group by size.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    inputs: dict[str, Tensor] = {}
    for name, steps in zip(config.modalities, itertools.cycle(_LENGTHS)):
        steps = (
            min(steps + longer, config.max_text_length)
            if name == "text" and hasattr(config, "max_text_length")
            else steps + longer
        )
        lengths = torch.randint(steps // 2 + 1, steps + 1, (batch_size,), generator=generator)
        lengths[0] = steps
        if name == config.modalities[-1] and batch_size > 1 and len(config.modalities) > 1:
            lengths[1] = 0
        mask = (torch.arange(steps) < lengths[:, None]).long()
        if name == "text":
            vocabulary = model.get_input_embeddings().num_embeddings
            inputs["input_ids"] = torch.randint(5, vocabulary, mask.shape, generator=generator) * mask
            inputs["attention_mask"] = mask
            continue
        width = config.feature_sizes[name]
        if not isinstance(width, int):
            raise ValueError(f"{name} is given as pictures of size {width}: only sequences of vectors can be exported.")
        values = torch.randn(batch_size, steps, width, generator=generator)
        inputs |= {f"{name}_features": values * mask[..., None], f"{name}_attention_mask": mask}
    return inputs


def export_onnx(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> Path:
    """
    Write `model.onnx` with the config and the processor beside it; [`OnnxClassifier`] opens the folder.

    A modality that a batch lacks is a mask of zeros in the graph, which every model reads like an absent one. Of a model
    with a rule for what is out of scope (`config.out_of_scope`) the graph computes the margins as well.

    Args:
        model: a classifier or regressor; exported in float32. Its media encoder is left out: the graph takes features.
        processor: of the model.
        folder: made if it does not exist.

    Returns:
        Path of the graph.

    Raises:
        ImportError: the packages of the extra are not installed.
        ValueError: a modality is pictures.
    """
    require_onnx("onnxscript")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = copy.deepcopy(model).float().eval()
    fold_parametrizations(plain)
    replace_loops(plain)
    inputs = example_inputs(plain)
    graph = ClassifierGraph(plain, list(inputs))
    with torch.no_grad():
        outputs = list(graph.found(*inputs.values()))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes={"inputs": tuple(free for _ in inputs)},
            input_names=list(inputs),
            output_names=outputs,
            opset_version=_OPSET,
            verbose=False,
        )
    path = folder / ONNX_NAME
    program.model.metadata_props["min_lengths"] = json.dumps(_least_lengths(program, list(inputs)))
    program.model.metadata_props[SCOPE_KEY] = json.dumps(_scope(graph.rule))
    program.save(str(path), external_data=False)
    plain.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return path


def _scope(rule: OutOfScope | None) -> dict[str, Any] | None:
    """What a reader of the graph needs to know of the rule: a margin of 0 is in scope or not, and the name of the rest."""
    if rule is None:
        return None
    return {"method": rule.method, "label": rule.label, "zero_is_in": bool(rule.accepts(torch.zeros(())))}


def _least_lengths(program: Any, names: list[str]) -> dict[str, int]:
    """Fewest steps that the traced control flow allows, by input; 1 where it asks for nothing."""
    exported = program.exported_program
    ranges = exported.range_constraints
    found = {}
    for name, node in zip(
        names, [s.arg.name for s in exported.graph_signature.input_specs if s.kind.name == "USER_INPUT"], strict=True
    ):
        value = next(n for n in exported.graph.nodes if n.name == node).meta["val"]
        size = value.shape[1]
        found[name] = int(ranges[size.node.expr].lower) if hasattr(size, "node") and size.node.expr in ranges else 1
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports packages that are not installed and its own deprecations; neither is the caller's concern."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def compare_logits(
    model: PreTrainedModel, classifier: OnnxClassifier, inputs: Mapping[str, Tensor]
) -> dict[str, float]:
    """
    Largest difference of a logit between torch and ONNX for every subset of the modalities.

    Args:
        model: what was exported.
        classifier: the exported graph.
        inputs: as [`example_inputs`] makes them.

    Returns:
        By subset, e.g. "text+audio".
    """
    groups = {"text": ["input_ids", "attention_mask"]}
    groups |= {
        name: [f"{name}_features", f"{name}_attention_mask"] for name in model.config.modalities if name != "text"
    }
    names = list(model.config.modalities)
    found = {}
    for size in range(1, len(names) + 1):
        for kept in itertools.combinations(names, size):
            masks = [inputs[groups[name][1]].any(1) for name in kept]
            rows = torch.stack(masks).any(0)  # a sample without anything is no input
            part = {key: inputs[key][rows] for name in kept for key in groups[name]}
            with torch.no_grad():
                expected = model(**part).logits.float().cpu().numpy()
            found["+".join(kept)] = float(np.abs(classifier(part)["logits"] - expected).max())
    return found
