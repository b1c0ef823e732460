"""What the targets of a data set are: classes, numbers, or several labels at once; and what is measured then."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric, MetricCollection, R2Score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelF1Score,
)
from torchmetrics.utilities.data import dim_zero_cat

from feedprop.errors import FeedpropError
from feedprop.training.data.standardisation import Normalisation

SHOWN = 500  # predictions that are kept for a scatter plot
DEVIATIONS = 2.0  # standard deviations above chance that accuracy must reach
Figures = dict[str, Any]


class Told(NamedTuple):
    """An answer and its target in words, and whether it is right; numbers are neither right nor wrong."""

    words: str
    target: str
    right: bool | None


@dataclass(frozen=True)
class Task(ABC):
    """What a model learns from a data set.

    Args:
        outputs: name of each output of the model: of a class, a number or a label.
    """

    name: ClassVar[str]
    score: ClassVar[str]  # the figure that chooses the best model: the higher, the better
    loss: ClassVar[str]  # what is shown beside a reward
    each: ClassVar[str]  # what one output is

    outputs: tuple[str, ...]

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Return the metrics of an evaluation; they take answers (batch, outputs) and targets."""

    @abstractmethod
    def running(self) -> Metric:
        """Return the metric of the score during an epoch of training."""

    @abstractmethod
    def compute_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of answers (batch, outputs)."""

    @abstractmethod
    def check_targets(self, targets: Tensor, *, part: str, name: str) -> None:
        """Refuse targets of a data set that do not fit the task.

        Args:
            targets: one row per sample.
            part: training, validation or test.
            name: of the data set.
        """

    @abstractmethod
    def check_target(self, target: Any, *, part: str, index: int) -> Tensor:
        """Return the target of one sample, as a tensor; refuse it if it does not fit the task."""

    @abstractmethod
    def failure(self, found: Figures) -> str | None:
        """Say how the answers to validation data are all alike; None if they are not."""

    @abstractmethod
    def at_chance(self, found: Figures) -> bool:
        """Whether the answers are no better than without any inputs."""

    def explained(self, answers: Tensor) -> Tensor:
        """Return which output of answers (batch, outputs) says most, (batch,)."""
        return answers.argmax(1)

    @abstractmethod
    def told(self, answers: Tensor, target: Tensor) -> Told:
        """Return what answers (outputs,) to one sample say."""

    def _strongest(self, answers: Tensor) -> tuple[int, str]:
        """Return which of the answers (outputs,) is the largest, and that in words."""
        best = int(answers.argmax())
        return best, f"{self.outputs[best]}; output {float(answers[best]):.3g}"

    def scaled(self, targets: Tensor) -> Tensor:
        """Return targets as the model is to answer them."""
        return targets

    def figures(self, computed: Mapping[str, Tensor]) -> Figures:
        """Return the computed metrics as JSON has them."""
        return {key: float(value) for key, value in computed.items()}

    @property
    def expected(self) -> str:
        """What the data has, in words."""
        return f"{len(self.outputs)} {'target' if len(self.outputs) == 1 else 'targets'}"


class Classification(Task):
    """One class for each sample, given as its number, (batch,)."""

    name, score, loss = "classification", "accuracy", "cross_entropy"
    each = "score per class"

    def metrics(self) -> MetricCollection:
        options: dict[str, Any] = {
            "num_classes": len(self.outputs), "validate_args": False, "sync_on_compute": False,
        }  # fmt: skip
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **options),
                "f1": MulticlassF1Score(average="macro", **options),
                "confusion": MulticlassConfusionMatrix(**options),
            }
        )

    def running(self) -> Metric:
        return MulticlassAccuracy(len(self.outputs), average="micro", validate_args=False)

    def figures(self, computed: Mapping[str, Tensor]) -> Figures:
        found = super().figures({key: value for key, value in computed.items() if key != "confusion"})
        classes = len(self.outputs)  # of one class, torchmetrics returns a number
        return {**found, "confusion": computed["confusion"].long().view(classes, classes).tolist()}

    def compute_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(answers, targets)

    def told(self, answers: Tensor, target: Tensor) -> Told:
        best, words = self._strongest(answers)
        return Told(words, self.outputs[int(target)], best == int(target))

    def check_targets(self, targets: Tensor, *, part: str, name: str) -> None:
        if targets.is_floating_point() or targets.ndim != 1:
            raise FeedpropError(f"the {part} labels of {name} must be whole numbers, one per sample")
        bad = (targets < 0) | (targets >= len(self.outputs))
        if bad.any():
            raise FeedpropError(
                f"the {part} labels of {name} are out of range: found {int(targets[bad][0])}, but there are "
                f"{len(self.outputs)} classes, 0 to {len(self.outputs) - 1}"
            )

    def check_target(self, target: Any, *, part: str, index: int) -> Tensor:
        if not 0 <= int(target) < len(self.outputs):
            raise FeedpropError(
                f"the label {int(target)} of sample {index} of the {part} data is out of range: the classes are 0 "
                f"to {len(self.outputs) - 1}"
            )
        return torch.as_tensor(target)

    def failure(self, found: Figures) -> str | None:
        answered = [label for label, column in enumerate(zip(*found["confusion"], strict=True)) if any(column)]
        true = sum(any(row) for row in found["confusion"])
        if len(answered) != 1 or true < 2:
            return None
        return f"all validation data are taken for class {self.outputs[answered[0]]}"

    def at_chance(self, found: Figures) -> bool:
        counts = [sum(row) for row in found["confusion"]]
        return is_chance(found["accuracy"], counts, deviations=DEVIATIONS)

    @property
    def expected(self) -> str:
        return f"{len(self.outputs)} classes, labels 0 to {len(self.outputs) - 1}"


def is_chance(accuracy: float, counts: Sequence[int], *, deviations: float) -> bool:
    """Whether an accuracy is within so many standard deviations of always answering the most frequent class.

    Args:
        accuracy: on samples of classes.
        counts: of the samples of each class; with one class alone, every answer is right.
        deviations: how many.
    """
    total = sum(counts)
    chance = max(counts) / total
    least = chance + deviations * math.sqrt(chance * (1 - chance) / total)
    return accuracy < min(least, 1.0) and chance < 1


class Pairs(Metric):
    """The first predictions and their targets."""

    full_state_update = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("true", [], dist_reduce_fx="cat")
        self.predicted: list[Tensor]
        self.true: list[Tensor]

    def update(self, predicted: Tensor, true: Tensor) -> None:
        missing = SHOWN - sum(map(len, self.predicted))
        if missing > 0:
            self.predicted.append(predicted[:missing].detach().float())
            self.true.append(true[:missing].float())

    def compute(self) -> Tensor:
        return torch.stack([dim_zero_cat(self.predicted), dim_zero_cat(self.true)])


@dataclass(frozen=True)
class Regression(Task):
    """Numbers for each sample, (batch, outputs), standardised by those of the training data.

    Args:
        scale: mean and standard deviation of each output; figures are in the units of the data.
    """

    name, score, loss = "regression", "r2", "squared_error"
    each = "number per target"

    scale: Normalisation = field(default_factory=Normalisation)

    def scaled(self, targets: Tensor) -> Tensor:
        return self.scale(targets.reshape(-1, len(self.outputs))).reshape(targets.shape)

    def metrics(self) -> MetricCollection:
        options: dict[str, Any] = {"sync_on_compute": False}
        return MetricCollection(
            {
                "r2": R2Score(**options),
                "mae": MeanAbsoluteError(num_outputs=len(self.outputs), **options),
                "predictions": Pairs(**options),
            },
            compute_groups=False,
        )

    def running(self) -> Metric:
        return R2Score()

    def figures(self, computed: Mapping[str, Tensor]) -> Figures:
        deviation = torch.tensor(self.scale.deviation or (1.0,))
        predicted, true = computed["predictions"].cpu()
        return {
            "r2": float(computed["r2"]),
            "mae": (computed["mae"].cpu().reshape(-1) * deviation).tolist(),
            "predictions": {"predicted": self.scale.undo(predicted).tolist(), "true": self.scale.undo(true).tolist()},
        }

    def compute_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(answers, targets)

    def explained(self, answers: Tensor) -> Tensor:
        return answers.new_zeros(len(answers), dtype=torch.long)  # the first number

    def told(self, answers: Tensor, target: Tensor) -> Told:
        answer, true = (float(self.scale.undo(row.reshape(1, -1))[0, 0]) for row in (answers, target))
        return Told(f"{self.outputs[0]}: {answer:.4g}", f"{true:.4g}", None)

    def check_targets(self, targets: Tensor, *, part: str, name: str) -> None:
        _check_rows(targets, len(self.outputs), part=part, name=name)
        if not targets.isfinite().all():
            raise FeedpropError(f"the {part} targets of {name} hold NaN or infinity; training cannot begin")

    def check_target(self, target: Any, *, part: str, index: int) -> Tensor:
        row = _row(target, len(self.outputs), part=part, index=index)
        if not row.isfinite().all():
            raise FeedpropError(f"the target of sample {index} of the {part} data holds NaN or infinity")
        return row

    def failure(self, found: Figures) -> str | None:
        predicted = torch.tensor(found["predictions"]["predicted"])
        if len(predicted) < 2 or bool((predicted.std(0) > 1e-6 * predicted.abs().amax(0)).any()):
            return None
        return "all validation data get the same answer"

    def at_chance(self, found: Figures) -> bool:
        return not found["r2"] > 0  # of the mean of the targets, R2 is 0


class MultiLabel(Task):
    """Any number of labels for each sample, (batch, outputs) of 0 and 1."""

    name, score, loss = "multi_label", "f1", "binary_cross_entropy"
    each = "score per label"

    def metrics(self) -> MetricCollection:
        options: dict[str, Any] = {
            "num_labels": len(self.outputs), "validate_args": False, "sync_on_compute": False,
        }  # fmt: skip
        return MetricCollection(
            {
                "f1": MultilabelF1Score(average="macro", **options),
                "accuracy": MultilabelAccuracy(average="macro", **options),
                "per_label": MultilabelF1Score(average="none", **options),
            },
            compute_groups=False,
        )

    def running(self) -> Metric:
        return MultilabelF1Score(len(self.outputs), average="macro", validate_args=False)

    def figures(self, computed: Mapping[str, Tensor]) -> Figures:
        found = super().figures({key: value for key, value in computed.items() if key != "per_label"})
        return {**found, "per_label": computed["per_label"].tolist()}

    def compute_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(answers, targets.to(answers))

    def told(self, answers: Tensor, target: Tensor) -> Told:
        best, words = self._strongest(answers)
        true = [name for name, label in zip(self.outputs, target.tolist(), strict=True) if label]
        return Told(words, ", ".join(true) or "nothing", bool(target[best] > 0))

    def check_targets(self, targets: Tensor, *, part: str, name: str) -> None:
        _check_rows(targets, len(self.outputs), part=part, name=name)
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise FeedpropError(
                f"the {part} labels of {name} must be 0 or 1, one for each of {len(self.outputs)} labels"
            )

    def check_target(self, target: Any, *, part: str, index: int) -> Tensor:
        row = _row(target, len(self.outputs), part=part, index=index)
        if not bool(((row == 0) | (row == 1)).all()):
            raise FeedpropError(f"the labels of sample {index} of the {part} data must be 0 or 1")
        return row

    def failure(self, found: Figures) -> str | None:
        return "no label is ever right on validation data" if self.at_chance(found) else None

    def at_chance(self, found: Figures) -> bool:
        return not found["f1"] > 0


TASKS: Mapping[str, type[Task]] = {kind.name: kind for kind in (Classification, Regression, MultiLabel)}


def _check_rows(targets: Tensor, outputs: int, *, part: str, name: str) -> None:
    if targets.ndim != 2 or targets.shape[1] != outputs or not targets.is_floating_point():
        raise FeedpropError(
            f"the {part} targets of {name} must be floating point numbers (samples, {outputs}), one for each output, "
            f"but are {targets.dtype} of shape {tuple(targets.shape)}"
        )


def _row(target: Any, outputs: int, *, part: str, index: int) -> Tensor:
    row = torch.as_tensor(target, dtype=torch.float32).reshape(-1)
    if len(row) != outputs:
        raise FeedpropError(f"the target of sample {index} of the {part} data has {len(row)} numbers, not {outputs}")
    return row
