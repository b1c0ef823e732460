"""Says during training that it does not work, where that is certain: each symptom once, with its remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.training.evaluation import Evaluation, scores
from feedprop.training.tasks import Classification, Task, is_chance

EVERY = 10  # one of so many steps of the optimizer is measured
PATIENCE, LONGEST = 100, 1000  # steps before which a network may be at chance; in between, 30 % of the run, since
WARM_UP = 0.3  # OneCycleLR reaches its rate there
SHORTEST = 50  # steps of a run that is judged at its end if it is shorter than that
DEVIATIONS = 3.0  # standard deviations above chance that accuracy must reach
SMALLEST, USUAL, LARGEST = 1e-4, 1e-2, 0.1  # how far a step moves the weights, as a share of their norm


_COUNTED = ("said", "count", "furthest", "moves", "targets", "right")


class Symptoms:
    """Watches the steps of a run; at the end of an epoch, says what keeps the run from learning.

    A run has a symptom if after 100 to 1000 steps its accuracy over a whole epoch of training is within three standard
    deviations of that of always answering the most frequent class, or if all validation data get the same answer.

    Args:
        model: the network itself
        task: what the targets are
        steps: how many steps the run takes
        method: lfp or backprop
    """

    def __init__(self, model: nn.Module, *, task: Task, steps: int, method: str) -> None:
        self.task, self.steps = task, steps
        self.signal = "feedback" if method == "lfp" else "gradient"
        self.weights = [weight for weight in model.parameters() if weight.ndim >= 2 and weight.requires_grad]
        self.said: list[str] = []
        self.remarks: Callable[[], list[str]] = list  # about the layers
        self.count = 0
        self.furthest = 0.0  # that a step has moved the weights so far
        self._start()

    def state(self) -> dict[str, Any]:
        """Return what was counted, for `load`."""
        return {name: getattr(self, name) for name in _COUNTED}

    def load(self, state: Mapping[str, Any]) -> None:
        device = next((weight.device for weight in self.weights), None)
        for name in _COUNTED:
            setattr(self, name, _on(device, state[name]))

    def _start(self) -> None:
        """Begin an epoch."""
        self.moves: list[Tensor] = []
        self.targets: Tensor | int = 0
        self.right: Tensor | int = 0

    @torch.no_grad()
    def observe(self, outputs: Tensor, targets: Tensor) -> None:
        """Count the answers of a batch, if they are classes; nothing waits for the device."""
        if not isinstance(self.task, Classification):
            return
        self.targets = self.targets + nn.functional.one_hot(targets, len(self.task.outputs)).sum(0)
        self.right = self.right + (scores(outputs).argmax(1) == targets).sum()

    @torch.no_grad()
    def step(self, take: Callable[[], Any]) -> None:
        """Take a step of the optimizer; of one in ten, note how far it moves the weights."""
        self.count += 1
        if (self.count - 1) % EVERY:
            take()
            return
        before = [weight.clone() for weight in self.weights]
        take()
        if before:
            moved = [weight - old for weight, old in zip(self.weights, before, strict=True)]
            self.moves.append(_norm(moved) / _norm(before))

    def after_epoch(self, validation: Evaluation, *, step: int) -> list[str]:
        """Return what is certain now and was not said before; `step` is the number of steps taken so far."""
        moves = [move for move in map(float, self.moves) if math.isfinite(move)]
        self.furthest = max([self.furthest, *moves])
        sentence = None
        patience = min(max(PATIENCE, WARM_UP * self.steps), LONGEST)
        if not self.said and (step >= patience or SHORTEST <= step == self.steps):
            sentence = self._collapse(validation, step) or self._chance(step)
        self._start()
        self.said += [sentence] if sentence else []
        return [sentence] if sentence else []

    def _collapse(self, validation: Evaluation, step: int) -> str | None:
        sentence = self.task.failure(validation.figures)
        return f"after {step} steps, {sentence}; {self._remedy()}" if sentence else None

    def _chance(self, step: int) -> str | None:
        counts = torch.as_tensor(self.targets).reshape(-1).tolist()
        total = sum(counts)
        if not total or not is_chance(accuracy := int(self.right) / total, counts, deviations=DEVIATIONS):
            return None
        return (
            f"after {step} steps, training accuracy is {accuracy:.3f}, no better than always answering the most "
            f"frequent class ({max(counts) / total:.3f}); {self._remedy()}"
        )

    def _remedy(self) -> str:
        """Say what to change, judged by how far the steps have moved the weights."""
        moved = f"moved the weights by {self.furthest:.1g} of their size at most, where about {USUAL:g} is usual"
        if self.weights and self.furthest > LARGEST:
            factor = _rounded(self.furthest / USUAL)
            return (
                f"the {self.signal} is too large for this optimizer: a step {moved}; divide --optimizer.lr by {factor}"
            )
        if self.weights and 0 < self.furthest < SMALLEST:
            return (
                f"the {self.signal} is too small for this optimizer: a step {moved}; multiply --optimizer.lr by "
                f"{_rounded(USUAL / self.furthest)}"
            )
        if remarks := self.remarks():
            return remarks[0].replace("feedback", self.signal)
        check = "run feedprop check with the same options, and " if self.signal == "feedback" else ""
        return f"{check}try --optimizer.lr ten times smaller and ten times larger"


def _on(device: torch.device | None, value: Any) -> Any:
    """Return a value with all tensors in it on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(device, item) for key, item in value.items()}
    return [_on(device, item) for item in value] if isinstance(value, list) else value


def _rounded(factor: float) -> str:
    """Return one digit and zeros."""
    return f"{float(f'{factor:.0e}'):.0f}"


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))
    return norm
