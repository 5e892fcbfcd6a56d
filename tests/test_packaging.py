"""The wheel, installed and used outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import hf_mmintent
from hf_mmintent.modeling.configuration_mvcl_daf import MvclDafConfig
from transformers import AutoConfig
assert Path(hf_mmintent.__file__).is_relative_to(sys.argv[1]), hf_mmintent.__file__
assert not Path.cwd().is_relative_to(sys.argv[2])
assert AutoConfig.for_model("mvcl_daf").modalities == MvclDafConfig().modalities
rows = hf_mmintent.load("mmintent_mini")["test"]
assert Path(rows[0]["video_path"]).is_relative_to(sys.argv[1]) and Path(rows[0]["video_path"]).stat().st_size > 1000

from transformers import AutoModelForSequenceClassification, BertConfig
from hf_mmintent.evaluation import evaluate
from hf_mmintent.modeling import MvclDafForSequenceClassification
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=120)
config = MvclDafConfig(text_config=BertConfig(**sizes), coarse_heads=2, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
MvclDafForSequenceClassification(config).save_pretrained("checkpoint")
assert Path("checkpoint/modeling_mvcl_daf.py").is_file() and Path("checkpoint/losses.py").is_file()
model = AutoModelForSequenceClassification.from_pretrained("checkpoint")
assert Path(sys.modules[type(model).__module__].__file__).is_relative_to(sys.argv[1])
print("rows", len(rows))
"""


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(root: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels, target = tmp_path / "wheels", tmp_path / "site"
    subprocess.run([*pip, "wheel", str(root), "--no-deps", "--no-build-isolation", "-w", str(wheels)], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    assert (target / "hf_mmintent" / "py.typed").is_file()
    away = tmp_path / "elsewhere"
    away.mkdir()
    blocked = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # First on the path: an editable install of the checkout in this environment must not answer instead.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(target), str(root)],
        cwd=away,
        env={**blocked, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rows ")
