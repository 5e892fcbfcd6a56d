"""Routers go from dense to scheduled while they train, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from hf_mmintent.modeling.configuration_base import Stage
from hf_mmintent.training.callbacks import RouterWarmup
from hf_mmintent.training.trainer import MultimodalTrainer
from tests.modeling.connector_testers import CatModTester

TESTER = CatModTester()


class Rows(torch.utils.data.Dataset):
    """The four samples of the tester, again and again."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.inputs = TESTER.inputs()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index % 4] for name, value in self.inputs.items()}


class Owner(nn.Module):
    """A model around a connector; notes the router's progress at every step."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.connector = TESTER.model(**fields)
        self.config: Any = self.connector.config
        self.seen: list[float] = []

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        self.seen.append(self.connector.host_progress())
        return {"loss": self.connector(**inputs).last_hidden_state.square().mean()}


def make_trainer(owner: Owner, folder: Path, steps: int = 10) -> MultimodalTrainer:
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        weight_decay=0.1,
    )
    return MultimodalTrainer(model=owner, args=args, train_dataset=Rows(2 * steps))


def test_progress_rises_over_its_share_of_the_steps(tmp_path: Path) -> None:
    owner = Owner(router_warmup_ratio=0.4)
    make_trainer(owner, tmp_path).train()
    assert owner.seen == pytest.approx([0.0, 0.25, 0.5, 0.75, *[1.0] * 6])
    assert owner.connector.router_progress == 1.0


def test_no_warm_up_without_a_share(tmp_path: Path) -> None:
    owner = Owner(router_warmup_ratio=0.0)
    make_trainer(owner, tmp_path, steps=2).train()
    assert owner.seen == [1.0, 1.0]


def test_parameters_of_the_router_do_not_decay(tmp_path: Path) -> None:
    owner = Owner()
    optimizer = make_trainer(owner, tmp_path).create_optimizer()
    plain = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.0 for p in group["params"]}
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0.0 for p in group["params"]}
    assert {id(p) for p in owner.connector.routers.parameters()} <= plain
    assert id(owner.connector.encoder.layer[0].output_query.dense.weight) in decayed


class Staged:
    """Config of an owner that trains in two stages."""

    training_stages = (Stage("align", 1), Stage("joint", 1))

    def __init__(self, stage: str) -> None:
        self.training_stage = stage


@pytest.mark.parametrize(("stage", "step", "expected"), [("align", 0, 0.0), ("align", 2, 0.5), ("joint", 0, 1.0)])
def test_only_the_first_stage_warms_up_and_a_resumed_run_goes_on(stage: str, step: int, expected: float) -> None:
    owner = Owner(router_warmup_ratio=0.4)
    owner.config = Staged(stage)
    state: Any = TrainerState(max_steps=10, global_step=step)
    callback: Any = RouterWarmup()
    callback.on_train_begin(None, state, None, model=owner)
    assert owner.connector.host_progress() == expected


def test_a_frozen_connector_is_left_alone() -> None:
    owner = Owner(router_warmup_ratio=0.4).requires_grad_(False)
    callback: Any = RouterWarmup()
    callback.on_train_begin(None, TrainerState(max_steps=10), None, model=owner)
    assert owner.connector.host_progress() == 1.0
