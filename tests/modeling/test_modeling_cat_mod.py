"""Cat-MoD's own: schedule, router, execution of the pruned layers, cost."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hf_mmintent.modeling.cat_mod_router import RoutingPass, SimilarityRouter, bucket_of, similarity_to_others
from hf_mmintent.modeling.configuration_cat_mod import CatModConfig
from hf_mmintent.modeling.modeling_cat_mod import CatModModel
from hf_mmintent.modeling.query_former_layers import QueryFormerLayer, Selection

from .connector_testers import CatModTester, RandomCatModTester, SymmetricCatModTester, ThresholdCatModTester
from .test_connectors import loss_of, run

TESTER = CatModTester()


def on_meta(**fields: Any) -> CatModModel:
    """A model without memory, of which only the formula is asked."""
    with torch.device("meta"):
        return CatModModel(CatModConfig(**fields))


def with_lively_routers(model: CatModModel, seed: int = 0) -> CatModModel:
    """Scores that differ from query to query."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for router in model.routers.values():
            router.weight.copy_(torch.randn(router.weight.shape, generator=generator))
    return model


# ---- configuration -----------------------------------------------------------------------------------------------


def test_default_schedules_compute_a_quarter_of_the_guides() -> None:
    assert CatModConfig().schedule == (16, 8, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0)
    assert CatModConfig(cross_attention_frequency=2).schedule == (16, 4, 4, 0, 0, 0)
    assert CatModConfig(num_hidden_layers=6, num_guide_tokens=24).schedule == (24, 6, 6, 0, 0, 0)
    for fields in ({}, {"cross_attention_frequency": 2}, {"num_guide_tokens": 8}):
        config = CatModConfig(**fields)
        assert 4 * sum(config.schedule) == config.num_guide_tokens * len(config.cross_attention_layers)
    assert CatModConfig(num_guide_tokens=8).buckets == (0, 2, 4, 8)
    assert CatModConfig().buckets == (0, 4, 8, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guide_schedule": None}, "there are 3 layers with cross-attention and 6 guides"),
        ({"guide_schedule": (6, 3)}, "has 2 entries, there are 3"),
        ({"guide_schedule": (6, 2, 3)}, "goes down"),
        ({"guide_schedule": (5, 3, 0)}, "starts with `num_guide_tokens` = 6"),
        ({"guide_schedule": (6, 3, -1)}, "down to 0 at least"),
        ({"guide_schedule": (6, 6, 0)}, "keeps all or nothing"),
        ({"router_warmup_ratio": 1.0}, "`router_warmup_ratio` is 1.0"),
        ({"router_loss_weight": -0.1}, "cannot be negative"),
        ({"threshold_buckets": (0, 7)}, r"\[7\] but `num_guide_tokens` is 6"),
        ({"guide_template_ids": (5,)}, "set it to 'template'"),
        ({"guide_source": "template", "guide_template_ids": (500,)}, "below `vocab_size` = 120"),
        ({"num_explorer_tokens": 0}, "0 learned queries"),
        ({"share_cross_kv": True, "fold_cross_kv": True}, "both True"),
    ],
)
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        TESTER.config(**fields)


def test_schedules_without_a_router_are_fine_where_none_is_needed() -> None:
    assert not TESTER.model(guide_schedule=(6, 6, 6)).routers
    assert not RandomCatModTester().model(guide_schedule=(6, 6, 0)).routers
    assert list(TESTER.model().routers) == ["1"]
    # Two of nine queries leave although the schedule keeps all or nothing of the guides.
    assert list(SymmetricCatModTester().model(guide_schedule=(6, 6, 0)).routers) == ["2"]


# ---- router ------------------------------------------------------------------------------------------------------


def test_score_by_hand() -> None:
    """softplus(ln(e − 1)) = 1, cos = 0.6, LN(60, 80) = (−1, 1): 1·(0.9 − 0.6) + (−0.1 + 0.4) + b."""
    router = SimilarityRouter(2, math.log(math.e - 1), 0.9)
    with torch.no_grad():
        router.scale.fill_(router.initial[0])
        router.threshold.fill_(router.initial[1])
        router.weight.copy_(torch.tensor([0.1, 0.4]))
        router.bias.fill_(-0.6 + math.log(3))
    states = torch.tensor([[[60.0, 80.0]]])
    logit = router(states, torch.tensor([[0.6]]))
    torch.testing.assert_close(logit.sigmoid(), torch.tensor([[0.75]]))  # σ(ln 3)


def test_fresh_router_is_the_specified_function_of_similarity() -> None:
    model, inputs = TESTER.model(), TESTER.inputs()
    out = run(model, inputs, output_router=True, output_hidden_states=True)
    before, after = (out.hidden_states[layer][:, :6] for layer in (0, 1))
    similarity = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    torch.testing.assert_close(out.similarities[:, 1], similarity)
    kappa = torch.sigmoid(math.log1p(math.exp(10.0)) * (0.9 - similarity))
    torch.testing.assert_close(out.keep_scores[:, 1], kappa)
    assert out.similarities[:, 0].isnan().all()  # nothing to compare with yet
    assert (out.keep_scores[:, 0] == 1).all() and (out.keep_scores[:, 2] == 0).all()
    # Those that changed most stay, exactly as many as scheduled.
    for row in range(4):
        kept = set(out.active[row, 1].nonzero().flatten().tolist())
        assert kept == set(similarity[row].argsort()[:3].tolist())


def test_similarity_to_others_leaves_oneself_out() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]]])
    torch.testing.assert_close(similarity_to_others(states, 2), torch.tensor([[0.6, 0.8]]))


def passes(model: CatModModel, states: list[Tensor], **kwargs: Any) -> tuple[list[Selection], RoutingPass]:
    settings = {"progress": 1.0, "training": False, "detailed": True, **kwargs}
    routing = RoutingPass(model.config, model.routers, **settings)
    return [routing(state) for state in states], routing


@pytest.mark.parametrize("sticky", [True, False])
def test_exactly_the_scheduled_number_is_kept(sticky: bool) -> None:
    model = TESTER.model(num_hidden_layers=5, guide_schedule=(6, 4, 3, 3, 0), num_guide_tokens=6, router_sticky=sticky)
    with_lively_routers(model)
    states = [torch.randn(8, 9, 16) for _ in range(5)]
    chosen, routing = passes(model, states)
    assert routing.record.active_counts == [9, 7, 6, 6, 3] == model.active_counts
    active = routing.record.tensors["active"]
    assert active.sum(-1).tolist() == [[6, 4, 3, 3, 0]] * 8
    assert chosen[0].index is None
    for selection, count in zip(chosen[1:], (4, 3, 3, 0), strict=True):
        assert selection.index.shape == (8, count + 3)
        assert (selection.index.diff(dim=1) > 0).all()
        assert torch.equal(selection.index[:, count:], torch.tensor([6, 7, 8]).expand(8, -1))  # explorers always
    stays = bool((active[:, 2] <= active[:, 1]).all() and (active[:, 3] <= active[:, 2]).all())
    assert stays is sticky


def test_ties_go_to_the_first() -> None:
    model = TESTER.model()
    same = torch.randn(2, 1, 16).expand(2, 9, 16)
    chosen, _ = passes(model, [same, same])
    assert chosen[1].index[:, :3].tolist() == [[0, 1, 2]] * 2
    # Scores whose sigmoid is 1 for all of them still differ.
    model = with_lively_routers(model)
    nn.init.constant_(model.routers["1"].bias, 200.0)
    states = torch.randn(2, 9, 16)
    chosen, routing = passes(model, [states, states])
    assert (routing.record.keep_scores[1] == 1).all()
    logits = model.routers["1"](states[:, :6], torch.ones(2, 6))
    assert torch.equal(chosen[1].index[:, :3], logits.topk(3).indices.sort(1).values)


def test_gradient_reaches_the_router_through_kept_guides() -> None:
    model = with_lively_routers(TESTER.model(router_loss_weight=0.0)).train()
    out = model(**TESTER.inputs())
    assert out.loss_terms is None and model.loss_weights == {}
    out.last_hidden_state[:, 6:].square().mul(torch.linspace(0, 1, 16)).sum().backward()  # explorers alone
    for name, parameter in model.routers.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_router_loss_is_the_cross_entropy_with_membership() -> None:
    model = with_lively_routers(TESTER.model())
    out = run(model, TESTER.inputs(), output_router=True)
    total = 0.0
    for kappa, member in zip(out.keep_scores[:, 1].flatten(), out.active[:, 1].flatten(), strict=True):
        total -= math.log(kappa if member else 1 - kappa)
    assert out.loss_terms["router"].item() == pytest.approx(total / 24, rel=1e-4)
    assert model.loss_weights == {"router": 0.01} and out.loss is None
    assert model.train()(**TESTER.inputs()).loss_terms["router"].requires_grad


def test_training_reports_what_the_router_does() -> None:
    model = with_lively_routers(TESTER.model()).train()
    figures = model(**TESTER.inputs()).diagnostics
    assert set(figures) == {"router_kappa_layer1", "router_kept_layer1", "router_similarity_layer1"}
    assert figures["router_kept_layer1"] == 3 and -1 <= figures["router_similarity_layer1"] <= 1
    assert run(model.eval(), TESTER.inputs()).diagnostics is None


def test_random_choice_is_a_control() -> None:
    model = RandomCatModTester().model()
    inputs = TESTER.inputs()
    first, second = (run(model, inputs, output_router=True) for _ in range(2))
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert first.active[:, 1].sum(1).tolist() == [3] * 4 and (first.active[0] == first.active).all()
    model.train()
    drawn = {tuple(run(model, inputs, output_router=True).active[0, 1].tolist()) for _ in range(10)}
    assert len(drawn) > 2


def test_symmetric_control_may_prune_explorers() -> None:
    model = with_lively_routers(SymmetricCatModTester().model(), seed=3)
    out = run(model, TESTER.inputs(), output_router=True)
    assert out.active.shape == (4, 3, 9) and out.active.sum(-1).tolist() == [[9, 7, 5]] * 4
    assert not out.active[:, :, 6:].all()
    assert out.active_counts == [9, 7, 5] == model.active_counts  # as many as with explorers that always stay


# ---- execution ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("prune", [False, True])
def test_layer_with_everyone_chosen_equals_the_plain_layer_bitwise(norm: str, prune: bool) -> None:
    """κ = 1 for all, but through gathering, gating and putting back."""
    model = TESTER.model()
    layer = QueryFormerLayer(model.config, 0, pre_norm=norm == "pre", prune_feed_forward=prune).eval()
    states, features = torch.randn(4, 9, 16), model._features(torch.randn(4, 5, 12), None, 4)
    everyone = Selection(torch.arange(9).expand(4, -1), torch.ones(4, 9), torch.ones(4, 9, dtype=torch.bool))
    plain = layer(states, None, features, None, Selection(), True)
    routed = layer(states, None, features, None, everyone, True)
    assert all(torch.equal(*pair) for pair in zip(plain, routed, strict=True))


@pytest.mark.parametrize("share", [False, True])
def test_full_capacity_equals_the_dense_connector_bitwise(share: bool) -> None:
    """A schedule that keeps everyone, and β = 0 with any schedule; parameters in common."""
    dense = TESTER.model(guide_schedule=(6, 6, 6), share_cross_kv=share, router_loss_weight=0.0)
    pruned = TESTER.model(share_cross_kv=share)
    pruned.load_state_dict(dense.state_dict(), strict=False)
    inputs = TESTER.inputs()
    expected = run(dense, inputs)
    assert not torch.equal(run(pruned, inputs).last_hidden_state, expected.last_hidden_state)
    pruned.set_router_progress(0.0)
    found = run(pruned, inputs)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert found.active_counts == expected.active_counts == [9, 9, 9]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_folded_projections_are_the_same_function(training: bool, attention: str) -> None:
    """States, attention maps, and gradients of every parameter; with dropout, which takes the sum of the weights from 1."""
    fields: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    plain, folded = TESTER.model(**fields), TESTER.model(fold_cross_kv=True, **fields)
    folded.load_state_dict(plain.state_dict())
    inputs = TESTER.inputs()
    inputs["encoder_attention_mask"][2] = 0
    found = []
    for model in (plain, folded):
        model.train(training).set_attn_implementation(attention)
        for layer in model.encoder.layer:
            layer.attention.attention.dropout = 0.0  # leaves the draws to the cross-attention
        torch.manual_seed(3)
        out = model(**inputs, output_attentions=True)
        (out.last_hidden_state * torch.linspace(-1, 1, 16)).sum().backward()
        found.append((out, {name: p.grad for name, p in model.named_parameters()}))
    (expected, gradients), (out, others) = found
    torch.testing.assert_close(out.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    for maps, wanted in zip(out.cross_attentions, expected.cross_attentions, strict=True):
        torch.testing.assert_close(maps, wanted, atol=1e-5, rtol=1e-4)
    for name, wanted in gradients.items():
        if name.endswith("crossattention.attention.key.bias"):
            assert others[name].abs().max() < 1e-3 and wanted.abs().max() < 1e-3  # it has no effect in either
        else:
            torch.testing.assert_close(others[name], wanted, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("scope", ["ca", "ca+ffn"])
def test_pruned_guides_pass_by_yet_are_heard(scope: str, norm: str) -> None:
    model = with_lively_routers(TESTER.model(prune_scope=scope, norm_style=norm))
    inputs = TESTER.inputs()
    layer = model.encoder.layer[1]
    seen: dict[str, Tensor] = {}
    layer.attention.register_forward_hook(lambda module, args, out: seen.update(attended=out[0]))
    layer.intermediate_query.register_forward_pre_hook(lambda module, args: seen.update(fed=args[0]))
    layer.register_forward_hook(lambda module, args, out: seen.update(out=out[0]))
    active = run(model, inputs, output_router=True).active[:, 1]
    pruned, kept = ~active, torch.cat([active, torch.ones(4, 3, dtype=torch.bool)], 1)
    ours = seen["out"][:, :6][pruned]
    if scope == "ca+ffn":
        assert torch.equal(ours, seen["attended"][:, :6][pruned])
    else:
        assert torch.equal(ours, layer.feed_forward(seen["attended"])[:, :6][pruned])
    moved = (seen["out"] - layer.feed_forward(seen["attended"])).abs().amax(-1)
    assert (moved[kept] > 1e-4).all()
    # Heard: the state of a pruned guide reaches the explorers through self-attention.
    assert layer.crossattention is not None
    states = torch.randn(4, 9, 16)
    chosen = Selection(torch.arange(6, 9).expand(4, -1))
    features = model._features(inputs["encoder_hidden_states"], None, 4)
    with torch.no_grad():
        first = layer(states, None, features, None, chosen, False)[0]
        states[:, 0] = torch.randn(4, 16)
        second = layer(states, None, features, None, chosen, False)[0]
    assert (first[:, 6:] - second[:, 6:]).abs().max() > 1e-3


def test_gate_mixes_old_and_new_state() -> None:
    model = TESTER.model()
    block = model.encoder.layer[0].crossattention
    states, features = torch.randn(4, 9, 16), model._features(torch.randn(4, 5, 12), None, 4)
    gate = torch.rand(4, 9)
    with torch.no_grad():
        new, _ = block(states, features.keys, features.states)
        mixed, _ = block(states, features.keys, features.states, gate=gate)
    torch.testing.assert_close(mixed, (1 - gate[..., None]) * states + gate[..., None] * new)
    pre = TESTER.model(norm_style="pre").encoder.layer[0].crossattention
    with torch.no_grad():
        new, _ = pre(states, features.keys, features.states)
        mixed, _ = pre(states, features.keys, features.states, gate=gate)
    torch.testing.assert_close(mixed, states + gate[..., None] * (new - states))


# ---- threshold ---------------------------------------------------------------------------------------------------


def test_buckets_round_up() -> None:
    assert [bucket_of(count, (0, 4, 8, 16)) for count in (-2, 0, 1, 4, 5, 16)] == [0, 0, 4, 4, 8, 16]


def widths(model: CatModModel, inputs: dict[str, Tensor]) -> list[int]:
    return run(model, inputs).active_counts


@pytest.mark.parametrize("scope", ["ca", "ca+ffn"])
def test_threshold_equals_topk_when_the_same_guides_pass(scope: str) -> None:
    threshold = with_lively_routers(ThresholdCatModTester().model(prune_scope=scope, threshold_buckets=()))
    topk = TESTER.model(prune_scope=scope)
    topk.load_state_dict(threshold.state_dict())
    inputs = TESTER.inputs()
    with torch.no_grad():  # the bias that lets exactly three pass, sample by sample
        for row in range(4):
            single = {name: value[row : row + 1] for name, value in inputs.items()}
            threshold.routers["1"].bias.zero_()
            kappa = run(threshold, single, output_router=True).keep_scores[0, 1]
            third, fourth = kappa.logit().sort(descending=True).values[2:4]
            for model in (threshold, topk):
                model.routers["1"].bias.fill_(-(third + fourth) / 2)
            # The only bucket beside none is all six: three slots too many are computed and take nothing.
            assert widths(threshold, single) == [9, 9, 3] and widths(topk, single) == [9, 6, 3]
            torch.testing.assert_close(
                run(threshold, single).last_hidden_state, run(topk, single).last_hidden_state, atol=1e-5, rtol=1e-5
            )


def test_threshold_counts_its_bucketed_width() -> None:
    model = with_lively_routers(ThresholdCatModTester().model(threshold_buckets=(0, 2, 4)))
    inputs = TESTER.inputs()
    found = set()
    for bias in (-30.0, -6.0, -3.0, 0.0, 3.0, 30.0):
        nn.init.constant_(model.routers["1"].bias, bias)
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            out = run(model, inputs, output_router=True)
        most = int(out.active[:, 1].sum(1).max())
        assert out.active_counts[1] == 3 + bucket_of(most, (0, 2, 4, 6))
        assert (out.active[:, 1] == (out.keep_scores[:, 1] > 0.5)).all()
        assert model.flops(9, batch_size=4, active_counts=out.active_counts) == counter.get_total_flops()
        found.add(out.active_counts[1])
    assert {3, 9} <= found and len(found) >= 3
    assert model.train()(**inputs).active_counts == [9, 6, 3]  # training is top-k


def test_symmetric_threshold_fills_up_to_the_explorers() -> None:
    model = SymmetricCatModTester().model(router_mode="threshold", router_threshold_init=-50.0)
    out = run(model, TESTER.inputs(), output_router=True)
    assert not out.active[:, 1:].any() and out.active_counts == [9, 3, 3]


# ---- warm-up -----------------------------------------------------------------------------------------------------


def test_warm_up_goes_from_dense_to_scheduled() -> None:
    model = with_lively_routers(TESTER.model())
    inputs = TESTER.inputs()
    counts = []
    for progress in (0.0, 0.3, 0.5, 0.9, 1.0):
        model.set_router_progress(progress)
        out = run(model, inputs, output_router=True)
        counts.append(out.active_counts)
        expected = [9, *(3 + round((1 - progress) * 6 + progress * k) for k in (3, 0))]
        assert out.active_counts == expected
        if 0 < progress < 1:
            assert out.keep_scores[:, 1].min() >= 1 - progress - 1e-6
            assert (out.active[:, 2] <= out.active[:, 1]).all()
    assert counts == sorted(counts, reverse=True)
    with pytest.raises(ValueError, match=r"`progress` is 1.5"):
        model.set_router_progress(1.5)


def test_gate_of_the_warm_up_is_steady() -> None:
    """κ = (1 − β) + βσ also before the first guide leaves: from 1 at β = 0, where the router's gradient is 0 but there."""
    model = with_lively_routers(TESTER.model())
    inputs = TESTER.inputs()
    model.set_router_progress(1.0)
    final = run(model, inputs, output_router=True).keep_scores[:, 1]
    for progress in (0.0, 0.05, 0.1):
        model.set_router_progress(progress)
        out = run(model, inputs, output_router=True)
        assert out.active_counts == [9, 9, 9 if progress < 0.1 else 8] and (out.loss_terms is None) == (progress < 0.1)
        torch.testing.assert_close(out.keep_scores[:, 1], 1 - progress + progress * final)
    model.train().set_router_progress(0.0)
    model(**inputs).last_hidden_state.square().sum().backward()
    assert all(not p.grad.any() for p in model.routers.parameters())


def test_progress_is_stored(tmp_path: Path) -> None:
    model = with_lively_routers(TESTER.model())
    inputs = TESTER.inputs()
    assert model.router_progress == 1.0
    run(model, inputs)
    model.set_router_progress(0.3)
    expected = run(model, inputs).last_hidden_state
    model.save_pretrained(tmp_path)
    loaded = CatModModel.from_pretrained(tmp_path).eval()
    assert loaded.host_progress() == pytest.approx(0.3)
    assert torch.equal(run(loaded, inputs).last_hidden_state, expected)
    other = with_lively_routers(TESTER.model(seed=4))
    run(other, inputs)  # has read its own
    nn.ModuleList([other]).load_state_dict({f"0.{name}": value for name, value in model.state_dict().items()})
    assert torch.equal(run(other, inputs).last_hidden_state, expected)


# ---- guides ------------------------------------------------------------------------------------------------------


def test_guides_and_explorers_are_sums_of_embeddings() -> None:
    model, inputs = TESTER.model(), TESTER.inputs()
    with torch.no_grad():
        states = model.query_states(inputs["input_ids"], inputs["attention_mask"], 4)
        tables = model.embeddings
        word = tables.word_embeddings.weight[inputs["input_ids"][0, 1]]
        expected = word + tables.position_embeddings.weight[1] + model.query_types.weight[0]
        filler = model.fillers.weight[5] + tables.position_embeddings.weight[5] + model.query_types.weight[0]
        explorer = model.queries.weight[2] + model.query_types.weight[1]
    torch.testing.assert_close(states[0, 1], expected)
    torch.testing.assert_close(states[0, 5], filler)
    torch.testing.assert_close(states[0, 8], explorer)


def test_template_takes_the_place_of_captions() -> None:
    ids = (2, 9, 3)
    model, plain = TESTER.model(guide_source="template", guide_template_ids=ids), TESTER.model()
    inputs = TESTER.inputs()
    features = {name: value for name, value in inputs.items() if name.startswith("encoder")}
    expected = run(plain, {**features, "input_ids": torch.tensor(ids).expand(4, -1)}).last_hidden_state
    assert torch.equal(run(model, inputs).last_hidden_state, expected)
    learned = TESTER.model(guide_source="template")
    assert torch.equal(run(learned, inputs).last_hidden_state, run(plain, features).last_hidden_state)


def test_guides_of_another_vocabulary() -> None:
    model = TESTER.model(guide_embedding_size=5)
    assert model.get_input_embeddings().weight.shape == (120, 5)
    inputs = {name: value[:1] for name, value in TESTER.inputs().items()}
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        run(model, inputs)
    # The caption of this sample has four tokens, the projection is computed for all six slots.
    assert model.flops(9) == counter.get_total_flops()


# ---- cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "scope", "frequency"), list(itertools.product([False, True], ["ca", "ca+ffn"], [1, 2]))
)
def test_formula_equals_the_counted_operations(share: bool, scope: str, frequency: int) -> None:
    schedule = (8, 8, 5, 0) if frequency == 1 else (8, 3)
    fields = {"share_cross_kv": share, "prune_scope": scope, "cross_attention_frequency": frequency}
    model = TESTER.model(num_hidden_layers=4, num_guide_tokens=8, guide_schedule=schedule, **fields)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        run(model, TESTER.inputs())
    assert model.flops(9, batch_size=4) == counter.get_total_flops()
    for dense in model.dense_configs().values():
        other = CatModModel(dense).eval()
        other.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            run(other, TESTER.inputs())
        assert other.flops(9, batch_size=4) == counter.get_total_flops()


def savings(steps: int, **fields: Any) -> list[float]:
    """Percent saved per scope against the dense module with the same sharing."""
    model = on_meta(**fields)
    with torch.device("meta"):
        dense = CatModModel(next(iter(model.dense_configs().values())))
    return [100 * (1 - model.flops(steps, scope) / dense.flops(steps, scope)) for scope in ("query", "cross", "full")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (37.5, 4.2, 2.8)),
        ({"prune_scope": "ca+ffn"}, (37.5, 4.2, 11.1)),
        ({"share_cross_kv": True}, (37.5, 22.5, 6.1)),
        ({"share_cross_kv": True, "prune_scope": "ca+ffn"}, (37.5, 22.5, 24.2)),
        ({"cross_attention_frequency": 2, "encoder_hidden_size": 1408}, (37.5, 3.1, 1.8)),
        (
            {
                "cross_attention_frequency": 2,
                "encoder_hidden_size": 1408,
                "share_cross_kv": True,
                "prune_scope": "ca+ffn",
            },
            (37.5, 13.2, 12.6),
        ),
    ],
)
def test_savings_by_scope(fields: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert tuple(round(value, 1) for value in savings(257, **fields)) == expected


def test_query_side_saves_exactly_three_eighths() -> None:
    for fields in ({}, {"share_cross_kv": True}, {"cross_attention_frequency": 2}):
        model = on_meta(**fields)
        dense = on_meta(**fields, guide_schedule=model.config.dense_schedule)
        for steps in (1, 257, 1500):
            assert 8 * model.flops(steps, "query") == 5 * dense.flops(steps, "query")


def test_sharing_brings_the_whole_module_below_63_percent() -> None:
    """Against the dense module without sharing; 16.4 and 7.5 GFLOPs are the dense modules."""
    per_layer = on_meta(guide_schedule=(16,) * 12).flops(257)
    shared = on_meta(guide_schedule=(16,) * 12, share_cross_kv=True).flops(257)
    assert (round(per_layer / 1e9, 1), round(shared / 1e9, 1)) == (16.4, 7.5)
    for scope in ("ca", "ca+ffn"):
        assert on_meta(share_cross_kv=True, prune_scope=scope).flops(257) <= 0.63 * per_layer


def test_folding_saves_three_eighths_of_all_cross_attention() -> None:
    """Without a projection of the features the whole cross-attention is in proportion to the queries that take part."""
    model, dense = on_meta(fold_cross_kv=True), on_meta(fold_cross_kv=True, guide_schedule=(16,) * 12)
    for scope in ("query", "cross"):
        assert 8 * model.flops(257, scope) == 5 * dense.flops(257, scope)
    assert round(100 * (1 - model.flops(257) / on_meta(guide_schedule=(16,) * 12).flops(257)), 1) == 40.0
    at = {count: on_meta(fold_cross_kv=True).flops(257, "cross", active_counts=[count] * 12) for count in (53, 54)}
    projected = {count: on_meta().flops(257, "cross", active_counts=[count] * 12) for count in (53, 54)}
    assert at[53] < projected[53] and at[54] > projected[54]  # where it starts to pay


def test_cost_grows_with_every_entry_of_the_schedule() -> None:
    model = on_meta()
    counts = model.active_counts
    for position in range(len(counts)):
        more = [count + (index == position) for index, count in enumerate(counts)]
        for scope in ("query", "cross", "full"):
            assert model.flops(257, scope, active_counts=more) > model.flops(257, scope)


# ---- compilation -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tester", [TESTER, ThresholdCatModTester()], ids=["topk", "threshold"])
def test_no_recompilation_once_every_bucket_was_seen(tester: CatModTester) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = with_lively_routers(tester.model(threshold_buckets=(0, 3)))
    compiled = torch.compile(model, backend=counter, dynamic=False)
    names = ("input_ids", "encoder_hidden_states")
    bias = model.routers["1"].bias

    def widths_of(bias_value: float, seed: int) -> int:
        nn.init.constant_(bias, bias_value)
        inputs = {name: value for name, value in tester.inputs(seed).items() if name in names}
        with torch.no_grad():
            found = compiled(**inputs)
        expected = run(model, inputs)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
        assert found.active_counts == expected.active_counts
        return found.active_counts[1]

    before = {widths_of(value, 0) for value in (-30.0, -5.0, -3.0, -2.0, 0.0, 30.0)}
    graphs = counter.frame_count
    after = {widths_of(value, seed) for value in (-30.0, -4.0, -3.5, -2.5, 0.5, 30.0) for seed in (1, 2)}
    assert after <= before and len(before) == (1 if tester is TESTER else len(model.config.buckets))
    assert graphs >= 1 and counter.frame_count == graphs
    torch._dynamo.reset()


def test_loss_of_the_owner_trains_the_router() -> None:
    model = TESTER.model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_of(model, TESTER.inputs())
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]
