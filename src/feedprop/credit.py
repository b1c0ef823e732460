"""The few autograd primitives that turn an ordinary backward pass into Layer-wise Feedback Propagation.

The **credit** of a value x is its reward per unit, c = r / x. Credit travels backwards through linear operations
exactly as a gradient does; only these corrections have to be made on the way (Weber et al. 2023, arXiv 2308.12053):

    magnitude   a weight w that takes part receives |w| times the ordinary gradient
    damped      a pre-activation z passes on |z| / (|z| + epsilon) of its credit
    secant      an activation phi passes on phi(z) / z in the place of its derivative
    scaled      a factor of a product passes on its share
    entering    where the reward comes in

Every function leaves values as they are and changes the backward pass alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


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
    return _Magnitude.apply(weight, floor)  # type: ignore[no-any-return]


def magnitudes(weight: Tensor, bias: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one operation, as `magnitude` does, by a single node of the graph."""
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
        if ctx.latent:
            return torch.where(weight == 0, 1.0, modified / weight).mul_(credit), None, None, None
        flow = modified * torch.where(weight < 0, -1, 1)  # sign(w) w', sign 0 = +1
        if ctx.floor:
            flow = torch.where(flow.abs() < ctx.floor, ctx.floor * (modified != 0).logical_or_(weight == 0), flow)
        return flow.mul_(credit), None, None, None


def modified_weight(weight: Tensor, modified: Tensor, *, floor: float = 0.0, latent: bool = False) -> Tensor:
    """Return `modified`, what an LRP rule makes of `weight`, whose gradient is sign(w) w' times the credit there.

    With `floor`, a modified weight that counts is at least that large in its own feedback. With `latent`, the weight
    was computed from parameters, which multiply by their own |w|: the gradient is w'/w times the credit.
    """
    return _ModifiedWeight.apply(weight, modified, floor, latent)  # type: ignore[no-any-return]


class _Substituted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float, factors: tuple[Any, ...], *parts: Tensor) -> Tensor:
        ctx.epsilon, ctx.factors = epsilon, factors
        ctx.save_for_backward(z, *parts)
        return z.clone()  # what follows may write in place

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Any, ...]:
        z, *parts = ctx.saved_tensors
        reward = z * credit
        shares = [_slope(part, reward * factor, ctx.epsilon) for factor, part in zip(ctx.factors, parts, strict=True)]
        return credit if ctx.needs_input_grad[0] else None, None, None, *shares


def substituted(z: Tensor, *shares: tuple[float | Tensor, Tensor], epsilon: float) -> Tensor:
    """Return `z`; each z' of `shares`, (factor, z'), receives the credit factor c z / (z' + epsilon sign z').

    What is computed from z' thus shares the reward c z of z by the proportions in z' (Montavon et al. 2019, eq. 7).
    """
    factors, parts = zip(*shares, strict=True)
    return _Substituted.apply(z, epsilon, factors, *parts)  # type: ignore[no-any-return]


class _AsOnes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.ones_like(x)

    @staticmethod
    def backward(ctx: Any, reward: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _slope(x, reward, 0.0)


def as_ones(x: Tensor) -> Tensor:
    """Return ones shaped like `x`; the reward that comes back reaches `x` as the credit reward / x, 0 where x is 0."""
    return _AsOnes.apply(x)  # type: ignore[no-any-return]


def follows_weights(x: Tensor) -> bool:
    """Whether a parameter takes part in the computation of `x` (not known under torch.compile: False)."""
    if torch.compiler.is_compiling() or x.grad_fn is None:
        return False
    todo: list[Any] = [x.grad_fn]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.nn.Parameter):
            return True
        following = {before for before, _ in node.next_functions if before is not None} - seen
        seen |= following
        todo += following
    return False


def mark_non_negative(x: Tensor) -> None:
    """Remember that no value of `x` is negative, until something writes to its memory."""
    if not torch.compiler.is_compiling():
        x._non_negative = x._version  # type: ignore[attr-defined]


def known_non_negative(x: Any) -> bool:
    """Whether an operation before has made sure that no value is negative (not known under torch.compile: False)."""
    return not torch.compiler.is_compiling() and hasattr(x, "_non_negative") and x._non_negative == x._version


class _Damped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(z)
        ctx.damping = ctx.rectified = None
        if torch.compiler.is_compiling():
            return z.clone()  # compiled, what is saved has to be out of reach of what follows
        return z.detach()  # the same memory, yet no view: what follows may write in place (see `prepare_write`)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        if ctx.damping is not None:
            return credit * ctx.damping, None
        if ctx.rectified is not None:
            return _rectified_damping(_unchanged(*ctx.rectified), ctx.epsilon).mul_(credit), None
        (z,) = ctx.saved_tensors
        return _damping(z, ctx.epsilon).mul_(credit), None


class _DampedInPlace(_Damped):
    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        _Damped.forward(ctx, z, epsilon)
        ctx.mark_dirty(z)
        return z


_DAMPED_NODES: tuple[Any, ...] = (_Damped._backward_cls, _DampedInPlace._backward_cls)


def _damping(z: Tensor, epsilon: float) -> Tensor:
    """|z| / (|z| + epsilon), as 1 - epsilon / (|z| + epsilon) costs digits near 0."""
    size = z.abs()
    return (size + epsilon).reciprocal_().mul_(size)


def _rectified_damping(x: Tensor, epsilon: float) -> Tensor:
    """The same for x = relu(z): where x is 0, ReLU lets no credit pass."""
    return (x + epsilon).reciprocal_().mul_(x)


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
    output: Tensor = _Damped.apply(z, epsilon)
    if not torch.compiler.is_compiling():  # compiled, the two passes are fused anyway
        output._undamped = z, epsilon  # type: ignore[attr-defined]  # an activation damps and bends in one pass
    return output


def damped_in_place(z: Tensor, epsilon: float) -> Tensor:
    """Like `damped` for a tensor that an in-place operation has just written: the same object comes back."""
    if epsilon == 0 or not z.requires_grad:
        return z
    return _DampedInPlace.apply(z, epsilon)  # type: ignore[no-any-return]


def undamped(z: Tensor) -> tuple[Tensor, float]:
    """Return the tensor behind a damped one and its epsilon, or the tensor itself and 0."""
    behind: tuple[Tensor, float] = getattr(z, "_undamped", (z, 0.0))
    return behind


def prepare_write(target: Tensor) -> None:
    """Make an in-place operation on `target` safe: what damps or bends its credit is kept before it is overwritten."""
    base = target if target._base is None else target._base
    node: Any = base.grad_fn
    if isinstance(node, _DAMPED_NODES) and node.damping is None and node.rectified is None:
        with torch.no_grad():
            node.damping = _damping(base, node.epsilon)
    elif isinstance(node, _SECANT_NODES) and node.slope is None:
        with torch.no_grad():
            node.slope = node._forward_cls.compute_slope(node)
    for tensor in (base, target):
        for attribute in ("_undamped", "_pre_activation"):
            tensor.__dict__.pop(attribute, None)


def relu_in_place(z: Tensor) -> Tensor:
    """ReLU in place; a damped `z` takes its damping from the result, so that no memory is added."""
    node: Any = z.grad_fn
    if z._base is None and isinstance(node, _DAMPED_NODES) and node.damping is None and node.rectified is None:
        z.__dict__.pop("_undamped", None)
        torch.relu_(z)
        node.rectified = z.detach(), z._version
    else:
        prepare_write(z)
        torch.relu_(z)
    z._pre_activation = None  # type: ignore[attr-defined]  # overwritten: a reward on an output of 0 cannot enter
    return z


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
        return _rectified_damping(x, ctx.epsilon).mul_(credit), None


def damped_relu(z: Tensor) -> Tensor:
    """ReLU whose backward pass damps too, in one pass over the result: x / (x + epsilon) is 0 where x is."""
    z, epsilon = undamped(z)
    if epsilon == 0:
        return torch.relu(z)
    return _DampedReLU.apply(z, epsilon)  # type: ignore[no-any-return]


class _Secant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, activation: Activation, epsilon: float) -> Tensor:
        x = activation(z)
        ctx.epsilon, ctx.slope = epsilon, None
        ctx.save_for_backward(z, x)
        return x

    @staticmethod
    def compute_slope(ctx: Any) -> Tensor:
        z, x = ctx.saved_tensors
        return _slope(z, x, ctx.epsilon)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None, None]:
        if ctx.slope is not None:
            return ctx.slope * credit, None, None
        return _Secant.compute_slope(ctx).mul_(credit), None, None


def _slope(z: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """x / (z + epsilon * sign z), with sign 0 = +1; without epsilon 0 where z = 0."""
    if epsilon:
        denominator = torch.copysign(z.new_full((), epsilon), z).add_(z)
        return torch.div(x, denominator)
    return torch.div(x, z).masked_fill_(z == 0, 0.0)


def secant(activation: Activation, z: Tensor) -> Tensor:
    """Return activation(z); the credit that comes back is multiplied by the secant activation(z) / z.

    An activation hands its reward on unchanged (Weber et al. 2023, section 3.1), so that c_z = r / z = c_x x / z. Needs
    no derivative.
    """
    z, epsilon = undamped(z)
    return _Secant.apply(z, activation, epsilon)  # type: ignore[no-any-return]


class _OffsetSecant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, activation: Activation, middle: float, jump: float, epsilon: float) -> Tensor:
        x = activation(z)
        ctx.middle, ctx.jump, ctx.epsilon, ctx.slope = middle, jump, epsilon, None
        ctx.save_for_backward(z, x)
        return x

    @staticmethod
    def compute_slope(ctx: Any) -> Tensor:
        z, x = ctx.saved_tensors
        rise = x - ctx.middle if ctx.middle else x
        if not ctx.epsilon:
            return torch.div(rise, z).masked_fill_(z == 0, 0.0)
        if ctx.jump:  # at 0 itself phi may have either value: take the jump
            rise = torch.where(z == 0, torch.copysign(z.new_full((), ctx.jump / 2), z), rise)
        width = ctx.epsilon * z.square().mean().sqrt()
        slope: Tensor = rise.div(torch.copysign(width, z).add_(z)).nan_to_num_(nan=0.0)
        return slope

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.slope is not None:
            return ctx.slope * credit, None, None, None, None
        return _OffsetSecant.compute_slope(ctx).mul_(credit), None, None, None, None


_SECANT_NODES: tuple[Any, ...] = (_Secant._backward_cls, _OffsetSecant._backward_cls)


def offset_secant(
    activation: Activation, z: Tensor, *, middle: float, jump: float = 0.0, epsilon: float = 0.0
) -> Tensor:
    """Return activation(z); credit passes by (activation(z) - middle) / (z + sign(z) epsilon rms(z)).

    Args:
        activation: elementwise.
        z: any shape.
        middle: of the limits of the activation at 0.
        jump: their difference.
        epsilon: in units of the root mean square of all `z`, so that scaling the weights before changes no reward.
    """
    return _OffsetSecant.apply(z, activation, middle, jump, epsilon)  # type: ignore[no-any-return]


def limits_at_zero(activation: Activation, z: Tensor) -> tuple[float, float]:
    """Compute the limits of an elementwise activation at 0, from below and from above; 0 where there is none."""
    tiny = torch.finfo(z.dtype).tiny
    with torch.no_grad():
        values = activation(torch.tensor([-tiny, tiny], dtype=z.dtype, device=z.device))
    below, above = (value if abs(value) < 1 / tiny**0.5 else 0.0 for value in values.tolist())
    return below, above


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float | Tensor) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None]:
        return credit * ctx.share, None


def scaled(x: Tensor, share: float | Tensor) -> Tensor:
    """Return `x`; the credit that comes back is multiplied by `share`, a number or a constant shaped like `x`."""
    return _Scaled.apply(x, share)  # type: ignore[no-any-return]


class _Entering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reward: Tensor, outputs: Tensor, credit: Tensor, size: int | Tensor) -> Tensor:
        ctx.save_for_backward(credit)
        ctx.size = size
        return reward / -size

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[None, Tensor, None, None]:
        (credit,) = ctx.saved_tensors
        return None, credit * (scale / -ctx.size), None, None


def entering(reward: Tensor, outputs: Tensor, credit: Tensor, *, size: int | Tensor = 1) -> Tensor:
    """Return minus `reward` / `size`, a scalar whose `.backward()` starts the propagation with `credit` at `outputs`.

    Args:
        reward: scalar.
        outputs: any shape.
        credit: shaped like `outputs`; enters with a minus, since optimizers descend.
        size: what both are divided by.
    """
    return _Entering.apply(reward, outputs, credit, size)  # type: ignore[no-any-return]
