"""Which handler each torch function has, what a handler is, and the handlers that most functions share.

A handler is called instead of its torch function, as `handler(context, function, args, kwargs)`. It computes the value
by calling the function once with the given arguments, and returns it with a backward pass that carries credit.
`context` has the active rule, the magnitude of weights and the rule of activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
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
    """How activations pass credit, as the handlers see it; see `feedprop.rules.ActivationRule`."""

    by_values: bool
    additive_membranes: bool

    def __call__(self, activation: credit.Activation, z: Tensor, *, at_zero: Limits | None) -> Tensor:
        """Return activation(z) with the rule's backward pass."""


class Context(Protocol):
    """What a handler knows about the running pass."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def magnitude(self) -> credit.Magnitude: ...

    @property
    def activation(self) -> ActivationRule: ...

    @property
    def conserving(self) -> bool: ...

    @property
    def starts(self) -> credit.Starts: ...

    took_constants: bool  # whether the rules took a factor that depends on the inputs for a constant, in this pass

    def active_rule(self) -> LinearRule:
        """Return the rule of the innermost module that runs."""

    def rule_of(self, weight: Tensor) -> LinearRule:
        """Return the rule of the module that owns `weight`; the active one if none does."""

    def is_buffer(self, value: Tensor) -> bool:
        """Whether a tensor is a buffer of the model."""

    def is_constant(self, value: Tensor) -> bool:
        """Whether a tensor without gradient does not depend on the inputs of the model (see `constants`)."""

    def decompose(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call a function that is written in torch functions, each of which goes to its own handler."""


Handler = Callable[[Context, Function, Arguments, Keywords], Any]
HANDLERS: dict[Function, Handler] = {}
FAR = 1e4  # numbers from here on stand for infinity: a step between them, (1 - mask) * -1e9, is a mask, no value


def register(torch_function: Function) -> Callable[[Handler], Handler]:
    """Set how credit passes `torch_function`, in every model, until the process ends.

    Call it, `register(torch.special.i0)(elementwise)`, or decorate a handler of your own with it. The ready handlers:
    `ordinary` (the gradient: for what is linear in each input, selects, or is smooth arithmetic), `summed` (the same,
    for functions that add contributions up), `elementwise` (activations) and `product` (inputs are multiplied).

    Args:
        torch_function: the function as it is called, such as `torch.special.i0` or `torch.Tensor.tanh`; or a subclass
            of torch.autograd.Function, whose own backward is then used only if the handler uses it.
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
    """The tensors among the arguments of one call: how many are activations and weights, and which are constants."""

    context: Context
    activations: int = 0  # they carry credit
    weights: int = 0  # parameters, and tensors computed from parameters alone
    fixed: int = 0  # computed from parameters alone, without gradient: a mask or scale made under no_grad
    constants: list[Tensor] = field(default_factory=list)  # need no gradient: inputs, buffers, masks, indices
    owner: Any = True  # the id of the first parameter, if known
    of_parameter: bool = False  # whether the first of them is a parameter, of which the result may be a view
    yield_weight: bool = False  # whether the result is one: of parameters, constants and single numbers alone

    def use(self, value: Any) -> Any:
        """Count the tensors in `value`. Returns it with its parameters `weighted`."""
        if isinstance(value, Tensor):
            if not value.requires_grad:
                owner = marks.get(value, marks.WEIGHT)
                if owner is None:
                    self.constants.append(value)
                    return value
                if not self.weights + self.fixed:
                    self.owner = owner
                self.fixed += 1
                return value
            if type(value) is not Tensor and isinstance(value, Parameter):
                if not self.weights + self.fixed:
                    self.owner = marks.identity(value)
                    self.of_parameter = not self.activations and not self.constants
                self.weights += 1
                return credit.as_weight(value, self.context.magnitude)
            owner = marks.get(value, marks.WEIGHT)
            if owner is None:
                self.activations += 1
            else:
                if not self.weights + self.fixed:
                    self.owner = owner
                self.weights += 1
            return value
        if type(value) in (list, tuple):
            return type(value)([self.use(item) for item in value])
        return value

    def decide(self) -> None:
        """Decide before the call whether its result is a weight; the call may write to what it is given."""
        self.yield_weight = (
            not self.activations
            and self.weights + self.fixed > 0
            and all(belongs_to_weights(self.context, constant) for constant in self.constants)
        )

    def mark(self, output: Any) -> Any:
        """Mark the result as a weight if it is one. Returns the result."""
        if self.yield_weight:
            if self.of_parameter and torch.compiler.is_dynamo_compiling():
                output = _owned(output)
            _mark_weights(self.context, output, self.owner)
        return output


def _mark_weights(context: Context, output: Any, owner: Any) -> None:
    """Mark the tensors of a result as weights, but no buffer that `buffer.to(weight)` gave as it is."""
    for tensor in output if isinstance(output, (tuple, list)) else (output,):
        if isinstance(tensor, Tensor) and (tensor.requires_grad or not context.is_buffer(tensor)):
            marks.mark_weight(tensor, owner)


def written(output: Any, args: Arguments) -> Any:
    """Return what a call gave or, if it was `__setitem__`, which gives None, what it wrote to."""
    return args[0] if output is None and args else output


def belongs_to_weights(context: Context, value: Tensor) -> bool:
    """Whether a tensor does not depend on the inputs, or is a single number: with weights, it makes weights."""
    if credit.is_weight(value):
        return True
    return not value.requires_grad and (value.numel() == 1 or context.is_constant(value))


def _owned(output: Any) -> Any:
    """Return a copy: what leaves a compiled graph as a view of a parameter has its plain gradient."""
    if isinstance(output, (tuple, list)):
        return type(output)([_owned(part) for part in output]) if type(output) in (tuple, list) else output
    return output.clone() if isinstance(output, Tensor) and output.requires_grad else output


def operands_of(context: Context, args: Arguments, kwargs: Keywords) -> tuple[Operands, Arguments, Keywords]:
    """Return the tensors of a call by kind, and its arguments with parameters `weighted`."""
    operands = Operands(context)
    args = tuple([operands.use(value) for value in args])
    if kwargs:
        kwargs = {name: operands.use(value) for name, value in kwargs.items()}
    operands.decide()
    return operands, args, kwargs


def neutral(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Call a function that passes no credit."""
    return function(*args, **kwargs)


def fixed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Call a function that passes no credit; what it computes from weights alone is a weight without gradient."""
    owner = _common_owner(context, args, kwargs)
    output = function(*args, **kwargs)
    if owner is not None:
        _mark_weights(context, written(output, args), owner)
    return output


def _common_owner(context: Context, args: Arguments, kwargs: Keywords) -> Any:
    """Return the owner of the first weight, None if there is none or something else is among the arguments."""
    others, owner = [], None
    for value in flat((*args, *kwargs.values())):
        if isinstance(value, Tensor):
            found = marks.identity(value) if isinstance(value, Parameter) else marks.get(value, marks.WEIGHT)
            owner = found if owner is None else owner
            if found is None:
                others.append(value)
    if owner is None or any(not _is_number(x) and not context.is_constant(x) for x in others):
        return None
    return owner


def _is_number(value: Tensor) -> bool:
    return value.numel() == 1 and value.is_floating_point()


def drawn(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Draw random numbers: constants, although torch gives what they are drawn by a gradient, of 0."""
    return function(*args, **kwargs).detach()


def ordinary(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward: for what selects, is linear in each input, or is smooth arithmetic."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    output = function(*args, **kwargs)
    marked = operands.mark(written(output, args))
    return None if output is None else marked


def moved(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward of a function that only moves values, and carry marks along."""
    operands, used, named = operands_of(context, args, kwargs)
    output = operands.mark(function(*used, **named))
    if operands.activations or operands.constants or operands.fixed:
        output = marks.carry(function, args, kwargs, output)
        if operands.activations:
            context.starts.carry(flat(args or kwargs.values()), output)
    if torch.compiler.is_dynamo_compiling() and isinstance(output, Tensor) and not operands.activations:
        _remember_whole(function, args, output)
    return output


_NAMES_OF_VIEWS = """
    __getitem__ view view_as reshape flatten ravel unflatten select narrow squeeze unsqueeze permute transpose t T mT
    swapaxes swapdims movedim moveaxis diagonal expand expand_as as_strided
"""
_VIEWS = frozenset(_NAMES_OF_VIEWS.split())


def _remember_whole(function: Function, args: Arguments, view: Tensor) -> None:
    """Remember, under torch.compile, of which weight or constant `view` is a part that may be written to."""
    whole = args[0] if args else None
    copies = any(isinstance(value, Tensor) for value in flat(args[1:]))  # x[indices]
    if isinstance(whole, Tensor) and function.__name__ in _VIEWS and not copies:
        marks.mark(view, marks.WHOLE, marks.get(whole, marks.WHOLE) or (whole,))


def gradient_inside(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Take a gradient inside the model, by torch.autograd.grad or backward(): an ordinary one; no credit passes it."""
    position = 4 if function is torch.autograd.grad else 3
    if kwargs.get("create_graph") or (len(args) > position and args[position]):
        raise FeedpropError(
            "a gradient taken with create_graph=True inside of an attached model: no rule says how credit passes a "
            "derivative; take it without create_graph, or after feedprop.detach(model)"
        )
    roots = flat((args[0] if args else kwargs.get("outputs", kwargs.get("tensors")),))
    if any(map(credit.is_compiled, credit.walk(getattr(root, "grad_fn", None) for root in roots))):
        raise FeedpropError(
            "a gradient taken inside of an attached model goes through a part that torch.compile compiled, which would "
            "pass credit instead; let the function that takes it run as it is, by torch.compiler.disable(function)"
        )
    if context.took_constants:
        raise FeedpropError(
            "a gradient taken inside of an attached model, after a product or quotient one of whose factors is a "
            "constant for the rules (x * sigmoid(x), or what divides, if rewards are conserved), would miss a part: "
            "write F.silu(x) or another activation function of torch, or take the gradient after feedprop.detach(model)"
        )
    with credit.derivative():
        return function(*args, **kwargs)


HANDLERS.update(dict.fromkeys((torch.autograd.grad, torch.autograd.backward, Tensor.backward), gradient_inside))


def refused(reason: str) -> Handler:
    """Return the handler of a function that cannot pass credit."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        if not any(isinstance(value, Tensor) and value.requires_grad for value in flat((*args, *kwargs.values()))):
            return function(*args, **kwargs)
        raise FeedpropError(f"no credit passes {getattr(function, '__name__', function)}: {reason}")

    return handle


def with_constants(names: str, *positions: int, soft_targets: bool = False) -> Handler:
    """Return `ordinary` for a function with arguments that torch cannot differentiate: they pass no credit.

    A mask that became a number is a constant in plain torch but carries credit here, so it must be detached.

    Args:
        names: of these arguments.
        positions: where they may stand.
        soft_targets: whether torch can differentiate them after all if the targets, the second argument, are floats.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        targets = args[1] if len(args) > 1 else kwargs.get("target")
        if not (soft_targets and isinstance(targets, Tensor) and targets.is_floating_point()):
            parts = [without_gradient((x,))[0] if position in positions else x for position, x in enumerate(args)]
            args, constant = tuple(parts), {name: x for name, x in kwargs.items() if name in names.split()}
            kwargs = kwargs | without_gradient(constant)
        return ordinary(context, function, args, kwargs)

    return based_on(ordinary, handle)


def based_on(handler: Handler, wrapped: Handler) -> Handler:
    """Note that `wrapped` extends `handler`, which in-place spellings must know. Returns `wrapped`."""
    wrapped.base = getattr(handler, "base", handler)  # type: ignore[attr-defined]
    return wrapped


def keeps_sign(handler: Handler) -> Handler:
    """Return a handler that marks the output as non-negative if no input is negative."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        parts = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        parts = parts if isinstance(parts, (tuple, list)) else (parts,)
        if isinstance(output, Tensor) and all(marks.known_non_negative(part) for part in parts):
            marks.mark_non_negative(output)  # halves the work of some rules
        return output

    return based_on(handler, handle)


def summed(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit by the ordinary backward of a sum, damped at its output (LRP-0, LRP-epsilon)."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    output = function(*args, **kwargs)
    return operands.mark(output) if operands.yield_weight else damped(context, output)


def damped(context: Context, output: Any) -> Any:
    """Return `output`, a sum or several, damped by the epsilon of the active rule."""
    if isinstance(output, Tensor):
        return credit.damped(output, context.active_rule().damping)
    return type(output)(damped(context, item) if isinstance(item, Tensor) else item for item in output)


def shared(context: Context, factors: Arguments) -> Arguments:
    """Return the factors of a product; if the composite conserves rewards, activations share the reward equally.

    See Achtibat et al. 2024 (AttnLRP), eq. 11. Otherwise each factor has the ordinary backward, as if the others were
    constants.
    """
    if not context.conserving:
        return factors
    activations = sum(1 for factor in flat(factors) if is_activation(factor))
    if activations < 2:
        return factors
    return tuple(_scaled(factor, 1 / activations) for factor in factors)


def flat(values: Any) -> Iterator[Any]:
    """Yield arguments one by one, also those inside lists and tuples."""
    for value in values:
        if type(value) in (list, tuple):
            yield from flat(value)
        else:
            yield value


def constant_where(mask: Tensor, where: Any) -> Tensor:
    """Return a mask that is a constant where `where` is true; of weights, it stays a weight.

    Args:
        mask: a comparison that became a number.
        where: booleans shaped like it, or True for everywhere.
    """
    constant = mask.detach() if where is True else torch.where(where, mask.detach(), mask)
    if credit.is_weight(mask):
        marks.mark_weight(constant, marks.get(mask, marks.WEIGHT))
    return constant


def as_constant(context: Context, value: Tensor) -> Tensor:
    """Return a factor or divisor as a constant, to which no credit passes."""
    if value.requires_grad:
        context.took_constants = True
    return value.detach()


def without_gradient(values: Any) -> Any:
    """Return arguments (a tuple or dictionary of them) with every tensor detached."""
    if isinstance(values, dict):
        return {name: without_gradient(value) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)([without_gradient(value) for value in values])
    return values.detach() if isinstance(values, Tensor) else values


def is_activation(value: Any) -> bool:
    """Whether an argument is a tensor that carries credit: it needs a gradient and is no weight."""
    return isinstance(value, Tensor) and value.requires_grad and not credit.is_weight(value)


def _scaled(value: Any, share: float) -> Any:
    if type(value) in (list, tuple):
        return type(value)([_scaled(item, share) for item in value])
    return credit.scaled(value, share) if is_activation(value) else value
