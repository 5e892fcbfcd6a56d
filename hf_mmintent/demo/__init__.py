"""A page on which a clip is labelled and one sees which modality mattered and when."""

from .analysis import ClipAnalysis, Labeller
from .app import build_app, write_space

__all__ = ["ClipAnalysis", "Labeller", "build_app", "write_space"]
