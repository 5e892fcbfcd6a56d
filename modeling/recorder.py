"""Hidden states and attention maps on request."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Recorder:
    """Collects hidden states and attention maps on request, in the order in which layers run."""

    def __init__(self, hidden_states: bool, attentions: bool) -> None:
        self.hidden_states: list[Tensor] | None = [] if hidden_states else None
        self.attentions: list[Tensor] | None = [] if attentions else None

    def add(self, states: Tensor, weights: Tensor | None) -> None:
        if self.hidden_states is not None:
            self.hidden_states.append(states)
        if self.attentions is not None and weights is not None:
            self.attentions.append(weights)

    def add_all(self, output: Any, rows: int) -> None:
        """Take over what a backbone returned for the first `rows` of its batch: the samples without their labelled view."""
        if self.hidden_states is not None:
            self.hidden_states.extend(states[:rows] for states in output.hidden_states)
        if self.attentions is not None and output.attentions is not None:
            self.attentions.extend(weights[:rows] for weights in output.attentions)

    @property
    def fields(self) -> dict[str, tuple[Tensor, ...] | None]:
        return {
            "hidden_states": None if self.hidden_states is None else tuple(self.hidden_states),
            "attentions": None if self.attentions is None else tuple(self.attentions),
        }
