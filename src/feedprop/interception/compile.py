"""Lets torch.compile pass the same functions to the rules as eager torch does."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch.overrides import get_ignored_functions, get_overridable_functions

from feedprop.operations.registry import HANDLERS, moved, neutral

# torch.compile calls these for the attributes T, mT, H and mH of a tensor.
for _name in ("numpy_T", "mT", "matrix_H", "mH", "adjoint"):
    HANDLERS[getattr(torch.ops.aten, _name)] = moved

_KEY: Any = "feedprop"  # our entry in torch's dictionary: namespace -> functions


def make() -> None:
    """Let torch.compile pass every function that has a handler to the rules.

    It would not pass those that torch.overrides lists as not overridable (F.tanh, F.sigmoid, F.hardswish). In eager
    torch, the rules see these functions or the ones that they call.
    """
    unseen = {function for function in _ignored() if HANDLERS.get(function, neutral) is not neutral}
    listed = get_overridable_functions()
    unseen.difference_update(listed.get(_KEY, ()))
    listed.setdefault(_KEY, []).extend(unseen)
    if (copied := _compilers_copy()) is not None:
        copied.update(listed[_KEY])


def undo() -> None:
    """Remove the functions from torch's list, and from the compiler's."""
    added = get_overridable_functions().pop(_KEY, [])
    if (copied := _compilers_copy()) is not None:
        copied.difference_update(added)


def _compilers_copy() -> Any:
    compiler: Any = sys.modules.get("torch._dynamo.variables.torch")
    return None if compiler is None else compiler.get_overridable_functions()


_ignored = functools.cache(get_ignored_functions)
