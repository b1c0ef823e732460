"""One forward pass under rules: the mode that sends each torch function to its handler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import CheckpointFunction

import feedprop.operations.table  # noqa: F401  fills the table
from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError, UnknownOperationError
from feedprop.interception.audit import Spans, required
from feedprop.interception.func import refuse_transforms_inside
from feedprop.interception.location import remedy, running_module, spelling
from feedprop.interception.scopes import Owner, Scopes
from feedprop.operations import constants
from feedprop.operations.registry import (
    HANDLERS,
    Arguments,
    Function,
    Handler,
    Keywords,
    fixed,
    flat,
    gradient_inside,
    neutral,
    ordinary,
)
from feedprop.rules import Composite, Rule

_LEAF_MAKERS = (Tensor.requires_grad_, Tensor.requires_grad.__set__)  # type: ignore[attr-defined]  # a descriptor


class Propagation(TorchFunctionMode):
    """One forward pass of an attached model: sends each torch function to its handler."""

    def __init__(
        self,
        model: nn.Module,
        composite: Composite,
        *,
        unknown: str,
        scopes: Scopes | None = None,
        owners: dict[int, list[Owner]] | None = None,
        hooked: nn.Module | None = None,
        renew: Callable[[], dict[int, list[Owner]]] | None = None,
        inputs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__()
        self.model, self.unknown = model, unknown
        self.hooked = model if hooked is None else hooked  # whose hooks enter the rules: the original of a shallow copy
        self.activation, self.magnitude = composite.activation, composite.magnitude
        self.conserving = composite.conserving
        self.scopes = Scopes(composite.default) if scopes is None else scopes
        self.owners = owners or {}
        self.renew = renew  # finds the owners of parameters that were replaced after attach
        self.suspended = False
        self.traced = torch.compiler.is_dynamo_compiling()  # as a whole; a pass that runs may have compiled parts
        self.took_constants = False
        self.starts = credit.Starts()
        self.spans = Spans()
        self.transforms = credit.transforms()  # of torch.func, around the model
        self.leaves: list[Tensor] = []  # that the model made to take gradients from
        self.inputs = inputs  # of the model
        # before the model writes to its attributes, since torch.compile could not go through them afterwards
        self.traced_buffers = list(model.buffers()) if self.traced else []
        self._buffers: set[int] | None = None

    def active_rule(self) -> Rule:  # a method, since Dynamo does not find properties of a mode that is already active
        """Return the rule of the innermost running module."""
        return self.scopes.active()

    def rule_of(self, weight: Tensor) -> Rule:
        """Return the rule of the module that owns `weight`; the active one if none is known to."""
        if not self.owners:
            return self.scopes.of_weight(())
        owner = weight if isinstance(weight, nn.Parameter) else marks.get(weight, marks.WEIGHT)
        if isinstance(owner, tuple):  # of a tensor that torch.func gave
            return self.scopes.of_weight(owner)
        key = id(owner) if isinstance(owner, Tensor) else owner
        if self.renew is not None and key not in self.owners and type(key) is int:
            self.owners = self.renew()
            self.owners.setdefault(key, [])
        return self.scopes.of_weight(self.owners.get(key, ()))

    def is_buffer(self, value: Tensor) -> bool:
        """Whether a tensor is a buffer of the model."""
        if torch.compiler.is_dynamo_compiling():  # where asking for an id ties the code to it
            return self.traced and any(buffer is value for buffer in self.traced_buffers)
        if self._buffers is None:
            self._buffers = {id(buffer) for buffer in self.model.buffers()}
        return id(value) in self._buffers

    def is_constant(self, value: Tensor) -> bool:
        """Whether a tensor without gradient does not depend on the inputs of the model."""
        known: bool | None = marks.get(value, marks.CONSTANT)
        if known is not None:
            return known
        return not any(value is given for given in self.inputs) and self.is_buffer(value)

    def decompose(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call a function that is written in torch functions, each of which goes to its own handler."""
        with self:
            return function(*args, **kwargs)

    def __torch_function__(
        self, function: Function, types: Any, args: Arguments = (), kwargs: Keywords | None = None
    ) -> Any:
        """Call `function` through its handler."""
        kwargs = kwargs or {}
        compiling = torch.compiler.is_dynamo_compiling()
        if compiling and getattr(function, "__module__", None) == "torch._tensor":
            function = _METHODS[getattr(function, "__wrapped__", function).__name__]
        handler = HANDLERS.get(function)
        if handler is neutral or self.suspended:
            if function in _LEAF_MAKERS and not compiling and not args[0].requires_grad:
                self.leaves.append(args[0])
            output = function(*args, **kwargs)
            return output if self.suspended else constants.noted(self, function, args, kwargs, output)
        if not torch.is_grad_enabled() and handler is not gradient_inside:
            _refuse_reentrant_checkpoint()
            if args and getattr(handler, "writes", False):
                kinds = constants.Kinds(self, args[0], (*args[1:], *kwargs.values()))
                output = fixed(self, function, args, kwargs)
                kinds.hand_on()
                return output
            return constants.noted(self, function, args, kwargs, fixed(self, function, args, kwargs))
        if credit.transforms() != self.transforms:
            if self.unknown == "error":
                refuse_transforms_inside(self.transforms or 0, flat((*args, *kwargs.values())))
            return function(*args, **kwargs)
        if compiling:
            return self._handle(handler, function, args, kwargs)
        spans = self.spans
        spans.signature = hash((spans.signature, function, required((*args, *kwargs.values()) if kwargs else args)))
        begin = credit.sequence_number()
        output = self._handle(handler, function, args, kwargs)
        spans.add(begin, credit.sequence_number())
        return output

    def _handle(self, handler: Handler | None, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if handler is not None:
            output = handler(self, function, args, kwargs)
        else:
            output = self._without_handler(function, args, kwargs)
        return constants.noted(self, function, args, kwargs, output)

    def _without_handler(self, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        parts = _PARTS.get(function)
        if parts is not None:
            return self.decompose(parts, *args, **kwargs)
        output = ordinary(self, function, args, kwargs)
        if self.unknown == "error" and _differentiable(output):
            raise UnknownOperationError(
                f"no rule says how credit passes {spelling(function)}, called in {running_module(self.model)}: "
                f"{remedy(spelling(function))}"
            )
        return output


# Where the graph of torch.compile breaks, a call runs by itself, and so does this: compiled, it would be a function of
# its own, in which no mode is active. What is traced as a whole still contains it.
set_code_exec_strategy(
    Propagation.__torch_function__.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)
)


def running() -> list[Propagation]:
    """Return the running passes of this thread, the innermost last."""
    modes: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch has no types there
    return [mode for mode in modes if isinstance(mode, Propagation) and not mode.suspended]


@contextmanager
def suspended() -> Iterator[list[Propagation]]:
    """Suspend the running passes, which are yielded: what runs here has rules of its own."""
    passes = running()
    for mode in passes:
        mode.suspended = True
    try:
        yield passes
    finally:
        for mode in passes:
            mode.suspended = False


def _refuse_reentrant_checkpoint() -> None:
    """Raise if torch.utils.checkpoint called with use_reentrant=True, since it recomputes without the rules."""
    if torch.compiler.is_dynamo_compiling():
        return
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise FeedpropError(
                "torch.utils.checkpoint with use_reentrant=True recomputes without the rules, so parameters would get "
                "plain gradients; write checkpoint(..., use_reentrant=False)"
            )
        frame = frame.f_back


# Methods of tensors that torch writes in Python. Dynamo passes wrappers of them to the mode: these are the originals.
_METHODS: dict[str, Function] = {
    method.__name__: method for method in vars(Tensor).values() if isinstance(method, FunctionType)
} | {"unflatten": torch.unflatten}  # the method calls super(), which Dynamo cannot trace before torch 2.14


def _decomposed() -> Iterator[tuple[Function, Function]]:
    """Yield each Python function of torch with a copy that calls the mode for its parts, but not for itself."""
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    places = {"torch.nn.functional": nn.functional, "torch.functional": torch.functional, "torch._tensor": Tensor}
    for module, place in places.items():
        within = vars(sys.modules[module]) | dict.fromkeys(names, lambda *_: False)
        for function in vars(place).values():
            written_there = isinstance(function, FunctionType) and function.__globals__ is vars(sys.modules[module])
            if written_there and function.__module__ == module:
                code, defaults = function.__code__, function.__defaults__
                made = FunctionType(code, within, function.__name__, defaults, function.__closure__)
                made.__kwdefaults__ = function.__kwdefaults__
                yield function, made


_PARTS: dict[Function, Function] = dict(_decomposed())


def _differentiable(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.requires_grad
    return isinstance(output, (tuple, list)) and any(_differentiable(item) for item in output)
