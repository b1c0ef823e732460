"""Constants of a model: what does not depend on its inputs. A weight times one of them is still a weight.

Its buffers are constants, what it makes itself (`torch.ones`, `torch.arange`, noise), and what is computed from these
and from parameters without gradient.
"""

from __future__ import annotations

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
    if credit.is_weight(parts[0]) or any(part is args[0] for part in parts[: len(args)]):
        return output  # or what was given: an input or buffer, after the pass no concern of ours
    found = _is_constant(context, function, args[1:] if function in SHAPED else args, kwargs)
    if several and torch.compiler.is_dynamo_compiling():
        if not found:
            return output
        output = parts = marks.markable(output)
    for part in parts:
        marks.mark(part, marks.CONSTANT, found)
    return output


def staying(context: Context, target: Tensor, args: Arguments, kwargs: Keywords) -> list[Tensor]:
    """Return what is a constant and stays one when a call in place writes to `target`: it, and what it is a view of.

    Args:
        context: of the running pass.
        target: that will be written to.
        args: further arguments of the call.
        kwargs: of the call.
    """
    whole = [target] if torch.compiler.is_dynamo_compiling() or target._base is None else [target, target._base]
    found = [x for x in whole if not x.requires_grad and marks.get(x, marks.CONSTANT)]
    if found and all(belongs_to_weights(context, x) for x in flat((*args, *kwargs.values())) if isinstance(x, Tensor)):
        return found
    return []


def _is_constant(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> bool:
    some = function in MAKERS or function in SHAPED
    for value in flat((*args, *kwargs.values())):
        if isinstance(value, Tensor):
            constant = credit.is_weight(value) or (not value.requires_grad and context.is_constant(value))
            if not constant and (value.requires_grad or value.numel() != 1):
                return False
            some = some or constant
    return some
