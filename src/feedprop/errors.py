"""The package's one error class, for what the caller can mend, and the check that most arguments share."""


class FeedpropError(ValueError):
    """Something the caller can mend; the message says how."""


def non_negative(name: str, value: float) -> float:
    """Return `value` as a float; raise FeedpropError if it is negative, infinite or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise FeedpropError(f"{name} has to be a number, not {value!r}") from None
    if not 0 <= number < float("inf"):
        raise FeedpropError(f"{name} has to be finite and not negative, got {value!r}")
    return number
