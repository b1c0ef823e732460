"""Autograd functions of users and other packages: their handlers are called once they are registered.

The `apply` of a torch.autograd.Function is no torch function, so no mode sees it, and its own backward, a gradient,
would be mistaken for credit. While a model is attached, the `apply` of each registered function calls the mode. Those
that are not registered are refused by the audit.
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

REGISTERED: dict[type[Any], Callable[[Any], None]] = {}  # -> what to call with the `apply` that a mode sees
_changed: dict[type[Any], dict[str, Any]] = {}  # -> its own attributes before the change
_installed = False


def is_autograd_function(value: Any) -> bool:
    """Whether a value is a subclass of torch.autograd.Function."""
    return isinstance(value, type) and issubclass(value, torch.autograd.Function)


class _Visible(FunctionMeta):
    """The type of changed functions: torch.compile handles the `apply` of FunctionMeta in a way of its own."""


def make() -> None:
    """Let the `apply` of each registered function call the running mode, as torch functions do."""
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
        for name in ("apply", "forward", "backward"):
            if name in own:
                setattr(function, name, own[name])
            elif name in vars(function):
                delattr(function, name)
    _changed.clear()


def add(function: type[Any], register: Callable[[Any], None]) -> None:
    """Add a function; `register` is called with each `apply` that is made visible to modes."""
    REGISTERED[function] = register
    if _installed:
        register(vars(function)["apply"].__func__.handed_over if function in _changed else _make_visible(function))


def _make_visible(function: type[Any]) -> Any:
    _changed[function] = {
        name: vars(function)[name] for name in ("apply", "forward", "backward") if name in vars(function)
    }
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
        return inherited.__get__(None, cls)(*args, **kwargs)  # a subclass must be registered itself

    apply.__name__ = apply.__qualname__ = f"{function.__name__}.apply"
    of_class.handed_over = apply  # type: ignore[attr-defined]
    function.apply = classmethod(of_class)
    function.__class__ = _Visible
    plain.stands_for = function
    own = _changed[function]
    static = all(isinstance(own.get(name), staticmethod) for name in ("forward", "backward"))
    if static and function.setup_context is torch.autograd.Function.setup_context:
        _relay(function, own["forward"].__func__, own["backward"].__func__, apply)
    return apply


def _relay(function: type[Any], forward: Any, backward: Any, apply: Any) -> None:
    """Let calls of `f = Function.apply`, stored before the function was registered, use its handler.

    No mode sees such a call, but it runs the function's forward. In a pass, that forward calls the handler on detached
    inputs, and the backward sends credit through the graph of the result.
    """

    def seen(ctx: Any, *args: Any) -> Any:
        tensors = [value for value in args if isinstance(value, Tensor)]
        if torch.compiler.is_dynamo_compiling() or not listened_to(*tensors):
            return forward(ctx, *args)
        if any(isinstance(value, torch.nn.Parameter) for value in args):
            return forward(ctx, *args)
        with torch.enable_grad():
            own = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in args]
            ctx.feedprop = own, handle_torch_function(apply, tensors, *own)
        output = ctx.feedprop[1]
        return output.detach() if isinstance(output, Tensor) else tuple(part.detach() for part in output)

    def back(ctx: Any, *credits: Any) -> Any:
        if not hasattr(ctx, "feedprop"):
            return backward(ctx, *credits)
        own, output = ctx.feedprop
        leaves = [x for x in own if isinstance(x, Tensor) and x.requires_grad]
        outputs = (output,) if isinstance(output, Tensor) else output
        found = iter(torch.autograd.grad(outputs, leaves, credits, allow_unused=True))
        return tuple(next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in own)

    function.forward = staticmethod(seen)
    function.backward = staticmethod(back)
