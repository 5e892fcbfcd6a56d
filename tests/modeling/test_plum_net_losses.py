"""The losses of PLUM-Net's stages against the printed equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_mmintent.modeling.class_contrast import across_modalities_contrast, within_modality_contrast
from hf_mmintent.modeling.losses import soft_target_loss

from .plum_net_cases import REGRESSION, batch, make
from .testers import run


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


@pytest.mark.parametrize("form", ["supcon", "printed"])
def test_eq_3_adds_every_modality_and_all_of_them_together(form: str) -> None:
    """Eq. (1) on the raw vectors of each modality, Eq. (2) on the projected ones; unknown labels take no part."""
    model, inputs = make(msa_form=form, msa_temperature=0.5), batch()
    inputs["labels"] = torch.tensor([0, 1, 1, -100])
    inputs["video_attention_mask"][2] = 0
    out, terms = run(model.model, inputs), run(model, inputs).loss_terms
    classes, valid = torch.tensor([0, 1, 1, -1]), out.presence & torch.tensor([[True], [True], [True], [False]])
    intra = [within_modality_contrast(out.raw_embeddings[:, m], classes, valid[:, m], 0.5, form) for m in range(3)]
    assert intra[0] > 0 and intra[1] > 0 and intra[2] == 0  # video has no pair of one class left
    assert terms["msa_intra"].item() == pytest.approx(sum(intra).item(), abs=1e-6)
    inter = across_modalities_contrast(out.projected_embeddings, classes, valid, 0.5, form)
    assert terms["msa_inter"].item() == pytest.approx(inter.item(), abs=1e-6) and inter > 0


def test_eq_11_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4 of three classes everywhere; labels 0 and 1, the others unknown."""
    model, inputs = make(), batch()
    nn.init.zeros_(model.classifier.weight)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.5, 0.25, 0.25]).log())
    inputs["labels"] = torch.tensor([0, 1, -100, -100])
    assert run(model, inputs).loss_terms["task"].item() == pytest.approx(1.5 * np.log(2), abs=1e-6)
