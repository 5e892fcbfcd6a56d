"""Alignment of audio and video frames to text positions: the CTC-style module that MVCL-DAF takes from MAG-BERT's line."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import clear_padding


class CtcAlignment(nn.Module):
    """
    Soft assignment of frames to text positions by an LSTM whose hidden state is the logit vector.

    Position 0 of the logits is a blank that swallows frames, positions 1… are absolute text positions, so that cutting the
    result to the batch's text length is exact. There is no CTC loss in this system; the name is the field's.

    Args:
        input_size: width D of the frames.
        max_text_length: number of text positions.
        num_layers: LSTM layers; unidirectional, hence padding behind the valid frames cannot reach them.
        normalize: divide each position's weights by their sum (convex combination of frames).
        mask_slots: give probability only to positions that the sample's text has.
        logit_scale: factor on the logits, or "learned"; an LSTM's output alone lies in (−1, 1).
    """

    def __init__(
        self,
        input_size: int,
        max_text_length: int,
        num_layers: int,
        normalize: bool = False,
        mask_slots: bool = True,
        logit_scale: float | str = 1.0,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.mask_slots = mask_slots
        self.lstm = nn.LSTM(input_size, max_text_length + 1, num_layers, batch_first=True)
        self.learned_scale = LogitScale() if logit_scale == "learned" else None
        self.fixed_scale = 1.0 if logit_scale == "learned" else float(logit_scale)

    def weights(self, frames: Tensor, frame_mask: Tensor, text_mask: Tensor) -> Tensor:
        """
        Probability of every frame over blank and positions.

        Args:
            frames: (B, T, D), finite on padding.
            frame_mask: (B, T) bool.
            text_mask: (B, L) bool.

        Returns:
            (B, T, 1 + L) float32, zeros on padded frames.
        """
        length = text_mask.shape[1]
        logits, _ = self.lstm(frames)
        # The positions beyond the batch's text get no reader: they stay in the softmax only if nothing is masked.
        logits = logits.float()
        if self.fixed_scale != 1.0:
            logits = logits * self.fixed_scale
        if self.learned_scale is not None:
            logits = self.learned_scale(logits)
        if self.mask_slots:
            logits = logits[..., : length + 1]
            allowed = nn.functional.pad(text_mask, (1, 0), value=True)  # column 0 is the blank
            logits = logits.masked_fill(~allowed[:, None], float("-inf"))
        return clear_padding(logits.softmax(-1), frame_mask)[..., : length + 1]

    def forward(self, frames: Tensor, frame_mask: Tensor, text_mask: Tensor) -> Tensor:
        """Frames (B, T, D) -> one vector per text position (B, L, D), zeros on padding."""
        weights = self.weights(frames, frame_mask, text_mask)[..., 1:].transpose(1, 2)  # (B, L, T)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        return clear_padding(weights.to(frames.dtype) @ frames, text_mask)


class LogitScale(nn.Module):
    """A learned positive factor; its own module so that initialisation finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.log_scale.exp().to(logits.dtype)


class AdaptivePoolAlignment(nn.Module):
    """Position j of a text of n tokens averages frames ⌊jT/n⌋ … ⌈(j+1)T/n⌉−1 of the sample's own T frames."""

    def forward(self, frames: Tensor, frame_mask: Tensor, text_mask: Tensor) -> Tensor:
        """Frames (B, T, D) -> one vector per text position (B, L, D), zeros on padding."""
        count = frame_mask.sum(1)[:, None]  # (B, 1) T_i
        tokens = text_mask.sum(1)[:, None].clamp(min=1)  # (B, 1) n_i
        position = torch.arange(text_mask.shape[1], device=frames.device)[None]  # (1, L)
        first = position * count // tokens  # (B, L)
        last = -((-(position + 1) * count) // tokens)  # ceiling
        step = torch.arange(frames.shape[1], device=frames.device)[None, None]  # (1, 1, T)
        inside = (step >= first[..., None]) & (step < last[..., None]) & frame_mask[:, None]
        weights = inside.to(frames.dtype) / inside.sum(-1, keepdim=True).clamp(min=1).to(frames.dtype)
        return clear_padding(weights @ frames, text_mask)
