"""Slopes by which credit passes an activation: what part of a gap to backprop is the secant's?"""

from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.rules import Secant


class Derivative(Secant):
    """The derivative, as backprop has it."""

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        return activation(z)


class _Chord(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, activation: credit.Activation, width: float) -> Tensor:
        ctx.activation, ctx.width = activation, width
        ctx.save_for_backward(z)
        return activation(z)

    @staticmethod
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        half = ctx.width * z.square().mean().sqrt()
        return (ctx.activation(z + half) - ctx.activation(z - half)).div_(2 * half).mul_(arriving), None, None


class Chord(Secant):
    """The slope between z - d and z + d, with d in units of the root mean square of z: no derivative is needed."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        return _Chord.apply(z, activation, self.width)


SLOPES = {"secant": Secant(), "derivative": Derivative(), "chord-1": Chord(1.0), "chord-0.3": Chord(0.3)}
