"""Two processes find the prototypes, and keep the bank, of one that sees all rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modeling.testers import PlumNetTester
from tests.processes import run_in_two_processes

TESTER = PlumNetTester()
BATCHES = 3  # the first process has two of them, the second one: uneven on purpose


def batches() -> list[dict[str, Tensor]]:
    found = []
    for number in range(BATCHES):
        inputs = {**TESTER.random_batch(number), "sample_index": torch.arange(4 * number, 4 * number + 4)}
        inputs["labels"] = torch.tensor([0, 1, 1, 0])  # nobody has class 2
        inputs["audio_attention_mask"][number] = 0
        found.append(inputs)
    return found


def state(rank: int, processes: int, schedule: str) -> dict[str, Any]:
    """Prototypes and bank after a pass over the share of process `rank`."""
    torch.manual_seed(0)
    model = TESTER.model_class(TESTER.config(prototype_schedule=schedule, encoder_dropout=0.0))
    model.set_stage("alignment")
    share = batches()[rank::processes]
    model.on_stage_epoch_start(share)
    labeller = model.model.labeller
    found = {name: value.clone() for name, value in labeller.named_buffers()}
    if schedule == "bank":
        found |= {"rows": model.model.bank.rows, "present": model.model.bank.present}
        found["classes"] = model.model.bank.classes
    return found


def main(folder: str, schedule: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.save(state(rank, torch.distributed.get_world_size(), schedule), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("schedule", ["epoch", "bank"])
def test_two_processes_equal_one(schedule: str, tmp_path: Path, root: Path) -> None:
    run_in_two_processes(root, __file__, tmp_path, schedule)
    whole = state(0, 1, schedule)
    assert whole["prototype_counts"].tolist() == [[6, 6, 0], [5, 4, 0], [6, 6, 0]]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


if __name__ == "__main__":
    main(*sys.argv[1:])
