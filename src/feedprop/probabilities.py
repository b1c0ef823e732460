"""Outputs that went through a softmax already, where a reward or loss has one of its own.

Those of a sigmoid cannot be told from others: the first outputs of a network often lie between 0 and 1 as well.
"""

from __future__ import annotations

from torch import Tensor

LEAST = 16  # numbers that are looked at, by rewards that look again in each step
CLOSE = 0.01  # to 1, for the sum of a row in half precision


class ProbabilityWarning(UserWarning):
    """A reward or loss gets probabilities and takes what they are made of."""


def remark(outputs: Tensor, dim: int, *, taker: str) -> str | None:
    """Say that outputs are probabilities, with the remedy; None if they are not, or if it is not certain.

    Args:
        outputs: (batch, classes, ...), without gradient.
        dim: of the classes.
        taker: name of the reward or loss.
    """
    if outputs.ndim == 0 or outputs.shape[dim] < 2 or not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return None
    inside = (outputs > 0) & (outputs < 1)  # not only 0 and 1, as spikes are
    several = outputs.numel() > outputs.shape[dim] and bool(inside.any())
    if not several or not bool(((outputs.sum(dim) - 1).abs() < CLOSE).all()):
        return None
    return (
        f"the outputs are probabilities, which sum to 1, as after a softmax, but {taker} takes them as they are before "
        f"it; leave out the model's last softmax, or it learns slowly or not at all"
    )
