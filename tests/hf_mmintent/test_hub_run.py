"""A finished run goes to the Hub with a card of its own figures, and comes back by name."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub import build_model_card
from hf_mmintent.hub.from_run import summary_from_run
from hf_mmintent.hub.pictures import attachments, read_pictures, write_pictures
from hf_mmintent.hub.run_summary import AreaRow, CalibrationFacts, RunSummary
from hf_mmintent.scoring import score_checkpoints
from hf_mmintent.training import RunConfig, TrainedRun, train_run
from tests.hub_stub import HubStub

from .training_cases import settings

PUSH = """
import runpy, sys
sys.argv = ["push.py", sys.argv[2], "--repo_id", "me/tiny", "--private"]
runpy.run_path(ROOT + "/examples/push.py", run_name="__main__")
"""

OPEN = """
import sys
from transformers import AutoModelForSequenceClassification, AutoProcessor
model = AutoModelForSequenceClassification.from_pretrained("me/tiny", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("me/tiny", trust_remote_code=True)
print(model(**processor(text=["hello you are late"])).logits.tolist())
"""

TRAINER_PUSH = """
import sys, yaml
from pathlib import Path
from hf_mmintent.training import RunConfig
from hf_mmintent.training import runs
run = RunConfig.from_dict(yaml.safe_load(Path(sys.argv[1]).read_text()))
splits = runs.read_splits(run)
model, processor = runs.build(run, splits["train"])
run.training.update(hub_model_id="me/from-trainer", num_train_epochs=1)
trainer = runs.make_trainer(run, 0, Path("out"), model, processor, splits["train"], splits["validation"])
trainer.train()
trainer.push_to_hub()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> TrainedRun:
    folder = tmp_path_factory.mktemp("pushed")
    run = RunConfig.from_dict(settings(folder, tiny_tokenizer))
    found = train_run(run, 0, folder / "run" / "seed_0")
    score_checkpoints(found.checkpoint, split="test", drop=True)
    return found


def test_the_card_says_what_the_run_wrote(trained: TrainedRun) -> None:
    model, _ = open_checkpoint(trained.checkpoint)
    card = build_model_card(summary_from_run(model, trained.checkpoint, "me/tiny"))
    scored = json.loads((trained.checkpoint / "scores" / "test_all.json").read_text())["scores"]
    reported = {
        (result.dataset_split, result.metric_name or result.metric_type): result.metric_value
        for result in card.data.eval_results
    }
    assert any(split == "test" and value == pytest.approx(scored["accuracy"]) for (split, _), value in reported.items())
    ablated = json.loads((trained.checkpoint / "scores" / "test_without_text.json").read_text())["scores"]
    rows = [[cell.strip() for cell in line.split("|")] for line in card.text.splitlines() if line.startswith("|")]
    (without_text,) = [row for row in rows if row[1:3] == ["video and audio", "text"]]
    assert any(cell.startswith(f"{100 * ablated['accuracy']:.2f}") for cell in without_text), without_text
    assert "huang2025mvcldafpp" in card.text and "[More Information Needed]" not in card.text
    assert (trained.checkpoint / "README.md").read_text().startswith("---\n")


def analyze_card(run: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("--strengths", "0", "1", "--shares", "0", "0.5", "--rates", "0", "0.5", "--repeats", "1")
    monkeypatch.setattr(sys, "argv", ["analyze.py", "card", str(run), "--split", "test", *short])
    runpy.run_path(str(root / "examples" / "analyze.py"), run_name="__main__")


def test_the_card_shows_pictures_and_areas(
    trained: TrainedRun, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze_card(trained.checkpoint.parents[1], root, monkeypatch)
    text, pictures = (trained.checkpoint / "README.md").read_text(), trained.checkpoint / "pictures"
    facts = json.loads((pictures / "pictures.json").read_text())
    for name, caption in facts["images"].items():
        assert (pictures / name).read_bytes().startswith(b"\x89PNG") and f"![{caption}](pictures/{name})" in text
    assert {"robustness.png", "confusion.png"} <= set(facts["images"]) and len(facts["areas"]) == 8
    noise = next(row for row in facts["areas"] if row["perturbation"] == "noise" and row["modality"] == "audio")
    clean, area, worst = (f"{100 * noise[name]:.2f}" for name in ("clean", "area", "at_strongest"))
    assert f"| noise | audio | {clean} | {area} | 1 | {worst} |" in text
    scored = json.loads((trained.checkpoint / "scores" / "test_all.json").read_text())["scores"]
    assert noise["clean"] == pytest.approx(scored["accuracy"])
    model, _ = open_checkpoint(trained.checkpoint)
    if facts["calibration"] is None:  # the few rows were all right, or all wrong
        assert "not calibrated: no temperature fits" in capsys.readouterr().out and "not calibrated certainties" in text
        assert model.config.calibration_temperature == 1.0
    else:
        assert model.config.calibration_temperature == pytest.approx(facts["calibration"]["temperature"])
        assert (
            "its probabilities are calibrated (temperature" in text
            and facts["calibration"]["fitted_on"] == "validation"
        )


def test_pictures_that_are_gone_are_named(tmp_path: Path) -> None:
    assert read_pictures(tmp_path) == {} and attachments(tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"lacks the pictures \['a.png'\]"):
        write_pictures(tmp_path, {"a.png": "A"})
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    facts = CalibrationFacts(1.5, "validation", "test", 0.2, 0.1)
    write_pictures(tmp_path, {"a.png": "A"}, [AreaRow("noise", "text", 1.0, 0.5, 2.0, 0.25)], "accuracy", "test", facts)
    found = read_pictures(tmp_path)
    assert found["images"] == {"pictures/a.png": "A"} and found["calibration"] == facts
    assert attachments(tmp_path) == {"pictures/a.png": tmp_path / "pictures" / "a.png"}
    card = str(build_model_card(RunSummary("m", "A", "a", problem_type="single_label_classification", **found)))
    assert "| noise | text | 100.00 | 50.00 | 2 | 25.00 |" in card and "(temperature 1.5, fitted" in card
    assert "error 0.200 without and 0.100 with it on the test split" in card and "not calibrated" not in card
    (tmp_path / "pictures" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="which are gone"):
        read_pictures(tmp_path)


@pytest.mark.hub
def test_push_and_open_by_name_without_the_package(
    trained: TrainedRun, hub_stub: HubStub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (trained.checkpoint / "pictures").exists():
        analyze_card(trained.checkpoint, root, monkeypatch)
    hub_stub.run(f"ROOT = {str(root)!r}\n" + PUSH, root, trained.checkpoint)
    files = hub_stub.files("me/tiny")
    assert {"pictures/robustness.png", "pictures/confusion.png"} <= set(files)
    assert "](pictures/robustness.png)" in files["README.md"].decode()
    assert {"config.json", "model.safetensors", "README.md", "processor_config.json", "modeling_mvcl_daf.py"} <= set(
        files
    )
    assert ModelCard(files["README.md"].decode()).data.eval_results
    with_package = hub_stub.run("import hf_mmintent\n" + OPEN.replace(", trust_remote_code=True", "")).stdout
    without = hub_stub.run(OPEN, without_package=True).stdout
    assert json.loads(without) == json.loads(with_package)


@pytest.mark.hub
def test_trainer_push_to_hub_writes_our_card(hub_stub: HubStub, tmp_path: Path, tiny_tokenizer: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path, tiny_tokenizer)))
    hub_stub.run(TRAINER_PUSH, path)
    card = hub_stub.files("me/from-trainer")["README.md"].decode()
    assert "huang2025mvcldafpp" in card and "library_name: transformers" in card
