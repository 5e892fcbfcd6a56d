"""CLCR's statistics over the rows of two processes give the losses and gradients of one process with the whole batch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modeling.testers import ClcrTester, tiny_bert
from tests.processes import run_in_two_processes

TESTER = ClcrTester()
# What is a mean over the rows of a process anyway, the task and R_sel, agrees only where both have as many.
STATISTICS = {"inter_weights": (0.5, 0.5, 0.0)}
# Each case: rows of the first process out of four, what the second process lacks, whether labels count, settings.
CASES: dict[str, tuple[int, tuple[str, ...], bool, dict[str, Any]]] = {
    "plain": (2, (), True, {}),
    "no video in the second": (2, ("video",), True, {"regularizer_reduction": "mean"}),
    "text alone in the second": (2, ("audio", "video"), True, {"inter_stat_rank": None, "levels": ("mid", "deep")}),
    "ragged": (3, (), False, STATISTICS),
    "ragged, no audio in the second": (3, ("audio",), False, {**STATISTICS, "whitening_solver": "eigh"}),
}


def make_model(settings: dict[str, Any], gather: bool = True) -> Any:
    bert = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still = {"tcn_dropout": 0.0, "head_dropout": 0.0}
    return TESTER.model(text_config=bert, gather_across_processes=gather, **still, **settings).train()


def whole_batch(cut: int, lacking: tuple[str, ...], labelled: bool) -> dict[str, Tensor]:
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([0, 1, 2, 1]) if labelled else torch.full((4,), -100)
    for name in lacking:
        mask = TESTER.sequence_inputs[TESTER.modality_inputs[name]]
        batch[mask] = batch[mask].clone()
        batch[mask][cut:] = 0
    return batch


def part(batch: dict[str, Tensor], cut: int, lacking: tuple[str, ...], rank: int) -> dict[str, Tensor]:
    """This process's rows, trimmed to their own lengths; a modality that none of them has is left out."""
    own = {name: value[:cut] if rank == 0 else value[cut:] for name, value in batch.items()}
    own = TESTER.without(own, *(lacking if rank == 1 else ()))
    for values, mask in TESTER.sequence_inputs.items():
        length = int(own[mask].sum(1).max()) if mask in own else 0
        for name in (values, mask, *(TESTER.beside_text if values == "input_ids" else ())):
            if name in own:
                own[name] = own[name][:, :length]
    return own


def in_each_process(folder: Path) -> None:
    """One backward pass of every case, and what each process found."""
    from datetime import timedelta

    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    accelerator = Accelerator(
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=timedelta(seconds=120)),  # processes that wait for each other fail
        ]
    )
    assert accelerator.num_processes == 2, "the launcher started two independent processes"
    for index, (cut, lacking, labelled, settings) in enumerate(CASES.values()):
        model = accelerator.prepare(make_model(settings))
        own = part(whole_batch(cut, lacking, labelled), cut, lacking, accelerator.process_index)
        out = model(**own)
        accelerator.backward(out.loss)
        found = {
            "loss": accelerator.reduce(out.loss.detach(), "mean"),
            "terms": {name: accelerator.reduce(term, "mean") for name, term in out.loss_terms.items()},
            "own_terms": out.loss_terms,
            "gradients": {name: p.grad for name, p in accelerator.unwrap_model(model).named_parameters()},
        }
        torch.save(found, folder / f"{index}_{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Folder with what two processes found."""
    folder = tmp_path_factory.mktemp("distributed_clcr")
    run_in_two_processes(root, __file__, folder)
    return folder


def both(stored: Path, case: str) -> list[dict[str, Any]]:
    return [torch.load(stored / f"{list(CASES).index(case)}_{rank}.pt") for rank in (0, 1)]


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, stored: Path) -> None:
    cut, lacking, labelled, settings = CASES[case]
    model = make_model(settings)
    out = model(**whole_batch(cut, lacking, labelled))
    out.loss.backward()
    ragged = cut != 2
    expected = {name: term.item() for name, term in out.loss_terms.items() if not (ragged and name == "inter_sel")}
    for found in both(stored, case):
        assert {name: found["terms"][name].item() for name in expected} == pytest.approx(expected, abs=1e-5, rel=1e-5)
        assert found["loss"].item() == pytest.approx(out.loss.item(), abs=1e-5, rel=1e-5)
        for name in {"intra", "inter_pp", "inter_sp"} & set(expected):  # every process has the whole statistic
            assert found["own_terms"][name].item() == pytest.approx(expected[name], abs=1e-5, rel=1e-5)
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            own = found["gradients"][name]
            own = torch.zeros_like(parameter) if own is None else own
            torch.testing.assert_close(own, gradient, atol=2e-5, rtol=1e-3, msg=name)
    assert model.get_input_embeddings().weight.grad.abs().max() > 1e-4


@pytest.mark.distributed
def test_separate_statistics_would_not_give_this(stored: Path) -> None:
    """Without gathering each process sees half of the rows: the comparison above can fail."""
    cut, lacking, labelled, settings = CASES["plain"]
    model = make_model(settings, gather=False)
    batch = whole_batch(cut, lacking, labelled)
    alone = sum(model(**part(batch, cut, lacking, rank)).loss_terms["intra"].item() for rank in (0, 1)) / 2
    together = both(stored, "plain")[0]["terms"]["intra"].item()
    assert abs(alone - together) > 0.1


if __name__ == "__main__":
    in_each_process(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # gloo sometimes aborts when the interpreter ends
