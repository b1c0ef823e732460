"""Matrix products with masks: what a mask was computed from it selects there too, as where it is multiplied by it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from feedprop.credit import marks
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, based_on, constant_where
from feedprop.operations.sources import selects_as_statistic, where_selected
from feedprop.operations.tracking import mixed

Letters = tuple[str, str]  # of the dimensions of two factors, as einsum names them
_BATCH = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # names of the dimensions that `...` stands for
_LARGEST = 2**24  # number of products whose factors are compared one by one


def masked(handler: Handler) -> Handler:
    """Return the handler of a matrix product in which a mask is a constant where it selects."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        factors = args[1:] if args and isinstance(args[0], str) else args
        if len(factors) != 2 or kwargs or not all(isinstance(x, Tensor) and x.requires_grad for x in factors):
            return handler(context, function, args, kwargs)
        masks = [marks.get(x, marks.SELECTION) is not None for x in factors]
        if masks[0] is masks[1]:
            return handler(context, function, args, kwargs)
        mask, x = factors if masks[0] else reversed(factors)
        where = True if selects_as_statistic(x, mask) else _where(context, args, masks[0])
        if where is False:
            return handler(context, function, args, kwargs)
        constant = constant_where(mask, where)
        factors = (constant, x) if masks[0] else (x, constant)
        output = handler(context, function, (*args[: -len(factors)], *factors), {})
        mixed(x, output)  # as the sum of what the mask selects
        return output

    return based_on(handler, handle)


def _where(context: Context, args: Arguments, mask_first: bool) -> Any:
    """Return where the mask meets nothing but what it was computed from: a tensor of booleans shaped like it."""
    letters = _letters(*args)
    if letters is None:
        return False
    mask, x = args[-2:] if mask_first else reversed(args[-2:])
    of_mask, of_x = letters if mask_first else reversed(letters)
    further = [letter for letter in of_x if letter not in of_mask]
    order = [letter for letter in (*of_mask, *further) if letter in of_x]
    sizes = dict(zip(of_x, x.shape, strict=True))

    def laid_out() -> tuple[Tensor, Tensor]:
        moved = x if [*of_x] == order else x.permute([of_x.index(letter) for letter in order])
        shape = [sizes.get(letter, 1) for letter in (*of_mask, *further)]
        return moved.reshape(shape), mask.reshape(*mask.shape, *(1,) * len(further))

    values, beside = context.decompose(laid_out)
    if math.prod([max(pair) for pair in zip(values.shape, beside.shape, strict=True)]) > _LARGEST:
        return False
    where = where_selected(values, beside)
    if isinstance(where, bool):
        return where
    meets = [place for place in range(where.dim()) if beside.shape[place] == 1 != where.shape[place]]
    return (where.all(meets[0]) if len(meets) == 1 else where.amin(meets) if meets else where).reshape(mask.shape)


def _letters(*args: Any) -> Letters | None:
    """Return the names of the dimensions of both factors, or None if a dimension has no place of its own."""
    a, b = args[-2:]
    if len(args) == 2:
        of_a = "k" if a.dim() == 1 else _BATCH[: a.dim() - 2][::-1] + "ik"
        of_b = "k" if b.dim() == 1 else _BATCH[: b.dim() - 2][::-1] + "kj"
        return of_a, of_b
    terms = args[0].replace(" ", "").split("->")[0].split(",")
    if len(terms) != 2 or any(letter in _BATCH for letter in args[0]):
        return None
    spelt = [
        term.replace("...", _BATCH[: x.dim() - len(term.replace("...", ""))][::-1])
        for term, x in zip(terms, (a, b), strict=True)
    ]
    if any(len(set(term)) < len(term) for term in spelt):
        return None
    return spelt[0], spelt[1]
