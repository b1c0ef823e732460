"""Treatments of the in-place spellings of functions: the same credit, and the target keeps its identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop import credit, self_gated
from feedprop.elementwise import relu
from feedprop.treatments import Arguments, Context, Function, Keywords, Treatment, ordinary, summed, used


def in_place(treatment: Treatment, out_of_place: Function) -> Treatment:
    """Treat the in-place spelling of a function as `treatment` treats the other one; the target keeps its identity."""

    def treat(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        target = args[0]
        context.forget(target)
        if torch.compiler.is_compiling() or credit.transformed():  # there a copy costs little
            target._undamped = None
            return _written(context, target, (self_gated.copied(target, args[1:]), *args[1:]), kwargs)
        if treatment is relu and target.requires_grad:
            return credit.relu_in_place(target)
        before = self_gated.copied(target, args[1:]) if treatment not in (ordinary, summed) else None
        credit.prepare_write(target)
        if before is not None:
            return _written(context, target, (before, *args[1:]), kwargs)
        if treatment is ordinary:
            _, args, kwargs = used(context, args, kwargs)
            return function(*args, **kwargs)
        if treatment is summed and target._base is None:
            _, args, kwargs = used(context, args, kwargs)
            return credit.damped_in_place(function(*args, **kwargs), context.rule_in_force().damping)
        return _written(context, target, (target.clone(), *args[1:]), kwargs)

    def _written(context: Context, target: Tensor, args: Arguments, kwargs: Keywords) -> Tensor:
        result = treatment(context, out_of_place, args, kwargs)
        target.copy_(result)
        context.forget(target, successor_of=result)
        self_gated.hand_on(result, target)
        return target

    return treat


def optionally_in_place(treatment: Treatment, position: int, *, written: Treatment) -> Treatment:
    """Treat a function that has an argument `inplace`, at `position`, both ways: by `written` where it is True."""

    def treat(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        asked = kwargs.get("inplace", args[position] if len(args) > position else False)
        kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
        if not asked:
            return treatment(context, function, args[:position] + args[position + 1 :], kwargs)
        if written is ordinary and not (torch.compiler.is_compiling() or credit.transformed()):
            return in_place(written, function)(context, function, args, kwargs | {"inplace": True})
        target, rest = (args[0], args[1:position]) if args else (kwargs.pop("input"), ())
        return in_place(written, function)(context, function, (target, *rest), kwargs)

    return treat
