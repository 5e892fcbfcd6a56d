"""PLUM-Net against its equations: losses of both stages, labels, ablations, missing modalities, saving."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoProcessor

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.configuration_plum_net import PlumNetConfig
from hf_mmintent.modeling.losses import soft_target_loss
from hf_mmintent.modeling.modeling_plum_net import PlumNetForSequenceClassification
from hf_mmintent.modeling.plum_net_branches import LabelAttention
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor
from hf_mmintent.modeling.recorder import Recorder

from .testers import PlumNetTester, tiny_bert

TESTER = PlumNetTester()
REGRESSION: dict[str, Any] = {
    "num_labels": 1, "problem_type": "regression", "id2label": {0: "value"}, "label2id": {"value": 0},
}  # fmt: skip
VALUES = torch.tensor([-1.5, 0.0, 2.0, 0.5])
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(("text", "audio", "video"), n)]
TABLE_3 = [
    {"use_msa": False, "use_psl_tfb": False, "use_prm": False},
    {"use_msa": True, "use_psl_tfb": False, "use_prm": False},
    {"use_msa": True, "use_psl_tfb": True, "use_prm": False},
    {"use_msa": True, "use_psl_tfb": True, "use_prm": True},
    {"use_msa": False, "use_psl_tfb": True, "use_prm": True},  # Figures 5c and 6
]


def batch(regression: bool = False) -> dict[str, Tensor]:
    found = TESTER.inputs(training=True)
    return {**found, "labels": VALUES} if regression else found


def make(**overrides: Any) -> PlumNetForSequenceClassification:
    """A model past its warm-up, with prototypes of the batch."""
    regression = overrides.get("problem_type") == "regression"
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(**overrides)).eval()
    absent = {"text", "audio", "video"} - set(model.config.modalities)
    inputs = TESTER.without(batch(regression), *absent)
    for _ in range(model.config.psl_warmup_epochs + 1):
        model.base_model.labeller.epochs_started += 1
    model.update_prototypes([inputs])
    return model


def run(model: Any, inputs: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**inputs)


# ---- losses of the stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["alignment", "refinement", "joint"])
@pytest.mark.parametrize("settings", [{}, REGRESSION, {"psl_target": "soft", "msa_form": "printed"}])
def test_each_stage_weighs_its_own_terms(stage: str, settings: dict[str, Any]) -> None:
    model = make(stage1_weight_in_stage2=0.3, msa_loss_weight=0.7, **settings).train()
    model.set_stage(stage)
    out = model(**batch("problem_type" in settings))
    terms = {name: term.item() for name, term in out.loss_terms.items()}
    first = terms["common"] + terms["private"] + 0.7 * (terms["msa_inter"] + terms["msa_intra"])  # Eq. (10)
    expected = first if stage == "alignment" else terms["task"] + 0.3 * first  # Eq. (13)
    assert out.loss.item() == pytest.approx(expected, abs=1e-5)
    assert ("task" in terms) == (stage != "alignment") and len(terms) == 4 + ("task" in terms)


def test_terms_with_weight_zero_are_not_computed() -> None:
    assert set(run(make(stage1_weight_in_stage2=0.0), batch()).loss_terms) == {"task"}
    assert set(run(make(msa_loss_weight=0.0), batch()).loss_terms) == {"task", "common", "private"}


def test_eq_12_by_hand() -> None:
    """Predictions 0 everywhere: the mean of |-1.5|, 0, 2 and 0.5."""
    model = make(**REGRESSION)
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    assert run(model, batch(True)).loss_terms["task"].item() == pytest.approx(1.0)


def test_eq_6_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4 of three classes: -log 1/2 and -log 1/4; an unknown row and class weights."""
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    target = nn.functional.one_hot(torch.tensor([0, 1, 2])).float()
    known = torch.tensor([True, True, False])
    log2 = float(np.log(2))
    assert soft_target_loss(logits, target, known, None).item() == pytest.approx((log2 + 2 * log2) / 2)
    weight = torch.tensor([3.0, 1.0, 1.0])
    assert soft_target_loss(logits, target, known, weight).item() == pytest.approx((3 * log2 + 2 * log2) / 4)
    assert soft_target_loss(logits, target, ~known & False, None).item() == 0.0


def test_branch_terms_equal_a_loop() -> None:
    """Eq. (6)-(8): sums over modalities of means over the samples that have them; ignored labels do not count."""
    model, inputs = make(), batch()
    inputs["labels"][3] = -100
    inputs["audio_attention_mask"][0] = 0
    out = run(model, inputs)
    own = out.hard_labels.clone()
    assert not torch.equal(own[own >= 0], inputs["labels"][:, None].expand(-1, 3)[own >= 0])  # PSL does something
    found = {"common": 0.0, "private": 0.0}
    for m in range(3):
        rows = [i for i in range(3) if not (m == 1 and i == 0)]
        for kind, targets in (("common", inputs["labels"]), ("private", own[:, m])):
            logs = getattr(out, f"{kind}_logits")[:, m].log_softmax(-1)
            found[kind] -= sum(logs[i, targets[i]].item() for i in rows) / len(rows)
    assert out.loss_terms["common"].item() == pytest.approx(found["common"], abs=1e-5)
    assert out.loss_terms["private"].item() == pytest.approx(found["private"], abs=1e-5)
    assert out.hard_labels[0, 1] == -1 and out.soft_labels[0, 1].eq(0).all()


def test_private_branches_learn_true_labels_during_the_warm_up() -> None:
    model, inputs = make(), batch()
    model.model.labeller.epochs_started.fill_(1)
    out = run(model, inputs)
    expected = sum(nn.functional.cross_entropy(out.private_logits[:, m], inputs["labels"]).item() for m in range(3))
    assert out.loss_terms["private"].item() == pytest.approx(expected, abs=1e-5)


def test_one_sample_has_no_contrast() -> None:
    out = run(make(), {name: value[:1] for name, value in batch().items()})
    assert out.loss_terms["msa_intra"] == 0 and torch.isfinite(out.loss)


def test_class_weights_enter_every_cross_entropy() -> None:
    plain, balanced = make(), make(class_balanced_ce=True)
    balanced.load_state_dict(plain.state_dict())
    first, second = run(plain, batch()).loss_terms, run(balanced, batch()).loss_terms
    assert all(first[name] != second[name] for name in ("task", "common", "private"))
    weight = torch.tensor([4 / 3, 4 / 6, 4 / 3])  # one, two and one sample
    expected = nn.functional.cross_entropy(run(plain, batch()).logits, batch()["labels"], weight=weight)
    assert second["task"].item() == pytest.approx(expected.item(), abs=1e-5)


# ---- labels of the modalities ------------------------------------------------------------------------------------


def batches() -> list[dict[str, Tensor]]:
    found = [TESTER.random_batch(seed) for seed in range(3)]
    for index, inputs in enumerate(found):
        inputs["labels"] = torch.tensor([0, 1, 1, 0]) if index else torch.tensor([0, 1, -100, 1])
    found[1]["video_attention_mask"][2] = 0
    return found


def test_prototypes_are_class_means_by_a_loop() -> None:
    model = make()
    untouched = model.model.labeller.prototypes[:, 2].clone()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train()
    model.update_prototypes(batches())
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    model.eval()
    members: dict[tuple[int, int], list[Tensor]] = {}
    for inputs in batches():
        out = run(model, {name: value for name, value in inputs.items() if name != "labels"})
        for i, label in enumerate(inputs["labels"].tolist()):
            for m in range(3):
                if label >= 0 and out.presence[i, m]:
                    members.setdefault((m, label), []).append(out.raw_embeddings[i, m])
    assert len(members) == 6
    labeller = model.model.labeller
    for (m, label), rows in members.items():
        torch.testing.assert_close(labeller.prototypes[m, label], torch.stack(rows).mean(0), atol=1e-5, rtol=1e-5)
        assert labeller.prototype_counts[m, label] == len(rows)
    assert torch.equal(labeller.prototypes[:, 2], untouched)  # no sample of class 2


def test_labels_in_eval_mode_come_from_stored_prototypes_alone() -> None:
    for schedule in ("epoch", "batch", "bank"):
        model = make()
        model.config.prototype_schedule = schedule
        model.set_stage("joint")
        stored = model.model.labeller.prototypes.clone()
        inputs = batch()
        with_labels = run(model, inputs)
        labels = inputs.pop("labels")
        without = run(model, inputs)
        other = run(model, {**inputs, "labels": (labels + 1) % 3})
        for out in (without, other):
            assert torch.equal(out.soft_labels, with_labels.soft_labels)
            assert torch.equal(out.hard_labels, with_labels.hard_labels)
            assert torch.equal(out.logits, with_labels.logits)
        assert torch.equal(model.model.labeller.prototypes, stored)
        torch.testing.assert_close(with_labels.soft_labels.sum(-1), torch.ones(4, 3))
        assert torch.equal(with_labels.soft_labels.argmax(-1), with_labels.hard_labels)
        assert with_labels.modality_weights is None


@pytest.mark.parametrize(
    ("stage", "refresh", "moves"),
    [("alignment", False, True), ("refinement", False, False), ("refinement", True, True), ("joint", False, True)],
)
def test_prototypes_follow_the_stage(stage: str, refresh: bool, moves: bool) -> None:
    model = make(refresh_in_stage2=refresh)
    model.set_stage(stage)
    before = model.model.labeller.prototypes.clone()
    model.on_stage_epoch_start(batches())
    assert torch.equal(before, model.model.labeller.prototypes) != moves
    assert model.model.labeller.epochs_started == 3


def test_a_run_without_a_first_stage_measures_prototypes_once() -> None:
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config())
    model.on_stage_epoch_start(batches())
    first = model.model.labeller.prototypes.clone()
    assert first.ne(0).any()
    model.on_stage_epoch_start([batch()])
    assert torch.equal(first, model.model.labeller.prototypes)


def test_pseudo_prototypes_average_the_samples_nearest_to_the_old_ones() -> None:
    model = make(prototype_assign="pseudo")
    inputs = batch()
    out = run(model, inputs)
    model.update_prototypes([inputs])
    for m, k in itertools.product(range(3), range(3)):
        rows = out.raw_embeddings[:, m][out.hard_labels[:, m] == k]
        if len(rows):
            torch.testing.assert_close(model.model.labeller.prototypes[m, k], rows.mean(0))


def test_batch_schedule_follows_every_training_step() -> None:
    model = make(prototype_schedule="batch", encoder_dropout=0.0, text_config=still_bert()).train()
    model.set_stage("alignment")
    inputs = TESTER.random_batch(5)
    out = model(**inputs)
    for m, label in itertools.product(range(3), range(3)):
        rows = out.raw_embeddings[inputs["labels"] == label, m]
        if len(rows):
            torch.testing.assert_close(model.model.labeller.prototypes[m, label], rows.mean(0).detach())


def still_bert() -> Any:
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def numbered(count: int) -> list[dict[str, Tensor]]:
    return [{**TESTER.random_batch(s), "sample_index": torch.arange(4 * s, 4 * s + 4)} for s in range(count)]


def test_bank_schedule_averages_the_last_features_of_all_samples() -> None:
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(prototype_schedule="bank", encoder_dropout=0.0)).train()
    model.set_stage("alignment")
    model.on_stage_epoch_start(numbered(3))
    model.eval()
    model.update_prototypes(numbered(3))
    rows = torch.cat([run(model, inputs).raw_embeddings for inputs in numbered(3)])
    labels = torch.cat([inputs["labels"] for inputs in numbered(3)])
    with torch.no_grad():
        for parameter in model.model.encoders.parameters():
            parameter += 0.1  # the encoders move, and one batch is seen again
    model.train()
    torch.manual_seed(1)
    rows[4:8] = model(**numbered(3)[1]).raw_embeddings.detach()
    for m, label in itertools.product(range(3), range(3)):
        expected = rows[labels == label, m].mean(0)
        torch.testing.assert_close(model.model.labeller.prototypes[m, label], expected, atol=1e-5, rtol=1e-5)


def test_a_bank_that_is_not_full_again_leaves_the_prototypes() -> None:
    """After an interruption the bank is empty: prototypes of one batch would be worse than those of the checkpoint."""
    model = make(prototype_schedule="epoch")
    model.update_prototypes(numbered(3))
    stored = model.model.labeller.prototypes.clone()
    model.config.prototype_schedule = "bank"
    model.set_stage("alignment")
    model.train()
    for index, inputs in enumerate(numbered(3)):
        model(**inputs)
        assert torch.equal(model.model.labeller.prototypes, stored) == (index < 2)


def test_bank_needs_numbered_samples() -> None:
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(prototype_schedule="bank")).train()
    model.set_stage("alignment")
    with pytest.raises(ValueError, match="sample_index"):
        model(**batch())


# ---- refinement and heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
def test_label_attention_depends_on_the_query_unless_there_is_one_class(classes: int) -> None:
    config = TESTER.config()
    module = LabelAttention(config, 16, 2).eval()
    soft = torch.softmax(torch.randn(1, classes), -1).expand(2, -1)
    vectors = torch.randn(classes, 16)
    with torch.no_grad():
        found = module(torch.randn(2, 16), soft, vectors, Recorder(False, False))
    assert torch.allclose(found[0], found[1], atol=1e-6) == (classes == 1)


def test_eq_9_equals_a_loop_over_label_tokens() -> None:
    config = TESTER.config(attn_implementation="eager")
    module = LabelAttention(config, 4, 1).eval()
    fused, soft, vectors = torch.randn(1, 4), torch.tensor([[0.2, 0.5, 0.3]]), torch.randn(3, 4)
    part = module.attention
    with torch.no_grad():
        query = part.q_proj(fused)[0]
        keys = [part.k_proj(soft[0, k] * vectors[k]) for k in range(3)]
        values = [part.v_proj(soft[0, k] * vectors[k]) for k in range(3)]
        weights = torch.softmax(torch.stack([query @ key / 2.0 for key in keys]), 0)  # sqrt(4) = 2
        expected = part.o_proj(sum(w * v for w, v in zip(weights, values, strict=True)))
        found = module(fused, soft, vectors, Recorder(False, False))
    torch.testing.assert_close(found[0], expected)


def test_prototypes_have_no_gradient_but_change_the_prediction() -> None:
    model, inputs = make(), batch()
    before = run(model, inputs).logits
    model.model.labeller.prototypes.mul_(-1)
    assert not torch.allclose(run(model, inputs).logits, before)
    assert not model.model.labeller.prototypes.requires_grad


def test_first_stage_logits_average_the_common_branches() -> None:
    model, inputs = make(), batch()
    model.set_stage("alignment")
    inputs["audio_attention_mask"][1] = 0
    out = run(model, inputs)
    logs = out.common_logits.log_softmax(-1)
    torch.testing.assert_close(out.logits[0], logs[0].mean(0))
    torch.testing.assert_close(out.logits[1], logs[1, [0, 2]].mean(0))


def test_first_stage_regression_is_the_expected_class_mean() -> None:
    model = make(**REGRESSION)
    model.set_stage("alignment")
    assert model.model.labeller.bin_values.tolist() == [-1.5, 0.0, 1.25]  # means of the targets below, at, above 0
    out = run(model, batch(True))
    share = out.common_logits.log_softmax(-1).mean(1).softmax(-1)
    torch.testing.assert_close(out.logits[:, 0], share @ torch.tensor([-1.5, 0.0, 1.25]))
    assert out.common_logits.shape == (4, 3, 3) and out.soft_labels.shape == (4, 3, 3)


@pytest.mark.parametrize(("bins", "classes"), [("sign", 3), ("round7", 7), ([-1.0, 1.0, 2.0], 4)])
def test_structure_bins_set_the_number_of_classes(bins: Any, classes: int) -> None:
    model = make(structure_bins=bins, **REGRESSION)
    assert run(model, batch(True)).soft_labels.shape == (4, 3, classes)
    assert len(model.config.default_bin_values) == classes == model.model.labeller.prototypes.shape[1]


# ---- reduced models, subsets, absent modalities ------------------------------------------------------------------


@pytest.mark.parametrize("switches", TABLE_3, ids=lambda s: "-".join(k for k, v in s.items() if v) or "none")
@pytest.mark.parametrize("strategy", ["zero", "null_token"])
def test_every_row_of_table_3_trains_all_its_parameters(switches: dict[str, bool], strategy: str) -> None:
    model = make(missing_strategy=strategy, **switches).train()
    inputs = batch()
    for row, name in enumerate(("attention_mask", "audio_attention_mask", "video_attention_mask")):
        inputs[name][row] = 0  # every null token has to stand in for somebody
    model(**inputs).loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []
    widths = {"none": 16, "msa": 32}
    kind = "msa" if switches["use_msa"] and not switches["use_psl_tfb"] else "none"
    assert model.model.fusion.in_features == 3 * widths[kind]


@pytest.mark.parametrize("switches", TABLE_3[1:], ids=lambda s: "-".join(k for k, v in s.items() if v))
def test_the_first_stage_trains_exactly_what_its_loss_reaches(switches: dict[str, bool]) -> None:
    model = make(**switches).train()
    model.set_stage("alignment")
    model(**batch()).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == reached
    model.set_stage("refinement")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_first_row_of_table_3_has_no_first_stage() -> None:
    model = make(**TABLE_3[0])
    assert [stage.name for stage in model.config.training_stages] == ["refinement"]
    model.set_stage("alignment")
    with pytest.raises(ValueError, match="no loss"):
        model(**batch())


@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
def test_every_subset_of_modalities_builds_trains_and_reloads(modalities: tuple[str, ...], tmp_path: Path) -> None:
    model = make(modalities=modalities)
    inputs = TESTER.without(batch(), *({"text", "audio", "video"} - set(modalities)))
    model.train()(**inputs).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert ("text" in modalities) == (model.model.text_model is not None)
    assert not any("text" in name for name in model.state_dict()) or "text" in modalities
    model.eval().save_pretrained(tmp_path)
    loaded, info = PlumNetForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(run(loaded.eval(), inputs).logits, run(model, inputs).logits)
    assert run(model, inputs).soft_labels.shape == (4, len(modalities), 3)


def test_inputs_of_an_undeclared_modality_raise() -> None:
    with pytest.raises(ValueError, match=r"`video_features` is given but `config.modalities`"):
        run(make(modalities=("text", "audio")), batch())


def test_a_text_is_needed_for_its_embeddings_only() -> None:
    model = make(modalities=("audio",))
    assert model.model.get_input_embeddings() is None
    with pytest.raises(ValueError, match="without text"):
        model.model.set_input_embeddings(nn.Embedding(3, 3))


@pytest.mark.parametrize("missing", [("audio",), ("text",), ("audio", "video"), ("text", "video")])
@pytest.mark.parametrize("switches", TABLE_3, ids=lambda s: "-".join(k for k, v in s.items() if v) or "none")
def test_null_tokens_stand_for_absent_modalities(missing: tuple[str, ...], switches: dict[str, bool]) -> None:
    model, inputs = make(missing_strategy="null_token", **switches), batch()
    absent, masked = run(model, TESTER.without(inputs, *missing)), run(model, TESTER.masked_out(inputs, *missing))
    assert torch.isfinite(absent.logits).all()
    torch.testing.assert_close(absent.logits, masked.logits, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for name in missing:
            model.model.null_tokens[name].weight.add_(torch.linspace(-1, 1, 16))
    assert not torch.allclose(run(model, TESTER.without(inputs, *missing)).logits, absent.logits, atol=1e-5)


def test_absent_modalities_are_zero_at_the_head() -> None:
    model = make()
    out = run(model, TESTER.without(batch(), "audio"))
    assert out.raw_embeddings[:, 1].eq(0).all() and out.common_embeddings[:, 1].eq(0).all()
    assert out.presence.tolist() == [[True, False, True]] * 4 and out.hard_labels[:, 1].eq(-1).all()


@pytest.mark.parametrize(
    "settings",
    [{"fusion_combine": "sum"}, {"label_token_source": "learned"}, {"psl_target": "soft"}, {"tfb_layers": 2}],
    ids=lambda settings: next(iter(settings)),
)
def test_variants_train_all_their_parameters(settings: dict[str, Any]) -> None:
    model = make(**settings).train()
    model(**batch()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


# ---- stages, saving, learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["alignment", "refinement", "joint"])
def test_saving_in_a_stage_keeps_everything(stage: str, tmp_path: Path) -> None:
    model = make(**REGRESSION)
    model.set_stage(stage)
    model.save_pretrained(tmp_path)
    loaded = PlumNetForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.training_stage == stage and loaded.config.stages == model.config.stages
    state, found = model.state_dict(), loaded.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in state.items())
    assert {"prototypes", "prototype_counts", "bin_values"} <= {name.rsplit(".", 1)[1] for name in state}


def test_buffers_missing_from_a_checkpoint_are_empty(tmp_path: Path) -> None:
    model = make(**REGRESSION)
    state = {name: value for name, value in model.state_dict().items() if "labeller" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    labeller = PlumNetForSequenceClassification.from_pretrained(tmp_path).model.labeller
    assert labeller.prototypes.eq(0).all() and labeller.prototype_counts.eq(0).all() and labeller.epochs_started == 0
    assert labeller.bin_values.tolist() == [-1.0, 0.0, 1.0]


def test_a_stage_freezes_by_name_and_keeps_what_was_frozen_before() -> None:
    model = TESTER.model(stages=(("alignment", 1, ("branches", "encoders")), ("refinement", 2)))
    model.model.encoders.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.set_stage("alignment")
    assert all(p.requires_grad == ("branches" in name) for name, p in model.named_parameters())
    model.set_stage("refinement")
    assert all(p.requires_grad == ("model.encoders" not in name) for name, p in model.named_parameters())
    assert model.config.training_stage == "refinement"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_stages_that_do_not_exist_raise() -> None:
    with pytest.raises(ValueError, match="no stage 'tuning'"):
        TESTER.model().set_stage("tuning")
    with pytest.raises(ValueError, match="no parameter is found by 'brunches'"):
        TESTER.model(stages=(("alignment", 1, ("brunches",)),)).set_stage("alignment")


def mean_error(model: PlumNetForSequenceClassification, data: list[dict[str, Tensor]]) -> float:
    model.eval()
    return torch.cat([(run(model, inputs).logits[:, 0] - inputs["labels"]).abs() for inputs in data]).mean().item()


def test_regression_learns_sixteen_samples_through_both_stages() -> None:
    torch.manual_seed(0)
    still = {"dropout": 0.0, "encoder_dropout": 0.0, "text_config": still_bert()}
    model = PlumNetForSequenceClassification(TESTER.config(**REGRESSION, **still))
    data = [{**TESTER.random_batch(seed), "labels": torch.randn(4).clamp(-3, 3)} for seed in range(4)]
    for stage, epochs in (("alignment", 8), ("refinement", 60)):
        model.set_stage(stage)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
        for epoch in range(epochs):
            if stage == "refinement" and epoch % 5 == 0 and mean_error(model, data) < 0.2:
                return
            model.on_stage_epoch_start(data)
            model.train()
            for inputs in data:
                optimizer.zero_grad()
                model(**inputs).loss.backward()
                optimizer.step()
    pytest.fail(f"16 random values are not learnt: the mean error is still {mean_error(model, data)}")


# ---- config, construction, processor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_psl_tfb": False}, "`use_prm` is True"),
        ({"hidden_size": 18, "tfb_heads": 4}, "`hidden_size` = 18 is not divisible by `tfb_heads` = 4"),
        ({"structure_bins": [1.0, 0.0], **REGRESSION}, "strictly increasing"),
        ({"problem_type": "multi_label_classification"}, "one class per sample"),
        ({"modalities": ("text", "smell")}, "smell"),
        ({"stages": (("warmup", 3),)}, "names 'warmup'"),
        ({"stages": (("alignment",),)}, "expected"),
        ({"stages": (("alignment", 0),)}, "leave it out"),
        ({"stages": (("alignment", 1), ("alignment", 2))}, "twice"),
        ({"stages": (("alignment", 1, ("(",)),)}, "no regular expression"),
        ({"msa_temperature": 0.0}, "positive"),
        ({"prototype_shrinkage": -1.0}, "negative"),
    ],
)
def test_settings_that_contradict_raise(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        TESTER.config(**fields)


def test_defaults_are_those_of_the_paper() -> None:
    config = PlumNetConfig(num_labels=1)
    assert (config.hidden_size, config.dropout, config.problem_type) == (256, 0.6, "regression")
    assert [tuple(stage)[:2] for stage in config.training_stages] == [("alignment", 160), ("refinement", 140)]
    assert config.label_temperature == 4.0 and config.num_structure_classes == 3
    assert PlumNetConfig(soft_label_temperature=1.0).label_temperature == 1.0


def test_an_owned_encoder_takes_raw_sound() -> None:
    encoder = MediaEncoderConfig(num_mel_bins=6, video_front_end=None)
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(encoder_config=encoder)).eval()
    inputs = TESTER.without(TESTER.inputs(), "audio")
    mask = torch.ones(4, 4000, dtype=torch.long)
    mask[2] = 0
    raw = {"input_values": torch.randn(4, 4000), "input_values_mask": mask}
    out = run(model, {**inputs, **raw})
    made = run(model.model.media_encoder, raw)
    features = {"audio_features": made.audio_features, "audio_attention_mask": made.audio_attention_mask}
    torch.testing.assert_close(out.logits, run(model, {**inputs, **features}).logits, atol=1e-5, rtol=1e-5)
    assert out.presence[:, 1].tolist() == [True, True, False, True]


def test_attentions_and_hidden_states_on_request() -> None:
    out = run(TESTER.model(attn_implementation="eager"), {**TESTER.inputs(), "output_attentions": True})
    # text 2 + audio 2 + video 2, a common and a private layer each, two directions and the labels each
    assert len(out.attentions) == 2 + 2 + 2 + 3 * 2 + 3 * 3
    assert out.attentions[-1].shape == (4, 2, 1, 3)
    assert run(TESTER.model(), TESTER.inputs()).attentions is None


@pytest.mark.parametrize("kind", [MultimodalProcessor, TESTER.processor_class])
def test_a_processor_without_text_saves_and_loads_without_a_tokenizer(kind: Any, tmp_path: Path) -> None:
    config = TESTER.config(modalities=("audio", "video"))
    processor = kind.from_config(config)
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer_config.json").exists()
    rows = {"audio_features": [np.ones((4, 6)), None], "video_features": [None, np.ones((2, 8))]}
    for load in (kind, AutoProcessor) if kind is TESTER.processor_class else (kind,):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is kind and loaded.tokenizer is None
        found, expected = loaded(labels=["praise", "inform"], **rows), processor(labels=["praise", "inform"], **rows)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(ValueError, match="`tokenizer`"):
        kind.from_config(TESTER.config())


def test_the_processor_passes_sample_numbers_on(tiny_tokenizer: Any) -> None:
    processor = TESTER.processor(tiny_tokenizer)
    found = processor(text=["thank you", "please leave"], labels=[0, 1], sample_index=[7, 9])
    assert found["sample_index"].tolist() == [7, 9] and "sample_index" in processor.model_input_names
    assert "sample_index" not in processor(text="thank you")
    assert isinstance(processor("thank you", sample_index=3, return_tensors="np")["sample_index"], np.ndarray)
