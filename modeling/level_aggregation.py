"""InterCAD: levels are weighed against each other, then modalities on the shared path; private summaries are gated.

CLCR, section 2.4. Every mean over modalities counts only the ones that a sample has.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_clcr import ClcrConfig
from .decorrelation import whitened_correlation
from .losses import gather_rows, without_autocast
from .shared_exchange import LevelStreams


@dataclass
class Summaries:
    """Pooled and lifted streams of all declared modalities: `shared` s̄, `private` p̄ (B, M, L, d), `present` (B, M) bool."""

    shared: Tensor
    private: Tensor
    present: Tensor


@dataclass
class Aggregated:
    """z_s and z_p (B, d), α (B, L), β and r (B, M), anchors a (B, L, d)."""

    shared: Tensor
    private: Tensor
    level_weights: Tensor
    modality_weights: Tensor
    private_gates: Tensor
    anchors: Tensor | None


class FixedProjection(nn.Module):
    """A random orthonormal matrix that is never trained; saved with the checkpoint so that statistics stay comparable."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight", nn.init.orthogonal_(torch.empty(size, rank)))

    def reset_parameters(self) -> None:
        init.copy_(self.weight, nn.init.orthogonal_(torch.empty_like(self.weight)))

    def forward(self, states: Tensor) -> Tensor:
        """(..., d) -> (..., rank)."""
        return states @ self.weight.to(states.dtype)


class LevelSummaries(nn.Module):
    """s̄_m^l = LN(U_s meanpool z̃), p̄_m^l = LN(U_p meanpool π): pooled streams back in the d dimensions of tokens."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, tokens: list[dict[str, tuple[Tensor, Tensor]]], means: dict[str, Tensor], streams: list[LevelStreams]
    ) -> Summaries:
        """
        Args:
            tokens: by level, H_m (B, T, d) and mask (B, T) of the modalities that are there.
            means: (B, 1, T) float32, what tokens count in the mean, by modality.
            streams: of every level, with the mean in their first pool; empty without IntraCED.

        Returns:
            [`Summaries`] of all declared modalities, zeros for those that the batch lacks.
        """
        config, levels = self.config, len(tokens)
        some_states, some_mask = next(iter(tokens[0].values()))
        absent = some_states.new_zeros(some_mask.shape[0], config.hidden_size)
        nothing = dict.fromkeys(config.modalities, (absent, absent))
        lifted = [
            {**nothing, **self._lift(tokens[index], means, streams[index] if streams else None)}
            for index in range(levels)
        ]

        def side(which: int) -> Tensor:
            """(B, M, L, d) of the shared or the private path."""
            rows = [
                lifted[index][name][which].to(absent.dtype) for name in config.modalities for index in range(levels)
            ]
            return torch.stack(rows, 1).unflatten(1, (-1, levels))

        present = [
            tokens[0][name][1].any(1) if name in tokens[0] else torch.zeros_like(some_mask[:, 0])
            for name in config.modalities
        ]
        return Summaries(shared=side(0), private=side(1), present=torch.stack(present, 1))

    def _lift(
        self, tokens: dict[str, tuple[Tensor, Tensor]], means: dict[str, Tensor], streams: LevelStreams | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        size = (self.config.hidden_size,)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (states, _) in tokens.items():
            with torch.autocast(states.device.type, enabled=False):
                if streams is None:  # without IntraCED both streams are the tokens themselves
                    pooled = (means[name] @ states.float()).squeeze(1)
                    lifted = (pooled, pooled)
                else:
                    to_shared, to_private = streams.basis.split([self.config.shared_width, self.config.private_width])
                    lifted = (streams.shared[name][:, 0] @ to_shared, streams.private[name][:, 0] @ to_private)
                found[name] = (nn.functional.layer_norm(lifted[0], size), nn.functional.layer_norm(lifted[1], size))
        return found


class InterLevelAggregation(nn.Module):
    """InterCAD: anchors, level weights, modality selection and private gates."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.config = config
        size, levels = config.hidden_size, len(config.levels)
        learned = config.use_inter_cad
        # A softmax over one entry has no gradient: what would stand before it is not built.
        self.anchor_norms = self.level_scores = self.query = self.key = self.private_gate = None
        if learned and levels > 1:
            self.anchor_norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(levels))
            self.level_scores = nn.Sequential(nn.Linear(levels * size, size), nn.GELU(), nn.Linear(size, levels))
        if learned and len(config.modalities) > 1:
            self.query, self.key = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)  # W_q, W_k
        if learned:
            self.private_gate = nn.Linear(size, 1)  # u, b
        self.regularizer = InterLevelLoss(config) if learned and config.inter_loss_weight > 0 else None

    def forward(self, summaries: Summaries) -> Aggregated:
        """Eq. (8)–(11)."""
        present = summaries.present.to(summaries.shared.dtype)  # pres_m (B, M)
        there = present / present.sum(1, keepdim=True).clamp(min=1.0)
        anchors = None
        if self.level_scores is not None:
            means = torch.einsum("bm,bmld->bld", there, summaries.shared)
            anchors = torch.stack([norm(means[:, i]) for i, norm in enumerate(self.anchor_norms)], 1)  # a^l
            alpha = self.level_scores(anchors.flatten(1)).softmax(-1, dtype=torch.float32)  # Eq. (8)
        else:
            levels = summaries.shared.shape[2]
            alpha = summaries.shared.new_full((present.shape[0], levels), 1.0 / levels, dtype=torch.float32)
        mixture = alpha.to(summaries.shared.dtype)
        shared = torch.einsum("bl,bmld->bmd", mixture, summaries.shared)  # Eq. (9)
        private = torch.einsum("bl,bmld->bmd", mixture, summaries.private)
        beta = self._select(shared, there, summaries.present)
        gates = present.float()  # r_m
        if self.private_gate is not None:
            gates = self.private_gate(private).squeeze(-1).float().sigmoid() * gates  # Eq. (11)
        return Aggregated(
            shared=torch.einsum("bm,bmd->bd", beta.to(shared.dtype), shared),  # z_s, Eq. (10)
            private=torch.einsum("bm,bmd->bd", gates.to(private.dtype), private),  # z_p, Eq. (11), not normalised
            level_weights=alpha,
            modality_weights=beta,
            private_gates=gates,
            anchors=anchors,
        )

    def _select(self, shared: Tensor, there: Tensor, present: Tensor) -> Tensor:
        """β (B, M) float32, 0 for absent modalities, Eq. (10)."""
        if self.query is None:
            return there.float()
        context = torch.einsum("bm,bmd->bd", there, shared)  # c
        scores = torch.einsum("bd,bmd->bm", self.query(context), self.key(shared)).float() / shared.shape[-1] ** 0.5
        return scores.masked_fill(~present, torch.finfo(torch.float32).min).softmax(-1) * present


class InterLevelLoss(nn.Module):
    """Eq. (12): R_pp, R_sp and R_sel, which the model weighs with η into L_inter."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.config = config
        self.reduction = None
        if config.inter_stat_rank is not None:
            self.reduction = FixedProjection(config.hidden_size, config.inter_stat_rank)

    def forward(self, summaries: Summaries, aggregated: Aggregated) -> dict[str, Tensor]:
        """Each a sum (or mean) of its terms; none with one level."""
        levels = summaries.shared.shape[2]
        if levels < 2:
            return {}
        shared, private = summaries.shared.float(), summaries.private.float()
        if self.reduction is not None:
            with without_autocast(shared):
                shared, private = self.reduction(shared), self.reduction(private)
        below = list(itertools.combinations(range(levels), 2))  # i < j
        # i = j is left out of R_sp: Eq. (7) already separates the two streams of one level.
        unequal = [(i, j) for i in range(levels) for j in range(levels) if i != j]
        return {
            "inter_pp": self._pairs(private, private, below, summaries.present),
            "inter_sp": self._pairs(shared, private, unequal, summaries.present),
            "inter_sel": self._selection(aggregated, below),
        }

    def _pairs(self, left: Tensor, right: Tensor, pairs: list[tuple[int, int]], present: Tensor) -> Tensor:
        """Σ_m Σ_(i,j) ‖C(left_m^i, right_m^j)‖² with the samples of the batch as rows."""
        config = self.config
        first, second = ([index[side] for index in pairs] for side in (0, 1))
        x, y = left[:, :, first], right[:, :, second]  # (B, M, pairs, r)
        weight = present.to(x.dtype)[:, :, None].expand(-1, -1, len(pairs))
        if config.gather_across_processes:
            x, y, weight = (gather_rows(rows)[0] for rows in (x, y, weight))
        terms = whitened_correlation(
            x.permute(1, 2, 0, 3),
            y.permute(1, 2, 0, 3),
            weight.permute(1, 2, 0),
            config.whitening_eps,
            config.whitening_solver,
        )
        return terms.sum() if config.regularizer_reduction == "sum" else terms.mean()

    def _selection(self, aggregated: Aggregated, pairs: list[tuple[int, int]]) -> Tensor:
        """R_sel = mean_batch Σ_{i<j} α_i α_j D_ij with D_ij = 1 − cos(a^i, a^j)."""
        anchors = aggregated.anchors.float()
        if self.config.selection_stop_gradient:
            anchors = anchors.detach()
        terms = []
        for i, j in pairs:
            distance = 1 - nn.functional.cosine_similarity(anchors[:, i], anchors[:, j], dim=-1)
            terms.append(aggregated.level_weights[:, i] * aggregated.level_weights[:, j] * distance)
        total = torch.stack(terms)
        return (total.sum(0) if self.config.regularizer_reduction == "sum" else total.mean(0)).mean()
