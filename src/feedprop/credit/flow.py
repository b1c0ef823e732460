"""Shares: credit that is scaled, or goes another way than through the operation that computed the value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop.credit.activations import slope
from feedprop.credit.derivative import is_taken, refuse_derivative
from feedprop.credit.graph import walk
from feedprop.credit.transforms import rerouted, traced, transformed


class _Substituted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float, factors: tuple[Any, ...], *parts: Tensor) -> Tensor:
        ctx.epsilon, ctx.factors = epsilon, factors
        ctx.save_for_backward(z, *parts)
        return z.clone()  # may be written to in place

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Any, ...]:
        refuse_derivative("a rule of this layer")
        z, *parts = ctx.saved_tensors
        reward = z * credit
        shares = [slope(part, reward * factor, ctx.epsilon) for factor, part in zip(ctx.factors, parts, strict=True)]
        return credit if ctx.needs_input_grad[0] else None, None, None, *shares


def substituted(z: Tensor, *shares: tuple[float | Tensor, Tensor], epsilon: float) -> Tensor:
    """Return `z`; each z' of `shares`, (factor, z'), receives the credit factor c z / (z' + epsilon sign z').

    What is computed from z' thus shares the reward c z of z by the proportions in z' (Montavon et al. 2019, eq. 7).
    """
    if transformed():
        value = z.detach()
        ways = [(part, slope(part.detach(), value * factor, epsilon)) for factor, part in shares]
        return rerouted(z, (z, 1.0), *ways)
    factors, parts = zip(*shares, strict=True)
    return _Substituted.apply(z, epsilon, factors, *parts)  # type: ignore[no-any-return]


class _WithValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: tuple[Tensor], passing: Tensor) -> Tensor:
        return values[0]  # in a tuple: autograd would make a view of an input that is returned

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[None, Tensor]:
        return None, credit


def with_values(values: Tensor, passing: Tensor) -> Tensor:
    """Return `values`; credit goes through `passing`, the same value up to rounding, computed in parts."""
    if not passing.requires_grad:
        return values
    if transformed():
        return rerouted(values, (passing, 1.0))
    return _WithValues.apply((values.detach(),), passing)  # type: ignore[no-any-return]


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(x, values)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        x, values = ctx.saved_tensors
        return slope(x, credit * values, 0.0), None


STAND_IN_NODE: Any = _StandIn._backward_cls  # whose saved tensors are x and the values


def stand_in(x: Tensor, values: Tensor) -> Tensor:
    """Return `values`, constants shaped like `x`; their reward reaches `x` as the credit reward / x, 0 where x is 0."""
    if transformed():
        return rerouted(values, (x, slope(x.detach(), values, 0.0)))
    return _StandIn.apply(x, values)  # type: ignore[no-any-return]


def follows_weights(x: Tensor) -> bool:
    """Whether `x` was computed from a parameter; under torch.compile and torch.func, from any tensor with gradient."""
    if traced():
        return x.requires_grad and not x.is_leaf
    return any(isinstance(getattr(node, "variable", None), torch.nn.Parameter) for node in walk([x.grad_fn]))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float | Tensor) -> Tensor:
        ctx.share = share
        return x.view_as(x) if torch.compiler.is_dynamo_compiling() else x.detach()  # no view, so it may be written to

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        return credit if is_taken() else credit * ctx.share, None


def scaled(x: Tensor, share: float | Tensor) -> Tensor:
    """Return `x`; the credit that comes back is multiplied by `share`, a number or a constant shaped like `x`."""
    if transformed():
        return rerouted(x, (x, share))
    return _Scaled.apply(x, share)  # type: ignore[no-any-return]
