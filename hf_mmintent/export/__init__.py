"""Classifiers for runtimes without torch."""

from .onnx_export import ONNX_NAME, compare_logits, example_inputs, export_onnx
from .onnx_runtime import OnnxClassifier

__all__ = ["ONNX_NAME", "OnnxClassifier", "compare_logits", "example_inputs", "export_onnx"]
