"""Handlers whose results remember their sources: elementwise functions, those that mix values, views and copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from feedprop.credit import marks
from feedprop.operations.kinds import MULTIPLE, NORMALISED, PARTLY, Kind, KindOf
from feedprop.operations.places import Mix, Move, Way, indices_among, is_mixed, root_of, same, version_of
from feedprop.operations.registry import FAR, Arguments, Context, Function, Handler, Keywords, based_on
from feedprop.operations.sources import Change, Source, Sources, changed, remember

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
        beside = (*args[1:], *kwargs.values())
        if isinstance(output, Tensor):
            mixed(x, output, keeps_places=keeps_places, beside=beside)
        elif isinstance(output, (tuple, list)) and not torch.compiler.is_dynamo_compiling():
            for part in output:  # which torch.compile does not mark
                mixed(x, part, keeps_places=keeps_places, beside=beside)
        return output

    return based_on(handler, handle)


def mixed(x: Tensor, output: Any, *, keeps_places: bool = False, beside: Arguments = ()) -> None:
    """Remember that each element of `output` was computed from several of `x`; `beside` are the other arguments."""
    if not isinstance(output, Tensor) or not output.requires_grad:
        return
    remember(output, changed((x,), output.shape, _normalised if keeps_places and output.shape == x.shape else _mixed))
    if marks.get(x, marks.SELECTION) is not None:
        learns = any(isinstance(value, Tensor) and value.requires_grad and value is not x for value in beside)
        if not learns:  # a scale or offset makes it a value
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


def _unchanged(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
    return [*sources[0]]


def _normalised(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
    return [(of, max(kind, NORMALISED)) for of, kind in sources[0]]


def _mixed(sources: Sequence[Sequence[Source]], shape: torch.Size) -> list[Source]:
    return [(Mix(of, shape), PARTLY) for of, _ in sources[0]]
