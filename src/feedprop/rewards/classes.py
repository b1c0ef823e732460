"""Rewards for classification: the target names the true class."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from feedprop import credit, probabilities
from feedprop.errors import FeedpropError, non_negative
from feedprop.rewards.reward import Reward, check_outputs, check_range, check_targets, in_single_precision


class Labels(NamedTuple):
    """Checked targets, as `ClassReward.prepare` returns them for outputs (batch, classes, ...).

    Args:
        classes: the true class, (batch, 1, ...); 0 where ignored.
        weight: of the target, (batch, 1, ...); 0 where ignored.
        onehot: the weight at the true class, else 0; shaped like the outputs.
        size: what "mean" divides by.
    """

    classes: Tensor
    weight: Tensor
    onehot: Tensor
    size: int | Tensor


def class_dimension(outputs: Tensor) -> int:
    """Return the dimension of the classes: 1, or 0 for a single sample (classes,)."""
    if outputs.ndim == 0:
        raise FeedpropError("a class reward takes outputs (batch, classes, ...), got a single number")
    return min(1, outputs.ndim - 1)


def _signs(values: Tensor) -> Tensor:
    """Sign, with sign 0 = +1."""
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


class ClassReward(Reward):
    """Targets are classes: (batch, ...) for outputs (batch, classes, ...), or () for a single sample (classes,).

    Args:
        weight: of each class, (classes,): its targets' rewards are multiplied by it. "mean" divides by the sum of the
            targets' weights, as nn.CrossEntropyLoss does.
        ignore_index: a target of this value gets no reward and does not count in the mean.
        reduction: see `Reward`.
    """

    weight: Tensor | None
    takes_logits: ClassVar[bool] = False  # whether it has a softmax or sigmoid of its own
    _seen = 0  # outputs that were looked at, whether they are probabilities

    def __init__(
        self, *, weight: Tensor | list[float] | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight))
        if not isinstance(ignore_index, int):
            raise FeedpropError(f"ignore_index must be a class, as a whole number, not {ignore_index!r}")
        self.ignore_index = ignore_index

    def _look_at(self, outputs: Tensor) -> None:
        if self.takes_logits and outputs.ndim and credit.readable(outputs) and self._seen < probabilities.LEAST:
            self._seen += outputs.numel()
            name = type(self).__name__
            if said := probabilities.remark(outputs, class_dimension(outputs), taker=name):
                self._seen = probabilities.LEAST
                warnings.warn(said, probabilities.ProbabilityWarning, stacklevel=5)

    def prepare(self, outputs: Tensor, targets: Any) -> Labels:
        """Return the targets as `Labels`."""
        return targets if isinstance(targets, Labels) else self.labels(outputs, targets, self.class_weights(outputs))

    def labels(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Labels:
        """Check classes; `weights` is that of each class, (classes, 1, ...)."""
        dim = class_dimension(outputs)
        check_targets(self, targets)
        self._check(outputs, targets)
        index = targets.unsqueeze(dim).long()
        if weights is None and credit.readable(outputs) and not 0 <= self.ignore_index < outputs.shape[dim]:
            try:
                onehot = torch.zeros_like(outputs).scatter_(dim, index, 1.0)
                return Labels(index, outputs.new_ones(()), onehot, max(index.numel(), 1))
            except RuntimeError:  # a class is out of range: wrong, or to be ignored
                pass
        kept = index != self.ignore_index
        index = index.where(kept, 0)
        check_range(index, outputs.shape[dim])
        weight = kept.to(outputs.dtype)
        if weights is not None:
            weight = weight * weights.flatten()[index]
        onehot = outputs.new_zeros(()).expand(outputs.shape).scatter(dim, index, weight)
        size = (kept if weights is None else weight).sum()
        return Labels(index, weight, onehot, size + (size == 0))

    def class_weights(self, outputs: Tensor) -> Tensor | None:
        """Return the weight of each class, shaped to multiply the outputs."""
        if self.weight is None:
            return None
        dim = class_dimension(outputs)
        if self.weight.shape != outputs.shape[dim : dim + 1]:
            raise FeedpropError(
                f"weight must have one number for each of {outputs.shape[dim]} classes, "
                f"got shape {tuple(self.weight.shape)}"
            )
        return self.weight.to(outputs).view(-1, *[1] * (outputs.ndim - 1 - dim))

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        dim = class_dimension(outputs)
        expected = outputs.shape[:dim] + outputs.shape[dim + 1 :]
        if targets.shape != expected:
            remedy = ""
            if targets.shape == outputs.shape:
                remedy = f"; if they are one-hot, pass targets.argmax({dim})"
            elif targets.numel() == expected.numel():
                remedy = f": pass targets.view{tuple(expected)}"
            raise FeedpropError(
                f"{type(self).__name__} takes outputs (batch, classes, ...) and targets (batch, ...), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}{remedy}"
            )
        if targets.is_floating_point() or targets.dtype is torch.bool:
            raise FeedpropError(
                f"{type(self).__name__} takes classes as integers, not {targets.dtype}: pass targets.long()"
            )

    def samples(self, outputs: Tensor, targets: Any) -> int | Tensor:
        """Return the sum of the weights of the targets, 1 each by default; ignored ones do not count."""
        return self.prepare(outputs, targets).size


class SoftmaxReward(ClassReward):
    """r = o (onehot - softmax(o)): classification, instead of nn.CrossEntropyLoss.

    Takes what nn.CrossEntropyLoss takes, and its credit is minus the gradient of that loss. Targets are classes, or
    probabilities shaped like the outputs (mixup, distillation); these need not sum to 1, so a row times a number is a
    sample of that weight. Where all targets are ignored, the reward is 0 (the loss is nan).

    Args:
        weight: of each class, (classes,).
        ignore_index: a class that gets no reward and does not count in the mean.
        label_smoothing: in [0, 1], the share of each target that goes to all classes alike (Szegedy et al. 2016).
        reduction: "mean" divides by the sum of the targets' weights; for probabilities by the number of targets.

    >>> SoftmaxReward().per_output(torch.zeros(1, 2), torch.tensor([1]))
    tensor([[-0., 0.]])
    """

    takes_logits = True

    def __init__(
        self,
        *,
        weight: Tensor | list[float] | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        if not 0 <= label_smoothing <= 1:
            raise FeedpropError(f"label_smoothing must be in [0, 1], got {label_smoothing!r}")
        self.label_smoothing = label_smoothing

    def credit(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return onehot - softmax(o), for weighted or soft targets q - softmax(o) sum(q)."""
        labels = self.prepare(outputs, targets)
        return torch.addcmul(labels.onehot, labels.weight, outputs.detach().softmax(class_dimension(outputs)), value=-1)

    def prepare(self, outputs: Tensor, targets: Any) -> Labels:
        """Return the targets as `Labels`, in which `onehot` may be any q and `weight` is its sum over the classes."""
        if isinstance(targets, Labels):
            return targets
        check_targets(self, targets)
        weights, dim = self.class_weights(outputs), class_dimension(outputs)
        each: Tensor | float = 1.0 if weights is None else weights
        smooth = self.label_smoothing
        if targets.shape == outputs.shape and targets.is_floating_point():
            if self.ignore_index >= 0:
                raise FeedpropError(
                    f"ignore_index={self.ignore_index} needs classes as targets, not probabilities: "
                    f"give a target to be ignored probabilities of 0"
                )
            q = (targets.detach().to(outputs.dtype) * (1 - smooth) + smooth / outputs.shape[dim]) * each
            return Labels(q, q.sum(dim, keepdim=True), q, outputs.numel() // outputs.shape[dim])
        labels = self.labels(outputs, targets, weights)
        if not smooth:
            return labels
        kept = (targets != self.ignore_index).unsqueeze(dim).to(outputs.dtype)
        q = labels.onehot * (1 - smooth) + kept * each * (smooth / outputs.shape[dim])
        return labels._replace(onehot=q, weight=q.sum(dim, keepdim=True))

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() and targets.shape != outputs.shape:
            raise FeedpropError(
                f"SoftmaxReward takes classes as integers or probabilities shaped like the outputs "
                f"{tuple(outputs.shape)}, not {targets.dtype} {tuple(targets.shape)}: pass targets.long() for classes"
            )
        super()._check(outputs, targets)


class BoundedSoftmaxReward(ClassReward):
    """r = o (onehot - p), p = softmax(o), set to 1 above `upper` and to 0 below `lower`: sure outputs are left alone.

    Args:
        lower: probability in [0, 1].
        upper: probability in [0, 1].
        sign_only: sign(o) instead of o.
        weight: see `ClassReward`; so are `ignore_index` and `reduction`.
    """

    takes_logits = True

    def __init__(
        self,
        *,
        lower: float = 0.0,
        upper: float = 1.0,
        sign_only: bool = False,
        weight: Tensor | list[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        if not 0 <= lower <= upper <= 1:
            raise FeedpropError(f"0 <= lower <= upper <= 1 must hold, got lower={lower!r} and upper={upper!r}")
        self.lower, self.upper, self.sign_only = lower, upper, sign_only

    def per_output(self, outputs: Tensor, targets: Any) -> Tensor:
        outputs = outputs.detach()
        p = outputs.softmax(class_dimension(outputs))
        p = torch.where(p > self.upper, 1.0, torch.where(p < self.lower, 0.0, p)).to(outputs.dtype)
        labels = self.prepare(outputs, targets)
        return (_signs(outputs) if self.sign_only else outputs) * (labels.onehot - labels.weight * p)


class _SignReward(ClassReward):
    """The base of rewards sign(o) f(o), whose credit sign(o) f(o) / o has no bound near 0 unless epsilon is given."""

    def __init__(
        self,
        *,
        centred: bool = False,
        epsilon: float = 0.0,
        weight: Tensor | list[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.centred, self.epsilon = bool(centred), non_negative("epsilon", epsilon)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return minus the mean (or summed) reward; see `Reward`."""
        if self.centred:
            check_outputs(outputs)
            outputs = outputs - outputs.mean(class_dimension(outputs), keepdim=True)
        return super().forward(outputs, targets)

    def _divides(self) -> bool:
        return not self.epsilon

    def _started(self, outputs: Tensor, targets: Any, credits: Tensor) -> Tensor:
        """Start with `credits`; the value is the reward itself, not what is left of it by epsilon."""
        rewards = self.per_output(in_single_precision(outputs.detach()), targets)
        return credit.start_backward(rewards.sum(), outputs, credits, size=self._size(outputs, targets))

    def credit(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return r_o / (o + epsilon sign(o))."""
        outputs = outputs.detach()
        if not self.epsilon:
            return super().credit(outputs, targets)
        return self.per_output(outputs, targets) / (outputs + self.epsilon * _signs(outputs))


class CorrectnessReward(_SignReward):
    """r_y = sign(o_y) if the true class has the largest output, else nothing: yes/no feedback.

    As published. It strengthens only classes that win already and never stops, so the first class that often wins ends
    up winning everywhere (experiments/discrete-rewards). To train by such feedback, use `ChoiceReward`.

    Args:
        centred: see `MisclassificationReward`; so is `epsilon`.
        weight: see `ClassReward`; so are `ignore_index` and `reduction`.
    """

    def per_output(self, outputs: Tensor, targets: Any) -> Tensor:
        outputs = outputs.detach()
        labels = self.prepare(outputs, targets)
        correct: Tensor = outputs.argmax(class_dimension(outputs), keepdim=True) == labels.classes
        return labels.onehot * _signs(outputs) * correct


class MisclassificationReward(_SignReward):
    """r_k = -sign(o_k) at every class k whose output exceeds that of the true class: only mistakes are answered.

    As published, that is by default, all outputs run to minus infinity, and the credit sign(o) / o has no bound near 0.
    Train with `centred=True, epsilon=1.0` and without momentum (experiments/discrete-rewards).

    Args:
        centred: reward o - mean(o), the mean being over the classes, so that punishing one output raises the others.
        epsilon: >= 0, in the unit of outputs; the credit is r / (o + epsilon sign(o)), at most 1 / epsilon.
        weight: see `ClassReward`; so are `ignore_index` and `reduction`.
    """

    def per_output(self, outputs: Tensor, targets: Any) -> Tensor:
        outputs = outputs.detach()
        labels = self.prepare(outputs, targets)
        wrong: Tensor = outputs > outputs.gather(class_dimension(outputs), labels.classes)
        return -_signs(outputs) * wrong * labels.weight


class MaximizeReward(_SignReward):
    """r = sign(o) (1 - sigmoid(o)) at the output that the target names: make it large.

    As published, that is by default, nothing holds the other outputs down, and the credit has no bound near 0. To train
    a classifier, use `centred=True, epsilon=1.0`.

    Args:
        centred: see `MisclassificationReward`; so is `epsilon`.
        weight: see `ClassReward`; so are `ignore_index` and `reduction`.
    """

    direction = 1.0

    def per_output(self, outputs: Tensor, targets: Any) -> Tensor:
        outputs = outputs.detach()
        return self.direction * self.prepare(outputs, targets).onehot * _signs(outputs) * (1 - outputs.sigmoid())


class MinimizeReward(MaximizeReward):
    """r = -sign(o) (1 - sigmoid(o)) at the output that the target names: make it small.

    The target names an output to avoid. Given the true classes, a model learns to answer anything but them.
    """

    direction = -1.0


class SigmoidReward(ClassReward):
    """r = o (y - sigmoid(o)), each output on its own, instead of nn.BCEWithLogitsLoss.

    Targets are y in [0, 1], shaped like `outputs` (several labels, or one yes/no), and the credit is minus the gradient
    of nn.BCEWithLogitsLoss; or classes, which are made one-hot.

    Args:
        weight: of each element, broadcast to the outputs; not a weight of classes.
        pos_weight: of positive targets, broadcast to the outputs: y (1 - sigmoid(o)) is multiplied by it.
        ignore_index: a class that gets no reward and does not count in the mean.
        reduction: "mean" divides by the number of outputs; for classes by the number of targets.
    """

    pos_weight: Tensor | None

    takes_logits = True

    def __init__(
        self,
        *,
        weight: Tensor | list[float] | None = None,
        pos_weight: Tensor | list[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.register_buffer("pos_weight", None if pos_weight is None else torch.as_tensor(pos_weight))

    def credit(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return y - sigmoid(o), weighted."""
        labels, p = self.prepare(outputs, targets), outputs.detach().sigmoid()
        y = labels.onehot
        if self.pos_weight is None:
            credits = y - labels.weight * p
        else:
            positive = self._spread("pos_weight", self.pos_weight, outputs)
            credits = positive * y * (1 - p) - (labels.weight - y) * p
        return credits if self.weight is None else credits * self._spread("weight", self.weight, outputs)

    def prepare(self, outputs: Tensor, targets: Any) -> Labels:
        """Return classes one-hot, or targets as they are where they are shaped like the outputs."""
        if isinstance(targets, Labels):
            return targets
        check_targets(self, targets)
        if targets.shape == outputs.shape:
            y = targets.detach().to(outputs.dtype)
            return Labels(y, y.new_ones(()), y, outputs.numel())
        if outputs.shape[class_dimension(outputs)] == 1:
            raise FeedpropError(
                f"SigmoidReward cannot take yes/no targets {tuple(targets.shape)} of one output {tuple(outputs.shape)} "
                f"for classes: pass targets.view_as(outputs)"
            )
        return self.labels(outputs, targets)

    def _spread(self, name: str, weight: Tensor, outputs: Tensor) -> Tensor:
        try:
            return weight.to(outputs).expand(outputs.shape)
        except RuntimeError:
            raise FeedpropError(
                f"{name} of shape {tuple(weight.shape)} must broadcast to the outputs {tuple(outputs.shape)}"
            ) from None
