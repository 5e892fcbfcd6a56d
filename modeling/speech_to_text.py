"""Words of a recording whose words nobody gave, by any speech recognition checkpoint of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .media_sampling import resample

_LONGEST = 30.0  # seconds at once: what Whisper takes, and a bound on memory for the others


class SpeechToText:
    """
    Args:
        recognizer (`str`, path or automatic-speech-recognition pipeline): What listens; a name is opened on first use.
        device (`torch.device`): Where a recogniser that is opened here runs.
    """

    def __init__(self, recognizer: Any, device: torch.device) -> None:
        self.recognizer, self.device = recognizer, device

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> str | None:
        """
        Args:
            waveform (`np.ndarray` of shape `(num_samples,)`, float32): Sound of any length.
            sampling_rate (`int`, samples per second): Its rate.

        Returns:
            The words, or `None` when none are heard.
        """
        if not callable(self.recognizer):
            from transformers import pipeline  # at the top it would run while transformers loads its pipelines

            self.recognizer = pipeline("automatic-speech-recognition", model=str(self.recognizer), device=self.device)
        rate = self.recognizer.feature_extractor.sampling_rate
        waveform = resample(waveform, sampling_rate, rate)
        step = round(_LONGEST * rate)
        pieces = [waveform[first : first + step] for first in range(0, len(waveform), step)]
        heard = [self.recognizer({"raw": piece, "sampling_rate": rate})["text"].strip() for piece in pieces]
        return " ".join(words for words in heard if words) or None
