"""Reward or loss of a model on a split, and the figures of the task."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.aggregation import MeanMetric

from feedprop import probabilities
from feedprop.errors import FeedpropError
from feedprop.probabilities import ProbabilityWarning
from feedprop.rewards import ChoiceReward, SigmoidReward, SpikeReward
from feedprop.training.tasks import Classification, MultiLabel, Task

# that have a softmax or sigmoid of their own, beside rewards that say so
LOGITS = (ChoiceReward, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


@dataclass(frozen=True)
class Objective:
    """What training minimises, and its name in reports.

    Args:
        module: (outputs, targets) -> scalar
        name: reward or loss
        sign: -1 if the module returns the negative of what the name says
        task: what the targets are
    """

    module: nn.Module
    name: str
    sign: int
    task: Task

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self.module, ChoiceReward):
            return self._told_yes_or_no(self.module, outputs, targets)
        value: Tensor = self.module(outputs, targets)
        return value

    @staticmethod
    def _told_yes_or_no(reward: ChoiceReward, outputs: Tensor, targets: Tensor) -> Tensor:
        """Tell the reward whether the choice is right, and no more; in training, draw the choice from the softmax.

        Without exploration, a class that is never chosen is never learned.
        """
        scores = outputs.detach().float()
        drawn = torch.is_grad_enabled() and scores.ndim == 2 and bool(scores.isfinite().all())
        chosen = torch.multinomial(scores.softmax(1), 1).squeeze(1) if drawn else scores.argmax(-1)
        value: Tensor = reward(outputs, chosen == targets, chosen=chosen)
        return value

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of what is shown beside the objective: the loss of the task, which all methods have in common.

        A sigmoid for each class has the loss of several labels too.
        """
        return (self.task.loss, *([MultiLabel.loss] if self._has_sigmoids else []))

    @property
    def _has_sigmoids(self) -> bool:
        return isinstance(self.module, SigmoidReward) and isinstance(self.task, Classification)

    def compute_losses(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Return the mean losses of these names; of spikes over time, those of their numbers."""
        answers = scores(outputs.detach()).float()
        loss = self.task.compute_loss(answers, targets)
        if not self._has_sigmoids:
            return (loss,)
        labels = nn.functional.one_hot(targets, answers.shape[1])
        return loss, MultiLabel(self.task.outputs).compute_loss(answers, labels)

    def remark(self, outputs: Tensor) -> str | None:
        """Say that outputs (batch, classes) are probabilities, if the reward or loss takes what they are made of."""
        takes_logits = isinstance(self.module, LOGITS) or getattr(self.module, "takes_logits", False)
        if outputs.ndim != 2 or not takes_logits:
            return None
        return probabilities.remark(outputs.float(), 1, taker=type(self.module).__name__)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse an objective that cannot be computed from these outputs and targets."""
        if outputs.ndim > 1 and outputs.shape[-2] == outputs.shape[-1]:
            # one sample more, or labels would fit as if they were scores
            outputs = torch.cat([outputs, outputs.narrow(-2, 0, 1)], -2)
            targets = torch.cat([targets, targets[:1]])
        shapes = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
        label = type(self.module).__name__
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns when it broadcasts outputs against targets
                warnings.simplefilter("ignore", ProbabilityWarning)  # `remark` says so
                value = self(outputs, targets)
        except (AssertionError, ValueError, TypeError, RuntimeError, IndexError, Warning) as error:
            reason = (" ".join(str(error).split()) or type(error).__name__) + self._hint(outputs)
            raise FeedpropError(f"the {self.name} {label} does not fit {shapes}: {reason}") from error
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise FeedpropError(f"the {self.name} {label} must return one number for {shapes}, but returned {found}")

    def _hint(self, outputs: Tensor) -> str:
        """Return the remedy where spikes meet an objective of scores, or the other way round."""
        if outputs.ndim == 3:
            return "; for spikes over time use --reward SpikeTargetReward"
        if isinstance(self.module, SpikeReward):
            return "; it needs a model that spikes, such as --model lif_mlp"
        return ""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one split.

    Args:
        objective: mean reward or loss.
        score: the figure that chooses the best model; the higher, the better.
        figures: of the task, as JSON has them; the score is among them.
        losses: beside the objective, by name.
    """

    objective: float
    score: float
    figures: dict[str, Any]
    losses: dict[str, float] = field(default_factory=dict)

    def as_dict(self, name: str) -> dict[str, Any]:
        """Return the figures, the objective under its name."""
        return {name: self.objective, **self.losses, **self.figures}


def evaluate(
    model: nn.Module,
    batches: Any,
    *,
    objective: Objective,
    device: torch.device,
    gather: Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]] = lambda pair: pair,
) -> Evaluation:
    """Evaluate the model on all batches; `gather` collects outputs and targets from all processes."""
    mean, *losses = (
        MeanMetric(nan_strategy="disable", sync_on_compute=False).to(device) for _ in ("objective", *objective.losses)
    )
    metrics = objective.task.metrics().to(device)
    training, bad = model.training, torch.zeros((), dtype=torch.bool, device=device)
    model.eval()
    try:
        with torch.no_grad():
            for inputs, labels in batches:
                outputs = model(inputs.to(device))
                rows, targets = gather((batch_first(outputs), labels.to(device)))
                outputs = batch_first(rows)  # batch_first is its own inverse
                bad |= outputs.isnan().any()
                mean.update(objective.sign * objective(outputs, targets), weight=len(targets))
                metrics.update(scores(outputs), targets)
                for loss, value in zip(losses, objective.compute_losses(outputs, targets), strict=True):
                    loss.update(value, weight=len(targets))
    finally:
        model.train(training)
    if bad:
        raise FeedpropError(f"outputs of the model are NaN in evaluation, so it has no {objective.task.score}")
    figures = objective.task.figures(metrics.compute())
    named = {name: float(loss.compute()) for name, loss in zip(objective.losses, losses, strict=True)}
    return Evaluation(float(mean.compute()), figures[objective.task.score], figures, named)


def batch_first(outputs: Tensor) -> Tensor:
    """Turn spikes over time, (T, B, classes), into (B, T, classes) and back; return other outputs unchanged."""
    return outputs.transpose(0, 1) if outputs.ndim == 3 else outputs


def scores(outputs: Tensor) -> Tensor:
    """Return one score per class, (B, classes); for spikes over time, (T, B, classes), their number."""
    return outputs.sum(0) if outputs.ndim == 3 else outputs
