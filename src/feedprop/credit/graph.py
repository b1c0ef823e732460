"""The graph that autograd keeps behind tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor


def nodes_behind(
    tensors: Iterable[Tensor], *, since: int = 0, but_not_behind: Callable[[Any], bool] = lambda node: False
) -> Iterator[Any]:
    """Yield each node that took part in the computation of `tensors`, once.

    Args:
        tensors: any; those without a history have no nodes.
        since: leave out what is behind nodes of a lower sequence number than this, and those themselves.
        but_not_behind: leave out what is behind nodes of which this is true.
    """
    todo: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    known = set(todo)
    while todo:
        node = todo.pop()
        yield node
        if but_not_behind(node):
            continue
        for before, _ in node.next_functions:
            if before is not None and before not in known and (not since or before._sequence_nr() >= since):
                known.add(before)
                todo.append(before)
