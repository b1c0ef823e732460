"""Derivatives that a model takes of itself (forces, energies): while one is taken, credit is an ordinary gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from feedprop.errors import FeedpropError

_taken = 0  # a backward pass may run in threads of its own, so this counts for the process


@contextlib.contextmanager
def derivative() -> Iterator[None]:
    """Have the primitives of `feedprop.credit` pass the ordinary gradient within the block."""
    global _taken
    _taken += 1
    try:
        yield
    finally:
        _taken -= 1


def is_taken() -> bool:
    """Whether an ordinary derivative is asked for."""
    return _taken > 0


def refuse_derivative(rule: str) -> None:
    """Raise if an ordinary derivative is asked of what has none."""
    if _taken:
        raise FeedpropError(
            f"torch.autograd.grad() inside of the model needs an ordinary gradient, but {rule} shares rewards by rules "
            f"of its own; use rules.Epsilon() there"
        )
