"""Weights: the feedback that one receives for its part in an operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop.credit.transforms import rerouted, transformed


class _Magnitude(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, floor: float) -> Tensor:
        ctx.floor = floor
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return _feedback(credit, weight, ctx.floor), None


class _Magnitudes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        ctx.floor = floor
        ctx.save_for_backward(weight, bias)
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, credit: Tensor, bias_credit: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, bias = ctx.saved_tensors
        return _feedback(credit, weight, ctx.floor), _feedback(bias_credit, bias, ctx.floor), None


def _feedback(credit: Tensor, weight: Tensor, floor: float) -> Tensor:
    if credit.is_sparse:  # torch.nn.Embedding(sparse=True): the rows that were looked up
        credit = credit.coalesce()
        size = weight.detach().index_select(0, credit.indices()[0]).abs_().clamp_(min=floor)
        values = credit.values() * size
        return torch.sparse_coo_tensor(
            credit.indices(), values, credit.shape, is_coalesced=True, check_invariants=False
        )
    size = weight.abs()
    if floor:
        size = size.clamp_(min=floor)
    return size.mul_(credit)


def magnitude(weight: Tensor, floor: float = 0.0) -> Tensor:
    """Return `weight` for use in one operation; its gradient will be multiplied by max(|weight|, floor).

    sign(w) times the reward that flowed through a connection is |w| a c (Weber et al. 2023, eq. 7). With `floor` a
    weight of zero can learn too.
    """
    if transformed():
        return rerouted(weight, (weight, weight.detach().abs().clamp(min=floor)))
    return _Magnitude.apply(weight, floor)  # type: ignore[no-any-return]


def magnitudes(weight: Tensor, bias: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one operation, as `magnitude` does, by a single node of the graph."""
    if transformed():
        return magnitude(weight, floor), magnitude(bias, floor)
    return _Magnitudes.apply(weight, bias, floor)  # type: ignore[no-any-return]


class _ModifiedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, modified: Tensor, floor: float, latent: bool) -> Tensor:
        ctx.floor, ctx.latent = floor, latent
        ctx.save_for_backward(weight, modified)
        return modified.view_as(modified)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None, None, None]:
        weight, modified = ctx.saved_tensors
        return _flow(weight, modified, ctx.floor, ctx.latent).mul_(credit), None, None, None


def _flow(weight: Tensor, modified: Tensor, floor: float, latent: bool) -> Tensor:
    if latent:
        return torch.where(weight == 0, 1.0, modified / weight)
    flow = modified * torch.where(weight < 0, -1, 1)  # sign(w) w', sign 0 = +1
    if floor:
        flow = torch.where(flow.abs() < floor, floor * (modified != 0).logical_or_(weight == 0), flow)
    return flow


def modified_weight(weight: Tensor, modified: Tensor, *, floor: float = 0.0, latent: bool = False) -> Tensor:
    """Return `modified`, what an LRP rule makes of `weight`, whose gradient is sign(w) w' times the credit there.

    With `floor`, a modified weight that counts is at least that large in its own feedback. With `latent`, the weight
    was computed from parameters, which multiply by their own |w|: the gradient is w'/w times the credit.
    """
    if transformed():
        return rerouted(modified, (weight, _flow(weight.detach(), modified.detach(), floor, latent)))
    return _ModifiedWeight.apply(weight, modified, floor, latent)  # type: ignore[no-any-return]
