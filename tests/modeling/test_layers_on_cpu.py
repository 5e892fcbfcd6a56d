"""What the layers do differently where control flow may look at values is the same computation."""

from __future__ import annotations

import pytest
import torch

from hf_mmintent.modeling import layers
from hf_mmintent.modeling.layers import (
    Dropout,
    clear_padding,
    drop_elements,
    reverse_to_batch_major,
    reverse_to_time_major,
    reversed_steps,
)


@pytest.mark.parametrize("lengths", [(5, 2, 0), (5, 5, 5), (0, 0, 0)])
def test_clear_padding_by_rows_equals_masked_fill(monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]) -> None:
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    states = torch.randn(3, 5, 4).masked_fill(~mask[..., None], float("nan"))
    results = []
    for at_hand in (True, False):
        monkeypatch.setattr(layers, "values_are_at_hand", lambda tensor, at_hand=at_hand: at_hand)
        leaf = states.clone().requires_grad_()
        cleared = clear_padding(leaf, mask)
        cleared.square().sum().backward()
        results.append((cleared, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert torch.isfinite(results[0][1]).all()


def test_clear_padding_leaves_its_input_alone() -> None:
    states, mask = torch.ones(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    clear_padding(states, mask)
    assert torch.equal(states, torch.ones(2, 3, 4))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    states = torch.ones(1000, 401, requires_grad=True)  # not a multiple of the four elements of a random word
    dropped = drop_elements(states, rate, training=True)
    kept = dropped != 0
    deviation = (rate * (1 - rate) / states.numel()) ** 0.5
    assert abs(kept.double().mean().item() - (1 - rate)) < 5 * deviation
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - rate)), atol=0, rtol=2e-4)
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())
    # No position of a random word is favoured, and neighbours are independent.
    columns = kept.double().flatten()[: 400 * 1000].view(-1, 4)
    assert (columns.mean(0) - (1 - rate)).abs().max() < 6 * deviation * 2
    assert (columns[:, 0] * columns[:, 1]).mean().item() == pytest.approx((1 - rate) ** 2, abs=0.01)


def test_dropout_follows_the_seed_and_the_mode() -> None:
    states, module = torch.randn(7, 9), Dropout(0.3)
    first, second = [], []
    for found in (first, second):
        torch.manual_seed(5)
        found.append(module(states))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], module(states))
    assert torch.equal(module.eval()(states), states)
    assert torch.equal(Dropout(0.0).train()(states), states)
    assert torch.equal(Dropout(1.0).train()(states), torch.zeros_like(states))


def test_dropout_keeps_dtype() -> None:
    assert drop_elements(torch.ones(8, dtype=torch.bfloat16), 0.5, training=True).dtype == torch.bfloat16


def test_reversal_in_both_layouts() -> None:
    states = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
    order = reversed_steps(torch.tensor([3, 0]), 4)
    assert order.tolist() == [[2, 1, 0, 3], [0, 1, 2, 3]]
    expected = states.clone()
    expected[0, :3] = states[0, :3].flip(0)
    reversed_states = reverse_to_time_major(states, order)
    assert torch.equal(reversed_states, expected.transpose(0, 1))
    assert torch.equal(reverse_to_batch_major(reversed_states, order), states)


@pytest.mark.parametrize("masked", [False, True])
def test_written_out_attention_equals_torch(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    """In training with dropout on CPU attention is written out; without the random part both are one function."""
    from .testers import MvclDafTester

    config = MvclDafTester().config()
    config._attn_implementation = "sdpa"
    attention = layers.Attention(config, 16, 2, dropout=0.2).train()
    states, mask = torch.randn(3, 5, 16), torch.arange(5) < torch.tensor([5, 3, 0])[:, None]
    keys = layers.key_mask(config, states, states, mask) if masked else None
    monkeypatch.setattr(layers, "drop_elements", lambda states, p, training: states)
    written_out, weights = attention(states, states, states, keys)
    assert weights is None  # as sdpa: maps are for the eager implementation
    torch.testing.assert_close(written_out, attention.eval()(states, states, states, keys)[0], atol=1e-6, rtol=1e-5)
