"""Derivatives that a model takes of itself (forces, energies): meanwhile every primitive passes ordinary gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from feedprop.errors import FeedpropError

_taken = 0  # for the whole process, because backward passes may run in other threads


@contextlib.contextmanager
def derivative() -> Iterator[None]:
    """Let the primitives of `feedprop.credit` pass the ordinary gradient within the block."""
    global _taken
    _taken += 1
    try:
        yield
    finally:
        _taken -= 1


def is_taken() -> bool:
    """Whether a block of `derivative` is running."""
    return _taken > 0


def refuse_derivative(rule: str) -> None:
    """Raise within a block of `derivative`, for backward passes that have no ordinary form."""
    if _taken:
        raise FeedpropError(
            f"a gradient taken inside of the model must be an ordinary one, but {rule} shares rewards by rules "
            f"of its own; use rules.Epsilon() there"
        )
