"""Robustness of checkpoints that were trained for seconds: features and clips, classifiers and models that write."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Value

from hf_mmintent.analysis.answers import answer, default_score
from hf_mmintent.analysis.common import Subject
from hf_mmintent.analysis.perturbations import DecodedRows
from hf_mmintent.analysis.robustness import Robustness, best_guess, measure, tables
from hf_mmintent.data.loading import load
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.evaluation import evaluate, open_checkpoint
from hf_mmintent.training import RunConfig, train_run
from tests.modeling.media_files import write_media
from tests.modeling.pipeline_cases import save_clip_checkpoint
from tests.modeling.testers import LABELS, ConcatFusionTester, ModelTester

from .training_cases import settings

QUICK: dict[str, Any] = {"strengths": (0.0, 4.0), "shares": (0.0, 0.5), "rates": (0.0, 0.5), "repeats": 2}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> dict[str, Any]:
    return settings(tmp_path_factory.mktemp("robust"), tiny_tokenizer, training={"num_train_epochs": 8})


@pytest.fixture(scope="module")
def run_folder(values: dict[str, Any]) -> Path:
    train_run(RunConfig.from_dict(values), 0, Path(values["output_dir"]) / "seed_0")
    return Path(values["output_dir"])


@pytest.fixture(scope="module")
def subject(run_folder: Path, values: dict[str, Any]) -> Subject:
    model, processor = open_checkpoint(run_folder / "seed_0" / "final")
    return Subject("daf", model, processor, load(values["data"]["name"])["test"])


@pytest.fixture(scope="module")
def found(subject: Subject) -> Robustness:
    return measure(subject, **QUICK)


def test_unperturbed_answers_are_those_of_evaluation(subject: Subject, found: Robustness) -> None:
    plain = evaluate(subject.model, subject.processor, subject.rows, progress=False)
    assert found.clean == [pytest.approx(plain.scores)]
    for curve in found.curves.values():
        assert curve.draws[0][0] == found.clean[0], curve.kind
    for given, (scores,) in found.subsets.items():
        drop = [name for name in subject.processor.modalities if name not in given]
        assert scores == evaluate(subject.model, subject.processor, subject.rows, drop, progress=False).scores
    assert len(found.subsets) == 7 and {len(given) for given in found.subsets} == {1, 2, 3}


class OnlyHears(torch.nn.Module):
    """Logits are the mean of the first three columns of the sound: what the other modalities hold changes nothing."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.device, self.words = config, torch.device("cpu"), torch.nn.Embedding(4, 2)

    def can_generate(self) -> bool:
        return False

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.words

    def forward(self, audio_features: Any = None, audio_attention_mask: Any = None, **rest: Any) -> Any:
        if audio_features is None:
            return type(
                "Out", (), {"logits": torch.tensor([[0.0, 0.1, 0.0]]).expand(len(next(iter(rest.values()))), -1)}
            )
        summed = (audio_features[..., :3] * audio_attention_mask[..., None]).sum(1)
        return type("Out", (), {"logits": summed / audio_attention_mask.sum(1, keepdim=True)})


def test_what_the_model_uses_matters_and_nothing_else(tiny_tokenizer: Any) -> None:
    tester = ConcatFusionTester()
    features = Features(
        {
            **dict.fromkeys(("id", "text"), Value("string")),
            "label": ClassLabel(names=list(LABELS.values())),
            "audio_features": Array2D((None, 6), "float32"),
            "video_features": Array2D((None, 8), "float32"),
        }
    )
    sounds = []
    for index in range(12):
        sounds.append(np.zeros((20, 6), "f4"))
        sounds[-1][:, index % 3] = 5.0
    columns = {
        "id": [str(index) for index in range(12)],
        "text": ["thank you so much"] * 12,
        "label": [index % 3 for index in range(12)],
        "audio_features": sounds,
        "video_features": list(np.random.default_rng(0).normal(size=(12, 4, 8)).astype("f4")),
    }
    rows = Dataset.from_dict(columns, features=features).with_format(FORMAT)
    subject = Subject("ears", OnlyHears(tester.config()), tester.processor(tiny_tokenizer), rows)
    found = measure(subject, strengths=(0.0, 20.0), shares=(0.0, 0.9), rates=(0.0, 1.0), repeats=2)
    assert found.clean[0]["accuracy"] == 1.0 and found.guess == {"accuracy": pytest.approx(1 / 3)} and not found.notes
    # every donor has another label, and the model says that one
    assert found.changed == {"text": [0.0, 0.0], "audio": [1.0, 1.0], "video": [0.0, 0.0]}
    assert [scores["accuracy"] for scores in found.shuffled["audio"]] == [0.0, 0.0]
    for (kind, modality), curve in found.curves.items():
        if modality in ("text", "video") or (kind, modality) == ("frames", "audio"):  # equal steps: one says it all
            assert curve.means("accuracy") == [1.0, 1.0] and curve.area("accuracy") == 1.0, (kind, modality)
    noisy = found.curves["noise", "audio"]
    assert [len(draws) for draws in noisy.draws] == [1, 2] and noisy.means("accuracy")[1] < 1.0
    assert noisy.area("accuracy") == pytest.approx((1.0 + noisy.means("accuracy")[1]) / 2)
    expected = {given: 1.0 if "audio" in given else pytest.approx(1 / 3) for given in found.subsets}
    assert {given: scores[0]["accuracy"] for given, scores in found.subsets.items()} == expected
    missing = found.curves["missing", "any"]
    assert missing.x == [0.0, 1.0, 2.0] and [len(draws) for draws in missing.draws] == [1, 3, 3]
    assert missing.means("accuracy") == pytest.approx([1.0, (1 + 1 + 1 / 3) / 3, (1 / 3 + 1 / 3 + 1) / 3])


def test_draws_are_seeded(subject: Subject, found: Robustness) -> None:
    again, other = measure(subject, **QUICK), measure(subject, **QUICK, seed=7)
    assert again.shuffled == found.shuffled and again.curves == found.curves
    assert other.curves["noise", "audio"].draws[0] == found.curves["noise", "audio"].draws[0]


def test_tables_hold_areas_and_shares(found: Robustness) -> None:
    areas, subsets, shuffled = tables("daf", found, "accuracy").values()
    row = dict(zip(areas[0], next(r for r in areas[1] if r[1:3] == ["noise", "audio"]), strict=True))
    assert row["kept"] == pytest.approx(row["area"] / row["clean"]) and row["strongest"] == 4.0
    assert subsets[1][0][1] == "text + audio + video" or subsets[1][0][1] == "text + video + audio"
    assert [row[1] for row in shuffled[1]] == list(found.shuffled)


def test_the_best_constant_answer(subject: Subject) -> None:
    assert best_guess(answer(subject)) == {"accuracy": pytest.approx(1 / 3)}  # three classes, three rows each


def test_the_command_writes_picture_tables_and_numbers(
    run_folder: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--strengths", 0, 1, "--shares", 0, 0.5, "--rates", 0, 0.5, "--repeats", 1, "--metric", "f1_macro")
    arguments = ("analyze.py", "robustness", run_folder, "--split", "test", "--output_dir", tmp_path, *options)
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    runpy.run_path(str(root / "examples" / "analyze.py"), run_name="__main__")
    tables_written, pictures = (line.split("  ") for line in capsys.readouterr().out.strip().splitlines()[-2:])
    assert Path(pictures[0]).read_bytes().startswith(b"\x89PNG")
    numbers = json.loads(Path(pictures[1]).read_text(encoding="utf-8"))
    assert numbers["metric"] == "f1_macro" and len(numbers["curves"]) == 8 and numbers["level"] == "features"
    text, first = Path(tables_written[0]).read_text(encoding="utf-8"), numbers["curves"][0]
    assert "| checkpoint | perturbation |" in text
    assert f"| {100 * first['mean'][0]:.2f} | {100 * first['area']:.2f} |" in text  # in percent, as in every table
    with Path(tables_written[1]).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8 + 7 + 3 and float(lines[0]["area"]) == pytest.approx(numbers["curves"][0]["area"])
    with pytest.raises(ValueError, match=r"`--metric bleu`: the scores are \['accuracy'"):
        monkeypatch.setattr(sys, "argv", [*map(str, arguments[:-1]), "bleu"])
        runpy.run_path(str(root / "examples" / "analyze.py"), run_name="__main__")


@pytest.mark.parametrize("bad", [{"strengths": (0.0,)}, {"shares": (0.5, 0.1)}, {"rates": (-0.1, 0.5)}])
def test_strengths_are_checked(subject: Subject, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` is"):
        measure(subject, **bad)


# ---- clips and regression -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_subject(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Subject:
    folder = tmp_path_factory.mktemp("clips")
    model, processor = open_checkpoint(save_clip_checkpoint(folder / "checkpoint", tiny_tokenizer))
    paths = [write_media(folder / f"{number}.mp4", seconds=0.8 + 0.2 * number) for number in range(3)]
    rows = Dataset.from_dict(
        {
            "id": ["a", "b", "c"],
            "text": ["hello you", "thank you", None],
            "label": [0, 1, 2],
            "audio_path": list(map(str, paths)),
            "video_path": list(map(str, paths)),
        },
        features=Features(
            {
                "id": Value("string"),
                "text": Value("string"),
                "label": ClassLabel(names=list(LABELS.values())),
                "audio_path": Value("string"),
                "video_path": Value("string"),
            }
        ),
    )
    return Subject("clips", model, processor, rows.with_format(FORMAT))


def test_decoded_clips_are_what_the_model_reads(clip_subject: Subject) -> None:
    decoded = DecodedRows(clip_subject.rows, clip_subject.processor)
    row = decoded[1]
    assert row["video"].dtype == np.uint8 and row["audio"].ndim == 1 and "audio_path" not in row
    plain, again = answer(clip_subject), answer(clip_subject, decoded)
    np.testing.assert_allclose(again.tasks[0].logits, plain.tasks[0].logits, atol=1e-4)
    tight = DecodedRows(clip_subject.rows, clip_subject.processor, keep_bytes=0)
    assert (tight[1]["audio"] == row["audio"]).all() and not tight._kept and decoded._kept


def test_clips_are_perturbed_before_the_encoder(clip_subject: Subject) -> None:
    found = measure(clip_subject, level="clips", **{**QUICK, "repeats": 1})
    assert {kind for kind, modality in found.curves if modality == "audio"} == {"noise", "frames"}
    assert ("frames", "video") in found.curves and set(found.shuffled) == {"text", "audio", "video"}
    assert any(note.startswith("only text: left out, 1 rows") for note in found.notes)  # row c has no words


def test_features_have_no_clips(subject: Subject) -> None:
    with pytest.raises(ValueError, match="takes extracted features, no clips"):
        measure(subject, level="clips")


def test_a_regression_is_measured_by_its_error(tiny_tokenizer: Any) -> None:
    class Regression(ConcatFusionTester):
        def config(self, **overrides: Any) -> Any:
            fields = {"num_labels": 1, "problem_type": "regression", "id2label": {0: "v"}, "label2id": {"v": 0}}
            return super().config(**fields, **overrides)

    tester: ModelTester = Regression()
    inputs = tester.inputs()
    data = {
        "id": list("abcd"),
        "text": ["hello you", "thank you", "please leave", "i think"],
        "label": [-1.0, 0.0, 2.0, 3.0],
        **{f"{m}_features": list(inputs[f"{m}_features"].numpy()) for m in ("audio", "video")},
    }
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "label": Value("float32"),
            "audio_features": Array2D((None, 6), "float32"),
            "video_features": Array2D((None, 8), "float32"),
        }
    )
    rows = Dataset.from_dict(data, features=features).with_format(FORMAT)
    subject = Subject("value", tester.model(), tester.processor(tiny_tokenizer), rows)
    assert default_score(subject) == "mae"
    found = measure(subject, **{**QUICK, "repeats": 1})
    assert found.guess == {"mae": pytest.approx((2 + 1 + 1 + 2) / 4)}  # the median is 1
    assert all(changed[0] >= 0 for changed in found.changed.values()) and np.isfinite(found.clean[0]["mae"])
