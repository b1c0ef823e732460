"""The learning rate schedule: how long it is, and when it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, ReduceLROnPlateau

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component
from feedprop.training.command_line.config import Interval

_LENGTHS = ("total_steps", "T_max")


@dataclass(frozen=True)
class Schedule:
    """A scheduler and the interval at which it moves; without a scheduler the rate is constant."""

    scheduler: Any | None
    interval: Interval
    name: str

    def after_step(self) -> None:
        if self.scheduler is not None and self.interval == "step":
            self._move()

    def after_epoch(self, error: float) -> None:
        """Move a schedule that moves per epoch; `error` is the share of misclassified validation data."""
        if self.scheduler is None or self.interval != "epoch":
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self._move(error)
        else:
            self._move()

    def _move(self, *error: float) -> None:
        try:
            self.scheduler.step(*error)  # type: ignore[union-attr]  # both callers have asked
        except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
            raise FeedpropError(f"--scheduler {self.name} cannot go on: {problem}") from problem

    @property
    def description(self) -> str:
        return "constant learning rate" if self.scheduler is None else f"{self.name} (a move per {self.interval})"


def make_schedule(
    component: Component, optimizer: Optimizer, *, interval: Interval, steps: int, epochs: int
) -> Schedule:
    """Make the scheduler; unless given, its length is that of the run, in steps or in epochs.

    With the interval auto, a schedule that has a length (OneCycleLR, CosineAnnealingLR) and CyclicLR move with every
    step, all others with every epoch.
    """
    arguments = component.arguments
    has_length = any(name in arguments for name in _LENGTHS)
    if interval == "auto":
        target = component.target()
        interval = "step" if has_length or target is CyclicLR else "epoch"
    length = steps if interval == "step" else epochs
    given = arguments.get("total_steps")
    if given is not None and given < length:
        raise FeedpropError(f"--scheduler.total_steps is {given}, but the run has {length} {interval}s")
    rate = optimizer.param_groups[0]["lr"]
    scheduler = component.make(optimizer, total_steps=length, T_max=length, max_lr=rate)
    if scheduler is not None and not hasattr(scheduler, "step"):
        raise FeedpropError(f"--scheduler {component.name} makes a {type(scheduler).__name__}, not a scheduler")
    return Schedule(scheduler, interval, component.name.rpartition(".")[2])
