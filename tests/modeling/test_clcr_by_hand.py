"""CLCR's equations on inputs so small that every number is worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_mmintent.modeling.configuration_clcr import ClcrConfig
from hf_mmintent.modeling.decorrelation import IdentifiabilityLoss, segment_weights
from hf_mmintent.modeling.level_aggregation import Aggregated, InterLevelAggregation, InterLevelLoss, Summaries
from hf_mmintent.modeling.shared_exchange import IntraLevelExchange

FLAT, BENT = (-1.0, 0.0, 1.0), (-1.0, 2.0, -1.0)  # rows of mean 0 that are not correlated with each other


def small_config(**fields: Any) -> ClcrConfig:
    """Two modalities of width 2: one shared and one private dimension."""
    config = ClcrConfig(
        **{
            "modalities": ("audio", "video"),
            "hidden_size": 2,
            "exchange_heads": 1,
            "inter_stat_rank": None,
            "whitening_eps": 1e-5,
            **fields,
        }
    )
    config._attn_implementation = "eager"
    return config


def test_exchange() -> None:
    """Eq. (1)–(4) with Q = I, all projections 1 and a dense gate."""
    level = IntraLevelExchange(small_config(use_budget_projection=False), 0.5)
    with torch.no_grad():
        level.basis.basis.parametrizations.weight.original.zero_()  # Cayley map of 0
        for name, parameter in level.exchange.named_parameters():
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    # h = (z, π): sound has one token, video two.
    tokens = {
        "audio": (torch.tensor([[[1.0, 5.0]]]), torch.ones(1, 1, dtype=torch.bool)),
        "video": (torch.tensor([[[0.0, 6.0], [math.log(3.0), 8.0]]]), torch.ones(1, 2, dtype=torch.bool)),
    }
    streams = level(tokens, {name: segment_weights(mask, 1) for name, (_, mask) in tokens.items()})
    # e = |z|/√1 = 1 = θ, so g = σ(0) = 1/2. Scores 1·0 and 1·ln 3 give attention 1/4 and 3/4, evidence 3/4 ln 3.
    assert streams.weights["audio"].item() == pytest.approx(0.5)
    assert streams.shared["audio"].item() == pytest.approx(1.0 + 0.5 * 0.75 * math.log(3.0))
    # Tokens of video hear the only one of sound, z = 1; g of e = 0 is σ(−20), of e = ln 3 it is σ(20 (ln 3 − 1)).
    gates = [1 / (1 + math.exp(20.0)), 1 / (1 + math.exp(-20 * (math.log(3.0) - 1)))]
    assert streams.shared["video"].item() == pytest.approx((gates[0] + math.log(3.0) + gates[1]) / 2)
    assert streams.private["audio"].item() == 5.0 and streams.private["video"].item() == 7.0


def test_budget_of_the_exchange() -> None:
    """Eq. (3): B = κ σ(b) T = 0.5 · 0.5 · 2 = 0.5 is shared by two tokens with e = θ, g = 1/2: w = 1/4."""
    level = IntraLevelExchange(small_config(budget_scale=0.5), 0.5)
    weights, tight = level.budget(torch.ones(1, 2, 1), torch.ones(1, 2, dtype=torch.bool), level.config.budget_scale)
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.25]]))
    assert tight.all()


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 1.5), ("mean", 0.5)])
def test_identifiability(reduction: str, expected: float) -> None:
    """Eq. (7): private streams that are multiples of each other count 1; of two leaks, one is there and counts γ = 1/2."""
    private = torch.stack([column(*FLAT), column(*(2 * x for x in FLAT))])[None, :, :, None]  # (L, M, B, S, r)
    shared = torch.stack([column(*BENT), column(*(-3 * x for x in FLAT))])[None, :, :, None]
    loss = IdentifiabilityLoss(small_config(regularizer_reduction=reduction))
    found = loss(private, shared, torch.ones(3, 2, dtype=torch.bool))
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_aggregation() -> None:
    """Eq. (8)–(11): α from biases alone, W_q = W_k = I, u = (1, 0), b = 0; the second sample has no video."""
    inter = InterLevelAggregation(small_config())
    with torch.no_grad():
        inter.level_scores[2].weight.zero_()
        inter.level_scores[2].bias.copy_(torch.tensor([0.5, 0.25, 0.25]).log())
        inter.query.weight.copy_(torch.eye(2))
        inter.key.weight.copy_(torch.eye(2))
        inter.private_gate.weight.copy_(torch.tensor([[1.0, 0.0]]))
        inter.private_gate.bias.zero_()
    # s̄ of sound: 4, 0, 0 in the first dimension -> Σ α s̄ = 2; of video: 0. p̄ of sound: 2 ln 3 at mid and deep -> ln 3.
    shared, private = torch.zeros(2, 2, 3, 2), torch.zeros(2, 2, 3, 2)
    shared[:, 0, 0, 0] = 4.0
    private[:, 0, 1:, 0] = 2 * math.log(3.0)
    present = torch.tensor([[True, True], [True, False]])
    out = inter(Summaries(shared, private, present))
    torch.testing.assert_close(out.level_weights, torch.tensor([[0.5, 0.25, 0.25]] * 2))
    # c = (2 + 0)/2 = 1; scores 1·2/√2 = √2 and 0.
    beta = math.exp(math.sqrt(2)) / (1 + math.exp(math.sqrt(2)))
    torch.testing.assert_close(out.modality_weights, torch.tensor([[beta, 1 - beta], [1.0, 0.0]]))
    torch.testing.assert_close(out.shared, torch.tensor([[2 * beta, 0.0], [2.0, 0.0]]))
    # r = σ(ln 3) = 3/4 for sound, σ(0) = 1/2 for video, 0 where it is absent.
    torch.testing.assert_close(out.private_gates, torch.tensor([[0.75, 0.5], [0.75, 0.0]]))
    torch.testing.assert_close(out.private, torch.tensor([[0.75 * math.log(3.0), 0.0]] * 2))


def test_inter_level_terms() -> None:
    """Eq. (12) on two columns of which one is constant: a correlation of 1 in one of two dimensions counts 1/2."""
    kinds = {"flat": column(*FLAT), "bent": column(*BENT)}

    def levels(*names: str) -> Tensor:  # (B, M, L, d)
        return torch.stack([torch.cat([kinds[name], torch.zeros(3, 1)], 1) for name in names], 1)[:, None]

    config = small_config(modalities=("audio",))
    private, shared = levels("flat", "flat", "bent"), levels("bent", "flat", "bent")
    given = Summaries(shared, private, torch.ones(3, 1, dtype=torch.bool))
    alpha = torch.tensor([[0.5, 0.3, 0.2]] * 3)
    # D_12 = 1 − cos 90°, D_13 = 1 − cos 180°, D_23 = 1 − cos 90°
    anchors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]).expand(3, 3, 2)
    nothing = torch.zeros(3, 2)
    found = InterLevelLoss(config)(
        given, Aggregated(nothing, nothing, alpha, torch.ones(3, 1), torch.ones(3, 1), anchors)
    )
    assert found["inter_pp"].item() == pytest.approx(0.5, abs=1e-4)  # p̄ of shallow and mid
    assert found["inter_sp"].item() == pytest.approx(1.0, abs=1e-4)  # s̄ shallow and p̄ deep, s̄ mid and p̄ shallow
    assert found["inter_sel"].item() == pytest.approx(0.5 * 0.3 + 0.5 * 0.2 * 2 + 0.3 * 0.2)
