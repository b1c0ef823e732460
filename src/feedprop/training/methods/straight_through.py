"""The straight-through estimator (Bengio et al. 2013): gradients pass activations without a derivative.

As in Hubara et al. (2016, eq. 4), the gradient passes a step or sign where |z| <= 1, and is 0 elsewhere. It passes a
quantisation to [0, 1] where z lies in [0, 1] (Zhou et al. 2016, eq. 5 and 6), and a rounding everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from feedprop import discrete
from feedprop.errors import FeedpropError
from feedprop.training.methods.redirection import Response, redirect


@dataclass
class _Window(Response):
    """The gradient passes where z is in a window, and is 0 elsewhere."""

    window: Callable[[Tensor], Tensor]

    def gradient(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(torch.mul, self.window(x.detach()))


def _near_zero(z: Tensor) -> Tensor:
    return z.abs() <= 1


def _in_range(z: Tensor) -> Tensor:
    return (z >= 0) & (z <= 1)


def _everywhere(z: Tensor) -> Tensor:
    return z == z


# module -> z -> where the gradient passes
WINDOWS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    discrete.Step: _near_zero,
    discrete.Sign: _near_zero,
    discrete.Ternary: _near_zero,
    discrete.Quantize: _in_range,
    discrete.Round: _everywhere,
}


def attach(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Let gradients pass the modules of `feedprop.discrete` in the model; neither inputs nor seed are needed."""
    found = [module for module in model.modules() if type(module) in WINDOWS]
    if not found:
        names = ", ".join(kind.__name__ for kind in WINDOWS)
        raise FeedpropError(
            f"--method straight_through is for activations without a derivative ({names} of feedprop.discrete), and "
            f"the model has none; use --method backprop, or --model.activation feedprop.discrete.Step"
        )
    for module in found:
        redirect(module, _Window(WINDOWS[type(module)]))
