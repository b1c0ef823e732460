"""Rewards for classification: the target names the true class."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.rewards.reward import Reward


class Labels(NamedTuple):
    """Targets that were checked: classes, their one-hot form, and 1 where they count, else 0 (None: all count)."""

    index: Any
    onehot: Tensor
    kept: Tensor | None


def _counted(values: Tensor, kept: Tensor | None) -> Tensor:
    return values if kept is None else values * kept


def _signs(values: Tensor) -> Tensor:
    """Sign, with sign 0 = +1."""
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


class _ClassReward(Reward):
    """Targets are classes: shape (batch,) for outputs (batch, classes), (batch, ...) for (batch, classes, ...).

    Args:
        ignore_index: a target of this value gets no reward and does not count in the mean, as in nn.CrossEntropyLoss.
        reduction: see `Reward`.
    """

    def __init__(self, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.ignore_index = ignore_index

    def prepare(self, outputs: Tensor, targets: Tensor | Labels) -> Labels:
        """Return the targets checked and one-hot."""
        if isinstance(targets, Labels):
            return targets
        self._check(outputs, targets)
        index, onehot = targets.unsqueeze(1).long(), torch.zeros_like(outputs)
        if outputs.device.type == "cpu" and not (torch.compiler.is_compiling() or credit.transformed()):
            try:
                return Labels(index, onehot.scatter_(1, index, 1.0), None)
            except RuntimeError:  # a label is out of range: wrong, or to be ignored
                self._check_range(targets, outputs.shape[1])
        kept = (index != self.ignore_index).to(outputs.dtype)
        index = index.where(index != self.ignore_index, 0)
        return Labels(index, torch.zeros_like(outputs).scatter(1, index, 1.0) * kept, kept)

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        expected = outputs.shape[:1] + outputs.shape[2:]
        if outputs.ndim < 2 or targets.shape != expected:
            raise FeedpropError(
                f"{type(self).__name__} takes outputs (batch, classes, ...) and targets (batch, ...), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if targets.is_floating_point() or targets.dtype is torch.bool:
            raise FeedpropError(f"{type(self).__name__} takes classes as integers, not {targets.dtype}")

    def _check_range(self, targets: Tensor, classes: int) -> None:
        wrong = targets[(targets != self.ignore_index) & ((targets < 0) | (targets >= classes))]
        if wrong.numel():
            raise FeedpropError(
                f"label {int(wrong[0])} is out of range: the model has {classes} outputs, "
                f"so labels go from 0 to {classes - 1}"
            )

    def samples(self, outputs: Tensor, targets: Tensor | Labels) -> int | Tensor:
        """Return the number of targets that are not ignored."""
        labels = self.prepare(outputs, targets)
        return labels.index.numel() if labels.kept is None else labels.kept.sum().clamp(min=1)


class SoftmaxReward(_ClassReward):
    """r = o (onehot - softmax(o)): classification, in the place of nn.CrossEntropyLoss.

    >>> SoftmaxReward().per_output(torch.zeros(1, 2), torch.tensor([1]))
    tensor([[-0., 0.]])
    """

    def credit(self, outputs: Tensor, targets: Tensor | Labels) -> Tensor:
        """Return onehot - softmax(o)."""
        labels = self.prepare(outputs, targets)
        return labels.onehot - _counted(outputs.detach().softmax(1), labels.kept)


class BoundedSoftmaxReward(_ClassReward):
    """r = o (onehot - p), p = softmax(o), set to 1 above `upper` and to 0 below `lower`: what is sure is left alone.

    Args:
        lower: probability in [0, 1].
        upper: probability in [0, 1].
        sign_only: sign(o) in the place of o.
        ignore_index: see SoftmaxReward.
        reduction: see `Reward`.
    """

    def __init__(
        self,
        *,
        lower: float = 0.0,
        upper: float = 1.0,
        sign_only: bool = False,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        if not 0 <= lower <= upper <= 1:
            raise FeedpropError(f"0 <= lower <= upper <= 1 has to hold, got lower={lower!r} and upper={upper!r}")
        self.lower, self.upper, self.sign_only = lower, upper, sign_only

    def per_output(self, outputs: Tensor, targets: Tensor | Labels) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        p = outputs.softmax(1)
        p = torch.where(p > self.upper, 1.0, torch.where(p < self.lower, 0.0, p)).to(outputs.dtype)
        labels = self.prepare(outputs, targets)
        share = labels.onehot - _counted(p, labels.kept)
        return (_signs(outputs) if self.sign_only else outputs) * share


class CorrectnessReward(_ClassReward):
    """r_y = sign(o_y) if the true class has the largest output, else nothing: yes/no feedback."""

    def per_output(self, outputs: Tensor, targets: Tensor | Labels) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        labels = self.prepare(outputs, targets)
        correct: Tensor = outputs.argmax(1, keepdim=True) == labels.index
        return labels.onehot * _signs(outputs) * correct


class MisclassificationReward(_ClassReward):
    """r_k = -sign(o_k) at every class k whose output exceeds that of the true class: only mistakes are answered.

    Where nothing but mistakes is answered, give the model centred outputs (o - o.mean(1, keepdim=True)), else they run
    to minus infinity together; `rules.Epsilon(0.1)`, since the credit sign(o) / o is unbounded near 0; and a
    `magnitude_floor`. Then training hardly depends on the learning rate (experiments/discrete-rewards).
    """

    def per_output(self, outputs: Tensor, targets: Tensor | Labels) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        labels = self.prepare(outputs, targets)
        wrong: Tensor = outputs > outputs.gather(1, labels.index)
        return _counted(-_signs(outputs) * wrong, labels.kept)


class MaximizeReward(_ClassReward):
    """r = sign(o) (1 - sigmoid(o)) at the output that the target names: make it large."""

    direction = 1.0

    def per_output(self, outputs: Tensor, targets: Tensor | Labels) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        return self.direction * self.prepare(outputs, targets).onehot * _signs(outputs) * (1 - outputs.sigmoid())


class MinimizeReward(MaximizeReward):
    """r = -sign(o) (1 - sigmoid(o)) at the output that the target names: make it small."""

    direction = -1.0


class SigmoidReward(_ClassReward):
    """r = o (y - sigmoid(o)), each output on its own, in the place of nn.BCEWithLogitsLoss.

    Targets are classes (made one-hot), or y itself in [0, 1], shaped like `outputs` (several labels, or one yes/no).
    """

    def credit(self, outputs: Tensor, targets: Tensor | Labels) -> Tensor:
        """Return y - sigmoid(o)."""
        labels = self.prepare(outputs, targets)
        return labels.onehot - _counted(outputs.detach().sigmoid(), labels.kept)

    def prepare(self, outputs: Tensor, targets: Tensor | Labels) -> Labels:
        """Return the classes one-hot, or the targets themselves where they are shaped like the outputs."""
        if isinstance(targets, Tensor) and targets.shape == outputs.shape:
            return Labels(None, targets.to(outputs.dtype), None)
        return super().prepare(outputs, targets)

    def samples(self, outputs: Tensor, targets: Tensor | Labels) -> int | Tensor:
        """Return the batch size, or the number of classes that are not ignored."""
        labels = self.prepare(outputs, targets)
        return outputs.shape[0] if labels.index is None else super().samples(outputs, labels)
