"""A finished run goes to the Hub with a card of its own figures, and comes back by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub import build_model_card
from hf_mmintent.hub.from_run import summary_from_run
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
    assert any(cell.startswith(f"{ablated['accuracy']:.4f}") for cell in without_text), without_text
    assert "huang2025mvcldafpp" in card.text and "[More Information Needed]" not in card.text
    assert (trained.checkpoint / "README.md").read_text().startswith("---\n")


@pytest.mark.hub
def test_push_and_open_by_name_without_the_package(trained: TrainedRun, hub_stub: HubStub, root: Path) -> None:
    hub_stub.run(f"ROOT = {str(root)!r}\n" + PUSH, root, trained.checkpoint)
    files = hub_stub.files("me/tiny")
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
