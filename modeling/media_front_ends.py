"""Front ends of the media encoder: waveforms and frames to features, each sample by itself.

Everything here is independent of batch mates and of padding: a formula is applied per window or per frame, and a
backbone never sees padding that another sample caused. B samples, S audio samples, T steps or frames, D feature width.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.audio_utils import mel_filter_bank

from .configuration_media_encoder import MediaEncoderConfig

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue look
_WHISPER_RATE, _WHISPER_WINDOW, _WHISPER_HOP = 16000, 400, 160  # samples; fixed by Whisper's training


@functools.lru_cache(maxsize=8)
def _mel_filters(
    bins: int, mels: int, low: float, high: float, rate: int, norm: str | None, device: torch.device
) -> Tensor:
    """Mel filters `(bins, mels)`; computed, as buffers kept out of a checkpoint come back empty from loading."""
    filters = mel_filter_bank(bins, mels, low, high, rate, norm=norm, mel_scale="slaney")
    return torch.tensor(filters, dtype=torch.float32, device=device)


class LogMel(nn.Module):
    """
    Logarithmic mel power of windows that start every `mel_hop_ms`; no weights.

    Args:
        config ([`MediaEncoderConfig`]): its `mel_*` fields, `frames_per_step` and `step_reduction`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.window = round(config.sampling_rate * config.mel_window_ms / 1000)
        self.hop = round(config.sampling_rate * config.mel_hop_ms / 1000)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, S) waveform, float.
            mask: (B, S) bool, true for samples of the clip.

        Returns:
            `(B, T, D)` float32 and `(B, T)` bool. A window is valid when all its samples are: one that reached into the
            padding would depend on it. Sound shorter than a window has no valid step.
        """
        values = values.float().masked_fill(~mask, 0.0)  # not a product: padding may hold NaN
        missing = max(self.window - values.shape[1], 0)
        values, mask = nn.functional.pad(values, (0, missing)), nn.functional.pad(mask, (0, missing))
        frames = values.unfold(1, self.window, self.hop)  # (B, T, window)
        valid = mask.unfold(1, self.window, self.hop).all(-1)  # (B, T)
        with torch.autocast(values.device.type, enabled=False):  # squares of half floats overflow
            mel = self._mel(frames)
        mel = ((mel + self.config.mel_log_offset).log() - self.config.mel_mean) / self.config.mel_std
        return self._reduce(mel.masked_fill(~valid[..., None], 0.0), valid)

    def _mel(self, frames: Tensor) -> Tensor:
        config = self.config
        high = config.sampling_rate / 2 if config.mel_max_frequency is None else float(config.mel_max_frequency)
        spectrum = torch.fft.rfft(frames * torch.hann_window(self.window, device=frames.device))
        power = spectrum.real.square() + spectrum.imag.square()
        low, bins = float(config.mel_min_frequency), power.shape[-1]
        return power @ _mel_filters(bins, config.num_mel_bins, low, high, config.sampling_rate, None, frames.device)

    def _reduce(self, mel: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Join `frames_per_step` windows; `mel` is zero where it is not valid."""
        count = self.config.frames_per_step
        if count == 1:
            return mel, valid
        batch, length, width = mel.shape
        extra = -length % count
        mel = nn.functional.pad(mel, (0, 0, 0, extra)).view(batch, -1, count, width)
        valid = nn.functional.pad(valid, (0, extra)).view(batch, -1, count)
        if self.config.step_reduction == "stack":  # a step needs all its windows: zeros would pass for sound
            whole = valid.all(-1)
            return mel.flatten(2).masked_fill(~whole[..., None], 0.0), whole
        return mel.sum(2) / valid.sum(2, keepdim=True).clamp(min=1), valid.any(-1)


class PixelGrid(nn.Module):
    """
    Mean brightness (or colour) of the cells of a square grid; no weights.

    Args:
        config ([`MediaEncoderConfig`]): its `grid_size`, `grayscale` and `subtract_clip_mean`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, T, 3, H, W) normalised frames, float.
            mask: (B, T) bool, true for frames of the clip.

        Returns:
            `(B, T, D)` float32, zero in the padding, and the mask `(B, T)`.
        """
        batch, length = mask.shape
        values = values.float().masked_fill(~mask[..., None, None, None], 0.0).flatten(0, 1)  # (B * T, 3, H, W)
        if self.config.grayscale:
            luma = torch.tensor(_LUMA, device=values.device).view(1, 3, 1, 1)
            values = (values * luma).sum(1, keepdim=True)
        cells = nn.functional.adaptive_avg_pool2d(values, self.config.grid_size).reshape(batch, length, -1)
        if self.config.subtract_clip_mean:
            mean = cells.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
            cells = (cells - mean).masked_fill(~mask[..., None], 0.0)
        return cells, mask


class AudioBackbone(nn.Module):
    """
    A speech encoder of the library, run on every clip at its own length.

    Batch padding is never shown to it: encoders with group normalisation over time (wav2vec 2.0 base, HuBERT base) are
    changed by it even under a mask. Whisper's encoder gets its windows of fixed length (30 s), longer clips several.

    Args:
        config ([`MediaEncoderConfig`]): its `audio_config`, `audio_layers` and `normalize_waveform`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = cast(Any, config.audio_config)
        self.width = config.audio_feature_size or 0
        self.encoder = encoder_of(AutoModel.from_config(without_decoder(self.backbone)))
        self.takes_mel = self.encoder.main_input_name == "input_features"
        self.shortest = round(config.sampling_rate * config.mel_window_ms / 1000)
        if self.takes_mel and not isinstance(getattr(self.backbone, "max_source_positions", None), int):
            raise ValueError(
                f"`audio_config` of type {self.backbone.model_type!r} takes features of its own kind: use an "
                "encoder of waveforms (wav2vec2, hubert, wavlm, data2vec-audio, ...) or of Whisper's mel windows."
            )
        if self.takes_mel and config.sampling_rate != _WHISPER_RATE:
            raise ValueError(f"`sampling_rate` is {config.sampling_rate} but this backbone needs {_WHISPER_RATE}.")

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, S) waveform, float.
            mask: (B, S) bool; the valid samples are a prefix of each row.

        Returns:
            `(B, T, D)`, zero in the padding, and `(B, T)` bool.
        """
        lengths = mask.sum(1).tolist()
        if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < mask.sum(1, keepdim=True)):
            raise ValueError(
                "`input_values_mask` has gaps: an audio backbone needs clips that are padded at the end only."
            )
        empty = values.new_zeros((0, self.width), dtype=self.encoder.dtype)
        rows: list[Tensor] = [empty] * len(lengths)
        for length in sorted(set(lengths)):
            if length < self.shortest:  # less than the encoder's first window: no frame
                continue
            members = [index for index, other in enumerate(lengths) if other == length]
            waves = values[members, :length].float()
            if self.config.normalize_waveform:  # Wav2Vec2FeatureExtractor: per clip, with this epsilon
                variance, mean = torch.var_mean(waves, dim=1, keepdim=True, correction=0)
                waves = (waves - mean) / (variance + 1e-7).sqrt()
            states = self._encode_mel(waves) if self.takes_mel else self._encode(waves)
            for index, state in zip(members, states):
                rows[index] = state
        features = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if features.shape[1] == 0:
            features = nn.functional.pad(features, (0, 0, 0, 1))
        counts = torch.tensor([len(row) for row in rows], device=mask.device)
        return features, torch.arange(features.shape[1], device=mask.device) < counts[:, None]

    def _encode(self, inputs: Tensor) -> Tensor:
        layers = self.config.audio_layers
        output = self.encoder(inputs.to(self.encoder.dtype), output_hidden_states=layers is not None, return_dict=True)
        if layers is None:
            return output.last_hidden_state
        return torch.stack([output.hidden_states[layer] for layer in layers]).mean(0)

    def _encode_mel(self, waves: Tensor) -> Tensor:
        """Windows of Whisper's length, one after the other; frames that begin in a clip's padding are cut off."""
        steps = self.backbone.max_source_positions
        span = 2 * steps * _WHISPER_HOP  # samples of a window: the encoder halves the mel rate
        batch, length = waves.shape
        windows = math.ceil(length / span)
        waves = nn.functional.pad(waves, (0, windows * span - length)).view(batch * windows, span)
        states = self._encode(whisper_mel(waves, self.backbone.num_mel_bins))
        states = states.reshape(batch, windows * steps, -1)
        return states[:, : math.ceil(length / (2 * _WHISPER_HOP))]


class ImageBackbone(nn.Module):
    """
    An image encoder of the library, run on every frame by itself.

    Args:
        config ([`MediaEncoderConfig`]): its `video_config`, `video_pooling` and `frames_per_chunk`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = cast(Any, config.video_config)
        self.width = config.video_feature_size or 0
        self.encoder = AutoModel.from_config(self.backbone)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, T, 3, H, W) normalised frames, float.
            mask: (B, T) bool, true for frames of the clip.

        Returns:
            `(B, T, D)`, zero in the padding, and the mask `(B, T)`.
        """
        features = values.new_zeros((*mask.shape, self.width), dtype=self.encoder.dtype)
        frames = values[mask].to(self.encoder.dtype)  # (N, 3, H, W), only real ones
        if len(frames):
            features[mask] = torch.cat([self._encode(chunk) for chunk in frames.split(self.config.frames_per_chunk)])
        return features, mask

    def _encode(self, frames: Tensor) -> Tensor:
        output = self.encoder(pixel_values=frames, return_dict=True)
        pooling = self.config.video_pooling
        if pooling == "pooler":
            if output.pooler_output is None:
                kind = self.backbone.model_type
                raise ValueError(f"`video_pooling` is 'pooler' but {kind!r} returns none: set it to 'mean' or 'first'.")
            return output.pooler_output.flatten(1)
        states = output.last_hidden_state
        if states.dim() == 4:  # convolutional: (N, D, h, w)
            states = states.flatten(2).transpose(1, 2)
        return states.mean(1) if pooling == "mean" else states[:, 0]


def whisper_mel(waves: Tensor, num_mel_bins: int) -> Tensor:
    """
    Whisper's log-mel windows (Radford et al. 2022, section 2.2), as its feature extractor computes them.

    Args:
        waves: (N, S) waveforms at 16 kHz, padded with zeros to one window.
        num_mel_bins: 80, or 128 for large-v3.

    Returns:
        `(N, num_mel_bins, S // 160)` float32.
    """
    with torch.autocast(waves.device.type, enabled=False):
        window = torch.hann_window(_WHISPER_WINDOW, device=waves.device)
        spectrum = torch.stft(waves.float(), _WHISPER_WINDOW, _WHISPER_HOP, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square()  # (N, bins, frames)
        bins, top = power.shape[1], _WHISPER_RATE / 2
        mel = _mel_filters(bins, num_mel_bins, 0.0, top, _WHISPER_RATE, "slaney", waves.device).T @ power
        mel = mel.clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0)
        return (mel + 4.0) / 4.0


def encoder_of(model: Any) -> Any:
    """The encoder of an encoder-decoder such as Whisper, the model itself otherwise."""
    return model.get_encoder() if model.config.is_encoder_decoder else model


def without_decoder(config: Any) -> Any:
    """A copy whose decoder has no layers, so that none are built only to be dropped."""
    if not config.is_encoder_decoder:
        return config
    copy = type(config).from_dict(config.to_dict())
    copy.decoder_layers = 0
    return copy
