"""Model cards: what they say, what their metadata holds, and what they never contain."""

import math
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, metadata_eval_result
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from hf_mmintent.hub import AblationRow, InputRow, ReferenceRow, RunSummary, SplitScores, build_model_card
from hf_mmintent.hub import describe_inputs as describe
from hf_mmintent.hub.model_card import shorten_paths


def full_run(**changes: object) -> RunSummary:
    """A run with every fact."""
    facts: dict[str, object] = {
        "model_name": "Intent from clips",
        "architecture": "SomeForSequenceClassification",
        "model_type": "some",
        "repo_id": "me/intent",
        "description": "It aligns sound and picture with the words.",
        "task": "Intent recognition",
        "problem_type": "single_label_classification",
        "modalities": ["text", "audio", "video"],
        "inputs": [InputRow("audio_features", "(batch, audio_length, 7)", "float32")],
        "class_names": ["Complain", "Praise"],
        "num_parameters": 123456,
        "base_models": {"text": "google-bert/bert-base-uncased", "audio": "/home/someone/models/wavlm"},
        "dataset_name": "Mini clips",
        "dataset_id": "me/mini-clips",
        "dataset_config": "raw",
        "dataset_license": "CC-BY-4.0",
        "split_sizes": {"train": 1200, "test": 80},
        "synthetic": True,
        "results": [
            SplitScores("validation", 60, {"accuracy": [0.5, 0.7], "f1_macro": [0.25, 0.75]}),
            SplitScores("test", 80, {"accuracy": [0.625, 0.875], "f1_macro": [0.5, 0.5]}),
        ],
        "selection": "best validation f1_macro.",
        "references": [ReferenceRow("BERT alone", "the data set's paper, Table 2", {"accuracy": 0.6})],
        "ablation": [
            AblationRow(["text", "audio", "video"], {"accuracy": 0.75}),
            AblationRow(["text"], {"accuracy": 0.375}),
        ],
        "ablation_split": "test",
        "seeds": [0, 1],
        "command": "accelerate launch examples/train.py examples/configs/some.yaml --data_dir /home/someone/data/mini",
        "commit": "0123abc",
        "hardware": "CPU (x86_64, 2 cores)",
        "duration": 90.0,
        "libraries": {"torch": "2.13.0"},
        "limits": ["Only English."],
        "license": "apache-2.0",
        "citation": "@article{some, title={Some}}",
        "images": {"images/confusion.png": "Confusion matrix"},
    }
    return RunSummary(**{**facts, **changes})  # type: ignore[arg-type]


def minimal_run() -> RunSummary:
    return RunSummary("Bare", "SomeModel", "some")


def row_of(card: ModelCard, heading: str, first_cell: str) -> list[str]:
    """Further cells of the table row that starts with `first_cell`, in the section of that heading."""
    section = card.text.split(f"## {heading}\n")[1].split("\n#")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {first_cell} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_metadata_survives_the_file(tmp_path: Path) -> None:
    build_model_card(full_run()).save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "transformers", "en")
    assert data.pipeline_tag == "video-classification"
    assert data.datasets == ["me/mini-clips"]
    assert data.base_model == ["google-bert/bert-base-uncased"]  # a folder of the author's machine is no base model
    assert data.metrics == ["accuracy", "f1"]
    assert {"hf_mmintent", "some", "text", "audio", "video", "synthetic-data"} <= set(data.tags)
    assert data.model_name == "Intent from clips"
    found = {(r.dataset_split, r.metric_name): (r.metric_type, r.metric_value) for r in data.eval_results}
    assert found == {
        ("validation", "accuracy"): ("accuracy", pytest.approx(0.6)),
        ("validation", "f1_macro"): ("f1", 0.5),
        ("test", "accuracy"): ("accuracy", 0.75),
        ("test", "f1_macro"): ("f1", 0.5),
    }


def test_model_index_has_the_form_of_the_hub() -> None:
    run = full_run(results=[SplitScores("test", 80, {"f1_weighted": np.float32(0.5)})], seeds=[])
    expected = metadata_eval_result(
        model_pretty_name="Intent from clips",
        task_pretty_name="Intent recognition",
        task_id="video-classification",
        metrics_pretty_name="f1_weighted",
        metrics_id="f1",
        metrics_value=0.5,
        dataset_pretty_name="Mini clips",
        dataset_id="me/mini-clips",
        dataset_config="raw",
        dataset_split="test",
    )
    (metric,) = expected["model-index"][0]["results"][0]["metrics"]
    assert metric.pop("verified") is False  # set by the Hub's own evaluations only
    assert build_model_card(run).data.to_dict()["model-index"] == expected["model-index"]


def test_tables_show_mean_std_n_and_what_is_missing() -> None:
    card = build_model_card(full_run())
    assert row_of(card, "Results", "validation") == ["60", "60.00 ± 14.14", "50.00 ± 35.36"]  # std with n - 1
    assert row_of(card, "Results", "test") == ["80", "75.00 ± 17.68", "50.00 ± 0.00"]
    assert row_of(card, "When a modality is missing", "text, audio and video") == ["nothing", "75.00"]
    assert row_of(card, "When a modality is missing", "text") == ["audio and video", "37.50"]
    assert row_of(card, "Results", "BERT alone") == ["the data set's paper, Table 2", "60.00"]
    assert row_of(card, "Training data", "train") == ["1,200"]


def test_a_metric_that_one_split_lacks_is_named_as_such() -> None:
    results = [SplitScores("validation", 9, {"mae": 1.0}), SplitScores("test", 9, {"pearson": math.nan})]
    card = build_model_card(full_run(results=results))
    assert row_of(card, "Results", "validation")[1:] == ["1.000", "not recorded"]
    assert row_of(card, "Results", "test")[1:] == ["not recorded", "n/a"]
    assert [result.metric_type for result in card.data.eval_results] == ["mae"]  # JSON and YAML readers differ on NaN


def test_text_holds_every_fact() -> None:
    text = build_model_card(full_run()).text
    for fact in (
        "# Intent from clips",
        "Trained on synthetic data",
        "one of 2 classes",
        "`Complain`, `Praise`",
        "123,456",
        "https://huggingface.co/datasets/me/mini-clips",
        "best validation f1_macro",
        "Seeds: 0, 1",
        "`0123abc`",
        "CPU (x86_64, 2 cores)",
        "1.5 minutes",
        "torch 2.13.0",
        "Only English.",
        "@article{some",
        "![Confusion matrix](images/confusion.png)",
        "- Weights: apache-2.0",
        "- Code: Apache-2.0",
        "Training data: CC-BY-4.0",
        "Emotion recognition",
    ):
        assert fact in text, fact
    assert "Trained on synthetic data" not in build_model_card(full_run(synthetic=False)).text


@pytest.mark.parametrize("absent", [None, *(field.name for field in fields(RunSummary)[3:])])
def test_a_missing_fact_leaves_no_hole(absent: str | None) -> None:
    default = {field.name: getattr(minimal_run(), field.name) for field in fields(RunSummary)}
    run = minimal_run() if absent is None else full_run(**{absent: default[absent]})
    card = build_model_card(run)
    content = str(card)
    holes = r"\bNone\b|\bnan\b|TODO|TBD|More Information|unnamed|\[\]|\{\}| \(\)|\b0 classes|\|  \||: *\n(?!\s|-)"
    assert not re.search(holes, card.text), re.search(holes, card.text)
    assert not re.search(r"^## [^\n]*\n+(## |\Z)", card.text, re.M)  # a heading without text
    assert yaml.safe_load(content.split("---")[1])["library_name"] == "transformers"


def test_bare_run_admits_what_was_not_recorded() -> None:
    card = build_model_card(minimal_run())
    assert "license" not in card.data.to_dict() and "model-index" not in card.data.to_dict()
    for line in ("training data was not recorded", "No evaluation was recorded", "- Seeds: not recorded",
                 "- Command: not recorded", "- Weights: not recorded"):  # fmt: skip
        assert line in card.text, line


@pytest.mark.parametrize(
    ("license", "metadata"),
    [
        ("CC-BY-NC-SA-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("Research only, ask us", {"license": "other", "license_name": "research-only-ask-us", "license_link": "L"}),
        ("other", {"license": "other", "license_name": "other", "license_link": "L"}),
    ],
)
def test_licences_the_hub_does_not_know_get_a_name(license: str, metadata: dict[str, str]) -> None:
    data = build_model_card(full_run(license=license, license_link="L")).data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == metadata


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("train.py --data_dir /home/me/data/MIntRec --x 1", "train.py --data_dir MIntRec --x 1"),
        ("--data=/a/b/c.yaml '/a b' examples/configs/x.yaml", "--data=c.yaml 'a b' examples/configs/x.yaml"),
        ("--repo me/name --url https://host/a/b ~/runs/last/", "--repo me/name --url https://host/a/b last/"),
        (r"C:\Users\me\data --ratio 1/2", "data --ratio 1/2"),
    ],
)
def test_folders_of_the_author_are_not_published(given: str, shown: str) -> None:
    assert shorten_paths(given) == shown


def test_no_folder_of_the_author_is_in_the_card() -> None:
    content = str(build_model_card(full_run()))
    assert "/home" not in content and "--data_dir mini" in content and "`wavlm`" in content


@pytest.mark.parametrize("path", ["/etc/x.png", "../x.png", "a/../../x.png", "", "a//b.png", "C:/x.png", "..\\x.png"])
def test_image_paths_stay_inside(path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside the repository"):
        full_run(images={path: "x"})


def test_number_of_values_must_match_the_seeds() -> None:
    with pytest.raises(ValueError, match=r"`accuracy` has 3 values but `seeds` lists 2 \(\[0, 1\]\)"):
        full_run(results=[SplitScores("test", 8, {"accuracy": [0.1, 0.2, 0.3]})])
    with pytest.raises(ValueError, match="has 0 values"):
        full_run(results=[SplitScores("test", 8, {"accuracy": []})])


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({"modalities": ["text"]}, "text-classification"),
        ({"modalities": ["text", "audio"]}, "audio-classification"),
        ({"auto_class": "AutoModelForImageTextToText"}, "video-text-to-text"),
        ({"pipeline_tag": "other-task"}, "other-task"),
    ],
)
def test_pipeline_tag(changes: dict[str, object], tag: str) -> None:
    assert build_model_card(full_run(**changes)).data.pipeline_tag == tag


@given(st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=30))
def test_odd_names_break_neither_metadata_nor_tables(name: str) -> None:
    run = full_run(model_name=name, class_names=[name, "b"], results=[SplitScores(name, 5, {name: 0.5})], seeds=[])
    card = ModelCard(str(build_model_card(run)))
    (result,) = card.data.eval_results
    assert (result.dataset_split, result.metric_name, card.data.model_name) == (name, name, name)
    table = card.text.split("## Results")[1].split("\n\n")[1].splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [4, 4, 4]


def test_facts_are_read_from_a_model() -> None:
    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    batch = {
        "input_ids": torch.zeros(2, 5, dtype=torch.long),
        "audio_features": torch.zeros(2, 4, 7),
        "audio_attention_mask": torch.zeros(2, 4, dtype=torch.long),
        "input_values": torch.zeros(2, 16000),
        "pixel_values": torch.zeros(2, 3, 3, 32, 32),
        "labels": torch.zeros(2),
    }
    run = RunSummary.from_model(model, "Yes or no", batch, seeds=[3])
    assert (run.architecture, run.model_type) == ("BertForSequenceClassification", "bert")
    assert run.class_names == ["no", "yes"] and run.seeds == [3]
    assert run.num_parameters == sum(p.numel() for p in model.parameters())
    assert run.libraries["torch"].split("+")[0] == torch.__version__.split("+")[0]  # metadata may lack the build
    assert "hf_mmintent" in run.libraries
    assert [(row.name, row.shape, row.dtype) for row in run.inputs] == [
        ("input_ids", "(batch, text_length)", "int64"),
        ("audio_features", "(batch, audio_length, 7)", "float32"),
        ("audio_attention_mask", "(batch, audio_length)", "int64"),
        ("input_values", "(batch, samples at 16 kHz)", "float32"),
        ("pixel_values", "(batch, frames, 3, 32, 32)", "float32"),
    ]
    assert describe(batch) == run.inputs
    assert "`pixel_values` | (batch, frames, 3, 32, 32) | float32" in build_model_card(run).text
