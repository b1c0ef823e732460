"""Where a forward pass is, for error messages: the function by its public name, the module by its path."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from feedprop.operations.registry import Function


def spelling(function: Function) -> str:
    """Return a torch function as a user writes it, torch.special.i0."""
    name = getattr(function, "__name__", repr(function))
    places = {
        "torch": torch,
        "torch.nn.functional": nn.functional,
        "torch.Tensor": Tensor,
        "torch.special": torch.special,
    }
    for place, owner in places.items():
        if getattr(owner, name, None) is function:
            return f"{place}.{name}"
    return f"{getattr(function, '__module__', None) or 'torch.Tensor'}.{name}"


def running_module(model: nn.Module) -> str:
    """Path and type of the innermost module whose forward is running, read off the call stack."""
    if torch.compiler.is_compiling():
        return "the compiled model"
    paths = {id(module): path for path, module in model.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and paths.get(id(module)):
            return f"module {paths[id(module)]!r} ({type(module).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return f"the model itself ({type(model).__name__})"
