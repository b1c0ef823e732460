"""Remembers of which tensors a result is a function, its sources, and what kind of function it is (see `kinds`).

Each elementwise result, and each view or copy, remembers its sources, the nearest first, so that a product can tell
whether its factors are functions of the same values (`self_gated`).
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
from feedprop.operations.kinds import GATE, MULTIPLE, NORMALISED, PARTLY, Kind, KindOf
from feedprop.operations.places import (
    Mix,
    Move,
    Way,
    covers,
    indices_among,
    is_mixed,
    meeting,
    root_of,
    same,
    version_of,
)
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, based_on, is_activation

FAR = 1e4  # numbers from here on stand for infinity: a step between them, (1 - mask) * -1e9, is a mask, no value
FARTHEST = 6  # number of sources that a result remembers, the nearest first
DEEPEST = 64  # number of results in a row whose sources are not worked out
Source = tuple[Any, int]  # what stands for values of a tensor (`_values`), a Move or a Mix; the kind of function
MovingCall = tuple[str, Function, bool, Arguments, Keywords]  # see `Way`


def tracked(handler: Handler, kind_of: KindOf) -> Handler:
    """Return a handler that remembers the sources of its results.

    Args:
        handler: of an elementwise function.
        kind_of: of these functions (see `kinds`).
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        if not isinstance(output, Tensor) or not output.requires_grad:
            return output
        factors, differing = _factors(args, kwargs)
        if not factors:
            return output
        if factors[0] is not output and len(factors) < 3:
            remember(output, changed(factors, output.shape, _combined(kind_of(function, args, kwargs), differing)))
        if _all_select(factors):
            if any(isinstance(value, (int, float)) and abs(value) >= FAR for value in (*args, *kwargs.values())):
                return output.detach()
            marks.mark(output, marks.SELECTION, True)  # 1 - mask, mask * mask, mask + mask
        return output

    handle.kind_of = kind_of  # type: ignore[attr-defined]
    return based_on(handler, handle)


def mixes(handler: Handler, *, keeps_places: bool = False) -> Handler:
    """Return a handler of functions that compute each element from several, a sum or a softmax, which remembers that.

    Args:
        handler: of functions whose first argument is a tensor.
        keeps_places: whether each element of the result belongs to one of the input, as in a softmax.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or not x.requires_grad:
            return output
        if isinstance(output, Tensor):
            _mix(x, output, keeps_places=keeps_places)
        elif (
            isinstance(output, (tuple, list)) and not torch.compiler.is_dynamo_compiling()
        ):  # which marks no parts of tuples
            for part in output:
                _mix(x, part, keeps_places=keeps_places)
        return output

    return based_on(handler, handle)


def _mix(x: Tensor, output: Any, *, keeps_places: bool) -> None:
    if not isinstance(output, Tensor) or not output.requires_grad:
        return
    remember(output, changed((x,), output.shape, _normalised if keeps_places and output.shape == x.shape else _mixed))
    if marks.get(x, marks.SELECTION) is not None:
        marks.mark(output, marks.SELECTION, True)


def moves(handler: Handler, name: str = "", *, in_order: bool = False) -> Handler:
    """Return a handler of views and copies whose results remember the sources of what they hold.

    Args:
        handler: of functions that take a tensor, or several.
        name: of what the functions do; by default each does something else.
        in_order: whether a result that holds all values has them in order, as that of `view` has.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        given = "input" if "input" in kwargs else "tensors"
        x = args[0] if args else kwargs.get(given)
        joins = isinstance(x, (tuple, list))
        parts: tuple[Any, ...] = tuple(x) if isinstance(x, (tuple, list)) else (x,)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            return output
        named = {key: value for key, value in kwargs.items() if args or key != given} if kwargs else kwargs
        call: MovingCall = (name or function.__name__, function, joins, args[1:], named)
        if isinstance(output, Tensor):
            _move(parts, output, call, None, in_order=in_order)
        elif isinstance(output, (tuple, list)):
            output = marks.markable(output)
            for place, part in enumerate(output):
                _move(parts, part, call, place, in_order=in_order)
        return output

    return based_on(handler, handle)


def _move(parts: tuple[Tensor, ...], output: Tensor, call: MovingCall, place: int | None, *, in_order: bool) -> None:
    """Remember the sources of `output`, which holds values of `parts`; those of booleans are in their comparison."""
    x = parts[0]
    comparison = marks.get(output, marks.COMPARISON)
    if output is x or not (output.requires_grad or comparison is not None):
        return
    selects = _all_select(parts)
    if len(parts) > 1 and not selects and comparison is None:
        return
    name, _, _, rest, _ = call
    in_order = in_order and len(parts) == 1 and output.numel() == x.numel()
    if comparison is not None and not (in_order and name != "__getitem__"):
        compared = [getattr(marks.get(part, marks.COMPARISON), "sources", None) or () for part in parts]
        sources = _mover(parts, call, place)(compared, output.shape)
        marks.mark(output, marks.COMPARISON, comparison._replace(sources=sources))
    if not output.requires_grad:
        return
    kept = in_order and (name != "__getitem__" or _is_plain(rest[0]))
    remember(output, changed(parts, output.shape, _unchanged if kept else _mover(parts, call, place)))
    if selects:
        marks.mark(output, marks.SELECTION, True)


def _mover(parts: tuple[Tensor, ...], call: MovingCall, place: int | None) -> Change:
    """Return the function that moves the sources of the parts, a list for each, as `call` moved their values."""
    *_, rest, named = call
    indices = indices_among(rest, named)
    shapes, version = tuple([part.shape for part in parts]), version_of(indices) if indices else 0
    constant = not indices or not any(x.requires_grad for x in indices)

    def moved(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
        """Return the sources that all parts have; those of each part may have been moved in a way of its own."""
        way = Way(*call, place, shapes, shape, version)
        found: list[Source] = []
        first, *others = sources
        for of, kind in first if constant else ():
            matching = [_of_same_root(of, candidates) for candidates in others]
            if all(match is not None for match in matching):
                found.append((Move((of, *matching), way), kind))
        return found

    return moved


def _of_same_root(of: Any, sources: Any) -> Any:
    root = root_of(of)
    return next((other for other, _ in sources if root_of(other) is root and is_mixed(other) == is_mixed(of)), None)


def _is_plain(index: Any) -> bool:
    """Whether an index that takes all elements takes them in order: slices and the like, no tensors or lists."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (slice, int)) for part in parts)


def before_write(handler: Handler, function: Function, args: Arguments, kwargs: Keywords) -> Sources:
    """Return the sources that the first argument will have once the result of a tracked function is written to it."""
    kind_of = getattr(handler, "kind_of", None)
    factors, differing = _factors(args, kwargs)
    if kind_of is None or not 0 < len(factors) < 3 or factors[0] is not args[0]:
        return []
    return changed(factors, factors[0].shape, _combined(kind_of(function, args, kwargs), differing))


def after_write(target: Tensor, sources: Sources) -> None:
    """Remember the sources of what was written, the values of before among them."""
    remember(target, sources)


def _all_select(factors: Sequence[Tensor]) -> bool:
    if marks.get(factors[0], marks.SELECTION) is None:  # so it is mostly
        return False
    return all(marks.get(x, marks.SELECTION) is not None for x in factors)


def _factors(args: Arguments, kwargs: Keywords) -> tuple[list[Tensor], bool]:
    """Return the arguments that require a gradient, and whether there are constants that differ between elements.

    There are no factors if one of these constants is larger.
    """
    factors: list[Tensor] = []
    constants: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) is Tensor or isinstance(value, Tensor):  # the first is faster
            if value.requires_grad:
                factors.append(value)
            elif value.numel() != 1:
                constants.append(value)
    if factors and constants:
        shape = factors[0].shape
        if any(x.dim() > len(shape) or _spreads(x.shape, shape) for x in constants):
            return [], True
    return factors, bool(constants)


def _spreads(shape: torch.Size, of: torch.Size) -> bool:
    """Whether a tensor of the shape `of` grows when it meets one of `shape`."""
    return any(size not in (1, own) for size, own in zip(reversed(shape), reversed(of), strict=False))


def _combined(kind: Kind, differing: bool) -> Change:
    """Return the change of an elementwise function; `differing` are constants among its arguments (see `_factors`)."""

    def combined(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
        return _of_both(of, *sources) if len(sources) == 2 else [(x, of(by_x)) for x, by_x in sources[0]]

    def of(*kinds: int) -> int:
        largest = max(NORMALISED if differing else MULTIPLE, *kinds)
        return largest if largest >= NORMALISED else kind(*kinds)

    return combined


def _of_both(kind: Kind, a: Sequence[Source], b: Sequence[Source]) -> list[Source]:
    """Return the sources of what is computed from two factors: first those that they share."""
    roots = [root_of(y) for y, _ in b]
    found: list[Source] = []
    alone: list[Source] = []
    matched = [False] * len(b)
    for x, by_x in a:
        root, before = root_of(x), len(found)
        for place, (y, by_y) in enumerate(b):
            if roots[place] is root and same(x, y):
                found.append((x, kind(by_x, by_y)))
                matched[place] = True
        if len(found) == before:
            alone.append((x, PARTLY))
    return found + alone + [(y, PARTLY) for (y, _), met in zip(b, matched, strict=True) if not met]


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
    copy = laid_out_alike(target)
    weight = marks.get(target, marks.WEIGHT)
    if weight is not None:
        return marks.mark_weight(copy, weight)
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


def laid_out_alike(x: Tensor) -> Tensor:
    """Return a copy whose elements lie in memory as those of `x` do: the last digits of functions depend on that."""
    if x.is_contiguous() or 0 in x.stride() or torch.compiler.is_dynamo_compiling() or credit.transformed():
        return x.clone()
    return x.new_empty_strided(x.shape, x.stride()).copy_(x)


def hand_on(result: Tensor, target: Tensor) -> None:
    """Copy the sources of `result` to `target`, which now holds its values."""
    for kind in (marks.SOURCES, marks.SELECTION):
        value = marks.get(result, kind)
        if value is not None:
            marks.mark(target, kind, value)


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


def _unchanged(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
    return [*sources[0]]


def _normalised(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
    return [(of, max(kind, NORMALISED)) for of, kind in sources[0]]


def _mixed(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
    return [(Mix(of, shape), PARTLY) for of, _ in sources[0]]


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


def where_selected(x: Tensor, mask: Tensor) -> Any:
    """Return where `mask`, a comparison that became a number, was computed from the values of x that it multiplies.

    Returns:
        True for everywhere, False for nowhere, or a tensor of booleans.
    """
    own = [of for of, kind in _sources(x) if kind < PARTLY]
    compared = [of for of, _ in _sources(mask)]
    pairs = [(a, b) for a in own for b in compared if root_of(a) is root_of(b)]
    if any(covers(a, b) and (x.shape == mask.shape or is_mixed(b)) for a, b in pairs):
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
