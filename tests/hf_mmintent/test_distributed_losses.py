"""Two processes with gathered negatives and prototypes train exactly as one process with the whole batch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modeling.testers import MvclDafTester, tiny_bert
from tests.processes import run_in_two_processes

TESTER = MvclDafTester()
CUT = 3  # samples 0-2 in the first process, sample 3 in the second: ragged
STILL = {"text_dropout": 0.0, "visual_dropout": 0.0, "coarse_dropout": 0.0, "daf_attention_dropout": 0.0}
# Each case: what the second process lacks, samples whose label is ignored, settings.
CASES: dict[str, tuple[tuple[str, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((), (), {}),
    "ignored label": ((), (1,), {"contrastive_exclude_same_class": True}),
    "nothing counts in the second": ((), (3,), {}),
    "no video in the second": (("video",), (), {"contrastive_reduction": "mean"}),
    "no audio in the second, prototypes per view": (("audio",), (), {"prototype_scope": "per_view"}),
    "no text in the second": (("text",), (), {"prototype_stop_gradient": True}),
    "no audio, no video in the second": (("audio", "video"), (), {"prototype_normalize_instances": True}),
}


def make_model(settings: dict[str, Any]) -> Any:
    """The classification term is a mean over the process's own rows, as everywhere: it is left out."""
    bert = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return TESTER.model(
        text_config=bert, cls_loss_weight=0.0, gather_across_processes=True, **STILL, **settings
    ).train()


def whole_batch(lacking: tuple[str, ...], ignored: tuple[int, ...]) -> dict[str, Tensor]:
    batch = TESTER.inputs(training=True)
    batch["labels"] = torch.tensor([0, 1, 1, 0])
    for row in ignored:
        batch["labels"][row] = -100
    for name in lacking:
        mask = TESTER.sequence_inputs[TESTER.modality_inputs[name]]
        batch[mask] = batch[mask].clone()
        batch[mask][CUT:] = 0
        if name == "text":  # the labelled view of a sample without text: [CLS] label label [SEP]
            batch["labelled_input_ids"][CUT:] = 0
            batch["labelled_input_ids"][CUT:, :4] = torch.tensor([2, 50, 50, 3])
    return batch


def part(batch: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """This process's rows, trimmed to their own lengths; a modality that none of them has is left out."""
    own = {name: value[:CUT] if rank == 0 else value[CUT:] for name, value in batch.items()}
    for values, mask in TESTER.sequence_inputs.items():
        length = int(own[mask].sum(1).max())
        beside = [*TESTER.beside_text] if values == "input_ids" else []
        if not length:
            own["labelled_input_ids"] = own["labelled_input_ids"][:, : 4 if beside else None]
            for name in (values, mask, *beside):
                if name != "labelled_input_ids":
                    del own[name]
            continue
        for name in (values, mask, *beside):
            own[name] = own[name][:, :length]
    return own


def in_each_process(folder: Path) -> None:
    """Train every case by one backward pass and store what the processes agree on."""
    from datetime import timedelta

    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    accelerator = Accelerator(
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=timedelta(seconds=60)),  # processes that wait for each other fail
        ]
    )
    assert accelerator.num_processes == 2, "the launcher started two independent processes"
    for index, (lacking, ignored, settings) in enumerate(CASES.values()):
        model = accelerator.prepare(make_model(settings))
        out = model(**part(whole_batch(lacking, ignored), accelerator.process_index))
        accelerator.backward(out.loss)
        values = torch.stack([out.loss.detach(), *(out.loss_terms[name] for name in sorted(out.loss_terms))])
        found = {
            "names": ["loss", *sorted(out.loss_terms)],
            "values": accelerator.reduce(values, "mean"),
            "gradients": {name: p.grad for name, p in accelerator.unwrap_model(model).named_parameters()},
            "samples_per_class": out.diagnostics["samples_per_class"],
            "processes": accelerator.reduce(torch.ones(1), "sum"),
        }
        torch.save(found, folder / f"{index}_{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Folder with what two processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    run_in_two_processes(root, __file__, folder)
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, stored: Path) -> None:
    lacking, ignored, settings = CASES[case]
    model = make_model(settings)
    out = model(**whole_batch(lacking, ignored))
    out.loss.backward()
    first, second = (torch.load(stored / f"{list(CASES).index(case)}_{rank}.pt") for rank in (0, 1))
    assert first["processes"].item() == second["processes"].item() == 2
    expected = {"loss": out.loss.item(), **{name: term.item() for name, term in out.loss_terms.items()}}
    for found in (first, second):
        values = dict(zip(found["names"], found["values"].tolist(), strict=True))
        values["cls"] = expected["cls"]  # a mean of means over ragged parts
        assert values == pytest.approx(expected, abs=1e-5)
        assert found["samples_per_class"] == out.diagnostics["samples_per_class"]
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            own = found["gradients"][name]
            own = torch.zeros_like(parameter) if own is None else own
            torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-4, msg=name)
    assert model.get_input_embeddings().weight.grad.abs().max() > 1e-4


@pytest.mark.distributed
def test_separate_batches_would_not_give_this(stored: Path) -> None:
    """Without gathering each process sees fewer negatives: the comparison above can fail."""
    lacking, ignored, settings = CASES["plain"]
    batch, model = whole_batch(lacking, ignored), make_model(settings)
    alone = sum(model(**part(batch, rank)).loss.item() for rank in (0, 1)) / 2
    together = torch.load(stored / "0_0.pt")["values"][0].item()
    assert abs(alone - together) > 0.1


if __name__ == "__main__":
    in_each_process(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # gloo sometimes aborts when the interpreter ends
