"""Rewards: what (outputs, targets) are worth, in the place of a loss.

A reward is called like a loss, `reward(outputs, targets).backward()`. The scalar is minus the mean reward; its backward
pass starts the propagation with the credit c_o = r_o / o at the outputs.

Formulas are those of Weber et al. 2023 (arXiv 2308.12053), appendix, and of its published code; o is an output, y the
true class, r_o the reward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feedprop import credit
from feedprop.errors import FeedpropError

__all__ = [
    "BoundedSoftmaxReward",
    "ChoiceReward",
    "CorrectnessReward",
    "GivenReward",
    "MaximizeReward",
    "MinimizeReward",
    "MisclassificationReward",
    "RegressionReward",
    "Reward",
    "SigmoidReward",
    "SoftmaxReward",
    "SpikeRateReward",
    "SpikeTargetReward",
]


class Reward(nn.Module):
    """What outputs are worth. A subclass defines `per_output`, or `credit` where no division by the output is needed.

    Args:
        reduction: "mean" divides by the batch size, so that the learning rate does not depend on it; "sum" does not
            (the published implementation).
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise FeedpropError(f'reduction has to be "mean" or "sum", not {reduction!r}')
        self.reduction = reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return minus the mean (or summed) reward, a scalar whose `.backward()` starts the propagation.

        Args:
            outputs: (batch, ...) as the attached model returned them.
            targets: see the class.
        """
        _check_outputs(outputs)
        values = outputs.detach()
        if type(self).credit is not Reward.credit:
            return self._started(outputs, targets, self.credit(values, targets))
        size = self._size(outputs, targets)
        rewards = self.per_output(values, targets)
        scalar = credit.entering(rewards.sum(), outputs, _divided(rewards, values), size=size)
        if hasattr(outputs, "_pre_activation"):  # on outputs of exactly 0 the reward enters there, undivided
            rest = rewards.masked_fill(values != 0, 0.0)
            if outputs._pre_activation is not None:
                z = outputs._pre_activation
                return scalar + credit.entering(torch.zeros_like(scalar), z, _divided(rest, z.detach()), size=size)
            if rest.any():
                raise FeedpropError(
                    f"{type(self).__name__} rewards outputs of exactly 0, but relu(inplace=True) overwrote what they "
                    f"were computed from; write the last ReLU without inplace"
                )
        return scalar

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        return outputs * self.credit(outputs, targets)

    def credit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return c_o = r_o / o, shaped like `outputs`; 0 where o is 0, unless a reward knows its limit."""
        return _divided(self.per_output(outputs, targets), outputs.detach())

    def _started(self, outputs: Tensor, targets: Tensor, credits: Tensor) -> Tensor:
        values = outputs.detach()
        return credit.entering((values * credits).sum(), outputs, credits, size=self._size(outputs, targets))

    def _size(self, outputs: Tensor, targets: Tensor) -> int | Tensor:
        return self.samples(outputs.detach(), targets) if self.reduction == "mean" else 1

    def samples(self, outputs: Tensor, targets: Tensor) -> int | Tensor:
        """Return what "mean" divides by."""
        return outputs.shape[0] if outputs.ndim else 1

    def extra_repr(self) -> str:
        """Name the reduction."""
        return f"reduction={self.reduction!r}"


def _divided(rewards: Tensor, outputs: Tensor) -> Tensor:
    return (rewards / outputs).masked_fill_(outputs == 0, 0.0)


def _check_outputs(outputs: Tensor) -> None:
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise FeedpropError(f"a reward needs floating-point outputs, not {kind}")
    if outputs.numel() == 0:
        raise FeedpropError(f"a reward needs at least one output, got shape {tuple(outputs.shape)}")


def _onehot(outputs: Tensor, labels: Tensor, kept: Tensor | None) -> Tensor:
    return torch.zeros_like(outputs).scatter_(1, labels, 1.0 if kept is None else kept)


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

    def onehot(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the targets one-hot, shaped like `outputs`; ignored ones are 0 throughout."""
        return _onehot(outputs, *self.labels(outputs, targets))

    def labels(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the classes, with a class dimension of 1, and 1 where they count, else 0 (None: all count)."""
        self._check(outputs, targets)
        if outputs.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in torch.aminmax(targets))
            if low >= 0 and high < outputs.shape[1]:
                return targets.unsqueeze(1).long(), None
            self._check_range(targets, outputs.shape[1])
        kept = targets != self.ignore_index
        return targets.where(kept, 0).unsqueeze(1).long(), kept.unsqueeze(1).to(outputs.dtype)

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

    def samples(self, outputs: Tensor, targets: Tensor) -> int | Tensor:
        """Return the number of targets that are not ignored."""
        return (targets != self.ignore_index).sum().clamp_(min=1)


class SoftmaxReward(_ClassReward):
    """r = o (onehot - softmax(o)): classification, in the place of nn.CrossEntropyLoss.

    >>> SoftmaxReward().per_output(torch.zeros(1, 2), torch.tensor([1]))
    tensor([[-0., 0.]])
    """

    def credit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return onehot - softmax(o)."""
        labels, kept = self.labels(outputs, targets)
        outputs = outputs.detach()
        return _onehot(outputs, labels, kept).sub_(_counted(outputs.softmax(1), kept))


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

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        p = outputs.softmax(1)
        p = torch.where(p > self.upper, 1.0, torch.where(p < self.lower, 0.0, p)).to(outputs.dtype)
        _, kept = self.labels(outputs, targets)
        share = self.onehot(outputs, targets) - _counted(p, kept)
        return (_signs(outputs) if self.sign_only else outputs) * share


class CorrectnessReward(_ClassReward):
    """r_y = sign(o_y) if the true class has the largest output, else nothing: yes/no feedback."""

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        onehot = self.onehot(outputs, targets)
        correct = (outputs.argmax(1) == targets).unsqueeze(1)
        return onehot * _signs(outputs) * correct


class MisclassificationReward(_ClassReward):
    """r_k = -sign(o_k) at every class k whose output exceeds that of the true class: only mistakes are answered.

    Where nothing but mistakes is answered, give the model centred outputs (o - o.mean(1, keepdim=True)), else they run
    to minus infinity together; `rules.Epsilon(0.1)`, since the credit sign(o) / o is unbounded near 0; and a
    `magnitude_floor`. Then training hardly depends on the learning rate (experiments/discrete-rewards).
    """

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        labels, kept = self.labels(outputs, targets)
        return _counted(-_signs(outputs) * (outputs > outputs.gather(1, labels)), kept)


class ChoiceReward(Reward):
    """r_k = o_k (right - softmax(o)_k) at the class k that was chosen, nothing elsewhere: partial, yes/no feedback.

    Only whether the choice was right is known, not which one would have been (the bandit setting). The model chooses
    the class of the largest output; who explores says what was tried, `reward(outputs, targets, chosen=classes)`.

    Targets are yes/no, shape (batch,): whether the choice was right, as bool or as numbers in [0, 1].
    """

    def forward(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return minus the mean (or summed) reward, a scalar whose `.backward()` starts the propagation.

        Args:
            outputs: (batch, classes) as the attached model returned them.
            targets: (batch,), yes/no.
            chosen: (batch,), the classes that were tried, as integers; those of the largest outputs if not given.
        """
        _check_outputs(outputs)
        return self._started(outputs, targets, self.credit(outputs, targets, chosen=chosen))

    def per_output(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        return outputs.detach() * self.credit(outputs, targets, chosen=chosen)

    def credit(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return right - softmax(o) at the chosen class, shaped like `outputs`."""
        outputs = outputs.detach()
        if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
            raise FeedpropError(
                f"ChoiceReward takes outputs (batch, classes) and yes/no targets (batch,), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if chosen is None:
            chosen = outputs.argmax(1)
        elif chosen.shape != targets.shape or chosen.is_floating_point():
            raise FeedpropError(
                f"chosen has to be classes (batch,) as integers, one for each of {len(targets)} targets, "
                f"got {chosen.dtype} {tuple(chosen.shape)}"
            )
        index, right = chosen.long().unsqueeze(1), targets.to(outputs.dtype).unsqueeze(1)
        return torch.zeros_like(outputs).scatter_(1, index, right - outputs.softmax(1).gather(1, index))


class MaximizeReward(_ClassReward):
    """r = sign(o) (1 - sigmoid(o)) at the output that the target names: make it large."""

    direction = 1.0

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        outputs = outputs.detach()
        return self.direction * self.onehot(outputs, targets) * _signs(outputs) * (1 - outputs.sigmoid())


class MinimizeReward(MaximizeReward):
    """r = -sign(o) (1 - sigmoid(o)) at the output that the target names: make it small."""

    direction = -1.0


class SigmoidReward(_ClassReward):
    """r = o (y - sigmoid(o)), each output on its own, in the place of nn.BCEWithLogitsLoss.

    Targets are classes (made one-hot), or y itself in [0, 1], shaped like `outputs` (several labels, or one yes/no).
    """

    def credit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return y - sigmoid(o)."""
        outputs = outputs.detach()
        if targets.shape == outputs.shape:
            return targets.to(outputs.dtype) - outputs.sigmoid()
        return self.onehot(outputs, targets) - _counted(outputs.sigmoid(), self.labels(outputs, targets)[1])

    def samples(self, outputs: Tensor, targets: Tensor) -> int | Tensor:
        """Return the batch size, or the number of classes that are not ignored."""
        return outputs.shape[0] if targets.shape == outputs.shape else super().samples(outputs, targets)


class RegressionReward(Reward):
    """r = o (target - o): the output is rewarded as far as it should grow. Targets are shaped like `outputs`.

    The published r = (target - o)^3 sign(o) is a stopgap that does not train: it hardly answers small errors, turns
    with the sign of the output, and its credit is unbounded near o = 0. Here the credit is the error itself.
    """

    def credit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return target - o."""
        _check_same_shape(self, outputs, targets)
        return targets.detach().to(outputs.dtype) - outputs.detach()


class GivenReward(Reward):
    """Rewards from outside: a person's verdict on the class that was chosen, a simulator's score.

    The second argument is r_o itself, shaped like `outputs`; what is not known is 0 and gets no feedback. A reward
    makes what an output is made of larger: +1 moves a positive output up and a negative one further down, away from 0.
    To ask for a larger output whatever its sign, give +1 * sign(o); `ChoiceReward` and `SoftmaxReward` see to that.
    """

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the rewards given."""
        _check_same_shape(self, outputs, targets)
        return targets.detach().to(outputs.dtype)


def _check_same_shape(reward: Reward, outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        raise FeedpropError(
            f"{type(reward).__name__} takes targets shaped like the outputs, got {tuple(targets.shape)} "
            f"for outputs {tuple(outputs.shape)}"
        )


from feedprop.spiking.rewards import SpikeRateReward, SpikeTargetReward  # noqa: E402  they stand on Reward
