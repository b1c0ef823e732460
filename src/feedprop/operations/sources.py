"""Remembers of which tensors a result is a function, its sources, and what kind of function it is.

Each elementwise result, and each view or copy, remembers its sources, the nearest first, so that a product can tell
whether its factors are functions of the same values (`self_gated`). The kind of a result is a number; a result of
several sources has the largest.

    MULTIPLE    of the source: 2 * x, x.clone(), -x; also its values in another shape, in the same order
    OFFSET      x + 1, x + x
    ARITHMETIC  powers, products and smooth functions of it: x * x, x.log(), x.exp()
    SUM         arithmetic plus something: divided by it, x is an activation, x / (1 + exp(-x)) or x / (1 + |x|)
    GATE        an activation function took part, or erf
    NORMALISED  another function at each place: softmax, layer_norm, constants that differ from element to element
    PARTLY      other values took part: x.sum(), x - x.mean(), x + y
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from feedprop import credit
from feedprop.credit import marks
from feedprop.credit.readable import readable
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
from feedprop.operations.products import EXPONENTS
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, based_on, is_activation

FARTHEST = 6  # number of sources that a result remembers, the nearest first
MULTIPLE, OFFSET, ARITHMETIC, SUM, GATE, NORMALISED, PARTLY = range(7)
Source = tuple[
    Any, int
]  # what stands for the values of a tensor (`_values`), a Move or a Mix; and the kind of function
Call = tuple[Function, Arguments, Keywords]
MovingCall = tuple[str, Function, bool, Arguments, Keywords]  # see `Way`
KindOf = Callable[..., int]  # takes the kinds of the arguments and the call


def multiple(*kinds: int, call: Call) -> int:
    """Return the kind of a multiple, x * 2."""
    return kinds[0]


def smooth(*kinds: int, call: Call) -> int:
    """Return the kind of a smooth function of one number, or of a product of two."""
    return GATE if GATE in kinds else ARITHMETIC


def multiplied(*kinds: int, call: Call) -> int:
    """Return the kind of a product: with a constant, a multiple."""
    return kinds[0] if len(kinds) == 1 else smooth(*kinds, call=call)


def added(*kinds: int, call: Call) -> int:
    """Return the kind of a sum or difference."""
    return max(OFFSET if max(kinds) <= OFFSET else SUM, *kinds)


def gate(*kinds: int, call: Call) -> int:
    """Return the kind of an activation function."""
    return GATE


def raised(*kinds: int, call: Call) -> int:
    """Return the kind of a power: a negative one of a sum is a gate."""
    function, args, kwargs = call
    base, *rest = (*args, *(kwargs[name] for name in ("input", "self", "exponent") if name in kwargs))
    exponent = rest[0] if rest else EXPONENTS.get(function.__name__)
    if len(kinds) > 1 or not isinstance(base, Tensor) or not base.requires_grad:
        return smooth(*kinds, call=call)  # x ** x, 2 ** x
    if kinds[0] == SUM and isinstance(exponent, (int, float)) and exponent < 0:
        return GATE
    return max(ARITHMETIC, kinds[0])


def divided(*kinds: int, call: Call) -> int:
    """Return the kind of a quotient: by a sum, it is a gate."""
    _, args, kwargs = call
    numerator = args[0] if args else kwargs["input"]
    if len(kinds) == 1 and isinstance(numerator, Tensor) and numerator.requires_grad:
        return kinds[0]
    return GATE if kinds[-1] == SUM else smooth(*kinds, call=call)


def tracked(handler: Handler, kind_of: KindOf) -> Handler:
    """Return a handler that remembers the sources of its results.

    Args:
        handler: of an elementwise function.
        kind_of: takes the kinds of the arguments that require a gradient, one or two, and returns that of the result.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        factors = _factors(args, kwargs)
        if not factors or not isinstance(output, Tensor) or not output.requires_grad:
            return output
        if factors[0] is not output and (sources := _of_result(kind_of, factors, (function, args, kwargs))):
            remember(output, sources)
        if all(marks.get(x, marks.SELECTION) is not None for x in factors):
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
        elif isinstance(output, (tuple, list)) and not torch.compiler.is_compiling():  # which marks no parts of tuples
            for part in output:
                _mix(x, part, keeps_places=keeps_places)
        return output

    return based_on(handler, handle)


def _mix(x: Tensor, output: Any, *, keeps_places: bool) -> None:
    if not isinstance(output, Tensor) or not output.requires_grad:
        return
    if keeps_places and output.shape == x.shape:
        remember(output, [(of, max(kind, NORMALISED)) for of, kind in _sources(x)])
    else:
        remember(output, [(Mix(of, output.shape), PARTLY) for of, _ in _sources(x)])
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
        named = {key: value for key, value in kwargs.items() if args or key != given}
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
    selects = all(marks.get(part, marks.SELECTION) is not None for part in parts)
    if len(parts) > 1 and not selects and comparison is None:
        return
    name, _, _, rest, _ = call
    in_order = in_order and len(parts) == 1 and output.numel() == x.numel()
    if comparison is not None and not (in_order and name != "__getitem__"):
        compared = [getattr(marks.get(part, marks.COMPARISON), "sources", None) or () for part in parts]
        sources = _moved(compared, parts, output, call, place)
        marks.mark(output, marks.COMPARISON, comparison._replace(sources=sources))
    if output.requires_grad:
        kept = in_order and (name != "__getitem__" or _is_plain(rest[0]))
        own = [list(_sources(part)) for part in parts]
        remember(output, own[0] if kept else _moved(own, parts, output, call, place))
        if selects:
            marks.mark(output, marks.SELECTION, True)


def _moved(
    sources: list[Any], parts: tuple[Tensor, ...], output: Tensor, call: MovingCall, place: int | None
) -> list[Source]:
    """Return the sources that all parts have, moved; those of each part may have been moved in a way of its own."""
    *_, rest, named = call
    indices = indices_among(rest, named)
    if any(x.requires_grad for x in indices):
        return []
    way = Way(*call, place, tuple(part.shape for part in parts), output.shape, version_of(indices))
    found: list[Source] = []
    first, *others = sources
    for of, kind in first:
        matching = [_of_same_root(of, candidates) for candidates in others]
        if all(match is not None for match in matching):
            found.append((Move((of, *matching), way), kind))
    return found


def _of_same_root(of: Any, sources: Any) -> Any:
    root = root_of(of)
    return next((other for other, _ in sources if root_of(other) is root and is_mixed(other) == is_mixed(of)), None)


def _is_plain(index: Any) -> bool:
    """Whether an index that takes all elements takes them in order: slices and the like, no tensors or lists."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (slice, int)) for part in parts)


def before_write(handler: Handler, function: Function, args: Arguments, kwargs: Keywords) -> list[Source]:
    """Return the sources that the first argument will have once the result of a tracked function is written to it."""
    kind_of, factors = getattr(handler, "kind_of", None), _factors(args, kwargs)
    if kind_of is None or not factors or factors[0] is not args[0]:
        return []
    return _of_result(kind_of, factors, (function, args, kwargs))


def after_write(target: Tensor, sources: list[Source]) -> None:
    """Remember the sources of what was written, the values of before among them."""
    remember(target, sources)


def _factors(args: Arguments, kwargs: Keywords) -> list[Tensor]:
    """Return the arguments that require a gradient; none if one of the others is larger."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    factors = [x for x in tensors if x.requires_grad]
    if len(factors) < len(tensors) and factors:
        constants = [x for x in tensors if not x.requires_grad and x.numel() != 1]
        if any(x.dim() > factors[0].dim() or _spreads(x.shape, factors[0].shape) for x in constants):
            return []
    return factors


def _spreads(shape: torch.Size, of: torch.Size) -> bool:
    """Whether a tensor of the shape `of` grows when it meets one of `shape`."""
    return any(size not in (1, own) for size, own in zip(reversed(shape), reversed(of), strict=False))


def _of_result(kind_of: KindOf, factors: list[Tensor], call: Call) -> list[Source]:
    _, args, kwargs = call
    constants = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and not x.requires_grad)
    least = NORMALISED if any(x.numel() != 1 for x in constants) else MULTIPLE  # constants that differ

    def kind(*kinds: int) -> int:
        return max(least, *kinds) if least or max(kinds) >= NORMALISED else kind_of(*kinds, call=call)

    if len(factors) == 1:
        return [(x, kind(by_x)) for x, by_x in _sources(factors[0])]
    if len(factors) == 2:
        a, b = (list(_sources(factor)) for factor in factors)
        found = [(x, kind(by_a, by_b)) for x, by_a in a for y, by_b in b if same(x, y)]
        shared = [x for x, _ in found]
        alone = [(x, PARTLY) for x, _ in (*a, *b) if not any(same(x, y) for y in shared)]
        return found + alone
    return []


def sources_of(*values: Any) -> list[Source]:
    """Return the tensors of which values are functions, for a result that is a gate."""
    found = [source for value in values if isinstance(value, Tensor) for source in _sources(value)]
    return [(x, max(kind, GATE)) for x, kind in found]


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
    if not torch.compiler.is_compiling():
        remember(copy, list(_sources(target)))
        return copy
    for other in others:  # traced, a tensor stands for its values: the copy replaces what will be overwritten
        if is_activation(other) and other is not target:
            remember(other, [(_replaced(x, target, copy), kind) for x, kind in _sources(other)][1:])
    return copy


def laid_out_alike(x: Tensor) -> Tensor:
    """Return a copy whose elements lie in memory as those of `x` do: the last digits of functions depend on that."""
    if x.is_contiguous() or 0 in x.stride() or torch.compiler.is_compiling() or credit.transformed():
        return x.clone()
    return x.new_empty_strided(x.shape, x.stride()).copy_(x)


def hand_on(result: Tensor, target: Tensor) -> None:
    """Copy the sources of `result` to `target`, which now holds its values."""
    for kind in (marks.SOURCES, marks.SELECTION):
        value = marks.get(result, kind)
        if value is not None:
            marks.mark(target, kind, value)


def remember(output: Tensor, sources: list[Source]) -> None:
    """Remember the sources of `output`, the nearest first."""
    marks.mark(output, marks.SOURCES, sources[:FARTHEST])


def _sources(value: Tensor) -> Iterator[Source]:
    """Yield the values that `value` is a function of, its own first; some may be gone, or overwritten, by now."""
    yield _values(value), MULTIPLE
    yield from marks.get(value, marks.SOURCES) or ()


class _Values:
    """Stands for the values of a tensor at one time, and does not keep them."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape


def _values(x: Tensor) -> Any:
    """Return what stands for the present values of `x`: a parameter, or a tensor that is traced, stands for itself."""
    if torch.compiler.is_compiling() or isinstance(x, Parameter):
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
