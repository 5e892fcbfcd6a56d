"""Classes of a target, prototypes and the labels they give."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mmintent.modeling.prototype_labels import ClassSums, FeatureBank, PrototypeLabels, structure_classes


def labeller(classes: int = 2, width: int = 2, temperature: float = 1.0, shrinkage: float = 0.0) -> PrototypeLabels:
    return PrototypeLabels(1, classes, width, temperature, shrinkage, [0.0] * classes)


def sums(rows: torch.Tensor, classes: list[int], present: torch.Tensor | None = None, count: int = 3) -> ClassSums:
    """Of rows (N, M, d), everything present unless said otherwise; the target of a class is ten times its number."""
    found = ClassSums(rows.shape[1], count, rows.shape[2], torch.device("cpu"))
    labels = torch.tensor(classes)
    present = torch.ones(rows.shape[:2], dtype=torch.bool) if present is None else present
    found.add(rows, labels[:, None].expand(-1, rows.shape[1]), present, labels, labels * 10.0)
    return found


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        ("sign", [0, 0, 1, 2, 2, 2]),
        ("round7", [0, 3, 3, 3, 5, 6]),  # -0.5 and 0.5 round to the even 0, 2.5 to 2, 4 is clipped to 3
        ([0.0, 2.0], [0, 0, 0, 1, 2, 2]),
    ],
)
def test_classes_of_a_target(bins: object, expected: list[int]) -> None:
    values = torch.tensor([-3.0, -0.5, 0.0, 0.5, 2.5, 4.0])
    assert structure_classes(values, bins).tolist() == expected


def test_eq_5_by_hand() -> None:
    """A sample on the first prototype, the second 5 away (3-4-5): p = 1 / (1 + exp(-5 / τ))."""
    for temperature in (1.0, 5.0):
        module = labeller(temperature=temperature)
        module.prototypes.copy_(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))
        module.prototype_counts.fill_(1)
        soft, hard = module(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]))
        near = 1 / (1 + math.exp(-5 / temperature))
        torch.testing.assert_close(soft[:, 0], torch.tensor([[near, 1 - near], [1 - near, near]]))
        assert hard.tolist() == [[0], [1]]


def test_eq_4_by_hand_and_classes_without_samples() -> None:
    module = labeller(classes=3)
    module.prototypes[0, 2] = 9.0
    rows = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 5.0]]])
    module.set_from(sums(rows, [0, 0, 1]))
    assert module.prototypes[0].tolist() == [[2.0, 3.0], [5.0, 5.0], [9.0, 9.0]]
    assert module.prototype_counts.tolist() == [[2, 1, 0]]
    assert module.bin_values.tolist() == [0.0, 10.0, 0.0]
    soft, hard = module(torch.tensor([[[9.0, 9.0]]]))
    assert soft[0, 0, 2] == 0 and hard.item() == 1  # nearest, but its class was never seen


def test_without_prototypes_labels_are_uniform() -> None:
    soft, hard = labeller(classes=4)(torch.randn(3, 1, 2))
    assert torch.equal(soft, torch.full((3, 1, 4), 0.25)) and hard.shape == (3, 1)


def test_soft_labels_are_distributions_and_agree_with_the_hard_ones() -> None:
    module = labeller(classes=5, width=4)
    module.prototypes.normal_()
    module.prototype_counts.fill_(3)
    module.prototype_counts[0, 1] = 0
    features = torch.randn(50, 1, 4, requires_grad=True)
    soft, hard = module(features)
    torch.testing.assert_close(soft.sum(-1), torch.ones(50, 1))
    assert torch.equal(soft.argmax(-1), hard) and not soft.requires_grad and not hard.requires_grad


def test_shrinkage_by_hand() -> None:
    """(n c + κ c̄) / (n + κ): class 0 has mean 1 of three, class 1 has 5 of one, the mean of all is 2."""
    module = labeller(width=1, shrinkage=3.0)
    rows = torch.tensor([[[0.0]], [[1.0]], [[2.0]], [[5.0]]])
    module.set_from(sums(rows, [0, 0, 0, 1], count=2))
    assert module.prototypes.flatten().tolist() == pytest.approx([(3 * 1 + 3 * 2) / 6, (1 * 5 + 3 * 2) / 4])


def test_modalities_have_prototypes_of_their_own_samples() -> None:
    rows, classes = torch.randn(9, 2, 4), [0, 1, 2] * 3
    present = torch.ones(9, 2, dtype=torch.bool)
    present[[0, 4], 1] = False
    module = PrototypeLabels(2, 3, 4, 1.0, 0.0, [0.0] * 3)
    module.set_from(sums(rows, classes, present))
    for m in range(2):
        for k in range(3):
            members = [rows[i, m] for i in range(9) if classes[i] == k and present[i, m]]
            torch.testing.assert_close(module.prototypes[m, k], torch.stack(members).mean(0))
            assert module.prototype_counts[m, k] == len(members)
    assert module.class_counts.tolist() == [3, 3, 3]  # samples, whatever they lack


def test_class_weights_balance_the_classes() -> None:
    module = labeller(classes=3)
    assert module.class_weight() is None
    module.class_counts.copy_(torch.tensor([6, 2, 0]))
    weight = module.class_weight()
    assert weight is not None and weight.tolist() == pytest.approx([8 / 12, 2.0, 1.0])


def test_a_bank_keeps_the_last_row_of_every_sample() -> None:
    bank = FeatureBank(1, 2, torch.device("cpu"))
    everyone = torch.ones(2, 1, dtype=torch.bool)
    for index, value in (([4, 1], 1.0), ([1, 2], 2.0)):
        rows = torch.full((2, 1, 2), value)
        bank.store(torch.tensor(index), rows, everyone, torch.tensor([0, 1]), torch.tensor([0.5, 1.5]))
    assert bank.classes.tolist() == [-1, 0, 1, -1, 0]
    assert bank.rows[:, 0, 0].tolist() == [0.0, 2.0, 2.0, 0.0, 1.0]
    assert bank.present[:, 0].tolist() == [False, True, True, False, True]
