"""What is in the results and arguments of a model: tensors in containers and objects, and code that would run later."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, ValuesView
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

from torch import Tensor, nn

from feedprop.errors import FeedpropError

_MOST = 100_000  # number of objects that are searched
_SINGLE = (type(None), str, bytes, int, float, complex, type, nn.Module)  # nothing in them is searched
_SEQUENCES = (tuple, list, set, frozenset, deque, ValuesView)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in what a model takes or returns, also inside objects of the user's own."""
    if isinstance(value, Tensor):
        return iter((value,))
    return (item for item in _inside(value, _has_attributes) if isinstance(item, Tensor))


def refuse_code(result: Any) -> None:
    """Raise if a model returns functions, generators or iterators, also in containers: they would run without rules."""
    for item in _inside(result, lambda _: False):
        what = _code(item)
        if what is not None:
            raise FeedpropError(
                f"forward() returns {what}, whose body would run outside of the rules and give plain gradients; return "
                f"the tensors that it computes"
            )


def _inside(value: Any, opens: Callable[[type], bool]) -> Iterator[Any]:
    """Yield a value and what is in it, in containers, dataclasses and objects of the types that `opens` says."""
    todo, seen = [value], set[int]()
    while todo and len(seen) < _MOST:
        item = todo.pop()
        if isinstance(item, (Tensor, *_SINGLE)):
            yield item
        elif id(item) not in seen:
            seen.add(id(item))
            yield item
            todo += _elements(item)
            if dataclasses.is_dataclass(item) or opens(type(item)):
                todo += _attributes(item)


def _elements(item: Any) -> list[Any]:
    """Return what is in a container, the last element first."""
    if isinstance(item, (dict, MappingProxyType)):
        return list(item.values())[::-1]
    return list(item)[::-1] if isinstance(item, _SEQUENCES) else []


def _has_attributes(kind: type) -> bool:
    """Whether objects of this type may hold tensors in attributes: the user's own, and distributions."""
    return kind.__module__.partition(".")[0] not in ("torch", "builtins") or kind.__module__.startswith(
        "torch.distributions"
    )


def _attributes(item: Any) -> list[Any]:
    found = list(getattr(item, "__dict__", {}).values())
    for kind in type(item).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        found += [getattr(item, slot, None) for slot in ((slots,) if isinstance(slots, str) else slots)]
    return found


def _code(item: Any) -> str | None:
    """Return what kind of code an object is, None if it is none, or a function of nothing but its arguments."""
    if isinstance(item, FunctionType):
        return f"the function {item.__name__}" if "<" in item.__qualname__ else None  # <locals> or <lambda>
    if isinstance(item, MethodType):
        return f"the method {item.__name__}" if isinstance(item.__self__, nn.Module) else None
    if isinstance(item, functools.partial):
        return "a functools.partial"
    if isinstance(item, (Iterator, AsyncIterator, Coroutine)):
        return f"a {type(item).__name__}"
    return None
