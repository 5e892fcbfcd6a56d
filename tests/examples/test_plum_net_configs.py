"""The run settings of PLUM-Net are ones that its config and trainer accept, with the figures of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import BertConfig, TrainingArguments

from hf_mmintent.modeling.configuration_plum_net import PlumNetConfig
from hf_mmintent.training import RunConfig

# "Implementation Details": width, maximum epochs of both stages; dropout is given for MOSI alone. `None`: not given.
PAPER: dict[str, tuple[Any, ...]] = {
    "cmu_mosi": (256, (160, 140), 0.6),
    "cmu_mosei": (128, (50, 50), None),
    "ur_funny": (None, None, None),
    "mustard": (None, None, None),
}
OWN = ("cmu_mosi_bc", "cmu_mosi_utterances", "ict_mmmo", "mmintent_mini", "mustard_text")
REGRESSIONS = ("cmu_mosi", "cmu_mosei", "cmu_mosi_bc", "cmu_mosi_utterances", "ict_mmmo")


def config_of(name: str, fields: dict[str, Any]) -> PlumNetConfig:
    return PlumNetConfig(**fields, num_labels=1 if name in REGRESSIONS else 2, text_config=BertConfig())


@pytest.mark.parametrize("name", (*PAPER, *OWN))
def test_settings_are_accepted(name: str, root: Path, tmp_path: Path) -> None:
    run = RunConfig.load(root / "examples" / "configs" / f"plum_net_{name}.yaml")
    assert run.model_type == "plum_net" and run.output_dir == f"runs/plum_net_{name}"
    assert "num_train_epochs" not in run.training  # the stages say how long
    config = config_of(name, run.config)
    assert [stage.name for stage in config.training_stages] == ["alignment", "refinement"]
    assert config.num_structure_classes == (3 if name in REGRESSIONS else 2)
    arguments = TrainingArguments(**run.training, output_dir=str(tmp_path), use_cpu=True)
    if name not in PAPER:
        return
    width, epochs, dropout = PAPER[name]
    assert arguments.optim == "adamw_torch" and arguments.weight_decay == 0.0 and arguments.learning_rate == 5e-5
    assert arguments.lr_scheduler_type == "constant"
    assert width in (None, config.hidden_size) and dropout in (None, config.dropout)
    assert epochs in (None, tuple(stage.epochs for stage in config.training_stages))
    assert config.use_msa and config.use_psl_tfb and config.use_prm and config.soft_label_temperature is None
    assert config.missing_strategy == "zero" and run.modality_dropout == 0.0
    assert config.prototype_shrinkage == 0.0 and not config.class_balanced_ce


def test_table_3_is_four_settings_of_one_config(root: Path) -> None:
    folder = root / "examples"
    (block,) = yaml.safe_load((folder / "tables" / "plum_net.table3.yaml").read_text(encoding="utf-8"))["blocks"]
    found = []
    for row in block["rows"]:
        run = RunConfig.load(folder / "configs" / row["config"], row["set"])
        config = config_of("cmu_mosi", run.config)
        found.append((config.use_msa, config.use_psl_tfb, config.use_prm))
    on, off = True, False
    assert found == [(off, off, off), (on, off, off), (on, on, off), (on, on, on)]
