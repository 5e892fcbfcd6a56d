"""What a model costs: parameters, FLOPs, time, memory, at named shapes and for any architecture."""

from hf_mmintent.benchmark.report import BenchmarkConfig, format_report, run_benchmark
from hf_mmintent.benchmark.shapes import LENGTHS, SHAPES, Shape
from hf_mmintent.benchmark.subject import TEXT_SIZES, Subject

__all__ = ["LENGTHS", "SHAPES", "TEXT_SIZES", "BenchmarkConfig", "Shape", "Subject", "format_report", "run_benchmark"]
