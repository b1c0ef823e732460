"""Spiking neurons with a recurrent connection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from feedprop.spiking.dynamics import Number
from feedprop.spiking.neuron import LIF


class Recurrent(LIF):
    """LIF neurons whose spikes return as current in the next step through `connection` (snnTorch `RLeaky`).

    I_t = input_t + connection(s_(t-1)) is shared out like any sum, and the connection like any layer.

    Args:
        connection: a module from spikes (B, ...) to currents (B, ...): a Linear or convolution.
        beta: as in LIF; so are `threshold`, `reset`, `reset_delay` and `learn_beta`.
    """

    def __init__(self, connection: nn.Module, beta: Number = 0.9, **settings: Any) -> None:
        super().__init__(beta, **settings)
        self.connection = connection

    def run(
        self, currents: Tensor, start: tuple[Tensor, ...], *, steps: int | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        inflow = (currents,) * steps if steps is not None else currents.unbind(0)
        spike, membrane = start or (torch.zeros_like(inflow[0]), None)
        fired = []
        for current in inflow:
            spikes, membranes = self.scan(current + self.connection(spike), membrane, steps=1)
            spike, membrane = spikes[0], membranes[0]
            fired.append(spike)
        return torch.stack(fired), (spike, membranes[0])
