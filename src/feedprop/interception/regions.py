"""Compiled regions: which of its inputs a region uses as plain torch does, found when torch.compile has traced it.

A region is one node of the graph of a backward pass, so that nothing in it can be searched there. While torch.compile
traces it, autograd makes a graph of fake tensors, which `outside` searches as it does any other.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple

from torch._guards import TracingContext

from feedprop import credit
from feedprop.interception.audit import Spans


class Region(NamedTuple):
    """What is known of a compiled region."""

    plain: tuple[int, ...]  # which of the inputs that require a gradient it uses without rules
    inputs: int  # how many these inputs are
    passes: bool  # whether there are passes of attached models in it


_REGIONS: dict[str, Region] = {}


class Traced(threading.local):
    """The passes in what torch.compile is tracing, by the numbers of the nodes that were made in them."""

    def __init__(self) -> None:
        self.context: Any = None
        self.all = self.handled = self.lenient = Spans()
        self.begun: list[int] = []

    def look(self) -> None:
        """Forget the passes if another function is traced, or the same one again, after a break in its graph."""
        context = TracingContext.try_get()
        if self.context is None or self.context() is not context:
            self.context = None if context is None else weakref.ref(context)
            self.all = self.handled = self.lenient = Spans()
            self.begun = []

    def end(self) -> None:
        """Note that a pass ends here, which began in an earlier function if none has begun in this one."""
        self.all.add(self.begun.pop() if self.begun else 0, credit.sequence_number())


TRACED = Traced()


def begin_pass() -> None:
    """Note, while torch.compile traces, that a pass begins."""
    TRACED.look()
    TRACED.begun.append(credit.sequence_number())


def end_pass() -> None:
    """Note, while torch.compile traces, that a pass ends."""
    TRACED.look()
    TRACED.end()


for _function in (begin_pass, end_pass):
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile runs it while it traces


def remember(compile_id: str, region: Region) -> None:
    """Remember a region, by the name that the compiler has for it."""
    _REGIONS[compile_id] = region


def is_region(node: Any) -> bool:
    """Whether a compiled node is a region, and not one autograd function in a graph that the backend "eager" runs."""
    return hasattr(node._forward_cls.metadata, "compile_id_str")


def region_of(node: Any) -> Region | None:
    """Return what is known of the region of this node, None if it was compiled while no model was attached."""
    return _REGIONS.get(node._forward_cls.metadata.compile_id_str or "")
