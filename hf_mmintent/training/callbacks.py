"""Callbacks beside those of transformers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_mmintent.data.collator import MultimodalCollator

logger = logging.get_logger(__name__)


class ZeroDiagnosticWarning(TrainerCallback):
    """
    Warns once about a part of the model that did nothing over a whole logging window.

    A config says which figures those are: `zero_diagnostics` maps the name of a logged figure to what it means when it is 0.
    The figures are read after they were logged, so nothing waits for the device on their account.
    """

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        # The trainer also takes models of other packages, whose configs know nothing of this.
        meanings = getattr(model.config, "zero_diagnostics", {}) if model is not None else {}
        for name, meaning in meanings.items():
            if (logs or {}).get(name) == 0 and name not in self.warned:
                self.warned.add(name)
                logger.warning(
                    f"step {state.global_step}, `{name}` is 0 over the last {args.logging_steps} steps: {meaning}"
                )


class CollatorEpoch(TrainerCallback):
    """Tells the training collator which epoch begins, so that modality dropout hides other rows in each."""

    def __init__(self, collator: MultimodalCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.collator.set_epoch(int(state.epoch or 0))
