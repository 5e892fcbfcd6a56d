"""Bidirectional LSTM with peephole connections, the acoustic encoder of MVCL-DAF."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layers import clear_padding, reverse_to_batch_major, reverse_to_time_major, reversed_steps


def peephole_step(
    gates_x: Tensor, hidden: Tensor, cell: Tensor, recurrent: Tensor, peephole: Tensor, full: bool
) -> tuple[Tensor, Tensor]:
    """
    One time step of both directions at once; a pure function, so that a compiler can fuse it.

    diagonal: i = σ(gx_i + U_i h' + v_i∘c'), f = σ(gx_f + U_f h' + v_f∘c'), c = f∘c' + i∘tanh(gx_g + U_g h'),
              o = σ(gx_o + U_o h' + v_o∘c), h = o∘tanh(c)
    full:     all four gates read a full matrix on the previous cell, `gx + U h' + V c'`, o included.

    Args:
        gates_x: (2, B, 4h), input part in the order i, f, g, o.
        hidden, cell: (2, B, h), the previous state.
        recurrent: (2, h, 4h), U transposed.
        peephole: (2, 3, h) for diagonal, (2, h, 4h) for full.
    """
    gates = torch.baddbmm(gates_x, hidden, recurrent)
    if full:
        gates = torch.baddbmm(gates, cell, peephole)
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
    size = cell.shape[-1]
    look = peephole[:, None]  # (2, 1, 3, h)
    both = gates[..., : 2 * size].unflatten(-1, (2, size))  # i and f at once, (2, B, 2, h)
    i, f = torch.addcmul(both, look[:, :, :2], cell[:, :, None]).sigmoid().unbind(2)
    g, o = gates[..., 2 * size : 3 * size], gates[..., 3 * size :]
    new_cell = torch.addcmul(f * cell, i, g.tanh())
    return torch.addcmul(o, look[:, :, 2], new_cell).sigmoid() * new_cell.tanh(), new_cell


class PeepholeBiLSTM(nn.Module):
    """
    Peephole LSTM over the valid prefix, read forwards and backwards.

    Args:
        input_size: width of the steps.
        hidden_size: h per direction.
        peephole: "diagonal" (the standard definition) or "full" (every gate sees a matrix on the previous cell).
    """

    def __init__(self, input_size: int, hidden_size: int, peephole: str = "diagonal") -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.full = peephole == "full"
        self.weight_input = nn.Parameter(torch.empty(2, 4 * hidden_size, input_size))
        self.weight_recurrent = nn.Parameter(torch.empty(2, hidden_size, 4 * hidden_size))
        self.weight_peephole = nn.Parameter(
            torch.empty(2, *((hidden_size, 4 * hidden_size) if self.full else (3, hidden_size)))
        )
        self.bias = nn.Parameter(torch.empty(2, 4 * hidden_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """U(±1/√h), torch's own rule for LSTMs."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            init.uniform_(parameter, -bound, bound)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """`states` (B, L, D) with a prefix mask (B, L) -> (B, L, 2h), zeros on padding."""
        order = reversed_steps(mask.sum(1), states.shape[1])
        both = torch.stack([states.transpose(0, 1), reverse_to_time_major(states, order)])  # (2, L, B, D)
        # Input part of both directions and all steps in one product.
        gates = torch.baddbmm(self.bias[:, None], both.flatten(1, 2), self.weight_input.transpose(1, 2))
        steps = gates.unflatten(1, both.shape[1:3]).unbind(1)  # L of (2, B, 4h)
        hidden = gates.new_zeros(2, states.shape[0], self.hidden_size)
        cell = hidden
        recurrent, peephole = self.weight_recurrent.to(gates.dtype), self.weight_peephole.to(gates.dtype)
        outputs = []
        for step in steps:
            hidden, cell = peephole_step(step, hidden, cell, recurrent, peephole, self.full)
            hidden, cell = hidden.to(gates.dtype), cell.to(gates.dtype)
            outputs.append(hidden)
        ahead, back = torch.stack(outputs, 1).unbind(0)  # (L, B, h) each
        return clear_padding(torch.cat([ahead.transpose(0, 1), reverse_to_batch_major(back, order)], -1), mask)
