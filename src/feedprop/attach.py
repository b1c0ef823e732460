"""Puts rules under a model and takes them away again.

`attach` wraps `model.forward` on the instance. While it runs with gradients enabled, `feedprop.interception.mode` sends every
torch function through the table of `feedprop.operations.table`.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import MethodType, NoneType
from typing import Any, TypeVar

import torch
from torch import nn

from feedprop import credit
from feedprop.errors import FeedpropError, first_few
from feedprop.interception.activation_checkpointing import take_rules_along
from feedprop.interception.audit import sequence_number
from feedprop.interception.compile import hand_over_all_functions
from feedprop.interception.func import refuse_hidden_gradients, restore, swap_in
from feedprop.interception.mode import Propagation, running
from feedprop.interception.script import take_over_scripted_functions
from feedprop.interception.unsupported import refuse_wrappers
from feedprop.operations.packages import is_snntorch_neuron, register_known
from feedprop.rules import Composite, Rule, presets

Model = TypeVar("Model", bound=nn.Module)


class _Forward:
    """The attached model's forward. A plain object, so that the model can be copied and pickled."""

    def __init__(self, model: nn.Module, composite: Composite, *, unknown: str) -> None:
        self.model, self.composite, self.unknown = model, composite, unknown
        self.scopes: list[Rule] = [composite.default]
        assigned = composite.assign(model)
        self.neurons = _take_over_neurons(model)
        register_known()
        self.inspected = False  # once is enough: a model calls the same functions at every step
        self.bypassed = False
        self.replaced = model.__dict__.get("forward")
        modules = dict(model.named_modules())
        for path, (rule, reason) in assigned.items():
            if reason != "default":
                modules[path].register_forward_pre_hook(_Enter(self, rule))
                modules[path].register_forward_hook(_Leave(self), always_call=True)
        if hasattr(model, "training_step"):
            for name, part in _parts(model):
                part.register_forward_pre_hook(_Bypassed(self, name))

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
        propagation = Propagation(self.model, self.scopes, self.composite, unknown=self.unknown)
        if credit.transformed():
            refuse_hidden_gradients(self.model)
        given = swap_in(self.model, propagation.magnitude)
        compiling = torch.compiler.is_compiling()
        outer = [] if compiling else running()
        since = None if compiling or self.inspected else sequence_number()
        for mode in outer:  # an attached model inside an attached model: one treats a function, the inner one
            mode.suspended = True
        try:
            with propagation:
                result = propagation.finish(self._call(*args, **kwargs))
            if since is not None:
                propagation.refuse_unseen(result, since=since)
                self.inspected = True
            return result
        finally:
            for mode in outer:
                mode.suspended = False
            restore(given)

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


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what `model` can call: its children, and those in its lists and dictionaries of modules."""
    for name, child in model.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from ((f"{name}.{path}", part) for path, part in _parts(child))
        elif any(parameter.requires_grad for parameter in child.parameters()):
            yield name, child


class _Bypassed:
    """Forward pre-hook of the networks of a LightningModule: says if `training_step` calls them, and not the module."""

    def __init__(self, forward: _Forward, name: str) -> None:
        self.forward, self.name = forward, name

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if self.forward.bypassed or torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
            return
        if running() or isinstance(module.__dict__.get("forward"), _Forward):
            return
        self.forward.bypassed = True  # once is enough
        kind = type(self.forward.model).__name__
        warnings.warn(
            f"{kind}.{self.name} was called by itself and gets plain gradients: what is attached to {kind} is at work "
            f"while {kind} is called; call self(...) in training_step, or attach {self.name}",
            stacklevel=2,
        )


def attach(
    model: Model, composite: Rule | Composite | None = None, *, unknown: str = "error", methods: Sequence[str] = ()
) -> Model:
    """Make the backward pass of `model` carry feedback: afterwards `param.grad` is minus the feedback. Returns `model`.

    Args:
        model: any module. Its `forward` (and each of `methods`) is wrapped, and modules with a rule of their own get
            hooks; `detach` removes all of it.
        composite: one rule for everything, or a composite; `rules.presets.training()` if not given.
        unknown: "error" stops at a differentiable function that no handler covers; "gradient" uses its gradient.
        methods: names of further methods of `model` that run under the rules, such as ("encode", "decode").

    Raises:
        FeedpropError: `model` is attached already, or an argument is out of range.
        UnknownOperationError: (in the forward pass) no handler covers a function.

    >>> model = attach(nn.Linear(2, 1))
    >>> detach(model)
    Linear(in_features=2, out_features=1, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attach() takes a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(composite, (Composite, Rule, NoneType)):
        raise TypeError(f"attach() takes a rule such as feedprop.rules.Epsilon(), or a Composite, not {composite!r}")
    composite = presets.training() if composite is None else Composite.of(composite)
    if unknown not in ("error", "gradient"):
        raise FeedpropError(f'unknown must be "error" or "gradient", not {unknown!r}')
    if isinstance(model.__dict__.get("forward"), _Forward):
        raise FeedpropError("this model is attached already; call feedprop.detach(model) first")
    refuse_wrappers(model)
    hand_over_all_functions()
    take_rules_along()
    take_over_scripted_functions()
    if composite.magnitude_floor == 0:
        _warn_of_zeros(model)
    model.forward = _Forward(model, composite, unknown=unknown)
    return model


def _take_over_neurons(model: nn.Module) -> list[nn.Module]:
    """Let snnTorch's neurons pass credit, if there are any."""
    found = [module for module in model.modules() if is_snntorch_neuron(module)]
    if not found:
        return []
    from feedprop.spiking import snntorch  # an extra: who has such neurons has it

    return snntorch.convert(found)


def _warn_of_zeros(model: nn.Module) -> None:
    stuck = [name for name, p in model.named_parameters() if p.requires_grad and p.numel() and not p.detach().any()]
    if stuck:
        warnings.warn(
            f"{len(stuck)} parameters are 0 and stay there, since feedback is proportional to |w| "
            f"({first_few(stuck)}); a composite with magnitude_floor=0.02 lets them learn",
            stacklevel=3,
        )


def detach(model: Model) -> Model:
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


@contextlib.contextmanager
def attached(
    model: Model, composite: Rule | Composite | None = None, *, unknown: str = "error", methods: Sequence[str] = ()
) -> Iterator[Model]:
    """Attach within a `with` block, and detach at its end, exceptions included. Arguments as for `attach`."""
    attach(model, composite, unknown=unknown, methods=methods)
    try:
        yield model
    finally:
        detach(model)
