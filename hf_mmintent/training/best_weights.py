"""Checkpoints at most every few minutes, with the best weights kept in memory between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

BEST_FILE = "best_weights.safetensors"


class BestWeights(TrainerCallback):
    """
    Holds the weights of the best evaluation, so that not every epoch has to be written to disk to select one.

    A short run spends more time on writing weights and optimizer states, epoch after epoch, than they can ever save. With
    `seconds` a checkpoint is written only when the last one (or the start) is that long ago; it then holds the best weights so
    far beside the present ones, which is all that a run needs to go on exactly. Which epoch is chosen does not change.

    Args:
        model: that is trained, unwrapped.
        seconds: between checkpoints; `None` leaves the saving and loading of the best to the library, unless a checkpoint that
            was written with `seconds` is resumed.
        clock: seconds, of which only differences matter.
    """

    def __init__(
        self, model: nn.Module, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.model = model
        self.wanted = self.seconds = seconds
        self.clock = clock
        self.step: int | None = None
        self.held: dict[str, Tensor] = {}
        self.last_save = 0.0

    @property
    def in_charge(self) -> bool:
        """Whether the best weights are here and not in a checkpoint of their own."""
        return self.seconds is not None or self.step is not None

    def save(self, folder: str | Path, state: TrainerState) -> None:
        """Write the best weights into a checkpoint of later ones; a checkpoint of the best ones needs no second copy."""
        self.look(state)
        if self.step is not None and self.step != state.global_step:
            Path(folder).mkdir(parents=True, exist_ok=True)
            save_file(self.held, str(Path(folder) / BEST_FILE))

    def look(self, state: TrainerState) -> None:
        """Copy the weights if they are those of the best evaluation so far."""
        best = state.best_global_step
        if self.in_charge and best is not None and best == state.global_step and best != self.step:
            self.step = best
            self.held = {
                name: value.detach().to("cpu", copy=True).contiguous() for name, value in self._changing().items()
            }

    def _changing(self) -> dict[str, Tensor]:
        """Buffers and trained parameters: a frozen language model is the same in every epoch."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.model.state_dict().items() if name not in frozen}

    # ---- called by the trainer -------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step, self.held, self.last_save, self.seconds = None, {}, self.clock(), self.wanted
        stored = Path(args.output_dir) / f"checkpoint-{state.global_step}" / BEST_FILE
        if state.global_step > 0 and stored.exists():
            self.step, self.held = state.best_global_step, load_file(str(stored))
        elif state.best_global_step not in (None, state.global_step):
            self.seconds = None  # one checkpoint per epoch so far, the best among them: it stays so
        self.look(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.look(state)  # before a stage renews what it keeps of the rows

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.look(state)  # before the weights of an evaluation change

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._postpone(control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._postpone(control)

    def _postpone(self, control: TrainerControl) -> None:
        if control.should_save and self.seconds is not None and self.clock() - self.last_save < self.seconds:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.last_save = self.clock()

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (self.in_charge and args.load_best_model_at_end) or state.best_global_step in (None, state.global_step):
            return
        own = self.model.state_dict()
        missing = sorted(own.keys() - self.held.keys() - dict(self.model.named_parameters()).keys())
        if self.step != state.best_global_step or missing:
            raise RuntimeError(
                f"the best weights are those of step {state.best_global_step}, but step {self.step} is held"
                f"{f', without {missing}' if missing else ''}: delete {args.output_dir} to train again."
            )
        for name, value in self.held.items():
            own[name].copy_(value)
        self.held = {}
