"""The run settings of CLCR are ones that its config, processor and trainer accept, with the figures of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertConfig, TrainingArguments

from hf_mmintent.modeling.configuration_clcr import ClcrConfig
from hf_mmintent.modeling.processing_clcr import ClcrProcessor
from hf_mmintent.reproduce.table_files import load_table, run_settings
from hf_mmintent.training import RunConfig

PAPER = ("cmu_mosi", "cmu_mosei", "crema_d", "ave", "kinetics_sounds", "ucf101")
OWN = ("mmintent_mini", "grid", "cmu_mosi_bc")
LEVEL_ORDERS = {
    "full": {"text": [1, 2, 0], "audio": [2, 0, 1], "video": [1, 2, 0]},
    "partial": {"text": [0, 2, 1], "audio": [2, 1, 0], "video": [1, 0, 2]},
}


@pytest.mark.parametrize("name", (*PAPER, *OWN))
def test_settings_are_accepted(name: str, root: Path, tmp_path: Path) -> None:
    run = RunConfig.load(root / "examples" / "configs" / f"clcr_{name}.yaml")
    assert run.model_type == "clcr" and run.output_dir == f"runs/clcr_{name}"
    assert run.data.name == name.removesuffix("_bc")
    text = "text" in run.config.get("modalities", ("text",))
    assert bool(run.backbones) == text
    config = ClcrConfig(**run.config, **({"text_config": BertConfig(num_hidden_layers=6)} if text else {}))
    if not text:
        processor = ClcrProcessor.from_config(config, **run.processor)
        assert processor.modalities == list(config.modalities)
    arguments = TrainingArguments(**run.training, output_dir=str(tmp_path), use_cpu=True)
    if name in PAPER:
        assert arguments.num_train_epochs == 100 and arguments.per_device_train_batch_size == 64
        assert arguments.max_grad_norm == 40.0 and arguments.weight_decay == 1e-4
    if name in PAPER[2:]:
        assert arguments.optim == "sgd" and arguments.optim_args == "momentum=0.9" and arguments.learning_rate == 1e-3


@pytest.mark.parametrize("name", ["clcr.table1", "clcr.table2", "clcr.table3"])
def test_rows_of_the_tables_are_models_that_can_be_built(name: str, root: Path) -> None:
    """Config and processor of every row of CLCR agree, with the modalities and sizes that the row leaves."""
    table = load_table(name, root / "examples")
    rows = [(block, row) for block in table.blocks for row in block.rows if row.config is not None]
    seen = set()
    for block, row in rows:
        run = run_settings(table, block, row)
        if run.model_type != "clcr":
            continue
        text = "text" in run.config.get("modalities", ("text",))
        config = ClcrConfig(**run.config, **({"text_config": BertConfig()} if text else {}))
        if not text:
            options = {key: value for key, value in run.processor.items() if key != "max_text_length"}
            assert ClcrProcessor.from_config(config, **options).modalities == list(config.modalities), row.system
        seen.add((block.name, row.system))
    if name == "clcr.table3":
        rows_of = {block: {system for where, system in seen if where == block} for block, _ in seen}
        assert {block: len(systems) for block, systems in rows_of.items()} == {
            "CMU-MOSI": 15,
            "CMU-MOSEI": 15,
            "KS": 11,
        }


@pytest.mark.parametrize("kind", LEVEL_ORDERS)
def test_mixed_levels_misalign_as_the_paper_says(kind: str) -> None:
    """Full Mix: no level at its depth; Partial Mix: exactly one. Modalities are not mixed alike, or they stayed aligned."""
    orders = LEVEL_ORDERS[kind]
    config = ClcrConfig(level_order=orders, text_config=BertConfig())
    for name in config.modalities:
        kept = sum(config.backbone_level(name, level) == level for level in range(3))
        assert kept == (0 if kind == "full" else 1)
    assert len({tuple(order) for order in orders.values()}) > 1
