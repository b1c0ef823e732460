"""What makes a spiking neuron, apart from its decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Tensor


class Dynamics(NamedTuple):
    """What makes a neuron, apart from its decay.

    `reset` is "subtract" (threshold taken off), "zero" (the membrane is emptied before new current comes in, k = 0),
    "refractory" (the step after a spike stays empty, u = 0, new current is lost) or "none". `epsilon` stabilises D;
    with 0, what has no contribution passes no credit. `steps` is given if the current is the same at each of so many
    steps. `fires` is False for a neuron that only integrates.
    """

    threshold: Number
    reset: str
    reset_delay: bool
    epsilon: float
    steps: int | None
    fires: bool

    @property
    def empties_at_once(self) -> bool:
        """Whether u_t says nothing of v_t after a spike, so that v_t has to be kept."""
        return self.fires and not self.reset_delay and self.reset in ("zero", "refractory")

    def fired(self, membrane: Tensor) -> Tensor:
        """1 where a membrane is above the threshold, so that the next step begins with a reset."""
        return torch.gt(membrane, self.threshold).to(membrane.dtype)


def subtract(membrane: Tensor, fired: Tensor, threshold: Number, sign: float = 1.0) -> None:
    """Take the threshold off where a neuron fired."""
    if isinstance(threshold, Tensor):
        membrane.addcmul_(fired, threshold, value=-sign)
    else:
        membrane.sub_(fired, alpha=sign * threshold)
