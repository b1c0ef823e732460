"""The rules of Layer-wise Relevance Propagation for a linear operation: only maths, no hooks and no models.

A rule shares the reward r_j of the outputs z_j = sum_i a_i w_ij + b_j among the inputs. This also sets the feedback of
each weight: sign(w_ij) times the reward that flowed through the connection. Names and meanings are those of zennit.

In terms of credit (c = r / z), each rule computes z as usual, and also z' = sum_i a'_i w'_ij from its own inputs and
weights. The credit c z / z' then passes z' by its ordinary backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import NUMBERS, FeedpropError, non_negative, shape_or_type
from feedprop.operations.registry import Function
from feedprop.rules.settings import Settings

Share = tuple[float | Tensor, Tensor]  # (factor, z'): z' shares out factor times the reward of z


class Rule(Settings):
    """A way to share the reward of a linear operation among its inputs and weights. To write your own, define `shares`.

    Args:
        epsilon: stabiliser >= 0, added to the absolute value of each divisor, in the unit of pre-activations.
        update: "rule" gives weights the feedback of the rule; "epsilon" gives them that of LRP-0, while rewards travel
            by the rule.
    """

    damping = 0.0  # the epsilon of sums, normalisations and pooling in the modules of this rule
    epsilon = 1e-6  # for a subclass whose __init__ does not call this one
    update = "rule"

    def __init__(self, *, epsilon: float = 1e-6, update: str = "rule") -> None:
        self.epsilon = non_negative("epsilon", epsilon)
        if update not in ("rule", "epsilon"):
            raise FeedpropError(f'update must be "rule" or "epsilon", not {update!r}')
        self.update = update

    def __call__(
        self, operation: Function, inputs: Tensor, weight: Tensor, bias: Tensor | None, magnitude: credit.Magnitude
    ) -> Any:
        """Return operation(inputs, weight, bias) with this rule's backward pass.

        Args:
            operation: linear in its first argument, and in weight and bias together.
            inputs: any shape that `operation` takes.
            weight: a parameter, or computed from parameters.
            bias: likewise, or None.
            magnitude: what the credit of a weight is multiplied by to give its feedback.
        """
        if weight.is_complex() or (weight.layout is not torch.strided and weight.requires_grad):
            raise FeedpropError(
                f"{type(self).__name__} needs real, dense weights, but got {weight.dtype} ({weight.layout}); give this "
                f'layer Epsilon(), as by Composite(..., by_name={{"layer": Epsilon()}})'
            )
        own = self.update == "rule"
        with torch.set_grad_enabled(not own):
            z = operation(inputs.detach(), *credit.as_weights(weight, bias, magnitude))
        part = Part(operation, weight, bias, magnitude if own else None)
        shares = self.shares(part, z.detach(), inputs)
        self._check(shares, z, passes=inputs.requires_grad or (own and weight.requires_grad))
        return credit.substituted(z, *shares, epsilon=self.epsilon)

    def shares(self, part: Part, z: Tensor, inputs: Tensor) -> list[Share]:
        """Return pairs (factor, z'); each z' shares out factor times the reward of z, in the proportions in z'.

        Args:
            part: computes z' = sum_i a'_i w'_ij from modified inputs and weights.
            z: the outputs of the operation, without gradient.
            inputs: a, any shape that the operation takes.

        A factor is a number, or a tensor that broadcasts to z; rewards are conserved if factors add up to 1. z' is
        shaped like z.
        """
        raise FeedpropError(
            f"{type(self).__name__} does not say how it shares rewards: define shares(self, part, z, inputs), which "
            f"returns pairs (factor, z') such as [(1.0, part(inputs, modify, on_bias=None))]"
        )

    def _check(self, shares: Any, z: Tensor, *, passes: bool) -> None:
        """Raise if `shares` returned what cannot share rewards; `passes` says whether credit must pass."""
        name = f"{type(self).__name__}.shares()"
        pairs = [*shares] if isinstance(shares, (list, tuple)) else []
        if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            got = type(shares).__name__ if not pairs else f"a {type(pairs[0]).__name__} in its place"
            raise FeedpropError(
                f"{name} must return a list of pairs (factor, z'), such as "
                f"[(1.0, part(inputs, modify, on_bias=None))], got {got}"
            )
        for factor, part in pairs:
            if not isinstance(part, Tensor) or part.shape != z.shape:
                got = shape_or_type(part)
                raise FeedpropError(f"{name}: z' must be a tensor shaped like z {tuple(z.shape)}, got {got}")
            if not isinstance(factor, (*NUMBERS, Tensor)):
                raise FeedpropError(f"{name}: a factor must be a number or a tensor, got {shape_or_type(factor)}")
            if isinstance(factor, Tensor) and not _broadcasts(factor, z):
                raise FeedpropError(
                    f"{name}: a factor of shape {tuple(factor.shape)} does not broadcast to z {tuple(z.shape)}"
                )
        if credit.traced():
            return
        if passes and torch.is_grad_enabled() and not any(part.requires_grad for _, part in pairs):
            raise FeedpropError(
                f"{name}: z' was computed without gradient, so no credit passes it; use part(inputs, ...)"
            )
        if credit.readable(z) and any(_has_nan(part) for _, part in pairs) and not _has_nan(z):
            raise FeedpropError(
                f"{name}: z' contains NaN, although the outputs of the layer do not: check how weights and inputs are "
                f"modified"
            )


def _broadcasts(factor: Tensor, z: Tensor) -> bool:
    ones = (1,) * (z.ndim - factor.ndim)
    return factor.ndim <= z.ndim and all(
        own in (1, size) for own, size in zip((*ones, *factor.shape), z.shape, strict=True)
    )


def _has_nan(values: Tensor) -> bool:
    """Whether there is a NaN; one sum tells in most cases."""
    values = values.detach()
    return not bool(values.sum().isfinite()) and bool(values.isnan().any())


class Part:
    """Computes z' from modified inputs and weights; the weights get feedback for the reward that flows through z'.

    `Rule.shares` receives one and calls it: `part(inputs, modify, on_bias=modify)`.
    """

    def __init__(
        self, operation: Function, weight: Tensor, bias: Tensor | None, magnitude: credit.Magnitude | None
    ) -> None:
        self.operation, self.weight, self.bias, self.magnitude = operation, weight, bias, magnitude

    def __call__(self, inputs: Tensor, modify: Function, *, on_bias: Function | None) -> Tensor:
        """Return z', shaped like the outputs of the layer.

        Args:
            inputs: those of the layer, or modified ones such as `inputs.clamp(min=0)`.
            modify: takes a weight and returns another one of the same shape, such as `lambda w: w.clamp(min=0)`.
            on_bias: the same for the bias; None leaves it out, so that it takes no reward.
        """
        used = self._modified(self.weight, modify)
        bias = None if self.bias is None or on_bias is None else self._modified(self.bias, on_bias)
        output: Tensor = self.operation(inputs, used, bias)
        return output

    def _modified(self, weight: Tensor, modify: Function) -> Tensor:
        with torch.no_grad():
            modified: Tensor = modify(weight.detach())
        if not isinstance(modified, Tensor) or modified.shape != weight.shape:
            got = shape_or_type(modified)
            raise FeedpropError(f"a modified weight must have the shape of the weight {tuple(weight.shape)}, got {got}")
        if self.magnitude is None or not weight.requires_grad:
            return modified
        latent = not isinstance(weight, torch.nn.Parameter)
        takes_part = modify is not torch.zeros_like  # otherwise no feedback, not even the floor's
        magnitude = self.magnitude if takes_part else credit.Magnitude()
        return credit.modified_weight(weight, modified, magnitude, latent=latent)


class Epsilon(Rule):
    """LRP-epsilon: r_(i<-j) = a_i w_ij / (z_j + epsilon sign z_j) r_j (Bach et al. 2015, eq. 58; Weber et al. 2023, 5).

    Args:
        epsilon: stabiliser >= 0, in the unit of pre-activations. With 0, the default, this is LRP-0, and the feedback
            of a ReLU network is -|w| times the gradient. Credit is never divided by a sum, so 0 is stable, and costs
            nothing. The published implementation has 1e-6.
    """

    def __init__(self, epsilon: float = 0.0) -> None:
        super().__init__(epsilon=epsilon)
        self.damping = self.epsilon

    def __call__(
        self, operation: Function, inputs: Tensor, weight: Tensor, bias: Tensor | None, magnitude: credit.Magnitude
    ) -> Any:
        """Return operation(inputs, weight, bias): the ordinary backward, damped at the output."""
        return credit.damped(operation(inputs, *credit.as_weights(weight, bias, magnitude)), self.epsilon)

    def __repr__(self) -> str:
        return f"Epsilon(epsilon={self.epsilon!r})"


class Gamma(Rule):
    """LRP-gamma: contributions with the sign of z_j count 1 + gamma times (Montavon et al. 2019, table 1).

    z' = sum_i a_i (w_ij + gamma w_ij^+) for a_i, z_j > 0. In general, each contribution a_i w_ij with the sign of z_j
    gets the factor 1 + gamma (zennit's extension to inputs and outputs of any sign).

    Args:
        gamma: > 0; infinity would be ZPlus.
        epsilon: see `Rule`.
        update: see `Rule`.
    """

    def __init__(self, gamma: float = 0.25, *, epsilon: float = 1e-6, update: str = "rule") -> None:
        super().__init__(epsilon=epsilon, update=update)
        self.gamma = non_negative("gamma", gamma)

    def shares(self, part: Part, z: Tensor, inputs: Tensor) -> list[Share]:
        """Return the shares of positive and of negative pre-activations."""

        def more_positive(w: Tensor) -> Tensor:
            return w + self.gamma * _positive(w)

        def more_negative(w: Tensor) -> Tensor:
            return w + self.gamma * _negative(w)

        up, down = _both_signs(part, inputs, more_positive, more_negative)
        return [((z > 0).to(z.dtype), up), ((z < 0).to(z.dtype), down)]


class AlphaBeta(Rule):
    """LRP-alpha-beta: alpha times the share of the positive contributions minus beta times that of the negative ones.

    r_(i<-j) = (alpha (a_i w_ij)^+ / z_j^+ - beta (a_i w_ij)^- / z_j^-) r_j (Bach et al. 2015, eq. 60).

    Args:
        alpha: alpha - beta must be 1, so that reward is conserved.
        beta: >= 0.
        epsilon: see `Rule`.
        update: see `Rule`.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 1.0, *, epsilon: float = 1e-6, update: str = "rule") -> None:
        super().__init__(epsilon=epsilon, update=update)
        self.alpha, self.beta = non_negative("alpha", alpha), non_negative("beta", beta)
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise FeedpropError(
                f"alpha - beta must be 1, so that reward is conserved; got alpha={alpha!r}, beta={beta!r}"
            )

    def shares(self, part: Part, z: Tensor, inputs: Tensor) -> list[Share]:
        """Return the shares of positive and of negative contributions."""
        if self.beta == 0:
            return [(self.alpha, _one_sign(part, inputs, _positive, _negative))]
        up, down = _both_signs(part, inputs, _positive, _negative)
        return [(self.alpha, up), (-self.beta, down)]


class ZPlus(Rule):
    """LRP-z+: positive contributions only, alpha-beta with alpha = 1 and beta = 0 (Montavon et al. 2017, eq. 19)."""

    def shares(self, part: Part, z: Tensor, inputs: Tensor) -> list[Share]:
        """Return the share of the positive contributions."""
        return [(1.0, _one_sign(part, inputs, _positive, _negative))]


def _positive(x: Tensor) -> Tensor:
    return x.clamp(min=0) if x.layout is torch.strided else x.relu()  # sparse tensors have no clamp


def _negative(x: Tensor) -> Tensor:
    return x.clamp(max=0) if x.layout is torch.strided else -(-x).relu()


def _one_sign(part: Part, inputs: Tensor, on_positive: Function, on_negative: Function) -> Tensor:
    """Return z' from positive inputs with one modification of the weights and negative inputs with the other."""
    if marks.known_non_negative(inputs):
        return part(inputs, on_positive, on_bias=on_positive)
    above, below = _by_sign(inputs)
    return part(above, on_positive, on_bias=on_positive) + part(below, on_negative, on_bias=None)


def _by_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return max(x, 0) and min(x, 0); credit at a 0 is that of the first, whatever torch's clamp does there."""
    if x.layout is not torch.strided:  # its zeros are not stored
        return _positive(x), _negative(x)
    negative = x.detach() < 0
    return torch.where(negative, 0.0, x), torch.where(negative, x, 0.0)


def _both_signs(part: Part, inputs: Tensor, on_positive: Function, on_negative: Function) -> tuple[Tensor, Tensor]:
    """Return `_one_sign` of the two modifications, and of the two swapped."""
    return _one_sign(part, inputs, on_positive, on_negative), _one_sign(part, inputs, on_negative, on_positive)


class _FirstLayer(Rule):
    """A rule whose shares do not depend on the inputs; beyond the first layer, credit cannot express them."""

    def __call__(
        self, operation: Function, inputs: Tensor, weight: Tensor, bias: Tensor | None, magnitude: credit.Magnitude
    ) -> Any:
        """Return operation(inputs, weight, bias); the inputs receive reward / input."""
        if credit.follows_weights(inputs):
            raise FeedpropError(
                f"{type(self).__name__} shares rewards regardless of the inputs, which is defined for the first layer "
                f"only, but a layer whose weight is {tuple(weight.shape)} got it; Composite(default, "
                f"first={type(self).__name__}()) gives it to the first layer that runs"
            )
        return super().__call__(operation, inputs, weight, bias, magnitude)

    def shares(self, part: Part, z: Tensor, inputs: Tensor) -> list[Share]:
        """Return one share, in which each input is 1."""
        ones = credit.stand_in(inputs, torch.ones_like(inputs))
        return [(1.0, part(ones, self.importance, on_bias=self.importance_of_bias))]

    @staticmethod
    def importance(w: Tensor) -> Tensor:
        """Return w' of a weight."""
        raise FeedpropError("a rule for the first layer must define importance(w), which returns w'")

    def importance_of_bias(self, b: Tensor) -> Tensor:
        """Return b' of a bias."""
        return self.importance(b)


class WSquare(_FirstLayer):
    """LRP-w^2: r_(i<-j) = w_ij^2 / sum_i w_ij^2 r_j, first layers only (Montavon et al. 2017, eq. 12)."""

    @staticmethod
    def importance(w: Tensor) -> Tensor:
        """Return w^2."""
        return w.square()


class Flat(_FirstLayer):
    """LRP-flat: r_(i<-j) = r_j / (number of inputs), first layers only (Lapuschkin et al. 2019)."""

    @staticmethod
    def importance(w: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(w)

    def importance_of_bias(self, b: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(b)


class ZBox(_FirstLayer):
    """LRP-z^B for inputs between bounds: r_(i<-j) in proportion to a_i w_ij - low_i w_ij^+ - high_i w_ij^-.

    First layers only; biases take nothing (Montavon et al. 2017, eq. 15).

    Args:
        low: smallest possible input, as the layer gets it: a number, or one for each channel (of a linear layer, each
            feature).
        high: largest possible input, likewise.
        epsilon: see `Rule`.
        update: see `Rule`.
    """

    def __init__(
        self,
        low: float | Sequence[float] | Tensor,
        high: float | Sequence[float] | Tensor,
        *,
        epsilon: float = 1e-6,
        update: str = "rule",
    ) -> None:
        super().__init__(epsilon=epsilon, update=update)
        self.low, self.high = _numbers("low", low), _numbers("high", high)

    def shares(self, part: Part, z: Tensor, inputs: Tensor) -> list[Share]:
        """Return one share: inputs by weights, less the bounds by the weights of either sign."""
        low, high = (self._bound(part, inputs, numbers) for numbers in (self.low, self.high))
        above_low = part(inputs, torch.Tensor.detach, on_bias=torch.zeros_like) - part(low, _positive, on_bias=None)
        return [(1.0, above_low - part(high, _negative, on_bias=None))]

    @staticmethod
    def _bound(part: Part, inputs: Tensor, numbers: tuple[float, ...]) -> Tensor:
        """Return a bound shaped like `inputs`, whose reward the inputs get."""
        dimension = inputs.ndim - (part.weight.ndim - 1)
        if len(numbers) not in (1, inputs.shape[dimension]):
            raise FeedpropError(
                f"ZBox has {len(numbers)} bounds, but the inputs {tuple(inputs.shape)} of its layer have "
                f"{inputs.shape[dimension]} channels; give one number, or one for each channel"
            )
        shape = (-1, *(1,) * (inputs.ndim - dimension - 1))
        return credit.stand_in(inputs, inputs.new_tensor(numbers).view(shape).expand_as(inputs))


def _numbers(name: str, value: float | Sequence[float] | Tensor) -> tuple[float, ...]:
    try:
        numbers = tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError, RuntimeError):
        numbers = ()
    if not numbers or not all(abs(number) < float("inf") for number in numbers):
        raise FeedpropError(f"{name} must be a number, or one for each channel, all finite, not {value!r}")
    return numbers
