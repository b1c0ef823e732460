"""Where rewards on outputs of 0 enter: remembered for the values, whatever tensor hands them on.

DistributedDataParallel, FSDP and mixed precision return new tensors with the values of the old ones, on which no
attribute survives; the nodes of the graph do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PLACES = ("_pre_activation", "_entry")
PASSING = ("_DDPSinkBackward", "ToCopyBackward0")  # nodes that hand values on


def _source(output: Tensor) -> tuple[Any, int]:
    """The node that computed the values of `output`, and the number of the result."""
    node: Any = output.grad_fn
    number = output.output_nr
    while node is not None and node.name() in PASSING:
        node, number = node.next_functions[number]
    return node, number


def same_values(output: Tensor, activation: Tensor) -> bool:
    """Whether `output` is `activation`, or what DDP or a conversion made of it (compiled: only the former)."""
    if output is activation:
        return True
    if torch.compiler.is_compiling() or output.shape != activation.shape:
        return False
    return _source(output) == _source(activation) != (None, 0)


def keep_start(output: Tensor) -> None:
    """Remember for the values of `output` where rewards on 0 enter, if that is known for the tensor."""
    if torch.compiler.is_compiling():
        return
    for place in PLACES:
        if hasattr(output, place) and output.grad_fn is not None:
            node, number = _source(output)
            node.metadata[place, number] = getattr(output, place)


def find_start(output: Tensor) -> None:
    """Let `output` know again where rewards on 0 enter, if that was kept for its values."""
    if torch.compiler.is_compiling() or any(hasattr(output, place) for place in PLACES):
        return
    node, number = _source(output)
    for place in PLACES:
        if node is not None and (place, number) in node.metadata:
            setattr(output, place, node.metadata[place, number])
