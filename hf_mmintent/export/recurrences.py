"""What an exporter cannot take as it is: loops over steps, which it would unroll, and weights that are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hf_mmintent.modeling.layers import clear_padding, reverse_to_batch_major, reverse_to_time_major, reversed_steps
from hf_mmintent.modeling.peephole_lstm import PeepholeBiLSTM, peephole_step

State = tuple[Tensor, Tensor]


def run_over_steps(step: Callable[[Tensor, State], State], gates: Tensor, start: Tensor) -> tuple[Tensor, State]:
    """
    Args:
        step: gates of one step and the state (hidden, cell) to the next state.
        gates: (T, ...), input part of every step.
        start: hidden state and cell before the first step.

    Returns:
        Hidden state after every step (T, ...), and the last state.
    """
    if not torch.compiler.is_exporting():  # outside an export the operator compiles itself, which takes minutes
        states, state = [], (start, start)
        for gates_x in gates:
            state = step(gates_x, state)
            states.append(state[0])
        return torch.stack(states), state
    from torch._higher_order_ops.scan import scan  # private, but the one operator that the exporter turns into a Scan

    def combine(state: State, gates_x: Tensor) -> tuple[State, Tensor]:
        hidden, cell = step(gates_x, state)
        return (hidden, cell), hidden.clone()

    state, outputs = scan(combine, (start, start.clone()), gates)
    return outputs, state


class ScannedLSTM(nn.Module):
    """The same numbers as a unidirectional [`torch.nn.LSTM`] that starts from zeros."""

    def __init__(self, source: nn.LSTM) -> None:
        super().__init__()
        if source.bidirectional or source.proj_size:
            raise ValueError("only unidirectional LSTMs without projections can be exported: use MaskedBiLSTM.")
        self.source = source

    def forward(self, states: Tensor) -> tuple[Tensor, State]:
        lstm = self.source
        states = states.transpose(0, 1) if lstm.batch_first else states  # (T, B, D)
        last = []
        for layer in range(lstm.num_layers):
            parameters = {name: getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh")}
            gates = states @ parameters["weight_ih"].T
            if lstm.bias:
                gates = gates + getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
            recurrent = parameters["weight_hh"].T

            def step(gates_x: Tensor, state: State, recurrent: Tensor = recurrent) -> State:
                i, f, g, o = (gates_x + state[0] @ recurrent).chunk(4, -1)
                cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
                return o.sigmoid() * cell.tanh(), cell

            states, state = run_over_steps(step, gates, gates.new_zeros(gates.shape[1], lstm.hidden_size))
            last.append(state)
        hidden, cell = (torch.stack(parts) for parts in zip(*last, strict=True))
        return (states.transpose(0, 1) if lstm.batch_first else states), (hidden, cell)


class ScannedPeepholeBiLSTM(nn.Module):
    """The same numbers as [`PeepholeBiLSTM`]."""

    def __init__(self, source: PeepholeBiLSTM) -> None:
        super().__init__()
        self.source = source

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        lstm = self.source
        order = reversed_steps(mask.sum(1), states.shape[1])
        both = torch.stack([states.transpose(0, 1), reverse_to_time_major(states, order)])  # (2, L, B, D)
        gates = torch.matmul(both, lstm.weight_input.transpose(1, 2)[:, None]) + lstm.bias[:, None, None]

        def step(gates_x: Tensor, state: State) -> State:
            return peephole_step(gates_x, *state, lstm.weight_recurrent, lstm.weight_peephole, lstm.full)

        start = gates.new_zeros(2, states.shape[0], lstm.hidden_size)
        outputs, _ = run_over_steps(step, gates.transpose(0, 1), start)  # (L, 2, B, h)
        ahead, back = outputs[:, 0], outputs[:, 1]
        return clear_padding(torch.cat([ahead.transpose(0, 1), reverse_to_batch_major(back, order)], -1), mask)


_SCANNED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.LSTM: ScannedLSTM,
    PeepholeBiLSTM: ScannedPeepholeBiLSTM,
}


class StoredWeight(nn.Module):
    """In the place of a parametrisation: the value it has, under the name by which models ask for its origin."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("original", value.detach().clone())

    def forward(self) -> Tensor:
        return self.original


def fold_parametrizations(model: nn.Module) -> None:
    """Store weights that are computed from others (orthogonal bases), in place; no runtime solves systems for them."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                module.parametrizations[name] = StoredWeight(getattr(module, name))  # type: ignore[index]


def replace_loops(model: nn.Module) -> None:
    """Swap every recurrence of the model, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _SCANNED:
                setattr(parent, name, _SCANNED[type(child)](child))
