"""Turns numbers into spikes over time, and spikes back into one number per class."""

from __future__ import annotations

import torch
from torch import Tensor

from feedprop.errors import FeedpropError


def constant(values: Tensor, *, steps: int) -> Tensor:
    """Show the same values at each step: (B, ...) to (steps, B, ...), without a copy."""
    return values.expand(_checked(steps), *values.shape)


def rate(values: Tensor, *, steps: int, generator: torch.Generator | None = None) -> Tensor:
    """Fire at each step with probability `values`, (B, ...) in [0, 1], to (steps, B, ...)."""
    _check_unit(values)
    drawn = torch.rand((_checked(steps), *values.shape), dtype=values.dtype, device=values.device, generator=generator)
    return (drawn < values).to(values.dtype)


def latency(values: Tensor, *, steps: int) -> Tensor:
    """Fire once, at step round((1 - value) (steps - 1)); 0 does not fire. (B, ...) in [0, 1] to (steps, B, ...)."""
    _check_unit(values)
    when = ((1 - values) * (_checked(steps) - 1)).round().long()
    spikes = values.new_zeros((steps, *values.shape))
    return spikes.scatter_(0, when.unsqueeze(0), (values > 0).to(values.dtype).unsqueeze(0))


def spike_count(spikes: Tensor) -> Tensor:
    """Return how often each output fired: (T, B, ...) to (B, ...)."""
    return spikes.sum(0)


def highest_membrane(membranes: Tensor) -> Tensor:
    """Return the highest membrane of each output over time: (T, B, ...) to (B, ...)."""
    return membranes.amax(0)


def mean_membrane(membranes: Tensor) -> Tensor:
    """Return the mean membrane of each output over time: (T, B, ...) to (B, ...)."""
    return membranes.mean(0)


def _checked(steps: int) -> int:
    if steps < 1:
        raise FeedpropError(f"steps must be at least 1, got {steps!r}")
    return steps


def _check_unit(values: Tensor) -> None:
    low, high = torch.aminmax(values)
    if not (low >= 0 and high <= 1):
        raise FeedpropError(f"values to encode must be in [0, 1], got {float(low):g} to {float(high):g}")
