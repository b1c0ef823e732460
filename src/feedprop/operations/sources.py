"""Remembers of which tensors a result is a function, its sources, and what kind of function it is.

Each elementwise result, and each view or copy, remembers its sources, the nearest first, so that a product can tell
whether its factors are functions of the same values (`self_gated`). The kind of a result is a number; a result of
several sources has the largest.

    MULTIPLE    of the source: 2 * x, x.clone(), -x; also its values in another shape, in the same order
    ARITHMETIC  powers, products and smooth functions of it: x * x, x.log(), x.exp()
    SUM         arithmetic plus something: divided by it, x is an activation, x / (1 + exp(-x)) or x / (1 + |x|)
    GATE        an activation function took part, or erf
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from feedprop import credit
from feedprop.credit import marks
from feedprop.operations.products import EXPONENTS
from feedprop.operations.registry import Arguments, Context, Function, Handler, Keywords, based_on, is_activation

FARTHEST = 6  # number of sources that a result remembers, the nearest first
MULTIPLE, ARITHMETIC, SUM, GATE = range(4)
# what stands for the values of a tensor (`_values`), or for those that were moved (of what, how, to which shape); and
# the kind of function
Source = tuple[Any, int]
Call = tuple[Function, Arguments, Keywords]
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
    return max(SUM, *kinds)


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


def moves(handler: Handler, name: str = "", *, in_order: bool = False) -> Handler:
    """Return a handler of views and copies whose results remember the sources of what they hold.

    Args:
        handler: of functions that take a tensor, or several of which one is given.
        name: of what the functions do; by default each does something else.
        in_order: whether a result that holds all values has them in order, as that of `view` has.
    """

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        output = handler(context, function, args, kwargs)
        x = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        if isinstance(x, (tuple, list)) and len(x) == 1:
            x = x[0]  # cat([x]), stack([x])
        if not isinstance(x, Tensor):
            return output
        done = name or function.__name__
        if isinstance(output, Tensor):
            _move(x, output, (done, args[1:], kwargs), in_order=in_order)
        elif isinstance(output, (tuple, list)):
            output = marks.markable(output)
            for place, part in enumerate(output):
                _move(x, part, (done, args[1:], kwargs, place), in_order=in_order)
        return output

    return based_on(handler, handle)


def _move(x: Tensor, part: Tensor, move: tuple[Any, ...], *, in_order: bool) -> None:
    """Remember the sources of `part`, which holds values of x; a mask of booleans has them in its comparison."""
    comparison = marks.get(part, marks.COMPARISON)
    if part is x or not (part.requires_grad or comparison is not None):
        return
    indexed = move[0] == "__getitem__"
    if in_order and part.numel() == x.numel() and not (indexed and not _is_plain(move[1][0])):
        sources = list(_sources(x))
    else:
        name, args, kwargs, *place = move
        given = (*args, *(value for key, value in kwargs.items() if key != "input"))
        if not all(map(_is_constant, given)):
            return
        key = (name, given, [*kwargs], place, x.shape)
        sources = [((of, key, part.shape), kind) for of, kind in _sources(x)]
        if comparison is not None:
            moved = [((of, key, part.shape), kind) for of, kind in comparison.sources or ()]
            marks.mark(part, marks.COMPARISON, comparison._replace(sources=moved))
    if part.requires_grad:
        remember(part, sources)
        if marks.get(x, marks.SELECTION) is not None:
            marks.mark(part, marks.SELECTION, True)


def _is_plain(index: Any) -> bool:
    """Whether an index that takes all elements takes them in order: slices and the like, no tensors or lists."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (slice, int)) for part in parts)


def _is_constant(value: Any) -> bool:
    """Whether an argument is equal to another one if it means the same."""
    if isinstance(value, slice):
        return all(map(_is_constant, (value.start, value.stop, value.step)))
    if isinstance(value, (tuple, list)):
        return all(map(_is_constant, value))
    return value is None or value is ... or isinstance(value, (int, float, str, torch.dtype, torch.device))


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
    """Return the arguments that require a gradient; none if one of the others has more than one element."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if any(x.numel() != 1 for x in tensors if not x.requires_grad):
        return []
    return [x for x in tensors if x.requires_grad]


def _of_result(kind_of: KindOf, factors: list[Tensor], call: Call) -> list[Source]:
    if len(factors) == 1:
        return [(x, kind_of(kind, call=call)) for x, kind in _sources(factors[0])]
    if len(factors) == 2:
        return [(x, kind_of(*kinds, call=call)) for x, *kinds in common(*factors)]
    return []


def sources_of(*values: Any) -> list[Source]:
    """Return the tensors of which values are functions, for a result that is a gate."""
    found = [source for value in values if isinstance(value, Tensor) for source in _sources(value)]
    return [(x, GATE) for x, _ in found]


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
    """Return the values of which both are functions, nearest first, each with the kinds of a and b."""
    of_b = list(_sources(b))
    return [(x, by_a, by_b) for x, by_a in _sources(a) for y, by_b in of_b if _same(x, y)]


def _same(a: Any, b: Any) -> bool:
    """Whether two sources are the same values, moved in the same ways."""
    while isinstance(a, tuple) and isinstance(b, tuple):
        if a[1] != b[1]:
            return False
        a, b = a[0], b[0]
    return a is b


def shape_of(source: Any) -> Any:
    """Return the shape of the values that a source stands for."""
    return source[2] if isinstance(source, tuple) else source.shape


def _replaced(source: Any, old: Tensor, new: Tensor) -> Any:
    """Return a source in which a tensor stands for its values with another one in its place."""
    if isinstance(source, tuple):
        return _replaced(source[0], old, new), *source[1:]
    return new if source is old else source
