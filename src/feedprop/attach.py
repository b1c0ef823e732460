"""Puts rules under a model and takes them away again; the only file that touches the interpreter.

`attach` wraps `model.forward` on the instance. While it runs with gradients enabled, a TorchFunctionMode sends every
torch function through the table of `feedprop.operations`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType, MethodType, NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import CheckpointFunction

import feedprop.operations  # noqa: F401  fills the table
from feedprop.errors import FeedpropError, non_negative
from feedprop.rules import Composite, Rule, Secant
from feedprop.treatments import TREATMENTS, Arguments, Function, Keywords, neutral, ordinary

_Activation = tuple[Tensor, Tensor, int]  # an activation, its pre-activation, the version of its memory


class UnknownOperationError(FeedpropError):
    """A differentiable function that no treatment covers."""


class Propagation(TorchFunctionMode):
    """One forward pass of an attached model: sends each torch function to its treatment."""

    def __init__(
        self, model: nn.Module, scopes: list[Rule], *, activation: Secant, unknown: str, magnitude_floor: float
    ) -> None:
        super().__init__()
        self.model, self.scopes = model, scopes
        self.activation, self.unknown, self.magnitude_floor = activation, unknown, magnitude_floor
        self.suspended = False
        self._activations: list[_Activation] = []  # those that the model's code still holds

    @property
    def rule(self) -> Rule:
        """The rule of the innermost module that runs."""
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

    def finish(self, result: Any) -> Any:
        """Let rewards know the pre-activations of those outputs of the model that are activations."""
        for part in _tensors(result):
            for output, z, version in self._activations:
                if part is output and version == _version(output):
                    output._pre_activation = z  # type: ignore[attr-defined]  # a reward on an output of 0 enters there
        self._activations = []
        return result

    def __torch_function__(
        self, function: Function, types: Any, args: Arguments = (), kwargs: Keywords | None = None
    ) -> Any:
        """Call `function` by its treatment."""
        kwargs = kwargs or {}
        treatment = TREATMENTS.get(function)
        if treatment is neutral or self.suspended:
            return function(*args, **kwargs)
        if not torch.is_grad_enabled():
            _refuse_reentrant_checkpoint()
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
            f"feedprop.rules.register({name})(feedprop.rules.secant) if it is an elementwise activation, "
            f"(feedprop.rules.ordinary) if its gradient is right, "
            f'or attach(model, unknown="gradient") to take the gradient of every such function'
        )


def _running() -> list[Propagation]:
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


_ALONE = _references_if_alone()  # from some torch release on, autograd counts as a holder


def _held(activation: _Activation) -> bool:
    """Whether some Python code holds an activation and so might still return it."""
    return sys.getrefcount(activation[0]) > _ALONE[activation[0]._use_count() > 1]


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
    while frame is not None and frame.f_code is not _Forward.__call__.__code__:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise FeedpropError(
                "torch.utils.checkpoint with use_reentrant=True recomputes without the rules, so that parameters would "
                "get plain gradients; write checkpoint(..., use_reentrant=False, context_fn=feedprop.recomputation)"
            )
        frame = frame.f_back


def _version(tensor: Tensor) -> int:
    """How often the memory of a tensor was written to, through whatever view (not known under torch.compile)."""
    return 0 if torch.compiler.is_compiling() else tensor._version


_PARTS: dict[Function, Function | None] = {}


def _parts(function: Function) -> Function | None:
    """A Python function of torch that calls others, as one that does not hand itself to the mode again."""
    if function not in _PARTS:
        made: Function | None = None
        if isinstance(function, FunctionType) and function.__module__ in _COMPOSITE_MODULES:
            refuse = dict.fromkeys(
                ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False
            )
            made = FunctionType(
                function.__code__,
                {**function.__globals__, **refuse},
                function.__name__,
                function.__defaults__,
                function.__closure__,
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

    def __init__(self, model: nn.Module, composite: Composite, **settings: Any) -> None:
        self.model, self.composite, self.settings = model, composite, settings
        self.scopes: list[Rule] = [composite.default]
        assigned = composite.assign(model)
        self.neurons = _take_over_neurons(model)
        self.replaced = model.__dict__.get("forward")
        modules = dict(model.named_modules())
        for path, (rule, reason) in assigned.items():
            if reason != "default":
                modules[path].register_forward_pre_hook(_Enter(self, rule))
                modules[path].register_forward_hook(_Leave(self), always_call=True)

    def remove(self) -> None:
        """Take the hooks off again."""
        for module in self.model.modules():
            hooks: Any
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in hooks.items() if getattr(hook, "forward", None) is self]:
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.replaced or MethodType(type(self.model).forward, self.model)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._call(*args, **kwargs)
        self.scopes[:] = [self.composite.default]  # an exception may have left more
        propagation = Propagation(self.model, self.scopes, **self.settings)
        if torch.compiler.is_compiling():
            with propagation:
                return propagation.finish(self._call(*args, **kwargs))
        outer = _running()
        for mode in outer:  # an attached model inside an attached model: one treats a function, the inner one
            mode.suspended = True
        try:
            with propagation:
                return propagation.finish(self._call(*args, **kwargs))
        finally:
            for mode in outer:
                mode.suspended = False

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self.replaced is not None:
            return self.replaced(*args, **kwargs)
        return type(self.model).forward(self.model, *args, **kwargs)


class _Enter:
    """Forward pre-hook: the rule of this module is in force from here."""

    def __init__(self, forward: _Forward, rule: Rule) -> None:
        self.forward, self.rule = forward, rule

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.forward.scopes.append(self.rule)


class _Leave:
    """Forward hook: the rule before is in force again."""

    def __init__(self, forward: _Forward) -> None:
        self.forward = forward

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if len(self.forward.scopes) > 1:
            self.forward.scopes.pop()


def attach(
    model: nn.Module,
    composite: Rule | Composite | None = None,
    *,
    activation: Secant | None = None,
    unknown: str = "error",
    magnitude_floor: float = 0.0,
) -> nn.Module:
    """Make the backward pass of `model` carry feedback: after it, `param.grad` is minus the feedback. Returns `model`.

    Args:
        model: any module; nothing but its `forward` is touched, and `detach` restores that.
        composite: a rule for all, or which module gets which; `rules.Epsilon()` if not given.
        activation: how activations pass credit, `rules.Secant()` if not given; `rules.Secant.published()` as in the
            paper.
        unknown: "error" stops at a differentiable function that no treatment covers; "gradient" takes its gradient.
        magnitude_floor: the least |w| in the feedback of a weight, >= 0, in the unit of the weights. With 0, as
            published, parameters that are 0 never move.

    Raises:
        FeedpropError: `model` is attached already, or an argument is out of range.
        UnknownOperationError: (at the forward pass) no treatment covers a function.

    >>> model = attach(nn.Linear(2, 1))
    >>> detach(model)
    Linear(in_features=2, out_features=1, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attach() takes a torch.nn.Module, not {type(model).__name__}")
    if composite is None or isinstance(composite, Rule):
        composite = Composite(composite)
    if not isinstance(composite, Composite):
        raise TypeError(f"attach() takes a rule such as feedprop.rules.Epsilon(), or a Composite, not {composite!r}")
    if not isinstance(activation, (Secant, NoneType)):
        raise TypeError(f"activation has to be a feedprop.rules.Secant, not {activation!r}")
    if unknown not in ("error", "gradient"):
        raise FeedpropError(f'unknown has to be "error" or "gradient", not {unknown!r}')
    floor = non_negative("magnitude_floor", magnitude_floor)
    if isinstance(model.__dict__.get("forward"), _Forward):
        raise FeedpropError("this model is attached already; call feedprop.detach(model) first")
    if floor == 0:
        _warn_of_zeros(model)
    model.forward = _Forward(
        model, composite, activation=activation or Secant(), unknown=unknown, magnitude_floor=floor
    )
    return model


def _take_over_neurons(model: nn.Module) -> list[nn.Module]:
    """Let snnTorch's neurons pass credit, if there are any."""
    found = [m for m in model.modules() if any(kind.__module__.startswith("snntorch.") for kind in type(m).__mro__)]
    if not found:
        return []
    from feedprop.spiking import snntorch  # an extra: who has such neurons has it

    return snntorch.take_over(found)


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
        if forward is None:
            raise FeedpropError("this model is not attached")
        raise FeedpropError("this model had its forward replaced after attach(); undo that first")
    forward.remove()
    if forward.replaced is None:
        del model.forward
    else:
        model.forward = forward.replaced
    for neuron in forward.neurons:
        del neuron.forward
    return model


def recomputation() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """Let activation checkpointing recompute with the rules.

    `torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False, context_fn=feedprop.recomputation)`. Returns the
    contexts of the first computation and of the recomputation, as torch.utils.checkpoint takes them.
    """
    running = _running()
    again = _again(running[-1], running[-1].rule) if running else contextlib.nullcontext()
    return contextlib.nullcontext(), again


@contextlib.contextmanager
def _again(propagation: Propagation, rule: Rule) -> Iterator[None]:
    """Recompute within a propagation, starting from the rule that was in force the first time."""
    depth = len(propagation.scopes)
    propagation.scopes.append(rule)
    try:
        with propagation:
            yield
    finally:
        del propagation.scopes[depth:]
        propagation.finish(None)


@contextlib.contextmanager
def attached(model: nn.Module, composite: Rule | Composite | None = None, **settings: Any) -> Iterator[nn.Module]:
    """Attach for the length of a `with` block, also when it ends in an exception. Arguments as for `attach`."""
    attach(model, composite, **settings)
    try:
        yield model
    finally:
        detach(model)
