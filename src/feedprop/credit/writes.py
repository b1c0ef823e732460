"""In-place operations: the slopes that the backward pass needs are computed before the write."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop.credit import marks
from feedprop.credit.activations import SLOPED_NODES
from feedprop.credit.graph import sequence_number
from feedprop.credit.sums import DAMPED_NODES, damping_of


def prepare_write(target: Tensor) -> None:
    """Compute the slopes that need `target` now, because it is about to be overwritten, and forget its marks."""
    base = target if target._base is None else target._base
    node: Any = base.grad_fn
    if isinstance(node, DAMPED_NODES) and node.damping is None and node.rectified is None:
        with torch.no_grad():
            node.damping = damping_of(base, node.epsilon)
    elif isinstance(node, SLOPED_NODES):
        _compute_slope(node)
    for reader in marks.readers(base):
        _compute_slope(reader)
    for tensor in (base, target):
        marks.forget(tensor)


def _compute_slope(node: Any) -> None:
    if node.slope is None:
        with torch.no_grad():
            node.slope = node._forward_cls.compute_slope(node)


def relu_in_place(z: Tensor) -> Tensor:
    """Apply ReLU in place.

    If nothing else used `z`, its damping is computed from the result later, so that no memory is added. Nothing did if
    no node was made since.
    """
    node: Any = z.grad_fn
    fresh = z._base is None and isinstance(node, DAMPED_NODES) and node._sequence_nr() + 1 == sequence_number()
    if fresh and node.damping is None and node.rectified is None:
        marks.forget(z)
        torch.relu_(z)
        node.rectified = z.detach(), z._version
    else:
        prepare_write(z)
        torch.relu_(z)
    return z
