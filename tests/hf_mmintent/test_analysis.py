"""The analyses on a model that was trained for seconds: what they measure, and that each writes a picture and numbers."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hf_mmintent.analysis import ANALYSES, analysis
from hf_mmintent.analysis.budgets import frozen_budgets, learned_budgets, scaled
from hf_mmintent.analysis.common import Subject, gather
from hf_mmintent.analysis.levels import level_figures, representative
from hf_mmintent.analysis.noise import noise_curve
from hf_mmintent.analysis.perturbations import deviations
from hf_mmintent.analysis.sensitivity import with_value
from hf_mmintent.analysis.tsne import neighbour_agreement, project
from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import evaluate, open_checkpoint
from hf_mmintent.modeling.modeling_clcr import ClcrOutput
from hf_mmintent.training import RunConfig, train_run
from tests.hf_mmintent.test_diagnostics import CONFIG
from tests.hf_mmintent.training_cases import settings


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("analysis")
    made = settings(folder, tiny_tokenizer, model_type="clcr", training={"num_train_epochs": 2})
    return {**made, "config": dict(CONFIG)}


@pytest.fixture(scope="module")
def checkpoint(values: dict[str, Any]) -> Path:
    return train_run(RunConfig.from_dict(values), 0, Path(values["output_dir"])).checkpoint


@pytest.fixture
def subject(checkpoint: Path, values: dict[str, Any]) -> Subject:
    model, processor = open_checkpoint(checkpoint)
    return Subject("clcr", model, processor, load(values["data"]["name"])["validation"])


def analyze(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["analyze.py", *map(str, arguments)])
    runpy.run_path(str(root / "examples" / "analyze.py"), run_name="__main__")


def test_the_door_knows_its_analyses() -> None:
    for name in ANALYSES:
        assert callable(analysis(name).run) and analysis(name).__doc__
    with pytest.raises(ValueError, match="no analysis 'level'"):
        analysis("level")


def test_level_contributions_are_what_masking_changes(subject: Subject) -> None:
    found = level_figures(subject, batch_size=4)
    assert found["alpha"].shape == found["contribution"].shape == (9, 3)
    np.testing.assert_allclose(found["alpha"].sum(1), 1, atol=1e-5)
    row = dict(subject.processor(text=[subject.rows[2]["text"]], **{
        f"{m}_features": [subject.rows[2][f"{m}_features"]] for m in ("audio", "video")
    }))  # fmt: skip
    with torch.no_grad():
        plain = subject.model(**row).logits.softmax(-1)[0]
        deep = subject.model(**row, mask_levels=("deep",)).logits.softmax(-1)[0]
    best = int(plain.argmax())
    assert found["prediction"][2] == best
    assert found["contribution"][2, 2] == pytest.approx(abs(plain[best] - deep[best]).item(), abs=1e-5)


def test_representative_samples_lean_on_each_level() -> None:
    alpha = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
    assert representative(alpha, 3) == [0, 1, 2]
    assert sorted(representative(alpha, 10)) == [0, 1, 2, 3]


def test_no_noise_is_the_plain_score_and_draws_are_seeded(subject: Subject) -> None:
    plain = evaluate(subject.model, subject.processor, subject.rows, progress=False).scores
    curve = noise_curve(subject, [0.0, 3.0], repeats=2)
    assert curve[0.0][0]["accuracy"] == plain["accuracy"] and len(curve[0.0]) == 1 and len(curve[3.0]) == 2
    assert noise_curve(subject, [3.0], repeats=2)[3.0] == curve[3.0]
    values = np.concatenate([np.asarray(row) for row in subject.rows["audio_features"]])
    np.testing.assert_allclose(deviations(subject.rows, "audio"), values.std(0), rtol=1e-4)
    assert not subject.model.get_input_embeddings()._forward_hooks


def test_participation_grows_with_kappa_and_the_model_is_left_as_it_was(subject: Subject) -> None:
    points = scaled(subject, [0.1, 1.0, 50.0], batch_size=4)
    shares = [point["participation"] for point in points.values()]
    assert shares[0] < shares[1] < shares[2] == pytest.approx(1.0)
    assert points[50.0]["tight"] == 0 and subject.model.config.budget_scale == 1.0
    plain = evaluate(subject.model, subject.processor, subject.rows, progress=False).scores
    assert points[1.0]["accuracy"] == plain["accuracy"]


def test_frozen_budgets_are_the_learned_ones(subject: Subject, values: dict[str, Any]) -> None:
    run = RunConfig.from_dict(values)
    budgets = learned_budgets(subject)
    assert len(budgets) == 3 and all(0.05 < budget < 0.2 for budget in budgets)
    frozen = frozen_budgets(run, budgets, 0.5).config
    assert frozen["budget_init"] == budgets and frozen["budget_scale"] == 0.5 and not frozen["budget_learnable"]
    assert not frozen_budgets(run, budgets, None).config["use_budget_projection"]
    assert "budget_init" not in run.config
    doubled = RunConfig.from_dict({**values, "config": {**values["config"], "budget_scale": 2.0}})
    assert frozen_budgets(doubled, budgets, 0.5).config["budget_scale"] == 1.0


def test_an_output_that_a_checkpoint_lacks_is_named() -> None:
    """Such as the participation of a model without IntraCED."""
    outputs = [ClcrOutput(logits=torch.zeros(2, 3))]
    assert gather(iter(outputs), "logits")["logits"].shape == (2, 3)
    with pytest.raises(ValueError, match=r"`participation`, which ClcrOutput .* it has \['logits'\]"):
        gather(iter(outputs), "logits", "participation")


def test_neighbours_agree_where_labels_cluster() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    points = generator.normal(size=(40, 5)) + 10 * labels[:, None]
    assert neighbour_agreement(points, labels, regression=False) == 1.0
    assert neighbour_agreement(points, labels.astype(float), regression=True) == pytest.approx(1.0)
    shuffled = generator.permutation(labels)
    assert neighbour_agreement(points, shuffled, regression=False) < 0.7
    assert project(points[:4]).shape == (4, 2)


def test_neighbours_of_small_classes() -> None:
    """On a line 0 1 2 | 10 11 | 50, classes of three, two and one: every point with company has its own beside it."""
    line, kinds = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [50.0]]), np.array(["a", "a", "a", "b", "b", "c"])
    assert neighbour_agreement(line, kinds, regression=False) == 1.0
    # With 2 of another class: 0 has one of its two others beside it, 1 too, 2 asks for one and has 1, which is no "d".
    mixed = np.array(["a", "a", "d", "a", "d", "c"])
    assert neighbour_agreement(line, mixed, regression=False) == pytest.approx((1 / 2 + 1 / 2 + 0 + 0 + 0) / 5)
    assert np.isnan(neighbour_agreement(line[:2], kinds[[0, 3]], regression=False))


def test_one_setting_is_changed(values: dict[str, Any]) -> None:
    run = RunConfig.from_dict(values)
    assert with_value(run, "config.intra_loss_weight", 0.5).config["intra_loss_weight"] == 0.5
    assert with_value(run, "config.inter_weights.1", 0).config["inter_weights"] == [pytest.approx(1 / 3), 0, 1 / 3]
    assert with_value(run, "standardize", True).standardize and not run.standardize
    for field in ("nothing.here", "config.inter_weights.7", "standardise"):
        with pytest.raises(ValueError, match=r"is not a group|no entry 7|unknown run setting"):
            with_value(run, field, 1)


def test_every_analysis_writes_a_picture_and_numbers(
    checkpoint: Path,
    values: dict[str, Any],
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump({**values, "training": {**values["training"], "num_train_epochs": 1}}))
    common = ("--output_dir", tmp_path, "--batch_size", 4)
    for arguments in (
        ("levels", checkpoint, *common),
        ("noise", checkpoint, checkpoint, *common, "--strengths", 0, 0.5, "--repeats", 1),
        ("tsne", checkpoint, *common),
        ("budgets", checkpoint, *common, "--scales", 0.5, "--retrain", run_file),
        ("sensitivity", run_file, "--field", "config.inter_weights.0", "--values", 0, "--output_dir", tmp_path),
    ):
        analyze(monkeypatch, root, *arguments)
        picture, numbers = capsys.readouterr().out.strip().splitlines()[-1].split("  ")
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
        assert json.loads(Path(numbers).read_text(encoding="utf-8"))
    assert (tmp_path / "sensitivity_config.inter_weights.0.png").is_file()  # another setting's picture stays
    curves = json.loads((tmp_path / "budgets_run_validation.json").read_text(encoding="utf-8"))["curves"]
    assert set(curves["b: retrained, frozen"]) == {"0.5", "dense"}
    assert curves["b: retrained, frozen"]["dense"]["participation"] == 1.0
