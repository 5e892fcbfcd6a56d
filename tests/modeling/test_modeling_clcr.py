"""CLCR against its equations: projection, bases, exchange, statistics, aggregation, ablations."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor

from hf_mmintent.modeling.budget_projection import TokenBudget, project_to_budget
from hf_mmintent.modeling.configuration_clcr import ClcrConfig
from hf_mmintent.modeling.decorrelation import segment_means, whitened_correlation
from hf_mmintent.modeling.level_aggregation import InterLevelAggregation, Summaries
from hf_mmintent.modeling.modality_inputs import ModalityInput
from hf_mmintent.modeling.modeling_clcr import ClcrForSequenceClassification, ClcrModel
from hf_mmintent.modeling.processing_clcr import ClcrProcessor
from hf_mmintent.modeling.semantic_hierarchy import TemporalConvolutionLevels
from hf_mmintent.modeling.shared_exchange import IntraLevelExchange, OrthogonalBasis

from .testers import ClcrTester, tiny_bert

TESTER = ClcrTester()


def run(model: Any, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(**inputs, **kwargs)


def prefix_mask(*lengths: int) -> Tensor:
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


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


# ---- Eq. (1): bases ----------------------------------------------------------------------------------------------


def off_identity(rows: Tensor) -> float:
    return (rows @ rows.T - torch.eye(len(rows))).abs().max().item()


@pytest.mark.parametrize("basis_map", ["cayley", "householder", "matrix_exp"])
@pytest.mark.parametrize("rows", [12, 16])
def test_bases_stay_orthonormal(basis_map: str, rows: int, tmp_path: Path) -> None:
    overrides = {"basis_map": basis_map, "shared_size": 6, "private_size": rows - 6}
    model = TESTER.model(**overrides).train()
    basis = model.model.intra[0].basis
    optimizer = torch.optim.SGD(basis.parameters(), lr=0.02, momentum=0.9)
    target, start = torch.randn(rows, 16), basis().detach()
    for _ in range(100):
        optimizer.zero_grad()
        (basis() - target).square().sum().backward()
        optimizer.step()
    assert off_identity(basis().detach()) < 1e-5 and (basis() - start).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    loaded = ClcrForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.intra[0].basis(), basis())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = basis().detach()
    assert off_identity(inside) < 1e-5
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.equal(half.model.intra[0].basis(), basis())


def test_fresh_and_missing_bases_are_orthonormal(tmp_path: Path) -> None:
    """What a checkpoint lacks is initialised to something valid, also for Householder vectors."""
    from safetensors.torch import load_file, save_file

    for basis_map in ("cayley", "householder", "matrix_exp"):
        model = TESTER.model(basis_map=basis_map)
        model.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
        kept = {n: v for n, v in load_file(path).items() if ".intra." not in n and "stages.0" not in n}
        save_file(kept, path, metadata={"format": "pt"})
        loaded = ClcrForSequenceClassification.from_pretrained(tmp_path)
        for level in loaded.model.intra:
            assert off_identity(level.basis().detach()) < 1e-5, basis_map
            assert level.budget.fraction().item() == pytest.approx(0.1)
        stage = loaded.model.hierarchy.backbones["audio"].stages[0].first
        norms = torch.linalg.vector_norm(stage.weight, dim=(1, 2))
        assert torch.isfinite(norms).all() and (norms > 0.1).all()


def test_shared_streams_stay_in_the_shared_subspace() -> None:
    """U_pᵀ of the lifted S̃ is 0, and the three constraints of Eq. (1) hold jointly."""
    config = TESTER.config()
    torch.manual_seed(0)
    level = IntraLevelExchange(config, 0.9)
    mask = prefix_mask(5, 7)
    streams = level({name: (torch.randn(2, 7, 16), mask) for name in ("text", "audio")})
    to_shared, to_private = streams.basis.split([8, 8])
    lifted = streams.shared["text"] @ to_shared
    assert (lifted @ to_private.T).abs().max() < 1e-5
    assert (to_shared @ to_private.T).abs().max() < 1e-5


# ---- Eq. (4): exchange -------------------------------------------------------------------------------------------


def exchange_case(config: ClcrConfig) -> tuple[IntraLevelExchange, dict[str, tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    level = IntraLevelExchange(config, 0.5).eval()
    tokens = {
        "text": (torch.randn(2, 6, 16), prefix_mask(6, 4)),
        "audio": (torch.randn(2, 9, 16), prefix_mask(9, 3)),
        "video": (torch.randn(2, 5, 16), prefix_mask(2, 5)),
    }
    return level, {name: (x.masked_fill(~mask[..., None], 0.0), mask) for name, (x, mask) in tokens.items()}


def test_exchange_equals_attention_written_out() -> None:
    level, tokens = exchange_case(TESTER.config())
    streams = level(tokens)
    basis = level.basis()
    z = {name: x @ basis[:8].T for name, (x, _) in tokens.items()}
    attention = level.exchange.attention
    for row, name in itertools.product(range(2), tokens):
        length = int(tokens[name][1][row].sum())
        pool = torch.cat([z[n][row][m[row]] for n, (_, m) in tokens.items() if n != name])
        query, key, value = attention.q_proj(z[name][row]), attention.k_proj(pool), attention.v_proj(pool)
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            scores = query[:, part] @ key[:, part].T / 2.0  # √4
            heads.append(scores.softmax(-1) @ value[:, part])
        evidence = attention.o_proj(torch.cat(heads, -1))
        weights, _ = level.budget(z[name], tokens[name][1])
        expected = z[name][row] + weights[row][:, None] * evidence
        torch.testing.assert_close(streams.shared[name][row, :length], expected[:length], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(streams.private[name][row], tokens[name][0][row] @ basis[8:].T)


def test_nothing_crosses_without_a_budget_and_private_never_does() -> None:
    for scale in (0.0, 1.0):
        level, tokens = exchange_case(TESTER.config(budget_scale=scale))
        changed = {**tokens, "audio": (tokens["audio"][0] * 3 + 1, tokens["audio"][1])}
        before, after = level(tokens), level(changed)
        for name in ("text", "video"):
            assert torch.equal(before.private[name], after.private[name])
            assert torch.equal(before.shared[name], after.shared[name]) == (scale == 0.0)


def test_only_receiving_tokens_are_gated() -> None:
    """A token with w = 0 keeps its z; others give to it whatever their own weight is."""
    level, tokens = exchange_case(TESTER.config())
    streams = level(tokens)
    z, _ = level.split(tokens["text"][0], level.basis())
    closed = (streams.weights["text"] == 0) & tokens["text"][1]
    assert closed.any() and torch.equal(streams.shared["text"][closed], z[closed])
    silent = {**tokens, "audio": (tokens["audio"][0] * 0.1, tokens["audio"][1])}  # weak evidence: w_audio ≈ 0
    assert not torch.equal(level(silent).shared["text"], streams.shared["text"])


def test_no_source_token_means_no_exchange() -> None:
    level, tokens = exchange_case(TESTER.config())
    alone = {name: (x, mask & torch.tensor([[name == "text"], [True]])) for name, (x, mask) in tokens.items()}
    for attention in ("eager", "sdpa"):
        level.config._attn_implementation = attention
        streams = level(alone)
        z, _ = level.split(tokens["text"][0], level.basis())
        assert torch.equal(streams.shared["text"][0], z[0]) and not torch.equal(streams.shared["text"][1], z[1])


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
        level.register_forward_hook(lambda module, args, out: captured.append(out))
    found = run(model.model, inputs, output_regularizers=True).regularizers["intra"]
    total = torch.tensor(0.0)
    has = {"text": [0, 1, 2, 3], "audio": [0, 1, 3], "video": [0, 1, 2, 3]}
    for streams in captured:
        rows = {
            (kind, name): segment_means(getattr(streams, kind)[name], streams.mask[name], 8)
            for kind in ("private", "shared")
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
    assert inter.regularizers(given, out)["inter_sel"].item() == pytest.approx(0.5 * 0.25 * 2)


def test_inter_terms_equal_a_loop() -> None:
    inter, given = aggregation_case(inter_stat_rank=None)
    found = inter.regularizers(given, inter(given))
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


def test_selection_penalty_does_not_move_anchors() -> None:
    for stop in (True, False):
        inter, given = aggregation_case(selection_stop_gradient=stop)
        given.shared.requires_grad_()
        out = inter(given)
        out.level_weights = out.level_weights.detach()
        term = inter.regularizers(given, out)["inter_sel"]
        assert term.requires_grad == (not stop)


def test_pooling_worked_by_hand() -> None:
    """s̄ = LN(U_s · mean z̃), p̄ = LN(U_p · mean π) over valid tokens only."""
    model, inputs = TESTER.model(), TESTER.inputs()
    captured: list[Any] = []
    model.model.intra[1].register_forward_hook(lambda module, args, out: captured.append(out))
    model.model.inter.register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    run(model, inputs)
    streams, summaries = captured
    length = TESTER.lengths["video"][2]
    mean = streams.private["video"][2, :length].mean(0) @ streams.basis[8:]
    expected = (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(summaries.private[2, 2, 1], expected, atol=1e-5, rtol=1e-5)


# ---- semantic hierarchy ------------------------------------------------------------------------------------------


def test_convolutions_see_the_stated_number_of_frames() -> None:
    """Receptive fields 5, 13 and 29 frames, centred; padding is cleared after every convolution."""
    network = TemporalConvolutionLevels(TESTER.config(), 3, {}, 3).double().eval()
    for parameter in network.parameters():  # positive weights: no ReLU hides an influence
        parameter.data.abs_()
    states = torch.rand(1, 61, 3, dtype=torch.float64)
    mask = torch.ones(1, 61, dtype=torch.bool)
    changed = states.clone()
    changed[0, 30] += 1
    before, after = (network(ModalityInput(x, mask)) for x in (states, changed))
    for (a, _), (b, _), field in zip(before, after, (5, 13, 29), strict=True):
        moved = ((a - b).abs().sum(-1) > 0)[0].nonzero()[:, 0].tolist()
        assert moved == list(range(30 - field // 2, 30 + field // 2 + 1))


def test_level_order_permutes_and_levels_drop() -> None:
    """Full Mix shows the same backbone outputs at other levels; nothing else changes."""
    model, inputs = TESTER.model(), TESTER.inputs()
    order = {"text": (1, 2, 0), "audio": (2, 0, 1)}
    mixed = ClcrModel(TESTER.config(level_order=order)).eval()
    state = model.model.state_dict()
    moved = dict(state)
    for name, places in order.items():
        for slot, level in enumerate(places):
            for key in ("projection.weight", "norm.weight", "norm.bias"):
                at = f"hierarchy.projections.{name}"
                moved[f"{at}.{slot}.{key}"] = state[f"{at}.{level}.{key}"]
    mixed.load_state_dict(moved)
    plain = run(model.model, inputs, output_hidden_states=True).hidden_states
    shown = run(mixed, inputs, output_hidden_states=True).hidden_states
    for slot, (index, name) in itertools.product(range(3), enumerate(("text", "audio", "video"))):
        level = order.get(name, (0, 1, 2))[slot]
        torch.testing.assert_close(shown[3 * slot + index], plain[3 * level + index])

    deep = TESTER.model(levels=("deep",))
    out = run(deep, inputs)
    assert out.level_weights.shape == (4, 1) and out.participation.shape == (4, 3, 1)
    assert deep.model.inter.level_scores is None and len(deep.model.intra) == 1


def test_mask_levels_zeroes_one_level_of_all_modalities() -> None:
    model, inputs = TESTER.model(), TESTER.inputs()
    plain, masked = (run(model, inputs, mask_levels=m, output_hidden_states=True) for m in ((), ("mid",)))
    for index in range(9):
        zero = index // 3 == 1
        assert torch.equal(masked.hidden_states[index], plain.hidden_states[index] * (not zero))
    assert not torch.equal(masked.logits, plain.logits)
    with pytest.raises(ValueError, match="mask_levels"):
        run(model, inputs, mask_levels=("middle",))


def test_learned_positions_have_a_length_and_say_so() -> None:
    model = TESTER.model(position_embedding="learned", max_positions=10)
    with pytest.raises(ValueError, match=r"11 tokens .* `max_positions` = 10"):
        run(model, TESTER.inputs())
    assert torch.isfinite(run(TESTER.model(position_embedding="learned"), TESTER.inputs()).logits).all()


# ---- other modalities and backbones ------------------------------------------------------------------------------

TINY_RESNET = {"embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}


def other_model(modalities: tuple[str, ...], configs: dict[str, Any], **overrides: Any) -> Any:
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "exchange_heads": 2, "inter_stat_rank": 4, "num_labels": 3, **overrides}
    return ClcrForSequenceClassification(ClcrConfig(modalities=modalities, modality_configs=configs, **fields)).eval()


def test_video_and_flow_build_no_text(tmp_path: Path) -> None:
    model = other_model(
        ("video", "flow"), {"flow": {"backbone": "tcn", "feature_size": 4}, "video": {"feature_size": 8}}
    )
    assert model.model.text_model is None and model.config.text_config is None
    inputs = {"video_features": torch.randn(4, 6, 8), "flow_features": torch.randn(4, 9, 4)}
    out = run(model, inputs)
    assert out.modality_weights.shape == (4, 2) and model.config.modality_weight_names == ("video", "flow")
    for wrong in ("audio_features", "flows_features", "flow", "flow_mask", "output_everything"):
        with pytest.raises(ValueError, match=f"`{wrong}` is not an input"):
            run(model, {**inputs, wrong: torch.randn(4, 6, 8)})
    with pytest.raises(ValueError, match="no text"):
        run(model, {**inputs, "input_ids": torch.ones(4, 3, dtype=torch.long)})
    model.train().activation_checkpointing_enable()
    model(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    model.eval().save_pretrained(tmp_path)
    loaded = ClcrForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(run(loaded, inputs).logits, out.logits)
    with pytest.raises(NotImplementedError, match="no text"):
        model.get_input_embeddings()


def test_from_backbones_takes_widths_by_name() -> None:
    fields = {"hidden_size": 16, "exchange_heads": 2, "inter_stat_rank": 4}
    model = ClcrForSequenceClassification.from_backbones(
        modalities=("video", "flow"), video=7, flow=4, modality_configs={"flow": {"backbone": "tcn"}}, **fields
    )
    assert model.config.feature_sizes == {"video": 7, "flow": 4}
    with pytest.raises(ValueError, match="no field `flow`"):
        ClcrForSequenceClassification.from_backbones(video=7, flow=4, **fields)
    with pytest.raises(ValueError, match=r"width 7 but .* 8"):
        ClcrForSequenceClassification.from_backbones(
            modalities=("video",), video=7, modality_configs={"video": {"feature_size": 8}}, **fields
        )


def test_one_modality_has_nobody_to_exchange_with() -> None:
    model = other_model(("audio",), {"audio": {"feature_size": 6}})
    out = model.train()(audio_features=torch.randn(4, 9, 6), labels=torch.tensor([0, 1, 2, 0]))
    out.loss.backward()
    assert out.participation is None and (out.modality_weights == 1).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_pictures_and_spectrograms_through_resnets(tmp_path: Path) -> None:
    """Every sample alone, at its own length, gives what it gives in a padded batch."""
    resnet = {"backbone": "resnet18", "backbone_config": TINY_RESNET}
    configs = {"audio": {**resnet, "feature_size": 33}, "video": {**resnet, "feature_size": [3, 32, 32]}}
    model = other_model(("audio", "video"), configs)
    model.save_pretrained(tmp_path)
    assert ClcrConfig.from_pretrained(tmp_path).modality_configs == model.config.modality_configs
    audio, video = torch.randn(3, 40, 33), torch.randn(3, 4, 3, 32, 32)
    masks = {"audio_attention_mask": prefix_mask(40, 25, 31), "video_attention_mask": prefix_mask(2, 4, 1)}
    inputs = {"audio_features": audio, "video_features": video, **masks}
    broken = {
        "audio_features": audio.masked_fill(~masks["audio_attention_mask"][..., None], float("nan")),
        "video_features": video.masked_fill(~masks["video_attention_mask"][..., None, None, None], float("nan")),
    }
    together = run(model, {**inputs, **broken}, output_hidden_states=True)
    assert [x.shape[1] for x in together.hidden_states[:2]] == [16, 64]  # one picture of sound, four frames
    torch.testing.assert_close(run(model, inputs).logits, together.logits)
    for row in range(3):
        sizes = {name: int(mask[row].sum()) for name, mask in masks.items()}
        alone = run(
            model,
            {
                "audio_features": audio[row : row + 1, : sizes["audio_attention_mask"]],
                "video_features": video[row : row + 1, : sizes["video_attention_mask"]],
            },
        )
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-5, rtol=1e-5)
    none = {**inputs, "video_attention_mask": torch.zeros(3, 4)}
    only = {"audio_features": audio, "audio_attention_mask": masks["audio_attention_mask"]}
    torch.testing.assert_close(run(model, none).logits, run(model, only).logits)
    with pytest.raises(ValueError, match=r"expected \(batch_size, pictures, 3, 32, 32\)"):
        run(model, {**inputs, "video_features": video[:, :, :1]})
    assert ClcrModel(model.config).hierarchy.backbones["audio"].network.config.layer_type == "basic"


def test_given_levels_are_taken_as_they_are() -> None:
    configs = {"audio": {"backbone": "identity", "feature_size": [2, 3, 4]}, "video": {"feature_size": 8}}
    model = other_model(("audio", "video"), configs)
    levels = tuple(torch.randn(2, 5, width) for width in (2, 3, 4))
    video = torch.randn(2, 6, 8)
    split = run(model, {"audio_features": levels, "video_features": video})
    joint = run(model, {"audio_features": torch.cat(levels, -1), "video_features": video})
    assert torch.equal(split.logits, joint.logits) and model.config.feature_sizes["audio"] == 9
    with pytest.raises(ValueError, match=r"tuple of widths \[3, 2, 4\]"):
        run(model, {"audio_features": (levels[1], levels[0], levels[2]), "video_features": video})


def test_processor_of_pictures_and_without_text(tmp_path: Path) -> None:
    resnet = {"backbone": "resnet18", "backbone_config": TINY_RESNET}
    configs = {"flow": {**resnet, "feature_size": [2, 8, 8]}, "video": {"feature_size": 8}}
    model = other_model(("video", "flow"), configs)
    ClcrProcessor.from_config(model.config).save_pretrained(tmp_path)
    processor = ClcrProcessor.from_pretrained(tmp_path)
    assert processor.tokenizer is None
    flow = [np.ones((2, 2, 8, 8), np.float32), None]
    batch = processor(video_features=[np.ones((3, 8)), np.ones((5, 8))], flow_features=flow, labels=[0, 2])
    assert batch["flow_features"].shape == (2, 2, 2, 8, 8) and batch["flow_attention_mask"].tolist() == [[1, 1], [0, 0]]
    assert torch.isfinite(run(model, dict(batch)).loss)
    with pytest.raises(ValueError, match=r"sample 0 has shape \(2, 8, 8\)"):
        processor(flow_features=[np.ones((2, 8, 8))])


# ---- ablations and training --------------------------------------------------------------------------------------

ABLATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "full": ({}, {"task", "intra", "inter_pp", "inter_sp", "inter_sel"}),
    "w/o IntraCED": ({"use_intra_ced": False}, {"task", "inter_pp", "inter_sp", "inter_sel"}),
    "w/o InterCAD": ({"use_inter_cad": False}, {"task", "intra"}),
    "w/o Hierarchy": ({"levels": ("deep",)}, {"task", "intra"}),
    "w/o intra": ({"intra_loss_weight": 0}, {"task", "inter_pp", "inter_sp", "inter_sel"}),
    "w/o inter": ({"inter_loss_weight": 0}, {"task", "intra"}),
    "w/o both": ({"intra_loss_weight": 0, "inter_loss_weight": 0}, {"task"}),
    "dense": ({"use_budget_projection": False}, {"task", "intra", "inter_pp", "inter_sp", "inter_sel"}),
    "penalty": ({"budget_penalty": 0.1}, {"task", "intra", "inter_pp", "inter_sp", "inter_sel", "budget"}),
    "frozen": ({"budget_learnable": False}, {"task", "intra", "inter_pp", "inter_sp", "inter_sel"}),
    "mean": ({"regularizer_reduction": "mean"}, {"task", "intra", "inter_pp", "inter_sp", "inter_sel"}),
    "eigh": ({"whitening_solver": "eigh"}, {"task", "intra", "inter_pp", "inter_sp", "inter_sel"}),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_switches_remove_exactly_their_term(name: str) -> None:
    overrides, terms = ABLATIONS[name]
    model = TESTER.model(**overrides).train()
    out = model(**TESTER.inputs(training=True))
    assert set(out.loss_terms) == terms
    weights = model.loss_weights()
    assert out.loss.item() == pytest.approx(sum(weights[k] * v.item() for k, v in out.loss_terms.items()), abs=1e-5)
    out.loss.backward()
    still = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    assert still == []


def test_what_the_switches_leave() -> None:
    inputs = TESTER.inputs()
    uniform = run(TESTER.model(use_inter_cad=False), TESTER.masked_out(inputs, "audio"))
    torch.testing.assert_close(uniform.level_weights, torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(uniform.modality_weights, torch.tensor([[0.5, 0.0, 0.5]] * 4))
    assert torch.equal(uniform.private_gates, torch.tensor([[1.0, 0.0, 1.0]] * 4))
    dense = run(TESTER.model(use_budget_projection=False), inputs)
    assert (dense.participation == 1).all() and not dense.budget_tight.any()
    assert run(TESTER.model(use_intra_ced=False), inputs).token_weights == {}


def test_weights_report_what_binds() -> None:
    model, inputs = TESTER.model(), TESTER.inputs()
    out = run(model, inputs)
    mask = inputs["audio_attention_mask"].bool()
    weights = out.token_weights["audio_mid"]
    assert (weights[~mask] == 0).all() and (weights.sum(1) <= 0.1 * mask.sum(1) + 1e-5).all()
    share = (weights > 0).sum(1) / mask.sum(1)
    torch.testing.assert_close(out.participation[:, 1, 1], share)
    assert out.budget_tight.any()
    model.config.budget_scale = 100.0
    assert not run(model, inputs).budget_tight.any()


def test_a_slack_budget_is_reported_and_has_no_gradient() -> None:
    model = TESTER.model(budget_scale=100.0).train()
    out = model(**TESTER.inputs(training=True))
    out.loss.backward()
    for index, level in enumerate(("shallow", "mid", "deep")):
        assert out.diagnostics[f"budget_tight_{level}"] == 0
        assert model.model.intra[index].budget.share.grad == 0
    assert set(model.config.zero_diagnostics) <= set(out.diagnostics)


def test_regression_with_bf16_autocast_keeps_statistics_in_float32() -> None:
    config = {"num_labels": 1, "id2label": {0: "value"}, "label2id": {"value": 0}, "problem_type": "regression"}
    model = TESTER.model(**config).train()
    inputs = {**TESTER.inputs(), "labels": torch.tensor([0.5, -1.0, 2.0, 0.0])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**inputs)
    assert out.loss_terms["intra"].dtype == torch.float32 and out.token_weights["text_mid"].dtype == torch.float32
    exact = TESTER.model(**config).train()
    torch.manual_seed(0)
    assert out.loss_terms["intra"].item() == pytest.approx(exact(**inputs).loss_terms["intra"].item(), rel=0.05)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": 15}, "even"),
        ({"exchange_heads": 3}, "does not divide"),
        ({"shared_size": 12}, "at most `hidden_size` 16"),
        ({"levels": ("deep", "mid")}, "in this order"),
        ({"level_order": {"text": (0, 0, 1)}}, "permutation"),
        ({"budget_init": 1.5}, "between 0 and 1"),
        ({"budget_init": (0.1, 0.2)}, "one for each of"),
        ({"inter_weights": (1.0, -1.0, 1.0)}, "none of them negative"),
        ({"text_level_layers": (1, 2, 3)}, "0 … 2"),
        ({"modality_configs": {"audio": {"size": 3}}}, "keys"),
        ({"modality_configs": {"flow": {"backbone": "tcn"}}}, "lacks"),
        ({"modality_configs": {"audio": {"backbone": "lstm"}}}, "choose one of"),
        ({"modality_configs": {"text": {"backbone": "tcn", "feature_size": 3}}}, "lexical"),
        ({"modality_configs": {"audio": {"backbone": "tcn", "feature_size": [1, 2, 3]}}}, "positive width"),
        ({"inter_stat_rank": 99}, "inter_stat_rank"),
        ({"tcn_dilations": (1, 2)}, "three"),
        ({"modalities": ("audio", "video")}, "no text"),
    ],
)
def test_contradicting_fields_raise(overrides: dict[str, Any], message: str) -> None:
    fields = {"text_config": tiny_bert(), "hidden_size": 16, "exchange_heads": 2, **overrides}
    with pytest.raises((StrictDataclassClassValidationError, TypeError), match=message):
        ClcrConfig(**fields)


def test_an_unmasked_basis_is_one_matrix_for_all_modalities() -> None:
    basis = OrthogonalBasis(16, 12, "cayley")
    assert basis().shape == (12, 16) and basis().dtype == torch.float32
