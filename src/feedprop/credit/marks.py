"""Everything that is remembered about a tensor: one place to set, read, carry along and forget it.

A mark holds for the values that the tensor had when it was set. It stores the version of the tensor's memory, so any
write ends it, also a write through a view. torch.compile hides versions; there the in-place handlers call `forget`.

    WEIGHT        computed from parameters alone: gets feedback, never a share of the reward
    CONSTANT      whether it is known to depend on the model's inputs (False) or not to (True); it has no gradient
    WHOLE         the weight or constant of which the tensor is a part; under torch.compile, which has no `_base`
    UNDAMPED      the tensor before the damping of LRP-epsilon
    COMPARISON    the comparison that computed a mask
    SOURCES       the tensors of which an elementwise result is a function
    SELECTION     whether it is a comparison that became a number
    NON_NEGATIVE  no value is negative
    START         where a reward on an output of 0 enters (see `feedprop.credit.start`)
    READERS       the nodes of activations that will need these values in the backward pass
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

WEIGHT, CONSTANT, WHOLE, UNDAMPED, COMPARISON, SOURCES, SELECTION, NON_NEGATIVE, START, READERS, VALUES = KINDS = (
    "_feedprop_weight",
    "_feedprop_constant",
    "_feedprop_whole",
    "_feedprop_undamped",
    "_feedprop_comparison",
    "_feedprop_sources",
    "_feedprop_selection",
    "_feedprop_non_negative",
    "_feedprop_start",
    "_feedprop_readers",
    "_feedprop_values",
)
_ELEMENTWISE, _EVERYWHERE, _JUMPS = "_feedprop_elementwise", "_feedprop_everywhere", "_feedprop_jumps"  # on functions


class Undamped(NamedTuple):
    """The tensor before damping, and the epsilon that it was damped with."""

    tensor: Tensor
    epsilon: float
    fuses: bool = True  # whether an activation may take its credit around the damped tensor


class Comparison(NamedTuple):
    """A mask as a step function of a difference: `yes` where compare(difference, 0), else `no`."""

    tensor: Tensor
    compare: Callable[[Any, Any], Any]
    yes: float = 1.0
    no: float = 0.0
    sources: Any = None  # the tensors that were compared


class Start(NamedTuple):
    """Where a reward on an output of 0 enters: as the credit reward / tensor, or as it is (`undivided`)."""

    tensor: Tensor | None  # None if it was overwritten
    undivided: bool = False


def version(tensor: Tensor) -> int:
    """Return how often the memory of a tensor was written to, views included; under torch.compile 0."""
    return 0 if torch.compiler.is_dynamo_compiling() else tensor._version


def mark(tensor: Tensor, kind: str, value: Any) -> None:
    """Remember `value` about the present values of `tensor`. Parameters, which outlive the pass, are not marked."""
    if type(tensor) is not Tensor and isinstance(tensor, Parameter):
        return
    setattr(tensor, kind, (value, version(tensor)))


def get(tensor: Any, kind: str) -> Any:
    """Return what is remembered about the present values of `tensor`, or None."""
    found = getattr(tensor, kind, None)
    if found is None:
        return None
    value, at = found
    return value if at == version(tensor) else None


def copy(source: Tensor, target: Tensor, kinds: Iterable[str]) -> None:
    """Remember about `target`, which now holds the values of `source`, what is known of these."""
    for kind in kinds:
        value = get(source, kind)
        if value is not None:
            mark(target, kind, value)


def forget(tensor: Tensor) -> None:
    """Forget everything about `tensor`, because it is about to be written to."""
    compiling = torch.compiler.is_dynamo_compiling()
    for kind in KINDS:
        if compiling and getattr(tensor, kind, None) is not None:
            setattr(tensor, kind, None)
        elif not compiling:
            tensor.__dict__.pop(kind, None)


def clear(tensor: Tensor) -> None:
    """Remove everything that feedprop has ever remembered about `tensor`."""
    tensor.__dict__ = _others(tensor)


@contextlib.contextmanager
def hidden(tensor: Tensor) -> Iterator[None]:
    """Hide within the block what is remembered about `tensor`."""
    everything = tensor.__dict__
    tensor.__dict__ = _others(tensor)
    try:
        yield
    finally:
        tensor.__dict__ = everything


def _others(tensor: Tensor) -> dict[str, Any]:
    return {name: value for name, value in tensor.__dict__.items() if not name.startswith("_feedprop")}


def is_weight(value: Any) -> bool:
    """Whether a tensor is a parameter, or was computed from parameters alone."""
    if type(value) is Tensor:  # isinstance(value, Parameter) is slow
        return get(value, WEIGHT) is not None
    return isinstance(value, Parameter) or (isinstance(value, Tensor) and get(value, WEIGHT) is not None)


def identity(parameter: Tensor) -> Any:
    """Return the id of a parameter; under torch.compile, where asking for an id ties the code to it, the parameter."""
    return parameter if torch.compiler.is_dynamo_compiling() else id(parameter)


def mark_weight(tensor: Tensor, owner: Any = True) -> Tensor:
    """Remember that `tensor` was computed from parameters alone; `owner` is the `identity` of the first of them.

    A tensor that torch.func gave for a parameter has its owners instead.
    """
    mark(tensor, WEIGHT, owner)
    return tensor


def mark_non_negative(tensor: Tensor) -> None:
    """Remember that no value of `tensor` is negative (not under torch.compile)."""
    if not torch.compiler.is_dynamo_compiling():
        mark(tensor, NON_NEGATIVE, True)


def known_non_negative(value: Any) -> bool:
    """Whether an earlier operation has made sure that no value is negative."""
    return not torch.compiler.is_dynamo_compiling() and get(value, NON_NEGATIVE) is not None


def mark_reader(tensor: Tensor, result: Tensor) -> None:
    """Remember that the backward pass of `result` will need the values of `tensor` (not under torch.compile)."""
    if not torch.compiler.is_dynamo_compiling() and (node := result.grad_fn) is not None:
        memory = tensor if tensor._base is None else tensor._base
        mark(memory, READERS, [*(x for x in get(memory, READERS) or () if x() is not None), weakref.ref(node)])


def readers(tensor: Tensor) -> Iterator[Any]:
    """Yield the nodes whose backward pass will need the values in the memory of `tensor`."""
    undamped: Undamped | None = get(tensor, UNDAMPED)
    for memory in (tensor, *(() if undamped is None else (undamped.tensor,))):
        for reader in get(memory, READERS) or ():
            if (node := reader()) is not None:
                yield node


def mark_elementwise(function: Callable[..., Any]) -> None:
    """Remember that each value of `function` depends only on the number at its own position."""
    if not torch.compiler.is_dynamo_compiling():
        setattr(function, _ELEMENTWISE, True)


def known_elementwise(function: Callable[..., Any]) -> bool:
    return getattr(function, _ELEMENTWISE, False)


def mark_everywhere(function: Callable[..., Any]) -> None:
    """Remember that each number has a finite value under `function`."""
    setattr(function, _EVERYWHERE, True)


def known_everywhere(function: Callable[..., Any]) -> bool:
    return getattr(function, _EVERYWHERE, False)


def mark_jumps(function: Callable[..., Any]) -> None:
    """Remember that `function` is constant but for jumps: a step, a rounding."""
    setattr(function, _JUMPS, True)


def known_to_jump(function: Callable[..., Any]) -> bool:
    return getattr(function, _JUMPS, False)


CARRIED = (COMPARISON, UNDAMPED, START)


def carry(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Carry marks along an operation that only moves values, output = function(*args, **kwargs). Returns the output.

    The tensor in a mark is moved in the same way. If several tensors are joined, all must have the mark.
    """
    name = "input" if "input" in kwargs else "tensors"
    moved = args[0] if args else kwargs.get(name)
    parts = moved if isinstance(moved, (tuple, list)) else (moved,)
    for kind in CARRIED:
        if not parts or getattr(parts[0], kind, None) is None:
            continue
        found = [get(part, kind) for part in parts]
        if any(value is None or value.tensor is None for value in found):
            continue
        first = found[0]
        if any(value[1:4] != first[1:4] for value in found):  # all but the tensor, and the sources of a comparison
            continue
        tensors: Any = [value.tensor for value in found] if isinstance(moved, (tuple, list)) else first.tensor
        result = function(tensors, *args[1:], **kwargs) if args else function(**kwargs | {name: tensors})
        output = markable(output)
        weight = get(first.tensor, WEIGHT)
        for part, tensor in _pairs(output, result):
            if weight is not None:
                mark_weight(tensor, weight)
            mark(part, kind, first._replace(tensor=tensor))
    return output


def markable(output: Any) -> Any:
    """Return `output` with parts that can be marked: torch.compile marks no part of a tuple, but a view of it."""
    if not (torch.compiler.is_dynamo_compiling() and isinstance(output, (tuple, list))):
        return output
    views = []
    for part in output:
        view = part.view_as(part)
        copy(part, view, KINDS)
        views.append(view)
    return tuple(views)


def _pairs(output: Any, result: Any) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(output, Tensor):
        yield output, result
    elif isinstance(output, (tuple, list)):
        for part, tensor in zip(output, result, strict=True):
            yield from _pairs(part, tensor)
