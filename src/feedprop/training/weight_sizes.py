"""How many weights are of which size."""

from __future__ import annotations

import torch
from torch import nn

SMALLEST, LARGEST, PER_DECADE = -6, 2, 8  # powers of ten, and bins between two of them


def edges() -> list[float]:
    """Return the limits of the bins, in ascending order."""
    return [10 ** (SMALLEST + n / PER_DECADE) for n in range((LARGEST - SMALLEST) * PER_DECADE + 1)]


@torch.no_grad()
def magnitudes(model: nn.Module) -> list[int]:
    """Return how many |w| are in each bin; smaller ones and 0 are in the first, larger ones in the last.

    Biases and the scales of normalisations do not count.
    """
    limits = torch.tensor(edges())[1:-1]
    counts = torch.zeros(len(limits) + 1, dtype=torch.long)
    for weight in model.parameters():
        if weight.ndim >= 2:
            bins = torch.bucketize(weight.abs().flatten().float().cpu(), limits, right=True)
            counts += bins.bincount(minlength=len(counts))
    return counts.tolist()
