"""The functions that a name of the table stands for: torch.tanh, Tensor.tanh, F.tanh, and in place Tensor.tanh_."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feedprop.operations.registry import Function

_PLACES: tuple[Any, ...] = (
    torch,
    Tensor,
    torch._C.TensorBase,
    functional,
    torch.special,
    torch.linalg,
    torch.fft,
    torch.sparse,
    torch._C._nn,
)


def spellings(name: str) -> Iterator[Function]:
    """Yield the functions of this name in all of torch's name spaces."""
    for place in _PLACES:
        found = getattr(place, name, None)
        if found is None or isinstance(found, ModuleType):
            continue
        if not callable(found):  # a property: a mode sees its getter
            found = getattr(found, "__get__", None)
        if callable(found):
            yield found


def in_place_spellings(name: str) -> Iterator[tuple[Function, Function]]:
    """Yield the functions that write the result of `name` into their input, each with the one that does not."""
    if name.startswith("__i") or (name.endswith("_") and not name.endswith("__")) or name == "__setitem__":
        plain = getattr(Tensor, name.replace("__i", "__", 1), None) or getattr(Tensor, name)
        yield from ((function, plain) for function in spellings(name))
        return
    plain = next(spellings(name), None)
    if plain is not None:
        yield from ((function, plain) for function in spellings(f"{name}_"))


def position_of_inplace(function: Function) -> int | None:
    """Return the position of the argument `inplace` of a function, None if it has none."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


def attributes(but: frozenset[str]) -> Iterator[Function]:
    """Yield the getters and setters of the attributes of tensors, except those named in `but`."""
    for name, attribute in inspect.getmembers(torch._C.TensorBase, inspect.isgetsetdescriptor):
        if name not in but:
            yield from (attribute.__get__, attribute.__set__, attribute.__delete__)
