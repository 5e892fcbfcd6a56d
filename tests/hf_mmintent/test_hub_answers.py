"""A model that writes goes to the Hub, merged or as an adapter beside its base, and answers where the package is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_mmintent.scoring import score_checkpoints
from hf_mmintent.training import RunConfig, TrainedRun, train_run
from tests.hub_stub import HubStub

from .answer_cases import settings

pytest.importorskip("peft")

PUSH = """
import runpy, sys
sys.argv = ["push.py", sys.argv[2], "--repo_id", "me/answers"]
runpy.run_path(ROOT + "/examples/push.py", run_name="__main__")
"""

PUSH_ADAPTER = """
import sys
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor
import hf_mmintent
from hf_mmintent.hub import build_model_card, push_checkpoint
from hf_mmintent.hub.run_summary import RunSummary
run = Path(sys.argv[1])
base = AutoModelForImageTextToText.from_pretrained(run / "base")
processor = AutoProcessor.from_pretrained(run / "adapter")
card = build_model_card(RunSummary.from_model(base, "base"))
push_checkpoint(base, processor, card, "me/base")
model = PeftModel.from_pretrained(base, run / "adapter")
model.peft_config["default"].base_model_name_or_path = "me/base"
push_checkpoint(model, processor, card, "me/adapter")
"""

OPEN = """
import json
from transformers import AutoModelForImageTextToText, AutoProcessor
name = NAME
model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
batch = processor(text=["well", "so it is"])
sequences = model.generate(**batch, max_new_tokens=6)
scores = model.score_labels(batch, *processor.label_token_ids())
print(json.dumps([sequences.tolist(), scores.emotion_ids.tolist(), type(processor.parse("Emotion: sad")).__name__]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("pushed_answers")
    found = train_run(RunConfig.from_dict(settings(folder)), 0, folder / "run" / "seed_0")
    score_checkpoints(found.checkpoint, batch_size=6, max_new_tokens=4)
    return found


@pytest.mark.hub
def test_merged_and_adapter_answer_alike_without_the_package(
    trained: TrainedRun, hub_stub: HubStub, root: Path
) -> None:
    hub_stub.run(f"ROOT = {str(root)!r}\n" + PUSH, root, trained.checkpoint)
    files = hub_stub.files("me/answers")
    assert {"answer_format.py", "modeling_cat_mod.py", "modeling_lq_former.py", "generation_config.json"} <= set(files)
    card = files["README.md"].decode()
    assert "parse_rate" in card and "huang2026jx4mei" in card and "[More Information Needed]" not in card
    hub_stub.run(PUSH_ADAPTER, trained.checkpoint.parent)
    stored = hub_stub.files("me/adapter")
    assert "adapter_model.safetensors" in stored and "model.safetensors" not in stored
    merged = hub_stub.run(OPEN.replace("NAME", repr("me/answers")), without_package=True).stdout
    adapter = hub_stub.run(OPEN.replace("NAME", repr("me/adapter")), without_package=True).stdout
    assert json.loads(merged) == json.loads(adapter)
