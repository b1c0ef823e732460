"""What stands for values that were moved or mixed, and where in a tensor they came from.

A mask selects what it was computed from. Whether it was, the positions tell: each move of the mask's values and of
those that it multiplies is repeated with the positions of the tensor that both come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedprop.credit import marks
from feedprop.operations.registry import Arguments, Function, Keywords, flat


class Way(NamedTuple):
    """How values were moved: by `function`, given them and the rest of its arguments."""

    name: str  # of what was done
    function: Function
    joins: bool  # whether it takes a list of tensors
    rest: Arguments
    named: Keywords
    place: int | None  # of the result among several
    shapes: tuple[torch.Size, ...]  # of the tensors that it takes
    shape: torch.Size  # of the result
    version: int  # of the indices among the arguments: how often they have been written to

    @property
    def comparable(self) -> Any:
        """Return what was done, to be compared; None if its arguments cannot be."""
        given = (*self.rest, *self.named.values())
        return (self.name, given, [*self.named], self.place, self.shapes) if all(map(_is_constant, given)) else None


class Move(NamedTuple):
    """Stands for values that were moved from `parts`."""

    parts: tuple[Any, ...]
    way: Way

    def does_as(self, other: Move) -> bool:
        """Whether both did the same with their parts."""
        mine = self.way.comparable
        return len(self.parts) == len(other.parts) and mine is not None and mine == other.way.comparable

    @property
    def shape(self) -> torch.Size:
        return self.way.shape


class Mix(NamedTuple):
    """Stands for a result each of whose elements is computed from several values of `of`, as a sum is."""

    of: Any
    shape: torch.Size


def covers(a: Any, b: Any) -> bool:
    """Whether a comparison of `b` is computed from the values `a`, as far as the ways in which they were moved tell."""
    while is_mixed(b):
        if isinstance(b, Mix) and same(a, b.of):
            return True
        b = inner_of(b)
    return same(a, b)


def meeting(a: Any, b: Any, x: Tensor, mask: Tensor) -> Tensor | None:
    """Return where the elements of the mask were computed from those of x, by following all positions."""
    mixed = is_mixed(b)
    while is_mixed(b):
        b = inner_of(b)
    of_x, of_mask = (_positions(source, x.device) for source in (a, b))
    if of_x is None or of_mask is None or of_x.numel() != x.numel():
        return None
    of_x = of_x.reshape(x.shape)
    if mixed:
        return torch.isin(of_x, of_mask.flatten())
    return of_x == of_mask.reshape(mask.shape) if of_mask.numel() == mask.numel() else None


def _positions(source: Any, device: torch.device) -> Tensor | None:
    """Return the positions of the values that a source stands for in the tensor that they were moved out of."""
    if not isinstance(source, Move):
        return torch.arange(source.shape.numel(), device=device).view(source.shape)
    way = source.way
    found = [_positions(part, device) for part in source.parts]
    inputs = [x.reshape(shape) for x, shape in zip(found, way.shapes, strict=True) if x is not None]
    if len(inputs) < len(found) or version_of(indices_among(way.rest, way.named)) != way.version:
        return None
    try:
        output = way.function(inputs if way.joins else inputs[0], *way.rest, **way.named)
    except RuntimeError:  # it takes no integers
        return None
    moved: Tensor = output if way.place is None else output[way.place]
    return moved


def is_mixed(source: Any) -> bool:
    """Whether there is a `Mix` in a source."""
    while isinstance(source, Move):
        source = source.parts[0]
    return isinstance(source, Mix)


def inner_of(source: Any) -> Any:
    """Return what the outermost `Mix` of a source was computed from."""
    while isinstance(source, Move):
        source = source.parts[0]
    return source.of


def root_of(source: Any) -> Any:
    """Return what stands for the values that a source was moved and mixed out of."""
    while isinstance(source, (Move, Mix)):
        source = source.parts[0] if isinstance(source, Move) else source.of
    return source


def same(a: Any, b: Any) -> bool:
    """Whether two sources are the same values, moved in the same ways."""
    while isinstance(a, Move) and isinstance(b, Move):
        if len(a.parts) > 1 or not a.does_as(b):
            return False
        a, b = a.parts[0], b.parts[0]
    return not isinstance(a, (Move, Mix)) and a is b


def indices_among(rest: Arguments, named: Keywords) -> list[Tensor]:
    """Return the tensors among the further arguments of what moves values."""
    if not named and _WITHOUT_TENSORS.issuperset(map(type, rest)):
        return []
    return [value for value in flat((*rest, *named.values())) if isinstance(value, Tensor)]


_WITHOUT_TENSORS = {int, float, bool, str, slice, type(None), type(...)}


def version_of(tensors: Iterable[Tensor]) -> int:
    """Return how often tensors were written to, all together."""
    return sum(map(marks.version, tensors))


def _is_constant(value: Any) -> bool:
    """Whether an argument is equal to another one if it means the same."""
    if isinstance(value, slice):
        return all(map(_is_constant, (value.start, value.stop, value.step)))
    if isinstance(value, (tuple, list)):
        return all(map(_is_constant, value))
    return value is None or value is ... or isinstance(value, (int, float, str, torch.dtype, torch.device))
