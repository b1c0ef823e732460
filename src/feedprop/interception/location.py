"""Names for error messages: of a function as a user writes it, of the running module by its path."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.operations.registry import Function

_PLACES: dict[str, Any] = {
    "torch": torch,
    "torch.nn.functional": nn.functional,
    "torch.Tensor": Tensor,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
}


def spelling(function: Function) -> str:
    """Return a torch function as a user writes it: torch.special.i0, torch.ops.torchvision.roi_align."""
    if torch.compiler.is_dynamo_compiling():
        return getattr(function, "__name__", "a function")
    if isinstance(function, torch._ops.OpOverload):
        return f"torch.ops.{function}"
    operator = str(getattr(function, "_qualified_op_name", ""))
    if "::" in operator:
        return f"torch.ops.{operator.replace('::', '.')}"
    attribute = getattr(getattr(function, "__self__", None), "__name__", None)
    if getattr(function, "__name__", None) == "__get__" and attribute is not None:
        return f"torch.Tensor.{attribute}.__get__"
    name = getattr(function, "__name__", repr(function))
    for place, owner in _PLACES.items():
        if getattr(owner, name, None) is function:
            return f"{place}.{name}"
    return f"{getattr(function, '__module__', None) or 'torch.Tensor'}.{name}"


def running_module(model: nn.Module) -> str:
    """Return path and type of the innermost running module, found on the call stack."""
    if torch.compiler.is_dynamo_compiling():
        return "the compiled model"
    paths = {id(module): path for path, module in model.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and paths.get(id(module)):
            return f"module {paths[id(module)]!r} ({type(module).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return f"the model itself ({type(model).__name__})"


def remedy(name: str) -> str:
    """Return what a user can do about a function of this name that no rule covers."""
    return (
        f"register one with feedprop.rules.register({name})(feedprop.rules.elementwise) if it is an elementwise "
        f'activation, (feedprop.rules.ordinary) if its gradient is right, or attach(model, unknown="gradient") to take '
        f"the gradient of every such function"
    )
