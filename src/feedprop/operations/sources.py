"""The sources of a result: of which tensors it is a function, and of what kind (see `kinds`).

Results remember them (`tracking`), the nearest first, so that a product can tell whether its factors are functions of
the same values (`self_gated`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from feedprop import credit
from feedprop.credit import marks
from feedprop.credit.readable import readable
from feedprop.operations.kinds import GATE, MULTIPLE, PARTLY
from feedprop.operations.places import Mix, Move, covers, inner_of, is_mixed, meeting, root_of, same
from feedprop.operations.registry import Arguments, is_activation

FARTHEST = 12  # number of sources that a result remembers, the nearest first
DEEPEST = 64  # number of results in a row whose sources are not worked out
Source = tuple[Any, int]  # what stands for values of a tensor (`_values`), a Move or a Mix; the kind of function


def sources_of(*values: Any) -> list[Source]:
    """Return the tensors of which values are functions, for a result that is a gate."""
    found = [source for value in values if isinstance(value, Tensor) for source in _sources(value)]
    return [(of, max(kind, GATE)) for of, kind in found]


def selects(output: Tensor, sources: list[Source]) -> None:
    """Mark `output` as a comparison of `sources` that became a number."""
    marks.mark(output, marks.SELECTION, True)
    remember(output, sources)


def copied(target: Tensor, others: Arguments) -> Tensor:
    """Return a copy of `target`, which is about to be overwritten, for a product with `others`."""
    copy = same_kind(target)
    if not is_activation(target):
        return copy
    hand_on(target, copy)
    if not torch.compiler.is_dynamo_compiling():
        remember(copy, list(_sources(target)))
        return copy
    for other in others:  # traced, a tensor stands for its values: the copy replaces what will be overwritten
        if is_activation(other) and other is not target:
            remember(other, [(_replaced(x, target, copy), kind) for x, kind in _sources(other)][1:])
    return copy


def same_kind(target: Tensor) -> Tensor:
    """Return a copy of `target`, laid out alike, that is a weight or constant if that is one."""
    copy = laid_out_alike(target)
    marks.copy(target, copy, (marks.WEIGHT, marks.CONSTANT))
    return copy


def laid_out_alike(x: Tensor) -> Tensor:
    """Return a copy whose elements lie in memory as those of `x` do: the last digits of functions depend on that."""
    if x.is_contiguous() or 0 in x.stride() or credit.traced():
        return x.clone()
    return x.new_empty_strided(x.shape, x.stride()).copy_(x)


def hand_on(result: Tensor, target: Tensor) -> None:
    """Copy the sources of `result` to `target`, which now holds its values."""
    marks.copy(result, target, (marks.SOURCES, marks.SELECTION))


def remember(output: Tensor, sources: Sources) -> None:
    """Remember the sources of `output`, the nearest first."""
    marks.mark(output, marks.SOURCES, sources if isinstance(sources, Later) else sources[:FARTHEST])


class Later:
    """Sources of a result that are worked out when somebody asks: most of them nobody needs.

    Args:
        parts: what stands for the values from which the result was computed, each with their sources.
        change: from these sources to those of the result.
        shape: of the result.
        depth: how many that are worked out later are behind this.
    """

    __slots__ = ("change", "depth", "found", "parts", "shape")

    def __init__(self, parts: list[tuple[Any, Sources]], change: Change, shape: torch.Size, depth: int) -> None:
        self.parts, self.change, self.shape, self.depth = parts, change, shape, depth
        self.found: list[Source] | None = None

    def sources(self) -> list[Source]:
        """Return the sources, the nearest first."""
        if self.found is None:
            before = [[(values, MULTIPLE), *_listed(sources)] for values, sources in self.parts]
            self.found = self.change(before, self.shape)[:FARTHEST]
            self.parts = []
        return self.found


Sources = list[Source] | Later
Change = Callable[[Sequence[Sequence[Source]], torch.Size], list[Source]]  # of the sources of one tensor or several


def changed(tensors: Iterable[Tensor], shape: torch.Size, change: Change) -> Sources:
    """Return the sources of a result of this shape: those of what it was computed from, changed in some way."""
    if torch.compiler.is_dynamo_compiling():
        return change([list(_sources(x)) for x in tensors], shape)
    parts: list[tuple[Any, Sources]] = []
    depth = 0
    for x in tensors:
        before: Sources = marks.get(x, marks.SOURCES) or []
        if type(before) is Later and before.depth >= depth:
            depth = before.depth + 1
        parts.append((_values(x), before))
    later = Later(parts, change, shape, depth)
    return later if depth < DEEPEST else later.sources()


def _listed(sources: Sources) -> list[Source]:
    return sources.sources() if isinstance(sources, Later) else sources


def _sources(value: Tensor) -> Iterator[Source]:
    """Yield the values that `value` is a function of, its own first; some may be gone, or overwritten, by now."""
    yield _values(value), MULTIPLE
    yield from _listed(marks.get(value, marks.SOURCES) or [])


class _Values:
    """Stands for the values of a tensor at one time, and does not keep them."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape


def _values(x: Tensor) -> Any:
    """Return what stands for the present values of `x`: a parameter, or a tensor that is traced, stands for itself."""
    if torch.compiler.is_dynamo_compiling() or (type(x) is not Tensor and isinstance(x, Parameter)):
        return x
    found = marks.get(x, marks.VALUES)
    if found is None:
        found = _Values(x.shape)
        marks.mark(x, marks.VALUES, found)
    return found


def common(a: Tensor, b: Tensor) -> list[tuple[Any, int, int]]:
    """Return the values of which both are functions alone, nearest first, each with the kinds of a and b."""
    of_b = [(y, kind) for y, kind in _sources(b) if kind <= GATE]
    return [(x, by_a, by_b) for x, by_a in _sources(a) if by_a <= GATE for y, by_b in of_b if same(x, y)]


def selects_as_statistic(x: Tensor, mask: Tensor) -> bool:
    """Whether `mask` was computed from all values of x; or is a count, and x was summed from what it counts."""
    mixed = [of for of, _ in _sources(mask) if is_mixed(of)]
    if not mixed:
        return False
    found = [(of, kind) for of, kind in _sources(x) if kind < PARTLY or is_mixed(of)]
    own = [inner_of(of) if kind == PARTLY else of for of, kind in found]
    return any(covers(a, b) for a in own for b in mixed)


def where_selected(x: Tensor, mask: Tensor) -> Any:
    """Return where `mask`, a comparison that became a number, was computed from the values of x that it multiplies.

    Returns:
        True for everywhere, False for nowhere, or a tensor of booleans.
    """
    if selects_as_statistic(x, mask):
        return True
    own = [of for of, kind in _sources(x) if kind < PARTLY]
    compared = [of for of, _ in _sources(mask)]
    pairs = [(a, b) for a in own for b in compared if root_of(a) is root_of(b)]
    if x.shape == mask.shape and any(covers(a, b) for a, b in pairs):
        return True
    if credit.transformed():
        return any(covers(a, b) for a, b in pairs)
    where: Any = False
    for a, b in pairs:
        found = meeting(a, b, x, mask)
        if found is not None:
            where = found if where is False else where | found
    if where is False or not readable(where):
        return where
    return bool(where.any()) and (bool(where.all()) or where)


def _replaced(source: Any, old: Tensor, new: Tensor) -> Any:
    """Return a source in which a tensor stands for its values with another one in its place."""
    if isinstance(source, Move):
        return source._replace(parts=tuple(_replaced(part, old, new) for part in source.parts))
    if isinstance(source, Mix):
        return source._replace(of=_replaced(source.of, old, new))
    return new if source is old else source
