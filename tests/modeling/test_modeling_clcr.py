"""CLCR against its equations: bases, exchange, hierarchy, other modalities and backbones, ablations."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hf_mmintent.modeling import modeling_clcr
from hf_mmintent.modeling.configuration_clcr import ClcrConfig
from hf_mmintent.modeling.decorrelation import segment_weights
from hf_mmintent.modeling.modality_inputs import ModalityInput
from hf_mmintent.modeling.modeling_clcr import ClcrForSequenceClassification, ClcrModel
from hf_mmintent.modeling.semantic_hierarchy import PictureRows, TemporalConvolutionLevels
from hf_mmintent.modeling.shared_exchange import (
    IntraLevelExchange,
    LevelStreams,
    OrthogonalBasis,
    receivers,
    reset_parametrization,
    shorten,
)

from .testers import ClcrTester, prefix_mask, run, tiny_bert

TESTER = ClcrTester()


# ---- Eq. (1): bases ----------------------------------------------------------------------------------------------


def off_identity(rows: Tensor) -> float:
    return (rows @ rows.T - torch.eye(len(rows))).abs().max().item()


@pytest.mark.parametrize("basis_map", ["cayley", "householder", "matrix_exp"])
@pytest.mark.parametrize("rows", [12, 16])
def test_bases_stay_orthonormal(basis_map: str, rows: int, tmp_path: Path) -> None:
    overrides = {"basis_map": basis_map, "shared_size": 6, "private_size": rows - 6}
    model = TESTER.model(**overrides).train()
    basis = model.model.intra[0].basis
    optimizer = torch.optim.SGD(basis.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-2)
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


@pytest.mark.parametrize("basis_map", ["cayley", "householder", "matrix_exp"])
def test_wide_bases_are_orthonormal(basis_map: str) -> None:
    """At the width of BERT; the exponential alone is off by 2e-5 there."""
    basis = OrthogonalBasis(768, 768, basis_map)
    with torch.no_grad():
        reset_parametrization(basis.basis.parametrizations.weight)
        assert off_identity(basis()) < 5e-6


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
    tokens = {name: (torch.randn(2, 7, 16).masked_fill(~mask[..., None], 0.0), mask) for name in ("text", "audio")}
    streams, shared, _ = of_every_token(level, tokens)
    to_shared, to_private = streams.basis.split([8, 8])
    assert streams.weights["text"].any()
    lifted = torch.cat([shared["text"], streams.shared["text"]], 1) @ to_shared
    assert (lifted @ to_private.T).abs().max() < 1e-5
    assert (to_shared @ to_private.T).abs().max() < 1e-5


def of_every_token(
    level: IntraLevelExchange, tokens: dict[str, tuple[Tensor, Tensor]], segments: int = 3
) -> tuple[LevelStreams, dict[str, Tensor], dict[str, Tensor]]:
    """What a level gives, and z̃ and π of single tokens."""
    pools = {
        name: torch.cat([segment_weights(mask, 1), segment_weights(mask, segments)], 1)
        for name, (_, mask) in tokens.items()
    }
    streams = level(tokens, pools)
    return streams, *level.token_streams(tokens, streams)


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
    streams, shared, private = of_every_token(level, tokens)
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
        torch.testing.assert_close(shared[name][row, :length], expected[:length], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(private[name][row], tokens[name][0][row] @ basis[8:].T)
        # The streams that leave the level are means over all tokens and over thirds of them.
        for kind, every in (("shared", expected), ("private", private[name][row])):
            bounds = [(0, length)] + [(s * length // 3, -(-(s + 1) * length // 3)) for s in range(3)]
            means = torch.stack([every[first:last].mean(0) for first, last in bounds])
            torch.testing.assert_close(getattr(streams, kind)[name][row], means, atol=1e-5, rtol=1e-5)


def test_nothing_crosses_without_a_budget_and_private_never_does() -> None:
    for scale in (0.0, 1.0):
        level, tokens = exchange_case(TESTER.config(budget_scale=scale))
        changed = {**tokens, "audio": (tokens["audio"][0] * 3 + 1, tokens["audio"][1])}
        before, after = of_every_token(level, tokens), of_every_token(level, changed)
        for name in ("text", "video"):
            assert torch.equal(before[0].private[name], after[0].private[name])
            assert torch.equal(before[0].shared[name], after[0].shared[name]) == (scale == 0.0)
            assert torch.equal(before[1][name], after[1][name]) == (scale == 0.0)
            assert torch.equal(before[2][name], after[2][name])


def test_only_receiving_tokens_are_gated() -> None:
    """A token with w = 0 keeps its z; others give to it whatever their own weight is."""
    level, tokens = exchange_case(TESTER.config())
    streams, shared, _ = of_every_token(level, tokens)
    z = tokens["text"][0] @ level.basis()[:8].T
    closed = (streams.weights["text"] == 0) & tokens["text"][1]
    assert closed.any() and torch.equal(shared["text"][closed], z[closed])
    silent = {**tokens, "audio": (tokens["audio"][0] * 0.1, tokens["audio"][1])}  # weak evidence: w_audio ≈ 0
    assert not torch.equal(of_every_token(level, silent)[1]["text"], shared["text"])


def test_no_source_token_means_no_exchange() -> None:
    level, tokens = exchange_case(TESTER.config())
    alone = {name: (x, mask & torch.tensor([[name == "text"], [True]])) for name, (x, mask) in tokens.items()}
    for attention in ("eager", "sdpa"):
        level.config._attn_implementation = attention
        _, shared, _ = of_every_token(level, alone)
        z = tokens["text"][0] @ level.basis()[:8].T
        assert torch.equal(shared["text"][0], z[0]) and not torch.equal(shared["text"][1], z[1])


def test_tokens_that_receive_nothing_are_left_out_without_a_trace() -> None:
    """Values and gradients are those of attention for all tokens; so it is computed for few."""
    level, tokens = exchange_case(TESTER.config())
    with torch.no_grad():
        level.budget.share.fill_(-3.0)
    found = []
    for everyone in (True, False):
        level.zero_grad()
        given = {name: (x.clone().requires_grad_(), mask) for name, (x, mask) in tokens.items()}
        pools = {name: segment_weights(mask, 3) for name, (_, mask) in given.items()}
        streams = level(given, pools, everyone)
        torch.cat([streams.shared[name].sin() for name in given]).sum().backward()
        gradients = [x.grad for x, _ in given.values()] + [p.grad for p in level.parameters()]
        found.append(([*streams.shared.values()], gradients, [r.weights.shape[1] for r in streams.received.values()]))
    for whole, part in zip((*found[0][0], *found[0][1]), (*found[1][0], *found[1][1]), strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)
    assert found[0][2] == [6, 9, 5] and max(map(int.__sub__, found[1][2], found[0][2])) < 0


def test_long_sources_are_shortened_row_by_row() -> None:
    states, mask = torch.randn(4, 9, 3), prefix_mask(9, 4, 5, 9)
    mask[3] = False
    found, there = shorten(states, mask, 4)
    assert there.sum(1).tolist() == [4, 4, 4, 0]
    for row, stretches in enumerate(([(0, 3), (3, 5), (5, 7), (7, 9)], [(0, 1), (1, 2), (2, 3), (3, 4)])):
        torch.testing.assert_close(found[row], torch.stack([states[row, a:b].mean(0) for a, b in stretches]))
    assert (found[3] == 0).all()
    assert shorten(states, mask, 9) == (states, mask)
    trimmed, _ = shorten(states[1:2, :4], mask[1:2, :4], 4)  # a row does not see its padding
    torch.testing.assert_close(trimmed, found[1:2])


def test_shortened_exchange_keeps_values_up_to_the_limit() -> None:
    level, tokens = exchange_case(TESTER.config())
    full, _, _ = of_every_token(level, tokens)
    for limit, same in ((9, True), (3, False)):
        level.config.exchange_max_sources = limit
        streams, _, _ = of_every_token(level, tokens)
        # Text of row 1 hears 3 frames of sound but 5 of video.
        assert torch.allclose(streams.shared["text"][1], full.shared["text"][1], atol=1e-6) == same
        assert torch.equal(streams.weights["text"], full.weights["text"])
    alone, _, _ = of_every_token(level, {name: (x[1:], mask[1:]) for name, (x, mask) in tokens.items()})
    torch.testing.assert_close(alone.shared["audio"][0], streams.shared["audio"][1])


@pytest.mark.parametrize("limit", [4, 9, 20])
def test_an_exported_graph_has_the_same_sources_at_any_length(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traced branch on the length would keep the length that the graph was made with."""
    states, mask = torch.randn(4, 9, 3), prefix_mask(9, 4, 1, 7)
    mask[2] = False
    found, there = shorten(states, mask, limit)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    exported, places = shorten(states, mask, limit)
    assert places.shape == (4, limit) and places.sum(1).tolist() == there.sum(1).tolist()
    for row in range(4):
        torch.testing.assert_close(exported[row][places[row]], found[row][there[row]])


def exchange_flops(length: int, **overrides: Any) -> int:
    """Of one level with every token of two modalities of `length` tokens receiving, forward and backward."""
    config = ClcrConfig(modalities=("audio", "video"), hidden_size=16, exchange_heads=2, **overrides)
    config._attn_implementation = "eager"  # fused kernels hide their products from the counter
    level = IntraLevelExchange(config, 0.5)
    mask = torch.ones(2, length, dtype=torch.bool)
    tokens = {name: (torch.randn(2, length, 16, requires_grad=True), mask) for name in config.modalities}
    with FlopCounterMode(display=False) as counter:
        streams = level(tokens, {name: segment_weights(mask, 3) for name in tokens}, all_receive=True)
        sum(x.sum() for x in streams.shared.values()).backward()
    return counter.get_total_flops()


def test_cost_of_the_exchange_is_linear_in_length() -> None:
    """By default beyond the number of sources; Eq. (4) over all tokens is quadratic."""
    short, middle, long = (exchange_flops(length) for length in (200, 400, 800))
    assert long - middle == 2 * (middle - short)
    assert exchange_flops(64) == exchange_flops(64, exchange_max_sources=None)
    short, middle, long = (exchange_flops(length, exchange_max_sources=None) for length in (200, 400, 800))
    assert long - middle > 3 * (middle - short)


def test_receivers() -> None:
    weights = torch.tensor([[0.0, 0.5, 0.0, 0.2], [0.0, 0.0, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0]])
    rows, found = receivers(weights)
    assert rows.tolist()[:3] == [1, 3, 6] and found.tolist() == weights.flatten()[rows].view(3, 2).tolist()
    assert found[:2].tolist() == [[0.5, pytest.approx(0.2)], [pytest.approx(0.3), 0.0]] and (found[2] == 0).all()
    rows, found = receivers(weights, everyone=True)
    assert rows.tolist() == list(range(12)) and found is weights
    assert receivers(torch.zeros(2, 3))[1].shape == (2, 1)


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


def test_what_stands_ahead_of_convolutions() -> None:
    """`center` removes what a sample holds all the time, from its valid steps; a projection narrows wide inputs."""
    settings = {"center": True, "input_projection": 4, "input_dropout": 0.5}
    network = TemporalConvolutionLevels(TESTER.config(), 6, settings, 2).eval()
    assert network.input_projection.weight.shape == (4, 6) and network.stages[0].first.weight.shape[1] == 4
    mask = prefix_mask(9, 5)
    states = torch.randn(2, 9, 6).masked_fill(~mask[..., None], 0.0)
    offset = torch.randn(2, 1, 6).expand(2, 9, 6).masked_fill(~mask[..., None], 0.0)
    plain, moved = (network(ModalityInput(x, mask)) for x in (states, states + offset))
    for (a, _), (b, _) in zip(plain, moved, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert a.abs().max() > 0 and (a[1, 5:] == 0).all()
    alone = network(ModalityInput(states[1:, :5], mask[1:, :5]))
    torch.testing.assert_close(alone[1][0][0], plain[1][0][1, :5])
    first, second = (network.train()(ModalityInput(states, mask))[0][0] for _ in range(2))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="'centre'"):
        TemporalConvolutionLevels(TESTER.config(), 6, {"centre": True}, 2)


def test_rows_that_are_pictures_go_through_convolutions_one_by_one() -> None:
    settings = {"pictures": {"size": [1, 5, 6], "channels": [2, 3], "shift": 1, "mirror": True}, "input_projection": 4}
    network = TemporalConvolutionLevels(TESTER.config(), 30, settings, 2).eval()
    assert network.pictures.output_size == 3 * 2 * 2 and network.input_projection.weight.shape == (4, 12)
    mask = prefix_mask(7, 4)
    states = torch.randn(2, 7, 30).masked_fill(~mask[..., None], 0.0)
    every = network.pictures(states)
    alone = network.pictures.layers(states[1, 2].view(1, 1, 5, 6)).flatten()
    torch.testing.assert_close(every[1, 2], alone)
    whole, trimmed = (network(ModalityInput(states[1:, :n], mask[1:, :n])) for n in (7, 4))
    for (a, _), (b, _) in zip(whole, trimmed, strict=True):
        torch.testing.assert_close(a[:, :4], b)
        assert (a[:, 4:] == 0).all()
    for pictures, message in (({"size": [1, 5, 5]}, r"\[1, 5, 5\].*30"), ({"channels": [2]}, "needs `size`")):
        with pytest.raises(ValueError, match=message):
            TemporalConvolutionLevels(TESTER.config(), 30, {"pictures": pictures}, 2)


def test_pictures_move_in_training_alone_and_all_of_a_sample_alike() -> None:
    """Every sample comes out as one of its 9 places, mirrored or not, the same for all its steps; not all alike."""
    torch.manual_seed(0)
    rows = PictureRows(20, (1, 4, 5), channels=(), shift=1, mirror=True)
    states = torch.rand(40, 3, 20) + 0.1
    assert torch.equal(rows.eval()(states), states)
    moved = rows.train()(states).view(40, 3, 4, 5)
    found = set()
    for sample, given in zip(moved, states.view(40, 3, 4, 5), strict=True):
        wide = torch.nn.functional.pad(given, (1, 1, 1, 1))
        places = {
            (top, left, turned): wide[:, top : top + 4, left : left + 5].flip(-1 if turned else ())
            for top, left, turned in itertools.product(range(3), range(3), (False, True))
        }
        same = [place for place, picture in places.items() if torch.equal(picture, sample)]
        assert len(same) == 1
        found.update(same)
    assert len(found) > 9


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


def test_figures_that_must_not_be_zero_are_those_the_model_has() -> None:
    """Dense gates have no budget, one modality exchanges nothing; a threshold out of reach is a dead exchange."""
    for overrides, names in (
        ({}, {"participation", "budget_tight"}),
        ({"use_budget_projection": False}, {"participation"}),
        ({"budget_learnable": False}, {"participation"}),  # a frozen budget waits for no gradient
        ({"use_intra_ced": False}, set()),
        ({"modalities": ("text",), "modality_configs": None}, set()),
    ):
        config = TESTER.config(**overrides)
        assert {name.rsplit("_", 1)[0] for name in config.zero_diagnostics} == names
    out = TESTER.model(budget_scale=0.0).train()(**TESTER.inputs(training=True))
    assert all(out.diagnostics[f"participation_{level}"] == 0 for level in ("shallow", "mid", "deep"))


def test_diagnostics_are_the_figures_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level weights and their entropy, participation, how often and at which share budgets bind, private gates."""
    budgets = {"shallow": 0.1, "mid": 0.5, "deep": 0.9}
    model, inputs = TESTER.model(budget_init=tuple(budgets.values())).train(), TESTER.inputs(training=True)
    inputs["audio_attention_mask"][1] = 0
    out = model(**inputs)
    figures, alpha = out.diagnostics, out.level_weights
    present = out.modality_weights > 0
    assert present[:, 1].tolist() == [True, False, True, True] and present.sum() == 11
    assert figures["level_entropy"].item() == pytest.approx(-(alpha * alpha.log()).sum(1).mean().item(), abs=1e-6)
    for index, level in enumerate(("shallow", "mid", "deep")):
        assert figures[f"level_weight_{level}"] == alpha[:, index].mean()
        for name, values in (("participation", out.participation), ("budget_tight", out.budget_tight)):
            expected = values[..., index].float()[present].mean().item()
            assert figures[f"{name}_{level}"].item() == pytest.approx(expected)
        assert figures[f"budget_{level}"].item() == pytest.approx(budgets[level])
    assert figures["budget_tight_shallow"] > figures["budget_tight_deep"]
    for index, name in enumerate(("text", "audio", "video")):
        gates = out.private_gates[:, index][present[:, index]]
        assert figures[f"private_gate_{name}"].item() == pytest.approx(gates.mean().item()) and gates.std() > 0
    assert figures["intra_bias"].item() == pytest.approx(8 / (4 * 8 - 1))
    assert figures["inter_bias"].item() == pytest.approx(4 / 3)
    model.config.gather_across_processes = True  # three processes with as many rows
    monkeypatch.setattr(modeling_clcr, "world_size", lambda: 3)
    wide = model(**inputs).diagnostics
    assert wide["intra_bias"].item() == pytest.approx(8 / (12 * 8 - 1))
    assert wide["inter_bias"].item() == pytest.approx(4 / 11)
    del inputs["video_features"], inputs["video_attention_mask"]
    lacking = model(**inputs).diagnostics
    assert "private_gate_video" not in lacking and "private_gate_audio" in lacking
    assert "private_gate_text" not in TESTER.model(use_inter_cad=False).train()(**inputs).diagnostics
    assert run(model.eval(), inputs).diagnostics is None


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


def test_a_hundred_steps_in_bf16(tmp_path: Path) -> None:
    """Every gradient is finite, the loss falls, bases stay orthonormal and budgets float32, also once saved."""
    model, inputs = TESTER.model().train(), TESTER.inputs(training=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = [level.basis().detach().clone() for level in model.model.intra]
    tasks = []
    for _ in range(100):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(**inputs)
        optimizer.zero_grad()
        out.loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
        tasks.append(out.loss_terms["task"].item())
    assert tasks[-1] < 0.5 * tasks[0]
    model.save_pretrained(tmp_path)
    loaded = ClcrForSequenceClassification.from_pretrained(tmp_path)
    for level, again, before in zip(model.model.intra, loaded.model.intra, start, strict=True):
        assert off_identity(level.basis().detach()) < 1e-5 and off_identity(again.basis().detach()) < 1e-5
        assert (level.basis() - before).abs().max() > 1e-2
        assert level.budget.share.dtype == torch.float32 and torch.equal(again.budget.share, level.budget.share)


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
        ({"whitening_eps": 1e-6}, "16 columns need at least 1.6e-05"),
        ({"exchange_max_sources": 0}, "exchange_max_sources"),
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
