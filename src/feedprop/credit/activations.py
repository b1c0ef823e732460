"""Activations: secants and differences instead of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feedprop.credit import marks
from feedprop.credit.derivative import is_taken
from feedprop.credit.readable import not_finite, readable
from feedprop.credit.sums import fusible
from feedprop.credit.transforms import rerouted, transformed
from feedprop.credit.weights import Magnitude, root_mean_square
from feedprop.errors import FeedpropError

Activation = Callable[[Tensor], Tensor]
_SlopeOf = Callable[..., Tensor]  # of pre-activations and activations, or of the former alone


def slope(z: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Return x / (z + epsilon sign z), with sign 0 = +1; if epsilon = 0, 0 where z = 0."""
    if epsilon:
        return torch.div(x, _with_sign(z.new_full((), epsilon), z).add_(z))
    return torch.div(x, z).masked_fill_(z == 0, 0.0)


def _with_sign(size: Tensor, z: Tensor) -> Tensor:
    """Return `size` with the sign of `z`, z / |z| for complex numbers, and sign 0 = +1."""
    if not z.is_complex():
        return torch.copysign(size, z)
    return torch.where(z == 0, 1.0, torch.sgn(z)).mul_(size)


class _Sloped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, activation: Activation, slope_of: _SlopeOf, keeps_output: bool) -> Tensor:
        x = activation(z)
        ctx.slope_of, ctx.slope, ctx.activation = slope_of, None, activation
        ctx.save_for_backward(z, *([x] if keeps_output else []))
        return x

    @staticmethod
    def compute_slope(ctx: Any) -> Tensor:
        slopes: Tensor = ctx.slope_of(*ctx.saved_tensors)
        return slopes

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> tuple[Tensor, None, None, None]:
        if is_taken():
            return _gradient(ctx.activation, ctx.saved_tensors[0], credit), None, None, None
        slopes = _Sloped.compute_slope(ctx) if ctx.slope is None else ctx.slope
        if slopes.is_complex():  # as torch's gradients of complex functions
            slopes = slopes.conj()
        fresh = ctx.slope is None and slopes.dtype == credit.dtype
        return slopes.mul_(credit) if fresh else slopes * credit, None, None, None


def _gradient(activation: Activation, z: Tensor, credit: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x = activation(z)
    return torch.autograd.grad(x, z, credit)[0] if x.requires_grad else torch.zeros_like(z)


SLOPED_NODES: tuple[Any, ...] = (_Sloped._backward_cls,)


def _sloped(activation: Activation, z: Tensor, slope_of: _SlopeOf, *, keeps_output: bool = True) -> Tensor:
    """Return x = activation(z); the credit that comes back is multiplied by slope_of(z, x), or by slope_of(z)."""
    if transformed():
        x = activation(z.detach())
        return rerouted(x, (z, slope_of(z.detach(), x) if keeps_output else slope_of(z.detach())))
    output: Tensor = _Sloped.apply(z, activation, slope_of, keeps_output)
    marks.mark_reader(z, output)
    return output


def sloped(activation: Activation, z: Tensor, slope_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Return activation(z); the credit that comes back is multiplied by slope_of(z), shaped like `z`."""
    return _sloped(activation, z, lambda z: slope_of(z).clone(), keeps_output=False)  # which may be written to


def secant(activation: Activation, z: Tensor, *, smooth: bool = False) -> Tensor:
    """Return activation(z); the credit that comes back is multiplied by the secant activation(z) / z.

    The reward passes unchanged (Weber et al. 2023, section 3.1), so c_z = r / z = c_x x / z. Needs no derivative.

    Args:
        activation: elementwise, 0 at 0.
        z: any shape.
        smooth: whether the secant at z = 0 is its limit, the slope there, instead of 0.
    """
    z, epsilon = (z, 0.0) if transformed() else fusible(z)
    if smooth and not epsilon:
        return _sloped(activation, z, lambda z, x: _with_limit(torch.div(x, z), z, activation))
    return _sloped(activation, z, lambda z, x: slope(z, x, epsilon))


def secant_of_weight(activation: Activation, weight: Tensor, magnitude: Magnitude) -> Tensor:
    """Return activation(w), weights that jump; credit passes by the secant, both of whose sides have the floor.

    So the feedback of w is what activation(w) would get, in units of w, however small w is; and where activation(w) is
    0, a floor lets w learn.

    Args:
        activation: elementwise: signs, steps, roundings.
        weight: any shape.
        magnitude: how the credit of weights becomes their feedback.
    """
    if not magnitude.floor:
        return secant(activation, weight)

    def slope_of(w: Tensor) -> Tensor:
        x = activation(w)
        direction = torch.sgn(x - activation(-w)) * torch.sgn(w)  # -1 where the activation falls
        size = magnitude.floored(x) / magnitude.floored(w)
        return torch.where(direction == 0, size, direction * size).to(w.dtype)

    return _sloped(activation, weight, slope_of, keeps_output=False)


def _with_limit(slopes: Tensor, z: Tensor, activation: Activation) -> Tensor:
    """Replace the slopes where z = 0 by the slope of the activation at 0, a narrow central difference."""
    zero = z == 0
    if readable(z) and not zero.any():
        return slopes
    kind = torch.float32 if z.dtype in (torch.float16, torch.bfloat16) else z.dtype
    step = 1e-5 if kind in (torch.float64, torch.complex128) else 2.0**-7
    one = torch.full_like(z.reshape(-1)[:1] if marks.known_elementwise(activation) else z, step, dtype=kind)
    limit = (activation(one) - activation(-one)) / (2 * step)
    return torch.where(zero, limit.to(slopes.dtype), slopes)


def offset_secant(
    activation: Activation, z: Tensor, *, middle: float, jump: float = 0.0, epsilon: float = 0.0
) -> Tensor:
    """Return activation(z); credit passes by (activation(z) - middle) / (z + sign(z) epsilon rms(z)).

    Args:
        activation: elementwise.
        z: any shape.
        middle: the mean of the limits of the activation at 0.
        jump: the difference of these limits.
        epsilon: in units of the root mean square of all `z`, so that scaling the weights changes no reward.
    """
    if not jump and not epsilon:
        return _sloped(activation, z, lambda z, x: _with_limit(torch.div(x - middle, z), z, activation))
    return _sloped(activation, z, lambda z, x: _offset_slope(z, x, middle, jump, epsilon))


def _offset_slope(z: Tensor, x: Tensor, middle: float, jump: float, epsilon: float) -> Tensor:
    rise = x - middle if middle else x
    if not epsilon:
        return torch.div(rise, z).masked_fill_(z == 0, 0.0)
    if jump:  # phi(0) may be either limit: take half the jump
        rise = torch.where(z == 0, _with_sign(z.new_full((), jump / 2), z), rise)
    width = epsilon * (z.abs() if z.is_complex() else z).square().mean().sqrt()
    slopes = rise.div(_with_sign(width, z).add_(z))
    return slopes.masked_fill_(slopes.isnan(), 0.0) if z.is_complex() else slopes.nan_to_num_(nan=0.0)


def central_difference(activation: Activation, z: Tensor, step: float, *, relative: bool = False) -> Tensor:
    """Return activation(z); credit passes by (activation(z + d) - activation(z - d)) / (2 d).

    Where one of the two points has no finite value, as sqrt(z - d) has none below d, the difference ends at z instead.

    Args:
        activation: elementwise.
        z: any shape.
        step: > 0; d, half the distance of the two points.
        relative: whether d is `step` times the root mean square of all `z`.

    Raises:
        FeedpropError: in the backward pass, where neither point has a finite value, though z has one.
    """

    everywhere = marks.known_everywhere(activation)

    def slope_of(z: Tensor) -> Tensor:
        d = _scale(z) * step if relative else step

        def quotient(z: Tensor) -> Tensor:
            precise = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z  # the ends are close to each other
            above, below = activation(precise + d), activation(precise - d)
            if not everywhere and (not readable(z) or not_finite(above) or not_finite(below)):
                return _within_domain(activation, precise, above, below, d).to(z.dtype)
            rise = above.sub_(below)
            if isinstance(d, Tensor):
                return rise.div_(2 * d).to(z.dtype)
            return (rise if d == 0.5 else rise.mul_(1 / (2 * d))).to(z.dtype)

        whole = torch.compiler.is_dynamo_compiling() or not marks.known_elementwise(activation)
        return quotient(z) if whole else _by_blocks(quotient, z)

    return _sloped(activation, z, slope_of, keeps_output=False)


def _within_domain(activation: Activation, z: Tensor, above: Tensor, below: Tensor, d: Tensor | float) -> Tensor:
    """Return (above - below) / (2 d), the activation at z + d and z - d; where one is not finite, from or to z.

    Raises:
        FeedpropError: neither is finite, though the activation at z is.
    """
    x = activation(z)
    has_above, has_below = above.isfinite(), below.isfinite()
    neither = ~(has_above | has_below) & x.isfinite()
    if readable(z) and neither.any():
        raise FeedpropError(
            f"an activation has finite values at {z[neither][0]:.4g} but none at {float(d):.4g} less or more, between "
            f"which CentralDifference takes its slope: give attach a composite with a smaller step"
        )
    rise = torch.where(has_above, above, x) - torch.where(has_below, below, x)
    return rise / (d * (has_above.to(rise.dtype) + has_below))


def jumps(activation: Activation, z: Tensor, at_zero: tuple[float, float] | None) -> bool:
    """Whether an activation jumps: by its mark, or else by its limits at 0, which are computed unless given.

    Traced by torch.compile, limits that are not given are not computed, and the answer is False.
    """
    if marks.known_to_jump(activation):
        return True
    if at_zero is None:
        if torch.compiler.is_dynamo_compiling():
            return False
        at_zero = limits_at_zero(activation, z)
    return at_zero[0] != at_zero[1]


def _scale(z: Tensor) -> Tensor:
    """Return the root mean square of `z`, at least 2^-12 because of rounding; 1 if all are 0 or one is infinite."""
    rms = root_mean_square(z.float() if z.dtype in (torch.float16, torch.bfloat16) else z)
    return torch.where((rms > torch.finfo(rms.dtype).tiny) & rms.isfinite(), rms.clamp(min=2.0**-12), 1.0)


_BLOCK = 2**17  # elements: small enough for a core's cache, large enough for torch to use all threads


def _by_blocks(slope_of: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return slope_of(z) for an elementwise function; on a CPU in blocks.

    Large temporaries are reallocated on every call, which takes longer than the computation.
    """
    small = z.numel() <= _BLOCK or not z.is_contiguous()
    if small or z.device.type != "cpu" or torch.is_grad_enabled() or transformed():
        return slope_of(z)
    slopes = torch.empty_like(z)
    for part, place in zip(*(torch.split(values.view(-1), _BLOCK) for values in (z, slopes)), strict=True):
        place.copy_(slope_of(part))
    return slopes


def traced_secant(activation: Activation, z: Tensor, *, offset: bool, epsilon: float) -> Tensor:
    """Pass the secant of an activation with unknown limits at 0, in operations that torch.compile can trace.

    Args:
        activation: elementwise.
        z: any shape.
        offset: whether the secant starts from (0, mean of the limits) instead of (0, 0).
        epsilon: as in `offset_secant`; used if the limits differ or, without `offset`, if one of them is not 0.
    """
    x = activation(z.detach())
    below, above = _limits(activation, z)
    middle, jump = ((below + above) / 2, above - below) if offset else (0.0, torch.zeros_like(below))
    wide = (jump if offset else below.abs() + above.abs()) != 0
    rise = torch.where(z == 0, torch.copysign(jump / 2, z), x - middle)
    width = wide * epsilon * z.detach().square().mean().sqrt()
    return rerouted(x, (z, rise.div(torch.copysign(width, z) + z).nan_to_num(nan=0.0)))


def limits_at_zero(activation: Activation, z: Tensor) -> tuple[float, float]:
    """Compute the limits of an elementwise activation at 0, from below and from above; 0 where there is none."""
    below, above = _limits(activation, z).tolist()
    return below, above


def _limits(activation: Activation, z: Tensor) -> Tensor:
    tiny = torch.finfo(z.dtype).tiny
    with torch.no_grad():
        values = activation(torch.tensor([-tiny, tiny], dtype=z.dtype, device=z.device))
    small = 2 * tiny**0.5  # below it, the limit is 0 (also for roots); above 1 / small, there is none
    return torch.where((values.abs() > small) & (values.abs() < 1 / small), values, 0.0)
