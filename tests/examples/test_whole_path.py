"""The quickstart's settings on a handful of its clips: from mp4 files to a trained checkpoint to the label of one clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import hf_mmintent
import hf_mmintent.data_scripts
from hf_mmintent.evaluation import evaluate, open_checkpoint
from hf_mmintent.prediction import predict_one
from hf_mmintent.training import RunConfig, train_run
from tests.hf_mmintent.training_cases import save_backbone

CLIPS = {"train": 16, "validation": 8, "test": 8}


@pytest.fixture(scope="module")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the embedded one, with a few clips of every split."""
    source = Path(hf_mmintent.data_scripts.__file__).parent / "mini_clips"
    folder = tmp_path_factory.mktemp("few")
    (folder / "clips").mkdir()
    left, lines = dict(CLIPS), []
    for line in (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if left[row["split"]]:
            left[row["split"]] -= 1
            lines.append(line)
            shutil.copy(source / row["clip"], folder / row["clip"])
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_quickstart_settings_from_clips_to_one_label(
    few_clips: Path, tmp_path: Path, tiny_tokenizer: Any, root: Path
) -> None:
    values = yaml.safe_load((root / "examples" / "configs" / "mvcl_daf_mmintent_mini.yaml").read_text())
    values["data"]["data_dir"] = str(few_clips)
    values["backbones"]["text"] = str(save_backbone(tmp_path / "bert", tiny_tokenizer))
    values["config"].update(label_slots=12, max_text_length=40, visual_layers=1, coarse_heads=2, daf_max_depth=2)
    values["processor"]["max_lengths"] = {"audio": 60, "video": 10}  # shorter than the clips
    values["training"].update(num_train_epochs=1, disable_tqdm=True, bf16=False)
    run = RunConfig.from_dict(values)
    trained = train_run(run, 0, tmp_path / "run")
    assert trained.facts["splits"] == {"train": 16, "validation": 8}
    assert (
        trained.facts["dataset"]["synthetic"] and "synthetic" in (trained.checkpoint / "README.md").read_text().lower()
    )

    model, processor = open_checkpoint(trained.checkpoint)
    test = hf_mmintent.load("mmintent_mini", data_dir=few_clips)["test"]
    scored = evaluate(model, processor, test, progress=False)
    row = test[3]
    answer = predict_one((model, processor), clip=row["video_path"], text=row["text"], top_k=8)
    logits = np.asarray(scored.predictions.scores[3], np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    given = dict(answer.ranking)
    for index, name in model.config.id2label.items():
        assert given[name] == pytest.approx(expected[index], abs=1e-5)
