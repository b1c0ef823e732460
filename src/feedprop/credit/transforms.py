"""The same corrections under torch.func (grad, vmap, vjp), written in torch operations that its transforms follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether a transform of torch.func is running."""
    return torch._C._are_functorch_transforms_active()


def traced() -> bool:
    """Whether the graph is hidden, by torch.compile or torch.func."""
    return torch.compiler.is_dynamo_compiling() or transformed()


# how many of them are running, one inside the other; None if none is
transforms: Callable[[], int | None] = torch._C._functorch.maybe_current_level


def rerouted(value: Tensor, *ways: tuple[Tensor, Tensor | float]) -> Tensor:
    """Return `value`; each x of `ways`, pairs (x, slope), receives slope times the credit that comes back."""
    output = value.detach()
    for x, slope in ways:
        output = output + (x - x.detach()) * (slope.detach() if isinstance(slope, Tensor) else slope)  # adds 0
    return output
