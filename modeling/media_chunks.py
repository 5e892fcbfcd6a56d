"""How sound of any length is cut into the pieces that a speech encoder sees, and which pieces it sees together.

The pieces follow from a clip's length alone, so a clip's features do not depend on the memory at hand or on other clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Their only mixing over time before attention is one convolution with zeros at its ends: with layer normalisation in the
# feature extractor, padding under a mask equals the end of the clip. Group normalisation runs over the padding as well.
_MASKABLE = {"wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"}
_MOST_PADDING = 0.2  # of a clip, when clips of different lengths run together


@dataclass(frozen=True)
class Piece:
    """
    Part of a clip that is encoded at once.

    Args:
        row (`int`): Position of the clip in the batch.
        start, stop (`int`, samples): What the encoder sees.
        first, count (`int`, states): Which of the states it returns belong to the clip's features.
    """

    row: int
    start: int
    stop: int
    first: int
    count: int

    @property
    def length(self) -> int:
        """Samples."""
        return self.stop - self.start


class Striding:
    """
    How an encoder's convolutions turn samples into states.

    Args:
        config: of the encoder, with `conv_kernel` and `conv_stride`.
    """

    def __init__(self, config: Any) -> None:
        self.layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.step, self.window = 1, 1  # samples between two states, samples that one state sees
        for kernel, stride in self.layers:
            self.window += (kernel - 1) * self.step
            self.step *= stride

    def states(self, samples: int) -> int:
        """Number of states of a waveform."""
        for kernel, stride in self.layers:
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)


def striding(config: Any) -> Striding | None:
    """The striding of an encoder of waveforms; `None` where it is not known, and sound cannot be cut."""
    known = getattr(config, "conv_kernel", None) and getattr(config, "conv_stride", None)
    # An adapter's own strides begin at the start of what it sees: its states would not fall on the same instants.
    return Striding(config) if known and not getattr(config, "add_adapter", False) else None


def cut_clip(row: int, samples: int, chunk: int, overlap: int, strides: Striding) -> list[Piece]:
    """
    Pieces whose kept states, one after the other, are those of the whole clip.

    Args:
        row: position of the clip in the batch.
        samples: of the clip.
        chunk: samples of a piece at most.
        overlap: samples of context at inner ends.
        strides: of the encoder.
    """
    total = strides.states(samples)
    if samples <= chunk:
        return [Piece(row, 0, samples, 0, total)]
    context = -(-overlap // strides.step)
    core = max(strides.states(chunk) - 2 * context, 1)
    pieces = []
    for first in range(0, total, core):
        last = min(first + core, total)
        low, high = max(first - context, 0), min(last + context, total)
        stop = samples if high == total else (high - 1) * strides.step + strides.window
        pieces.append(Piece(row, low * strides.step, stop, first - low, last - first))
    return pieces


def group_pieces(pieces: Sequence[Piece], most: int, together: Callable[[int, int], bool]) -> list[list[Piece]]:
    """
    Pieces that run in one call of the encoder, longest first.

    Args:
        pieces: of all clips of a batch.
        most: samples of a call, padding included; a longer piece runs alone.
        together: whether two lengths, the longer first, may share a call.
    """
    groups: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.length):
        longest = groups[-1][0].length if groups else 0
        if groups and together(longest, piece.length) and longest * (len(groups[-1]) + 1) <= most:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def may_share(config: Any) -> Callable[[int, int], bool]:
    """Which lengths an encoder may see together without changing what each gives: equal ones, or any under a mask."""
    masked = config.model_type in _MASKABLE and getattr(config, "feat_extract_norm", "group") == "layer"
    if not masked:
        return lambda longer, shorter: longer == shorter
    return lambda longer, shorter: shorter >= (1 - _MOST_PADDING) * longer
