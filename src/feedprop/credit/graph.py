"""The autograd graph: a walk from results towards what they were computed from, and the numbers of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

Ends = Callable[[Any], bool]


# the number of the next node that autograd makes in this thread
sequence_number: Callable[[], int] = torch._C._autograd._get_sequence_nr


_COMPILED = "torch._functorch"  # the module of the functions of compiled regions, which contain the rules


def is_compiled(node: Any) -> bool:
    """Whether a node is a region that torch.compile compiled, whose backward pass was made with it."""
    return getattr(getattr(node, "_forward_cls", None), "__module__", "").startswith(_COMPILED)


def walk(
    nodes: Iterable[Any],
    *,
    ends: Iterable[Any] = (),
    stop: Ends | None = None,
    before: Callable[[Any], Iterable[Any]] | None = None,
) -> Iterator[Any]:
    """Yield `nodes` and those behind them, each once.

    Args:
        nodes: where to begin; None is skipped.
        ends: nodes where the walk ends; they are not yielded.
        stop: the walk ends at nodes for which this is true; they are not yielded.
        before: gives the nodes that come before one, by default all.
    """
    known: set[Any] = {None, *ends}
    todo = [node for node in dict.fromkeys(nodes) if node not in known]
    known.update(todo)
    while todo:
        node = todo.pop()
        if stop is not None and stop(node):
            continue
        yield node
        for other in [other for other, _ in node.next_functions] if before is None else before(node):
            if other not in known:
                known.add(other)
                todo.append(other)
