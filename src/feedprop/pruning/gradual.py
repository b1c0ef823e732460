"""Pruning little by little while training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from feedprop.errors import FeedpropError
from feedprop.pruning.amounts import checked, set_to_zero
from feedprop.pruning.importances import AccumulatedFeedback, Scores, magnitude
from feedprop.pruning.revival import reset_moments


class GradualPruning:
    """Prunes more and more during training: s_t = s (1 - (1 - (t - begin) / (end - begin))^3) (Zhu & Gupta 2017).

    Call `step` after each step of the optimizer. Between two prunings it holds pruned weights at 0, so that it also
    works with gradients and with a floor; under LFP without a floor nothing moves them.

    Args:
        model: the model in training.
        amount: share of the weights that are 0 at `end`, 0 <= amount < 1.
        begin: step of the optimizer at which pruning begins.
        end: step at which the amount is reached, > begin.
        every: steps between two prunings.
        importance: a function that returns scores of the model, or an `AccumulatedFeedback` that runs; `magnitude` by
            default.
        scope: "global" or "layer", as for `prune`.
        optimizer: its moments are set to 0 where weights are pruned.

    Raises:
        FeedpropError: an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        amount: float,
        *,
        begin: int = 0,
        end: int,
        every: int = 100,
        importance: Callable[[nn.Module], Scores] | AccumulatedFeedback = magnitude,
        scope: str = "global",
        optimizer: Optimizer | None = None,
    ) -> None:
        checked(model, magnitude(model), amount, scope)
        if not 0 <= begin < end:
            raise FeedpropError(f"pruning begins before it ends, 0 <= begin < end, but begin={begin} and end={end}")
        if every < 1:
            raise FeedpropError(f"every must be at least 1, but is {every}")
        self.model, self.amount, self.begin, self.end, self.every = model, amount, begin, end, every
        self.importance, self.scope, self.optimizer = importance, scope, optimizer
        self.count = 0
        """Steps of the optimizer so far."""
        self._masks: Scores = {}

    def target(self, step: int) -> float:
        """Return the share of weights that are 0 after this step."""
        done = min(max(step - self.begin, 0) / (self.end - self.begin), 1.0)
        return self.amount * (1 - (1 - done) ** 3)

    def step(self) -> None:
        """Prune if it is time, and hold pruned weights at 0; call it after each step of the optimizer."""
        self.count += 1
        within = self.begin < self.count <= self.end
        if within and ((self.count - self.begin) % self.every == 0 or self.count == self.end):
            self._hold()  # what came back counts as pruned
            given = self.importance
            scores = given.scores if isinstance(given, AccumulatedFeedback) else given(self.model)
            amount = self.target(self.count)
            checked(self.model, scores, amount, self.scope)
            set_to_zero(self.model, scores, amount, self.scope)
            self._masks = {name: self.model.get_parameter(name).detach() != 0 for name in scores}
            if self.optimizer is not None:
                reset_moments(self.model, self.optimizer)
        else:
            self._hold()

    @torch.no_grad()
    def _hold(self) -> None:
        for name, mask in self._masks.items():
            self.model.get_parameter(name).mul_(mask)
