"""Callbacks beside those of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn
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


class RouterWarmup(TrainerCallback):
    """
    Leads every part of a model that has a router from dense to scheduled over the first steps.

    Such a part has `set_router_progress` and `config.router_warmup_ratio`, the share of all steps that it takes. The progress
    is stored with the weights, as it was when they were; of several stages only the first one warms up.
    """

    def __init__(self) -> None:
        self.routed: list[Any] = []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        self.routed = []
        if model is None:
            return
        # The trainer also takes models of other packages, whose configs know nothing of stages.
        config: Any = getattr(model, "config", None)
        stages = getattr(config, "training_stages", ())
        if stages and config.training_stage != stages[0].name:
            return
        for part in model.modules():
            if hasattr(part, "set_router_progress") and any(p.requires_grad for p in part.parameters()):
                self.routed.append(part)
        self._follow(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._follow(state)

    def _follow(self, state: TrainerState) -> None:
        for part in self.routed:
            steps = part.config.router_warmup_ratio * state.max_steps
            part.set_router_progress(min(1.0, state.global_step / steps) if steps > 0 else 1.0)
