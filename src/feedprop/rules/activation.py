"""How an activation phi passes credit: by a secant or a central difference of phi instead of its derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError, non_negative
from feedprop.rules.settings import Settings


class ActivationRule(Settings):
    """What `attach(model, activation=...)` takes: returns phi(z) with the backward pass that credit is to have."""

    by_values: bool = False
    """Whether z and phi(z) suffice: then x * sigmoid(x), written out, counts as one activation."""

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        """Return activation(z).

        Args:
            activation: elementwise.
            z: pre-activations, any shape.
            at_zero: the limits of phi at 0 from below and above, if known.
        """
        raise NotImplementedError


class Secant(ActivationRule):
    """Credit passes by the slope of the line from (0, m) to (z, phi(z)): c_z = c_x (phi(z) - m) / (z + sign(z) e).

    The paper hands the reward on unchanged, which is m = 0 and e = 0 (Weber et al. 2023, section 3.1). That slope is
    unbounded near z = 0 wherever phi(0) is not 0 (sigmoid, softplus, cosine) or phi jumps there (step, sign), and there
    the published method hardly trains. So by default m is phi(0), treated like a bias, the middle of the jump if phi
    jumps; and e = `epsilon` rms(z) if phi jumps, else 0, since the slope is bounded without. For ReLU, tanh, GELU,
    SiLU, ELU and all others with phi(0) = 0 that changes nothing.

    Args:
        epsilon: >= 0, in units of the root mean square of the pre-activations of a layer and batch. Used for
            activations that jump at 0, and with `offset=False` for all whose phi(0) is not 0.
        offset: treat phi(0) as a bias; False is the paper's m = 0.
    """

    by_values = True

    def __init__(self, *, epsilon: float = 0.1, offset: bool = True) -> None:
        self.epsilon, self.offset = non_negative("epsilon", epsilon), bool(offset)

    @classmethod
    def published(cls) -> Secant:
        """Return the paper's way: phi(z) / z, stabilised by the epsilon of the linear rule alone."""
        return cls(epsilon=0.0, offset=False)

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        """Return activation(z) with this backward pass; limits at 0 that are not given are computed."""
        if at_zero is None and torch.compiler.is_compiling():
            return credit.traced_secant(activation, z, offset=self.offset, epsilon=self.epsilon)
        below, above = credit.limits_at_zero(activation, z) if at_zero is None else at_zero
        if below == above == 0 or (not self.offset and not self.epsilon):
            return credit.secant(activation, z, smooth=self.offset and below == above)
        if not self.offset:
            return credit.offset_secant(activation, z, middle=0.0, epsilon=self.epsilon)
        jump = above - below
        epsilon = self.epsilon if jump else 0.0
        return credit.offset_secant(activation, z, middle=(below + above) / 2, jump=jump, epsilon=epsilon)


class CentralDifference(ActivationRule):
    """Credit passes by the slope of phi around z: c_z = c_x (phi(z + d) - phi(z - d)) / (2 d), d being the step.

    This is the mean slope over the interval from z - d to z + d; no derivative need exist. A secant from 0 describes
    instead what all of z has contributed, which differs where phi bends: at -1, GELU falls but has the secant .16.
    Networks of GELU or SiLU train better by central differences (experiments/todays-models). ReLU, which is made of two
    lines through 0, keeps its secant; that is its derivative.

    An activation that is written out, x * sigmoid(x), is a product here; each factor has its own backward.

    Args:
        step: > 0, in the unit of z. Functions that are not defined everywhere keep their secant.
    """

    def __init__(self, step: float = 0.5) -> None:
        self.step = non_negative("step", step)
        if not self.step:
            raise FeedpropError("step must be above 0: a difference needs two points")

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        """Return activation(z) with this backward pass."""
        return credit.central_difference(activation, z, self.step)
