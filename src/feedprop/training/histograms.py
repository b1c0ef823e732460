"""Histograms of weights and of what arrived at them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BINS = 64


@dataclass(frozen=True)
class Histogram:
    """How many values are in each of `BINS` bins of equal width, from the smallest value to the largest.

    Args:
        counts: of each bin
        edges: one more than there are bins
        total: the sum of the values
        squares: the sum of their squares
    """

    counts: list[float]
    edges: list[float]
    total: float
    squares: float


def weights(model: nn.Module) -> dict[str, Histogram]:
    """Return a histogram of each weight, by name; biases and the scales of normalisations do not count."""
    return {name: _histogram(weight) for name, weight in _weights(model)}


def feedback(model: nn.Module, *, sign: int) -> dict[str, Histogram]:
    """Return a histogram of `sign` times the .grad of each weight that has one."""
    return {name: _histogram(sign * weight.grad) for name, weight in _weights(model) if weight.grad is not None}


def _weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.ndim >= 2 and weight.numel()]


def _histogram(tensor: Tensor) -> Histogram:
    values = tensor.detach().flatten().float()
    values = values[values.isfinite()]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, bins=BINS, min=low, max=high)
    edges = torch.linspace(low, high, BINS + 1)
    return Histogram(counts.tolist(), edges.tolist(), float(values.sum()), float(values.square().sum()))
