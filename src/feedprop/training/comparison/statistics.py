"""Means with Student's intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy ships no types

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean of n values, and half the width of its 95 % interval, which takes two values."""

    mean: float
    half: float | None
    n: int


def mean_of(values: Sequence[float]) -> Mean | None:
    """Return mean and interval, mean +- t s / sqrt(n), with s the standard deviation and t of n - 1 degrees.

    None without values.
    """
    n = len(values)
    if not n:
        return None
    if n == 1:
        return Mean(values[0], None, 1)
    t = float(stdtrit(n - 1, 0.5 + LEVEL / 2))
    return Mean(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(n), n)
