"""A backward pass: its graph is searched before it starts (see `outside`), if it is one that was not searched yet."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.credit.derivative import is_taken
from feedprop.errors import FeedpropError
from feedprop.interception.audit import nodes_behind
from feedprop.interception.outside import refuse_plain_gradients, refuse_second_derivatives
from feedprop.interception.passes import in_a_pass

_MOST = 4096  # number of graphs to remember
_NEAR = 32  # number of nodes outside of passes by which graphs are told apart
_OVERWRITTEN = ("modified by an inplace operation", "has been modified inplace")  # in torch's errors

_PLACES: tuple[Any, ...] = (torch.autograd, torch.autograd.graph)  # of the function that starts every backward pass
_plain: Any = None


def make() -> None:
    """Search the graph of each backward pass before it starts, of `.backward()` and of `torch.autograd.grad`."""
    global _plain
    if _plain is not None:
        return
    _plain = torch.autograd.graph._engine_run_backward
    searched = _searched(_plain)
    for place in _PLACES:
        place._engine_run_backward = searched


def undo() -> None:
    """Restore the functions."""
    global _plain
    if _plain is not None:
        for place in _PLACES:
            place._engine_run_backward = _plain
        _plain = None


def _searched(plain: Any) -> Any:
    @functools.wraps(plain)
    def run(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        _, _, create_graph, *_ = args
        roots = [output for output in outputs if isinstance(output, Tensor)]
        if not roots or credit.traced() or _GRAPHS.paused or is_taken():
            return plain(outputs, *args, **kwargs)
        if any(isinstance(given, Tensor) and torch._C._functorch.is_legacy_batchedtensor(given) for given in args[0]):
            _refuse_batch(roots)
        _GRAPHS.look_at(roots, differentiated=bool(create_graph))
        try:
            return plain(outputs, *args, **kwargs)
        except RuntimeError as error:
            overwritten = any(words in str(error) for words in _OVERWRITTEN)
            if overwritten and any(map(in_a_pass, nodes_behind(roots))):
                raise FeedpropError(
                    f"an in-place operation overwrote what the backward pass of feedprop needs: write it out of place, "
                    f"or, if an optimizer did, call its step() after backward(). torch says: "
                    f"{str(error).partition(' Hint:')[0]}"
                ) from error
            raise
        finally:
            _GRAPHS.last = credit.sequence_number()

    return run


def _refuse_batch(roots: list[Tensor]) -> None:
    """Raise if torch.autograd.grad would send a batch of credits at once through an attached model."""
    if any(map(in_a_pass, nodes_behind(roots))):
        raise FeedpropError(
            "is_grads_batched=True, and vectorize=True of torch.autograd.functional.jacobian, send several credits at "
            "once through an attached model, whose rules take one: leave the option out, and call "
            "torch.autograd.grad(..., retain_graph=True) for each"
        )


class _Graphs(threading.local):
    """Remembers which graphs were searched, by their number of nodes and the nodes next to the loss."""

    def __init__(self) -> None:
        self.last = 0
        self.paused = False
        self.known: set[tuple[int, int, bool]] = set()

    def look_at(self, roots: list[Tensor], *, differentiated: bool) -> None:
        key = credit.sequence_number() - self.last, _outline(roots), differentiated
        if key in self.known:
            return
        if differentiated:
            refuse_second_derivatives(roots)
        refuse_plain_gradients(roots)
        if len(self.known) > _MOST:
            self.known.clear()
        self.known.add(key)


_GRAPHS = _Graphs()


@contextlib.contextmanager
def unsearched() -> Iterator[None]:
    """Let backward passes of this thread start without a search within the block: their gradients are meant plain."""
    before, _GRAPHS.paused = _GRAPHS.paused, True
    try:
        yield
    finally:
        _GRAPHS.paused = before


def forget_graphs() -> None:
    """Forget which graphs were searched, since another model is attached."""
    _GRAPHS.known.clear()


def _outline(roots: list[Tensor]) -> int:
    """Return a number that tells apart what was computed outside of passes, by the nodes next to the roots."""
    nodes = itertools.islice(nodes_behind(roots, stop=in_a_pass), _NEAR)
    return hash(tuple(_name(node) for node in nodes))


def _name(node: Any) -> int | str:
    variable = getattr(node, "variable", None)
    return id(variable) if isinstance(variable, nn.Parameter) else type(node).__name__
