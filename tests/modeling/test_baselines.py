"""The baselines: numbers worked out by hand for each of their equations, and what their settings refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor, nn
from transformers import BertConfig, BertModel, XLNetConfig

from hf_mmintent.modeling.adaptation_gate import AdaptationGate
from hf_mmintent.modeling.configuration_mag_bert import MagBertConfig
from hf_mmintent.modeling.configuration_misa import MisaConfig
from hf_mmintent.modeling.configuration_mult import MultConfig
from hf_mmintent.modeling.configuration_unimodal import UnimodalConfig
from hf_mmintent.modeling.crossmodal_transformer import CrossmodalLayer, TemporalConv
from hf_mmintent.modeling.layers import key_mask, last_step
from hf_mmintent.modeling.modeling_mag_bert import MagBertModel
from hf_mmintent.modeling.modeling_misa import StackedLstm
from hf_mmintent.modeling.subspace_losses import central_moment_discrepancy, difference_loss, reconstruction_loss

from .testers import (
    BASELINES,
    ConcatFusionTester,
    FusionTester,
    MagBertTester,
    MisaTester,
    ModelTester,
    MultTester,
    UnimodalAudioTester,
    UnimodalTextTester,
    tiny_bert,
)

all_baselines = pytest.mark.parametrize("tester", BASELINES, ids=lambda tester: type(tester).__name__)


def put(parameter: nn.Parameter, values: Any) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def close(found: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=tolerance, rtol=tolerance)


def present(*flags: bool) -> Tensor:
    return torch.tensor(flags)


# ---- the gate of MAG ----------------------------------------------------------------------------------------------


def small_gate(scale: float) -> AdaptationGate:
    gate = AdaptationGate(2, {"audio": 1}, scale, dropout=0.0, eps=0.0)
    put(gate.gates["audio"].weight, [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    put(gate.gates["audio"].bias, [0.0, 1.0])
    put(gate.shifts["audio"].weight, [[1.0], [-1.0]])
    put(gate.shift_bias, [-1.0, 6.0])
    return gate


@pytest.mark.parametrize("scale, expected", [(0.5, [1.5, 2.0]), (0.1, [0.3, 0.4]), (2.0, [3.0, 4.0])])
def test_the_shift_of_a_word(scale: float, expected: list[float]) -> None:
    """Z = (3, 4), A = 2: g = (2, 1), W A = (2, −2), H = (4, −2) + b_H = (3, 4), ‖Z‖ = ‖H‖ = 5, α = min(β, 1)."""
    words, audio = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[2.0]]])
    close(small_gate(scale).shift(words, {"audio": audio}), [[expected]])


def test_the_gate_closes_where_its_input_is_negative() -> None:
    """A = −2: g = (0, 1), W A = (−2, 2), H = (0, 2) + b_H = (−1, 8), α = min(0.5·5/√65, 1)."""
    words, audio = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[-2.0]]])
    alpha = 2.5 / math.sqrt(65)
    close(small_gate(0.5).shift(words, {"audio": audio}), [[[-alpha, 8 * alpha]]])


def test_the_gate_ends_in_a_layer_norm_and_leaves_samples_without_sources() -> None:
    gate = small_gate(1.0)
    put(gate.norm.weight, [2.0, 3.0])
    words = torch.tensor([[[3.0, 5.0]], [[3.0, 5.0]]])  # with the shift (3, 4)·√34/5 the order stays: LN gives (−1, 1)
    close(gate(words, {"audio": torch.tensor([[[2.0]], [[0.0]]])}, present(True, False)), [[[-2.0, 3.0]]] * 2, 1e-4)
    put(gate.shift_bias, [50.0, 0.0])  # now it would turn the order round, but not of the second sample
    close(gate(words, {"audio": torch.tensor([[[2.0]], [[0.0]]])}, present(True, False))[1], [[-2.0, 3.0]], 1e-4)
    assert gate(words, {"audio": torch.tensor([[[2.0]], [[0.0]]])}, present(True, False))[0, 0, 0] > 0


def test_the_gate_stands_behind_the_embeddings_and_goes_away_again() -> None:
    tester = MagBertTester()
    model, inputs = tester.model().model, tester.inputs()
    seen: dict[str, Tensor] = {}
    model.text_model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(states=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        words = model.text_model.embeddings(inputs["input_ids"], inputs["token_type_ids"])
        masks = {name: inputs[f"{name}_attention_mask"].bool() for name in ("audio", "video")}
        text_mask = inputs["attention_mask"].bool()
        aligned = {name: model.align(inputs[f"{name}_features"], mask, text_mask) for name, mask in masks.items()}
        expected = model.gate(words, aligned, torch.ones(4, dtype=torch.bool))
        model(**inputs)
        torch.testing.assert_close(seen["states"][text_mask], expected[text_mask])
        assert not torch.allclose(words, expected)
        assert not model.text_model.embeddings._forward_hooks
        with pytest.raises(IndexError):
            model(**{**inputs, "input_ids": inputs["input_ids"] + 1000})
    assert not model.text_model.embeddings._forward_hooks


def test_mag_bert_needs_a_text_encoder_with_embeddings() -> None:
    encoder = XLNetConfig(vocab_size=20, d_model=16, n_layer=1, n_head=2, d_inner=16)
    with pytest.raises(ValueError, match="'xlnet': its encoder has no part `embeddings`"):
        MagBertModel(MagBertConfig(text_config=encoder))


# ---- MulT -----------------------------------------------------------------------------------------------------------


def test_temporal_convolution() -> None:
    conv = TemporalConv(1, 1, kernel_size=3)
    put(conv.window.weight, [[1.0, 10.0, 100.0]])
    frames = torch.tensor([[[1.0], [2.0], [3.0]], [[1.0], [2.0], [float("nan")]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    close(conv(frames, mask), [[[210.0], [321.0], [32.0]], [[210.0], [21.0], [0.0]]])


def test_temporal_convolution_of_several_channels() -> None:
    """Two channels and three steps against torch's own convolution."""
    conv, own = TemporalConv(2, 4, kernel_size=3), nn.Conv1d(2, 4, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.window.weight.copy_(own.weight.transpose(1, 2).flatten(1))
    frames = torch.randn(2, 5, 2)
    expected = own(frames.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(conv(frames, torch.ones(2, 5, dtype=torch.bool)), expected)


def crossmodal(plain: bool, query_scale: float) -> CrossmodalLayer:
    config = MultTester().config()
    config._attn_implementation = "eager"
    layer = CrossmodalLayer(config, 2, 1, dropout=0.0, plain=plain).eval()
    eye = torch.eye(2)
    for name, weight in (("q_proj", query_scale * eye), ("k_proj", eye), ("v_proj", eye), ("o_proj", eye)):
        projection = getattr(layer.attention, name)
        with torch.no_grad():
            projection.weight.copy_(weight)
            projection.bias.zero_()
    with torch.no_grad():
        layer.feed_forward.down_proj.weight.zero_()
    put(layer.feed_forward.down_proj.bias, [0.5, 0.0])
    return layer


def attend(layer: CrossmodalLayer, source: Tensor, mask: Tensor) -> Tensor:
    target = torch.tensor([[[1.0, 3.0]]])  # LN: (−1, 1)
    config = layer.attention.config
    return layer(target, source, key_mask(config, target, source, mask))[0]


def test_crossmodal_layer() -> None:
    """
    Sources LN to (−1, 1) and (1, −1); the scores differ by 2√2·a = ln 3, so the weights are 3/4 and 1/4 and the attention
    gives (−0.5, 0.5). Normalised: Ẑ = (−1.5, 1.5), LN(Ẑ) = (−1, 1), plus f = (0.5, 0). Plain: (1, 3) + (−0.5, 0.5) + f.
    """
    source = torch.tensor([[[0.0, 2.0], [5.0, 1.0], [9.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    scale = math.log(3) / (2 * math.sqrt(2))
    close(attend(crossmodal(False, scale), source, mask), [[[-0.5, 1.0]]], 1e-4)
    close(attend(crossmodal(True, scale), source, mask), [[[1.0, 3.5]]], 1e-4)


def test_crossmodal_layer_without_a_source() -> None:
    """Nothing to attend to: Ẑ = LN(Z) = (−1, 1)."""
    close(
        attend(crossmodal(False, 1.0), torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool)), [[[-0.5, 1.0]]], 1e-4
    )


def test_last_step() -> None:
    states = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    close(last_step(states, mask), [[2.0, 3.0], [0.0, 0.0]])


def test_mult_has_a_transformer_per_direction_and_joins_them_per_target() -> None:
    model = MultTester().model().model
    pairs = {(target, source) for target, others in model.crossmodal.items() for source in others}
    names = ("text", "audio", "video")
    assert pairs == {(target, source) for target in names for source in names if source != target}
    assert {stack.norm.weight.numel() for stack in model.memories.values()} == {16} and model.embedding_size == 48


def test_positions_matter_to_mult() -> None:
    tester = MultTester()
    model, inputs = tester.model(), tester.inputs()
    turned = {**inputs, "video_features": inputs["video_features"].clone()}
    turned["video_features"][0, :6] = inputs["video_features"][0, :6].flip(0)
    with torch.no_grad():
        first, second = model(**inputs).logits, model(**turned).logits
    assert not torch.allclose(first[0], second[0], atol=1e-6)


# ---- MISA -----------------------------------------------------------------------------------------------------------


def test_central_moment_discrepancy() -> None:
    """X = {0, 1}, Y = {1, 1}: the means differ by 1/2, C_2 by 1/4, C_3 by 0, C_4 by 1/16, C_5 by 0."""
    first, second = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[1.0], [1.0]])
    valid = present(True, True, False), present(True, True)
    for moments, expected in ((1, 0.5), (2, 0.75), (3, 0.75), (4, 0.8125), (5, 0.8125)):
        close(central_moment_discrepancy(first, second, *valid, moments), expected)
    close(central_moment_discrepancy(first, second, *valid, 4, span=2.0), 0.25 + 0.0625 + 0.0625 / 16)


def test_central_moment_discrepancy_is_a_norm_over_the_columns() -> None:
    first, second = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    close(central_moment_discrepancy(first, second, present(True, True), present(True, False), 5), 5.0)
    close(central_moment_discrepancy(first, second, present(True, True), present(False, False), 5), 0.0)


def test_difference_loss() -> None:
    """Centred and scaled, the rows are ±(1, 0) and ±(0, 1): XᵀY has the one entry 2."""
    first = torch.tensor([[6.0, 5.0], [4.0, 5.0], [float("nan"), 0.0]])
    second = torch.tensor([[1.0, 3.0], [1.0, -1.0], [7.0, 7.0]])
    valid = present(True, True, False)
    close(difference_loss(first, second, valid), 4.0)
    close(difference_loss(first, second, valid, "mean"), 1.0)
    close(difference_loss(first, first * 2, valid), 4.0)
    close(difference_loss(first, second, present(False, False, False)), 0.0)


def test_reconstruction_loss() -> None:
    original = torch.tensor([[1.0, 2.0], [3.0, 0.0], [float("inf"), 0.0]])
    decoded = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    close(reconstruction_loss(original, decoded, present(True, True, False)), (2.5 + 5.0) / 2)


def test_regularizers_of_misa() -> None:
    """
    h^c is 1 everywhere for audio and 0 else: CMD = √16 with text, √16 with video, 0 between these. Private representations
    that do not vary leave no difference. û = 0 and u is 1 for text alone: the mean of 1, 0, 0.
    """
    model = MisaTester().model().model
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.bias.zero_()
    shared = torch.zeros(4, 3, 16)
    shared[:, 1] = 1.0
    utterances = torch.zeros(4, 3, 16)
    utterances[:, 0] = 1.0
    found = model.regularizers(utterances, shared, torch.full((4, 3, 16), 0.3), torch.ones(4, 3, dtype=torch.bool))
    close(found["similarity"], 8.0 / 3)
    close(found["difference"], 0.0)
    close(found["reconstruction"], 1.0 / 3)


def test_difference_of_misa_counts_every_modality_and_every_pair() -> None:
    """Six equal pairs of representations, ±(1, 0, …): each gives (1·1 + 1·1)² = 4, or 4/16² as a mean."""
    rows = torch.zeros(2, 3, 16)
    rows[0, :, 0], rows[1, :, 0] = 1.0, -1.0
    everyone = torch.ones(2, 3, dtype=torch.bool)
    for reduction, expected in (("sum", 24.0), ("mean", 24.0 / 256)):
        model = MisaTester().model(difference_reduction=reduction).model
        close(model.regularizers(rows, rows, rows, everyone)["difference"], expected)


def test_misa_computes_its_losses_in_training_only() -> None:
    tester = MisaTester()
    model, inputs = tester.model(), tester.inputs(training=True)
    assert set(model(**inputs).loss_terms) == {"task"}
    assert set(model.train()(**inputs).loss_terms) == {"task", "similarity", "difference", "reconstruction"}


def test_stacked_lstm_reads_both_ends() -> None:
    """The vector changes with the first and with the last frame, and not with what lies behind it."""
    lstm = StackedLstm(3, 4)
    frames, mask = torch.randn(1, 5, 3), torch.tensor([[True, True, True, True, False]])
    with torch.no_grad():
        plain = lstm(frames, mask)
        for step, changes in ((0, True), (3, True), (4, False)):
            changed = frames.clone()
            changed[0, step] += 1.0
            assert torch.equal(lstm(changed, mask), plain) != changes
        torch.testing.assert_close(lstm(frames[:, :4], mask[:, :4]), plain)


# ---- late fusion and one modality -----------------------------------------------------------------------------------


def test_concatenation() -> None:
    """W picks the sum of the first entries and minus the sum of the second: ReLU(4 + 0.5), ReLU(−6 + 1)."""
    tester = ConcatFusionTester()
    model = tester.model(hidden_size=2).model
    put(model.fusion.weight, [[1.0, 0.0] * 3, [0.0, -1.0] * 3])
    put(model.fusion.bias, [0.5, 1.0])
    rows = {"text": [1.0, 2.0], "audio": [0.0, 0.0], "video": [3.0, 4.0]}
    model.utterance = lambda name, item, *_: torch.tensor(rows[name]).expand(len(item.mask), 2)
    close(model(**tester.inputs()).embeddings, [[4.5, 0.0]] * 4)


def test_an_absent_modality_is_zeros_in_the_concatenation() -> None:
    tester = ConcatFusionTester()
    model, inputs = tester.model().model, tester.inputs()
    given = model.given_modalities(tester.without(inputs, "audio"))
    recorder = type("Nothing", (), {"hidden_states": None, "attentions": None, "add": lambda *_: None})()
    assert list(given) == ["text", "audio", "video"]
    assert torch.equal(model.utterance("audio", given["audio"], None, recorder), torch.zeros(4, 16))


@pytest.mark.parametrize("tester", [UnimodalTextTester(), UnimodalAudioTester()], ids=["text", "audio"])
def test_a_sample_without_the_one_modality_gets_the_bias(tester: FusionTester) -> None:
    model, inputs = tester.model(), tester.inputs()
    put(model.classifier.bias, [0.1, 0.2, 0.3])
    (mask,) = tester.sequence_inputs.values()
    inputs[mask] = inputs[mask].clone()
    inputs[mask][1] = 0
    close(model(**inputs).logits[1], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("pooling, differs", [("first", False), ("mean", True)])
def test_text_pooling(pooling: str, differs: bool) -> None:
    """`first` reads the first state alone."""
    tester = UnimodalTextTester()
    model = tester.model(text_pooling=pooling).model
    states = torch.randn(2, 4, 16)
    changed = states.clone()
    changed[:, 2] += 1.0
    mask = torch.tensor([[True, True, True, False], [False] * 4])
    first, second = model.pool_text(states, mask), model.pool_text(changed, mask)
    assert torch.equal(first[0], second[0]) != differs
    close(first[1], [0.0] * 16)


# ---- all of them ----------------------------------------------------------------------------------------------------


@all_baselines
def test_regression_and_several_labels(tester: ModelTester) -> None:
    inputs = tester.inputs()
    model = tester.model(id2label=None, label2id=None, num_labels=1, problem_type="regression")
    out = model(**inputs, labels=torch.tensor([0.5, -1.0, 2.0, 0.0]))
    assert out.logits.shape == (4, 1)
    difference = out.logits[:, 0] - torch.tensor([0.5, -1.0, 2.0, 0.0])
    close(out.loss, difference.square().mean().item())
    several = tester.model(problem_type="multi_label_classification")
    assert torch.isfinite(several(**inputs, labels=torch.eye(4)[:, :3]).loss)


@all_baselines
def test_from_backbones(tester: ModelTester) -> None:
    parts: dict[str, Any] = {"audio": 6, "video": 8}
    if "text" in tester.modality_inputs:
        parts["text"] = BertModel(tiny_bert(), add_pooling_layer=False)
    fields = tester.fields | {"num_labels": 3}
    model = tester.model_class.from_backbones(**parts, modalities=tuple(tester.modality_inputs), **fields).eval()
    with torch.no_grad():
        assert model(**tester.inputs()).logits.shape == (4, 3)
    if "text" in parts:
        assert model.model.text_model is parts["text"]


@all_baselines
def test_attention_maps_and_hidden_states_on_request(tester: ModelTester) -> None:
    model = tester.model()
    model.set_attn_implementation("eager")
    out = model(**tester.inputs(), output_attentions=True, output_hidden_states=True)
    assert out.hidden_states and out.attentions
    assert all(isinstance(value, Tensor) for value in (*out.hidden_states, *out.attentions))


@all_baselines
def test_an_input_of_an_undeclared_modality_raises(tester: ModelTester) -> None:
    missing = next((name for name in ("video", "audio", "text") if name not in tester.modality_inputs), None)
    overrides = {}
    if missing is None:
        missing, overrides = "video", {"modalities": ("text", "audio")}
    full = ModelTester.inputs(tester)
    key = "input_ids" if missing == "text" else f"{missing}_features"
    with pytest.raises(ValueError, match=f"`{key}` is given but `config.modalities`"):
        tester.model(**overrides)(**{**tester.inputs(), key: full[key]})


@pytest.mark.parametrize(
    "config, fields, message",
    [
        (UnimodalConfig, {"modalities": ("text", "audio")}, "reads exactly one"),
        (UnimodalConfig, {"hidden_size": 10, "encoder_heads": 4}, "`hidden_size` = 10 is not divisible"),
        (MagBertConfig, {"modalities": ("audio", "video")}, "shifts the words"),
        (MagBertConfig, {"shift_scale": 0.0}, "must be positive"),
        (MultConfig, {"modalities": ("text",)}, "needs two or three"),
        (MultConfig, {"audio_kernel_size": 2}, "must be odd"),
        (MultConfig, {"memory_layers": 0}, "at least one"),
        (MisaConfig, {"modalities": ("video",)}, "two or three"),
        (MisaConfig, {"difference_loss_weight": -1.0}, "must not be negative"),
        (MisaConfig, {"num_moments": 0}, "at least 1"),
        (MisaConfig, {"fusion_dropout": 1.0}, r"in \[0, 1\)"),
        (MisaConfig, {"modalities": ("text", "smell")}, "takes text, audio and video"),
    ],
)
def test_settings_that_make_no_sense(config: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        config(text_config=BertConfig(), **fields)
