"""Activation checkpointing: what the backward pass computes again, it computes with the rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.checkpoint import checkpoint, noop_context_fn

from feedprop.interception.mode import Propagation, running
from feedprop.operations.registry import HANDLERS, Arguments, Context, Function, Keywords
from feedprop.rules import Rule


def recomputation() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Return the contexts of a computation and of its recomputation by the rules, as torch.utils.checkpoint takes them.

    Checkpoints have them from `attach` on; call it in a `context_fn` of your own, which takes the place of that.
    """
    propagations = running()
    again = _again(propagations[-1], propagations[-1].active_rule()) if propagations else contextlib.nullcontext()
    return contextlib.nullcontext(), again


def take_rules_along() -> None:
    """Have every checkpoint that is given no context_fn recompute with the rules that were in force, if any were.

    Those call `noop_context_fn`, to which each library holds references of its own and which torch knows by identity:
    it stays the same function and gets other code, that where no attached model runs does what it did before.
    """
    noop_context_fn.__code__ = _contexts.__code__


def _contexts() -> Any:
    from feedprop.interception.activation_checkpointing import recomputation  # it runs among torch's names

    return recomputation()


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
        return context.decompose(inner, *values, **named)

    return function(body, *rest, **kwargs)


HANDLERS[checkpoint] = checkpointed
