"""Front ends of the media encoder: waveforms and frames to features, each sample by itself.

Everything here is independent of batch mates and of padding: a formula is applied per window or per frame, and a
backbone never sees padding that another sample caused. B samples, S audio samples, T steps or frames, D feature width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.audio_utils import mel_filter_bank

from .configuration_media_encoder import MediaEncoderConfig
from .media_chunks import Piece, cut_clip, group_pieces, may_share, striding

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue look
_WHISPER_RATE, _WHISPER_WINDOW, _WHISPER_HOP = 16000, 400, 160  # samples; fixed by Whisper's training
# Pictures per thread and call, in pixels: four of 224 × 224. Sixteen times as many cost EfficientNet-lite0 2.6 times, a ViT 1.2
# times as much per picture, as what they leave behind in between no longer fits a CPU's caches.
_CPU_PIXELS = 4 * 224 * 224
_CPU_SAMPLES = 30 * _WHISPER_RATE  # the same for Whisper's windows: four at a time cost a tenth more each


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

    @property
    def rate(self) -> float:
        """Feature steps per second."""
        return self.config.sampling_rate / self.hop / self.config.frames_per_step

    def hears(self, samples: int) -> bool:
        """Whether so much sound gives a valid step."""
        frames = self.config.frames_per_step if self.config.step_reduction == "stack" else 1
        return samples >= self.window + (frames - 1) * self.hop

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, S) waveform, float.
            mask: (B, S) bool, true for samples of the clip.

        Returns:
            `(B, T, D)` float32 and `(B, T)` bool. A window is valid when all its samples are: one that reached into the
            padding would depend on it. Sound shorter than a window has no valid step.
        """
        return join_steps(*self.frames(values, mask), self.config)

    def frames(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, before `frames_per_step` of them are joined."""
        values = values.float().masked_fill(~mask, 0.0)  # not a product: padding may hold NaN
        missing = max(self.window - values.shape[1], 0)
        values, mask = nn.functional.pad(values, (0, missing)), nn.functional.pad(mask, (0, missing))
        frames = values.unfold(1, self.window, self.hop)  # (B, T, window)
        valid = mask.unfold(1, self.window, self.hop).all(-1)  # (B, T)
        with torch.autocast(values.device.type, enabled=False):  # squares of half floats overflow
            mel = self._mel(frames)
        mel = ((mel + self.config.mel_log_offset).log() - self.config.mel_mean) / self.config.mel_std
        return mel.masked_fill(~valid[..., None], 0.0), valid

    def _mel(self, frames: Tensor) -> Tensor:
        config = self.config
        high = config.sampling_rate / 2 if config.mel_max_frequency is None else float(config.mel_max_frequency)
        spectrum = torch.fft.rfft(frames * torch.hann_window(self.window, device=frames.device))
        power = spectrum.real.square() + spectrum.imag.square()
        low, bins = float(config.mel_min_frequency), power.shape[-1]
        return power @ _mel_filters(bins, config.num_mel_bins, low, high, config.sampling_rate, None, frames.device)


class PixelGrid(nn.Module):
    """
    Mean brightness (or colour) of the cells of a square grid; no weights.

    Args:
        config ([`MediaEncoderConfig`]): its `grid_size`, `grayscale` and `subtract_clip_mean`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def rate(self) -> float:
        """Feature steps per second."""
        return float(self.config.frame_rate)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, T, 3, H, W) normalised frames, float.
            mask: (B, T) bool, true for frames of the clip.

        Returns:
            `(B, T, D)` float32, zero in the padding, and the mask `(B, T)`.
        """
        return self.without_mean(self.cells(values, mask), mask), mask

    def cells(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), every frame by itself."""
        batch, length = mask.shape
        values = values.float().masked_fill(~mask[..., None, None, None], 0.0).flatten(0, 1)  # (B * T, 3, H, W)
        if self.config.grayscale:
            luma = torch.tensor(_LUMA, device=values.device).view(1, 3, 1, 1)
            values = (values * luma).sum(1, keepdim=True)
        return nn.functional.adaptive_avg_pool2d(values, self.config.grid_size).reshape(batch, length, -1)

    def without_mean(self, cells: Tensor, mask: Tensor) -> Tensor:
        """What changes in a clip, where the configuration wants only that."""
        if not self.config.subtract_clip_mean:
            return cells
        mean = cells.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
        return (cells - mean).masked_fill(~mask[..., None], 0.0)


class AudioBackbone(nn.Module):
    """
    A speech encoder of the library, run on every clip at its own length.

    Batch padding is never shown to an encoder that it would change: those with group normalisation over time (wav2vec 2.0
    base, HuBERT base) are, even under a mask, and see clips of one length at a time. Clips above `audio_chunk_seconds`
    come in overlapping pieces, except to encoders that do not state the strides of their convolutions. Whisper's encoder
    gets its windows of fixed length (30 s), longer clips several.

    Args:
        config ([`MediaEncoderConfig`]): its `audio_*` fields, `normalize_waveform`, `frames_per_step` and
            `step_reduction`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = cast(Any, config.audio_config)
        self.width = config.audio_state_size or 0
        self.encoder = encoder_of(AutoModel.from_config(without_decoder(self.backbone)))
        self.takes_mel = self.encoder.main_input_name == "input_features"
        self.strides = None if self.takes_mel else striding(self.backbone)
        if self.takes_mel and not isinstance(getattr(self.backbone, "max_source_positions", None), int):
            raise ValueError(
                f"`audio_config` of type {self.backbone.model_type!r} takes features of its own kind: use an "
                "encoder of waveforms (wav2vec2, hubert, wavlm, data2vec-audio, ...) or of Whisper's mel windows."
            )
        if self.takes_mel and config.sampling_rate != _WHISPER_RATE:
            raise ValueError(f"`sampling_rate` is {config.sampling_rate} but this backbone needs {_WHISPER_RATE}.")

    @property
    def rate(self) -> float | None:
        """Feature steps per second; `None` where the encoder does not state its strides."""
        if not self.takes_mel and self.strides is None:
            return None
        step = 2 * _WHISPER_HOP if self.strides is None else self.strides.step  # samples
        return self.config.sampling_rate / step / self.config.frames_per_step

    def hears(self, samples: int) -> bool:
        """Whether so much sound gives a state."""
        return samples >= self.shortest if self.takes_mel else bool(self.pieces(0, samples))

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, S) waveform, float.
            mask: (B, S) bool; the valid samples are a prefix of each row.

        Returns:
            `(B, T, D)` in the type of the weights, zero in the padding, and `(B, T)` bool. Sound shorter than the
            encoder's first window has no valid step.
        """
        lengths = mask.sum(1)
        if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
            raise ValueError(
                "`input_values_mask` has gaps: an audio backbone needs clips that are padded at the end only."
            )
        waves = [self._normalized(row[:length].float()) for row, length in zip(values, lengths.tolist(), strict=True)]
        rows = self._encode_mel(waves) if self.takes_mel else self._encode_waves(waves)
        features = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if features.shape[1] == 0:
            features = nn.functional.pad(features, (0, 0, 0, 1))
        counts = torch.tensor([len(row) for row in rows], device=mask.device)
        valid = torch.arange(features.shape[1], device=mask.device) < counts[:, None]
        return join_steps(features, valid, self.config)

    def _normalized(self, wave: Tensor) -> Tensor:
        if not self.config.normalize_waveform or not len(wave):
            return wave
        variance, mean = torch.var_mean(wave, correction=0)  # Wav2Vec2FeatureExtractor: per clip, with this epsilon
        return (wave - mean) / (variance + 1e-7).sqrt()

    def _encode_waves(self, waves: list[Tensor]) -> list[Tensor]:
        pieces = [piece for row, wave in enumerate(waves) for piece in self.pieces(row, len(wave))]
        most = round(self.config.audio_seconds_per_call * self.config.sampling_rate)
        found: dict[Piece, Tensor] = {}
        for group in group_pieces(pieces, most, may_share(self.backbone)):
            found.update(zip(group, self.encode_group(waves, group), strict=True))
        empty = waves[0].new_zeros((0, self.width), dtype=self.encoder.dtype)
        rows = []
        for row in range(len(waves)):
            mine = [found[piece][piece.first : piece.first + piece.count] for piece in pieces if piece.row == row]
            rows.append(torch.cat(mine) if mine else empty)
        return rows

    def pieces(self, row: int, samples: int) -> list[Piece]:
        """Of one clip; none when it is shorter than the encoder's first window."""
        config, rate = self.config, self.config.sampling_rate
        if self.strides is None:  # a window of speech is the least that any encoder takes
            return [Piece(row, 0, samples, 0, samples)] if samples >= self.shortest else []
        if not self.strides.states(samples):
            return []
        seconds = samples / rate if config.audio_chunk_seconds is None else config.audio_chunk_seconds
        return cut_clip(row, samples, round(seconds * rate), round(config.audio_overlap_seconds * rate), self.strides)

    def encode_group(self, waves: list[Tensor], group: list[Piece]) -> list[Tensor]:
        """States (T, D) of pieces of these waves that share a call, those of their context included."""
        parts = [waves[piece.row][piece.start : piece.stop] for piece in group]
        same = all(piece.length == group[0].length for piece in group)
        mask = None
        if not same:
            lengths = torch.tensor([piece.length for piece in group], device=parts[0].device)
            mask = (torch.arange(group[0].length, device=parts[0].device) < lengths[:, None]).long()
        states = self.encode(nn.utils.rnn.pad_sequence(parts, batch_first=True), mask)
        for piece, state in zip(group, states, strict=True):
            if self.strides is not None and piece.first + piece.count > len(state):
                raise ValueError(
                    f"{self.backbone.model_type!r} returns {len(state)} states for {piece.length} samples, not the "
                    f"{self.strides.states(piece.length)} of its strides: set `audio_chunk_seconds` to None."
                )
        return list(states)

    def encode(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """States (N, T, D) of one call."""
        layers = self.config.audio_layers
        masked = {} if mask is None else {"attention_mask": mask}
        with _computing(self.config, inputs.device):
            output = self.encoder(
                inputs.to(self.encoder.dtype), output_hidden_states=layers is not None, return_dict=True, **masked
            )
        return _chosen_states(output, layers, self.width, self.backbone).to(self.encoder.dtype)

    @property
    def shortest(self) -> int:
        """Samples of a window of speech, the least that is encoded where the encoder does not say."""
        return round(self.config.sampling_rate * self.config.mel_window_ms / 1000)

    @property
    def mel_span(self) -> int:
        """Samples of one of Whisper's windows: its encoder halves the mel rate."""
        return 2 * self.backbone.max_source_positions * _WHISPER_HOP

    @staticmethod
    def mel_states(samples: int) -> int:
        """States of so much sound in Whisper's windows."""
        return math.ceil(samples / (2 * _WHISPER_HOP))

    def encode_mel_windows(self, windows: Tensor) -> Tensor:
        """States (N, T, D) of sound (N, mel_span)."""
        return self.encode(whisper_mel(windows, self.backbone.num_mel_bins))

    def _encode_mel(self, waves: list[Tensor]) -> list[Tensor]:
        """Windows of Whisper's length, of all clips in turn; frames that begin in a clip's padding are cut off."""
        span = self.mel_span
        counts = [math.ceil(len(wave) / span) if len(wave) >= self.shortest else 0 for wave in waves]
        empty = waves[0].new_zeros((0, self.width), dtype=self.encoder.dtype)
        if not sum(counts):
            return [empty] * len(waves)
        padded = [
            nn.functional.pad(wave, (0, count * span - len(wave))).view(count, span)
            for wave, count in zip(waves, counts, strict=True)
            if count
        ]
        most = max(round(self.config.audio_seconds_per_call * _WHISPER_RATE) // span, 1)
        if waves[0].device.type == "cpu" and not self.training:
            most = min(most, max(torch.get_num_threads() * _CPU_SAMPLES // span, 1))
        calls = torch.cat(padded).split(most)
        states = torch.cat([self.encode_mel_windows(call) for call in calls])
        rows = states.split(counts)
        return [
            row.flatten(0, 1)[: self.mel_states(len(wave))] if count else empty
            for row, wave, count in zip(rows, waves, counts, strict=True)
        ]


class ImageBackbone(nn.Module):
    """
    An image encoder of the library, run on every frame by itself.

    Args:
        config ([`MediaEncoderConfig`]): its `video_config`, `video_pooling`, `video_layers` and `frames_per_chunk`.
    """

    def __init__(self, config: MediaEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = cast(Any, config.video_config)
        self.width = config.video_feature_size or 0
        self.encoder = AutoModel.from_config(self.backbone)

    @property
    def rate(self) -> float | None:
        """Feature steps per second; `None` where a step is not a frame."""
        return None if self.config.video_pooling in ("tokens", "spatiotemporal") else float(self.config.frame_rate)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            values: (B, T, 3, H, W) normalised frames, float.
            mask: (B, T) bool, true for frames of the clip.

        Returns:
            `(B, K, D)` in the type of the weights, zero in the padding, and the mask `(B, K)`. Of P patches per frame:
            K = T, or T · P with `video_pooling="tokens"` (all patches of a frame, then the next frame), or P + T with
            "spatiotemporal".
        """
        places = mask.nonzero()  # (N, 2), of real frames only
        # (n, 3, H, W), one call at a time: no second copy of all frames is made
        calls = (values[part[:, 0], part[:, 1]].to(self.encoder.dtype) for part in self._split(places))
        pooling = self.config.video_pooling
        if pooling == "spatiotemporal":
            return self._spatiotemporal(calls, mask)
        tokens = [self.encode(call) for call in calls]  # (n, D), or (n, P, D) for all tokens
        if pooling == "tokens":
            return self._token_grid(tokens, mask)
        features = values.new_zeros((*mask.shape, self.width), dtype=self.encoder.dtype)
        return (features.index_put((mask,), torch.cat(tokens)) if tokens else features), mask

    def frames_per_call(self, device: torch.device) -> int:
        """`frames_per_chunk`, but on a CPU no more than its caches hold, where the division changes nothing but the time."""
        most = self.config.frames_per_chunk
        if device.type != "cpu" or self.training:  # in training the statistics of a batch may be those of a call
            return most
        return min(most, max(torch.get_num_threads() * _CPU_PIXELS // math.prod(self.config.image_shape), 1))

    def _split(self, places: Tensor) -> Sequence[Tensor]:
        return places.split(self.frames_per_call(places.device)) if len(places) else ()

    def _token_grid(self, tokens: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        count = tokens[0].shape[1] if tokens else 1
        grid = mask.new_zeros((*mask.shape, count, self.width), dtype=self.encoder.dtype)
        grid = grid.index_put((mask,), torch.cat(tokens)) if tokens else grid
        return grid.flatten(1, 2), mask.repeat_interleave(count, 1)

    def _spatiotemporal(self, calls: Iterable[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over frames are kept in float32 while the frames pass by; no grid of a whole clip is held."""
        clip = mask.nonzero()[:, 0]  # (N,), of every frame
        batch, start = len(mask), 0
        spatial: Tensor | None = None  # (B, P, D)
        temporal: list[Tensor] = []
        for call in calls:
            tokens = self.encode(call)
            temporal.append(tokens.mean(1))
            if spatial is None:
                spatial = torch.zeros((batch, *tokens.shape[1:]), device=mask.device)
            spatial = spatial.index_add(0, clip[start : start + len(call)], tokens.float())
            start += len(call)
        features = mask.new_zeros((*mask.shape, self.width), dtype=self.encoder.dtype)
        if spatial is None:
            return features, mask
        features = features.index_put((mask,), torch.cat(temporal))
        spatial = (spatial / mask.sum(1).clamp(min=1)[:, None, None]).to(features.dtype)
        present = mask.any(1, keepdim=True).expand(-1, spatial.shape[1])
        return torch.cat([spatial, features], 1), torch.cat([present, mask], 1)

    def encode(self, frames: Tensor) -> Tensor:
        """(N, D), or (N, P, D) where all patches are wanted."""
        pooling, layers = self.config.video_pooling, self.config.video_layers
        wanted = {} if layers is None else {"output_hidden_states": True}
        with _computing(self.config, frames.device):
            output = self.encoder(pixel_values=frames, return_dict=True, **wanted)
        if pooling == "pooler":
            if output.pooler_output is None:
                kind = self.backbone.model_type
                raise ValueError(f"`video_pooling` is 'pooler' but {kind!r} returns none: set it to 'mean' or 'first'.")
            vectors = output.pooler_output.flatten(1)
            _check_width(vectors, self.width, self.backbone)
            return vectors.to(self.encoder.dtype)
        states = _chosen_states(output, layers, self.width, self.backbone).to(self.encoder.dtype)
        if pooling == "mean":
            return states.mean(1)
        return states[:, 0] if pooling == "first" else states[:, self._class_tokens(states, frames) :]

    def _class_tokens(self, states: Tensor, frames: Tensor) -> int:
        """Tokens in front of the patches: more tokens than patches fit into the frame."""
        side = getattr(self.backbone, "patch_size", None)
        if side is None:
            return 0
        height, width = (side, side) if isinstance(side, int) else side
        return max(states.shape[1] - (frames.shape[-2] // height) * (frames.shape[-1] // width), 0)


def join_steps(features: Tensor, valid: Tensor, config: MediaEncoderConfig) -> tuple[Tensor, Tensor]:
    """
    `frames_per_step` audio frames to one feature step.

    Args:
        features: (B, T, D), zero where not valid.
        valid: (B, T) bool.
        config: its `frames_per_step` and `step_reduction`.

    Returns:
        `(B, ceil(T / n), D)` ("mean" of the valid ones) or `(B, ceil(T / n), n · D)` ("stack"), and the mask.
    """
    count = config.frames_per_step
    if count == 1:
        return features, valid
    batch, length, width = features.shape
    extra = -length % count
    features = nn.functional.pad(features, (0, 0, 0, extra)).view(batch, -1, count, width)
    valid = nn.functional.pad(valid, (0, extra)).view(batch, -1, count)
    if config.step_reduction == "stack":  # a step needs all its frames: zeros would pass for sound
        whole = valid.all(-1)
        return features.flatten(2).masked_fill(~whole[..., None], 0.0), whole
    return features.sum(2) / valid.sum(2, keepdim=True).clamp(min=1), valid.any(-1)


def _computing(config: MediaEncoderConfig, device: torch.device) -> AbstractContextManager:
    """Arithmetic of a backbone: that of `compute_dtype`, else whatever is set around it."""
    if config.compute_dtype is None:
        return nullcontext()
    if config.compute_dtype == "float32":  # also inside a trainer's mixed precision
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=getattr(torch, config.compute_dtype))


def _chosen_states(output: Any, layers: Any, width: int, backbone: Any) -> Tensor:
    """Last states, or the mean of the chosen layers, as (N, T, D); maps of convolutions as (N, h · w, D)."""
    if layers is None:
        states = output.last_hidden_state
    else:
        states = torch.stack([output.hidden_states[layer] for layer in layers]).mean(0)
    if states.dim() == 4:  # convolutional: (N, D, h, w)
        states = states.flatten(2).transpose(1, 2)
    _check_width(states, width, backbone)
    return states


def _check_width(states: Tensor, width: int, backbone: Any) -> None:
    if states.shape[-1] != width:
        raise ValueError(
            f"the {backbone.model_type!r} backbone returns states of width {states.shape[-1]} but its configuration "
            f"states {width}: use another encoder, or another `video_pooling`."
        )


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
