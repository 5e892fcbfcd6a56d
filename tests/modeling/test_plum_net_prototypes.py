"""PLUM-Net's prototypes over the training rows, when they move, and the labels of the modalities."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from hf_mmintent.modeling.modeling_plum_net import PlumNetForSequenceClassification

from .plum_net_cases import TESTER, batch, batches, make, numbered, still_bert
from .testers import run


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


def test_a_bank_is_filled_once_without_a_first_stage_too() -> None:
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(prototype_schedule="bank"))
    model.on_stage_epoch_start(numbered(3))
    found = model.model.labeller.prototypes.clone()
    assert model.model.labeller.prototype_counts.sum(1).tolist() == [12, 12, 12]
    model.train()(**numbered(1)[0])
    assert torch.equal(found, model.model.labeller.prototypes)  # the stage is `refinement`: they stay


def test_a_bank_is_training_state_and_not_that_of_the_next_stage() -> None:
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(prototype_schedule="bank"))
    model.update_prototypes(numbered(3))
    assert not any("bank" in name for name in model.state_dict())
    state = {name: value.clone() for name, value in model.training_state().items()}
    assert state["rows"].shape == (12, 3, 16) and state["classes"].tolist() == labels_of(numbered(3))
    model.set_training_state({})
    assert model.training_state() == {}
    model.set_training_state(state)
    assert all(torch.equal(value, state[name]) for name, value in model.training_state().items())
    assert make().training_state() == {}


def labels_of(found: list[dict[str, Tensor]]) -> list[int]:
    return torch.cat([inputs["labels"] for inputs in found]).tolist()


def test_prototypes_need_labels() -> None:
    inputs = batch()
    del inputs["labels"]
    with pytest.raises(ValueError, match="without `labels`"):
        make().update_prototypes([inputs])


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
