"""Shallow copies of attached models get a forward of their own, so that they run their own weights under the rules."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

_plain: Any = None


def make() -> None:
    """Let copy.copy, which calls `nn.Module.__setstate__`, give the copy of an attached model its own forward."""
    global _plain
    if _plain is not None:
        return
    _plain = nn.Module.__setstate__
    plain: Any = _plain

    @functools.wraps(plain)
    def __setstate__(self: nn.Module, state: dict[str, Any]) -> None:  # noqa: N807
        plain(self, state)
        forward: Any = vars(self).get("forward")
        if hasattr(type(forward), "of_copy") and vars(forward).get("model", self) is not self:
            forward.of_copy(self)

    nn.Module.__setstate__ = __setstate__  # type: ignore[method-assign]


def undo() -> None:
    """Restore nn.Module.__setstate__."""
    global _plain
    if _plain is not None:
        nn.Module.__setstate__, _plain = _plain, None  # type: ignore[method-assign]
