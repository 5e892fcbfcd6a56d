"""What every architecture keeps, whatever it computes: outputs, saving, training, inputs."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from .testers import ALL_TESTERS, ModelTester, run

all_testers = pytest.mark.parametrize("tester", ALL_TESTERS, ids=lambda tester: type(tester).__name__)
SEVERAL = [tester for tester in ALL_TESTERS if len(tester.modality_inputs) > 1]


def with_subsets(sizes: tuple[int, ...], proper: bool) -> Any:
    """Every tester with every subset of its modalities of these sizes; with `proper` one modality at least is left over."""
    cases = [
        pytest.param(tester, names, id=f"{type(tester).__name__}-{'-'.join(names)}")
        for tester in ALL_TESTERS
        for size in sizes
        for names in itertools.combinations(tester.modality_inputs, size)
        if not proper or size < len(tester.modality_inputs)
    ]
    return pytest.mark.parametrize("tester, names", cases)


def facts(config: Any) -> Any:
    """A config without what only says where it was stored."""
    if not isinstance(config, dict):
        return config
    stored = ("_name_or_path", "architectures", "dtype", "transformers_version", "auto_map", "custom_pipelines")
    return {name: facts(value) for name, value in config.items() if name not in stored}


@all_testers
def test_outputs_are_complete_and_shaped(tester: ModelTester) -> None:
    out = run(tester.model(), tester.inputs())
    assert out.logits.shape == (4, 3)
    assert out.embeddings.shape[0] == 4 and out.embeddings.dim() == 2
    assert out.loss is None and out.loss_terms is None
    assert torch.isfinite(out.logits).all()


@all_testers
def test_tuple_equals_dict(tester: ModelTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    named = run(model, inputs)
    plain = run(model, {**inputs, "return_dict": False})
    assert isinstance(plain, tuple)
    torch.testing.assert_close(plain[0], named.logits)


@all_testers
def test_loss_is_the_weighted_sum_of_its_terms(tester: ModelTester) -> None:
    model = tester.model().train()
    torch.manual_seed(0)
    out = model(**tester.inputs(training=True))
    assert out.loss.requires_grad and torch.isfinite(out.loss)
    assert out.loss_terms and all(not term.requires_grad and term.dim() == 0 for term in out.loss_terms.values())
    assert tester.weighted_sum(model.config, out.loss_terms) == pytest.approx(out.loss.item(), abs=1e-5)


@all_testers
def test_save_and_load_give_the_same_logits(tester: ModelTester, tmp_path: Path) -> None:
    model, inputs = tester.model(), tester.inputs()
    model.save_pretrained(tmp_path)
    loaded, info = tester.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(run(loaded.eval(), inputs).logits, run(model, inputs).logits)
    assert facts(loaded.config.to_dict()) == facts(model.config.to_dict())


@all_testers
def test_missing_weights_are_initialised_deterministically(tester: ModelTester, tmp_path: Path) -> None:
    """A base checkpoint opens in the head, and what it lacks is neither garbage nor different from run to run."""
    torch.manual_seed(0)
    tester.base_class(tester.config()).save_pretrained(tmp_path)
    logits = []
    for _ in range(2):
        torch.manual_seed(3)
        model = tester.model_class.from_pretrained(tmp_path).eval()
        logits.append(run(model, tester.inputs()).logits)
    assert torch.isfinite(logits[0]).all() and torch.equal(*logits)


@all_testers
def test_bf16_stays_close(tester: ModelTester, tmp_path: Path) -> None:
    model, inputs = tester.model(), tester.inputs()
    model.save_pretrained(tmp_path)
    half = tester.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    torch.testing.assert_close(run(half, inputs).logits.float(), run(model, inputs).logits, atol=0.1, rtol=0.1)


@all_testers
def test_bf16_autocast_trains(tester: ModelTester) -> None:
    model = tester.model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tester.inputs(training=True)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@all_testers
def test_one_step_moves_every_trainable_parameter(tester: ModelTester) -> None:
    model = tester.model().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model(**tester.inputs(training=True)).loss.backward()
    optimizer.step()
    still = [name for name, value in model.named_parameters() if torch.equal(before[name], value)]
    unexpected = [name for name in still if not any(part in f".{name}" for part in tester.untrained)]
    # Embedding rows that the batch does not use have no gradient, the tables as a whole do.
    assert unexpected == []


@all_testers
def test_frozen_parameters_stay(tester: ModelTester) -> None:
    model = tester.model().train()
    name, frozen = next((name, p) for name, p in model.named_parameters() if p.dim() > 1)
    frozen.requires_grad_(False)
    before = frozen.clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(**tester.inputs(training=True)).loss.backward()
    optimizer.step()
    assert torch.equal(before, frozen), name


@all_testers
def test_seeds_reproduce_training_exactly(tester: ModelTester) -> None:
    def train() -> torch.Tensor:
        model = tester.model(seed=1).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            model(**tester.inputs(training=True)).loss.backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(train(), train())


@all_testers
def test_activation_checkpointing_gives_the_same_gradients(tester: ModelTester) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tester.model(seed=2).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        model(**tester.inputs(training=True)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@all_testers
def test_overfits_sixteen_samples(tester: ModelTester) -> None:
    model = tester.model().train()
    batches = [tester.random_batch(seed) for seed in range(4)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(160):
        if step % 20 == 0:
            model.eval()
            right = sum((run(model, b).logits.argmax(-1) == b["labels"]).sum().item() for b in batches)
            if right == 16:
                return
            model.train()
        optimizer.zero_grad()
        model(**batches[step % 4]).loss.backward()
        optimizer.step()
    pytest.fail("16 random samples are not learnt in 160 steps")


# ---- inputs that do not fit --------------------------------------------------------------------------------------


@all_testers
def test_misaligned_inputs_raise(tester: ModelTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    for values, mask in tester.sequence_inputs.items():
        with pytest.raises(ValueError, match="mask"):
            run(model, {**inputs, mask: inputs[mask][:, :-1]})
        if values != "input_ids":
            with pytest.raises(ValueError, match=r"width \d+ .* is \d+"):
                run(model, {**inputs, values: torch.cat([inputs[values]] * 2, -1)})
            if tester in SEVERAL:
                with pytest.raises(ValueError, match="batch sizes"):
                    run(model, {**inputs, values: inputs[values][:2], mask: inputs[mask][:2]})


@all_testers
def test_no_modality_at_all_raises(tester: ModelTester) -> None:
    with pytest.raises(ValueError, match="all modalities are missing"):
        run(tester.model(), {})


@all_testers
def test_unknown_config_field_names_the_closest(tester: ModelTester) -> None:
    with pytest.raises(ValueError, match=r"no field `modalitys`.*Did you mean `modalities`"):
        tester.config(modalitys=("text",))


@all_testers
def test_unknown_field_while_loading_names_the_closest(tester: ModelTester, tmp_path: Path) -> None:
    tester.model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no field `modalitys`.*Did you mean `modalities`"):
        tester.model_class.from_pretrained(tmp_path, modalitys=("text",))


@all_testers
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_raise(tester: ModelTester, value: float) -> None:
    """One such value in a valid step; behind the valid ones it may stand, see the invariances."""
    model, inputs = tester.model(), tester.inputs()
    for name in [name for name in tester.modality_inputs.values() if name != "input_ids"]:
        features = inputs[name].clone()
        features[2, 1, 3] = value
        with pytest.raises(ValueError, match=f"`{name}` of sample 2 hold 1 NaN or infinite values"):
            run(model, {**inputs, name: features})
        large = inputs[name].sign() * 1e38
        large[0, 0] = 1e38  # whose sum is infinite, though none of them is
        assert run(model, {**inputs, name: large}).logits.shape == (4, 3)


@all_testers
def test_features_without_steps_raise(tester: ModelTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    for values, mask in tester.sequence_inputs.items():
        if values != "input_ids":
            with pytest.raises(ValueError, match=f"`{values}` has no steps: pass `None`"):
                run(model, {**inputs, values: inputs[values][:, :0], mask: inputs[mask][:, :0]})


@all_testers
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3, 1], "`labels` of sample 2 is 3 but `config.num_labels` is 3"),
        ([0, 1, 2, -1], "`labels` of sample 3 is -1 but"),
        ([0, 1, 2], r"`labels` has shape \(3,\)"),
        ([0.0, 1.0, 2.0, 1.0], r"`labels` has .* dtype torch.float32"),
    ],
)
def test_labels_that_are_no_classes_raise(tester: ModelTester, labels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tester.model(), {**tester.inputs(), "labels": torch.tensor(labels)})


@all_testers
def test_raw_media_without_an_encoder_raises(tester: ModelTester) -> None:
    with pytest.raises(ValueError, match="encoder_config"):
        run(tester.model(), {**tester.without(tester.inputs(), "audio"), "input_values": torch.randn(4, 800)})


# ---- invariances -------------------------------------------------------------------------------------------------


@all_testers
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("fill", [0.0, 7.0, float("nan"), float("inf")])
def test_padding_does_not_matter(tester: ModelTester, fill: float, attention: str) -> None:
    model, inputs = tester.model(), tester.inputs()
    model.set_attn_implementation(attention)
    expected, padded = run(model, inputs), run(model, tester.pad(inputs, 4, fill))
    torch.testing.assert_close(padded.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded.embeddings, expected.embeddings, atol=1e-5, rtol=1e-5)


@all_testers
def test_eager_equals_sdpa(tester: ModelTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    logits = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        logits.append(run(model, inputs).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@all_testers
def test_batch_mates_do_not_matter(tester: ModelTester) -> None:
    """Every sample alone, trimmed to its own lengths, gives what it gives in the batch."""
    model, inputs = tester.model(), tester.inputs()
    together = run(model, inputs)
    for row in range(4):
        single = {}
        for name, value in inputs.items():
            single[name] = value[row : row + 1]
        for values, mask in tester.sequence_inputs.items():
            length = int(inputs[mask][row].sum())
            for name in (values, mask, *(tester.beside_text if values == "input_ids" else ())):
                if name in single:
                    single[name] = single[name][:, :length]
        alone = run(model, single)
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-5, rtol=1e-5)
        if together.modality_weights is not None:
            torch.testing.assert_close(alone.modality_weights[0], together.modality_weights[row], atol=1e-5, rtol=1e-5)


@all_testers
def test_batch_order_does_not_matter(tester: ModelTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = run(model, {name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(shuffled.logits, run(model, inputs).logits[order], atol=1e-5, rtol=1e-5)


@with_subsets((1,), proper=False)
def test_another_sample_has_no_effect(tester: ModelTester, names: tuple[str, ...]) -> None:
    model, inputs = tester.model(), tester.inputs()
    values = tester.modality_inputs[names[0]]
    changed = inputs[values].clone()
    changed[1] = (changed[1].flip(0) + 1) % 50 if values == "input_ids" else changed[1].flip(0) * 3 + 1
    first, second = run(model, inputs), run(model, {**inputs, values: changed})
    keep = [0, 2, 3]
    torch.testing.assert_close(first.logits[keep], second.logits[keep], atol=1e-6, rtol=0)
    assert not torch.equal(first.logits[1], second.logits[1])


@with_subsets((1, 2), proper=True)
def test_absent_equals_fully_masked(tester: ModelTester, names: tuple[str, ...]) -> None:
    """`None` and an all-zero mask say the same, whatever the masked values are; training works without the modality."""
    model, inputs = tester.model(), tester.inputs()
    absent = run(model, tester.without(inputs, *names))
    masked = tester.masked_out(inputs, *names)
    for name in names:
        if name != "text":
            masked[f"{name}_features"] = torch.full_like(masked[f"{name}_features"], float("nan"))
    hidden = run(model, masked)
    assert torch.isfinite(absent.logits).all()
    torch.testing.assert_close(absent.logits, hidden.logits, atol=1e-5, rtol=1e-5)


@with_subsets((1, 2), proper=False)
def test_every_subset_of_modalities_trains(tester: ModelTester, names: tuple[str, ...]) -> None:
    """For a model of one modality also without any: such a batch has nothing to learn from and must do no harm."""
    model = tester.model().train()
    inputs = tester.masked_out(tester.inputs(training=True), *names)
    loss = model(**inputs).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("tester", SEVERAL, ids=lambda tester: type(tester).__name__)
def test_one_sample_without_a_modality_among_others(tester: ModelTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    mask = inputs["audio_attention_mask"].clone()
    mask[2] = 0
    mixed = run(model, {**inputs, "audio_attention_mask": mask})
    full, none = run(model, inputs), run(model, tester.without(inputs, "audio"))
    keep = [0, 1, 3]
    torch.testing.assert_close(mixed.logits[keep], full.logits[keep], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.logits[2], none.logits[2], atol=1e-5, rtol=1e-5)


@all_testers
def test_batch_of_one_trains(tester: ModelTester) -> None:
    model = tester.model().train()
    inputs = {name: value[:1] for name, value in tester.inputs(training=True).items()}
    loss = model(**inputs).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
