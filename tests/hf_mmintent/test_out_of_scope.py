"""Out-of-scope detection from fitting to answers: thresholds by hand, and a checkpoint trained on MIntRec2.0's layout."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import pipeline

from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import evaluate, open_checkpoint
from hf_mmintent.fit_rejection import fit_checkpoints, outputs_for_fitting
from hf_mmintent.metrics import open_scores
from hf_mmintent.modeling.modeling_unimodal import UnimodalForSequenceClassification
from hf_mmintent.modeling.out_of_scope import METHODS, OutOfScope
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor
from hf_mmintent.out_of_scope import as_config, fit_rule, rejection_scores, store_rule
from hf_mmintent.prediction import predict_one
from hf_mmintent.training import RunConfig, train_run
from tests.data_scripts.test_mintrec2 import PARTS, write
from tests.modeling.testers import UnimodalTextTester, tiny_bert

K = 30


def outputs(
    logits: list[list[float]], labels: list[int], embeddings: list[list[float]] | None = None
) -> dict[str, Tensor]:
    values = torch.tensor(logits)
    return {
        "logits": values,
        "embeddings": values if embeddings is None else torch.tensor(embeddings),
        "labels": torch.tensor(labels),
    }


# ---- fitting by hand -----------------------------------------------------------------------------------------------


def confident(probabilities: list[float]) -> list[list[float]]:
    """Logits of two classes whose softmax gives the first one this probability."""
    return [[float(np.log(p / (1 - p))), 0.0] for p in probabilities]


def test_the_threshold_keeps_the_wanted_share_in_scope() -> None:
    """Four of five: halfway between the fourth and the fifth score."""
    rows = outputs(confident([0.9, 0.6, 0.8, 0.95, 0.7]), [0, 1, 0, 0, 0])
    rule = fit_rule("max_softmax", None, rows, in_scope_recall=0.8)
    assert rule.threshold == pytest.approx(0.65, abs=1e-6)
    assert rule.fitted == {"split": "validation", "n": 5, "in_scope_recall": 0.8, "accepted_in_scope": 0.8}
    whole = fit_rule("max_softmax", None, rows)  # 95 % of five rows are all five
    assert whole.threshold < 0.6 and whole.fitted["accepted_in_scope"] == 1.0


def test_rows_out_of_scope_choose_the_threshold() -> None:
    """0.9, 0.8 and 0.65 are in scope, 0.7, 0.68 and 0.6 not: with 0.75 one of three is lost, which is the best there is."""
    rows = outputs(confident([0.9, 0.8, 0.65, 0.7, 0.68, 0.6]), [0, 0, 0, 2, 2, 2])
    rule = fit_rule("max_softmax", None, rows)
    assert rule.threshold == pytest.approx(0.75, abs=1e-6) and rule.fitted["objective"] == "oid_f1"
    assert (
        rule.fitted["accepted_in_scope"] == pytest.approx(2 / 3, abs=1e-6) and rule.fitted["accepted_out_of_scope"] == 0
    )
    scores = {limit: open_scores([0, 0, 0, 2, 2, 2], np.where(np.array([0.9, 0.8, 0.65, 0.7, 0.68, 0.6]) >= limit, 0, 2), 2)
              ["oid_f1"] for limit in np.linspace(0.5, 1.0, 101)}  # fmt: skip
    assert scores[0.75] == max(scores.values())


def test_energy_and_temperature() -> None:
    rows = outputs([[0.0, 0.0], [float(np.log(3.0)), 0.0]], [0, 1])
    rule = fit_rule("energy", None, rows, in_scope_recall=0.5, temperature=1.0)
    assert rule.threshold == pytest.approx((np.log(2) + np.log(4)) / 2, abs=1e-6) and rule.temperature == 1.0


def test_prototypes_are_mean_directions_of_training_rows_in_scope() -> None:
    train = outputs([[1.0, 0.0]] * 4, [0, 0, 1, 2], [[2.0, 0.0], [0.0, 5.0], [0.0, 3.0], [9.0, 9.0]])
    validation = outputs([[1.0, 0.0]] * 2, [0, 1], [[1.0, 1.0], [0.0, -1.0]])
    rule = fit_rule("prototype", train, validation, in_scope_recall=0.5)
    root = float(np.sqrt(0.5))
    np.testing.assert_allclose(rule.prototypes, [[root, root], [0.0, 1.0]], atol=1e-6)  # the row of label 2 has no say
    assert rule.threshold == pytest.approx((1.0 - root) / 2, abs=1e-5)
    with pytest.raises(ValueError, match=r"classes \[1\] have no training row"):
        fit_rule("prototype", outputs([[1.0, 0.0]], [0]), validation)


def test_doc_takes_its_thresholds_from_training_rows_in_scope() -> None:
    p = [0.9, 0.8, 0.6]
    train = outputs([[float(np.log(x / (1 - x))), -5.0] for x in p] + [[0.0, 0.0], [7.0, 7.0]], [0, 0, 0, 1, 2])
    rule = fit_rule("doc", train, outputs([[2.0, 0.0], [0.5, 0.0]], [0, 2]))
    assert rule.thresholds == pytest.approx((0.735425, 0.5), abs=1e-6)  # golden value of the specification
    assert rule.fitted["accepted_in_scope"] == 1.0 and rule.fitted["accepted_out_of_scope"] == 0.0
    half = fit_rule("doc", train, outputs([[2.0, 0.0]], [0]), scale=0.5)
    assert half.thresholds[0] == pytest.approx(1 - 0.5 * 0.264575, abs=1e-6)


@pytest.mark.parametrize("arguments, message", [
    (("guess", None), "`method` is 'guess'"),
    (("doc", None), "pass `train`"),
    (("energy", None, "UNK", 1.5), "`in_scope_recall` is 1.5"),
])  # fmt: skip
def test_what_cannot_be_fitted(arguments: tuple[Any, ...], message: str) -> None:
    method, train, *rest = arguments
    with pytest.raises(ValueError, match=message):
        fit_rule(method, train, outputs([[0.0, 1.0]], [0]), *rest)
    with pytest.raises(ValueError, match="no validation row is in scope"):
        fit_rule("energy", None, outputs([[0.0, 1.0]], [2]))


def test_scores_of_the_protocol_by_hand() -> None:
    """Two classes; the third row is right and rejected, the fourth out of scope and accepted."""
    rows = outputs(confident([0.9, 0.8, 0.6, 0.85, 0.55]), [0, 1, 0, 2, 2])
    rule = OutOfScope("max_softmax", threshold=0.7)
    predictions, scores = rejection_scores(rule, rows, rows["labels"].numpy())
    assert predictions.tolist() == [0, 0, 2, 0, 2]
    assert scores["accuracy"] == pytest.approx(2 / 3)  # in scope, without rejection
    assert scores["oid_acc"] == pytest.approx(2 / 5) and scores["rejected"] == pytest.approx(2 / 5)
    f1 = (2 * 1 / (3 + 2), 0.0, 2 * 1 / (2 + 2))  # 2 t / (predicted + true)
    assert scores["f1_known"] == pytest.approx((f1[0] + f1[1]) / 2) and scores["f1_open"] == pytest.approx(f1[2])
    assert scores["oid_f1"] == pytest.approx(sum(f1) / 3)
    assert scores["auroc"] == pytest.approx(4 / 6)  # 0.9, 0.8, 0.6 against 0.85, 0.55: four of six pairs in order
    assert (scores["n"], scores["n_in_scope"], scores["n_out_of_scope"]) == (5, 3, 2)


def test_detection_by_the_rules_own_score() -> None:
    """Large equal logits: the energy tells them apart where the softmax does not."""
    rows = outputs([[5.0, 5.0], [4.0, 4.0], [0.0, 0.0]], [0, 1, 2])
    _, scores = rejection_scores(OutOfScope("energy", threshold=2.0), rows, rows["labels"].numpy())
    assert scores["auroc"] == pytest.approx(0.5) and scores["auroc_energy"] == 1.0


# ---- a checkpoint ----------------------------------------------------------------------------------------------------


def rows_of(names: list[str], generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Tables of in-scope and out-of-scope turns, and features in which an intent shows and the other turns show none."""
    counts = {"train": 4, "dev": 1, "test": 1}
    tables: dict[str, Any] = {part: {split: [] for split in counts} for part in PARTS}
    features, dialogue = {}, 0
    for split, count in counts.items():
        for label in [*names * count, *["UNK"] * (10 * count)]:
            row = (str(dialogue), "0", "so it goes", label, "Amy")
            part = "out-of-scope" if label == "UNK" else "in-scope"
            tables[part][split].append(row)
            tables["total"][split].append(row)
            values = generator.normal(size=(3, 1, K)).astype(np.float32) * 0.3
            if label != "UNK":
                values[..., names.index(label)] += 3.0
            features[f"dia{dialogue}_utt0"] = values
            dialogue += 1
    return tables, features


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MIntRec2.0's folder with made-up turns."""
    folder = tmp_path_factory.mktemp("mintrec2")
    first = write(tmp_path_factory.mktemp("names"))
    names = load("mintrec2", data_dir=first, strict_counts=False)["train"].features["label"].names
    tables, features = rows_of(names, np.random.default_rng(0))
    write(folder, tables)
    for part in PARTS.values():
        for file in ("audio_data/wavlm_feats_binary.pkl",):
            (folder / part / file).parent.mkdir()
            (folder / part / file).write_bytes(pickle.dumps(features))
    return folder


@pytest.fixture(scope="module")
def checkpoint(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audio classifier that has seen no turn out of scope."""
    run = RunConfig.from_dict(
        {
            "model_type": "unimodal",
            "data": {"name": "mintrec2", "data_dir": str(files), "options": {"strict_counts": False}},
            "config": {"modalities": ["audio"], "hidden_size": 32, "encoder_layers": 1},
            "training": {
                "num_train_epochs": 12,
                "per_device_train_batch_size": 24,
                "learning_rate": 1e-2,
                "use_cpu": True,
                "disable_tqdm": True,
            },
        }
    )  # fmt: skip
    return train_run(run, 0, tmp_path_factory.mktemp("run"), checkpoint_seconds=3600.0).checkpoint


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy whose config may be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


@pytest.mark.parametrize("config_name", ["oos", "total31"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "class"])
def test_a_model_trained_in_scope_learns_to_reject(own: Path, files: Path, method: str, config_name: str) -> None:
    (rule,) = fit_checkpoints(own, method, config_name=config_name).values()
    stored = json.loads((own / "config.json").read_text())["out_of_scope"]
    assert stored == as_config(rule) and stored["method"] == method
    assert rule.fitted["n"] == (30 if config_name == "oos" else 40)
    model, processor = open_checkpoint(own)
    assert OutOfScope.of(model.config).margins(torch.zeros(1, K), torch.ones(1, 32)).shape == (1,)
    rows = load("mintrec2", data_dir=files, name="oos", strict_counts=False)["test"]
    found = evaluate(model, processor, rows, progress=False)
    scores = found.scores
    assert (scores["n"], scores["n_in_scope"], scores["n_out_of_scope"]) == (40, 30, 10)
    assert scores["accuracy"] > 0.9 and scores["auroc"] > 0.9
    assert (
        set(found.predictions.predictions.tolist()) <= set(range(K + 1)) and (found.predictions.labels == K).sum() == 10
    )
    again = open_scores(found.predictions.labels, found.predictions.predictions, K)
    assert {name: scores[name] for name in again} == again
    # better than answering every time; DOC's sigmoids, of a model trained with softmax, may never fall below its thresholds
    never = open_scores(found.predictions.labels, found.predictions.scores.argmax(1), K)
    assert never["f1_open"] == 0 and (method == "doc" or scores["f1_open"] > 0.5)
    assert scores["oid_f1"] > never["oid_f1"] or method == "doc"


def test_nothing_is_fitted_on_test(own: Path, files: Path) -> None:
    with pytest.raises(ValueError, match="is the test split"):
        fit_checkpoints(own, "energy", validation_split="test")
    model, processor = open_checkpoint(own)
    rows = load("mintrec2", data_dir=files, name="oos", strict_counts=False)["test"]
    with pytest.raises(ValueError, match="is the test split"):
        outputs_for_fitting(model, processor, rows)
    assert json.loads((own / "config.json").read_text()).get("out_of_scope") is None


def test_without_a_rule_the_label_is_unknown(own: Path, files: Path) -> None:
    model, processor = open_checkpoint(own)
    rows = load("mintrec2", data_dir=files, name="oos", strict_counts=False)["test"]
    with pytest.raises(ValueError, match="'UNK'"):
        evaluate(model, processor, rows, progress=False)


def test_rows_in_scope_alone_are_scored_too(own: Path, files: Path) -> None:
    fit_checkpoints(own, "energy")
    model, processor = open_checkpoint(own)
    rows = load("mintrec2", data_dir=files, strict_counts=False)["test"]
    scores = evaluate(model, processor, rows, progress=False).scores
    assert np.isnan(scores["auroc"]) and scores["n_out_of_scope"] == 0 and 0 <= scores["rejected"] < 0.5


def test_commands(own: Path, files: Path, root: Path) -> None:
    """Fitting and scoring as a user does."""
    fit = [sys.executable, "examples/fit_out_of_scope.py", str(own), "--method", "max_softmax", "--config_name", "oos"]
    done = subprocess.run(fit, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "max_softmax, threshold 0." in done.stdout, done.stderr
    score = [sys.executable, "examples/evaluate.py", str(own), "--config_name", "oos", "--split", "test"]
    done = subprocess.run(score, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header = next(line for line in done.stdout.splitlines() if line.startswith("| modalities"))
    assert "oid_f1" in header and "f1_open" in header and "auroc" in header


def test_a_pipeline_answers_none_of_these(own: Path, files: Path) -> None:
    rows = load("mintrec2", data_dir=files, name="oos", strict_counts=False)["test"]
    fit_checkpoints(own, "max_softmax")
    pipe = pipeline("multimodal-intent-recognition", model=str(own))
    inside, outside = (next(row for row in rows if (row["label"] == K) == out) for out in (False, True))
    answers = [pipe({"audio_features": row["audio_features"]}) for row in (inside, outside)]
    names = pipe.model.config.id2label
    assert answers[0]["answer"] == names[inside["label"]] and answers[0]["margin"] > 0
    assert answers[1]["answer"] == "UNK" and answers[1]["margin"] < 0
    assert answers[1]["windows"][0]["answer"] == "UNK" and answers[1]["ranking"][0]["label"] in names.values()
    store_rule(own, None)
    plain = pipeline("multimodal-intent-recognition", model=str(own))({"audio_features": outside["audio_features"]})
    assert "answer" not in plain and plain["ranking"] == answers[1]["ranking"]


def test_one_sentence_is_none_of_these(tmp_path: Path, tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = UnimodalTextTester().config(text_config=tiny_bert(vocab_size=len(tiny_tokenizer)))
    UnimodalForSequenceClassification(config).save_pretrained(tmp_path)
    MultimodalProcessor.from_config(config, tiny_tokenizer).save_pretrained(tmp_path)
    assert predict_one(tmp_path, text="hello").none_of_these is None
    for threshold, expected in ((1.5, "nothing"), (0.1, None)):
        store_rule(tmp_path, OutOfScope("max_softmax", "nothing", threshold=threshold))
        answer = predict_one(tmp_path, text="hello")
        assert answer.none_of_these == expected and (answer.margin < 0) == (expected is not None)
        assert answer.ranking[0][1] == pytest.approx(answer.margin + threshold, abs=1e-5)
