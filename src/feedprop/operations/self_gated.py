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

from feedprop import credit
from feedprop.credit import marks
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, is_activation
from feedprop.operations.sources import (
    GATE,
    MULTIPLE,
    SUM,
    common,
    divided,
    multiplied,
    remember,
    shape_of,
    tracked,
)


def self_gated(handler: Handler, *, divides: bool = False) -> Handler:
    """Return the handler of a product (or quotient) that recognises x g(x), and x times a mask computed from x."""
    plain = tracked(handler, divided if divides else multiplied)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if kwargs:
            args = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
            kwargs = {name: value for name, value in kwargs.items() if name not in ("input", "other")}
        if len(args) != 2 or kwargs or not all(isinstance(x, Tensor) and x.requires_grad for x in args):
            return plain(context, function, args, kwargs)
        shared = common(*args)
        if not shared:
            return plain(context, function, args, kwargs)
        masks = [marks.get(x, marks.SELECTION) is not None for x in args]
        if any(masks) and not all(masks):
            factors = tuple(x.detach() if mask else x for x, mask in zip(args, masks, strict=True))
            for x in factors:
                if not x.requires_grad and credit.is_weight(args[0]):
                    marks.mark_weight(x)  # a mask of weights, made from weights
            output = plain(context, function, factors, kwargs)
            remember(output, [(x, GATE) for x, *_ in shared])
            return output
        x, *kinds = shared[0]
        first = kinds[0] == MULTIPLE
        other = kinds[1 if first else 0]
        gates = other == GATE or (divides and other == SUM) or (context.conserving and other != MULTIPLE)
        gated = gates and (first or (kinds[1] == MULTIPLE and not divides)) and shape_of(x) == args[0].shape
        if not gated or not context.activation.by_values or not all(map(is_activation, args)):
            return plain(context, function, args, kwargs)
        # y = x g(x): c_x = c_y y / x = c_y g(x), as if g(x) were a constant
        output = handler(context, function, (args[0], args[1].detach()) if first else (args[0].detach(), args[1]), {})
        context.starts.remember(output, args[0] if first else args[1])
        remember(output, [(x, GATE) for x, *_ in shared])
        if all(masks):
            marks.mark(output, marks.SELECTION, True)
        return output

    return handle
