"""Calibration by hand: errors of worked examples, temperatures with a known answer, and that predictions use the stored one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, pipeline

from hf_mmintent.calibration import fit_temperature, reliability, save_temperature
from hf_mmintent.modeling.calibration import label_probabilities
from hf_mmintent.prediction import predict_one
from tests.modeling.media_files import write_media
from tests.modeling.pipeline_cases import TASK, save_clip_checkpoint
from tests.modeling.testers import MvclDafTester


def two_classes(*confidences: float) -> np.ndarray:
    """Logits (n, 2) whose first class has these probabilities."""
    return np.array([[math.log(p / (1 - p)), 0.0] for p in confidences])


def test_expected_calibration_error_by_hand() -> None:
    # five bins: (0.8, 1] holds 0.9 and 0.9, one of them right; (0.6, 0.8] holds 0.7 and 0.75, both right
    found = reliability(two_classes(0.9, 0.9, 0.7, 0.75), [0, 1, 0, 0], bins=5)
    assert found.count.tolist() == [0, 0, 0, 2, 2] and found.n == 4
    np.testing.assert_allclose(found.confidence[3:], [0.725, 0.9])
    np.testing.assert_allclose(found.accuracy[3:], [1.0, 0.5])
    assert found.ece == pytest.approx(0.5 * 0.275 + 0.5 * 0.4) and found.mce == pytest.approx(0.4)
    assert found.nll == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.7) + math.log(0.75)) / 4)
    assert found.brier == pytest.approx(2 * (0.01 + 0.81 + 0.09 + 0.0625) / 4)
    plain = found.to_dict()
    assert plain["accuracy"][0] is None and json.dumps(plain)


def test_a_confidence_on_an_edge_belongs_below_it() -> None:
    found = reliability(two_classes(0.5), [0], bins=2)  # (0, ½] and (½, 1]
    assert found.count.tolist() == [1, 0]


def test_several_labels_are_decisions_of_their_own() -> None:
    logits = np.array([[math.log(4), -math.log(9)]])  # p = 0.8 and 0.1: sure by 0.8 and by 0.9
    found = reliability(logits, [[1, 1]], bins=10)
    assert found.n == 2 and found.ece == pytest.approx((0.2 + 0.9) / 2)
    assert found.nll == pytest.approx(-(math.log(0.8) + math.log(0.1)) / 2)
    assert found.brier == pytest.approx((0.04 + 0.81) / 2)


@pytest.mark.parametrize(("right", "scale"), [(3, 2.0), (9, 1.0), (6, 5.0)])
def test_the_temperature_of_a_known_case(right: int, scale: float) -> None:
    """n answers with one logit difference z: the likeliest probability is the share r of right ones, z / T = ln(r / (1−r))."""
    count = 10 if right != 3 else 4
    logits = np.tile([scale, 0.0], (count, 1))
    labels = [0] * right + [1] * (count - right)
    share = right / count
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(scale / math.log(share / (1 - share)), rel=1e-9)
    assert reliability(logits, labels, found).ece == pytest.approx(0, abs=1e-9)
    several = fit_temperature(
        logits[:, :1], np.array(labels)[:, None] == 0
    )  # the same as one label that applies or not
    assert several == pytest.approx(found, rel=1e-9)


def test_scaled_logits_have_a_scaled_temperature() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 5))
    labels = [generator.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits]
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(1.0, abs=0.25)  # labels were drawn from these very probabilities
    assert fit_temperature(7 * logits, labels) == pytest.approx(7 * found, rel=1e-6)
    grid = [reliability(logits, labels, found * factor).nll for factor in (0.9, 1.0, 1.1)]
    assert grid[1] < min(grid[0], grid[2])


def test_no_temperature_is_best_where_all_or_nothing_is_right() -> None:
    logits = np.tile([2.0, 0.0], (4, 1))
    with pytest.raises(ValueError, match="every decision is right"):
        fit_temperature(logits, [0, 0, 0, 0])
    with pytest.raises(ValueError, match="say nothing about the labels"):
        fit_temperature(logits, [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), [], r"`logits` has shape \(0, 3\)"),
        (np.zeros((2, 3)), [0], r"`labels` \(1,\)"),
        (np.zeros((2, 3)), [0, 3], "ids from 0 to 3 but `logits` has 3 classes"),
        (np.zeros(2), [0.5, 0.5], "no probabilities to calibrate"),
    ],
)
def test_what_cannot_be_calibrated_is_named(logits: np.ndarray, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
    with pytest.raises(ValueError, match=message):
        reliability(logits, labels)


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`temperature` is 0"):
        reliability(two_classes(0.7), [0], temperature=0)
    with pytest.raises(ValueError, match="`bins` is 0"):
        reliability(two_classes(0.7), [0], bins=0)
    with pytest.raises(ValueError, match="`temperature` is -1"):
        save_temperature(tmp_path, -1)
    with pytest.raises(FileNotFoundError):
        save_temperature(tmp_path, 2.0)
    with pytest.raises(StrictDataclassClassValidationError, match="`calibration_temperature` is 0"):
        MvclDafTester().config(calibration_temperature=0.0)


def test_probabilities_of_every_kind() -> None:
    config = MvclDafTester().config(calibration_temperature=2.0)
    logits = torch.tensor([[2 * math.log(3), 0.0]])
    torch.testing.assert_close(label_probabilities(logits, config), torch.tensor([[0.75, 0.25]]))
    config.problem_type = "multi_label_classification"
    torch.testing.assert_close(label_probabilities(logits, config), torch.tensor([[0.75, 0.5]]))
    config.problem_type = "regression"
    with pytest.raises(ValueError, match="no probabilities"):
        label_probabilities(logits, config)


def test_predictions_use_the_stored_temperature(tmp_path: Path, tiny_tokenizer: Any) -> None:
    checkpoint = save_clip_checkpoint(tmp_path / "checkpoint", tiny_tokenizer)
    clip = write_media(tmp_path / "clip.mp4", seconds=1.0)
    before = json.loads((checkpoint / "config.json").read_text())
    plain = predict_one(checkpoint, clip=clip, text="hello you")
    save_temperature(checkpoint, 0.25)
    after = json.loads((checkpoint / "config.json").read_text())
    assert after.pop("calibration_temperature") == 0.25
    before.pop("calibration_temperature", None)
    assert after == before and AutoConfig.from_pretrained(checkpoint).calibration_temperature == 0.25
    found = predict_one(checkpoint, clip=clip, text="hello you")
    expected = np.array([p for _, p in plain.ranking]) ** 4  # softmax(z / ¼) ∝ softmax(z)⁴
    np.testing.assert_allclose([p for _, p in found.ranking], expected / expected.sum(), rtol=1e-4)
    assert [name for name, _ in found.ranking] == [name for name, _ in plain.ranking]
    answer = pipeline(TASK, model=str(checkpoint), device="cpu")({"clip": clip, "text": "hello you"})["ranking"]
    assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(dict(found.ranking), rel=1e-4)
