"""Puts rules under a model and takes them away again; the only file that touches the interpreter.

`attach` wraps `model.forward` on the instance. While it runs with gradients enabled, a TorchFunctionMode sends every torch
function through the table of `feedprop.operations`.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

import feedprop.operations  # noqa: F401  fills the table
from feedprop.errors import FeedpropError
from feedprop.rules import Epsilon, Rule, non_negative
from feedprop.treatments import TREATMENTS, Arguments, Function, Keywords, neutral, ordinary


class UnknownOperationError(FeedpropError):
    """A differentiable function that no treatment covers."""


class Propagation(TorchFunctionMode):
    """One forward pass of an attached model: sends each torch function to its treatment."""

    def __init__(self, model: nn.Module, rule: Rule, *, unknown: str, magnitude_floor: float) -> None:
        super().__init__()
        self.model, self.rule, self.unknown, self.magnitude_floor = model, rule, unknown, magnitude_floor
        self.suspended = False

    def __torch_function__(
        self, function: Function, types: Any, args: Arguments = (), kwargs: Keywords | None = None
    ) -> Any:
        """Call `function` by its treatment."""
        kwargs = kwargs or {}
        treatment = TREATMENTS.get(function)
        if treatment is neutral or self.suspended or not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if treatment is not None:
            return treatment(self, function, args, kwargs)
        return self._untreated(function, args, kwargs)

    def _untreated(self, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        parts = _parts(function)
        if parts is not None:
            with self:
                return parts(*args, **kwargs)
        output = ordinary(self, function, args, kwargs)
        if self.unknown == "error" and _differentiable(output):
            raise UnknownOperationError(self._unknown_message(function))
        return output

    def _unknown_message(self, function: Function) -> str:
        name = _name(function)
        return (
            f"no rule says how credit passes {name}, called in {_running_module(self.model)}: register one with "
            f"feedprop.rules.register({name})(feedprop.rules.secant) if it is an elementwise activation, (feedprop.rules.ordinary) "
            f'if its gradient is right, or attach(model, unknown="gradient") to take the gradient of every such function'
        )


_PARTS: dict[Function, Function | None] = {}


def _parts(function: Function) -> Function | None:
    """A Python function of torch that calls other torch functions, as one that does not hand itself to the mode again."""
    if function not in _PARTS:
        made: Function | None = None
        if isinstance(function, FunctionType) and function.__module__ in _COMPOSITE_MODULES:
            refuse = dict.fromkeys(
                ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False
            )
            made = FunctionType(
                function.__code__, {**function.__globals__, **refuse}, function.__name__, function.__defaults__, function.__closure__
            )
            made.__kwdefaults__ = function.__kwdefaults__
        _PARTS[function] = made
    return _PARTS[function]


_COMPOSITE_MODULES = ("torch.nn.functional", "torch.functional", "torch._tensor")


def _differentiable(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return isinstance(output, (tuple, list)) and any(_differentiable(item) for item in output)


def _name(function: Function) -> str:
    name = getattr(function, "__name__", repr(function))
    places = {"torch": torch, "torch.nn.functional": nn.functional, "torch.Tensor": Tensor, "torch.special": torch.special}
    for place, owner in places.items():
        if getattr(owner, name, None) is function:
            return f"{place}.{name}"
    return f"{getattr(function, '__module__', None) or 'torch.Tensor'}.{name}"


def _running_module(model: nn.Module) -> str:
    """Path and type of the innermost module whose forward is running, read off the call stack."""
    paths = {id(module): path for path, module in model.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and paths.get(id(module)):
            return f"module {paths[id(module)]!r} ({type(module).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return f"the model itself ({type(model).__name__})"


class _Forward:
    """The attached model's forward. A plain object, so that the model can be copied and pickled."""

    def __init__(self, model: nn.Module, rule: Rule, *, unknown: str, magnitude_floor: float) -> None:
        self.model, self.settings = model, {"rule": rule, "unknown": unknown, "magnitude_floor": magnitude_floor}
        self.replaced = model.__dict__.get("forward")

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.replaced or MethodType(type(self.model).forward, self.model)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._call(*args, **kwargs)
        propagation = Propagation(self.model, **self.settings)
        if torch.compiler.is_compiling():
            with propagation:
                return self._call(*args, **kwargs)
        outer = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, Propagation) and not mode.suspended]
        for mode in outer:  # an attached model inside an attached model: one of the two treats a function, the inner one
            mode.suspended = True
        try:
            with propagation:
                return self._call(*args, **kwargs)
        finally:
            for mode in outer:
                mode.suspended = False

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self.replaced is not None:
            return self.replaced(*args, **kwargs)
        return type(self.model).forward(self.model, *args, **kwargs)


def attach(
    model: nn.Module, composite: Rule | None = None, *, unknown: str = "error", magnitude_floor: float = 0.0
) -> nn.Module:
    """Make the backward pass of `model` carry feedback: after it, `param.grad` is minus the feedback. Returns `model`.

    Args:
        model: any module; nothing but its `forward` is touched, and `detach` restores that.
        composite: the rule, `rules.Epsilon()` if not given.
        unknown: "error" stops at a differentiable function that no treatment covers; "gradient" takes its gradient.
        magnitude_floor: the least |w| in the feedback of a weight, >= 0, in the unit of the weights. With 0, as published,
            parameters that are 0 never move.

    Raises:
        FeedpropError: `model` is attached already, or an argument is out of range.
        UnknownOperationError: (at the forward pass) no treatment covers a function.

    >>> model = attach(nn.Linear(2, 1))
    >>> detach(model)
    Linear(in_features=2, out_features=1, bias=True)
    """
    rule = Epsilon() if composite is None else composite
    if not isinstance(model, nn.Module):
        raise TypeError(f"attach() takes a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(rule, Rule):
        raise TypeError(f"attach() takes a rule such as feedprop.rules.Epsilon(), not {rule!r}")
    if unknown not in ("error", "gradient"):
        raise FeedpropError(f'unknown has to be "error" or "gradient", not {unknown!r}')
    floor = non_negative("magnitude_floor", magnitude_floor)
    if isinstance(model.__dict__.get("forward"), _Forward):
        raise FeedpropError("this model is attached already; call feedprop.detach(model) first")
    if floor == 0:
        _warn_of_zeros(model)
    model.forward = _Forward(model, rule, unknown=unknown, magnitude_floor=floor)
    return model


def _warn_of_zeros(model: nn.Module) -> None:
    stuck = [name for name, p in model.named_parameters() if p.requires_grad and p.numel() and not p.detach().any()]
    if stuck:
        named = ", ".join(stuck[:3]) + (", ..." if len(stuck) > 3 else "")
        warnings.warn(
            f"{len(stuck)} parameters are 0 and stay there, since feedback is proportional to |w| ({named}); "
            f"attach(model, magnitude_floor=...) lets them learn",
            stacklevel=3,
        )


def detach(model: nn.Module) -> nn.Module:
    """Take the rules away again: `model` is as it was before `attach`. Returns `model`.

    Raises:
        FeedpropError: `model` is not attached, or its `forward` was replaced again after `attach`.
    """
    forward = model.__dict__.get("forward")
    if not isinstance(forward, _Forward):
        reason = "is not attached" if forward is None else "had its forward replaced after attach(); undo that first"
        raise FeedpropError(f"this model {reason}")
    if forward.replaced is None:
        del model.forward
    else:
        model.forward = forward.replaced
    return model


@contextlib.contextmanager
def attached(model: nn.Module, composite: Rule | None = None, **settings: Any) -> Iterator[nn.Module]:
    """Attach for the length of a `with` block, also when it ends in an exception. Arguments as for `attach`."""
    attach(model, composite, **settings)
    try:
        yield model
    finally:
        detach(model)
