"""Tensors are pickled without what feedprop remembers of them, which lasts no longer than a step."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import Tensor

from feedprop.credit import marks


def make() -> None:
    """Let pickle, torch.save and copy.copy take tensors without marks."""
    copyreg.pickle(Tensor, _reduced)


def undo() -> None:
    """Let them take tensors as before."""
    if copyreg.dispatch_table.get(Tensor) is _reduced:
        del copyreg.dispatch_table[Tensor]


def _reduced(tensor: Tensor) -> Any:
    with marks.hidden(tensor):
        return tensor.__reduce_ex__(2)  # type: ignore[no-untyped-call]  # torch has no types there
