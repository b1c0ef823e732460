"""The same corrections under torch.func (grad, vmap, vjp), whose transforms differentiate operations of torch alone."""

from __future__ import annotations

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether a transform of torch.func is at work."""
    return torch._C._are_functorch_transforms_active()


def rerouted(value: Tensor, *ways: tuple[Tensor, Tensor | float]) -> Tensor:
    """Return `value`; of the credit that comes back each x of `ways`, (x, slope), receives slope times as much."""
    output = value.detach()
    for x, slope in ways:
        output = output + (x - x.detach()) * (slope.detach() if isinstance(slope, Tensor) else slope)  # adds 0
    return output
