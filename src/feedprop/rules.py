"""The maths of each rule of Layer-wise Relevance Propagation for a linear operation; knows no hooks and no models.

A rule says how a linear operation z = sum_i a_i w_i + b shares the reward of z among its inputs a_i, and with it the feedback
that each weight receives. Names and meanings as in zennit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.treatments import (
    Function,
    ordinary,
    product,
    register,
    secant,
    summed,
    used_weights,
)

__all__ = ["Epsilon", "Rule", "ordinary", "product", "register", "secant", "summed"]


class Rule:
    """A way to share the reward of a linear operation among its inputs and weights.

    Args:
        epsilon: stabiliser >= 0, added to |z| wherever a reward is divided by a sum z. Propagating credit divides by no sum, so
            the default, 0, is stable and free; the published implementation has 1e-6.
    """

    def __init__(self, epsilon: float = 0.0) -> None:
        self.epsilon = non_negative("epsilon", epsilon)

    def __call__(
        self, operation: Function, inputs: Tensor, weight: Tensor, bias: Tensor | None, *, floor: float
    ) -> Any:
        """Return operation(inputs, weight, bias) with this rule's backward pass.

        Args:
            operation: linear in its first argument, and in weight and bias together.
            floor: what |w| is at least in the feedback of a weight.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


class Epsilon(Rule):
    """LRP-epsilon: r_(i<-j) = a_i w_ij / (z_j + epsilon sign z_j) r_j (Bach et al. 2015, eq. 58; Weber et al. 2023, eq. 5).

    With epsilon = 0, the default, this is LRP-0, and on a ReLU network the feedback is -|w| times the gradient.
    """

    def __call__(
        self, operation: Function, inputs: Tensor, weight: Tensor, bias: Tensor | None, *, floor: float
    ) -> Any:
        """Return operation(inputs, weight, bias): the ordinary backward, damped at the output."""
        z = operation(inputs, *used_weights(weight, bias, floor))
        return credit.damped(z, self.epsilon)


def non_negative(name: str, value: float) -> float:
    """Return `value` as a float; raise FeedpropError if it is negative, infinite or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise FeedpropError(f"{name} has to be a number, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise FeedpropError(f"{name} has to be finite and not negative, got {value!r}")
    return number
