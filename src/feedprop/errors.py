"""The package's one error class, for what the caller can mend, and what many of its messages share."""

from collections.abc import Sequence


class FeedpropError(ValueError):
    """Something the caller can mend; the message says how."""


def first_few(names: Sequence[str]) -> str:
    """Return the first three names, and whether there are more, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def non_negative(name: str, value: float) -> float:
    """Return `value` as a float; raise FeedpropError if it is negative, infinite or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise FeedpropError(f"{name} has to be a number, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise FeedpropError(f"{name} has to be finite and not negative, got {value!r}")
    return number
