"""Common and private branch of a modality and their refinement, from frames to one vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .configuration_plum_net import PlumNetConfig
from .layers import Attention, key_mask, masked_mean
from .recorder import Recorder
from .sequence_encoder import TransformerStack


class NullToken(nn.Module):
    """A learned vector (d,) that stands for an absent modality."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def vector(self, pooled: Tensor, present: Tensor) -> Tensor:
        """`pooled` (B, d) with the token in the absent rows."""
        return torch.where(present[:, None], pooled, self.weight)

    def sequence(self, states: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """`states` (B, T, d) and `mask` (B, T) with the token as the only step of the absent rows."""
        first = torch.zeros_like(mask)
        first[:, 0] = ~present
        return torch.where(first[..., None], self.weight, states), mask | first


class LearnedLabels(nn.Module):
    """A learned vector per class (C, d)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, width))


@dataclass
class BranchStates:
    """Common C_m and private P_m states (B, T, d) of one modality with their mask (B, T), pooled to (B, d)."""

    common: Tensor
    private: Tensor
    mask: Tensor

    @property
    def pooled_common(self) -> Tensor:
        return masked_mean(self.common, self.mask)

    @property
    def pooled_private(self) -> Tensor:
        return masked_mean(self.private, self.mask)


class FeatureBifurcator(nn.Module):
    """Task-conditioned Feature Bifurcator of one modality: a Transformer on G_m and one on F_m (Figure 2)."""

    def __init__(self, config: PlumNetConfig) -> None:
        super().__init__()
        sizes = (config.hidden_size, config.tfb_layers, config.tfb_heads, config.encoder_dropout)
        self.common = TransformerStack(config, *sizes)
        self.private = TransformerStack(config, *sizes)

    def forward(self, features: Tensor, projected: Tensor, mask: Tensor, recorder: Recorder) -> BranchStates:
        """F_m and G_m (B, T, d) to the states of both branches."""
        return BranchStates(
            common=self.common(projected, mask, recorder), private=self.private(features, mask, recorder), mask=mask
        )


class LabelAttention(nn.Module):
    """
    The fused vector asks C label tokens, `p_k e_k` each; Eq. (9).

    One token that holds the whole soft label would be no attention: its softmax is 1 whatever is asked.
    """

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(config, hidden_size, num_heads)

    def forward(self, fused: Tensor, soft_labels: Tensor, class_vectors: Tensor, recorder: Recorder) -> Tensor:
        """
        Args:
            fused: (B, d).
            soft_labels: (B, C).
            class_vectors: (C, d).

        Returns:
            H_private (B, d).
        """
        tokens = soft_labels.to(fused.dtype)[..., None] * class_vectors.to(fused.dtype)  # (B, C, d)
        states, weights = self.attention(fused[:, None], tokens, tokens)
        recorder.add(states, weights)
        return states[:, 0]


class PrivateRefinement(nn.Module):
    """Private Refinement Module of one modality (Figure 3): both branches attend to each other, then to the labels."""

    def __init__(self, config: PlumNetConfig) -> None:
        super().__init__()
        self.config, size = config, config.hidden_size
        self.common_to_private = Attention(config, size, config.prm_heads, config.encoder_dropout)
        self.private_to_common = Attention(config, size, config.prm_heads, config.encoder_dropout)
        self.combine = nn.Linear(2 * size, size) if config.fusion_combine == "concat" else None
        self.norm = nn.LayerNorm(size)
        self.labels = LabelAttention(config, size, config.prm_heads)

    def forward(self, states: BranchStates, soft_labels: Tensor, class_vectors: Tensor, recorder: Recorder) -> Tensor:
        """
        Args:
            states: of the modality.
            soft_labels: (B, C).
            class_vectors: (C, d).

        Returns:
            H_m = H_fusion + H_private (B, d).
        """
        keys = key_mask(self.config, states.common, states.private, states.mask)
        forth, weights = self.common_to_private(states.common, states.private, states.private, keys)
        recorder.add(forth, weights)
        back, weights = self.private_to_common(states.private, states.common, states.common, keys)
        recorder.add(back, weights)
        forth, back = masked_mean(forth, states.mask), masked_mean(back, states.mask)
        fused = forth + back if self.combine is None else self.combine(torch.cat([forth, back], -1))
        fused = self.norm(fused)
        return fused + self.labels(fused, soft_labels, class_vectors, recorder)
