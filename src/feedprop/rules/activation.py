"""How an activation phi passes credit: by a secant or a central difference of phi instead of its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError, non_negative, shape_or_type
from feedprop.rules.settings import Settings


class ActivationRule(Settings):
    """How activations pass credit: what `Composite(activation=...)` takes. To write your own, define `slope`."""

    by_values: bool = False
    """Whether z and phi(z) determine the slope: then x * sigmoid(x), written out, counts as one activation."""
    additive_membranes: bool = False
    """Whether spiking neurons pass credit at a membrane unchanged, as any sum; otherwise by the published shares."""

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        """Return activation(z), with a backward pass that multiplies credit by `slope`.

        Args:
            activation: elementwise.
            z: pre-activations, any shape.
            at_zero: the limits of phi at 0 from below and above, None if they are not known.
        """
        if type(self).slope is ActivationRule.slope:
            self.slope(activation, z)
        return credit.sloped(activation, z, lambda values: self._checked(self.slope(activation, values), values))

    def slope(self, activation: credit.Activation, z: Tensor) -> Tensor:
        """Return what the credit at phi(z) is multiplied by to give the credit at z, shaped like `z`.

        Args:
            activation: phi, elementwise; may be called with any numbers.
            z: pre-activations, any shape, without gradient.
        """
        raise FeedpropError(
            f"{type(self).__name__} does not say how activations pass credit: define slope(self, activation, z), which "
            f"returns what credit is multiplied by, shaped like z"
        )

    def _checked(self, slopes: Any, z: Tensor) -> Tensor:
        name = f"{type(self).__name__}.slope()"
        if not isinstance(slopes, Tensor) or slopes.shape != z.shape:
            got = shape_or_type(slopes)
            raise FeedpropError(f"{name} must return a tensor shaped like z {tuple(z.shape)}, got {got}")
        wrong = credit.not_finite(slopes)
        if wrong and z.isfinite().all():
            raise FeedpropError(
                f"{name} gave NaN or infinity for {wrong} of {z.numel()} pre-activations, all of which are finite: "
                f"check what it divides by"
            )
        return slopes if slopes.is_complex() else slopes.to(z.dtype)


class Secant(ActivationRule):
    """Credit passes by the slope of the line from (0, m) to (z, phi(z)): c_z = c_x (phi(z) - m) / (z + sign(z) e).

    The paper passes the reward on unchanged, which is m = 0 and e = 0 (Weber et al. 2023, section 3.1). That slope is
    unbounded near z = 0 if phi(0) is not 0 (sigmoid, softplus) or phi jumps there (step, sign), and with such
    activations the published method hardly trains. So by default m is phi(0), which counts as a bias, or the middle of
    the jump; and e = `epsilon` rms(z) if phi jumps, else 0. For ReLU, tanh, GELU, SiLU, ELU and all others with
    phi(0) = 0, m = e = 0. At z = 0 the slope is its limit, phi'(0).

    Args:
        epsilon: >= 0, in units of the root mean square of the pre-activations of a layer and batch. Used for
            activations that jump at 0 and, with `offset=False`, for all whose phi(0) is not 0.
        offset: whether phi(0) counts as a bias; False is the paper's m = 0.
    """

    by_values = True

    def __init__(self, *, epsilon: float = 0.1, offset: bool = True) -> None:
        self.epsilon, self.offset = non_negative("epsilon", epsilon), bool(offset)

    @classmethod
    def published(cls) -> Secant:
        """Return the paper's phi(z) / z, stabilised by nothing but the epsilon of the linear rule; 0 at z = 0."""
        return cls(epsilon=0.0, offset=False)

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        """Return activation(z) with this backward pass; computes the limits at 0 if they are not given."""
        if at_zero is None and torch.compiler.is_dynamo_compiling():
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
    """Credit passes by the slope of phi around z: c_z = c_x (phi(z + d) - phi(z - d)) / (2 d).

    This is the mean slope between z - d and z + d; phi need not have a derivative. The secant from 0 describes what all
    of z has contributed, which differs where phi bends: at -1, GELU falls, but its secant is .16. Networks of GELU or
    SiLU train better by central differences (experiments/todays-models), and so do steps, signs and roundings
    (experiments/nondifferentiable). ReLU and other functions that consist of two lines through 0 keep their secant,
    which is their derivative. Where phi has no finite value at one of the two points, as the square root of z - d, the
    slope is taken between z and the other.

    An activation that is written out, x * sigmoid(x), is a product here; each factor has its own backward. Spiking
    neurons pass credit at a membrane on unchanged (see `feedprop.spiking.scan`).

    Args:
        step: > 0; d, in the unit of z.
        jump_step: > 0; d of activations that jump (step, sign, round, comparisons), in units of the root mean square of
            the pre-activations of a layer and batch. If None, `step` holds for them too.
    """

    additive_membranes = True

    def __init__(self, step: float = 0.5, *, jump_step: float | None = None) -> None:
        self.step = non_negative("step", step)
        self.jump_step = None if jump_step is None else non_negative("jump_step", jump_step)
        if not self.step or self.jump_step == 0:
            raise FeedpropError("step and jump_step must be above 0: a difference needs two points")

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: tuple[float, float] | None) -> Tensor:
        """Return activation(z) with this backward pass."""
        if self.jump_step is None or not credit.jumps(activation, z, at_zero):
            return credit.central_difference(activation, z, self.step)
        return credit.central_difference(activation, z, self.jump_step, relative=True)
