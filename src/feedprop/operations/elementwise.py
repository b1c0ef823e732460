"""How credit passes activations, also those that are written with comparisons."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.operations.registry import (
    Arguments,
    Context,
    Function,
    Handler,
    Keywords,
    Limits,
    ordinary,
    summed,
)


def relu(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Rectify: the secant of ReLU is its derivative."""
    z = args[0] if args else kwargs["input"]
    if not z.requires_grad or credit.is_weight(z):
        return ordinary(context, function, args, kwargs)
    output = credit.damped_relu(z)
    context.remember(output, z)
    credit.mark_non_negative(output)
    return output


def activation(limits: Callable[..., Limits] | None, *, non_negative: bool = False) -> Handler:
    """Return the handler of an elementwise activation.

    Args:
        limits: takes the further arguments of the function and returns its limits at 0; None lets them be computed.
        non_negative: whether no output is ever negative.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        z = args[0] if args else kwargs.get("input")
        if not isinstance(z, Tensor) or not z.requires_grad:
            return ordinary(context, function, args, kwargs)
        rest, named = args[1:], {name: value for name, value in kwargs.items() if name != "input"}
        at_zero = limits(*rest, **named) if limits else None

        def phi(values: Tensor) -> Tensor:
            output: Tensor = function(values, *rest, **named)
            return output

        if limits and not any(isinstance(value, Tensor) for value in (*rest, *named.values())):
            credit.mark_elementwise(phi)
        if credit.is_weight(z):
            return _of_weight(context, phi, z, constant_in_pieces=function in PIECEWISE_CONSTANT)
        if function in PARTIAL and not context.activation.by_values:
            return _answered(context, credit.secant(phi, z), z)
        return _answered(context, context.activation(phi, z, at_zero=at_zero), z, non_negative=non_negative)

    return handle


elementwise = activation(None)  # what users register for an activation of their own
PARTIAL: set[Function] = set()  # without values for some numbers, so that their values beside z may not exist
PIECEWISE_CONSTANT: set[Function] = set()  # their derivative is 0, so that latent weights would not learn


def _answered(context: Context, output: Tensor, z: Tensor, *, non_negative: bool = False) -> Tensor:
    context.remember(output, z)
    if non_negative:
        credit.mark_non_negative(output)
    return output


def _of_weight(context: Context, phi: credit.Activation, weight: Tensor, *, constant_in_pieces: bool) -> Tensor:
    """Compute weights from latent ones: sign(w), round(w) hand feedback on, whatever is smooth has its derivative."""
    used = credit.as_weight(weight, context.magnitude)
    output = credit.secant(phi, used) if constant_in_pieces else phi(used)
    output._from_parameters = True  # type: ignore[attr-defined]
    return output


def compared(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Compare; should the answer become a number, (z > 0).float(), then that is a step function of the difference."""
    answer = function(*args, **kwargs)
    z, *others = (*args, *kwargs.values())
    if len(others) != 1 or not isinstance(z, Tensor):
        return answer
    other = others[0]
    if not (z.requires_grad or (isinstance(other, Tensor) and other.requires_grad)):
        return answer
    same = not isinstance(other, Tensor) and other == 0
    difference = z if same else summed(context, torch.sub, (z, other), {})
    answer._compared = difference, COMPARISONS[function.__name__]
    return answer


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("gt", "greater", "__gt__"), operator.gt),
    **dict.fromkeys(("ge", "greater_equal", "__ge__"), operator.ge),
    **dict.fromkeys(("lt", "less", "__lt__"), operator.lt),
    **dict.fromkeys(("le", "less_equal", "__le__"), operator.le),
}


def _step(context: Context, answer: Tensor, yes: float, no: float, convert: credit.Activation) -> Tensor:
    difference, compare = answer._compared  # type: ignore[attr-defined]

    def phi(values: Tensor) -> Tensor:
        return convert(compare(values, 0))

    rising = compare in (operator.gt, operator.ge)
    output = context.activation(phi, difference, at_zero=(no, yes) if rising else (yes, no))
    return _answered(context, output, difference, non_negative=min(yes, no) >= 0)


def converted(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Convert to another type; the answer of a comparison becomes a step function."""
    source = args[0] if args else None
    if source is None or not hasattr(source, "_compared"):
        output = ordinary(context, function, args, kwargs)
        entry = getattr(source, "_entry", None)
        if entry is not None and output.is_floating_point():  # spikes that mixed precision brings to float32
            output._entry = entry
        return output
    rest = args[1:]
    plain = function(*args, **kwargs)
    if not plain.is_floating_point():
        plain._compared = source._compared
        return plain
    return _step(context, source, 1.0, 0.0, lambda answer: function(answer, *rest, **kwargs))


def selected(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Select by a condition; between two numbers, where(z > 0, 1.0, -1.0), that is a step function."""
    if len(args) == 3 and not kwargs and hasattr(args[0], "_compared"):
        condition, yes, no = args
        if all(isinstance(value, (int, float)) for value in (yes, no)):
            dtype = condition._compared[0].dtype
            return _step(context, condition, yes, no, lambda answer: torch.where(answer, yes, no).to(dtype))
    return ordinary(context, function, args, kwargs)
