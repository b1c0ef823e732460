"""Which output of each sample is explained: a class, an index, one of them for each sample, or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from feedprop.diagnosis.trial import rewarded, tensors
from feedprop.errors import FeedpropError, shape_or_type

Target = int | Tensor | Sequence[Any] | Callable[[Any], Tensor] | None


def chosen(result: Any, target: Target) -> Tensor:
    """Return the output that is explained, one number for each sample, shape (batch,).

    Args:
        result: what the model returned, with gradients enabled or not.
        target: see `feedprop.relevance`.

    Raises:
        FeedpropError: the target does not select one number for each sample, or nothing that a rule saw.
    """
    if callable(target) and not isinstance(target, Tensor):
        values = target(result)
        if not isinstance(values, Tensor) or values.ndim != 1 or not _carries(values):
            raise FeedpropError(
                f"a target function must return one number for each sample, shape (batch,), computed from the outputs; "
                f"it returned {shape_or_type(values)}"
            )
        return values
    outputs = rewarded(result) if torch.is_grad_enabled() else _numbers(result)
    if not outputs:
        raise FeedpropError(
            "nothing that the model returned carries reward: it was detached, or has no fractions, or is a power <= 0, "
            "which is a constant for rules that conserve rewards; return it as it is before that, or take "
            "composite=feedprop.rules.Epsilon()"
        )
    if len(outputs) != 1:
        raise FeedpropError(
            f"the model returned {len(outputs)} tensors that carry reward; say what to explain by a function, such as "
            f"target=lambda result: result[0][:, 3]"
        )
    (output,) = outputs
    if output.is_complex():
        raise FeedpropError("complex outputs have no sign to explain; give target a function that returns real numbers")
    return output.reshape(-1)[_positions(output, target)]


def _carries(values: Tensor) -> bool:
    return values.requires_grad or not torch.is_grad_enabled()


def _numbers(result: Any) -> list[Tensor]:
    """Return the logits of Hugging Face's outputs, else every output of numbers."""
    logits = getattr(result, "logits", None)
    return [output for output in tensors(result if logits is None else logits) if output.is_floating_point()]


def _positions(output: Tensor, target: Any) -> Tensor:
    """Return the position of each sample's output in the flattened tensor, shape (batch,)."""
    batch, rest = (len(output), output.shape[1:]) if output.ndim else (1, output.shape)
    each = torch.tensor(rest).prod() if rest else torch.tensor(1)
    start = torch.arange(batch) * each
    if target is None:
        if each != 1:
            raise FeedpropError(
                f"the model returned {int(each)} numbers for each sample, shape {tuple(output.shape)}; "
                f"say which one to explain by target="
            )
        return start.to(output.device)
    indices = _indices(target, batch)
    if indices.shape[1] != len(rest):
        if not rest:
            raise FeedpropError(
                f"outputs of shape {tuple(output.shape)} are one number for each sample, so there is no class to "
                f"choose; omit target=, or give the inputs a first dimension for the batch"
            )
        raise FeedpropError(
            f"outputs of shape {tuple(output.shape)} need {len(rest)} {'index' if len(rest) == 1 else 'indices'} for "
            f"each sample, as in target={(0,) * len(rest) if len(rest) > 1 else 0}; got {indices.shape[1]}"
        )
    size = torch.tensor(rest)
    if ((indices >= size) | (indices < -size)).any():
        raise FeedpropError(f"target {target!r} is out of range for outputs of shape {tuple(output.shape)}")
    indices = torch.where(indices < 0, indices + size, indices)
    stride = torch.tensor([int(size[place + 1 :].prod()) for place in range(len(rest))])
    return (start + (indices * stride).sum(1)).to(output.device)


def _indices(target: Any, batch: int) -> Tensor:
    """Return one row of indices for each sample, shape (batch, dimensions)."""
    if hasattr(target, "__array__") and not isinstance(target, (Tensor, Integral)):  # of NumPy or pandas
        target = torch.as_tensor(target.__array__().copy())
    if isinstance(target, Tensor):
        whole = not (target.is_floating_point() or target.is_complex() or target.dtype is torch.bool)
        if not whole or target.ndim > 1 or (target.numel() != 1 and len(target) != batch):
            raise FeedpropError(
                f"a target tensor must be one class, or classes (batch,) of {batch} samples, as integers; "
                f"got {target.dtype} {tuple(target.shape)}"
            )
        return target.detach().cpu().long().reshape(-1, 1).expand(batch, 1)
    if _whole(target):
        return torch.tensor([[int(target)]]).expand(batch, 1)
    if isinstance(target, tuple) and all(map(_whole, target)):
        return torch.tensor([[*map(int, target)]], dtype=torch.long).expand(batch, len(target))
    if isinstance(target, list) and len(target) == batch:
        rows = [tuple(row) if isinstance(row, (tuple, list)) else (row,) for row in target]
        if all(_whole(index) for row in rows for index in row) and len({len(row) for row in rows}) == 1:
            return torch.tensor([[*map(int, row)] for row in rows], dtype=torch.long)
    raise FeedpropError(
        f"target must be a class, a tuple of indices, a tensor of classes, a list of one of these for each of {batch} "
        f"samples, or a function of the outputs; got {target!r}"
    )


def _whole(index: Any) -> bool:
    """Whether a value is a whole number: Python's, NumPy's or a tensor of one."""
    if isinstance(index, Tensor):
        return index.numel() == 1 and not (index.is_floating_point() or index.is_complex())
    return isinstance(index, Integral)
