"""The pipelines that travel with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .pipeline_explanation import ExplanationPipeline
from .pipeline_intent import IntentRecognitionPipeline

# task -> its pipeline, and the Auto class that opens the models it runs
PIPELINES: dict[str, tuple[type, str]] = {
    "multimodal-intent-recognition": (IntentRecognitionPipeline, "AutoModelForSequenceClassification"),
    "multimodal-explanation": (ExplanationPipeline, "AutoModelForImageTextToText"),
}


def custom_pipelines(auto_map: Mapping[str, str]) -> dict[str, Any]:
    """
    The entry `custom_pipelines` of a checkpoint's config.

    Args:
        auto_map: Auto classes of the model's family.
    """
    return {
        task: {"impl": f"{cls.__module__.split('.')[-1]}.{cls.__name__}", "pt": [auto_class], "type": "multimodal"}
        for task, (cls, auto_class) in PIPELINES.items()
        if auto_class in auto_map
    }
