"""Contrastive losses by class against numbers worked out by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hf_mmintent.modeling.class_contrast import across_modalities_contrast, within_modality_contrast

from .references import cosine

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def test_eq_1_as_printed_by_hand() -> None:
    """Classes 0, 0, 1 at east, north, west: cosines 0 between the positives, the anchor itself is in the denominator."""
    rows, classes = torch.tensor([EAST, NORTH, WEST]), torch.tensor([0, 0, 1])
    east, north = math.log(math.e + 1 + 1 / math.e), math.log(1 + math.e + 1)
    found = within_modality_contrast(rows, classes, torch.ones(3, dtype=torch.bool), 1.0, "printed")
    assert found.item() == pytest.approx((east + north) / 2, abs=1e-6)
    assert found.item() == pytest.approx(1.479525, abs=1e-5)


def test_supervised_contrast_by_hand() -> None:
    """The same without the anchor in the denominator: log(1 + 1/e) and log 2."""
    rows, classes = torch.tensor([EAST, NORTH, WEST]), torch.tensor([0, 0, 1])
    found = within_modality_contrast(rows, classes, torch.ones(3, dtype=torch.bool), 1.0)
    assert found.item() == pytest.approx((0.313262 + 0.693147) / 2, abs=1e-5)


def test_contrast_across_modalities_by_hand() -> None:
    """Two samples of two classes; each anchor's one positive is the same sample's other modality, at cosine 0."""
    rows = torch.tensor([[EAST, NORTH], [WEST, NORTH]])
    found = across_modalities_contrast(rows, torch.tensor([0, 1]), torch.ones(2, 2, dtype=torch.bool), 1.0)
    assert found.item() == pytest.approx((2 * math.log(2 + 1 / math.e) + 2 * math.log(2 + math.e)) / 4, abs=1e-6)


def test_eq_2_as_printed_takes_the_next_modality_of_the_same_sample() -> None:
    rows = torch.tensor([[EAST, NORTH, WEST]])  # one sample: east -> north -> west -> east
    found = across_modalities_contrast(rows, torch.tensor([0]), torch.ones(1, 3, dtype=torch.bool), 1.0, "printed")
    ends = math.log(math.e + 1 + 1 / math.e)
    assert found.item() == pytest.approx((ends + math.log(2 + math.e) + ends + 1) / 3, abs=1e-6)


def test_eq_2_as_printed_goes_on_to_the_next_sample_of_the_class() -> None:
    """Two samples of one class with two modalities: (0, 0) -> (0, 1) -> (1, 0) -> (1, 1) -> (0, 0)."""
    rows = torch.tensor([[EAST, NORTH], [NORTH, WEST]])
    found = across_modalities_contrast(rows, torch.tensor([0, 0]), torch.ones(2, 2, dtype=torch.bool), 1.0, "printed")
    east, north = math.log(math.e + 2 + 1 / math.e), math.log(2 * math.e + 2)  # west is like east
    expected = (east - 0) + (north - 1) + (north - 0) + (east - -1)
    assert found.item() == pytest.approx(expected / 4, abs=1e-6)


def within_reference(rows: Tensor, classes: list[int], valid: list[bool], temperature: float) -> float:
    losses = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i and valid[j]]
        positives = [j for j in others if classes[j] == classes[i]]
        if valid[i] and positives:
            total = sum(math.exp(cosine(rows[i], rows[j]) / temperature) for j in others)
            logs = [math.log(math.exp(cosine(rows[i], rows[j]) / temperature) / total) for j in positives]
            losses.append(-sum(logs) / len(logs))
    return sum(losses) / len(losses) if losses else 0.0


def across_reference(rows: Tensor, classes: list[int], valid: Tensor, temperature: float) -> float:
    items = [(b, m) for b in range(rows.shape[0]) for m in range(rows.shape[1]) if valid[b, m]]
    losses = []
    for b, m in items:
        positives = [(c, n) for c, n in items if classes[c] == classes[b] and n != m]
        negatives = [(c, n) for c, n in items if classes[c] != classes[b]]
        if positives:
            shares = {x: math.exp(cosine(rows[b, m], rows[x]) / temperature) for x in positives + negatives}
            losses.append(-sum(math.log(shares[x] / sum(shares.values())) for x in positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_contrasts_equal_loops(seed: int) -> None:
    """Also with anchors that have no positive (class 3 occurs once) and absent modalities."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(7, 3, 5, generator=generator)
    classes = [0, 1, 0, 1, 3, 0, 2]
    valid = torch.rand(7, 3, generator=generator) > 0.3
    found = within_modality_contrast(rows[:, 0], torch.tensor(classes), valid[:, 0], 0.2)
    assert found.item() == pytest.approx(within_reference(rows[:, 0], classes, valid[:, 0].tolist(), 0.2), abs=1e-4)
    found = across_modalities_contrast(rows, torch.tensor(classes), valid, 0.2)
    assert found.item() == pytest.approx(across_reference(rows, classes, valid, 0.2), abs=1e-4)


@pytest.mark.parametrize("form", ["supcon", "printed"])
def test_without_any_positive_there_is_no_loss_and_no_gradient(form: str) -> None:
    rows = torch.randn(4, 3, requires_grad=True)
    everyone = torch.ones(4, dtype=torch.bool)
    for classes, valid in ((torch.arange(4), everyone), (torch.zeros(4, dtype=torch.long), ~everyone)):
        loss = within_modality_contrast(rows, classes, valid, 0.1, form)
        (gradient,) = torch.autograd.grad(loss, rows)
        assert loss.item() == 0.0 and gradient.eq(0).all()


@pytest.mark.parametrize("form", ["supcon", "printed"])
def test_absent_rows_have_no_part(form: str) -> None:
    """Neither their values nor, in the gradient, themselves."""
    rows, classes = torch.randn(6, 2, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    valid = torch.ones(6, 2, dtype=torch.bool)
    valid[2] = valid[5, 0] = False
    changed = torch.where(valid[..., None], rows, 7.0).requires_grad_()
    loss = across_modalities_contrast(changed, classes, valid, 0.1, form)
    assert loss.item() == pytest.approx(across_modalities_contrast(rows, classes, valid, 0.1, form).item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, changed)
    assert gradient[~valid].eq(0).all() and gradient[valid].ne(0).any()


def test_half_precision_input_is_compared_in_float32() -> None:
    rows, classes = torch.randn(6, 4).bfloat16(), torch.tensor([0, 1, 0, 1, 0, 1])
    everyone = torch.ones(6, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = within_modality_contrast(rows, classes, everyone, 0.1)
    assert found.dtype == torch.float32
    assert found.item() == within_modality_contrast(rows.float(), classes, everyone, 0.1).item()
