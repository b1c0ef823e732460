"""Activation checkpointing: what the backward pass computes again, it computes with the rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.checkpoint import checkpoint

from feedprop.propagation import Propagation, running
from feedprop.rules import Rule
from feedprop.treatments import TREATMENTS, Arguments, Context, Function, Keywords


def recomputation() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Let activation checkpointing recompute with the rules.

    `torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False, context_fn=feedprop.recomputation)`. Returns the
    contexts of the first computation and of the recomputation, as torch.utils.checkpoint takes them.
    """
    propagations = running()
    again = _again(propagations[-1], propagations[-1].rule) if propagations else contextlib.nullcontext()
    return contextlib.nullcontext(), again


@contextlib.contextmanager
def _again(propagation: Propagation, rule: Rule) -> Iterator[None]:
    """Recompute within a propagation, starting from the rule that was in force the first time."""
    depth = len(propagation.scopes)
    propagation.scopes.append(rule)
    try:
        with propagation:
            yield
    finally:
        del propagation.scopes[depth:]
        propagation.finish(None)


def checkpointed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Compiled, a checkpoint is one function: what it calls is traced under the rules, and recomputed as traced."""
    inner, *rest = args
    if kwargs.get("context_fn") is recomputation:  # the rules are in the trace
        kwargs = {name: value for name, value in kwargs.items() if name != "context_fn"}

    def body(*values: Any, **named: Any) -> Any:
        return context.by_parts(inner, *values, **named)

    return function(body, *rest, **kwargs)


TREATMENTS[checkpoint] = checkpointed
