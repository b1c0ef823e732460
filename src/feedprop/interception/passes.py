"""The passes of a thread: which nodes of a graph were made in one, and which of these a handler made."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import nn

from feedprop.interception.audit import Spans

_MOST = 2**14  # numbers to remember in each list; the graphs of older passes are searched

ATTACHED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class _Passes(threading.local):
    """Sequence numbers, as numbers alone, since objects of Python would cost time in every garbage collection."""

    def __init__(self) -> None:
        self.all = Spans()
        self.handled = Spans()  # by handlers
        self.lenient = Spans()  # of passes in which a plain gradient is allowed

    def add(self, begin: int, end: int, handled: Spans, *, lenient: bool) -> None:
        """Note that the nodes from `begin` up to but not including `end` were made in one pass."""
        self.all.add(begin, end)
        self.handled.update(handled)
        if lenient:
            self.lenient.add(begin, end)
        longest = max(len(self.all.bounds), len(self.handled.bounds))
        if longest > _MOST:
            self._forget()

    def _forget(self) -> None:
        longest = max(self.all.bounds, self.handled.bounds, key=len)
        oldest = longest[len(longest) // 2]
        for spans in (self.all, self.handled, self.lenient):
            spans.forget(oldest)


PASSES = _Passes()


def in_a_pass(node: Any) -> bool:
    """Whether a node was made in a pass of this thread."""
    return node._sequence_nr() in PASSES.all
