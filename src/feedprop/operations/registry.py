"""Which handler each torch function has, what a handler is, and the handlers that most functions share.

A handler is called instead of its torch function, as `handler(context, function, args, kwargs)`. It returns the value
of the function, computed by calling it once with the arguments that were given, and gives it a backward pass that
carries credit. `context` tells the active rule, the magnitude of weights and the rule of activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.operations import autograd_function
from feedprop.operations.autograd_function import is_autograd_function

Function = Callable[..., Any]
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
Limits = tuple[float, float]  # of an activation at 0: from below, from above


class LinearRule(Protocol):
    """An LRP rule as the handlers see it."""

    damping: float

    def __call__(
        self, operation: Function, inputs: Tensor, weight: Tensor, bias: Tensor | None, magnitude: credit.Magnitude
    ) -> Tensor:
        """Return operation(inputs, weight, bias) with the rule's backward pass."""


class ActivationRule(Protocol):
    """How activations pass credit, as the handlers see it; `feedprop.rules.ActivationRule` says more."""

    by_values: bool

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: Limits | None) -> Tensor:
        """Return activation(z) with the rule's backward pass."""


class Context(Protocol):
    """What a handler knows of the pass it is part of."""

    @property
    def magnitude(self) -> credit.Magnitude: ...

    @property
    def activation(self) -> ActivationRule: ...

    @property
    def conserving(self) -> bool: ...

    @property
    def starts(self) -> credit.Starts: ...

    def active_rule(self) -> LinearRule:
        """Return the rule of the innermost module that runs."""

    def rule_of(self, weight: Tensor) -> LinearRule:
        """Return the rule of the module that `weight` belongs to, else the active one."""

    def is_buffer(self, value: Tensor) -> bool:
        """Whether a tensor is a buffer of the model."""

    def decompose(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call a function that is written in torch functions, each of which goes to its own handler."""


Handler = Callable[[Context, Function, Arguments, Keywords], Any]
HANDLERS: dict[Function, Handler] = {}


def register(torch_function: Function) -> Callable[[Handler], Handler]:
    """Say how credit passes `torch_function`, in every model and for the life of the process.

    Call it, `register(torch.special.i0)(elementwise)`, or decorate a handler of your own with it. The ready handlers:
    `ordinary` (the gradient is right: linear in each input, or selecting), `summed` (the same, and contributions are
    added up), `elementwise` (an activation) and `product` (inputs are multiplied).

    Args:
        torch_function: as it is called, `torch.special.i0`, `torch.nn.functional.gelu`, `torch.Tensor.tanh`; or a
            subclass of torch.autograd.Function, whose own backward then counts only as far as the handler uses it.
    """
    if not callable(torch_function):
        raise TypeError(f"register() takes a torch function such as torch.special.i0, not {torch_function!r}")

    def keep(handler: Handler) -> Handler:
        HANDLERS[torch_function] = handler
        if is_autograd_function(torch_function):
            autograd_function.add(torch_function, lambda apply: HANDLERS.update({apply: handler}))  # type: ignore[arg-type]
        return handler

    return keep


@dataclass
class Operands:
    """The tensors among the arguments of one call, by the part that they take in it."""

    context: Context
    activations: int = 0  # they carry credit
    weights: int = 0  # parameters, and tensors computed from parameters alone
    constants: list[Tensor] = field(default_factory=list)  # without gradient: inputs, buffers, masks, indices
    owner: Any = True  # the id of the first parameter, where known

    def use(self, value: Any) -> Any:
        """Return `value` as it takes part: a parameter inside it has its magnitude."""
        if isinstance(value, Tensor):
            if not value.requires_grad:
                self.constants.append(value)
                return value
            if type(value) is not Tensor and isinstance(value, Parameter):
                if not self.weights:
                    self.owner = marks.identity(value)
                self.weights += 1
                return credit.as_weight(value, self.context.magnitude)
            owner = marks.get(value, marks.WEIGHT)
            if owner is None:
                self.activations += 1
            else:
                if not self.weights:
                    self.owner = owner
                self.weights += 1
            return value
        if type(value) in (list, tuple):
            return type(value)([self.use(item) for item in value])
        return value

    @property
    def yield_weight(self) -> bool:
        """Whether what is computed from them is a weight: no activation and no data take part."""
        return self.weights > 0 and self.activations == 0 and all(map(self._belongs_to_weights, self.constants))

    def _belongs_to_weights(self, constant: Tensor) -> bool:
        return constant.numel() == 1 or marks.is_weight(constant) or self.context.is_buffer(constant)

    def mark(self, output: Any) -> Any:
        """Remember a result that was computed from parameters alone. Returns the result."""
        if self.yield_weight:
            for tensor in output if isinstance(output, (tuple, list)) else (output,):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    marks.mark_weight(tensor, self.owner)
        return output


def operands_of(context: Context, args: Arguments, kwargs: Keywords) -> tuple[Operands, Arguments, Keywords]:
    """Return the tensors of a call by their part in it, and the arguments as they take part."""
    operands = Operands(context)
    args = tuple([operands.use(value) for value in args])
    if kwargs:
        kwargs = {name: operands.use(value) for name, value in kwargs.items()}
    return operands, args, kwargs


def neutral(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Call a function that passes no credit."""
    return function(*args, **kwargs)


def ordinary(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward: what selects, what is linear in each input, smooth arithmetic."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    return operands.mark(function(*args, **kwargs))


def moved(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward of a function that only moves values, and carry their marks along."""
    operands, used, named = operands_of(context, args, kwargs)
    output = operands.mark(function(*used, **named))
    if operands.activations or operands.constants:
        output = marks.carry(function, args, kwargs, output)
        if operands.activations:
            context.starts.carry(flat(args or kwargs.values()), output)
    return output


def gradient_inside(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Take a gradient inside of the model, torch.autograd.grad: an ordinary one, that carries no credit itself."""
    if kwargs.get("create_graph") or (len(args) > 4 and args[4]):
        raise FeedpropError(
            "torch.autograd.grad(..., create_graph=True) inside of an attached model: no rule says how credit passes a "
            "derivative; take it without create_graph, or outside of the model"
        )
    with credit.derivative():
        return function(*args, **kwargs)


HANDLERS[torch.autograd.grad] = gradient_inside


def refused(reason: str) -> Handler:
    """Return the handler of a function that cannot pass credit."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if not any(isinstance(value, Tensor) and value.requires_grad for value in flat((*args, *kwargs.values()))):
            return function(*args, **kwargs)
        raise FeedpropError(f"no credit passes {getattr(function, '__name__', function)}: {reason}")

    return handle


def based_on(handler: Handler, wrapped: Handler) -> Handler:
    """Note which handler another one adds to: in-place spellings use that."""
    wrapped.base = getattr(handler, "base", handler)  # type: ignore[attr-defined]
    return wrapped


def keeps_sign(handler: Handler) -> Handler:
    """Return a handler that also knows: from inputs of which none is negative comes no negative output."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        parts = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        parts = parts if isinstance(parts, (tuple, list)) else (parts,)
        if isinstance(output, Tensor) and all(marks.known_non_negative(part) for part in parts):
            marks.mark_non_negative(output)  # spares some rules half of their work
        return output

    return based_on(handler, handle)


def summed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward of a sum, damped at its output (LRP-0, LRP-epsilon)."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    output = function(*args, **kwargs)
    return operands.mark(output) if operands.yield_weight else damped(context, output)


def damped(context: Context, output: Any) -> Any:
    """Damp the credit at sums by the epsilon of the active rule."""
    if isinstance(output, Tensor):
        return credit.damped(output, context.active_rule().damping)
    return type(output)(damped(context, item) if isinstance(item, Tensor) else item for item in output)


def shared(context: Context, factors: Arguments) -> Arguments:
    """Return the factors of a product so that, if rewards are conserved, those that carry reward share it equally.

    Achtibat et al. 2024 (AttnLRP), eq. 11. Otherwise each has the ordinary backward, as if the others were constants.
    """
    if not context.conserving:
        return factors
    activations = sum(1 for factor in flat(factors) if is_activation(factor))
    if activations < 2:
        return factors
    return tuple(_scaled(factor, 1 / activations) for factor in factors)


def flat(values: Any) -> Iterator[Any]:
    """Yield arguments, those within lists and tuples one by one."""
    for value in values:
        if type(value) in (list, tuple):
            yield from flat(value)
        else:
            yield value


def without_gradient(values: Any) -> Any:
    """Return arguments (a tuple or dictionary of them) with every tensor detached."""
    if isinstance(values, dict):
        return {name: without_gradient(value) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)([without_gradient(value) for value in values])
    return values.detach() if isinstance(values, Tensor) else values


def is_activation(value: Any) -> bool:
    """Whether an argument is an activation that takes a reward."""
    return isinstance(value, Tensor) and value.requires_grad and not credit.is_weight(value)


def _scaled(value: Any, share: float) -> Any:
    if type(value) in (list, tuple):
        return type(value)([_scaled(item, share) for item in value])
    return credit.scaled(value, share) if is_activation(value) else value
