"""Fused kernels of frozen transformer layers: torch takes them unless a mode is active, and their values differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack, has_torch_function

from feedprop.interception.mode import Propagation

_OVERRIDES: Any = torch.overrides
_PLAIN = (Tensor, torch.nn.Parameter)


def _has_torch_function(relevant_args: Any) -> bool:
    """As torch's own, but without gradients in the arguments, a pass of an attached model is no reason.

    `nn.TransformerEncoderLayer`, `nn.TransformerEncoder` and `nn.MultiheadAttention` ask before they take a fused
    kernel. Where nothing needs a gradient no credit passes, so they may; their values are then those of the plain
    model, bit for bit.
    """
    found: bool = has_torch_function(relevant_args)
    if not found or torch.compiler.is_compiling():
        return found
    modes: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    if not all(isinstance(mode, Propagation) for mode in modes):
        return True
    return not all(type(x) in _PLAIN and not x.requires_grad for x in relevant_args if x is not None)


def make() -> None:
    _OVERRIDES.has_torch_function = _has_torch_function


def undo() -> None:
    _OVERRIDES.has_torch_function = has_torch_function
