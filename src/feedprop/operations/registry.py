"""How the credit passes one torch function: the registry, and the handlers that most functions share.

A handler is called in the place of the torch function, `handler(context, function, args, kwargs)`, and returns what
the function returns, with a backward pass that carries credit. `context` tells the rule in force and the magnitude
floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.nn import Parameter

from feedprop import credit
from feedprop.operations.autograd_function import is_autograd_function, make_visible

if TYPE_CHECKING:  # rules are made of handlers
    from feedprop.rules.activation import ActivationRule

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


class Context(Protocol):
    """What a handler knows of the pass it is part of."""

    @property
    def magnitude(self) -> credit.Magnitude: ...

    @property
    def activation(self) -> ActivationRule: ...

    @property
    def conserving(self) -> bool: ...

    def active_rule(self) -> LinearRule:
        """Return the rule of the innermost module that runs."""

    def remember(self, output: Tensor, pre_activation: Tensor) -> None:
        """Note that `output` is the activation of `pre_activation`: if the model returns it, rewards on 0 go there."""

    def forget(self, target: Tensor, *, successor_of: Tensor | None = None) -> None:
        """Note that `target` was written to, and perhaps now holds what another tensor held."""

    def decompose(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call a function that is written in torch functions, each of which passes credit by its own handler."""


Handler = Callable[[Context, Function, Arguments, Keywords], Any]
HANDLERS: dict[Function, Handler] = {}


def register(torch_function: Function) -> Callable[[Handler], Handler]:
    """Say how credit passes `torch_function`, in every model and for the life of the process.

    As a call, `register(torch.special.i0)(elementwise)`, or as a decorator of a function of your own. The ready handlers:
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
            HANDLERS[make_visible(torch_function)] = handler  # type: ignore[arg-type]
        return handler

    return keep


@dataclass
class Operands:
    """The arguments of one call, each parameter replaced by its use, and who takes part in it."""

    context: Context
    activations: int = 0  # activations that carry reward
    weights: int = 0  # parameters, and tensors computed from parameters alone
    constants: int = 0  # tensors that autograd does not follow, inputs and buffers

    def use(self, value: Any) -> Any:
        """Return `value` as it takes part: parameters inside it with their magnitude."""
        if isinstance(value, Tensor):
            if not value.requires_grad:
                self.constants += 1
                return value
            if type(value) is not Tensor and isinstance(value, Parameter):
                self.weights += 1
                return credit.as_weight(value, self.context.magnitude)
            if hasattr(value, "_from_parameters"):
                self.weights += 1
            else:
                self.activations += 1
            return value
        if type(value) in (list, tuple):
            return type(value)([self.use(item) for item in value])
        return value

    def mark(self, output: Any) -> Any:
        """Remember a result that was computed from parameters alone."""
        if self.weights and not self.activations:
            for tensor in output if isinstance(output, (tuple, list)) else (output,):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor._from_parameters = True  # type: ignore[attr-defined]
        return output


def operands_of(context: Context, args: Arguments, kwargs: Keywords) -> tuple[Operands, Arguments, Keywords]:
    """Return the arguments of a call as they take part in it, and who does."""
    operands = Operands(context)
    args = tuple([operands.use(value) for value in args])
    if kwargs:
        kwargs = {name: operands.use(value) for name, value in kwargs.items()}
    return operands, args, kwargs


def neutral(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Leave a function alone that passes no credit."""
    return function(*args, **kwargs)


def ordinary(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward: shapes, selections, and maps whose derivative is the secant."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    return operands.mark(function(*args, **kwargs))


def sign_preserving(handler: Handler) -> Handler:
    """Return a handler that also knows: from inputs of which none is negative comes no negative output."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        parts = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        parts = parts if isinstance(parts, (tuple, list)) else (parts,)
        if all(credit.known_non_negative(part) for part in parts) and isinstance(output, Tensor):
            credit.mark_non_negative(output)  # spares some rules half of their work
        return output

    return handle


def stacked(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Put outputs together, as the steps of a spiking network: rewards on outputs of 0 enter where these were made."""
    output = ordinary(context, function, args, kwargs)
    parts = args[0] if args else kwargs.get("tensors", ())
    for place in ("_pre_activation", "_entry"):
        entries = [getattr(part, place, None) for part in parts]
        if parts and all(entry is not None for entry in entries):
            setattr(output, place, function(entries, *args[1:], **_without_tensors(kwargs)))
    return output


def _without_tensors(kwargs: Keywords) -> Keywords:
    return {name: value for name, value in kwargs.items() if name != "tensors"}


def summed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward of a sum, damped at its output (LRP-0, LRP-epsilon)."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    output = function(*args, **kwargs)
    if operands.activations == 0:
        return operands.mark(output)
    return damped(context, output)


def damped(context: Context, output: Any) -> Any:
    """Damp the credit at sums by the epsilon of the rule in force."""
    if isinstance(output, Tensor):
        return credit.damped(output, context.active_rule().damping)
    return type(output)(damped(context, item) if isinstance(item, Tensor) else item for item in output)


def shared(context: Context, factors: Arguments) -> Arguments:
    """Return the factors of a product so that, if rewards are conserved, those that carry reward share it equally.

    Achtibat et al. 2024 (AttnLRP), eq. 11. Else each has the ordinary backward, as if the others were constants.
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


def is_activation(value: Any) -> bool:
    """Whether an argument is an activation that takes a reward."""
    return isinstance(value, Tensor) and value.requires_grad and not credit.is_weight(value)


def _scaled(value: Any, share: float) -> Any:
    if type(value) in (list, tuple):
        return type(value)([_scaled(item, share) for item in value])
    return credit.scaled(value, share) if is_activation(value) else value
