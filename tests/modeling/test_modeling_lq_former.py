"""LQ-Former's own: queries from captions, numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import BertModel

from hf_mmintent.modeling.configuration_lq_former import LQFormerConfig
from hf_mmintent.modeling.modeling_lq_former import LQFormerModel

from .connector_testers import WIDTH, LQFormerTester, MaskedLQFormerTester
from .test_connectors import run
from .testers import tiny_bert

TESTER = LQFormerTester()


def test_defaults_are_those_of_the_specification() -> None:
    config = LQFormerConfig()
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (768, 12, 3072)
    assert (config.num_hidden_layers, config.cross_attention_layers) == (2, [0, 1])
    assert config.query_counts == (32, 16) and config.encoder_hidden_size == 1024
    assert config.caption_fill == "filler" and config.output_projection and config.freeze_caption_embeddings


def test_caption_slots_are_the_embeddings_of_bert() -> None:
    bert = BertModel(tiny_bert(), add_pooling_layer=False).eval()
    for parameter in bert.parameters():
        nn.init.normal_(parameter, std=0.5)
    model = LQFormerModel.from_backbones(text=bert, audio=WIDTH, **TESTER.fields).eval()
    inputs = TESTER.inputs()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        states, valid = model.query_states(ids, None, mask, 4)
        expected = bert.embeddings(ids)
    length = ids.shape[1]
    there = mask.bool()
    assert torch.equal(model.layernorm(states[:, :length])[there], expected[there])  # LN once, and BERT's own
    fillers = model.fillers.weight + bert.embeddings.position_embeddings.weight[:6]  # filler_j + E_pos(j)
    assert torch.equal(states[2, :6], fillers) and torch.equal(states[0, length:6], fillers[length:])
    assert torch.equal(states[:, 6:], model.queries.weight.expand(4, -1, -1)) and valid.all()
    assert not any(table.requires_grad for table in model.embeddings.parameters())


def test_frozen_tables_stay_and_free_ones_move() -> None:
    for frozen in (True, False):
        model = TESTER.model(freeze_caption_embeddings=frozen).train()
        model(**TESTER.inputs()).last_hidden_state.square().mean().backward()
        assert (model.embeddings.word_embeddings.weight.grad is None) == frozen


def test_slots_of_a_masked_caption_take_no_part() -> None:
    """`mask`: an empty slot is no key for the others, holds zeros and does not count in the mean."""
    model, inputs = MaskedLQFormerTester().model(), TESTER.inputs()
    out = run(model, inputs)
    lengths = torch.tensor(TESTER.caption_lengths)
    expected = torch.cat([(torch.arange(6) < lengths[:, None]).long(), torch.ones(4, 3, dtype=torch.long)], 1)
    assert torch.equal(out.query_attention_mask, expected)
    assert not out.last_hidden_state[expected == 0].any()
    assert model.fillers is None
    # The same as a connector with exactly as many slots.
    short = MaskedLQFormerTester().model(num_caption_tokens=2)
    short.load_state_dict(model.state_dict())
    row = {name: value[1:2] for name, value in inputs.items()}
    found = run(short, row).last_hidden_state[0]
    torch.testing.assert_close(found, out.last_hidden_state[1, [0, 1, 6, 7, 8]], atol=1e-6, rtol=1e-6)


def test_captions_longer_than_their_slots_are_cut() -> None:
    model, inputs = TESTER.model(num_caption_tokens=3), TESTER.inputs()
    cut = {**inputs, "input_ids": inputs["input_ids"][:, :3], "attention_mask": inputs["attention_mask"][:, :3]}
    assert torch.equal(run(model, inputs).last_hidden_state, run(model, cut).last_hidden_state)


def test_captions_of_a_text_encoder() -> None:
    model = TESTER.model(caption_source="encoder", caption_embed_size=5)
    inputs = TESTER.inputs()
    ids = inputs.pop("input_ids")
    embeds = torch.randn(*ids.shape, 5)
    embeds[~inputs["attention_mask"].bool()] = float("nan")
    out = run(model, inputs, caption_embeds=embeds)
    assert torch.isfinite(out.last_hidden_state).all()
    other = run(model, inputs, caption_embeds=embeds * 2).last_hidden_state
    assert torch.equal(other[2], out.last_hidden_state[2]) and not torch.equal(other[0], out.last_hidden_state[0])
    assert model.get_input_embeddings() is None
    with pytest.raises(ValueError, match="captions come as `caption_embeds`"):
        run(model, inputs, input_ids=ids)
    with pytest.raises(ValueError, match="captions come as `input_ids`"):
        run(TESTER.model(), inputs, caption_embeds=embeds)
    with pytest.raises(StrictDataclassClassValidationError, match="`caption_embed_size` is None"):
        TESTER.config(caption_source="encoder")


def test_one_layer_by_hand() -> None:
    """
    One query of width 3, one head, two features of width 1, h₀ = LN(2, −1, −1) = (√2, −√½, −√½).

    Self-attention adds nothing. With q = (1, 0, 0), keys (0, 0, 0) and (√3·ln 3, 0, 0) the weights are 1/4 and 3/4, values 0
    and 4 mix to 3, and the linear layer makes h₀ + update = (1, 0, −1), whose LN is (√1.5, 0, −√1.5).
    """
    config = LQFormerConfig(
        hidden_size=3,
        num_attention_heads=1,
        intermediate_size=2,
        num_hidden_layers=1,
        encoder_hidden_size=1,
        num_caption_tokens=0,
        num_learned_queries=1,
    )
    model = LQFormerModel(config).eval()
    root, half = math.sqrt(2), math.sqrt(0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith(("LayerNorm.weight", "layernorm.weight")) else 0.0)
        model.queries.weight.copy_(torch.tensor([[2.0, -1.0, -1.0]]))
        cross = model.encoder.layer[0].crossattention
        cross.attention.query.weight[0, 0] = 1 / root
        cross.attention.key.weight[0, 0] = 1.0
        cross.attention.value.weight[0, 0] = 4 / (math.sqrt(3) * math.log(3))
        cross.output.dense.weight[:, 0] = torch.tensor([1 - root, half, half - 1]) / 3
        model.output_projection.weight.copy_(torch.eye(3)[[2, 1, 0]])
    features = torch.tensor([[[0.0], [math.sqrt(3) * math.log(3)]]])
    with torch.no_grad():
        out = model(encoder_hidden_states=features, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(out.hidden_states[0][0, 0], torch.tensor([root, -half, -half]))
    torch.testing.assert_close(out.cross_attentions[0][0, 0, 0], torch.tensor([0.25, 0.75]))
    side = math.sqrt(1.5)
    torch.testing.assert_close(out.last_hidden_state[0, 0], torch.tensor([-side, 0.0, side]))


def test_projection_after_the_last_layer_is_optional() -> None:
    model, plain = TESTER.model(), TESTER.model(output_projection=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs = TESTER.inputs()
    with torch.no_grad():
        expected = model.output_projection(plain(**inputs).last_hidden_state)
    assert torch.equal(run(model, inputs).last_hidden_state, expected)
