"""One forward pass under rules: the mode that sends each torch function to its handler."""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Iterator
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import CheckpointFunction

import feedprop.operations.table  # noqa: F401  fills the table
from feedprop import credit
from feedprop.errors import FeedpropError, first_few
from feedprop.interception.audit import unseen_function, unseen_parameters
from feedprop.interception.location import running_module, spelling
from feedprop.operations.elementwise import elementwise
from feedprop.operations.registry import HANDLERS, Arguments, Function, Keywords, neutral, ordinary
from feedprop.rules import Composite, Rule

_Activation = tuple[Tensor, Tensor, int]  # an activation, its pre-activation, the version of its memory


class UnknownOperationError(FeedpropError):
    """A differentiable function that no handler covers."""


class Propagation(TorchFunctionMode):
    """One forward pass of an attached model: sends each torch function to its handler."""

    def __init__(
        self,
        model: nn.Module,
        scopes: list[Rule],
        composite: Composite,
        *,
        unknown: str,
    ) -> None:
        super().__init__()
        self.model, self.scopes, self.unknown = model, scopes, unknown
        self.activation, self.magnitude, self.conserving = (
            composite.activation,
            composite.magnitude,
            composite.conserving,
        )
        self.suspended = False
        self._activations: list[_Activation] = []  # those that the model's code still holds

    def active_rule(self) -> Rule:  # no property: the compiler finds none on a mode begun before it
        """Return the rule of the innermost module that runs."""
        return self.scopes[-1]

    def remember(self, output: Tensor, pre_activation: Tensor) -> None:
        """Note that `output` is the activation of `pre_activation`: the model may return it as one of its outputs.

        What the model's code has dropped since can no longer be returned; its pre-activation is let go, to save memory.
        """
        if not torch.compiler.is_compiling():  # compiled, what nobody reads is not kept
            self._activations = [activation for activation in self._activations if _held(activation)]
        self._activations.append((output, pre_activation, _version(output)))

    def forget(self, target: Tensor, *, successor_of: Tensor | None = None) -> None:
        """Note that `target` was written to, and perhaps now holds what another tensor held."""
        self._activations = [
            (target, z, _version(target)) if output is successor_of else (output, z, version)
            for output, z, version in self._activations
            if output is not target
        ]

    def decompose(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call a function that is written in torch functions, each of which passes credit by its own handler."""
        with self:
            return function(*args, **kwargs)

    def finish(self, result: Any) -> Any:
        """Let rewards know the pre-activations of those outputs of the model that are activations."""
        for part in _tensors(result):
            for output, z, version in self._activations:
                if version == _version(output) and credit.same_values(part, output):
                    part._pre_activation = z  # type: ignore[attr-defined]  # a reward on an output of 0 enters there
            credit.keep_start(part)
        self._activations = []
        return result

    def refuse_unseen(self, result: Any, *, since: int) -> None:
        """Raise if an autograd function, or a use of a parameter, that no rule saw is behind what the model returned.

        Args:
            result: of the model.
            since: `unseen.sequence_number()` before it ran.
        """
        if self.unknown != "error":
            return
        seen = {function for function, handler in HANDLERS.items() if handler is not elementwise}
        function = unseen_function(_tensors(result), since=since, seen=seen)
        if function is not None:
            name = f"{function.__module__}.{function.__qualname__}"
            raise UnknownOperationError(
                f"no rule says how credit passes {name}, a torch.autograd.Function whose backward is a gradient: "
                f"before the model runs, call feedprop.rules.register({function.__qualname__})(feedprop.rules.elementwise) "
                f"if it is an elementwise activation, (feedprop.rules.ordinary) if its own backward is right, or write "
                f'it in torch functions; attach(model, unknown="gradient") takes the backward of every such function'
            )
        parameters = unseen_parameters(_tensors(result), self.model, since=since)
        if parameters:
            raise UnknownOperationError(
                f"{first_few(parameters)}: used where no rule sees it, by an extension or by a handler that leaves "
                f"weights alone, so that it would get its plain gradient; write that part in torch functions, or take "
                f'the gradient of all such parts by attach(model, unknown="gradient")'
            )

    def __torch_function__(
        self, function: Function, types: Any, args: Arguments = (), kwargs: Keywords | None = None
    ) -> Any:
        """Call `function` by its handler."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() and getattr(function, "__module__", None) == "torch._tensor":
            function = _METHODS[getattr(function, "__wrapped__", function).__name__]
        handler = HANDLERS.get(function)
        if handler is neutral or self.suspended:
            return function(*args, **kwargs)
        if not torch.is_grad_enabled():
            _refuse_reentrant_checkpoint()
            return function(*args, **kwargs)
        if handler is not None:
            return handler(self, function, args, kwargs)
        return self._untreated(function, args, kwargs)

    def _untreated(self, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        parts = _PARTS.get(function)
        if parts is not None:
            return self.decompose(parts, *args, **kwargs)
        output = ordinary(self, function, args, kwargs)
        if self.unknown == "error" and _differentiable(output):
            raise UnknownOperationError(self._unknown_message(function))
        return output

    def _unknown_message(self, function: Function) -> str:
        name = spelling(function)
        return (
            f"no rule says how credit passes {name}, called in {running_module(self.model)}: register one with "
            f"feedprop.rules.register({name})(feedprop.rules.elementwise) if it is an elementwise activation, "
            f"(feedprop.rules.ordinary) if its gradient is right, "
            f'or attach(model, unknown="gradient") to take the gradient of every such function'
        )


def running() -> list[Propagation]:
    """The propagations in force, the innermost last."""
    modes: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch has no types there
    return [mode for mode in modes if isinstance(mode, Propagation) and not mode.suspended]


def _references_if_alone() -> tuple[int, int]:
    """How often an activation that nothing but its record holds is referenced: as it is, and saved by autograd."""
    activation = (torch.ones(1, requires_grad=True).clone(),)
    plain = sys.getrefcount(activation[0])
    squared = activation[0].square()
    saved = sys.getrefcount(activation[0])
    del squared
    return plain, saved


_use_count = operator.methodcaller("_use_count")  # by name: not every torch release types it
_ALONE = _references_if_alone()  # from some torch release on, autograd counts as a holder


def _held(activation: _Activation) -> bool:
    """Whether some Python code holds an activation and so might still return it."""
    return sys.getrefcount(activation[0]) > _ALONE[_use_count(activation[0]) > 1]


def _tensors(result: Any) -> list[Tensor]:
    """Every tensor in what a model returns."""
    if isinstance(result, Tensor):
        return [result]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = vars(result)
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _refuse_reentrant_checkpoint() -> None:
    """Raise if torch.utils.checkpoint called with use_reentrant=True, since it recomputes without the rules."""
    if torch.compiler.is_compiling():
        return
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise FeedpropError(
                "torch.utils.checkpoint with use_reentrant=True recomputes without the rules, so that parameters would "
                "get plain gradients; write checkpoint(..., use_reentrant=False)"
            )
        frame = frame.f_back


def _version(tensor: Tensor) -> int:
    """How often the memory of a tensor was written to, through whatever view (not known under torch.compile)."""
    return 0 if torch.compiler.is_compiling() else tensor._version


# Methods of tensors that torch writes in Python: Dynamo finds them in a table by the object that it looked up itself.
_METHODS: dict[str, Function] = {
    method.__name__: method for method in vars(Tensor).values() if isinstance(method, FunctionType)
} | {"unflatten": torch.unflatten}  # the method calls super(), which Dynamo cannot trace before torch 2.14


def _decomposed() -> Iterator[tuple[Function, Function]]:
    """Yield Python functions of torch that call others, each with one that does not hand itself to the mode again."""
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
