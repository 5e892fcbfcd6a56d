"""CLCR's blocks against their equations: projection onto the budget, statistics, aggregation over levels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_mmintent.modeling.budget_projection import TokenBudget, project_to_budget
from hf_mmintent.modeling.decorrelation import segment_means, whitened_correlation
from hf_mmintent.modeling.level_aggregation import InterLevelAggregation, Summaries
from hf_mmintent.modeling.semantic_hierarchy import PictureRows

from .testers import ClcrTester, prefix_mask, run

TESTER = ClcrTester()


# ---- Eq. (3): projection onto the budget -------------------------------------------------------------------------


def bisection(gates: Tensor, budget: float) -> Tensor:
    """The τ at which Σ clip(g − τ, 0, 1) = B, by halving."""
    if gates.clamp(0, 1).sum() <= budget:
        return gates.clamp(0, 1)
    low, high = -1.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (gates - middle).clamp(0, 1).sum() > budget else (low, middle)
    return (gates - high).clamp(0, 1)


def test_projection_worked_by_hand() -> None:
    gates = torch.tensor([[0.9, 0.5, 0.2, 0.7]])
    mask = torch.tensor([[True, True, True, False]])
    # B = 1: of 0.9 and 0.5 the excess over 1 is 0.4, shared by two: τ = 0.2, and 0.2 − τ adds nothing.
    weights = project_to_budget(gates, torch.tensor([1.0]), mask)
    torch.testing.assert_close(weights, torch.tensor([[0.7, 0.3, 0.0, 0.0]]))
    slack = project_to_budget(gates, torch.tensor([1.7]), mask)  # Σg = 1.6
    torch.testing.assert_close(slack, torch.tensor([[0.9, 0.5, 0.2, 0.0]]))
    assert project_to_budget(gates, torch.tensor([0.0]), mask).abs().sum() == 0


@pytest.mark.parametrize("gate", [0.1, 0.3, 0.9999])
def test_no_budget_gives_nothing_to_equal_gates(gate: float) -> None:
    """340 times 0.9999, summed and divided again, is below 0.9999 in float32: the difference is not evidence."""
    for length in (7, 100, 340):
        weights = project_to_budget(
            torch.full((1, length), gate), torch.zeros(1), torch.ones(1, length, dtype=torch.bool)
        )
        assert (weights == 0).all(), length


@pytest.mark.parametrize("seed", range(5))
def test_projection_equals_bisection(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(6, 30, generator=generator, dtype=torch.float64) ** (seed + 1)
    mask, budget = prefix_mask(30, 17, 5, 1, 2, 29), torch.rand(6, generator=generator, dtype=torch.float64) * 4
    weights = project_to_budget(gates, budget, mask)
    for row in range(6):
        length = int(mask[row].sum())
        expected = bisection(gates[row, :length], float(budget[row]))
        torch.testing.assert_close(weights[row, :length], expected, atol=1e-6, rtol=0)
    assert (weights[~mask] == 0).all() and (weights.sum(1) <= budget + 1e-9).all()
    assert (weights >= 0).all() and (weights <= 1).all()


def test_projection_gradients_are_exact() -> None:
    gates = torch.tensor(
        [[0.9, 0.5, 0.2, 0.7, 0.3], [0.3, 0.1, 0.6, 0.0, 0.0]], dtype=torch.float64, requires_grad=True
    )
    budget = torch.tensor([1.1, 3.0], dtype=torch.float64, requires_grad=True)  # binding, slack
    mask = prefix_mask(5, 3)
    assert torch.autograd.gradcheck(lambda g, b: project_to_budget(g, b, mask), (gates, budget))
    project_to_budget(gates, budget, mask).square().sum().backward()
    assert budget.grad[0] != 0 and budget.grad[1] == 0  # a slack budget is dead


def test_a_row_without_tokens_is_finite() -> None:
    gates = torch.rand(2, 4, requires_grad=True)
    mask = torch.tensor([[True] * 4, [False] * 4])
    weights = project_to_budget(gates, torch.tensor([0.5, 0.0]), mask)
    weights.sum().backward()
    assert (weights[1] == 0).all() and torch.isfinite(gates.grad).all()


def test_participation_grows_with_the_budget_scale() -> None:
    model, inputs = TESTER.model(), TESTER.inputs()
    before = -1.0
    for scale in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0):
        model.config.budget_scale = scale
        share = run(model, inputs).participation.sum().item()
        assert share >= before
        before = share
    assert before == pytest.approx(36.0)  # every token of 4 samples, 3 modalities, 3 levels


def test_gates_worked_by_hand() -> None:
    budget = TokenBudget(scale=2.0, threshold=1.0, share=0.25, learnable=True)
    shared = torch.tensor([[[1.0, 1.0], [3.0, 1.0], [0.0, 0.0]]])
    gates = budget.gates(shared, torch.ones(1, 3, dtype=torch.bool))
    strength = [1.0, math.sqrt(5.0), 0.0]  # ‖z‖/√2
    expected = [1 / (1 + math.exp(-2 * (value - 1))) for value in strength]
    torch.testing.assert_close(gates[0], torch.tensor(expected))
    assert budget.fraction(2.0).item() == pytest.approx(0.5)
    steep = TokenBudget(scale=1000.0, threshold=1.0, share=0.25, learnable=True)
    assert torch.nn.functional.softplus(steep.scale).item() == pytest.approx(1000.0)
    assert torch.nn.functional.softplus(budget.scale).item() == pytest.approx(2.0)


# ---- Eq. (6), (7): statistics ------------------------------------------------------------------------------------


def pair(rows: int, x: int, y: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(rows, x, generator=generator, dtype=torch.float64)
    mixing = torch.randn(x, y, generator=generator, dtype=torch.float64)
    return first, 0.5 * first @ mixing + torch.randn(rows, y, generator=generator, dtype=torch.float64)


def test_correlation_of_two_columns_is_pearson_squared() -> None:
    x, y = pair(50, 1, 1)
    expected = np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2
    found = whitened_correlation(x, y, torch.ones(50), eps=1e-9)
    assert found.item() == pytest.approx(expected, abs=1e-5)
    # by hand: X = (−1, 0, 1), Y = (−1, 2, −1)/… are orthogonal, X with itself is 1
    flat = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    bent = torch.tensor([[-1.0], [2.0], [-1.0]], dtype=torch.float64)
    assert whitened_correlation(flat, bent, torch.ones(3)).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("sizes", [(4, 4), (6, 3)])
def test_solvers_agree(sizes: tuple[int, int]) -> None:
    x, y = pair(40, *sizes)
    x, y = x.requires_grad_(), y.requires_grad_()
    found, gradients = [], []
    for solver in ("cholesky", "eigh"):
        value = whitened_correlation(x, y, torch.ones(40), solver=solver)
        found.append(value)
        gradients.append(torch.autograd.grad(value, (x, y)))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_stream_is_correlated_with_itself() -> None:
    x, _ = pair(60, 5, 5)
    for eps in (1e-3, 1e-5):
        # Each direction loses the ridge over its variance, twice: (λ/(λ + ridge))².
        covariance = torch.cov(x.T)
        ridge = eps * covariance.trace() / 5 + 1e-6
        values = torch.linalg.eigvalsh(covariance)
        expected = ((values / (values + ridge)) ** 2).mean()
        torch.testing.assert_close(whitened_correlation(x, x, torch.ones(60), eps), expected, atol=1e-9, rtol=0)


def test_row_weights_equal_dropping_rows() -> None:
    x, y = pair(30, 4, 3)
    weight = (torch.arange(30) % 3 > 0).double()
    x[weight == 0] = 1e6
    expected = whitened_correlation(x[weight > 0], y[weight > 0], torch.ones(20))
    torch.testing.assert_close(whitened_correlation(x, y, weight), expected)
    single = torch.zeros(30)
    single[3] = 1
    assert whitened_correlation(x, y, single) == 0 and whitened_correlation(x, y, single * 0) == 0


def test_independent_streams_score_their_bias() -> None:
    """E‖C‖²/r ≈ r/(n − 1): the figure that is logged beside the loss."""
    values = [
        whitened_correlation(torch.randn(129, 16), torch.randn(129, 16), torch.ones(129)).item() for _ in range(20)
    ]
    assert np.mean(values) == pytest.approx(16 / 128, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_on_rank_deficient_rows(dtype: torch.dtype) -> None:
    x = torch.randn(6, 2) @ torch.randn(2, 16)  # rank 2 of 16
    y = torch.cat([x[:, :8], x[:, :8]], 1)
    x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = whitened_correlation(x, y, torch.ones(6))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()
    constant = torch.ones(6, 4, requires_grad=True)
    whitened_correlation(constant, constant * 2, torch.ones(6)).backward()
    assert torch.isfinite(constant.grad).all()


@pytest.mark.parametrize("size", [16, 256])
def test_the_smallest_ridge_of_the_config_is_enough_for_float32(size: int) -> None:
    """On rows of rank 3; a thousandth of it gives values of 1e9 and more, between 0 and 1 by definition."""
    torch.manual_seed(0)
    x, y = (torch.randn(512, 3) @ torch.randn(3, size) for _ in range(2))
    x.requires_grad_()
    found = whitened_correlation(x, y, torch.ones(512), 1e-6 * size)
    found.backward()
    expected = whitened_correlation(x.detach().double(), y.double(), torch.ones(512), 1e-6 * size)
    assert found.item() == pytest.approx(expected.item(), abs=2e-3) and torch.isfinite(x.grad).all()


def test_segments_equal_a_loop() -> None:
    lengths, segments = (1, 3, 8, 21, 0), 8
    states, mask = torch.randn(5, 21, 4), prefix_mask(*lengths)
    found = segment_means(states, mask, segments)
    for row, length in enumerate(lengths):
        for s in range(segments):
            first, last = math.floor(s * length / segments), math.ceil((s + 1) * length / segments)
            expected = states[row, first:last].mean(0) if length else torch.zeros(4)
            torch.testing.assert_close(found[row, s], expected)


def test_identifiability_loss_term_by_term() -> None:
    """Eq. (7) from the streams themselves, with a sample that lacks audio."""
    model, inputs = TESTER.model(), TESTER.inputs()
    inputs["audio_attention_mask"][2] = 0
    captured: list[Any] = []
    for level in model.model.intra:
        level.register_forward_hook(lambda module, args, out: captured.append(module.token_streams(args[0], out)))
    found = run(model.model, inputs, output_regularizers=True).regularizers["intra"]
    total = torch.tensor(0.0)
    has = {"text": [0, 1, 2, 3], "audio": [0, 1, 3], "video": [0, 1, 2, 3]}
    masks = {"text": "attention_mask", "audio": "audio_attention_mask", "video": "video_attention_mask"}
    for shared, private in captured:
        rows = {
            (kind, name): segment_means(tokens[name], inputs[masks[name]].bool(), 8)
            for kind, tokens in (("private", private), ("shared", shared))
            for name in has
        }
        for a, b in itertools.combinations(has, 2):
            both = [row for row in has[a] if row in has[b]]
            x, y = (rows["private", name][both].flatten(0, 1) for name in (a, b))
            total = total + whitened_correlation(x, y, torch.ones(len(x)))
        for name in has:
            x, y = (rows[kind, name][has[name]].flatten(0, 1) for kind in ("private", "shared"))
            total = total + 0.5 * whitened_correlation(x, y, torch.ones(len(x)))
    torch.testing.assert_close(found, total, atol=1e-4, rtol=1e-4)


# ---- section 2.4: aggregation ------------------------------------------------------------------------------------


def aggregation_case(**overrides: Any) -> tuple[InterLevelAggregation, Summaries]:
    torch.manual_seed(0)
    inter = InterLevelAggregation(TESTER.config(**overrides))
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, True], [True, True, True]])
    shape = (4, 3, 3, 16)
    shared, private = (torch.randn(shape).masked_fill(~present[..., None, None], 0.0) for _ in range(2))
    return inter, Summaries(shared, private, present)


def test_aggregation_equals_a_loop() -> None:
    inter, given = aggregation_case()
    out = inter(given)
    for row in range(4):
        has = [m for m in range(3) if given.present[row, m]]
        anchors = [norm(given.shared[row, has, i].mean(0)) for i, norm in enumerate(inter.anchor_norms)]
        alpha = inter.level_scores(torch.cat(anchors)).softmax(-1)
        torch.testing.assert_close(out.level_weights[row], alpha)
        shared = (alpha[:, None] * given.shared[row]).sum(1)  # (M, d)
        private = (alpha[:, None] * given.private[row]).sum(1)
        context = shared[has].mean(0)
        scores = torch.stack([inter.query(context) @ inter.key(shared[m]) / 4.0 for m in has])  # √16
        beta = scores.softmax(0)
        torch.testing.assert_close(out.modality_weights[row, has], beta)
        torch.testing.assert_close(out.shared[row], (beta[:, None] * shared[has]).sum(0))
        gates = torch.sigmoid(inter.private_gate(private[has]))
        torch.testing.assert_close(out.private[row], (gates * private[has]).sum(0))
    absent = ~given.present
    assert (out.modality_weights[absent] == 0).all() and (out.private_gates[absent] == 0).all()
    for weights in (out.level_weights, out.modality_weights):
        torch.testing.assert_close(weights.sum(1), torch.ones(4))


def test_selection_penalty_worked_by_hand() -> None:
    inter, given = aggregation_case(inter_stat_rank=None)
    out = inter(given)
    out.level_weights = torch.tensor([[0.5, 0.25, 0.25]] * 4)
    out.anchors = torch.eye(16)[:3].expand(4, 3, 16).clone()
    out.anchors[:, 2] = out.anchors[:, 1]  # D_12 = D_13 = 1, D_23 = 0
    assert inter.regularizer(given, out)["inter_sel"].item() == pytest.approx(0.5 * 0.25 * 2)


def test_inter_terms_equal_a_loop() -> None:
    inter, given = aggregation_case(inter_stat_rank=None)
    found = inter.regularizer(given, inter(given))
    pp, sp = torch.tensor(0.0), torch.tensor(0.0)
    for m in range(3):
        rows = given.present[:, m].float()
        for i, j in itertools.product(range(3), range(3)):
            if i < j:
                pp = pp + whitened_correlation(given.private[:, m, i], given.private[:, m, j], rows)
            if i != j:
                sp = sp + whitened_correlation(given.shared[:, m, i], given.private[:, m, j], rows)
    torch.testing.assert_close(found["inter_pp"], pp)
    torch.testing.assert_close(found["inter_sp"], sp)


def test_inter_terms_are_float32_inside_autocast() -> None:
    """Summaries that are the same give statistics that are the same: they are not rounded to bfloat16 on the way."""
    inter, given = aggregation_case(inter_stat_rank=4)
    out = inter(given)
    expected = inter.regularizer(given, out)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = inter.regularizer(given, out)
    for name, term in expected.items():
        assert torch.equal(found[name], term), name


def test_selection_penalty_does_not_move_anchors() -> None:
    for stop in (True, False):
        inter, given = aggregation_case(selection_stop_gradient=stop)
        given.shared.requires_grad_()
        out = inter(given)
        out.level_weights = out.level_weights.detach()
        term = inter.regularizer(given, out)["inter_sel"]
        assert term.requires_grad == (not stop)


def test_pooling_worked_by_hand() -> None:
    """s̄ = LN(U_s · mean z̃), p̄ = LN(U_p · mean π) over valid tokens only."""
    model, inputs = TESTER.model(), TESTER.inputs()
    captured: list[Any] = []
    model.model.intra[1].register_forward_hook(
        lambda module, args, out: captured.append((out.basis, module.token_streams(args[0], out)))
    )
    model.model.inter.register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    run(model, inputs)
    (basis, (shared, private)), summaries = captured
    length = TESTER.lengths["video"][2]
    for tokens, rows, pooled in ((shared, basis[:8], summaries.shared), (private, basis[8:], summaries.private)):
        mean = tokens["video"][2, :length].mean(0) @ rows
        expected = (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(pooled[2, 2, 1], expected, atol=1e-5, rtol=1e-5)


def test_lowest_frequencies_of_pictures() -> None:
    """Equal to the definition written out; all of them together keep the length of a picture."""
    torch.manual_seed(0)
    height, breadth = 4, 5
    rows = PictureRows(2 * height * breadth, (2, height, breadth), cosines=(3, 2))
    assert rows.output_size == 2 * 3 * 2 and not list(rows.parameters())
    states = torch.randn(2, 3, 2 * height * breadth)
    found = rows(states).view(2, 3, 2, 3, 2)
    picture = states.view(2, 3, 2, height, breadth)[1, 2, 1].double()
    for u, v in itertools.product(range(3), range(2)):
        scale = math.sqrt((1 if u == 0 else 2) / height) * math.sqrt((1 if v == 0 else 2) / breadth)
        total = sum(
            picture[i, j] * math.cos(math.pi * (i + 0.5) * u / height) * math.cos(math.pi * (j + 0.5) * v / breadth)
            for i, j in itertools.product(range(height), range(breadth))
        )
        assert found[1, 2, 1, u, v].item() == pytest.approx(scale * float(total), abs=1e-5)
    every = PictureRows(2 * height * breadth, (2, height, breadth), cosines=(height, breadth))
    torch.testing.assert_close(every(states).norm(dim=-1), states.norm(dim=-1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cosines": [5, 2]}, r"\[5, 2\].*height 4.*width 5"),
        ({"cosines": [0, 2]}, r"\[0, 2\]"),
        ({"cosines": [3]}, r"\[3\]: two numbers"),
        ({"cosines": [3, 2], "channels": [8]}, r"channels \[8\] and cosines \[3, 2\]"),
    ],
)
def test_frequencies_that_pictures_do_not_have(settings: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PictureRows(20, (1, 4, 5), **settings)
