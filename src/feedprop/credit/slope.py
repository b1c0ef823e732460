"""The slope of the line from the origin."""

from __future__ import annotations

import torch
from torch import Tensor


def slope(z: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """x / (z + epsilon * sign z), with sign 0 = +1; without epsilon 0 where z = 0."""
    if epsilon:
        denominator = torch.copysign(z.new_full((), epsilon), z).add_(z)
        return torch.div(x, denominator)
    return torch.div(x, z).masked_fill_(z == 0, 0.0)
