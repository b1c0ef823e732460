"""Whether Python may look at values, and how many of them are not finite."""

from __future__ import annotations

from torch import Tensor

from feedprop.credit.transforms import traced


def readable(values: Tensor) -> bool:
    """Whether Python may look at values: on a device it would have to wait for them, and traced, there are none."""
    return values.device.type == "cpu" and not traced()


def not_finite(values: Tensor) -> int:
    """Return how many values are NaN or infinite; 0 where Python may not look. Most often one sum tells."""
    values = values.detach()
    if not readable(values) or values.sum().isfinite():
        return 0
    return int((~values.isfinite()).sum())
