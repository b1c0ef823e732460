"""Stops a run at NaN or infinity."""

from __future__ import annotations

import torch
from torch import Tensor

from feedprop.errors import FeedpropError

WHAT = ("inputs hold", "outputs hold", "reward or loss is")
HINTS = (
    "look at the data",
    "a smaller learning rate or --clip_norm may help",
    "inputs and outputs are finite, so look at the targets and at what the reward or loss divides by",
)


class DivergenceError(FeedpropError):
    """The outputs, or the reward or loss, of a run are no longer finite."""


class NaNGuard:
    """Finds the first step with NaN or infinity without waiting for the device at every step."""

    def __init__(self, step: int, device: torch.device) -> None:
        self.step = step
        self.found = torch.zeros(3, dtype=torch.long, device=device)  # first bad step of inputs, outputs, objective

    def observe(self, inputs: Tensor, outputs: Tensor, objective: Tensor) -> None:
        """Count a step and record whether its numbers are finite."""
        self.step += 1
        bad = torch.stack([~numbers.isfinite().all() for numbers in (inputs, outputs, objective)])
        self.found = torch.where((self.found == 0) & bad, self.step, self.found)

    def check(self) -> None:
        """Raise if there was such a step; name what was not finite first."""
        first = [step for step in self.found.tolist() if step]
        for what, step, hint in zip(WHAT, self.found.tolist(), HINTS, strict=True):
            if step and step == min(first):
                kind = FeedpropError if what == WHAT[0] else DivergenceError
                raise kind(f"the {what} NaN or infinity at step {step}; {hint}")
