"""IntraCED: at one level, modalities exchange only what lies in a shared subspace, and only for a budget of tokens.

CLCR, section 2.3. Work is done in coordinates, z = U_sᵀ h and π = U_pᵀ h: a projection of full width would leave the
shared subspace, and covariances of lifted streams would be singular.

Only means over tokens leave a level, and a mean goes through every linear map: pool(Uᵀ h) = Uᵀ pool(h), likewise
pool(w ∘ A W_O) = pool(w ∘ A) W_O. So tokens are pooled first, and private coordinates and exchanged streams of single
tokens are never computed; nor is the evidence of tokens that receive none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .budget_projection import Float32Module, TokenBudget
from .configuration_clcr import ClcrConfig
from .layers import Attention, KeyMask, eager_attention, key_mask, values_are_at_hand


class UnitDiagonal(nn.Module):
    """
    Ones on the diagonal of the free matrix of a Householder map, whatever an optimiser made of the entries there.

    Its vectors have a 1 there that is not stored, and torch scales the columns of Q by the whole part of what is: weight decay
    takes a 1 to 0.999…, and every row of the basis to 0. The sign of a row spans nothing else, so none is stored.
    """

    def forward(self, matrix: Tensor) -> Tensor:
        """(rows, columns) -> the same with ones on its diagonal."""
        return matrix.masked_fill(torch.eye(*matrix.shape, dtype=torch.bool, device=matrix.device), 1.0)


class NewtonStep(nn.Module):
    """
    One step towards the nearest matrix with orthonormal rows, `1.5 Q − 0.5 Q Qᵀ Q`: an error ε becomes about ε².

    The exponential of a matrix is summed and squared in float32 with an error that grows with its size, 1e-5 at 128.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, columns) -> the same."""
        return 1.5 * rows - 0.5 * (rows @ rows.mT) @ rows


class OrthogonalBasis(Float32Module):
    """
    One matrix Q with d_s + d_p orthonormal rows, Eq. (1): the first d_s are U_sᵀ, the others U_pᵀ.

    A single matrix keeps all three constraints (U_sᵀU_s = I, U_pᵀU_p = I, U_sᵀU_p = 0); two independent ones would not keep
    the third.
    """

    def __init__(self, hidden_size: int, rows: int, basis_map: str) -> None:
        super().__init__()
        basis = nn.Linear(hidden_size, rows, bias=False)
        if basis_map == "householder":
            parametrize.register_parametrization(basis, "weight", UnitDiagonal(), unsafe=True)
        # With use_trivialization=True, torch's default, a saved checkpoint does not load again.
        self.basis = parametrizations.orthogonal(basis, orthogonal_map=basis_map, use_trivialization=False)
        if basis_map == "matrix_exp":
            parametrize.register_parametrization(self.basis, "weight", NewtonStep())

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
    # Householder vectors are those of an orthonormal matrix; the other maps take any values, here small angles.
    if isinstance(module[0], UnitDiagonal):
        init.copy_(module.original, module[1].right_inverse(nn.init.orthogonal_(matrix)))
    else:
        init.normal_(module.original, std=matrix.shape[-1] ** -0.5)


@dataclass
class Received:
    """What tokens of one modality take in: their flat `rows` in (B·T), `weights` w (B, K), attention `states` (B, K, d_s)."""

    rows: Tensor
    weights: Tensor
    states: Tensor


@dataclass
class LevelStreams:
    """
    What one level hands to InterCAD, by modality.

    Args:
        basis: Q (d_s + d_p, d).
        mask: (B, T).
        shared, private: pooled z̃ and π, (B, P, d_s or d_p) float32, one row per pool.
        weights, tight: the budget's w (B, T) and whether it binds (B,), where modalities exchange.
        received: [`Received`], where modalities exchange.
        attentions: maps of the exchange, eager only.
    """

    basis: Tensor
    mask: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)
    private: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    tight: dict[str, Tensor] = field(default_factory=dict)
    received: dict[str, Received] = field(default_factory=dict)
    attentions: list[Tensor] = field(default_factory=list)


class SharedAttention(GradientCheckpointingLayer):
    """Cross-attention in the shared subspace, Eq. (4), up to W_O: every projection is d_s × d_s."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.attention = Attention(config, config.shared_width, config.exchange_heads)

    def keys_and_values(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Of one modality, for all that listen to it."""
        return self.attention.k_proj(shared), self.attention.v_proj(shared)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keys: KeyMask) -> tuple[Tensor, Tensor | None]:
        """`query` (B, K, d_s) before, `key` and `value` (B, T, d_s) after their projections -> (B, K, d_s), maps."""
        config, heads = self.attention.config, self.attention.num_heads
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (self.attention.q_proj(query), key, value))
        scaling = self.attention.head_dim**-0.5
        states, maps = attend(self.attention, *split, keys.mask, scaling=scaling, dropout=0.0)
        return states.flatten(2), maps  # (B, K, H, d_s/H) -> (B, K, d_s)

    def output(self, states: Tensor, weight: Tensor) -> Tensor:
        """W_O of pooled states (B, P, d_s); `weight` (B, P) is what the bias counts in each pool."""
        project = self.attention.o_proj
        without = project(torch.zeros_like(states[:1, :1]))  # b, through whatever an adapter made of the layer
        return project(states) + (weight[..., None] - 1).to(states.dtype) * without


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

    def forward(
        self, tokens: dict[str, tuple[Tensor, Tensor]], pools: dict[str, Tensor], all_receive: bool = False
    ) -> LevelStreams:
        """
        Args:
            tokens: H_m (B, T, d), zero on padding, and mask (B, T) of the modalities that are there.
            pools: weights (B, P, T) float32 of the means over tokens that are wanted of each.
            all_receive: also attend for tokens that are given no evidence, for complete attention maps.

        Returns:
            [`LevelStreams`].
        """
        basis = self.basis()
        streams = LevelStreams(basis=basis, mask={name: mask for name, (_, mask) in tokens.items()})
        self._pool(tokens, pools, streams)
        if self.exchange is None or self.budget is None:
            return streams
        shared = {name: self._shared(states, basis) for name, (states, _) in tokens.items()}
        for name, (_, mask) in tokens.items():
            streams.weights[name], streams.tight[name] = self.budget(shared[name], mask, self.config.budget_scale)
        if len(tokens) < 2:  # the batch has no other modality
            return streams
        dtype = next(iter(tokens.values()))[0].dtype
        given = {name: self._sources(z, tokens[name][1]) for name, z in shared.items()}
        projected = {name: self.exchange.keys_and_values(z.to(dtype)) for name, (z, _) in given.items()}
        for name in tokens:
            sources = [other for other in tokens if other != name]
            key, value = (torch.cat([projected[other][i] for other in sources], 1) for i in (0, 1))  # [z_n]_{n ≠ m}
            there = torch.cat([given[other][1] for other in sources], 1)
            rows, weights = receivers(streams.weights[name], all_receive)
            query = shared[name].flatten(0, 1).index_select(0, rows).unflatten(0, weights.shape).to(dtype)
            keys = key_mask(self.config, query, key, there)
            states, maps = self.exchange(query, key, value, keys)
            if maps is not None:
                streams.attentions.append(maps)
            # The gate multiplies receiving tokens: "how much external evidence each token absorbs". Nothing without source.
            weights = weights * keys.present[:, None]
            streams.received[name] = Received(rows, weights, states)
            # Eq. (4): z̃ = z + w ∘ [MHA(z, [z_n]) W_O], in means over tokens
            streams.shared[name] = streams.shared[name] + evidence(self.exchange, pools[name], streams.received[name])
        return streams

    def _pool(self, tokens: dict[str, tuple[Tensor, Tensor]], pools: dict[str, Tensor], streams: LevelStreams) -> None:
        """Pooled z = U_sᵀ h and π = U_pᵀ h in float32, Eq. (2): s = U_s z, p = U_p π, and h = s + p if d_s + d_p = d."""
        sizes = [self.config.shared_width, self.config.private_width]
        for name, (states, _) in tokens.items():
            with torch.autocast(states.device.type, enabled=False):
                pooled = pools[name] @ states.float() @ streams.basis.float().T
            streams.shared[name], streams.private[name] = pooled.split(sizes, -1)

    def _shared(self, states: Tensor, basis: Tensor) -> Tensor:
        """z (B, T, d_s) in float32."""
        with torch.autocast(states.device.type, enabled=False):
            return states.float() @ basis[: self.config.shared_width].float().T

    def _sources(self, shared: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of one modality that others may hear, (B, N, d_s), and their mask; means are taken in float32."""
        limit = self.config.exchange_max_sources
        return (shared, mask) if limit is None else shorten(shared, mask, limit)

    def token_streams(
        self, tokens: dict[str, tuple[Tensor, Tensor]], streams: LevelStreams
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """z̃ (B, T, d_s) and π (B, T, d_p) of every token, Eq. (2) and (4), to look at."""
        shared, private = {}, {}
        for name, (states, _) in tokens.items():
            shared[name] = self._shared(states, streams.basis)
            private[name] = states.float() @ streams.basis[self.config.shared_width :].float().T
            if self.exchange is not None and name in streams.received:
                found = streams.received[name]
                given = found.weights[..., None] * self.exchange.attention.o_proj(found.states).float()
                shared[name] = (
                    shared[name].flatten(0, 1).index_add(0, found.rows, given.flatten(0, 1)).view_as(shared[name])
                )
        return shared, private


def evidence(exchange: SharedAttention, pool: Tensor, received: Received) -> Tensor:
    """Pooled w ∘ A W_O, (B, P, d_s) float32; `pool` (B, P, T)."""
    rows = pool.transpose(1, 2).flatten(0, 1).index_select(0, received.rows).unflatten(0, received.weights.shape)
    share = (rows * received.weights[..., None]).transpose(1, 2)  # (B, P, K)
    with torch.autocast(pool.device.type, enabled=False):
        pooled = share @ received.states.float()
    return exchange.output(pooled.to(received.states.dtype), share.sum(-1)).float()


def shorten(states: Tensor, mask: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """
    At most `limit` tokens per row: rows with more valid ones become means over as many neighbouring stretches.

    Args:
        states: (B, T, D).
        mask: (B, T) bool.
        limit: N.

    Returns:
        (B, min(T, N), D) and its mask.
    """
    # A graph with free lengths must not choose by the length that it was traced at; its rows have N places at any length.
    if not torch.compiler.is_exporting() and states.shape[1] <= limit:
        return states, mask
    total = mask.sum(1, keepdim=True)
    count = total.clamp(max=limit)
    part = (mask.cumsum(1) - 1) * count // total.clamp(min=1)  # (B, T): the token of rank t goes to stretch ⌊tN/T⌋
    part = part.masked_fill(~mask, limit)  # padding goes behind the last one
    place = torch.arange(limit + 1, device=states.device)
    # The tokens of stretch s have ranks ⌈sT/N⌉ … ⌈(s+1)T/N⌉ − 1.
    first = -(-place * total // count.clamp(min=1))  # (B, N + 1)
    size, width = states.shape[0], states.shape[2]
    rows = part + torch.arange(size, device=states.device)[:, None] * (limit + 1)  # of all samples; added whole
    sums = states.new_zeros(size * (limit + 1), width).index_add(0, rows.flatten(), states.flatten(0, 1))
    sums = sums.unflatten(0, (size, limit + 1))[:, :-1]
    return sums / first.diff(dim=1).clamp(min=1)[..., None].to(states.dtype), place[:-1] < count


def receivers(weights: Tensor, everyone: bool = False) -> tuple[Tensor, Tensor]:
    """
    The tokens with w > 0, the only ones whose evidence and whose gradient are not 0.

    Args:
        weights: w (B, T).
        everyone: all tokens; also where looking at values would wait for the device.

    Returns:
        Their flat rows in (B·T), and w (B, K) with K the largest number in the batch; rows with fewer are filled up with
        tokens whose w is 0.
    """
    size, length = weights.shape
    start = torch.arange(size, device=weights.device)[:, None] * length
    if everyone or not values_are_at_hand(weights):
        return (start + torch.arange(length, device=weights.device)).flatten(), weights
    open_ = weights > 0
    index = open_.byte().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(open_.sum(1).max()))]
    return (start + index).flatten(), weights.gather(1, index)
