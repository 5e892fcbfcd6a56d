"""Clips to the inputs of picture networks: a log spectrogram of fixed length, and a few frames spread over the clip.

The sizes follow the public loaders of audio-visual benchmarks (GeWu-Lab/OGM-GE_CVPR2022, shicaiwei123/ICCV2025-ARL); nothing
here draws at random, so training and scoring see the same window and the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass
class SpectrogramSettings:
    """
    Args:
        sampling_rate: samples per second.
        seconds: length of the window; shorter sound is repeated, longer is cut after it.
        n_fft, hop: samples per transform and between two of them.
    """

    sampling_rate: int = 22050
    seconds: float = 3.0
    n_fft: int = 512
    hop: int = 353

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and frequencies: (188, 257) with the defaults."""
        return 1 + round(self.seconds * self.sampling_rate) // self.hop, self.n_fft // 2 + 1


@dataclass
class PictureSettings:
    """
    Args:
        count: frames per clip, the middles of as many equal parts.
        size: side in pixels.
        frame_rate: frames per second among which is chosen.
        mean, std: per channel, subtracted from and dividing values in [0, 1]; those of ImageNet.
    """

    count: int = 1
    size: int = 224
    frame_rate: float = 4.0
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)


def plain(settings: SpectrogramSettings | PictureSettings | None) -> dict[str, Any] | None:
    """The settings as JSON holds them."""
    if settings is None:
        return None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def log_spectrogram(wave: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """
    `log(|STFT| + 1e-7)` with a Hann window, centred frames and silence beyond the ends.

    Args:
        wave: (S,) float at `settings.sampling_rate`.
        settings: sizes.

    Returns:
        (steps, frequencies) float32, always of `settings.shape`.
    """
    length = round(settings.seconds * settings.sampling_rate)
    wave = np.clip(np.resize(wave, length).astype(np.float64), -1.0, 1.0)  # resize repeats what is short
    padded = np.pad(wave, settings.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, settings.n_fft)[:: settings.hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(settings.n_fft) / settings.n_fft)
    return np.log(np.abs(np.fft.rfft(frames * window)) + 1e-7).astype(np.float32)


def spread(length: int, count: int) -> np.ndarray:
    """Indices of the middles of `count` equal parts of `length` frames; fewer where there are fewer frames."""
    count = min(count, length)
    return ((np.arange(count) + 0.5) * length / count).astype(int)
