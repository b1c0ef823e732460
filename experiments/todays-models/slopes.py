"""Slopes by which credit passes an activation, to see how much of a gap to backprop is due to the secant."""

from torch import Tensor

from feedprop import credit
from feedprop.rules import CentralDifference, Secant


class Derivative(Secant):
    """The derivative, as in backprop."""

    by_values = False

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        return activation(z)


SLOPES = {
    "secant": Secant(),
    "derivative": Derivative(),
    **{f"central-{step}": CentralDifference(step) for step in (0.25, 0.5, 1.0, 2.0)},
}
