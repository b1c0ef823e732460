"""A torch.autograd.Function of a user's or a further package's: seen once it is registered, refused until then.

Its `apply` is no torch function, so the rules would not see it: what it writes as its backward, a gradient, would pass
for credit. While a model is attached, the `apply` of each registered function hands itself to the mode.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionMeta
from torch.overrides import handle_torch_function

from feedprop.operations.dispatch import listened_to

REGISTERED: dict[type[Any], Callable[[Any], None]] = {}  # -> what is to be done with the apply that a mode sees
_changed: dict[type[Any], Any] = {}  # -> its own `apply` before, None if it inherited that
_installed = False


def is_autograd_function(value: Any) -> bool:
    """Whether a value is a subclass of torch.autograd.Function."""
    return isinstance(value, type) and issubclass(value, torch.autograd.Function)


class _Visible(FunctionMeta):
    """The type of what was made visible: torch.compile calls the `apply` of no other type as it stands."""


def make() -> None:
    """Let the `apply` of each registered function hand itself to whoever listens, as torch's functions do."""
    global _installed
    _installed = True
    for function, register in REGISTERED.items():
        if function not in _changed:
            register(_make_visible(function))


def undo() -> None:
    """Restore the registered functions."""
    global _installed
    _installed = False
    for function, own in _changed.items():
        function.__class__ = FunctionMeta
        if own is None:
            del function.apply
        else:
            function.apply = own
    _changed.clear()


def add(function: type[Any], register: Callable[[Any], None]) -> None:
    """Register a function; `register` is called with its `apply` as a mode sees it, whenever that is made."""
    REGISTERED[function] = register
    if _installed:
        register(vars(function)["apply"].__func__.handed_over if function in _changed else _make_visible(function))


def _make_visible(function: type[Any]) -> Any:
    _changed[function] = vars(function).get("apply")
    inherited = inspect.getattr_static(function, "apply")
    made: Any = FunctionMeta  # torch has no types there
    plain = made(function.__name__, (function,), {"__module__": function.__module__, "apply": inherited})

    def apply(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in args if isinstance(value, Tensor)]
        if listened_to(*tensors):
            return handle_torch_function(apply, tensors, *args, **kwargs)
        return plain.apply(*args, **kwargs)

    def of_class(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        if cls is function:
            return apply(*args, **kwargs)
        return inherited.__get__(None, cls)(*args, **kwargs)  # a subclass, which is registered by itself or not at all

    apply.__name__ = apply.__qualname__ = f"{function.__name__}.apply"
    of_class.handed_over = apply  # type: ignore[attr-defined]
    function.apply = classmethod(of_class)
    function.__class__ = _Visible
    plain.stands_for = function
    return apply
