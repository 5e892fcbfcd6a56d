"""The analyses of PLUM-Net's figures on a model that was trained for seconds."""

from __future__ import annotations

import copy
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hf_mmintent.analysis.common import Subject
from hf_mmintent.analysis.common_similarity import CommonSimilarity, common_similarity, pairwise_cosine
from hf_mmintent.analysis.label_distribution import agreement, class_names, label_counts, labels_of_modalities
from hf_mmintent.analysis.tsne import fields_of_panels, representations
from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.training import RunConfig, train_run
from tests.modeling.testers import MisaTester, PlumNetTester

from .training_cases import LABELS, settings


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> dict[str, Any]:
    made = settings(tmp_path_factory.mktemp("analysis"), tiny_tokenizer, model_type="plum_net")
    del made["training"]["num_train_epochs"]
    made["config"] = {
        "hidden_size": 16,
        "av_encoder_layers": 1,
        "encoder_heads": 2,
        "tfb_heads": 2,
        "prm_heads": 2,
        "stages": [["alignment", 2], ["refinement", 2]],
    }
    return made


@pytest.fixture(scope="module")
def checkpoint(values: dict[str, Any]) -> Path:
    return train_run(RunConfig.from_dict(values), 0, Path(values["output_dir"])).checkpoint


@pytest.fixture
def subject(checkpoint: Path, values: dict[str, Any]) -> Subject:
    model, processor = open_checkpoint(checkpoint)
    return Subject("plum", model, processor, load(values["data"]["name"])["train"])


def analyze(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["analyze.py", *map(str, arguments)])
    runpy.run_path(str(root / "examples" / "analyze.py"), run_name="__main__")


def test_label_counts_are_those_of_the_rows(subject: Subject) -> None:
    labels = labels_of_modalities(subject, batch_size=5)
    counts = label_counts(labels, class_names(subject))
    assert counts["annotated"] == dict.fromkeys(LABELS, 8) and list(counts) == ["annotated", "text", "audio", "video"]
    assert all(sum(found.values()) == 24 for found in counts.values())
    share = agreement(labels)
    assert share["audio"] > 0.8  # the label shows in the features, not in the words
    assert share["text"] < share["audio"]


def test_absent_modalities_and_unknown_labels_agree_with_nothing() -> None:
    labels = {"annotated": np.array([0, 1, -1, 2]), "audio": np.array([0, -1, 1, 1]), "video": np.full(4, -1)}
    assert agreement(labels)["audio"] == 0.5 and np.isnan(agreement(labels)["video"])
    assert label_counts(labels, ["a", "b", "c"])["audio"] == {"a": 1, "b": 2, "c": 0}


def test_a_model_without_prototypes_labels_nothing(subject: Subject) -> None:
    subject.model.base_model.labeller.prototype_counts.zero_()
    with pytest.raises(ValueError, match=r"plum \(PlumNetForSequenceClassification\) has no prototypes"):
        labels_of_modalities(subject)
    other = MisaTester().model()
    with pytest.raises(ValueError, match="has no prototypes"):
        labels_of_modalities(Subject("misa", other, subject.processor, subject.rows))


def test_panels_show_one_output_each_or_all_the_same() -> None:
    assert fields_of_panels(["a"], 3) == ["a"] * 3 and fields_of_panels(["a", "b"], 2) == ["a", "b"]
    with pytest.raises(ValueError, match=r"\['a', 'b'\] for 3 checkpoints"):
        fields_of_panels(["a", "b"], 3)


def test_classes_of_a_regression_have_names() -> None:
    fields = {"num_labels": 1, "problem_type": "regression", "id2label": {0: "v"}, "label2id": {"v": 0}}
    for bins, expected in (("sign", ["negative", "neutral", "positive"]), ([0.5], ["+0.50", "+0.50"])):
        model = PlumNetTester.model_class(PlumNetTester().config(structure_bins=bins, **fields))
        assert class_names(Subject("x", model, None, None)) == expected


def test_cosines_of_pairs_by_hand() -> None:
    embeddings = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [[1.0, 1.0], [1.0, 0.0], [5.0, 5.0]]])
    presence = torch.tensor([[True, True, True], [True, False, True]])
    found = pairwise_cosine(embeddings, presence)
    assert found[0, 0, 1] == 1.0 and found[0, 0, 2] == 0.0
    assert found[1, 0, 1].isnan() and found[1, 0, 2] == pytest.approx(1.0)

    class Fixed(torch.nn.Module):
        device = torch.device("cpu")
        config = PlumNetTester().config()

        def forward(self, rows: torch.Tensor) -> Any:
            return type("Out", (), {"common_embeddings": embeddings[rows], "presence": presence[rows]})

    # of two batches of one: text-audio is known in the first sample only
    means = common_similarity(Fixed(), [{"rows": torch.tensor([i])} for i in range(2)])
    assert means == pytest.approx({"text-audio": 1.0, "text-video": 0.5, "audio-video": 0.0, "mean": 0.5})


def test_vectors_per_modality_are_points_of_their_own(subject: Subject) -> None:
    found = representations(subject, "private_embeddings", batch_size=7)
    assert found.vectors.shape == (72, 16) and found.modalities[:3].tolist() == ["text", "audio", "video"]
    assert found.ids[:4] == ["train_0"] * 3 + ["train_1"] and found.labels[:4].tolist() == [0, 0, 0, 1]
    assert representations(subject, "embeddings").vectors.shape == (24, 16)


def test_every_figure_is_drawn_with_its_numbers(
    checkpoint: Path,
    values: dict[str, Any],
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(copy.deepcopy(values)))
    for arguments in (
        ("label-distribution", checkpoint, "--split", "train", "--output_dir", tmp_path),
        ("tsne", checkpoint, checkpoint, "--field", "raw_embeddings", "common_embeddings", "--output_dir", tmp_path),
        ("common-similarity", run_file, "--output_dir", tmp_path),
        ("common-similarity", run_file, "--output_dir", tmp_path),  # finished: drawn again
    ):
        analyze(monkeypatch, root, *arguments)
        picture, numbers = capsys.readouterr().out.strip().splitlines()[-1].split("  ")
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
        found = json.loads(Path(numbers).read_text(encoding="utf-8"))
    assert found["settings"]["config"]["use_msa"] is False and found["stages"] == {"alignment": 2.0, "refinement": 4.0}
    assert [epoch for epoch, _ in found["curves"]["mean"]] == [1.0, 2.0, 3.0, 4.0]
    assert all(-1.0 <= value <= 1.0 for points in found["curves"].values() for _, value in points)
    assert len({value for _, value in found["curves"]["mean"]}) == 4


def test_watching_does_not_change_a_run(checkpoint: Path, values: dict[str, Any], tmp_path: Path) -> None:
    watched = train_run(
        RunConfig.from_dict(values), 0, tmp_path / "run", callbacks=[CommonSimilarity(tmp_path / "x.json")]
    )
    plain = json.loads((checkpoint / "run.json").read_text())
    assert watched.validation == plain["validation"] and (tmp_path / "x.json").exists()
