"""Runs an exported classifier; needs numpy and onnxruntime only, torch neither for the graph nor for its inputs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ONNX_NAME = "model.onnx"
SCOPE_KEY = "out_of_scope"  # of the metadata: the rule for "none of these", null without one


def require_onnx(name: str) -> Any:
    """The module `name`.

    Raises:
        ImportError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'ONNX needs the package {name}: pip install "hf_mmintent[onnx]".') from error


class OnnxClassifier:
    """
    Args:
        folder: what `export_onnx` wrote, or the path of the graph.
        providers: execution providers of onnxruntime; the CPU by default.
        threads: of the CPU provider; chosen by onnxruntime when `None`.

    `none_of_these` is what the checkpoint calls a sample that belongs to none of its classes, `None` where it has no rule for
    that; logits are always those before the rule.
    """

    def __init__(self, folder: str | Path, providers: list[str] | None = None, threads: int | None = None) -> None:
        runtime = require_onnx("onnxruntime")
        path = Path(folder)
        options = runtime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        self.session = runtime.InferenceSession(
            str(path / ONNX_NAME if path.is_dir() else path), options, providers=providers or ["CPUExecutionProvider"]
        )
        self.inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        stored = self.session.get_modelmeta().custom_metadata_map
        self.min_lengths: dict[str, int] = json.loads(stored.get("min_lengths", "{}"))
        self.scope: dict[str, Any] | None = json.loads(stored.get(SCOPE_KEY, "null"))
        self.none_of_these: str | None = None if self.scope is None else self.scope["label"]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """
        Args:
            inputs: arrays or tensors by name, as the processor makes them; a modality that is left out is absent.

        Returns:
            "logits" (B, num_labels), "embeddings" (B, d), and "modality_weights" where the architecture has them. With a
            rule for what is out of scope also "margins" (B,), by how much it decided, and "in_scope" (B,) bool.

        Raises:
            ValueError: no known input is given.
        """
        given = {name: np.asarray(inputs[name]) for name in self.inputs if inputs.get(name) is not None}
        if not given:
            raise ValueError(f"none of the inputs {sorted(self.inputs)} is given: make them with the processor.")
        batch_size = len(next(iter(given.values())))
        steps = {name: value.shape[1] for name, value in given.items()}
        feed = {}
        for name, entry in self.inputs.items():
            kind = np.int64 if "int64" in entry.type else np.float32
            partner = self._partner(name)
            if name not in given and partner in given and name.endswith("attention_mask"):
                value = np.ones((batch_size, steps[partner]), kind)
            elif name not in given:
                value = np.zeros((batch_size, 1, *entry.shape[2:]), kind)
            else:
                value = given[name].astype(kind, copy=False)
            missing = self.min_lengths.get(name, 1) - value.shape[1]
            if missing > 0:
                value = np.pad(value, [(0, 0), (0, missing)] + [(0, 0)] * (value.ndim - 2))
            feed[name] = value
        found = dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))
        if self.scope is not None:
            margins = found["margins"]
            found["in_scope"] = margins >= 0 if self.scope["zero_is_in"] else margins > 0
        return found

    @staticmethod
    def _partner(mask: str) -> str:
        """The values that a mask belongs to."""
        return "input_ids" if mask == "attention_mask" else mask.replace("_attention_mask", "_features")
