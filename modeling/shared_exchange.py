"""IntraCED: at one level, modalities exchange only what lies in a shared subspace, and only for a budget of tokens.

CLCR, section 2.3. Work is done in coordinates, z = U_sᵀ h and π = U_pᵀ h: a projection of full width would leave the
shared subspace, and covariances of lifted streams would be singular.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .budget_projection import Float32Module, TokenBudget
from .configuration_clcr import ClcrConfig
from .layers import Attention, KeyMask, key_mask


class OrthogonalBasis(Float32Module):
    """
    One matrix Q with d_s + d_p orthonormal rows, Eq. (1): the first d_s are U_sᵀ, the others U_pᵀ.

    A single matrix keeps all three constraints (U_sᵀU_s = I, U_pᵀU_p = I, U_sᵀU_p = 0); two independent ones would not keep
    the third.
    """

    def __init__(self, hidden_size: int, rows: int, basis_map: str) -> None:
        super().__init__()
        # With use_trivialization=True, torch's default, a saved checkpoint does not load again.
        self.basis = parametrizations.orthogonal(
            nn.Linear(hidden_size, rows, bias=False), orthogonal_map=basis_map, use_trivialization=False
        )

    def forward(self) -> Tensor:
        """Q (d_s + d_p, d) in float32; computed anew at every call, so once per forward pass."""
        with torch.autocast(self.basis.parametrizations.weight.original.device.type, enabled=False):
            return self.basis.weight


def reset_parametrization(module: parametrize.ParametrizationList) -> None:
    """Initial values of a parametrised tensor, which the usual rules for layers do not reach."""
    if hasattr(module, "original1"):  # weight norm: original1 is the direction, original0 its length
        init.kaiming_normal_(module.original1, nonlinearity="relu")
        init.copy_(module.original0, torch.linalg.vector_norm(module.original1, dim=(1, 2), keepdim=True))
        return
    matrix = torch.empty_like(module.original)
    # Householder vectors must come from an orthonormal matrix; the other maps take any values, here small angles.
    if module[0].orthogonal_map.name == "householder":
        init.copy_(module.original, module[0].right_inverse(nn.init.orthogonal_(matrix)))
    else:
        init.normal_(module.original, std=matrix.shape[-1] ** -0.5)


@dataclass
class LevelStreams:
    """
    What one level hands to InterCAD, by modality: `shared` z̃ and `private` π (B, T, d_s or d_p) float32, `mask` (B, T),
    token weights w (B, T), whether the budget binds (B,), attention maps; and the `basis` Q that lifts them.
    """

    shared: dict[str, Tensor] = field(default_factory=dict)
    private: dict[str, Tensor] = field(default_factory=dict)
    mask: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    tight: dict[str, Tensor] = field(default_factory=dict)
    attentions: list[Tensor] = field(default_factory=list)
    basis: Tensor | None = None


class SharedAttention(GradientCheckpointingLayer):
    """Cross-attention in the shared subspace, Eq. (4): every projection is d_s × d_s."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.attention = Attention(config, config.shared_width, config.exchange_heads)

    def forward(self, query: Tensor, pool: Tensor, keys: KeyMask) -> tuple[Tensor, Tensor | None]:
        return self.attention(query, pool, pool, keys)


class IntraLevelExchange(nn.Module):
    """IntraCED of one level; its basis, budget and projections are shared by the modalities."""

    def __init__(self, config: ClcrConfig, share: float) -> None:
        super().__init__()
        self.config = config
        self.basis = OrthogonalBasis(config.hidden_size, config.shared_width + config.private_width, config.basis_map)
        self.budget, self.exchange = None, None
        if len(config.modalities) > 1:  # with one modality there is nobody to exchange with: S̃ = S
            self.budget = TokenBudget(
                config.gate_scale_init,
                config.gate_threshold_init,
                share if config.use_budget_projection else None,
                config.budget_learnable,
            )
            self.exchange = SharedAttention(config)

    def split(self, tokens: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """z = U_sᵀ h and π = U_pᵀ h in float32, Eq. (2); `tokens` (B, T, d)."""
        with torch.autocast(tokens.device.type, enabled=False):
            coordinates = tokens.float() @ basis.float().T
        return coordinates.split([self.config.shared_width, self.config.private_width], -1)

    def forward(self, tokens: dict[str, tuple[Tensor, Tensor]]) -> LevelStreams:
        """
        Args:
            tokens: H_m (B, T, d) and mask (B, T) of the modalities that are there.

        Returns:
            [`LevelStreams`].
        """
        basis = self.basis()
        streams = LevelStreams(basis=basis)
        shared: dict[str, Tensor] = {}
        for name, (states, mask) in tokens.items():
            shared[name], streams.private[name] = self.split(states, basis)
            streams.mask[name] = mask
        for name, (states, mask) in tokens.items():
            sources = [other for other in tokens if other != name]
            if self.budget is not None:
                weights, tight = self.budget(shared[name], mask, self.config.budget_scale)
                streams.weights[name], streams.tight[name] = weights, tight
            if not sources or self.exchange is None:
                streams.shared[name] = shared[name]
                continue
            dtype = states.dtype
            query = shared[name].to(dtype)
            pool = torch.cat([shared[other] for other in sources], 1).to(dtype)  # [z_n]_{n ≠ m}
            keys = key_mask(self.config, query, pool, torch.cat([tokens[other][1] for other in sources], 1))
            evidence, maps = self.exchange(query, pool, keys)  # exactly 0 where a row has no source token
            if maps is not None:
                streams.attentions.append(maps)
            # The gate multiplies receiving tokens: "how much external evidence each token absorbs".
            streams.shared[name] = shared[name] + weights[..., None] * evidence.float()  # z̃
        return streams
