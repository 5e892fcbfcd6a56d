"""The text backbone gives the same states whether a batch runs whole or in groups of similar length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertModel

from hf_mmintent.modeling import text_backbone
from hf_mmintent.modeling.layers import clear_padding
from hf_mmintent.modeling.text_backbone import length_groups, run_text_backbone

from .testers import VOCAB, tiny_bert


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(5, VOCAB, mask.shape) * mask, mask


LENGTHS = [20, 4, 5, 6, 19, 4, 7, 5, 3, 4, 12, 5, 6, 4, 4, 18, 5, 9, 4]


def test_groups_cover_every_row_once_and_every_token() -> None:
    _, mask = batch(LENGTHS)
    groups = length_groups(mask)
    assert len(groups) == 2
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(len(LENGTHS)))
    for rows, length in groups:
        assert int(mask[rows].sum(1).max()) == length
    assert sum(len(rows) * length for rows, length in groups) < 0.8 * mask.numel()


@pytest.mark.parametrize("lengths", [[9] * 20, [9, 3, 3, 3, 3, 3]], ids=["equal", "few"])
def test_no_groups_where_they_save_nothing(lengths: list[int]) -> None:
    assert length_groups(batch(lengths)[1]) == []


def test_a_row_without_tokens_stays_in_a_group() -> None:
    _, mask = batch(LENGTHS)
    mask[3] = False
    assert sum(len(rows) for rows, _ in length_groups(mask)) == len(LENGTHS)


@pytest.mark.parametrize("hidden_states", [False, True])
def test_grouped_equals_whole(monkeypatch: pytest.MonkeyPatch, hidden_states: bool) -> None:
    torch.manual_seed(0)
    model = BertModel(tiny_bert(), add_pooling_layer=False).eval()
    ids, mask = batch(LENGTHS)
    found: list[tuple[list[torch.Tensor], torch.Tensor]] = []
    for groups in (1, 4):
        monkeypatch.setattr(text_backbone, "MAX_GROUPS", groups)
        calls: list[int] = []
        hook = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        out: Any = run_text_backbone(model, ids, mask, torch.zeros_like(ids), output_hidden_states=hidden_states)
        hook.remove()
        assert len(calls) == min(groups, 2)  # 19 rows make two groups of at least 8
        states = [out.last_hidden_state, *((out.hidden_states or ()) if hidden_states else ())]
        assert len(states) == (1 + 3 if hidden_states else 1)
        states = [clear_padding(state, mask) for state in states]
        model.zero_grad()
        states[0].square().sum().backward()
        found.append((states, model.embeddings.word_embeddings.weight.grad.clone()))
    for whole, grouped in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(grouped, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-4, rtol=1e-4)


def test_attention_maps_are_those_of_the_whole_batch() -> None:
    model = BertModel(tiny_bert(attn_implementation="eager"), add_pooling_layer=False).eval()
    ids, mask = batch(LENGTHS)
    with torch.no_grad():
        out = run_text_backbone(model, ids, mask, output_attentions=True)
    assert out.attentions[0].shape == (len(LENGTHS), 2, mask.shape[1], mask.shape[1])
