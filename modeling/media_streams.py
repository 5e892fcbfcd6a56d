"""A clip of any length to features while it is decoded: what `forward` makes of the whole clip, with a part of it in memory.

Every front end says how its input may be cut without changing what it gives: mel windows and Whisper's windows by their
own grid, waveforms into the pieces of `media_chunks.py`, pictures one by one. Only what is computed from a whole clip needs
a second pass over it (`normalize_waveform`, `num_frames`), and only an encoder that attends to all of it at once, by its
configuration (`audio_chunk_seconds=None`, or strides that it does not state), gets the whole waveform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .media_front_ends import AudioBackbone, ImageBackbone, LogMel, PixelGrid, join_steps
from .media_windows import read_parts, run_ahead
from .processing_media import MediaSettings, normalize_frames, spread_over

_SOUND_PART = 10  # seconds that are read at once
_COUNTING_SIDE = 16  # pixels of pictures that are only counted
_ROWS = 512  # rows of features that there is room for at first
_AHEAD = 1  # parts decoded while the front end computes


class _Rows:
    """
    Features that arrive in parts.

    They are written into one block that doubles when it is full: kept one by one, small blocks would lie between the large
    ones that every part needs for a while, and the allocator could not give those to the next part.
    """

    def __init__(self) -> None:
        self.block: Tensor | None = None
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Copy rows (n, D) behind those that are there."""
        total = self.count + len(rows)
        if self.block is None:
            self.block = rows.new_empty((max(total, _ROWS), *rows.shape[1:]))
        if total > len(self.block):
            larger = rows.new_empty((max(total, 2 * len(self.block)), *rows.shape[1:]))
            larger[: self.count] = self.block[: self.count]
            self.block = larger
        self.block[self.count : total] = rows
        self.count = total

    def joined(self) -> Tensor:
        """(T, D), in memory of their own; at least one part was added."""
        assert self.block is not None
        return self.block[: self.count].clone()


# ---- sound -----------------------------------------------------------------------------------------------------------


class _MelCut:
    """Mel frames that lie within the sound at hand."""

    def __init__(self, front_end: LogMel) -> None:
        self.front_end = front_end

    def take(self, wave: Tensor, ended: bool) -> tuple[list[Tensor], int]:
        """States (T, D) of the beginning of `wave` (S,), and how many of its samples are not needed any more."""
        window, hop = self.front_end.window, self.front_end.hop
        count = max((len(wave) - window) // hop + 1, 0)
        if not count:
            return [], 0
        part = wave[None, : (count - 1) * hop + window]
        return [self.front_end.frames(part, torch.ones_like(part, dtype=torch.bool))[0][0]], count * hop


class _WindowCut:
    """Whisper's windows, one at a time."""

    def __init__(self, front_end: AudioBackbone) -> None:
        self.front_end, self.passed = front_end, 0

    def take(self, wave: Tensor, ended: bool) -> tuple[list[Tensor], int]:
        """As [`_MelCut.take`]."""
        front_end, span = self.front_end, self.front_end.mel_span
        whole = len(wave) // span * span
        found = [front_end.encode_mel_windows(part[None])[0] for part in wave[:whole].split(span) if len(part)]
        self.passed += whole
        rest = wave[whole:]
        if ended and len(rest) and self.passed + len(rest) >= front_end.shortest:
            states = front_end.encode_mel_windows(nn.functional.pad(rest, (0, span - len(rest)))[None])[0]
            found.append(states[: front_end.mel_states(len(rest))])
        return found, whole


class _PieceCut:
    """The pieces of a waveform, as soon as it is known to go on behind them."""

    def __init__(self, front_end: AudioBackbone) -> None:
        self.front_end, self.done, self.passed = front_end, 0, 0
        self.whole = front_end.strides is None or front_end.config.audio_chunk_seconds is None

    def take(self, wave: Tensor, ended: bool) -> tuple[list[Tensor], int]:
        """As [`_MelCut.take`]."""
        if self.whole and not ended:
            return [], 0
        total = self.passed + len(wave)
        pieces = self.front_end.pieces(0, total)
        # A piece that stops before the end of a longer clip is the same whatever follows; one at the end may grow.
        sure = [piece for piece in pieces[self.done :] if ended or piece.stop < total]
        found = []
        for piece in sure:
            near = replace(piece, start=piece.start - self.passed, stop=piece.stop - self.passed)
            found.append(self.front_end.encode_group([wave], [near])[0][piece.first : piece.first + piece.count])
        self.done += len(sure)
        used = pieces[self.done].start - self.passed if self.done < len(pieces) else 0
        self.passed += used
        return found, used


def sound_features(
    front_end: LogMel | AudioBackbone,
    source: Any,
    settings: MediaSettings,
    limits: dict[str, float | None],
    device: Any,
) -> tuple[Tensor, Tensor] | None:
    """
    Features of the sound of a recording.

    Args:
        front_end: of a [`MediaEncoderModel`].
        source (media source or array): Of the sound.
        settings ([`MediaSettings`]): How it is decoded.
        limits (`dict`): `start` and `end`, in seconds.
        device: where the front end is.

    Returns:
        `(1, T, D)` and their mask `(1, T)` bool, as `front_end` gives for the whole waveform up to rounding; `None` where
        the recording has no sound.
    """
    config, items = front_end.config, _SOUND_PART * settings.sampling_rate
    mean, scale = 0.0, 1.0
    if isinstance(front_end, AudioBackbone) and config.normalize_waveform:
        mean, scale = _moments(read_parts("audio", source, settings, items, **limits))
    cut: _MelCut | _WindowCut | _PieceCut
    if isinstance(front_end, LogMel):
        cut = _MelCut(front_end)
    else:
        cut = _WindowCut(front_end) if front_end.takes_mel else _PieceCut(front_end)
    rows = _Rows()
    wave = states = None
    for part in run_ahead(_with_end(read_parts("audio", source, settings, items, **limits)), _AHEAD):
        if part is not None:
            fresh = (torch.tensor(part, dtype=torch.float32, device=device) - mean) / scale
            wave = fresh if wave is None else torch.cat([wave, fresh])
        if wave is None:
            return None
        found, used = cut.take(wave, ended=part is None)
        wave = wave[used:].clone()
        states = torch.cat([*([] if states is None else [states]), *found]) if found else states
        if states is not None:
            # What does not fill a step waits for the next states.
            ready = len(states) if part is None else len(states) // config.frames_per_step * config.frames_per_step
            if ready:
                steps, valid = join_steps(states[None, :ready], _ones(ready, device), config)
                rows.add(steps[0])
                last = len(steps[0])
                states = states[ready:].clone()
    if not rows.count:  # too short for a single state
        width = config.audio_feature_size
        return torch.zeros((1, 1, width or 0), dtype=_dtype(front_end), device=device), _ones(1, device) & False
    mask = _ones(rows.count, device)
    mask[:, -last:] &= valid
    return rows.joined()[None], mask


def _moments(parts: Iterator[np.ndarray]) -> tuple[float, float]:
    """Mean and deviation of a waveform, as a speech encoder's feature extractor takes them."""
    count, total, square = 0, 0.0, 0.0
    for part in parts:
        values = part.astype(np.float64)
        count, total, square = count + len(part), total + values.sum(), square + (values**2).sum()
    if not count:
        return 0.0, 1.0
    mean = total / count
    return mean, float(np.sqrt(max(square / count - mean**2, 0.0) + 1e-7))


# ---- pictures --------------------------------------------------------------------------------------------------------


def picture_features(
    front_end: PixelGrid | ImageBackbone,
    source: Any,
    settings: MediaSettings,
    limits: dict[str, float | None],
    device: Any,
) -> tuple[Tensor, Tensor] | None:
    """
    Features of the pictures of a recording.

    Args:
        front_end, source, settings, limits, device: As in [`sound_features`].

    Returns:
        `(1, K, D)` and their mask `(1, K)` bool, as `front_end` gives for all frames up to rounding; `None` where the
        recording has no pictures.
    """
    rows, spatial, count = _Rows(), None, 0
    summed = isinstance(front_end, ImageBackbone) and front_end.config.video_pooling == "spatiotemporal"
    for frames in run_ahead(_frames(front_end, source, settings, limits), _AHEAD):
        values = torch.from_numpy(normalize_frames(frames, settings)).to(device)
        count += len(values)
        if isinstance(front_end, PixelGrid):
            rows.add(front_end.cells(values[None], _ones(len(values), device))[0])
        elif summed:
            for call in values.to(front_end.encoder.dtype).split(front_end.frames_per_call(values.device)):
                tokens = front_end.encode(call)
                spatial = tokens.float().sum(0) + (0 if spatial is None else spatial)
                rows.add(tokens.mean(1))
        else:
            rows.add(front_end(values[None], _ones(len(values), device))[0][0])
    if not count:
        return None
    features = rows.joined()
    if isinstance(front_end, PixelGrid):
        features = front_end.without_mean(features[None], _ones(len(features), device))[0]
    if spatial is not None:
        features = torch.cat([(spatial / count).to(features.dtype), features])
    return features[None], _ones(len(features), device)


def _frames(
    front_end: PixelGrid | ImageBackbone, source: Any, settings: MediaSettings, limits: dict[str, float | None]
) -> Iterator[np.ndarray]:
    """Frames (n, H, W, 3) uint8 that the front end is to see."""
    items = front_end.config.frames_per_chunk
    parts = read_parts("video", source, settings, items, **limits)
    if settings.num_frames is None:
        yield from parts
        return
    small = replace(settings, image_size=_COUNTING_SIDE)
    total = sum(map(len, read_parts("video", source, small, items, **limits)))
    wanted = spread_over(total, settings.num_frames)
    first = 0
    for frames in parts:
        chosen = wanted[(wanted >= first) & (wanted < first + len(frames))] - first
        first += len(frames)
        if len(chosen):
            yield frames[chosen]


def _with_end(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray | None]:
    """The parts, and `None` when there are no more."""
    yield from parts
    yield None


def _ones(count: int, device: Any) -> Tensor:
    return torch.ones((1, count), dtype=torch.bool, device=device)


def _dtype(front_end: nn.Module) -> torch.dtype:
    return front_end.encoder.dtype if isinstance(front_end, AudioBackbone) else torch.float32
