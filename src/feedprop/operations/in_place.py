"""Handlers of in-place spellings: the same credit as out of place, written into the same tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.operations.constants import Kinds
from feedprop.operations.elementwise import converted, relu
from feedprop.operations.products import added_product
from feedprop.operations.registry import (
    Arguments,
    Context,
    Function,
    Handler,
    Keywords,
    flat,
    moved,
    operands_of,
    ordinary,
    summed,
    without_gradient,
    written,
)
from feedprop.operations.sources import copied, hand_on, remember, same_kind
from feedprop.operations.tracking import before_write


def in_place(handler: Handler, out_of_place: Function) -> Handler:
    """Return the handler of an in-place spelling, given the handler and the out-of-place spelling."""
    base: Handler = getattr(handler, "base", handler)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if not args:
            args, kwargs = (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}
        target = args[0]
        if _counts(context, target, args[1:], kwargs):
            args, kwargs = (target, *without_gradient(args[1:])), without_gradient(kwargs)
        kinds = Kinds(context, target, (*args[1:], *kwargs.values()))
        if credit.traced():  # they make copies anyway
            copy = copied(target, args[1:])
            marks.forget(target)
            output = _written(context, target, (copy, *args[1:]), kwargs)
            kinds.hand_on()
            return output
        sources = before_write(handler, out_of_place, args, kwargs)
        try:
            output = _handled(context, function, target, args, kwargs, kinds)
        except RuntimeError as error:
            if "returns multiple views" not in str(error):
                raise
            raise FeedpropError(
                f"{function.__name__} writes to one of several views of a tensor that carries credit (a part of "
                f"chunk(), split() or unbind()), which autograd does not allow: write it out of place"
            ) from error
        if sources:
            remember(target, sources)  # the values of before among them
        kinds.hand_on()
        return output

    def _handled(
        context: Context, function: Function, target: Tensor, args: Arguments, kwargs: Keywords, kinds: Kinds
    ) -> Any:
        if base is relu and target.requires_grad:
            return _relu_in_place(context, target)
        before = copied(target, args[1:]) if base not in (ordinary, moved, summed) else None
        sources = context.starts.behind(flat((*args, target._base)))
        credit.prepare_write(target)
        kinds.restore()
        if before is not None:
            return _written(context, target, (before, *args[1:]), kwargs)
        if base in (ordinary, moved):
            operands, args, kwargs = operands_of(context, args, kwargs)
            output = function(*args, **kwargs)
            operands.mark(written(output, args))
            if "dropout" in function.__name__:  # noise: out of place, no reward on an output of 0 passes it
                credit.computed(output)
            else:
                context.starts.written(target, sources)
            return output
        if base is summed and target._base is None:
            operands, args, kwargs = operands_of(context, args, kwargs)
            output = function(*args, **kwargs)
            if operands.yield_weight:
                return operands.mark(output)
            return credit.damped_in_place(output, context.active_rule().damping)
        return _written(context, target, (same_kind(target), *args[1:]), kwargs)

    def _written(context: Context, target: Tensor, args: Arguments, kwargs: Keywords) -> Tensor:
        result = handler(context, _with_layout_of(target) if base is added_product else out_of_place, args, kwargs)
        if marks.get(result, marks.COMPARISON) is not None and target.is_floating_point():  # z.gt_(0)
            result = converted(context, Tensor.to, (result, target.dtype), {})
        result = written(result, args)
        target.copy_(result)
        hand_on(result, target)
        if isinstance(result, Tensor):
            weight = marks.get(result, marks.WEIGHT)
            if weight is not None:
                marks.mark_weight(target, weight)
            if result.requires_grad:
                context.starts.carry((result,), target)
        return target

    def _with_layout_of(target: Tensor) -> Function:
        """Compute in the memory layout of `target`, since the order of sums depends on it."""

        def compute(added: Tensor, *factors: Any, **scales: Any) -> Any:
            if added.shape != target.shape:  # the 0 that a rule adds
                return out_of_place(added, *factors, **scales)
            in_place: Function = getattr(Tensor, f"{out_of_place.__name__}_")
            return in_place(added.new_empty_strided(added.shape, target.stride()).copy_(added), *factors, **scales)

        return compute

    handle.writes = True  # type: ignore[attr-defined]
    return handle


def _counts(context: Context, target: Tensor, others: Arguments, kwargs: Keywords) -> bool:
    """Whether masks are written to a buffer, as in `self.active += (z > 0).float().sum(0)`: figures kept over passes.

    In plain torch they have no gradient; with one, the buffer would hold the graphs of all steps.
    """
    if target.requires_grad:
        return False
    given = [x for x in flat((*others, *kwargs.values())) if isinstance(x, Tensor) and x.requires_grad]
    if not given or any(marks.get(x, marks.SELECTION) is None for x in given):
        return False
    base = None if torch.compiler.is_dynamo_compiling() else target._base
    return context.is_buffer(target if base is None else base)


def _relu_in_place(context: Context, target: Tensor) -> Tensor:
    """Apply ReLU in place. This overwrites the pre-activation, so rewards on outputs of 0 cannot enter."""
    weight = marks.get(target, marks.WEIGHT)
    output = credit.relu_in_place(target)
    if weight is not None:
        return marks.mark_weight(output, weight)
    context.starts.remember(output, None)
    return output


def optionally_in_place(handler: Handler, position: int) -> Handler:
    """Return the handler of a function with an argument `inplace`, given its handler out of place.

    Args:
        handler: for inplace=False.
        position: of the argument.
    """
    base: Handler = getattr(handler, "base", handler)

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        asked = kwargs.get("inplace", args[position] if len(args) > position else False)
        kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
        if not asked:
            return handler(context, function, args[:position] + args[position + 1 :], kwargs)
        if base is ordinary and not credit.traced():
            return in_place(handler, function)(context, function, args, kwargs | {"inplace": True})
        target, rest = (args[0], args[1:position]) if args else (kwargs.pop("input"), ())
        return in_place(handler, function)(context, function, (target, *rest), kwargs)

    return handle
