"""In-place operations: what the backward pass needs is kept before it is overwritten."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop.credit.activations import SLOPED_NODES
from feedprop.credit.sums import DAMPED_NODES, damping_of


def prepare_write(target: Tensor) -> None:
    """Make an in-place operation on `target` safe: what damps or bends its credit is kept before it is overwritten."""
    base = target if target._base is None else target._base
    node: Any = base.grad_fn
    if isinstance(node, DAMPED_NODES) and node.damping is None and node.rectified is None:
        with torch.no_grad():
            node.damping = damping_of(base, node.epsilon)
    elif isinstance(node, SLOPED_NODES) and node.slope is None:
        with torch.no_grad():
            node.slope = node._forward_cls.compute_slope(node)
    for tensor in (base, target):
        for attribute in ("_undamped", "_pre_activation", "_entry", "_function_of"):
            tensor.__dict__.pop(attribute, None)


def relu_in_place(z: Tensor) -> Tensor:
    """ReLU in place; a damped `z` takes its damping from the result, so that no memory is added."""
    node: Any = z.grad_fn
    if z._base is None and isinstance(node, DAMPED_NODES) and node.damping is None and node.rectified is None:
        z.__dict__.pop("_undamped", None)
        torch.relu_(z)
        node.rectified = z.detach(), z._version
    else:
        prepare_write(z)
        torch.relu_(z)
    z._pre_activation = None  # type: ignore[attr-defined]  # overwritten: a reward on an output of 0 cannot enter
    return z


def mark_non_negative(x: Tensor) -> None:
    """Remember that no value of `x` is negative, until something writes to its memory."""
    if not torch.compiler.is_compiling():
        x._non_negative = x._version  # type: ignore[attr-defined]


def known_non_negative(x: Any) -> bool:
    """Whether an operation before has made sure that no value is negative (not known under torch.compile: False)."""
    return not torch.compiler.is_compiling() and hasattr(x, "_non_negative") and x._non_negative == x._version
