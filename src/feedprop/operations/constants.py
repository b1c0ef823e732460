"""Constants of a model: what does not depend on its inputs. A weight times one of them is still a weight.

Its buffers are constants, what it makes itself (`torch.ones`, `torch.arange`, noise), and what is computed from these
and from parameters without gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.credit import marks
from feedprop.operations.registry import Arguments, Context, Function, Keywords, belongs_to_weights, flat

_MAKERS = """
    tensor as_tensor scalar_tensor ones zeros empty full eye arange range linspace logspace tril_indices triu_indices
    rand randn randint randperm hann_window hamming_window blackman_window bartlett_window kaiser_window
"""
_MAKERS_OF_SHAPE = "zeros_like ones_like full_like empty_like rand_like randn_like randint_like"
_METHODS = "new_tensor new_zeros new_ones new_full new_empty"
MAKERS: set[Function] = {getattr(torch, name) for name in _MAKERS.split()}
SHAPED: set[Function] = {getattr(torch, name) for name in _MAKERS_OF_SHAPE.split()} | {
    getattr(Tensor, name) for name in _METHODS.split()
}  # of the first argument, only the shape and type matter


def noted(context: Context, function: Function, args: Arguments, kwargs: Keywords, output: Any) -> Any:
    """Remember whether the results of a call that need no gradient are constants.

    Args:
        context: of the running pass.
        function: that was called.
        args: of the call.
        kwargs: of the call.
        output: what it returned.

    Returns:
        The output.
    """
    if type(output) is Tensor and output.requires_grad:
        return output  # soon, as for most calls
    several = type(output) in (tuple, list)
    parts = output if several else (output,)
    if not parts or not all(isinstance(part, Tensor) and not part.requires_grad for part in parts):
        return output
    if credit.is_weight(parts[0]) or (args and parts[0] is args[0]):
        return output  # or what was given: an input or buffer, after the pass no concern of ours
    found = _is_constant(context, function, args[1:] if function in SHAPED else args, kwargs)
    if several and torch.compiler.is_dynamo_compiling():
        if not found:
            return output
        output = parts = marks.markable(output)
    for part in parts:
        marks.mark(part, marks.CONSTANT, found)
    return output


class Kinds:
    """Which tensors are weights or constants of those that a call in place writes to: its target, and the whole of it.

    Args:
        context: of the running pass.
        target: that will be written to; perhaps a view.
        others: further arguments of the call.
    """

    def __init__(self, context: Context, target: Tensor, others: Iterable[Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            whole = [target, *(marks.get(target, marks.WHOLE) or ())]
        else:
            whole = [target] if target._base is None else [target, target._base]
        self.before = [(x, marks.get(x, marks.WEIGHT), marks.get(x, marks.CONSTANT)) for x in whole]
        known = any(owner is not None or constant for _, owner, constant in self.before)
        self.belong = known and all(belongs_to_weights(context, x) for x in flat(others) if isinstance(x, Tensor))

    def restore(self) -> None:
        """Mark the tensors again: for the operation itself, the old values are what they were."""
        for before in self.before:
            _mark(*before)

    def hand_on(self) -> None:
        """Mark what is still a weight or a constant after the write, or has become a weight."""
        target = self.before[0][0]
        written = marks.get(target, marks.WEIGHT)
        for tensor, owner, constant in self.before:
            if torch.compiler.is_dynamo_compiling() and tensor is not target:
                marks.forget(tensor)
            if written is not None:
                if tensor is not target and (owner is not None or constant):
                    marks.mark_weight(tensor, written if owner is None else owner)
            elif self.belong and not target.requires_grad:
                _mark(tensor, owner, constant)


def _mark(tensor: Tensor, owner: Any, constant: Any) -> None:
    if owner is not None:
        marks.mark_weight(tensor, owner)
    elif constant:
        marks.mark(tensor, marks.CONSTANT, True)


def _is_constant(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> bool:
    tensors = [value for value in flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
    if not all(belongs_to_weights(context, x) for x in tensors):
        return False
    makes = function in MAKERS or function in SHAPED
    return makes or any(credit.is_weight(x) or context.is_constant(x) for x in tensors)
