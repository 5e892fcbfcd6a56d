"""Figures that a model reports in training: logged, and warned about when a part of it is dead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from hf_mmintent.training import RunConfig, train_run
from tests.hf_mmintent.training_cases import settings

CONFIG = {
    "hidden_size": 16,
    "exchange_heads": 2,
    "inter_stat_rank": 4,
    "modality_configs": {"audio": {"backbone": "tcn"}, "video": {"backbone": "tcn"}},
}


@pytest.mark.parametrize(
    ("scale", "said_of"),
    [(1.0, None), (100.0, "never binds"), (0.0, "receives anything")],
    ids=["alive", "slack", "shut"],
)
def test_a_dead_budget_is_warned_about_once(
    scale: float, said_of: str | None, tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    values = settings(tmp_path, tiny_tokenizer, model_type="clcr", training={"num_train_epochs": 2})
    values["config"] = {**CONFIG, "budget_scale": scale}
    logging.enable_propagation()
    try:
        trained = train_run(RunConfig.from_dict(values), 0, tmp_path / "run")
    finally:
        logging.disable_propagation()
    said = [r.message for r in caplog.records if "never binds" in r.message or "receives anything" in r.message]
    assert len(said) == (0 if said_of is None else 3) and all(str(said_of) in message for message in said)
    if scale == 100.0:
        assert "`budget_tight_deep` is 0 over the last 1 steps" in " ".join(said)
        assert "`budget_init` (0.1)" in said[0]
    if scale == 0.0:
        assert "`participation_mid` is 0 over the last 1 steps" in " ".join(said) and "`budget_scale` (0.0)" in said[0]
    states = sorted((tmp_path / "run").glob("checkpoint-*/trainer_state.json"))
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    logged = [entry for entry in history if "loss" in entry]
    assert all((entry["budget_tight_mid"] == 0) == (scale == 100.0) for entry in logged)
    assert {"level_entropy", "level_weight_deep", "participation_mid", "intra_bias", "loss_inter_sp"} <= set(logged[0])
    assert {"private_gate_text", "private_gate_audio", "private_gate_video", "budget_deep"} <= set(logged[0])
    assert "weight_audio" in logged[0] and trained.checkpoint.is_dir()
