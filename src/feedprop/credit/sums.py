"""Sums: the damping of LRP-epsilon, also if the sum is overwritten later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop.credit import marks
from feedprop.credit.derivative import is_taken
from feedprop.credit.transforms import rerouted, transformed


class _Damped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(z)
        ctx.damping = ctx.rectified = None
        if torch.compiler.is_dynamo_compiling():
            return z.clone()  # under torch.compile, later writes must not reach the saved tensor
        return z.detach()  # the same memory, but no view, so it may be written to in place (see `prepare_write`)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        if is_taken():
            return credit, None
        if ctx.damping is not None:
            return credit * ctx.damping, None
        if ctx.rectified is not None:
            return _damping(_unchanged(*ctx.rectified), ctx.epsilon).mul_(credit), None
        (z,) = ctx.saved_tensors
        damping = damping_of(z, ctx.epsilon)
        fits = damping.dtype == credit.dtype and not (damping.is_sparse or _in_rows(damping))
        return damping.mul_(credit) if fits else damping * credit, None


class _DampedInPlace(_Damped):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        _Damped.forward(ctx, z, epsilon)
        ctx.mark_dirty(z)
        return z


DAMPED_NODES: tuple[Any, ...] = (_Damped._backward_cls, _DampedInPlace._backward_cls)


def damping_of(z: Tensor, epsilon: float) -> Tensor:
    """Return |z| / (|z| + epsilon)."""
    if z.is_sparse:
        z = z.coalesce()
        return torch.sparse_coo_tensor(z.indices(), damping_of(z.values(), epsilon), z.shape, is_coalesced=True)
    if _in_rows(z):
        return torch.sparse_csr_tensor(z.crow_indices(), z.col_indices(), damping_of(z.values(), epsilon), z.shape)
    return _damping(z.abs(), epsilon)


def _in_rows(z: Tensor) -> bool:
    """Whether a tensor is sparse in rows; torch.compile takes no such tensors, and knows no layouts."""
    return not torch.compiler.is_dynamo_compiling() and z.layout == torch.sparse_csr


def _damping(size: Tensor, epsilon: float) -> Tensor:
    """Return size / (size + epsilon) as 1 / (1 + epsilon / size): precise near 0, 1 at infinity (masked scores).

    For relu(z) that is the damping of z times the slope of ReLU: 0 where the size is 0.
    """
    one = size.new_ones(())
    return torch.addcdiv(one, one, size, value=epsilon).reciprocal_()


def _unchanged(x: Tensor, version: int) -> Tensor:
    if x._version != version:
        raise RuntimeError(
            "a result of relu(inplace=True) was modified by another in-place operation before the backward pass; "
            "make one of the two out of place"
        )
    return x


def damped(z: Tensor, epsilon: float) -> Tensor:
    """Return `z`; the credit that comes back is multiplied by |z| / (|z| + epsilon).

    This is the stabiliser of LRP-epsilon, z_j + epsilon * sign(z_j) in the denominator of the reward message
    (Bach et al. 2015, eq. 58; Weber et al. 2023, eq. 5).
    """
    if epsilon == 0 or not z.requires_grad:
        return z
    if transformed():
        return rerouted(z, (z, damping_of(z.detach(), epsilon)))
    output: Tensor = _Damped.apply(z, epsilon)
    marks.mark(output, marks.UNDAMPED, marks.Undamped(z, epsilon))  # an activation then needs one pass over z
    return output


def damped_in_place(z: Tensor, epsilon: float) -> Tensor:
    """Like `damped`, for a tensor that an in-place operation has just written; returns the same object."""
    if epsilon == 0 or not z.requires_grad:
        return z
    return _DampedInPlace.apply(z, epsilon)  # type: ignore[no-any-return]


def undamped(z: Tensor) -> tuple[Tensor, float]:
    """Return the tensor before damping, and its epsilon; `z` and 0 if `z` was not damped or has hooks."""
    recorded: marks.Undamped | None = marks.get(z, marks.UNDAMPED)
    if recorded is None:
        return z, 0.0
    if torch.compiler.is_dynamo_compiling():
        return rerouted(z, (recorded.tensor, 1.0)), recorded.epsilon
    if z._backward_hooks or z.retains_grad:  # of FSDP for instance; they must see the damped credit
        return z, 0.0
    return recorded.tensor, recorded.epsilon


def fusible(z: Tensor) -> tuple[Tensor, float]:
    """Like `undamped`, but return `z` and 0 under torch.compile, which fuses the two passes anyway, or if `kept`."""
    if torch.compiler.is_dynamo_compiling():
        return z, 0.0
    recorded: marks.Undamped | None = marks.get(z, marks.UNDAMPED)
    return (z, 0.0) if recorded is not None and not recorded.fuses else undamped(z)


def kept(z: Tensor) -> None:
    """Let activations pass their credit through `z` itself, also if it is damped, so that it can be looked at."""
    recorded: marks.Undamped | None = marks.get(z, marks.UNDAMPED)
    if recorded is not None:
        marks.mark(z, marks.UNDAMPED, recorded._replace(fuses=False))


class _DampedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        output = torch.relu(z)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if is_taken():
            return credit * (x > 0), None
        return _damping(x, ctx.epsilon).mul_(credit), None


def damped_relu(z: Tensor) -> Tensor:
    """Return x = relu(z). If z is damped, the backward pass of both is one product, credit * x / (x + epsilon)."""
    z, epsilon = fusible(z)
    if epsilon == 0:
        return torch.relu(z)
    return _DampedReLU.apply(z, epsilon)  # type: ignore[no-any-return]
