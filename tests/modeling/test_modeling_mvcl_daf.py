"""MVCL-DAF++ against the paper's equations: losses, leakage, what runs when, and every setting that changes the network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.configuration_mvcl_daf import MvclDafConfig
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification

from .references import info_nce_reference, prototype_reference
from .testers import MASK, MvclDafTester, tiny_bert

TESTER = MvclDafTester()
STILL = {  # no dropout anywhere
    "text_dropout": 0.0,
    "visual_dropout": 0.0,
    "coarse_dropout": 0.0,
    "daf_attention_dropout": 0.0,
}
ONE_LABEL = {"num_labels": 1, "id2label": {0: "score"}, "label2id": {"score": 0}, "problem_type": "regression"}


def still_bert() -> Any:
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def still_model(**overrides: Any) -> MvclDafForSequenceClassification:
    """In training mode, but without any dropout."""
    return TESTER.model(text_config=still_bert(), **{**STILL, **overrides}).train()


def ragged() -> dict[str, Tensor]:
    """A training batch whose samples 0, 1, 2 lack video, audio and text; sample 3 has no label."""
    batch = TESTER.inputs(training=True)
    for row, name in enumerate(("video_attention_mask", "audio_attention_mask", "attention_mask")):
        batch[name] = batch[name].clone()
        batch[name][row] = 0
    # the processor's labelled view of a sample without text: [CLS] label [MASK] [SEP]
    batch["labelled_input_ids"][2] = torch.tensor([2, 52, MASK, 3, 0, 0, 0, 0, 0])
    batch["labels"] = torch.tensor([0, 1, 1, -100])
    return batch


class Calls:
    """Counts the calls of sub-modules, and the batch size of the text encoder's last one."""

    def __init__(self, model: MvclDafForSequenceClassification) -> None:
        self.counts: Counter[str] = Counter()
        self.rows = 0
        for name in ("text_model", "label_text_model", "fine_fusion", "fusion"):
            module = getattr(model.model, name)
            if module is not None:
                module.register_forward_hook(self._hook(name), with_kwargs=True)

    def _hook(self, name: str) -> Any:
        def count(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            self.counts[name] += 1
            if name == "text_model":
                self.rows = len(kwargs["input_ids"])

        return count


# ---- losses, Eq. (1)-(11) -------------------------------------------------------------------------------------------


def views_of(model: Any, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor], dict[str, list[bool]]]:
    out = model(**batch, output_views=True)
    views = {name: view.detach() for name, view in out.view_embeddings.items()}
    return out, views, {name: there.tolist() for name, there in out.view_presence.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"temperature": 0.5, "prototype_temperature": 0.2},
        {"contrastive_exclude_same_class": True},
        {"prototype_normalize_instances": True},
        {"prototype_scope": "per_view"},
        {"prototype_stop_gradient": True},
        {"prototype_ignore_labels": (1,)},
        {"contrastive_views": ("audio", "fused"), "prototype_views": ("text", "labelled")},
        {"coarse_fusion": False},
        {"daf_share_weights": True},
        {"separate_label_encoder": True},
    ],
    ids=str,
)
def test_losses_equal_the_loops(overrides: dict[str, Any]) -> None:
    """With views that are missing, classes that are absent and a label that is ignored."""
    model, batch = still_model(**overrides), ragged()
    out, views, there = views_of(model, batch)
    config, labels = model.config, batch["labels"].tolist()
    assert there["video"] == [False, True, True, True] and there["audio"] == [True, False, True, True]
    assert there["text"] == [True, True, False, True] and all(there["fused"]) and all(there["labelled"])
    labelled = [label != -100 for label in labels]
    expected = {"cls": torch.nn.functional.cross_entropy(out.logits.detach(), batch["labels"]).item()}
    for name in config.contrastive_views:
        counts = [a and b for a, b in zip(labelled, there[name], strict=True)]
        classes = labels if config.contrastive_exclude_same_class else None
        expected[f"contrastive_{name}"] = info_nce_reference(
            views["labelled"], views[name], counts, config.temperature, classes
        )
    counts = [
        known and label not in config.prototype_ignore_labels for known, label in zip(labelled, labels, strict=True)
    ]
    names, per_view = config.prototype_views, config.prototype_scope == "per_view"
    parts = []
    for group in [[name] for name in names] if per_view else [names]:
        valid = [a and b for name in group for a, b in zip(counts, there[name], strict=True)]
        rows, temperature = (
            torch.cat([views[name] for name in group]),
            config.prototype_temperature or config.temperature,
        )
        classes = labels * len(group)
        parts.append(prototype_reference(rows, classes, valid, temperature, config.prototype_normalize_instances))
    expected["prototype"] = sum(parts) / len(parts)
    assert {name: term.item() for name, term in out.loss_terms.items()} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_total_is_the_weighted_sum(reduction: str) -> None:
    weights = {"cls_loss_weight": 0.5, "prototype_loss_weight": 2.0, "contrastive_loss_weight": 3.0}
    out = still_model(contrastive_reduction=reduction, **weights)(**ragged())
    terms = {name: term.item() for name, term in out.loss_terms.items()}
    contrastive = sum(terms[f"contrastive_{name}"] for name in ("text", "video", "audio", "fused"))
    contrastive /= 4 if reduction == "mean" else 1
    expected = 0.5 * terms["cls"] + 2 * terms["prototype"] + 3 * contrastive
    assert out.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("overrides", [{"contrastive_reduction": "mean"}, {"prototype_scope": "per_view"}], ids=str)
def test_an_absent_view_does_not_dilute_a_mean(overrides: dict[str, Any]) -> None:
    """No video at all is the same loss whether the batch says so by `None` or by a mask of zeros."""
    batch = TESTER.inputs(training=True)
    absent, masked = (
        still_model(**overrides)(**lacking)
        for lacking in (TESTER.without(batch, "video"), TESTER.masked_out(batch, "video"))
    )
    assert absent.loss.item() == pytest.approx(masked.loss.item(), abs=1e-5)


@pytest.mark.parametrize("scope", ["shared", "per_view"])
def test_losses_over_a_view_that_the_batch_lacks_are_left_out(scope: str) -> None:
    model = still_model(contrastive_views=("video",), prototype_views=("video",), prototype_scope=scope)
    out = model(**TESTER.without(TESTER.inputs(training=True), "video"))
    out.loss.backward()
    assert out.loss.item() == pytest.approx(out.loss_terms["cls"].item())


def test_prototypes_of_one_class_cost_nothing() -> None:
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.ones(4, dtype=torch.long)
    out = still_model()(**batch)
    assert out.loss_terms["prototype"].item() == pytest.approx(0.0, abs=1e-6)


def test_classes_outside_the_batch_get_no_gradient() -> None:
    """Without the classifier's own loss nothing speaks of a class that no sample has."""
    model, batch = still_model(cls_loss_weight=0.0), TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([0, 0, 2, 2])
    out, views, _ = views_of(model, batch)
    found = []
    for labels in (batch["labels"], torch.tensor([0, 0, 1, 1])):  # the same batch under another id
        rows = {name: view.clone().requires_grad_() for name, view in views.items()}
        out.view_embeddings = rows
        term = model.prototype_term(out, labels)
        found.append((term.detach(), *torch.autograd.grad(term, [rows[name] for name in model.config.prototype_views])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    model(**batch).loss.backward()
    assert not model.classifier.weight.grad.any()  # a prototype is no classifier weight


def test_ignored_classes_are_neither_instance_nor_prototype() -> None:
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([0, 1, 2, 1])
    with_ignored = still_model(prototype_ignore_labels=(2,))(**batch)
    batch["labels"] = torch.tensor([0, 1, -100, 1])
    without = still_model()(**batch)
    torch.testing.assert_close(with_ignored.loss_terms["prototype"], without.loss_terms["prototype"])


def test_all_labels_ignored_is_a_finite_zero() -> None:
    model, batch = still_model(), TESTER.inputs(training=True)
    batch["labels"] = torch.full((4,), -100)
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_class_weights_reach_the_classifier() -> None:
    batch, weight = TESTER.inputs(training=True), torch.tensor([1.0, 4.0, 0.5])
    out = still_model()(**batch, class_weight=weight)
    expected = torch.nn.functional.cross_entropy(out.logits, batch["labels"], weight=weight)
    torch.testing.assert_close(out.loss_terms["cls"], expected.detach())


# ---- the label must not leak ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_logits_ignore_the_labelled_view(mode: str, separate: bool) -> None:
    model, batch = still_model(separate_label_encoder=separate), TESTER.inputs(training=True)
    model.train(mode == "train")
    other = {**batch, "labelled_input_ids": batch["labelled_input_ids"].flip(0), "labels": batch["labels"].flip(0)}
    without = {name: value for name, value in batch.items() if name not in ("labels", "labelled_input_ids")}
    expected = model(**without)
    for inputs in (batch, other, {**batch, "output_views": True}):
        out = model(**inputs)
        torch.testing.assert_close(out.logits, expected.logits, atol=1e-6, rtol=0)
        torch.testing.assert_close(out.modality_weights, expected.modality_weights, atol=1e-6, rtol=0)


def test_logits_have_no_gradient_into_the_label_encoder() -> None:
    model, batch = still_model(separate_label_encoder=True), TESTER.inputs(training=True)
    out = model(**batch)
    out.logits.sum().backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in model.model.label_text_model.parameters())
    assert model.get_input_embeddings().weight.grad.any()
    model.zero_grad()
    out.loss.backward()  # but the loss has: the encoder does learn
    assert model.model.label_text_model.get_input_embeddings().weight.grad.any()


def test_label_words_get_no_gradient_from_the_logits() -> None:
    """One encoder for both views: ids 50-52 occur only as labels."""
    model, batch = still_model(), TESTER.inputs(training=True)
    batch["input_ids"] = batch["input_ids"].masked_fill((batch["input_ids"] >= 50) & (batch["input_ids"] <= 52), 60)
    batch["labelled_input_ids"] = torch.where(
        batch["label_slot_mask"].bool(), batch["labels"][:, None] + 50, batch["input_ids"]
    )
    out = model(**batch)
    out.logits.square().sum().backward(retain_graph=True)
    assert not model.get_input_embeddings().weight.grad[50:53].any()
    out.loss.backward()
    assert model.get_input_embeddings().weight.grad[50:53].any(1).all()


# ---- what runs when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True])
def test_inference_runs_neither_labelled_view_nor_fine_fusion(separate: bool) -> None:
    model = TESTER.model(separate_label_encoder=separate)
    calls = Calls(model)
    with torch.no_grad():
        out = model(**TESTER.inputs(training=True))
    assert calls.counts == {"text_model": 1, "fusion": 1} and calls.rows == 4
    assert set(out.loss_terms) == {"cls"} and out.view_embeddings is None
    assert out.loss.item() == pytest.approx(out.loss_terms["cls"].item())


def test_training_encodes_both_texts_in_one_call() -> None:
    shared, separate = still_model(), still_model(separate_label_encoder=True)
    for model, expected, rows in (
        (shared, {"text_model": 1, "fusion": 1, "fine_fusion": 1}, 8),
        (separate, {"text_model": 1, "label_text_model": 1, "fusion": 1, "fine_fusion": 1}, 4),
    ):
        calls = Calls(model)
        model(**TESTER.inputs(training=True))
        assert calls.counts == expected and calls.rows == rows


def test_training_without_contrast_does_not_read_the_labelled_view() -> None:
    model = still_model(contrastive_loss_weight=0.0)
    calls = Calls(model)
    out = model(**TESTER.inputs(training=True))
    assert calls.rows == 4 and set(out.loss_terms) == {"cls", "prototype"}


def test_training_with_the_classifier_alone_runs_one_fusion() -> None:
    model = still_model(contrastive_loss_weight=0.0, prototype_loss_weight=0.0)
    calls = Calls(model)
    out = model(**TESTER.inputs(training=True))
    assert calls.counts == {"text_model": 1, "fusion": 1} and set(out.loss_terms) == {"cls"}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({}, "contrastive_loss_weight"),
        ({"contrastive_loss_weight": 0.0, "prototype_views": ("fused", "labelled")}, "prototype_views"),
    ],
    ids=str,
)
def test_a_loss_without_its_labelled_view_raises(overrides: dict[str, Any], field: str) -> None:
    model, batch = still_model(**overrides), TESTER.inputs(training=True)
    del batch["labelled_input_ids"]
    with pytest.raises(ValueError, match=f"`{field}`.*`labelled_input_ids` is missing"):
        model(**batch)
    assert torch.isfinite(model.eval()(**batch).loss)  # nothing is missed outside training


@pytest.mark.parametrize("overrides", [{}, {"daf_share_weights": True}, {"coarse_fusion": False}], ids=str)
def test_training_equals_the_full_computation(overrides: dict[str, Any]) -> None:
    """Training computes the classifying fusion at its first position only: same outputs, same gradients."""
    batch = ragged()
    del batch["labels"]
    found = []
    for training in (True, False):
        model = still_model(**overrides).model.train(training)
        out = model(**batch, output_views=True)
        (out.embeddings.square().sum() + sum(view.sum() for view in out.view_embeddings.values())).backward()
        found.append((out, {name: p.grad for name, p in model.named_parameters()}))
    (first, first_gradients), (full, full_gradients) = found
    torch.testing.assert_close(first.embeddings, full.embeddings)
    torch.testing.assert_close(first.modality_weights, full.modality_weights)
    assert full.token_modality_weights.shape == (4, 9, len(model.config.modality_weight_names))
    for name, view in full.view_embeddings.items():
        torch.testing.assert_close(first.view_embeddings[name], view)
    for name, gradient in full_gradients.items():
        torch.testing.assert_close(first_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_token_weights_sum_to_one_where_a_source_is() -> None:
    model, batch = TESTER.model(), ragged()
    batch["audio_attention_mask"][3] = batch["video_attention_mask"][3] = 0
    with torch.no_grad():
        out = model(**batch)
    weights, mask = out.token_modality_weights, batch["attention_mask"].bool()
    mask[2, :4] = True  # the empty utterance
    assert model.config.modality_weight_names == ("video", "audio", "coarse")
    sums = weights.sum(-1)
    assert ((sums >= 1 - 1e-4) & (sums <= 1))[:3][mask[:3]].all()
    assert not sums[~mask].any() and not sums[3].any()
    assert not weights[0, ..., 0].any() and not weights[1, ..., 1].any()
    torch.testing.assert_close(out.modality_weights, weights[:, 0])


def test_views_are_means_over_the_label_slots() -> None:
    """h_tm, h_v, h_a, h_f, h_tl; a sample without slots is read at all its tokens."""
    model, batch = TESTER.model(separate_label_encoder=True).model, TESTER.inputs(training=True)
    del batch["labels"]
    batch["label_slot_mask"][3] = 0
    streams: dict[str, Tensor] = {}
    parts = {
        "text": model.text_model,
        "labelled": model.label_text_model,
        "video": model.projections["video"],
        "audio": model.projections["audio"],
        "fused": model.fine_fusion,
    }
    for name, module in parts.items():
        module.register_forward_hook(lambda module, args, out, name=name: streams.update({name: out}))
    with torch.no_grad():
        out = model(**batch, output_views=True)
    streams = {name: value if isinstance(value, Tensor) else value[0] for name, value in streams.items()}
    assert set(out.view_embeddings) == set(parts)
    for name, view in out.view_embeddings.items():
        for row in range(4):
            read = batch["label_slot_mask"][row] if row < 3 else batch["attention_mask"][row]
            torch.testing.assert_close(view[row], streams[name][row, read.bool()].mean(0), msg=f"{name} {row}")
    inferred = model(**{name: value for name, value in batch.items() if name != "label_slot_mask"}, output_views=True)
    for name, view in inferred.view_embeddings.items():  # the mask tokens themselves say where the slots are
        torch.testing.assert_close(view[:3], out.view_embeddings[name][:3])


@pytest.mark.parametrize("pooling", ["first", "mean", "slots"])
def test_the_head_reads_the_positions_of_its_pooling(pooling: str) -> None:
    """The first position, all but the label slots, or these alone; a sample without slots is read at all its tokens."""
    model, batch = TESTER.model(pooling=pooling).model, TESTER.inputs()
    slots = batch["input_ids"] == MASK
    slots[3] = False
    found: dict[str, Tensor] = {}
    model.fusion.register_forward_hook(lambda module, args, out: found.update(fused=out[0], weights=out[1]))
    with torch.no_grad():
        out = model(**{**batch, "label_slot_mask": slots})
    for row in range(4):
        tokens = batch["attention_mask"][row].bool()
        read = {"first": torch.arange(len(tokens)) == 0, "mean": tokens & ~slots[row]}
        read["slots"] = slots[row] if row < 3 else tokens
        state = found["fused"][row, read[pooling]].mean(0)
        torch.testing.assert_close(out.embeddings[row], torch.tanh(model.pooler(state)))
        torch.testing.assert_close(out.modality_weights[row], found["weights"][row, read[pooling]].mean(0))


@pytest.mark.parametrize("share", [False, True])
def test_fine_fusion_does_not_see_the_coarse_sequence(share: bool) -> None:
    model, seen = TESTER.model(daf_share_weights=share).model, []
    for module in {model.fusion, model.fine_fusion or model.fusion}:
        module.register_forward_hook(lambda module, args, out: seen.append(set(args[2])))
    with torch.no_grad():
        model(**TESTER.inputs(), output_views=True)
    assert seen == [{"video", "audio", "coarse"}, {"video", "audio"}]


def test_hidden_states_are_those_of_the_samples() -> None:
    """Also in training, where the labelled view shares the text encoder's pass."""
    model = still_model()
    out = model(**TESTER.inputs(training=True), output_hidden_states=True)
    # embeddings and two layers of text, two visual, one coarse
    assert [tuple(state.shape) for state in out.hidden_states] == [(4, 9, 16)] * 3 + [(4, 9, 8)] * 2 + [(4, 9, 16)]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model.eval()(**TESTER.inputs(), output_attentions=True)
    assert len(out.attentions) == 5 and all(item.shape == (4, 2, 9, 9) for item in out.attentions)


# ---- other targets ----------------------------------------------------------------------------------------------------


def test_regression_with_bins() -> None:
    """Bins take the place of classes: those of torch's bucketize, closed above."""
    model = still_model(**ONE_LABEL, regression_bins=(-0.5, 0.5))
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([-2.0, 0.5, 0.6, -0.5])
    out, views, there = views_of(model, batch)
    assert out.logits.shape == (4, 1)
    assert out.loss_terms["cls"].item() == pytest.approx((out.logits[:, 0] - batch["labels"]).abs().mean().item())
    classes, names = [0, 1, 2, 0], ("text", "video", "audio", "fused")
    rows = torch.cat([views[name] for name in names])
    valid = [present for name in names for present in there[name]]
    expected = prototype_reference(rows, classes * 4, valid, 0.1)
    assert out.loss_terms["prototype"].item() == pytest.approx(expected, abs=1e-4)
    out.loss.backward()


def test_regression_without_classes() -> None:
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([-2.0, 0.5, 0.6, -0.5])
    del batch["labelled_input_ids"]
    weights = {"prototype_loss_weight": 0.0, "contrastive_loss_weight": 0.0}
    out = still_model(**ONE_LABEL, **weights, regression_loss="mse")(**batch)
    assert out.loss.item() == pytest.approx(((out.logits[:, 0] - batch["labels"]) ** 2).mean().item())


def test_several_labels() -> None:
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]).float()
    weights = {"prototype_loss_weight": 0.0, "contrastive_loss_weight": 0.0}
    out = still_model(problem_type="multi_label_classification", **weights)(**batch)
    chances = out.logits.sigmoid()
    expected = -(batch["labels"] * chances.log() + (1 - batch["labels"]) * (1 - chances).log()).mean()
    assert out.loss.item() == pytest.approx(expected.item(), abs=1e-5)


# ---- every setting that changes the network ---------------------------------------------------------------------------

VARIANTS: list[dict[str, Any]] = [
    {"coarse_fusion": False},
    {"coarse_fusion": False, "prototype_loss_weight": 0.0, "contrastive_reduction": "mean", "temperature": 0.5},
    {"daf_share_weights": True},
    {"separate_label_encoder": True},
    {"align_type": "adaptive_pool"},
    {"align_normalize": True},
    {"align_mask_slots": False},
    {"align_logit_scale": "learned"},
    {"align_logit_scale": 4},
    {"align_layers": 1},
    {"peephole": "full"},
    {"acoustic_encoder": "bilstm"},
    {"acoustic_hidden_size": 5},
    {"daf_depth_gate": "fixed"},
    {"daf_max_depth": 1},
    {"prototype_scope": "per_view"},
    {"pooling": "mean"},
    {"pooling": "slots"},
    {"prototype_views": ("text", "video", "audio", "fused", "labelled")},
    {"visual_norm": "pre", "visual_position_embedding": "sinusoidal", "visual_activation": "gelu"},
    {"coarse_layers": 2, "coarse_intermediate_size": None, "visual_intermediate_size": None},
    {"video_embed_size": 6, "audio_embed_size": 4},
    {"modalities": ("text",)},
    {"modalities": ("text", "audio")},
    {"modalities": ("text", "video")},
    {"modalities": ("audio", "video", "text")},
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_variant_trains_and_reloads(overrides: dict[str, Any], tmp_path: Path) -> None:
    model, batch = TESTER.model(**overrides).train(), TESTER.inputs(training=True)
    for name in ("audio", "video"):
        if name not in model.config.modalities:
            batch = TESTER.without(batch, name)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    untrained = tuple(name.removeprefix(".") for name in TESTER.untrained)
    if overrides.get("coarse_fusion") is False or overrides.get("modalities") == ("text",):
        untrained = ()  # one fusion, read everywhere by the view that it gives
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if not any(part in name for part in untrained) and not overrides.get("daf_share_weights"):
            assert not torch.equal(before[name], parameter), name
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path).eval()
    for field in overrides:
        assert getattr(reloaded.config, field) == getattr(model.config, field), field
    with torch.no_grad():
        expected, logits = model.eval()(**batch), reloaded(**batch).logits
    assert torch.equal(logits, expected.logits)
    assert expected.modality_weights.shape == (4, len(model.config.modality_weight_names))


def test_settings_change_what_is_computed() -> None:
    """A setting that changes nothing would be read by no one: same weights, other logits."""
    inputs, plain = TESTER.inputs(), TESTER.model()
    with torch.no_grad():
        expected = plain(**inputs).logits
        for overrides in (
            {"align_normalize": True},
            {"align_mask_slots": False},
            {"align_logit_scale": 4.0},
            {"visual_position_embedding": "sinusoidal"},
            {"visual_norm": "pre"},
            {"visual_activation": "gelu"},
        ):
            other = TESTER.model(**overrides)
            other.load_state_dict(plain.state_dict())
            assert not torch.allclose(other(**inputs).logits, expected, atol=1e-6), overrides


def test_text_alone_needs_no_other_weights() -> None:
    model = TESTER.model(modalities=("text",))
    assert not any("branches" in name or "coarse" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        out = model(**TESTER.without(TESTER.inputs(), "audio", "video"))
    assert out.modality_weights.shape == (4, 0)


def test_paper_defaults() -> None:
    """What the paper states, as the defaults."""
    config = MvclDafConfig()
    assert (config.temperature, config.contrastive_reduction) == (0.1, "sum")
    assert config.cls_loss_weight == config.prototype_loss_weight == config.contrastive_loss_weight == 1
    assert config.contrastive_views == config.prototype_views == ("text", "video", "audio", "fused")
    assert config.coarse_fusion and config.acoustic_encoder == "peephole_bilstm" and config.align_type == "ctc"
    assert not config.daf_share_weights and not config.prototype_normalize_instances


# ---- inputs that do not fit ---------------------------------------------------------------------------------------------


def test_text_longer_than_the_alignment_raises() -> None:
    inputs = TESTER.pad(TESTER.inputs(), 8, 0.0)
    with pytest.raises(ValueError, match=r"`input_ids` has 17 positions but `config.max_text_length` is 16"):
        TESTER.model()(**inputs)


@pytest.mark.parametrize("name", ["label_slot_mask", "labelled_input_ids", "token_type_ids"])
def test_inputs_beside_the_text_must_have_its_shape(name: str) -> None:
    batch = TESTER.inputs(training=True)
    with pytest.raises(ValueError, match=rf"`{name}` has shape \(4, 8\).*\(4, 9\)"):
        still_model()(**{**batch, name: batch[name][:, :-1]})


def test_raw_media_and_features_of_one_modality_raise() -> None:
    encoder = MediaEncoderConfig(num_mel_bins=6, video_front_end=None)
    model = TESTER.model(encoder_config=encoder)
    with pytest.raises(ValueError, match="`audio_features` and `input_values`"):
        model(**TESTER.inputs(), input_values=torch.randn(4, 1600))


@pytest.mark.parametrize("name", ["attention_mask", "audio_attention_mask", "video_attention_mask"])
def test_padding_in_front_raises(name: str) -> None:
    """The alignment counts positions and the recurrences read from the first step: such a batch would be misread."""
    inputs = TESTER.inputs()
    with pytest.raises(
        ValueError, match=rf"`{name}` of sample \d has valid steps behind padded ones: pad on the right"
    ):
        TESTER.model()(**{**inputs, name: inputs[name].flip(1)})
