"""Stored outputs of models whose weights and inputs come from a formula, and numbers worked out by hand.

The stored numbers guard against unnoticed changes; `python -m tests.modeling.test_golden` writes them anew, and the difference
has to be explained by whoever does. The numbers worked out by hand say that the formulas are the right ones.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_mmintent.modeling.attention_fusion import DynamicAttentionFusion
from hf_mmintent.modeling.losses import info_nce, prototype_loss
from hf_mmintent.modeling.mvcl_daf_branches import CoarseEncoder
from hf_mmintent.modeling.peephole_lstm import PeepholeBiLSTM
from hf_mmintent.modeling.recorder import Recorder
from hf_mmintent.modeling.sequence_alignment import AdaptivePoolAlignment

from .testers import CLS, MASK, SEP, MvclDafTester, tiny_bert

STORED = Path(__file__).parent / "golden" / "mvcl_daf.json"
TESTER = MvclDafTester()
STILL = {"text_dropout": 0.0, "visual_dropout": 0.0, "coarse_dropout": 0.0, "daf_attention_dropout": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "parent": {"coarse_fusion": False, "contrastive_reduction": "mean", "temperature": 0.5, "peephole": "full"},
    "published_alignment": {"align_mask_slots": False, "align_normalize": True, "align_logit_scale": 3.0},
    "pooled": {"align_type": "adaptive_pool", "acoustic_encoder": "bilstm", "daf_depth_gate": "fixed"},
    "embedded": {"video_embed_size": 4, "audio_embed_size": 8, "visual_norm": "pre", "prototype_scope": "per_view"},
}


def wave(count: int, start: int) -> Tensor:
    """(count,) float32 in (−1, 1): the sine of a running index, which no generator and no platform changes."""
    index = torch.arange(start, start + count, dtype=torch.float64)
    return torch.sin(0.37 * index + 0.001 * index.remainder(977) ** 2).float()


def fill(model: torch.nn.Module) -> None:
    """Every parameter by the formula, in the order of their names; norms keep 1 and 0."""
    start = 0
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1 and "norm" in name.lower():
                continue
            scale = 0.3 if parameter.dim() == 1 else 1.2 / math.sqrt(parameter.shape[-1])
            parameter.copy_(scale * wave(parameter.numel(), start).reshape(parameter.shape))
            start += parameter.numel()


def golden_batch() -> dict[str, Tensor]:
    """Four samples; the second lacks video, the third audio, the fourth has no label that counts."""
    lengths = {"text": (9, 7, 8, 6), "audio": (10, 4, 0, 7), "video": (6, 0, 3, 5)}
    masks = {name: torch.arange(max(row))[None] < torch.tensor(row)[:, None] for name, row in lengths.items()}
    ids = torch.arange(4 * 9).reshape(4, 9) * 7 % 40 + 5
    slots = torch.zeros_like(ids)
    for row, length in enumerate(lengths["text"]):
        ids[row, 0], ids[row, length - 1] = CLS, SEP
        slots[row, length - 3 : length - 1] = 1
    labels = torch.tensor([0, 1, 1, -100])
    masked = torch.where(slots.bool(), MASK, ids) * masks["text"]
    batch = {
        "input_ids": masked,
        "attention_mask": masks["text"].long(),
        "label_slot_mask": slots,
        "labelled_input_ids": torch.where(slots.bool(), labels.clamp(min=0)[:, None] + 50, masked),
        "labels": labels,
    }
    for name, width, start in (("audio", 6, 100_000), ("video", 8, 200_000)):
        shape = (4, masks[name].shape[1], width)
        batch[f"{name}_features"] = 2 * wave(math.prod(shape), start).reshape(shape)  # padding holds numbers as well
        batch[f"{name}_attention_mask"] = masks[name].long()
    return batch


def compute(overrides: dict[str, Any]) -> dict[str, Any]:
    bert = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = TESTER.model(text_config=bert, **STILL, **overrides).train()
    fill(model)
    out = model(**golden_batch())
    out.loss.backward()
    norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None))
    return {
        "logits": out.logits.tolist(),
        "modality_weights": out.modality_weights.tolist(),
        "loss": out.loss.item(),
        "loss_terms": {name: term.item() for name, term in out.loss_terms.items()},
        "gradient_norm": norm,
    }


@pytest.mark.parametrize("case", CASES)
def test_stored_numbers(case: str) -> None:
    stored, found = json.loads(STORED.read_text())[case], compute(CASES[case])
    assert set(stored) == set(found)
    for name in ("logits", "modality_weights"):
        torch.testing.assert_close(
            torch.tensor(found[name]), torch.tensor(stored[name]), atol=1e-4, rtol=1e-4, msg=name
        )
    assert found["loss_terms"] == pytest.approx(stored["loss_terms"], abs=1e-4, rel=1e-4)
    assert found["loss"] == pytest.approx(stored["loss"], abs=1e-4, rel=1e-4)
    assert found["gradient_norm"] == pytest.approx(stored["gradient_norm"], rel=1e-3)


def test_stored_cases_differ_and_say_something() -> None:
    """Collapsed activations would hide any change: logits vary over samples, and every term is there and not trivial."""
    stored = json.loads(STORED.read_text())
    assert set(stored) == set(CASES)
    logits = torch.tensor([stored[case]["logits"] for case in CASES])
    assert (logits.std(1) > 1e-2).all()
    assert torch.pdist(logits.flatten(1)).min() > 1e-2
    for case in CASES:
        terms = stored[case]["loss_terms"]
        assert set(terms) == {
            "cls",
            "prototype",
            *(f"contrastive_{name}" for name in ("text", "video", "audio", "fused")),
        }
        assert all(value > 1e-3 for value in terms.values()), case


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_info_nce_of_two_samples() -> None:
    """
    Anchors (1, 0), (0, 2); views (3, 4), (0, 5); τ = 0.5.

    Cosines: a1·v1 = 3/5 = 0.6, a1·v2 = 0, a2·v1 = 4/5 = 0.8, a2·v2 = 1; divided by τ: 1.2, 0, 1.6, 2.
    L = ½ [log(1 + e^(0 − 1.2)) + log(1 + e^(1.6 − 2))] = ½ [log 1.301194 + log 1.670320]
      = ½ [0.263282 + 0.513015] = 0.388149.
    """
    anchors, views = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    valid = torch.ones(2, dtype=torch.bool)
    assert info_nce(anchors, views, valid, 0.5).item() == pytest.approx(0.388149, abs=2e-6)
    # Same class: neither is the other's negative, each softmax has one entry.
    assert info_nce(anchors, views, valid, 0.5, torch.tensor([1, 1])).item() == pytest.approx(0.0, abs=1e-6)


def test_prototype_loss_of_three_samples() -> None:
    """
    Class 0: (4, 0), (0, 4); class 1: (3, 4); τ = 1.

    r0 = normalize((2, 2)) = (1, 1)/√2, r1 = (0.6, 0.8).
    (4, 0): cosines 0.707107 with r0, 0.6 with r1; −log softmax = log(1 + e^(0.6 − 0.707107)) = log 1.898429 = 0.641026.
    (0, 4): 0.707107 and 0.8;                      log(1 + e^(0.8 − 0.707107)) = log 2.097344 = 0.740672.
    (3, 4): 1.4/√2 = 0.989949 with r0, 1 with its own r1: log(1 + e^(0.989949 − 1)) = log 1.990000 = 0.688134.
    L = (0.641026 + 0.740672 + 0.688134)/3 = 0.689944.

    With unit instances r0 is the same (both have length 4); with (8, 0) it is not: raw mean (4, 2), unit mean (½, ½).
    """
    rows = torch.tensor([[4.0, 0.0], [0.0, 4.0], [3.0, 4.0]])
    classes, valid = torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.bool)
    assert prototype_loss(rows, classes, valid, 5, 1.0).item() == pytest.approx(0.689944, abs=2e-6)
    assert prototype_loss(rows, classes, valid, 5, 1.0, True).item() == pytest.approx(0.689944, abs=2e-6)
    rows[0, 0] = 8.0
    assert prototype_loss(rows, classes, valid, 5, 1.0, True).item() == pytest.approx(0.689944, abs=2e-6)
    # r0 = (2, 1)/√5 = (0.894427, 0.447214). (8, 0): log(1 + e^(0.6 − 0.894427)) = log 1.744951 = 0.556727;
    # (0, 4): log(1 + e^(0.8 − 0.447214)) = log 2.423024 = 0.885016; (3, 4): 0.6·0.894427 + 0.8·0.447214 = 0.894427,
    # log(1 + e^(0.894427 − 1)) = log 1.899808 = 0.641753. Mean: 0.694499.
    assert prototype_loss(rows, classes, valid, 5, 1.0).item() == pytest.approx(0.694499, abs=2e-6)


def test_missing_audio_is_replaced_by_video_in_the_coarse_sequence() -> None:
    """
    One head of width 2, identity projections, no feed-forward; text token (2, 0), video (0, 6) at its only token.

    One key: attention weight 1, so the attention returns the value. Audio absent: value = video = (0, 6).
    x = LN((2, 0) + (0, 6)) = LN((2, 6)): mean 4, deviation 2 -> (−1, 1); LN(x + 0) = (−1, 1).
    Audio (0, −2) present: (2, 0) + (0, −2) = (2, −2): mean 0, deviation 2 -> (1, −1).
    Nothing present: LN((2, 0)) = (1, −1), and the sequence counts as absent.
    """
    config = TESTER.config(text_config=tiny_bert(hidden_size=2, num_attention_heads=1), coarse_heads=1)
    module = CoarseEncoder(config).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "_norm" in name:
                continue
            parameter.copy_(torch.eye(2)) if parameter.shape == (2, 2) and "attention" in name else parameter.zero_()
    text, mask = torch.tensor([[[2.0, 0.0]]]), torch.ones(1, 1, dtype=torch.bool)
    video, audio = torch.tensor([[[0.0, 6.0]]]), torch.tensor([[[0.0, -2.0]]])
    yes, no = torch.tensor([True]), torch.tensor([False])
    for has_video, has_audio, expected in ((yes, no, [-1, 1]), (yes, yes, [1, -1]), (no, no, [1, -1])):
        states, present = module(
            text, mask, {"video": (video, has_video), "audio": (audio, has_audio)}, Recorder(False, False)
        )
        assert states[0, 0].tolist() == pytest.approx(expected, abs=1e-4)
        assert present.tolist() == (has_video | has_audio).tolist()


def test_fusion_weights_are_normalised() -> None:
    """
    Scores without weights: α = σ(bias), biases 0, log 3 and −log 3, hence α = 1/2, 3/4, 1/4.

    All present: α̂ = (2/6, 3/6, 1/6). Without the second: (1/2, 1/4)/(3/4) = (2/3, 0, 1/3). None: 0.
    """
    sizes = {"video": 4, "audio": 4, "coarse": 2}
    module = DynamicAttentionFusion(sizes, 2, 1, "soft", 0.0, 0.0).eval()
    with torch.no_grad():
        for source, bias in zip(module.sources.values(), (0.0, math.log(3), -math.log(3)), strict=True):
            source.score.weight.zero_()
            source.score.bias.fill_(bias)
    there = {"video": [1, 1, 0], "audio": [1, 0, 0], "coarse": [1, 1, 0]}
    sources = {
        name: (wave(3 * 2 * size, 0).reshape(3, 2, size), torch.tensor(there[name], dtype=torch.bool))
        for name, size in sizes.items()
    }
    mask = torch.tensor([[1, 1], [1, 1], [1, 0]], dtype=torch.bool)
    _, weights = module(wave(12, 9).reshape(3, 2, 2), mask, sources)
    for row, expected in enumerate(([1 / 3, 1 / 2, 1 / 6], [2 / 3, 0, 1 / 3], [0, 0, 0])):
        assert weights[row, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_peephole_step_by_hand() -> None:
    """
    One unit, one input, all weights 1, biases 0, peepholes 1; inputs 1, 0. Forward direction:

    t=1: gates = 1; i = σ(1) = 0.731059, g = tanh 1 = 0.761594, c = 0.556770; o = σ(1 + c) = σ(1.556770) = 0.825889,
         h = o tanh c = 0.825889 · 0.505577 = 0.417551.
    t=2: gates = 0 + h = 0.417551; i = f = σ(0.417551 + 0.556770) = σ(0.974321) = 0.725980; g = tanh 0.417551 = 0.394865;
         c = 0.725980 · 0.556770 + 0.725980 · 0.394865 = 0.690868; o = σ(0.417551 + 0.690868) = σ(1.108418) = 0.751834;
         h = 0.751834 · tanh 0.690868 = 0.751834 · 0.598539 = 0.450002.
    """
    module = PeepholeBiLSTM(1, 1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(0.0 if name == "bias" else 1.0)
        states = module(torch.tensor([[[1.0], [0.0]]]), torch.ones(1, 2, dtype=torch.bool))
    assert states[0, :, 0].tolist() == pytest.approx([0.417551, 0.450002], abs=2e-6)


def test_pooling_of_five_frames_to_two_words() -> None:
    """Word 0 averages frames ⌊0⌋ … ⌈5/2⌉−1 = 0, 1, 2; word 1 frames ⌊5/2⌋ … 4 = 2, 3, 4: the middle one counts twice."""
    frames = torch.tensor([[[1.0], [2.0], [6.0], [4.0], [5.0]]])
    mask, words = torch.ones(1, 5, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    assert AdaptivePoolAlignment()(frames, mask, words)[0, :, 0].tolist() == pytest.approx([3.0, 5.0])


if __name__ == "__main__":
    STORED.write_text(json.dumps({case: compute(overrides) for case, overrides in CASES.items()}, indent=1) + "\n")
