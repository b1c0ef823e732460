"""Functions of torch.jit.script and torch.jit.trace: in attached models, the Python functions behind them run."""

from __future__ import annotations

from typing import Any

import torch

from feedprop.errors import FeedpropError
from feedprop.interception.mode import running

_FUNCTION: Any = torch.jit.ScriptFunction
_plain: Any = None


def make() -> None:
    """Let scripted functions run as Python in passes, because no mode sees inside TorchScript.

    This changes the type of all scripted functions; outside of attached models they run as before.
    """
    global _plain
    if _plain is not None:
        return
    _plain = plain = _FUNCTION.__call__

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        if not running() or not torch.is_grad_enabled():
            return plain(self, *args, **kwargs)
        source = getattr(self, "_torchdynamo_inline", None)  # kept for torch.compile
        if source is None:
            raise FeedpropError(
                f"{getattr(self, 'name', 'a function')} is TorchScript without its Python, so no rule sees what it "
                f"computes; call the function that it was made from"
            )
        return source(*args, **kwargs)

    _FUNCTION.__call__ = __call__


def undo() -> None:
    """Restore the call of scripted functions."""
    global _plain
    if _plain is not None:
        _FUNCTION.__call__, _plain = _plain, None
