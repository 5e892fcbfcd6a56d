"""Processor of CLCR: that of the other classifiers, and pictures where a modality takes them as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .processing_multimodal import MultimodalProcessor


class ClcrProcessor(MultimodalProcessor):
    """
    [`MultimodalProcessor`] that also takes pictures: where the entry of `feature_sizes` is `[channels, height, width]`, a
    sample's `<modality>_features` are an array (pictures, channels, height, width).
    """

    def _pictures(self, name: str) -> tuple[int, int, int] | None:
        size = self.feature_sizes[name]
        return tuple(size) if isinstance(size, (list, tuple)) else None

    def _as_batch(self, text: Any, audio: Any, video: Any, features: dict[str, Any], labels: Any) -> tuple[Any, ...]:
        for name in self.feature_sizes:
            key = f"{name}_features"
            given = features.get(key)
            if self._pictures(name) is not None and isinstance(given, (np.ndarray, torch.Tensor)) and given.ndim == 5:
                features = {**features, key: list(given)}  # an array of samples, not one sample
        return super()._as_batch(text, audio, video, features, labels)

    def _feature_inputs(self, name: str, rows: Iterable[Any] | None) -> dict[str, np.ndarray]:
        shape = self._pictures(name)
        if shape is None or rows is None:
            return super()._feature_inputs(name, rows)
        samples = [None if row is None else self._checked_pictures(name, i, row, shape) for i, row in enumerate(rows)]
        if all(sample is None for sample in samples):
            return {}
        longest = max(len(sample) for sample in samples if sample is not None)
        values = np.zeros((len(samples), longest, *shape), np.float32)
        mask = np.zeros((len(samples), longest), np.int64)
        for row, sample in enumerate(samples):
            if sample is not None:
                values[row, : len(sample)], mask[row, : len(sample)] = sample, 1
        return {f"{name}_features": values, f"{name}_attention_mask": mask}

    def _checked_pictures(self, name: str, index: int, row: Any, shape: tuple[int, int, int]) -> np.ndarray:
        array = np.asarray(row, dtype=np.float32)
        if array.ndim != 4 or array.shape[1:] != shape or not len(array):
            raise ValueError(
                f"`{name}_features` of sample {index} has shape {array.shape}: expected (pictures, "
                f"{', '.join(map(str, shape))}) with at least one picture, or `None` if the sample has no {name}."
            )
        if not np.isfinite(array).all():
            if self.non_finite == "raise":
                raise ValueError(
                    f"`{name}_features` of sample {index} holds NaN or infinite values: repair the pictures."
                )
            array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
        return array[: self.max_lengths.get(name)]

    def fit_feature_stats(self, rows: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> None:
        sequences = [name for name in names or self.feature_sizes if self._pictures(name) is None]
        if sequences:
            super().fit_feature_stats(rows, sequences)
