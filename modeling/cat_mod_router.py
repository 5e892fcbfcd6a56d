"""Which queries of Cat-MoD take part in which cross-attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_cat_mod import CatModConfig
from .query_former_layers import Selection


class SimilarityRouter(nn.Module):
    """
    Logit of κ_i = σ( softplus(a)·(θ − s_i) + wᵀ LN(x_i) + b ): the less a query still changes, the lower.

    Args:
        width: d.
        scale, threshold: what a and θ start from.
    """

    no_weight_decay = True

    def __init__(self, width: int, scale: float, threshold: float) -> None:
        super().__init__()
        self.initial = (float(scale), float(threshold))
        self.scale = nn.Parameter(torch.empty(1))  # a
        self.threshold = nn.Parameter(torch.empty(1))  # θ
        self.weight = nn.Parameter(torch.empty(width))  # w
        self.bias = nn.Parameter(torch.empty(1))  # b

    def forward(self, states: Tensor, similarity: Tensor) -> Tensor:
        """`states` x (B, C, d) and their `similarity` s (B, C) float32 -> (B, C) float32."""
        normed = functional.layer_norm(states.float(), states.shape[-1:])
        learned = (normed * self.weight.float()).sum(-1) + self.bias.float()
        return functional.softplus(self.scale.float()) * (self.threshold.float() - similarity) + learned


def similarity_to_previous(states: Tensor, previous: Tensor) -> Tensor:
    """Cosine of every query with itself one cross-attention earlier, (B, C, d) twice -> (B, C) float32."""
    return functional.cosine_similarity(states.float(), previous.float(), dim=-1)


def similarity_to_others(states: Tensor, count: int) -> Tensor:
    """Largest cosine of each of the first `count` queries with another one, (B, N, d) -> (B, count) float32."""
    unit = functional.normalize(states.float(), dim=-1)
    cosines = unit[:, :count] @ unit.transpose(1, 2)  # (B, count, N)
    itself = torch.eye(count, states.shape[1], dtype=torch.bool, device=states.device)
    return cosines.masked_fill(itself, -1.0).amax(-1)


def bucket_of(count: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds `count`; the largest one holds everything."""
    return next(width for width in buckets if width >= count)


@torch.compiler.disable  # a compiler would make a graph for every count, in place of one for every bucket
def bucketed_places(member: Tensor, config: CatModConfig) -> int:
    """Width that holds the candidates of every sample, `member` (B, C) bool."""
    guides = int(member.sum(1).max()) - (config.num_explorer_tokens if config.route_explorers else 0)
    return config.places(bucket_of(guides, config.buckets))


@dataclass
class RoutingRecord:
    """What routing decided, one entry per layer with cross-attention; see [`CatModOutput`]."""

    keep_scores: list[Tensor] = field(default_factory=list)
    similarities: list[Tensor | None] = field(default_factory=list)
    active: list[Tensor] = field(default_factory=list)
    active_counts: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @property
    def loss(self) -> Tensor | None:
        return torch.stack(self.losses).mean() if self.losses else None

    @property
    def tensors(self) -> dict[str, Any]:
        """(B, n_CA, C) each; a similarity that was not computed is NaN."""
        unknown = torch.full_like(self.keep_scores[0], float("nan"))
        return {
            "keep_scores": torch.stack(self.keep_scores, 1),
            "similarities": torch.stack([unknown if item is None else item for item in self.similarities], 1),
            "active": torch.stack(self.active, 1),
        }


class RoutingPass:
    """
    Routing of one forward pass: called with the input of every layer that has cross-attention, in order.

    C candidates may be pruned: the guides, which come first, or all N queries with `route_explorers`.

    Args:
        config: of the connector.
        routers: by position among the layers with cross-attention; where the schedule keeps some candidates, not all.
        progress: β, 0 for the dense model, 1 for the scheduled one.
        training: random scores are drawn anew, and there is no threshold.
        detailed: keep scores and similarities also where nothing depends on them.
    """

    def __init__(
        self, config: CatModConfig, routers: nn.ModuleDict, progress: float, training: bool, detailed: bool = False
    ) -> None:
        self.config = config
        self.routers = routers
        self.progress = progress
        self.training = training
        self.detailed = detailed
        self.threshold = config.router_mode == "threshold" and not training
        self.record = RoutingRecord()
        self.layer = -1
        self.router: nn.Module | None = None
        self.previous: Tensor | None = None
        self.alive: Tensor | None = None

    def __call__(self, states: Tensor) -> Selection:
        config = self.config
        self.layer += 1
        final = config.schedule[self.layer]
        # k_l ← round((1 − β) N_g + β k_l)
        guides = round((1 - self.progress) * config.num_guide_tokens + self.progress * final)
        places = config.places(guides)
        if str(self.layer) in self.routers:
            # During warm-up later layers without a router of their own, which keep nobody in the end, borrow this one.
            self.router = self.routers[str(self.layer)]
        everyone = places == config.candidates
        # While everyone still takes part κ is there already: it moves away from 1 steadily, not when the first one leaves,
        # and parameters without gradient stop data parallelism.
        routed = not everyone or (self.router is not None and config.places(final) < config.candidates)
        similarity = self._similarity(states) if (routed and places > 0) or self.detailed else None
        self.previous = states
        if not routed:
            return self._all(states, similarity)
        if places == 0:
            return self._none(states, similarity)
        scores, logits = self._scores(states, similarity)
        chosen, member = self._choose(scores, places)
        if config.router_sticky:
            self.alive = member
        if config.router_loss_weight > 0 and logits is not None and not self.threshold and not everyone:
            target = member.to(logits.dtype)
            self.record.losses.append(functional.binary_cross_entropy_with_logits(logits, target))
        kappa = self._kappa(logits, member)
        self._note(kappa, similarity, member, chosen.shape[1])
        kept = member.gather(1, chosen) if self.threshold else None
        gate = None if logits is None else kappa.gather(1, chosen)
        if kept is not None and gate is not None:
            gate = gate * kept  # slots that only fill the width up take no update
        return self._with_explorers(states, chosen, gate, kept)

    def _similarity(self, states: Tensor) -> Tensor | None:
        """s (B, C); `None` at the first layer, where there is no earlier state."""
        count = self.config.candidates
        if self.config.router_similarity == "other_queries":
            return similarity_to_others(states, count)
        return None if self.previous is None else similarity_to_previous(states[:, :count], self.previous[:, :count])

    def _scores(self, states: Tensor, similarity: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What candidates are ranked by (B, C), and the logits of κ, which a random choice does not have."""
        count = self.config.candidates
        if self.config.router_mode != "random":
            assert self.router is not None and similarity is not None
            logits = self.router(states[:, :count], similarity)
            return logits.detach(), logits
        if self.training:
            return torch.rand(len(states), count, device=states.device), None
        # In eval the same for every sample, so that neither batch mates nor the number of calls matter.
        order = torch.rand(count, generator=torch.Generator().manual_seed(self.layer))
        return order.to(states.device).expand(len(states), -1), None

    def _choose(self, scores: Tensor, places: int) -> tuple[Tensor, Tensor]:
        """Candidates to compute (B, n) in ascending order, and which candidates are kept (B, C) bool."""
        config = self.config
        alive = torch.ones_like(scores, dtype=torch.bool) if self.alive is None else self.alive
        if self.threshold:
            member = alive & (self._kappa(scores, alive) > 0.5)
            places = bucketed_places(member, config)
            order = member.to(scores.dtype).argsort(dim=1, descending=True, stable=True)
            return order[:, :places].sort(1).values, member
        # Stable: of equal scores the first query is kept.
        ranked = scores.masked_fill(~alive, float("-inf")).argsort(dim=1, descending=True, stable=True)
        chosen = ranked[:, :places].sort(1).values
        return chosen, torch.zeros_like(alive).scatter(1, chosen, torch.ones_like(chosen, dtype=torch.bool))

    def _kappa(self, logits: Tensor | None, member: Tensor) -> Tensor:
        """κ ← (1 − β) + β κ, (B, C) float32; membership itself where κ is not computed."""
        if logits is None:
            return member.float()
        return (1 - self.progress) + self.progress * logits.sigmoid()

    def _all(self, states: Tensor, similarity: Tensor | None) -> Selection:
        everyone = torch.ones(len(states), self.config.candidates, dtype=torch.bool, device=states.device)
        self._note(everyone.float(), similarity, everyone, self.config.candidates)
        return Selection()

    def _none(self, states: Tensor, similarity: Tensor | None) -> Selection:
        nobody = torch.zeros(len(states), self.config.candidates, dtype=torch.bool, device=states.device)
        self._note(nobody.float(), similarity, nobody, 0)
        return self._with_explorers(states, nobody[:, :0].long(), None, None)

    def _with_explorers(self, states: Tensor, chosen: Tensor, gate: Tensor | None, kept: Tensor | None) -> Selection:
        """The selection over all queries: explorers always take part, with κ = 1, unless they are routed themselves."""
        gate = None if gate is None else gate.to(states.dtype)
        if self.config.route_explorers:
            return Selection(chosen, gate, kept)
        guides, explorers = self.config.query_counts
        positions = torch.arange(guides, guides + explorers, device=states.device).expand(len(states), -1)
        if gate is not None:
            gate = torch.cat([gate, gate.new_ones(len(states), explorers)], 1)
        if kept is not None:
            kept = torch.cat([kept, kept.new_ones(len(states), explorers)], 1)
        return Selection(torch.cat([chosen, positions], 1), gate, kept)

    def _note(self, kappa: Tensor, similarity: Tensor | None, member: Tensor, width: int) -> None:
        found = self.record
        found.keep_scores.append(kappa)
        found.similarities.append(similarity)
        found.active.append(member)
        found.active_counts.append(width if self.config.route_explorers else width + self.config.num_explorer_tokens)
