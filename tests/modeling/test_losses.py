"""Losses: equal to loops, independent of order and of whatever rows that do not count may hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_mmintent.modeling.losses import class_means, global_mean, info_nce, prototype_loss, task_loss

from .references import info_nce_reference, prototype_reference

CLASSES = 4
GARBAGE = (float("nan"), float("inf"), -float("inf"), 1e30, 0.0)
quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def batches(draw: Any) -> dict[str, Any]:
    """Anchors, views, validity and classes of one to nine samples, any number of them invalid."""
    size, width = draw(st.integers(1, 9)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return {
        "anchors": torch.randn(size, width, generator=generator),
        "views": torch.randn(size, width, generator=generator),
        "valid": torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))),
        "classes": torch.tensor(draw(st.lists(st.integers(0, CLASSES - 1), min_size=size, max_size=size))),
        "order": torch.tensor(draw(st.permutations(range(size)))),
        "temperature": draw(st.sampled_from([0.1, 0.5, 1.0])),
    }


def contrastive(batch: dict[str, Any], exclude: bool) -> Tensor:
    labels = batch["classes"] if exclude else None
    return info_nce(batch["anchors"], batch["views"], batch["valid"], batch["temperature"], labels)


def prototypes(batch: dict[str, Any], normalize: bool) -> Tensor:
    return prototype_loss(
        batch["views"], batch["classes"], batch["valid"], CLASSES, batch["temperature"], normalize_instances=normalize
    )


def shuffled(batch: dict[str, Any]) -> dict[str, Any]:
    names = ("anchors", "views", "valid", "classes")
    return {**batch, **{name: batch[name][batch["order"]] for name in names}}


@quick
@given(batches(), st.booleans())
def test_info_nce_equals_the_loop(batch: dict[str, Any], exclude: bool) -> None:
    classes = batch["classes"].tolist() if exclude else None
    expected = info_nce_reference(
        batch["anchors"], batch["views"], batch["valid"].tolist(), batch["temperature"], classes
    )
    assert contrastive(batch, exclude).item() == pytest.approx(expected, abs=2e-5)


@quick
@given(batches(), st.booleans())
def test_prototype_loss_equals_the_loop(batch: dict[str, Any], normalize: bool) -> None:
    expected = prototype_reference(
        batch["views"], batch["classes"].tolist(), batch["valid"].tolist(), batch["temperature"], normalize
    )
    assert prototypes(batch, normalize).item() == pytest.approx(expected, abs=2e-5)


@quick
@given(batches(), st.booleans())
def test_order_of_samples_does_not_matter(batch: dict[str, Any], flag: bool) -> None:
    for loss in (contrastive, prototypes):
        assert loss(shuffled(batch), flag).item() == pytest.approx(loss(batch, flag).item(), abs=1e-5)


@quick
@given(batches(), st.booleans(), st.sampled_from(GARBAGE))
def test_rows_that_do_not_count_may_hold_anything(batch: dict[str, Any], flag: bool, garbage: float) -> None:
    """Neither the value nor any gradient sees them; what they hold gets no gradient itself."""
    invalid = ~batch["valid"]
    wrong_class = batch["classes"].masked_fill(invalid, -100)
    for loss in (contrastive, prototypes):
        found = []
        for fill, classes in ((0.5, batch["classes"]), (garbage, wrong_class)):
            rows = {
                name: batch[name].masked_fill(invalid[:, None], fill).requires_grad_() for name in ("anchors", "views")
            }
            value = loss({**batch, **rows, "classes": classes}, flag)
            value.backward()
            found.append((value.detach(), *(row.grad for row in rows.values() if row.grad is not None)))
        assert torch.isfinite(found[1][0])
        for plain, dirty in zip(*found, strict=True):
            torch.testing.assert_close(dirty, plain, atol=1e-6, rtol=1e-5)
        for gradient in found[1][1:]:
            assert not gradient[invalid].any()


@quick
@given(batches(), st.booleans())
def test_values_lie_in_their_range(batch: dict[str, Any], flag: bool) -> None:
    """A cosine lies in [−1, 1], hence −log softmax over n columns lies in [0, log n + 2/τ]."""
    count = int(batch["valid"].sum())
    present = len(set(batch["classes"][batch["valid"]].tolist()))
    for loss, columns in ((contrastive, count), (prototypes, present)):
        value = loss(batch, flag).item()
        assert -1e-6 <= value <= math.log(max(columns, 1)) + 2 / batch["temperature"] + 1e-4
        if columns <= 1:
            assert value == pytest.approx(0.0, abs=1e-6)


@quick
@given(batches(), st.floats(0.01, 100.0))
def test_only_directions_matter_to_info_nce(batch: dict[str, Any], factor: float) -> None:
    scaled = {**batch, "anchors": batch["anchors"] * factor, "views": batch["views"] / factor}
    assert contrastive(scaled, False).item() == pytest.approx(contrastive(batch, False).item(), abs=1e-4)


@quick
@given(batches())
def test_class_means_equal_numpy(batch: dict[str, Any]) -> None:
    means, counts = class_means(batch["views"], batch["classes"], batch["valid"], CLASSES)
    for label in range(CLASSES):
        rows = batch["views"][batch["valid"] & (batch["classes"] == label)]
        assert counts[label] == len(rows)
        torch.testing.assert_close(means[label], rows.mean(0) if len(rows) else torch.zeros_like(means[label]))


def test_zero_rows_have_finite_gradients() -> None:
    """A view can be exactly zero (dead units): no direction, but no NaN either."""
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    classes, valid = torch.tensor([0, 1, 0]), torch.ones(3, dtype=torch.bool)
    loss = info_nce(rows, rows, valid, 0.1) + prototype_loss(rows, classes, valid, 2, 0.1)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(rows.grad).all()


def test_stopped_prototypes_pass_no_gradient() -> None:
    """Same value; the gradient is that of fixed prototypes."""
    rows, classes = torch.randn(5, 3), torch.tensor([0, 1, 0, 2, 1])
    valid = torch.ones(5, dtype=torch.bool)
    free, stopped, fixed = (rows.clone().requires_grad_() for _ in range(3))
    value = prototype_loss(free, classes, valid, 3, 0.5)
    value.backward()
    again = prototype_loss(stopped, classes, valid, 3, 0.5, stop_gradient=True)
    again.backward()
    means = torch.stack([rows[classes == c].mean(0) for c in range(3)])
    logits = torch.nn.functional.cosine_similarity(fixed[:, None], means[None], dim=-1) / 0.5
    torch.nn.functional.cross_entropy(logits, classes).backward()
    assert value.item() == pytest.approx(again.item(), abs=1e-6)
    torch.testing.assert_close(stopped.grad, fixed.grad)
    assert not torch.allclose(free.grad, stopped.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_lower_the_precision(dtype: torch.dtype) -> None:
    """At τ = 0.1 a cosine of bfloat16 would be off by several hundredths in the exponent."""
    anchors, views = torch.randn(8, 64), torch.randn(8, 64)
    valid, classes = torch.ones(8, dtype=torch.bool), torch.arange(8) % 3
    plain = info_nce(anchors, views, valid, 0.1), prototype_loss(views, classes, valid, 3, 0.1)
    with torch.autocast("cpu", dtype=dtype):
        cast = info_nce(anchors, views, valid, 0.1), prototype_loss(views, classes, valid, 3, 0.1)
    for expected, value in zip(plain, cast, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_global_mean_of_nothing_is_zero() -> None:
    values = torch.tensor([float("nan"), 3.0], requires_grad=True)
    assert global_mean(values, torch.tensor([False, False]), gather=True).item() == 0.0
    assert global_mean(values, torch.tensor([False, True]), gather=False).item() == 3.0


# ---- the task itself ------------------------------------------------------------------------------------------------


def test_cross_entropy_ignores_and_weighs_as_torch() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, -100, 2, 1, 0])
    weight = torch.tensor([1.0, 3.0, 0.5])
    for given_weight in (None, weight):
        expected = torch.nn.functional.cross_entropy(logits, labels, weight=given_weight)
        torch.testing.assert_close(
            task_loss(logits, labels, "single_label_classification", class_weight=given_weight), expected
        )
    nothing = task_loss(logits.requires_grad_(), torch.full((5,), -100), "single_label_classification")
    nothing.backward()
    assert nothing.item() == 0.0 and not logits.grad.any()


@pytest.mark.parametrize(("name", "expected"), [("l1", (1.0 + 2.0) / 2), ("mse", (1.0 + 4.0) / 2)])
def test_regression_losses(name: str, expected: float) -> None:
    logits, labels = torch.tensor([[1.0], [-1.0]]), torch.tensor([2.0, 1.0])
    assert task_loss(logits, labels, "regression", name).item() == pytest.approx(expected)


def test_several_labels() -> None:
    """-log σ(0) = log 2 for every entry, whatever the labels are."""
    value = task_loss(torch.zeros(2, 3), torch.tensor([[1, 0, 1], [0, 0, 1]]), "multi_label_classification")
    assert value.item() == pytest.approx(math.log(2))
