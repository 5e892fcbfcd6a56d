"""The audio, video and coarse branches of MVCL-DAF++, from frames to one vector per text token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .configuration_mvcl_daf import MvclDafConfig
from .layers import MaskedBiLSTM, TransformerLayer, clear_padding, key_mask, sinusoidal_positions
from .modality_inputs import ModalityInput
from .peephole_lstm import PeepholeBiLSTM
from .recorder import Recorder
from .sequence_alignment import AdaptivePoolAlignment, CtcAlignment


def build_alignment(config: MvclDafConfig, input_size: int) -> nn.Module:
    """The alignment that `config.align_type` names, for frames of width `input_size`."""
    if config.align_type == "adaptive_pool":
        return AdaptivePoolAlignment()
    return CtcAlignment(
        input_size,
        config.max_text_length,
        config.align_layers,
        config.align_normalize,
        config.align_mask_slots,
        config.align_logit_scale,
    )


class VisualBranch(nn.Module):
    """Video frames to one vector per text token: embedding, alignment, Transformer encoder."""

    def __init__(self, config: MvclDafConfig) -> None:
        super().__init__()
        self.config, self.positions = config, config.visual_position_embedding
        self.embed = (
            nn.Linear(config.video_feature_size, config.visual_size) if config.video_embed_size else nn.Identity()
        )
        self.align = build_alignment(config, config.visual_size)
        self.layers = nn.ModuleList(
            TransformerLayer(
                config,
                config.visual_size,
                config.visual_heads,
                config.visual_intermediate_size,
                config.visual_dropout,
                config.visual_activation,
                config.visual_norm,
            )
            for _ in range(config.visual_layers)
        )

    def forward(self, video: ModalityInput, text_mask: Tensor, recorder: Recorder) -> Tensor:
        """Returns M_v (B, L, D)."""
        frames = clear_padding(self.embed(video.states), video.mask)
        states = self.align(frames, video.mask, text_mask)
        if self.positions == "sinusoidal":
            states = states + sinusoidal_positions(states.shape[1], states.shape[2], states)
        keys = key_mask(self.config, states, states, text_mask)
        for layer in self.layers:
            states, weights = layer(states, keys)
            recorder.add(states, weights)
        return clear_padding(states, text_mask)


class AcousticBranch(nn.Module):
    """Audio frames to one vector per text token: embedding, alignment, bidirectional peephole LSTM."""

    def __init__(self, config: MvclDafConfig) -> None:
        super().__init__()
        self.embed = (
            nn.Linear(config.audio_feature_size, config.acoustic_size) if config.audio_embed_size else nn.Identity()
        )
        self.align = build_alignment(config, config.acoustic_size)
        hidden = config.acoustic_output_size // 2
        self.encoder = (
            MaskedBiLSTM(config.acoustic_size, hidden)
            if config.acoustic_encoder == "bilstm"
            else PeepholeBiLSTM(config.acoustic_size, hidden, config.peephole)
        )
        self.dropout = nn.Dropout(config.acoustic_dropout)

    def forward(self, audio: ModalityInput, text_mask: Tensor) -> Tensor:
        """Returns M_a (B, L, 2h)."""
        frames = clear_padding(self.embed(audio.states), audio.mask)
        return self.dropout(self.encoder(self.align(frames, audio.mask, text_mask), text_mask))


class CoarseEncoder(nn.Module):
    """Eq. (3): `M_c = Enc(Q = text, K = visual, V = acoustic)`. A sample with only one of the two uses it for both."""

    def __init__(self, config: MvclDafConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            TransformerLayer(
                config,
                config.text_config.hidden_size,
                config.coarse_heads,
                config.coarse_intermediate_size,
                config.coarse_dropout,
                config.visual_activation,
            )
            for _ in range(config.coarse_layers)
        )

    def forward(
        self, text: Tensor, mask: Tensor, streams: dict[str, tuple[Tensor, Tensor]], recorder: Recorder
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            streams: "video" and "audio" by name, projected states (B, L, d) and presence (B,); one may be missing.

        Returns:
            M_c (B, L, d) and which samples have it (B,).
        """
        names = [name for name in ("video", "audio") if name in streams]
        key, has_key = streams[names[0]]
        value, has_value = streams[names[-1]]
        key, value = (
            torch.where(has_key[:, None, None], key, value),
            torch.where(has_value[:, None, None], value, key),
        )
        present = has_key | has_value
        keys = key_mask(self.config, text, key, mask & present[:, None])
        for layer in self.layers:
            text, weights = layer(text, keys, key, value)
            recorder.add(text, weights)
        return clear_padding(text, mask), present
