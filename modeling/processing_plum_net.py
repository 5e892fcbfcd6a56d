"""Processor of PLUM-Net: text, features or raw media, and the number of a training sample."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from transformers import BatchFeature

from .processing_multimodal import MultimodalProcessor


class PlumNetProcessor(MultimodalProcessor):
    """
    [`MultimodalProcessor`] that also passes on `sample_index`, where rows have it: prototypes of the schedule `bank` keep
    the last features of every training sample.
    """

    extra_columns: ClassVar[tuple[str, ...]] = ("sample_index",)

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "sample_index"]

    def __call__(
        self, *args: Any, sample_index: Any = None, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """
        Args:
            sample_index: position in the training split per sample.
            return_tensors: "pt" or "np".

        Other arguments are those of [`MultimodalProcessor`].
        """
        batch = super().__call__(*args, return_tensors=return_tensors, **kwargs)
        if sample_index is not None:
            index = np.atleast_1d(np.asarray(sample_index, np.int64))
            batch["sample_index"] = torch.from_numpy(index) if return_tensors == "pt" else index
        return batch
