"""Activation checkpointing: what the backward pass computes again, it computes with the rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.checkpoint import checkpoint, noop_context_fn

from feedprop.interception.mode import Propagation, running
from feedprop.operations.registry import HANDLERS, Arguments, Context, Function, Keywords
from feedprop.rules import Rule

_PLAIN = noop_context_fn.__code__


def recomputation() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Return the contexts of a computation and of its recomputation by the rules, as torch.utils.checkpoint takes them.

    Checkpoints use them anyway while a model is attached; call it in a `context_fn` of your own.
    """
    propagations = running()
    again = _again(propagations[-1], propagations[-1].active_rule()) if propagations else contextlib.nullcontext()
    return contextlib.nullcontext(), again


def make() -> None:
    """Have every checkpoint that is given no context_fn recompute with the rules that were active, if any were."""
    noop_context_fn.__code__ = _contexts.__code__


def undo() -> None:
    """Restore the function's own code."""
    noop_context_fn.__code__ = _PLAIN


def _contexts() -> Any:
    from feedprop.interception.activation_checkpointing import recomputation  # it runs among torch's names

    return recomputation()


@contextlib.contextmanager
def _again(propagation: Propagation, rule: Rule) -> Iterator[None]:
    """Recompute within a pass, starting from the rule that was active the first time."""
    depth = len(propagation.scopes.rules)
    propagation.scopes.rules.append(rule)
    try:
        with propagation:
            yield
    finally:
        del propagation.scopes.rules[depth:]
        propagation.starts.finish(())


def checkpointed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Call a checkpoint under torch.compile, where it is one function: what it calls is traced under the rules."""
    inner, *rest = args
    if kwargs.get("context_fn") is recomputation:  # the rules are in the trace
        kwargs = {name: value for name, value in kwargs.items() if name != "context_fn"}

    def body(*values: Any, **named: Any) -> Any:
        return context.decompose(inner, *values, **named)

    return function(body, *rest, **kwargs)


HANDLERS[checkpoint] = checkpointed
