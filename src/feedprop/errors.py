"""The package's error classes, for what the caller can mend, and what many of their messages share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NUMBERS = (int, float, torch.SymInt, torch.SymFloat)


class FeedpropError(ValueError):
    """Something the caller can mend; the message says how."""


class UnknownOperationError(FeedpropError):
    """A differentiable function, or a use of a parameter, that no rule covers."""


def first_few(names: Sequence[str]) -> str:
    """Return the first three names, and whether there are more, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def shape_or_type(value: Any) -> str:
    """Return the shape of a tensor, or the type of anything else, for a message."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def non_negative(name: str, value: float) -> float:
    """Return `value` as a float; raise FeedpropError if it is negative, infinite or not a number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise FeedpropError(f"{name} must be a number, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise FeedpropError(f"{name} must be finite and not negative, got {value!r}")
    return number
