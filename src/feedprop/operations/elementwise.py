"""Activations, arithmetic of one number, and comparisons that become numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.credit import marks
from feedprop.operations.kinds import multiple
from feedprop.operations.registry import (
    FAR,
    Arguments,
    Context,
    Function,
    Handler,
    Keywords,
    Limits,
    based_on,
    constant_where,
    fixed,
    moved,
    ordinary,
    summed,
)
from feedprop.operations.sources import selects, sources_of
from feedprop.operations.tracking import tracked


def relu(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Apply ReLU, whose secant is its derivative."""
    z = args[0] if args else kwargs["input"]
    if not z.requires_grad or credit.is_weight(z):
        return ordinary(context, function, args, kwargs)
    output = credit.damped_relu(z)
    context.starts.remember(output, z)
    marks.mark_non_negative(output)
    return output


def activation(
    limits: Callable[..., Limits] | None,
    *,
    everywhere: bool = True,
    non_negative: bool = False,
    straight: Callable[..., bool] | None = None,
) -> Handler:
    """Return the handler of an elementwise activation.

    Args:
        limits: takes the further arguments of the function and returns its limits at 0; if None, they are computed.
        everywhere: whether each number has a finite value.
        non_negative: whether outputs are never negative.
        straight: takes them too and says whether the function is two lines through 0, whose slopes are its secants.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        z = args[0] if args else kwargs.get("input")
        rest, named = args[1:], {name: value for name, value in kwargs.items() if name != "input"}
        further = any(isinstance(value, Tensor) for value in (*rest, *named.values()))
        if further and any(isinstance(value, Tensor) and value.requires_grad for value in (*rest, *named.values())):
            return ordinary(context, function, args, kwargs)  # a bound or slope with gradient gets credit too
        if not isinstance(z, Tensor) or not z.requires_grad:
            return ordinary(context, function, args, kwargs)
        at_zero = limits(*rest, **named) if limits else None

        def phi(values: Tensor) -> Tensor:
            output: Tensor = function(values, *rest, **named)
            return output

        if limits and not further:
            marks.mark_elementwise(phi)
        if everywhere:
            marks.mark_everywhere(phi)
        if function in PIECEWISE_CONSTANT:
            marks.mark_jumps(phi)
        if credit.is_weight(z):
            output = _of_weight(context, phi, z, constant_in_pieces=function in PIECEWISE_CONSTANT)
            if function in PIECEWISE_CONSTANT:
                selects(output, sources_of(z))
            return output
        if straight and not further and not context.activation.by_values and straight(*rest, **named):
            output = credit.secant(phi, z, smooth=True)
        else:
            output = context.activation(phi, z, at_zero=at_zero)
        output = _answered(context, output, z, non_negative=non_negative)
        if function in PIECEWISE_CONSTANT:
            selects(output, sources_of(z))
        return output

    return handle


def arithmetic(limits: Callable[..., Limits], *, non_negative: bool = False) -> Handler:
    """Return the handler of arithmetic of one number: the ordinary backward; conserving, as an activation."""
    conserving = activation(limits, everywhere=False, non_negative=non_negative)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if function in LOGARITHMS and marks.get(args[0] if args else kwargs["input"], marks.SELECTION) is not None:
            return function(*args, **kwargs).detach()  # mask.log(), which is 0 or -inf, is a mask to be added
        if context.conserving:
            return conserving(context, function, args, kwargs)
        output = ordinary(context, function, args, kwargs)
        if non_negative:
            marks.mark_non_negative(output)
        return output

    return handle


def steep(handler: Handler, position: int = 0, *, at_one: bool = False) -> Handler:
    """Return the handler of functions that are infinitely steep where an argument is 0: there, a mask is a constant.

    Args:
        handler: of these functions.
        position: of the argument.
        at_one: whether they are as steep where it is 1.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        mask = args[position] if len(args) > position else None
        if isinstance(mask, Tensor) and marks.get(mask, marks.SELECTION) is not None:
            values = mask.detach()
            is_steep = values.abs() < 1 / FAR
            if at_one:
                is_steep = is_steep | ((1 - values).abs() < 1 / FAR)
            args = (*args[:position], constant_where(mask, is_steep), *args[position + 1 :])
        return handler(context, function, args, kwargs)

    return based_on(handler, handle)


elementwise = activation(None, everywhere=False)
elementwise.__doc__ = """Pass credit by the activation rule of the composite: for an activation of your own."""
LOGARITHMS: set[Function] = set()
PIECEWISE_CONSTANT: set[Function] = set()  # by their derivative, 0, latent weights would not learn


def _answered(context: Context, output: Tensor, z: Tensor, *, non_negative: bool = False) -> Tensor:
    context.starts.remember(output, z)
    if non_negative:
        marks.mark_non_negative(output)
    return output


def _of_weight(context: Context, phi: credit.Activation, weight: Tensor, *, constant_in_pieces: bool) -> Tensor:
    """Compute weights from latent ones: sign(w) and round(w) by secants, smooth functions by their derivative."""
    used = credit.as_weight(weight, context.magnitude)
    output = credit.secant_of_weight(phi, used, context.magnitude) if constant_in_pieces else phi(used)
    owner = marks.get(used, marks.WEIGHT)
    return marks.mark_weight(output, True if owner is None else owner)


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("gt", "greater", "__gt__"), operator.gt),
    **dict.fromkeys(("ge", "greater_equal", "__ge__"), operator.ge),
    **dict.fromkeys(("lt", "less", "__lt__"), operator.lt),
    **dict.fromkeys(("le", "less_equal", "__le__"), operator.le),
}


def compared(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Compare; if the mask becomes a number, (z > 0).float(), it is a step function of the difference."""
    z, *others = (*args, *kwargs.values())
    other = others[0] if len(others) == 1 else None
    if not any(isinstance(x, Tensor) and x.requires_grad for x in (z, other)):
        return fixed(context, function, args, kwargs)
    answer = function(*args, **kwargs)
    if len(others) != 1 or not isinstance(z, Tensor):
        return answer
    same = not isinstance(other, Tensor) and other == 0
    difference = credit.as_weight(z, context.magnitude) if same else summed(context, torch.sub, (z, other), {})
    if not difference.is_floating_point():  # complex numbers or integers
        return answer
    sources = sources_of(z, other)
    compare = COMPARISONS[function.__name__]
    marks.mark(answer, marks.COMPARISON, marks.Comparison(difference, compare, sources=sources))
    if credit.is_weight(difference):
        marks.mark_weight(answer)
    return answer


def _step(context: Context, comparison: marks.Comparison, value: Tensor) -> Tensor:
    """Return `value`, a comparison that became a number, with the backward pass of a step function."""
    z, compare, yes, no, sources = comparison
    dtype = value.dtype
    kept = [value]  # popped when used, since a graph must not hold its own output

    def phi(values: Tensor) -> Tensor:
        if kept and not credit.traced() and values.data_ptr() == z.data_ptr():
            return kept.pop()
        return torch.where(compare(values, 0), yes, no).to(dtype)

    if credit.is_weight(z):
        output = _of_weight(context, phi, z, constant_in_pieces=True)
    else:
        rising = compare in (operator.gt, operator.ge)
        output = context.activation(phi, z, at_zero=(no, yes) if rising else (yes, no))
        output = _answered(context, output, z, non_negative=min(yes, no) >= 0)
    selects(output, sources)
    return output


def converted(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Convert to another type; a mask that was compared becomes a step function."""
    source: Any = args[0] if args else None
    comparison = marks.get(source, marks.COMPARISON)
    if comparison is None:
        return moved(context, function, args, kwargs)
    plain = function(*args, **kwargs)
    if not plain.is_floating_point():
        if plain.dtype is not torch.bool and source.dtype is torch.bool:
            comparison = comparison._replace(yes=1.0, no=0.0)
        marks.mark(plain, marks.COMPARISON, comparison)
        return plain
    return _step(context, comparison, plain)


def selected(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Select by a condition; between constants or steps, as in where(z > 0, 1.0, -1.0), this is a step function.

    Where one of them stands for infinity, as in where(z > 0, 0.0, -inf), it is a mask: no credit passes.
    """
    condition, values = _branches(args, kwargs)
    comparison = marks.get(condition, marks.COMPARISON)
    if comparison is None or len(values) != 2 or not all(map(_is_step, values)):
        return _SELECTED(context, function, args, kwargs)
    plain = function(*args, **kwargs)
    if not any(isinstance(value, Tensor) for value in values):
        comparison = comparison._replace(yes=float(values[0]), no=float(values[1]))
        if any(abs(value) >= FAR for value in values):
            return plain
        if plain.is_floating_point():
            return _step(context, comparison, plain)
        marks.mark(plain, marks.COMPARISON, comparison)
        return plain
    if not plain.is_floating_point() or kwargs.get("out") is not None:
        return plain.detach()
    steps = []
    far = sum(abs(value.detach() if isinstance(value, Tensor) else value) >= FAR for value in values)
    for value, (yes, no) in zip(values, ((1.0, 0.0), (0.0, 1.0)), strict=True):
        chosen = torch.where(condition, yes, no).to(plain.dtype)
        step = _step(context, comparison._replace(yes=yes, no=no), chosen)
        finite = value.nan_to_num(posinf=FAR, neginf=-FAR) if isinstance(value, Tensor) else min(max(value, -FAR), FAR)
        steps.append(step * finite)
    output = credit.with_values(plain.detach(), (steps[0] + steps[1]).masked_fill(far > 0, 0.0))
    if credit.is_weight(comparison.tensor):
        marks.mark_weight(output)
    else:
        _answered(context, output, comparison.tensor)
    selects(output, [*comparison.sources, *sources_of(*values)])
    return output


_SELECTED = tracked(ordinary, multiple)


def _branches(args: Arguments, kwargs: Keywords) -> tuple[Any, list[Any]]:
    """Return the condition of where(z > 0, a, b) or a.where(z > 0, b), and the values between which it selects."""
    given = list(args)
    if len(given) > 1 and isinstance(given[1], Tensor) and given[1].dtype is torch.bool:
        given[:2] = given[1], given[0]  # the method's order
    condition = kwargs["condition"] if "condition" in kwargs else given.pop(0) if given else None
    return condition, [*given, *(kwargs[name] for name in ("input", "self", "other") if name in kwargs)]


def _is_step(value: Any) -> bool:
    """Whether a value is a constant, or a step function."""
    if not isinstance(value, Tensor):
        return isinstance(value, (int, float))
    return not value.requires_grad or marks.get(value, marks.SELECTION) is not None
