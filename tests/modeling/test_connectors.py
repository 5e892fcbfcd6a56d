"""What every connector keeps, whatever it computes: outputs, saving, training, inputs, cost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, BertModel, Blip2QFormerConfig, Blip2QFormerModel

from .connector_testers import CONNECTOR_TESTERS, WIDTH, ConnectorTester
from .test_common import facts
from .testers import run, tiny_bert

all_connectors = pytest.mark.parametrize("tester", CONNECTOR_TESTERS, ids=lambda tester: type(tester).__name__)
IMPLEMENTATIONS = ["eager", "sdpa"]


def loss_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """A loss on all tokens, and the model's own terms as its owner adds them."""
    out = model(**inputs)
    target = torch.linspace(-1, 1, out.last_hidden_state.shape[-1])
    loss = (out.last_hidden_state - target).square().mean()
    for name, term in (out.loss_terms or {}).items():
        loss = loss + model.loss_weights[name] * term
    return loss


def close(found: Any, expected: Any, rows: list[int] | slice = slice(None)) -> None:
    for name in ("last_hidden_state", "embeddings"):
        torch.testing.assert_close(found[name][rows], expected[name][rows], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.query_attention_mask[rows], expected.query_attention_mask[rows])


@all_connectors
def test_outputs_are_complete_and_shaped(tester: ConnectorTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    out = run(model, inputs, output_attentions=True, output_hidden_states=True)
    config, queries = model.config, sum(model.config.query_counts)
    assert out.last_hidden_state.shape == (4, queries, config.hidden_size)
    assert out.query_attention_mask.shape == (4, queries) and out.query_attention_mask.dtype == torch.long
    mask = out.query_attention_mask[..., None]
    torch.testing.assert_close(out.embeddings, (out.last_hidden_state * mask).sum(1) / mask.sum(1))
    assert out.loss is None and len(out.hidden_states) == config.num_hidden_layers + 1
    assert [maps.shape for maps in out.attentions] == [(4, 2, queries, queries)] * config.num_hidden_layers
    depth = len(config.cross_attention_layers)
    assert [maps.shape for maps in out.cross_attentions] == [(4, 2, queries, 9)] * depth
    plain = run(model, {**inputs, "return_dict": False})
    assert isinstance(plain, tuple) and torch.allclose(plain[0], out.last_hidden_state, atol=1e-5)


@all_connectors
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_maps_are_distributions_over_valid_features(tester: ConnectorTester, attention: str) -> None:
    model, inputs = tester.model(), tester.inputs()
    model.set_attn_implementation(attention)
    inputs["encoder_attention_mask"][1] = 0
    out = run(model, inputs, output_attentions=True)
    for maps in out.cross_attentions:
        assert not maps[1].any() and not maps[2, :, :, 7:].any()
        sums = maps[[0, 2, 3]].sum(-1)
        assert torch.all(torch.isclose(sums, torch.ones(())) | (sums == 0))
        assert (sums == 0).all() == torch.tensor(False)
    torch.testing.assert_close(run(model, inputs).last_hidden_state, out.last_hidden_state, atol=1e-5, rtol=1e-5)


@all_connectors
def test_save_and_load_give_the_same_states(tester: ConnectorTester, tmp_path: Path) -> None:
    model, inputs = tester.model(), tester.inputs()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is tester.model_class and not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(run(loaded.eval(), inputs).last_hidden_state, run(model, inputs).last_hidden_state)
    assert facts(loaded.config.to_dict()) == facts(model.config.to_dict())
    assert {n: p.requires_grad for n, p in loaded.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    assert facts(AutoConfig.from_pretrained(tmp_path).to_dict()) == facts(model.config.to_dict())


@all_connectors
def test_weights_are_initialised_where_a_checkpoint_lacks_them(tester: ConnectorTester, tmp_path: Path) -> None:
    """Every parameter and buffer missing from the checkpoint: what comes back is neither garbage nor random memory."""
    model = tester.model(spread=0.02)
    nothing = {"unrelated": torch.zeros(1)}
    model.save_pretrained(tmp_path, state_dict=nothing)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        loaded = tester.model_class.from_pretrained(tmp_path).eval()
        states.append(run(loaded, tester.inputs()).last_hidden_state)
        for name, value in loaded.state_dict().items():
            assert torch.isfinite(value).all() and value.abs().max() <= 10, name
    assert torch.equal(*states)


@all_connectors
def test_bf16_stays_close(tester: ConnectorTester, tmp_path: Path) -> None:
    model, inputs = tester.model(spread=0.05), tester.inputs()
    model.save_pretrained(tmp_path)
    half = tester.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    out = run(half, inputs)
    assert out.last_hidden_state.dtype == torch.bfloat16
    # Rounding may send another guide through the cross-attention: close for the most part.
    difference = (out.last_hidden_state.float() - run(model, inputs).last_hidden_state).abs()
    assert difference.median() < 0.03


@all_connectors
def test_bf16_autocast_trains(tester: ConnectorTester) -> None:
    model = tester.model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, tester.inputs())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@all_connectors
def test_one_step_moves_every_trainable_parameter(tester: ConnectorTester) -> None:
    model = tester.model().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    loss_of(model, tester.inputs()).backward()
    optimizer.step()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    still = {name for name, value in model.named_parameters() if torch.equal(before[name], value)}
    # The softmax does not see what all keys share; rounding alone moves these.
    assert frozen <= still and not {name for name in still - frozen if not name.endswith("key.bias")}


@all_connectors
def test_seeds_reproduce_training_exactly(tester: ConnectorTester) -> None:
    def train() -> Tensor:
        model = tester.model(seed=1).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, tester.inputs(seed=step)).backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(train(), train())


@all_connectors
def test_activation_checkpointing_gives_the_same_gradients(tester: ConnectorTester) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tester.model(seed=2).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        loss_of(model, tester.inputs()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


class Owner(nn.Module):
    """What owns a connector: here a linear layer behind it."""

    def __init__(self, connector: Any) -> None:
        super().__init__()
        self.connector = connector
        self.config = connector.config
        self.head = nn.Linear(connector.config.hidden_size, 2)

    def forward(self, **inputs: Any) -> Tensor:
        return self.head(self.connector(**inputs).embeddings)


@all_connectors
def test_peft_trains_and_stores_the_whole_connector(tester: ConnectorTester, tmp_path: Path) -> None:
    """`modules_to_save` passes over parameters that a model owns directly: queries and fillers live in modules."""
    from peft import LoraConfig, PeftModel, get_peft_model

    peft = get_peft_model(Owner(tester.model()), LoraConfig(target_modules=["head"], modules_to_save=["connector"]))
    names = {name for name, p in peft.named_parameters() if p.requires_grad}
    for part in ("queries.weight", "fillers.weight"):
        if part in dict(tester.model().named_parameters()):
            assert any(name.endswith(part) for name in names), part
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=1e-2)
    peft.train()
    peft(**tester.inputs()).square().sum().backward()
    optimizer.step()
    trained = run(peft.eval(), tester.inputs())
    peft.save_pretrained(tmp_path)
    head = Owner(tester.model())
    head.head.load_state_dict(peft.base_model.model.head.base_layer.state_dict())
    reloaded = PeftModel.from_pretrained(head, tmp_path).eval()
    assert torch.equal(run(reloaded, tester.inputs()), trained)


# ---- inputs that do not fit --------------------------------------------------------------------------------------


@all_connectors
def test_misaligned_inputs_raise(tester: ConnectorTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    for values, mask in tester.sequence_inputs.items():
        with pytest.raises(ValueError, match="mask"):
            run(model, {**inputs, mask: inputs[mask][:, :-1]})
        with pytest.raises(ValueError, match=f"without `{values}`"):
            run(model, {name: value for name, value in inputs.items() if name != values})
    with pytest.raises(ValueError, match=rf"24\).*`config.encoder_hidden_size` is {WIDTH}"):
        run(model, {**inputs, "encoder_hidden_states": torch.cat([inputs["encoder_hidden_states"]] * 2, -1)})
    with pytest.raises(ValueError, match="different batch sizes"):
        run(model, {**inputs, "input_ids": inputs["input_ids"][:2], "attention_mask": inputs["attention_mask"][:2]})
    with pytest.raises(ValueError, match="no steps"):
        run(model, {"encoder_hidden_states": inputs["encoder_hidden_states"][:, :0]})
    with pytest.raises(ValueError, match="nothing is given"):
        run(model, {})


@all_connectors
def test_unknown_config_field_names_the_closest(tester: ConnectorTester) -> None:
    wrong, right = tester.misspelt
    with pytest.raises(ValueError, match=f"no field `{wrong}`.*Did you mean `{right}`"):
        tester.config(**{wrong: 3})


@all_connectors
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3}, "not divisible by `num_attention_heads` = 3"),
        ({"cross_attention_frequency": 0}, "`cross_attention_frequency` is 0"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` is 0"),
        ({"max_position_embeddings": 5}, "6 caption slots but `max_position_embeddings` is 5"),
    ],
)
def test_config_refuses(tester: ConnectorTester, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        tester.config(**fields)


# ---- invariances -------------------------------------------------------------------------------------------------


@all_connectors
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize("fill", [7.0, float("nan")])
def test_padding_does_not_matter(tester: ConnectorTester, fill: float, attention: str) -> None:
    model, inputs = tester.model(), tester.inputs()
    model.set_attn_implementation(attention)
    close(run(model, tester.pad(inputs, 4, fill)), run(model, inputs))
    changed = {**inputs, "input_ids": inputs["input_ids"].where(inputs["attention_mask"].bool(), 99)}
    assert torch.equal(run(model, changed).last_hidden_state, run(model, inputs).last_hidden_state)


@all_connectors
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_batch_mates_do_not_matter(tester: ConnectorTester, attention: str) -> None:
    """Every sample alone, trimmed to its own lengths, gives what it gives in the batch; so does any order."""
    model, inputs = tester.model(), tester.inputs()
    model.set_attn_implementation(attention)
    together = run(model, inputs)
    for row in range(4):
        single = {name: value[row : row + 1] for name, value in inputs.items()}
        for values, mask in tester.sequence_inputs.items():
            length = int(inputs[mask][row].sum())
            single[values], single[mask] = single[values][:, :length], single[mask][:, :length]
        if single["input_ids"].shape[1] == 0:
            del single["input_ids"], single["attention_mask"]
        alone = run(model, single)
        torch.testing.assert_close(alone.last_hidden_state[0], together.last_hidden_state[row], atol=1e-5, rtol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = run(model, {name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(shuffled.last_hidden_state, together.last_hidden_state[order], atol=1e-5, rtol=1e-5)


@all_connectors
def test_eager_equals_sdpa(tester: ConnectorTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    found = []
    for attention in IMPLEMENTATIONS:
        model.set_attn_implementation(attention)
        found.append(run(model, inputs))
    close(*found)


@all_connectors
def test_captions_guide_and_features_are_read(tester: ConnectorTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    expected = run(model, inputs)
    order = torch.tensor([1, 0, 2, 3])
    swapped = {**inputs, "input_ids": inputs["input_ids"][order], "attention_mask": inputs["attention_mask"][order]}
    found = run(model, swapped).last_hidden_state
    assert torch.equal(found[2:], expected.last_hidden_state[2:])
    learned = slice(model.config.query_counts[0], None)  # also where no caption token stands
    for row in (0, 1):
        assert (found[row, learned] - expected.last_hidden_state[row, learned]).abs().max() > 1e-3
    other = run(model, {**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"].flip(0)}).last_hidden_state
    assert (other - expected.last_hidden_state).abs().amax((1, 2)).min() > 1e-3


@all_connectors
def test_no_caption_equals_a_masked_one(tester: ConnectorTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    features = {name: value for name, value in inputs.items() if name.startswith("encoder")}
    masked = run(model, {**inputs, "attention_mask": torch.zeros_like(inputs["attention_mask"])})
    close(run(model, features), masked)
    close(masked, run(model, inputs), [2])


@all_connectors
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_absent_features_add_exactly_nothing(tester: ConnectorTester, attention: str) -> None:
    """The update of a row without features is 0, not the bias of a linear layer, and whatever the backend makes of it."""
    model, inputs = tester.model(), tester.inputs()
    model.set_attn_implementation(attention)
    for block in [layer.crossattention for layer in model.encoder.layer if layer.crossattention is not None]:
        nn.init.constant_(block.output.dense.bias, 3.0)
    inputs["encoder_attention_mask"][1] = 0
    inputs["encoder_hidden_states"][1] = float("nan")
    updates: list[Tensor] = []
    for layer in model.encoder.layer:
        if layer.crossattention is not None:
            layer.crossattention.output.LayerNorm.register_forward_pre_hook(
                lambda module, args: updates.append(args[0])
            )
    inside: list[Tensor] = []
    for layer in model.encoder.layer:
        if layer.crossattention is not None:
            layer.crossattention.register_forward_pre_hook(lambda module, args: inside.append(args[0]))
    mixed = run(model, inputs)
    for update, states in zip(updates, inside, strict=True):
        assert torch.equal(update[1], states[1])  # LN(h + 0), or LN(h) where the norm stands before
    absent = run(model, {name: inputs[name] for name in ("input_ids", "attention_mask")})
    close(mixed, absent, [1])
    alone = run(model, {name: value[1:2] for name, value in inputs.items()})
    torch.testing.assert_close(alone.last_hidden_state[0], mixed.last_hidden_state[1], atol=1e-5, rtol=1e-5)


@all_connectors
def test_absent_features_train_without_nan(tester: ConnectorTester) -> None:
    model, inputs = tester.model().train(), tester.inputs()
    inputs["encoder_attention_mask"][[1, 2]] = 0
    loss_of(model, inputs).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    loss_of(model, {name: inputs[name] for name in ("input_ids", "attention_mask")}).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ---- pretrained weights and cost ---------------------------------------------------------------------------------


@all_connectors
def test_bert_is_really_loaded(tester: ConnectorTester) -> None:
    torch.manual_seed(5)
    depth = tester.config().num_hidden_layers
    bert = BertModel(tiny_bert(num_hidden_layers=depth), add_pooling_layer=False).eval()
    for parameter in bert.parameters():
        nn.init.normal_(parameter, std=0.3)
    extra = {"layer_norm_eps": bert.config.layer_norm_eps, **tester.fields}
    model = tester.model_class.from_backbones(text=bert, video=WIDTH, **extra).eval()
    assert model.config.encoder_hidden_size == WIDTH and model.config.vocab_size == bert.config.vocab_size
    for ours, theirs in zip(model.encoder.layer, bert.encoder.layer, strict=True):
        for kind in ("query", "key", "value"):
            assert torch.equal(
                getattr(ours.attention.attention, kind).weight, getattr(theirs.attention.self, kind).weight
            )
        assert torch.equal(ours.intermediate_query.dense.bias, theirs.intermediate.dense.bias)
        assert torch.equal(ours.output_query.LayerNorm.weight, theirs.output.LayerNorm.weight)
    if tester.fields.get("norm_style") == "pre":
        return  # BERT's numbers in another arrangement
    states = torch.randn(2, 5, bert.config.hidden_size)
    with torch.no_grad():
        for ours, theirs in zip(model.encoder.layer, bert.encoder.layer, strict=True):
            attended, _ = ours.attention(states, None)
            expected = theirs(states)
            expected = expected[0] if isinstance(expected, tuple) else expected
            torch.testing.assert_close(ours.feed_forward(attended), expected, atol=1e-6, rtol=1e-6)


@all_connectors
def test_bert_that_does_not_fit_is_refused_before_anything_is_copied(tester: ConnectorTester) -> None:
    model = tester.model(num_hidden_layers=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"no `encoder\.layer\.2.*use fewer layers"):
        model.init_from_bert(BertModel(tiny_bert(), add_pooling_layer=False))
    with pytest.raises(ValueError, match=r"has shape \(24, 16\).*same sizes|has shape \(32, 16\).*same sizes"):
        model.init_from_bert(BertModel(tiny_bert(num_hidden_layers=3, intermediate_size=32), add_pooling_layer=False))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="one modality"):
        tester.model_class.from_backbones(audio=4, video=5, **tester.fields)


@all_connectors
@pytest.mark.parametrize("frequency", [1, 2])
def test_formula_equals_the_counted_operations(tester: ConnectorTester, frequency: int) -> None:
    fields: dict[str, Any] = {"cross_attention_frequency": frequency}
    if frequency == 2 and "guide_schedule" in tester.fields:
        fields["guide_schedule"] = (6, 2)
    model = tester.model(**fields)
    model.set_attn_implementation("eager")
    inputs = {name: value[:3] for name, value in tester.inputs().items()}
    with FlopCounterMode(display=False) as counter:
        out = run(model, inputs)
    counts = out.get("active_counts")
    assert model.flops(9, batch_size=3, active_counts=counts) == counter.get_total_flops()
    parts = [model.flops(9, scope, active_counts=counts) for scope in ("query", "cross", "full")]
    assert parts == sorted(parts) and model.flops(9, active_counts=counts) == parts[2]
    with pytest.raises(ValueError, match="`scope` is 'all'"):
        model.flops(9, "all")
    with pytest.raises(ValueError, match=r"\d entries, there are"):
        model.flops(9, active_counts=[1] if len(model.config.cross_attention_layers) > 1 else [1, 1])


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize("frequency", [1, 2])
@pytest.mark.parametrize("name", ["LQFormerTester", "CatModTester"])
def test_plain_queries_equal_blip2_bitwise(name: str, frequency: int, attention: str) -> None:
    """With copied weights and nothing of its own switched on, a connector is BLIP-2's Q-Former to the last bit."""
    tester = next(item for item in CONNECTOR_TESTERS if type(item).__name__ == name)
    plain: dict[str, Any] = {"num_caption_tokens": 0, "output_projection": False}
    if name == "CatModTester":
        depth = 3 if frequency == 1 else 2
        plain = {"guide_schedule": (6,) * depth}
    model = tester.model(num_hidden_layers=3, cross_attention_frequency=frequency, hidden_size=32, **plain)
    model.set_attn_implementation(attention)
    fields = ("hidden_size", "num_attention_heads", "intermediate_size", "encoder_hidden_size", "vocab_size")
    config = Blip2QFormerConfig(
        **{field: getattr(model.config, field) for field in fields},
        num_hidden_layers=3,
        cross_attention_frequency=frequency,
        initializer_range=0.3,
    )
    qformer = Blip2QFormerModel._from_config(config, attn_implementation=attention).eval()
    model.init_from_qformer(qformer)
    inputs = {name: value for name, value in tester.inputs().items() if name.startswith("encoder")}
    with torch.no_grad():
        queries = (
            model.query_states(None, None, 4) if name == "CatModTester" else model.query_states(None, None, None, 4)[0]
        )
        expected = qformer(query_embeds=queries, **inputs).last_hidden_state
    assert torch.equal(run(model, inputs).last_hidden_state, expected)
    deeper = Blip2QFormerModel(Blip2QFormerConfig(**{**config.to_dict(), "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"the Q-Former has no `encoder\.layer\.2"):
        model.init_from_qformer(deeper)
