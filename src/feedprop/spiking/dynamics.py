"""The settings of a spiking neuron except its decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from feedprop.errors import FeedpropError

Number = float | Tensor
RESETS = ("subtract", "zero", "refractory", "none")


class Dynamics(NamedTuple):
    """The settings of a neuron except its decay.

    `reset` is "subtract" (threshold taken off), "zero" (the membrane is emptied before new current comes in, k = 0),
    "refractory" (the step after a spike stays empty, u = 0, new current is lost) or "none". `epsilon` stabilises D;
    with epsilon 0, no credit passes where D is 0. `steps` is the number of steps of a constant current, else None.
    `fires` is False for a neuron that only integrates. `additive` says that credit at a membrane passes unchanged, as
    through any sum; otherwise it is shared by D, as published.
    """

    threshold: Number
    reset: str
    reset_delay: bool
    epsilon: float
    steps: int | None
    fires: bool
    additive: bool = False

    @property
    def empties_at_once(self) -> bool:
        """Whether a spike erases v_t from u_t, so that v_t must be kept."""
        return self.fires and not self.reset_delay and self.reset in ("zero", "refractory")

    def fired(self, membrane: Tensor) -> Tensor:
        """1 where a membrane is above the threshold, so that the next step begins with a reset."""
        return torch.gt(membrane, self.threshold).to(membrane.dtype)


def check_settings(*, threshold: Number = 1.0, reset: str = "none", **decays: Number) -> None:
    """Raise FeedpropError for settings out of range; tensors are checked by `Neuron`."""
    if reset not in RESETS:
        raise FeedpropError(f"reset must be one of {', '.join(map(repr, RESETS))}, not {reset!r}")
    if not isinstance(threshold, Tensor) and not threshold > 0:
        raise FeedpropError(f"threshold must be > 0, got {threshold!r}")
    for name, decay in decays.items():
        if not isinstance(decay, Tensor) and not 0 <= decay <= 1:
            raise FeedpropError(f"{name} must be in [0, 1], got {decay!r}")


def subtract(membrane: Tensor, fired: Tensor, threshold: Number, sign: float = 1.0) -> None:
    """Take the threshold off where a neuron fired."""
    if isinstance(threshold, Tensor):
        membrane.addcmul_(fired, threshold, value=-sign)
    else:
        membrane.sub_(fired, alpha=sign * threshold)
