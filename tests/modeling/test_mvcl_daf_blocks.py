"""Recurrence, alignment and fusion of MVCL-DAF against their definitions, away from the model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_mmintent.modeling.attention_fusion import DynamicAttentionFusion, DynamicDepth, FusionSource
from hf_mmintent.modeling.layers import MaskedBiLSTM, sinusoidal_positions
from hf_mmintent.modeling.mvcl_daf_branches import CoarseEncoder
from hf_mmintent.modeling.peephole_lstm import PeepholeBiLSTM
from hf_mmintent.modeling.recorder import Recorder
from hf_mmintent.modeling.sequence_alignment import AdaptivePoolAlignment, CtcAlignment

from .references import peephole_reference, sigmoid
from .testers import MvclDafTester

LENGTHS = (7, 4, 1)


def prefix_mask(lengths: tuple[int, ...] | list[int], longest: int | None = None) -> Tensor:
    return torch.arange(longest or max(lengths))[None] < torch.tensor(lengths)[:, None]


def recurrence(kind: str, width: int = 3, size: int = 2) -> torch.nn.Module:
    torch.manual_seed(4)
    module = MaskedBiLSTM(width, size) if kind == "bilstm" else PeepholeBiLSTM(width, size, kind)
    return module.double()


# ---- recurrences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["diagonal", "full"])
def test_peephole_equals_the_scalar_loop(variant: str) -> None:
    module, frames = recurrence(variant), torch.randn(3, 7, 3, dtype=torch.float64)
    states = module(frames.masked_fill(~prefix_mask(LENGTHS)[..., None], 9.0), prefix_mask(LENGTHS))
    weights = dict(module.named_parameters())
    for row, length in enumerate(LENGTHS):
        for direction in (0, 1):
            expected = peephole_reference(frames[row], length, direction, weights, variant == "full")
            half = states[row, :length, 2 * direction : 2 * direction + 2]
            torch.testing.assert_close(half, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
        assert not states[row, length:].any()


def test_peephole_without_peepholes_is_an_lstm() -> None:
    """torch's own bidirectional LSTM on packed input; it keeps the gate order i, f, g, o and adds two biases."""
    module, frames = recurrence("diagonal"), torch.randn(3, 7, 3, dtype=torch.float64)
    plain = torch.nn.LSTM(3, 2, batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        module.weight_peephole.zero_()
        for direction, suffix in enumerate(("", "_reverse")):
            getattr(plain, f"weight_ih_l0{suffix}").copy_(module.weight_input[direction])
            getattr(plain, f"weight_hh_l0{suffix}").copy_(module.weight_recurrent[direction].T)
            getattr(plain, f"bias_ih_l0{suffix}").copy_(module.bias[direction])
            getattr(plain, f"bias_hh_l0{suffix}").zero_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(frames, torch.tensor(LENGTHS), batch_first=True)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(plain(packed)[0], batch_first=True)
    torch.testing.assert_close(module(frames, prefix_mask(LENGTHS)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant", ["diagonal", "full"])
def test_peepholes_are_used(variant: str) -> None:
    module, frames = recurrence(variant), torch.randn(3, 7, 3, dtype=torch.float64)
    before = module(frames, prefix_mask(LENGTHS))
    with torch.no_grad():
        module.weight_peephole.zero_()
    changed = (module(frames, prefix_mask(LENGTHS)) - before).abs().amax((0, 1))
    assert (changed > 1e-6).all()


@pytest.mark.parametrize("kind", ["diagonal", "full", "bilstm"])
def test_directions_read_what_they_should(kind: str) -> None:
    """The forward half at t depends on steps 0…t, the backward half on t…n−1, and neither on the padding."""
    module, mask = recurrence(kind), prefix_mask(LENGTHS)
    frames = torch.randn(3, 7, 3, dtype=torch.float64, requires_grad=True)
    states = module(frames, mask)
    for row, length in enumerate(LENGTHS):
        for step in range(length):
            for half, readable in (
                (states[row, step, :2], range(step + 1)),
                (states[row, step, 2:], range(step, length)),
            ):
                (gradient,) = torch.autograd.grad(half.sum(), frames, retain_graph=True)
                seen = gradient.abs().sum(-1) > 0
                expected = torch.zeros_like(seen)
                expected[row, list(readable)] = True
                assert torch.equal(seen, expected), (row, step)


def test_first_position_alone_equals_the_first_of_all() -> None:
    module, frames = recurrence("bilstm"), torch.randn(3, 7, 3, dtype=torch.float64)
    mask = prefix_mask(LENGTHS)
    torch.testing.assert_close(module(frames, mask, first_only=True)[:, 0], module(frames, mask)[:, 0])


# ---- alignment ----------------------------------------------------------------------------------------------------------


@st.composite
def aligned(draw: Any) -> dict[str, Any]:
    """Frames and texts of one to four samples with lengths of their own; frames may be absent, texts are not."""
    size = draw(st.integers(1, 4))
    frames = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any))
    text = draw(st.lists(st.integers(1, 6), min_size=size, max_size=size))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    states = torch.randn(size, max(frames), 3, generator=generator)
    mask = prefix_mask(frames)
    return {
        "states": states.masked_fill(~mask[..., None], 0.0),
        "frames": frames,
        "text": text,
        "mask": mask,
        "text_mask": prefix_mask(text),
        "text_length": max(text) + draw(st.integers(0, 3)),
    }


cases = settings(max_examples=40, deadline=None, derandomize=True)


@cases
@given(aligned(), st.booleans(), st.booleans(), st.sampled_from([1.0, 4.0, "learned"]))
def test_ctc_alignment(case: dict[str, Any], normalize: bool, mask_slots: bool, scale: float | str) -> None:
    torch.manual_seed(0)
    module = CtcAlignment(3, case["text_length"], 2, normalize, mask_slots, scale)
    weights = module.weights(case["states"], case["mask"], case["text_mask"])
    result = module(case["states"], case["mask"], case["text_mask"])
    logits = module.lstm(case["states"])[0] * (scale if scale != "learned" else 1.0)
    for row, (frames, words) in enumerate(zip(case["frames"], case["text"], strict=True)):
        columns = words + 1 if mask_slots else case["text_length"] + 1
        expected = logits[row, :frames, :columns].softmax(-1)[:, : weights.shape[-1]]
        torch.testing.assert_close(weights[row, :frames, : expected.shape[1]], expected)
        if mask_slots:  # blank and the sample's own positions
            torch.testing.assert_close(weights[row, :frames].sum(-1), torch.ones(frames))
            assert not weights[row, :, words + 1 :].any()
        assert not weights[row, frames:].any()
        chosen = weights[row, :frames, 1 : words + 1].T  # (words, frames)
        if normalize and frames:
            chosen = chosen / chosen.sum(-1, keepdim=True)
            torch.testing.assert_close(chosen.sum(-1), torch.ones(words))
        torch.testing.assert_close(result[row, :words], chosen @ case["states"][row, :frames], atol=1e-6, rtol=1e-5)
        assert not result[row, words:].any()


@cases
@given(aligned())
def test_normalised_alignment_stays_within_the_frames(case: dict[str, Any]) -> None:
    """A convex combination: no coordinate leaves the range of the sample's frames."""
    torch.manual_seed(0)
    result = CtcAlignment(3, case["text_length"], 1, normalize=True)(case["states"], case["mask"], case["text_mask"])
    for row, (frames, words) in enumerate(zip(case["frames"], case["text"], strict=True)):
        own = case["states"][row, :frames]
        if frames:
            assert (result[row, :words] <= own.amax(0) + 1e-5).all() and (
                result[row, :words] >= own.amin(0) - 1e-5
            ).all()
        else:
            assert not result[row].any()


@cases
@given(aligned())
def test_adaptive_pool_equals_the_loop(case: dict[str, Any]) -> None:
    result = AdaptivePoolAlignment()(case["states"], case["mask"], case["text_mask"])
    for row, (frames, words) in enumerate(zip(case["frames"], case["text"], strict=True)):
        for slot in range(words):
            first, last = math.floor(slot * frames / words), math.ceil((slot + 1) * frames / words)
            own = case["states"][row, first:last]
            torch.testing.assert_close(result[row, slot], own.mean(0) if frames else torch.zeros(3))
        assert not result[row, words:].any()


def test_learned_scale_is_used_and_trained() -> None:
    module = CtcAlignment(3, 5, 1, logit_scale="learned")
    states, mask = torch.randn(2, 4, 3), prefix_mask([4, 2])
    before = module(states, mask, mask)
    (before**2).sum().backward()
    assert module.learned_scale is not None and module.learned_scale.log_scale.grad.any()
    with torch.no_grad():
        module.learned_scale.log_scale.fill_(math.log(3.0))
    fixed = CtcAlignment(3, 5, 1, logit_scale=3.0)
    fixed.load_state_dict({name: value for name, value in module.state_dict().items() if "scale" not in name})
    torch.testing.assert_close(module(states, mask, mask), fixed(states, mask, mask))


# ---- dynamic attention fusion -----------------------------------------------------------------------------------------


def test_soft_depth_is_the_expectation_of_stopping() -> None:
    """The probabilities of stopping at each depth sum to 1, and the output is their mean of the depths' states."""
    module, states = DynamicDepth(5, 4, 4).double(), torch.randn(2, 3, 5, dtype=torch.float64)
    for gate in module.gates:
        torch.nn.init.normal_(gate.weight, std=2.0)
    result = module(states)
    for row in range(2):
        for token in range(3):
            x, going, probabilities, mixed = states[row, token], 1.0, [], torch.zeros(4, dtype=torch.float64)
            for k, layer in enumerate(module.layers):
                x = (layer.weight @ x + layer.bias).clamp(min=0)
                gate = 0.0
                if k < 3:
                    gate = sigmoid(module.gates[k](x).item())
                probabilities.append(going * (1 - gate))
                mixed = mixed + probabilities[-1] * x
                going *= gate
            assert sum(probabilities) == pytest.approx(1.0, abs=1e-12) and min(probabilities) > 0
            torch.testing.assert_close(result[row, token], mixed)


def test_fixed_depth_is_the_last_layer() -> None:
    module, states = DynamicDepth(5, 4, 3, "fixed"), torch.randn(2, 3, 5)
    expected = states
    for layer in module.layers:
        expected = torch.relu(layer(expected))
    assert len(module.gates) == 0
    torch.testing.assert_close(module(states), expected)


def make_fusion() -> DynamicAttentionFusion:
    torch.manual_seed(1)
    sizes = {"video": 8, "audio": 6, "coarse": 4}
    return DynamicAttentionFusion(sizes, 4, depth=2, gate="soft", attention_dropout=0.0, output_dropout=0.0).eval()


def test_fusion_equals_its_formula() -> None:
    """M = LN(Σ α̂ u + T), α̂ = α / Σ α, with α from each source's own scores."""
    module, mask = make_fusion(), prefix_mask([5, 3, 4])
    text = torch.randn(3, 5, 4)
    there = {"video": [1, 1, 0], "audio": [1, 0, 0], "coarse": [1, 1, 0]}
    given_sources = {
        name: (torch.randn(3, 5, size), torch.tensor(there[name], dtype=torch.bool))
        for name, size in (("video", 8), ("audio", 6), ("coarse", 4))
    }
    fused, weights = module(text, mask, given_sources)
    for row in range(3):
        alphas, updates = {}, {}
        for name, source in module.sources.items():
            states = given_sources[name][0][row]
            updates[name] = source.dynamic(torch.cat([states, text[row]], -1)) * source.value(states)
            evidence = source.score_lstm(
                updates[name][None].masked_fill(~mask[row, :, None], 0.0), mask[row : row + 1]
            )[0]
            alphas[name] = torch.sigmoid(source.score(evidence)[:, 0]) * there[name][row]
        total = sum(alphas.values())
        mixed = text[row].clone()
        for column, name in enumerate(module.sources):
            share = torch.where(total > 0, alphas[name] / total.clamp(min=1e-9), 0.0)
            torch.testing.assert_close(weights[row, mask[row], column], share[mask[row]], atol=1e-5, rtol=0)
            mixed = mixed + share[:, None] * updates[name]
        expected = torch.nn.functional.layer_norm(mixed, (4,), module.norm.weight, module.norm.bias, 1e-12)
        torch.testing.assert_close(fused[row, mask[row]], expected[mask[row]], atol=1e-5, rtol=1e-5)
    sums = weights.sum(-1)
    assert ((sums[:2] >= 1 - 1e-4) & (sums[:2] <= 1))[mask[:2]].all()
    assert not sums[2].any() and not sums[~mask].any()  # nothing to trust, and no token


def test_fusion_of_the_first_position_alone() -> None:
    module, mask = make_fusion(), prefix_mask([5, 3, 4])
    text = torch.randn(3, 5, 4)
    given_sources = {
        name: (torch.randn(3, 5, size), torch.tensor([True, False, True]))
        for name, size in (("video", 8), ("audio", 6))
    }
    for all_tokens, first in zip(
        module(text, mask, given_sources), module(text, mask, given_sources, True), strict=True
    ):
        torch.testing.assert_close(first[:, 0], all_tokens[:, 0])


def test_score_lstm_has_half_the_width_of_its_source() -> None:
    assert FusionSource(6, 4, 1, "soft", 0.0).score_lstm.hidden_size == 3


def test_positions_are_sinusoids() -> None:
    table = sinusoidal_positions(3, 5, torch.zeros(1))
    for position in range(3):
        for column in range(5):
            angle = position / 10000 ** (2 * (column // 2) / 5)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


# ---- coarse sequence ----------------------------------------------------------------------------------------------------


def coarse(streams: dict[str, tuple[Tensor, Tensor]], text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    module = CoarseEncoder(MvclDafTester().config()).eval()
    return module(text, mask, streams, Recorder(False, False))


def test_coarse_keys_are_visual_and_values_acoustic() -> None:
    """Eq. (3). Equal keys make the attention uniform; constant values then come through unchanged."""
    text, mask = torch.randn(1, 3, 16), prefix_mask([3])
    video, audio, there = torch.randn(1, 3, 16), torch.randn(1, 3, 16), torch.ones(1, dtype=torch.bool)
    same = video[:, :1].expand(-1, 3, -1)
    uniform, _ = coarse({"video": (same, there), "audio": (audio, there)}, text, mask)
    mean, _ = coarse(
        {"video": (video, there), "audio": (audio.mean(1, keepdim=True).expand(-1, 3, -1), there)}, text, mask
    )
    torch.testing.assert_close(uniform, mean, atol=1e-5, rtol=1e-5)
    swapped, _ = coarse({"video": (audio, there), "audio": (video, there)}, text, mask)
    both, _ = coarse({"video": (video, there), "audio": (audio, there)}, text, mask)
    assert not torch.allclose(swapped, both, atol=1e-3)


def test_coarse_uses_what_there_is() -> None:
    """Row 0 has both, row 1 only video, row 2 only audio, row 3 nothing: the absent one is replaced by the other."""
    text, mask = torch.randn(4, 3, 16), prefix_mask([3, 2, 3, 3])
    video, audio = torch.randn(4, 3, 16), torch.randn(4, 3, 16)
    has_video, has_audio = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    states, present = coarse({"video": (video, has_video), "audio": (audio, has_audio)}, text, mask)
    assert present.tolist() == [True, True, True, False]
    everywhere = torch.ones(4, dtype=torch.bool)
    for row, (key, value) in enumerate([(video, audio), (video, video), (audio, audio)]):
        expected, _ = coarse({"video": (key, everywhere), "audio": (value, everywhere)}, text, mask)
        torch.testing.assert_close(states[row], expected[row], atol=1e-6, rtol=1e-5)
    for only, stream in (("video", video), ("audio", audio)):
        alone, _ = coarse({only: (stream, everywhere)}, text, mask)
        row = 1 if only == "video" else 2
        torch.testing.assert_close(states[row], alone[row], atol=1e-6, rtol=1e-5)
    assert torch.isfinite(states).all()
