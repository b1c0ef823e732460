"""A torch.autograd.Function of a user's or a further package's: seen once it is registered, refused until then.

Its `apply` is no torch function, so that the rules would not see it: what it writes as its backward, a gradient, would
pass for credit.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionMeta
from torch.overrides import handle_torch_function

from feedprop.operations.dispatch import listened_to


def is_autograd_function(value: Any) -> bool:
    """Whether a value is a subclass of torch.autograd.Function."""
    return isinstance(value, type) and issubclass(value, torch.autograd.Function)


class _Visible(FunctionMeta):
    """The type of what was made visible: torch.compile calls the `apply` of no other type as it stands."""


def make_visible(function: type[Any]) -> Any:
    """Let `function.apply` hand itself to whoever listens, as torch's functions do, and return what it hands over."""
    if isinstance(function, _Visible) and "apply" in vars(function):
        return vars(function)["apply"].__func__.handed_over
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
