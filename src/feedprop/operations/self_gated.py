"""Recognises activations that are written out, such as x * sigmoid(x); they pass credit by their secant.

Swish, GELU and their kin multiply x by a function of the same x (Ramachandran et al. 2017, "self-gated"). A product of
two factors would give x the credit of both. As an activation, c_x = c_y y / x, as for `F.silu` and `F.gelu`. A mask
computed by comparing x, as in x * (x > 0).float(), selects: it is a constant factor. To recognise both, each
elementwise result remembers the tensors of which it is a function, its sources.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.credit import marks
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, based_on, is_activation

FARTHEST = 4  # number of sources that a result remembers, the nearest first
Source = tuple[Any, int, bool]  # a tensor, the version of its memory, whether the result is a multiple of it


def tracked(handler: Handler, *, multiplies: bool) -> Handler:
    """Return a handler that remembers the sources of its results.

    Args:
        handler: of an elementwise function.
        multiplies: whether the function of one tensor is a multiple of it, as in x * 2.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        factors = [value for value in tensors if value.requires_grad]
        if not factors or not isinstance(output, Tensor) or not output.requires_grad:
            return output
        if any(x.numel() != 1 for x in tensors if not x.requires_grad):
            return output
        if len(factors) == 1 and factors[0] is not output:
            _remember(output, [(x, multiple and multiplies) for x, multiple in _sources(factors[0])])
        elif len(factors) == 2 and (common := _common(*factors)):
            _remember(output, [(x, False) for x, _, _ in common])
        if all(marks.get(x, marks.SELECTION) is not None for x in factors):
            marks.mark(output, marks.SELECTION, True)  # 1 - mask, mask * mask, mask + mask
        return output

    return based_on(handler, handle)


def self_gated(handler: Handler, *, divides: bool = False) -> Handler:
    """Return the handler of a product (or quotient) that recognises x g(x), and x times a mask computed from x."""
    plain = tracked(handler, multiplies=True)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if len(args) != 2 or kwargs or not all(isinstance(x, Tensor) and x.requires_grad for x in args):
            return plain(context, function, args, kwargs)
        common = _common(*args)
        if not common:
            return plain(context, function, args, kwargs)
        masks = [marks.get(x, marks.SELECTION) is not None for x in args]
        if all(masks):
            return plain(context, function, args, kwargs)
        if any(masks):
            factors = tuple(x.detach() if mask else x for x, mask in zip(args, masks, strict=True))
            for x in factors:
                if not x.requires_grad and credit.is_weight(args[0]):
                    marks.mark_weight(x)  # a mask of weights, made from weights
            output = plain(context, function, factors, kwargs)
            _remember(output, [(x, False) for x, _, _ in common])
            return output
        x, first, second = common[0]
        gated = first != second and (first or not divides) and x.shape == args[0].shape
        if not gated or not context.activation.by_values or not all(map(is_activation, args)):
            return plain(context, function, args, kwargs)
        # y = x g(x): c_x = c_y y / x = c_y g(x), as if g(x) were a constant
        output = handler(context, function, (args[0], args[1].detach()) if first else (args[0].detach(), args[1]), {})
        context.starts.remember(output, x)
        _remember(output, [(x, False) for x, _, _ in common])
        return output

    return handle


def sources_of(*values: Any) -> list[tuple[Tensor, bool]]:
    """Return the tensors of which values are functions, each with False: no value is a multiple of it."""
    found = [x for value in values if isinstance(value, Tensor) for x, _ in _sources(value)]
    return [(x, False) for x in found]


def selects(output: Tensor, sources: list[tuple[Tensor, bool]]) -> None:
    """Mark `output` as a comparison of `sources` that became a number."""
    marks.mark(output, marks.SELECTION, True)
    _remember(output, sources)


def copied(target: Tensor, others: Arguments) -> Tensor:
    """Return a copy of `target`, which is about to be overwritten, that replaces it as a source of `others`."""
    copy = target.clone()
    weight = marks.get(target, marks.WEIGHT)
    if weight is not None:
        return marks.mark_weight(copy, weight)
    if not is_activation(target):
        return copy
    hand_on(target, copy)
    for other in others:
        if is_activation(other) and other is not target:
            _remember(other, [(copy if x is target else x, multiple) for x, multiple in _sources(other)][1:])
    return copy


def hand_on(result: Tensor, target: Tensor) -> None:
    """Copy the sources of `result` to `target`, which now holds its values."""
    for kind in (marks.SOURCES, marks.SELECTION):
        value = marks.get(result, kind)
        if value is not None:
            marks.mark(target, kind, value)


def _remember(output: Tensor, sources: list[tuple[Tensor, bool]]) -> None:
    sources = sources[:FARTHEST]
    if torch.compiler.is_compiling():
        kept: list[Source] = [(x, 0, multiple) for x, multiple in sources]
    else:  # weakly, because the model's code holds x if it will multiply by x
        kept = [(weakref.ref(x), x._version, multiple) for x, multiple in sources]
    marks.mark(output, marks.SOURCES, kept)


def _sources(value: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """Yield the tensors of which `value` is a function, itself first, each with whether it is a multiple of it."""
    yield value, True
    for x, version, multiple in marks.get(value, marks.SOURCES) or ():
        if torch.compiler.is_compiling():
            yield x, multiple
            continue
        tensor = x()
        if tensor is not None and tensor._version == version:
            yield tensor, multiple


def _common(a: Tensor, b: Tensor) -> list[tuple[Tensor, bool, bool]]:
    """Return the tensors of which both are functions, nearest first, each with whether a and b are multiples of it."""
    of_b = list(_sources(b))
    return [(x, by_a, by_b) for x, by_a in _sources(a) for y, by_b in of_b if x is y]
