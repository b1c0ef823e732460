"""A torch.autograd.Function of a user's or a further package's: seen once it is registered, refused until then.

Its `apply` is no torch function, so that the rules would not see it: what it writes as its backward, a gradient, would
pass for credit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from feedprop import credit

_OURS = ("feedprop", "torch")  # torch's own are part of how it runs a model: checkpoints, DDP, FSDP, compiled regions


def is_autograd_function(value: Any) -> bool:
    """Whether a value is a subclass of torch.autograd.Function."""
    return isinstance(value, type) and issubclass(value, torch.autograd.Function)


def make_visible(function: type[Any]) -> Any:
    """Let `function.apply` hand itself to whoever listens, as torch's functions do, and return what it hands over."""
    plain = function.apply
    if hasattr(plain, "_visible"):
        return plain

    def apply(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in args if isinstance(value, Tensor)]
        if has_torch_function(tensors):
            return handle_torch_function(apply, tensors, *args, **kwargs)
        return plain(*args, **kwargs)

    apply._visible = True  # type: ignore[attr-defined]
    apply.__name__ = apply.__qualname__ = f"{function.__name__}.apply"
    function.apply = staticmethod(apply)
    return apply


def sequence_number() -> int:
    """Return the number that autograd gives to the next node it makes."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def unseen(outputs: Iterable[Tensor], *, since: int, seen: Collection[Any]) -> type[Any] | None:
    """Return an autograd function behind `outputs` that nobody registered.

    Args:
        outputs: of a model.
        since: `sequence_number()` before it ran.
        seen: autograd functions that may stand in the graph.
    """
    for node in credit.nodes_behind(outputs, since=since):
        function = getattr(node, "_forward_cls", None)
        if function is not None and function.__module__.partition(".")[0] not in _OURS and function not in seen:
            return function  # type: ignore[no-any-return]
    return None
