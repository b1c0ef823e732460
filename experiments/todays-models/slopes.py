"""Slopes by which credit passes an activation: what part of a gap to backprop is the secant's?"""

from torch import Tensor

from feedprop import credit
from feedprop.rules import CentralDifference, Secant


class Derivative(Secant):
    """The derivative, as backprop has it."""

    by_values = False

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        return activation(z)


SLOPES = {
    "secant": Secant(),
    "derivative": Derivative(),
    **{f"chord-{width}": CentralDifference(width) for width in (0.25, 0.5, 1.0, 2.0)},
}
