"""Kinds of functions: what a result is of the values that it was computed from, as a number.

A result of several sources has the largest.

    MULTIPLE    of the source: 2 * x, x.clone(), -x; also its values in another shape, in the same order
    OFFSET      x + 1, x + x
    ARITHMETIC  powers, products and smooth functions of it: x * x, x.log(), x.exp()
    SUM         arithmetic plus something: divided by it, x is an activation, x / (1 + exp(-x)) or x / (1 + |x|)
    GATE        an activation function took part, or erf
    NORMALISED  another function at each place: softmax, layer_norm, constants that differ from element to element
    PARTLY      other values took part: x.sum(), x - x.mean(), x + y

The functions below take the call, and return how the kind of its result follows from those of the one or two arguments
that need a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from feedprop.operations.products import EXPONENTS
from feedprop.operations.registry import Arguments, Function, Keywords

MULTIPLE, OFFSET, ARITHMETIC, SUM, GATE, NORMALISED, PARTLY = range(7)
Kind = Callable[..., int]  # takes the kinds of one or two arguments
KindOf = Callable[[Function, Arguments, Keywords], Kind]


def multiple(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of a multiple, x * 2."""
    return _first


def smooth(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of a smooth function of one number."""
    return _smooth


def multiplied(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of a product: with a constant, a multiple."""
    return _scaled


def added(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of a sum or difference."""
    return _added


def gate(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of an activation function."""
    return _gate


def raised(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of a power: a negative one of a sum is a gate."""
    base, *rest = (*args, *(kwargs[name] for name in ("input", "self", "exponent") if name in kwargs))
    exponent = rest[0] if rest else EXPONENTS.get(function.__name__)
    if not isinstance(base, Tensor) or not base.requires_grad:
        return _smooth  # 2 ** x
    return _inverse_power if isinstance(exponent, (int, float)) and exponent < 0 else _power


def divided(function: Function, args: Arguments, kwargs: Keywords) -> Kind:
    """Return the kind of a quotient: by a sum, it is a gate."""
    numerator = args[0] if args else kwargs["input"]
    return _quotient if isinstance(numerator, Tensor) and numerator.requires_grad else _inverse


def _first(*kinds: int) -> int:
    return kinds[0]


def _smooth(*kinds: int) -> int:
    return GATE if GATE in kinds else ARITHMETIC


def _scaled(*kinds: int) -> int:
    return kinds[0] if len(kinds) == 1 else _smooth(*kinds)


def _added(*kinds: int) -> int:
    return max(OFFSET if max(kinds) <= OFFSET else SUM, *kinds)


def _gate(*kinds: int) -> int:
    return GATE


def _power(*kinds: int) -> int:
    return max(ARITHMETIC, kinds[0]) if len(kinds) == 1 else _smooth(*kinds)  # x ** x


def _inverse_power(*kinds: int) -> int:
    return GATE if kinds == (SUM,) else _power(*kinds)


def _inverse(*kinds: int) -> int:
    return GATE if kinds[-1] == SUM else _smooth(*kinds)


def _quotient(*kinds: int) -> int:
    return kinds[0] if len(kinds) == 1 else _inverse(*kinds)
