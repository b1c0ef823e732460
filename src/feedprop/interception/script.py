"""Functions of torch.jit.script and torch.jit.trace: in attached models they run as the Python they are made from."""

from __future__ import annotations

from typing import Any

import torch

from feedprop.errors import FeedpropError
from feedprop.interception.mode import running

_FUNCTION: Any = torch.jit.ScriptFunction


def take_over_scripted_functions() -> None:
    """Let the rules see inside calls of scripted functions, which torch runs where no mode sees them.

    Their type is one of torch's, so that this holds for all of them; outside attached models they run as ever.
    """
    plain = _FUNCTION.__call__
    if getattr(plain, "__module__", None) == __name__:
        return

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        if not running() or not torch.is_grad_enabled():
            return plain(self, *args, **kwargs)
        source = getattr(self, "_torchdynamo_inline", None)  # kept for torch.compile
        if source is None:
            raise FeedpropError(
                f"{getattr(self, 'name', 'a function')} is TorchScript without its Python, so that no rule sees what "
                f"it computes; call the function that it was made from"
            )
        return source(*args, **kwargs)

    _FUNCTION.__call__ = __call__
