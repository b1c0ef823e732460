"""Recognises activations that are written out, x * sigmoid(x), 0.5 * x * (1 + tanh(...)): each passes by its secant.

Swish, GELU and their kin multiply x by a function of the same x (Ramachandran et al. 2017, "self-gated"). As a product
of two factors, x would take the credit of the one and of the other; as the activation that it is, c_x = c_y y / x, like
`F.silu` and `F.gelu`. To know them, each elementwise result remembers the tensors that it is a function of.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, is_activation

FARTHEST = 4  # sources that a result remembers, the nearest first
_Source = tuple[Any, int, bool]  # a tensor, the version of its memory, whether the result is a multiple of it


def tracked(handler: Handler, *, multiplies: bool) -> Handler:
    """Return a handler whose results know what they are functions of; `multiplies`: by constants, multiples."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        tensors = [value for value in args if isinstance(value, Tensor)]
        factors = [value for value in tensors if value.requires_grad]
        numbers = [value for value in tensors if not value.requires_grad]
        if (
            any(x.numel() != 1 for x in numbers)
            or any(credit.is_weight(x) for x in factors)
            or not is_activation(output)
        ):
            return output
        if len(factors) == 1 and factors[0] is not output:
            _remember(output, [(x, multiple and multiplies) for x, multiple in _sources(factors[0])])
        elif len(factors) == 2 and (common := _common(*factors)):
            _remember(output, [(x, False) for x, _, _ in common])
        return output

    return handle


def self_gated(handler: Handler) -> Handler:
    """Return the handler of a product or quotient that takes x g(x) as one activation."""
    plain = tracked(handler, multiplies=True)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if (
            len(args) != 2
            or kwargs
            or not (is_activation(args[0]) and is_activation(args[1]) and context.activation.by_values)
        ):
            return plain(context, function, args, kwargs)
        common = _common(*args)
        if not common or common[0][1] == common[0][2] or common[0][0].shape != args[0].shape:
            return plain(context, function, args, kwargs)
        x = common[0][0]
        with torch.no_grad():
            values = function(*args)
        output = credit.secant(lambda _: values, x)
        context.remember(output, x)
        _remember(output, [(x, False) for x, _, _ in common])
        return output

    return handle


def copied(target: Tensor, others: Arguments) -> Tensor:
    """Return a copy of what is going to be overwritten, of which the other arguments are functions as they were."""
    copy = target.clone()
    if not is_activation(target):
        return copy
    hand_on(target, copy)
    for other in others:
        if is_activation(other) and other is not target:
            _remember(other, [(copy if x is target else x, multiple) for x, multiple in _sources(other)][1:])
    return copy


def hand_on(result: Tensor, target: Tensor) -> None:
    """Let a tensor that holds the values of another know of what they are a function."""
    target._function_of = getattr(result, "_function_of", None)  # type: ignore[attr-defined]


def _remember(output: Tensor, sources: list[tuple[Tensor, bool]]) -> None:
    sources = sources[:FARTHEST]
    if torch.compiler.is_compiling():
        kept: list[_Source] = [(x, 0, multiple) for x, multiple in sources]
    else:  # weakly: the model's code holds x if it is going to multiply by x
        kept = [(weakref.ref(x), x._version, multiple) for x, multiple in sources]
    output._function_of = kept  # type: ignore[attr-defined]


def _sources(value: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """Yield the tensors that `value` is a function of, itself first, and whether it is a multiple of them."""
    yield value, True
    for x, version, multiple in getattr(value, "_function_of", None) or ():
        if torch.compiler.is_compiling():
            yield x, multiple
            continue
        tensor = x()
        if tensor is not None and tensor._version == version:
            yield tensor, multiple


def _common(a: Tensor, b: Tensor) -> list[tuple[Tensor, bool, bool]]:
    """Return what both are functions of, the nearest first, and whether each is a multiple of it."""
    of_b = list(_sources(b))
    return [(x, by_a, by_b) for x, by_a in _sources(a) for y, by_b in of_b if x is y]
