"""Weights: each use of one in an operation gives it feedback, |w| times its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from feedprop.credit import marks
from feedprop.credit.derivative import is_taken, refuse_derivative
from feedprop.credit.transforms import rerouted, transformed


@dataclass(frozen=True)
class Magnitude:
    """What the credit of a weight is multiplied by to give its feedback: |w|, or |w| / rms(w).

    Args:
        floor: smallest |w|, in units of rms(w) if `relative`.
        relative: whether to divide |w| by the root mean square of the parameter.
    """

    floor: float = 0.0
    relative: bool = False

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the magnitude of each entry of `weight`."""
        return self.scaled(weight.abs(), weight)

    def scaled(self, sizes: Tensor, weight: Tensor) -> Tensor:
        """Return the magnitudes of entries of `weight` whose absolute values are `sizes`; overwrites `sizes`."""
        if self.relative:
            sizes = sizes.div_(root_mean_square(weight))
        return sizes.clamp_(min=self.floor) if self.floor else sizes

    def floored(self, weight: Tensor) -> Tensor:
        """Return |w|, but no less than the floor, in the unit of `weight`."""
        return weight.abs().clamp(min=self.floor * root_mean_square(weight) if self.relative else self.floor)


def root_mean_square(values: Tensor) -> Tensor:
    """Return sqrt(mean(x^2)), a scalar; for zeros a tiny number, since it divides."""
    rms: Tensor = torch.linalg.vector_norm(values) / max(values.numel(), 1) ** 0.5
    return rms.clamp(min=torch.finfo(rms.dtype).tiny)


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, floor: float, relative: bool, copied: bool) -> Tensor:
        ctx.magnitude = Magnitude(floor, relative)
        ctx.save_for_backward(weight.clone() if copied else weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        if is_taken():
            return credit, None, None, None
        return _feedback(credit, weight, ctx.magnitude), None, None, None


class _BothWeighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, floor: float, relative: bool) -> tuple[Tensor, Tensor]:
        ctx.magnitude = Magnitude(floor, relative)
        ctx.save_for_backward(weight, bias)
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, credit: Tensor, bias_credit: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, bias = ctx.saved_tensors
        if is_taken():
            return credit, bias_credit, None, None
        return _feedback(credit, weight, ctx.magnitude), _feedback(bias_credit, bias, ctx.magnitude), None, None


def _feedback(credit: Tensor, weight: Tensor, magnitude: Magnitude) -> Tensor:
    if credit.is_sparse:  # torch.nn.Embedding(sparse=True): the rows that were looked up
        credit = credit.coalesce()
        rows = weight.detach().index_select(0, credit.indices()[0])
        values = credit.values() * magnitude.scaled(rows.abs_(), weight)
        return torch.sparse_coo_tensor(
            credit.indices(), values, credit.shape, is_coalesced=True, check_invariants=False
        )
    return magnitude(weight) * credit if weight.is_complex() else magnitude(weight).mul_(credit)


def weighted(weight: Tensor, magnitude: Magnitude, *, copied: bool = False) -> Tensor:
    """Return `weight` for use in one operation; its gradient will be multiplied by its magnitude.

    sign(w) times the reward that flowed through a connection is |w| a c (Weber et al. 2023, eq. 7). With a floor,
    weights of 0 learn too.

    Args:
        weight: any shape.
        magnitude: what its credit is multiplied by.
        copied: whether to keep its present values, because it may be written to before the backward pass.
    """
    if transformed():
        return rerouted(weight, (weight, magnitude(weight.detach())))
    return _Weighted.apply(weight, magnitude.floor, magnitude.relative, copied)  # type: ignore[no-any-return]


def both_weighted(weight: Tensor, bias: Tensor, magnitude: Magnitude) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one operation, like `weighted`, by a single node of the graph."""
    if transformed():
        return weighted(weight, magnitude), weighted(bias, magnitude)
    return _BothWeighted.apply(weight, bias, magnitude.floor, magnitude.relative)  # type: ignore[no-any-return]


def as_weight(weight: Tensor, magnitude: Magnitude, *, copied: bool = False) -> Tensor:
    """Return a weight for use in one operation: a parameter is `weighted` and marked as a weight."""
    if type(weight) is Tensor or not (isinstance(weight, Parameter) and weight.requires_grad):
        return weight
    return marks.mark_weight(weighted(weight, magnitude, copied=copied), marks.identity(weight))


def as_weights(weight: Tensor, bias: Tensor | None, magnitude: Magnitude) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias for use in one linear operation."""
    if bias is None:
        return as_weight(weight, magnitude), None
    if isinstance(weight, Parameter) and isinstance(bias, Parameter) and weight.requires_grad and bias.requires_grad:
        return both_weighted(weight, bias, magnitude)
    return as_weight(weight, magnitude), as_weight(bias, magnitude)


class _ModifiedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, modified: Tensor, floor: float, relative: bool, latent: bool) -> Tensor:
        ctx.magnitude, ctx.latent = Magnitude(floor, relative), latent
        ctx.save_for_backward(weight, modified)
        return modified.view_as(modified)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, modified = ctx.saved_tensors
        refuse_derivative("a rule of this layer")
        return _flow(weight, modified, ctx.magnitude, ctx.latent).mul_(credit), None, None, None, None


def _flow(weight: Tensor, modified: Tensor, magnitude: Magnitude, latent: bool) -> Tensor:
    if latent:
        return torch.where(weight == 0, 1.0, modified / weight)
    flow = modified * torch.where(weight < 0, -1, 1)  # sign(w) w', sign 0 = +1
    if magnitude.relative:
        flow = flow / root_mean_square(weight)
    if magnitude.floor:
        counts = (modified != 0).logical_or_(weight == 0)
        flow = torch.where(flow.abs() < magnitude.floor, magnitude.floor * counts, flow)
    return flow


WEIGHT_NODES: tuple[Any, ...] = (_Weighted._backward_cls, _BothWeighted._backward_cls, _ModifiedWeight._backward_cls)


def modified_weight(weight: Tensor, modified: Tensor, magnitude: Magnitude, *, latent: bool = False) -> Tensor:
    """Return `modified`, the weight w' that an LRP rule uses instead of w; w gets sign(w) w' times the credit at w'.

    Args:
        weight: w.
        modified: w', shaped like it.
        magnitude: a floor is the least |w'| in this product, except where w' = 0 and w is not; relative ones divide
            it by rms(w).
        latent: w was computed from parameters, which have their own magnitude: w gets w' / w times the credit.
    """
    if transformed():
        return rerouted(modified, (weight, _flow(weight.detach(), modified.detach(), magnitude, latent)))
    return _ModifiedWeight.apply(  # type: ignore[no-any-return]
        weight, modified, magnitude.floor, magnitude.relative, latent
    )
