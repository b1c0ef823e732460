"""Recognises activations that are written out, such as x * sigmoid(x); they pass credit by their secant.

Swish, GELU and their kin multiply x by a function of the same x (Ramachandran et al. 2017, "self-gated"). A product of
two factors would give x the credit of both. As an activation, c_x = c_y y / x, as for `F.silu` and `F.gelu`. A mask
computed by comparing x, as in x * (x > 0).float(), selects: it is a constant factor. But x * x * x and x * x.log() are
arithmetic, with the ordinary backward of their factors. What each factor is a function of, its sources, tells them
apart.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from feedprop.credit import marks
from feedprop.operations.kinds import GATE, MULTIPLE, SUM, divided, multiplied
from feedprop.operations.registry import (
    Arguments,
    Context,
    Function,
    Handler,
    Keywords,
    as_constant,
    constant_where,
    is_activation,
)
from feedprop.operations.sources import common, remember, sources_of, where_selected
from feedprop.operations.tracking import tracked


def self_gated(handler: Handler, *, divides: bool = False) -> Handler:
    """Return the handler of a product (or quotient) that recognises x g(x), and x times a mask computed from x."""
    plain = tracked(handler, divided if divides else multiplied)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if kwargs:
            args = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
            kwargs = {name: value for name, value in kwargs.items() if name not in ("input", "other")}
        if len(args) != 2 or kwargs or not all(isinstance(x, Tensor) and x.requires_grad for x in args):
            return plain(context, function, args, kwargs)
        masks = [marks.get(x, marks.SELECTION) is not None for x in args]
        if any(masks) and not all(masks):
            return selecting(context, function, args, kwargs, masks)
        shared = common(*args)
        if not shared:
            return plain(context, function, args, kwargs)
        x, *kinds = shared[0]
        first = kinds[0] == MULTIPLE
        other = kinds[1 if first else 0]
        gates = other == GATE or (divides and other == SUM) or (context.conserving and other != MULTIPLE)
        gated = gates and (first or (kinds[1] == MULTIPLE and not divides)) and x.shape == args[0].shape
        if not gated or not context.activation.by_values or not all(map(is_activation, args)):
            return plain(context, function, args, kwargs)
        # y = x g(x): c_x = c_y y / x = c_y g(x), as if g(x) were a constant
        factors = (args[0], as_constant(context, args[1])) if first else (as_constant(context, args[0]), args[1])
        output = handler(context, function, factors, {})
        context.starts.remember(output, args[0] if first else args[1])
        remember(output, [(x, GATE) for x, *_ in shared])
        if all(masks):
            marks.mark(output, marks.SELECTION, True)
        return output

    def selecting(context: Context, function: Function, args: Arguments, kwargs: Keywords, masks: list[bool]) -> Any:
        """Multiply x by a mask: it is a constant where it was computed from x, elsewhere a value."""
        mask, x = args if masks[0] else reversed(args)
        where = where_selected(x, mask)
        if where is False:
            return plain(context, function, args, kwargs)
        constant = constant_where(mask, where)
        output = plain(context, function, (constant, x) if masks[0] else (x, constant), kwargs)
        remember(output, sources_of(x))
        return output

    return handle
