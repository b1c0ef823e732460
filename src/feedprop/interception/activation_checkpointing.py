"""Activation checkpointing: the backward pass recomputes with the rules."""

from __future__ import annotations

import contextlib
from typing import Any

from torch.utils.checkpoint import checkpoint, noop_context_fn

from feedprop.interception.mode import Propagation, running
from feedprop.interception.scopes import Owner
from feedprop.operations.registry import HANDLERS, Arguments, Context, Function, Keywords

_PLAIN = noop_context_fn.__code__


def recomputation() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Return two contexts, for a computation and its recomputation under the rules, as `context_fn` must.

    While a model is attached, checkpoints without a `context_fn` use them. Enter them in a `context_fn` of your own.
    """
    propagations = running()
    again = _Again(propagations[-1], propagations[-1].scopes.running[-1]) if propagations else contextlib.nullcontext()
    return contextlib.nullcontext(), again


def make() -> None:
    """Let every checkpoint without a context_fn recompute with the rules that were active, if any were."""
    noop_context_fn.__code__ = _contexts.__code__


def undo() -> None:
    """Restore the function's own code."""
    noop_context_fn.__code__ = _PLAIN


def _contexts() -> Any:
    from feedprop.interception.activation_checkpointing import recomputation  # runs with the globals of torch

    return recomputation()


class _Again:
    """Enters the pass again, with the module that ran at first; more than once if torch recomputes twice."""

    def __init__(self, propagation: Propagation, owner: Owner) -> None:
        self.propagation, self.owner = propagation, owner

    def __enter__(self) -> None:
        self.depth = len(self.propagation.scopes.running)
        self.propagation.scopes.enter(self.owner)
        self.propagation.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        try:
            self.propagation.__exit__(*raised)  # type: ignore[no-untyped-call]
        finally:
            del self.propagation.scopes.running[self.depth :]
            self.propagation.starts.finish(())


def checkpointed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Handle torch.utils.checkpoint under torch.compile: the function inside is traced under the rules."""
    inner, *rest = args
    if kwargs.get("context_fn") is recomputation:  # the rules are in the trace
        kwargs = {name: value for name, value in kwargs.items() if name != "context_fn"}

    def body(*values: Any, **named: Any) -> Any:
        return context.decompose(inner, *values, **named)

    return function(body, *rest, **kwargs)


HANDLERS[checkpoint] = checkpointed
