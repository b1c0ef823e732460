"""Outputs that went through a softmax or a sigmoid already, where a reward or loss has one of its own."""

from __future__ import annotations

from torch import Tensor

LEAST = 16  # numbers that must lie between 0 and 1 before they count as those of a sigmoid
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
    if several and bool(((outputs.sum(dim) - 1).abs() < CLOSE).all()):
        kind, what = "softmax", "are probabilities, which sum to 1"
    elif outputs.numel() >= LEAST and bool(inside.all()):
        kind, what = "sigmoid", "all lie between 0 and 1"
    else:
        return None
    return (
        f"the outputs {what}, as after a {kind}, but {taker} takes them as they are before it; leave out the model's "
        f"last {kind}, or it learns slowly or not at all"
    )
