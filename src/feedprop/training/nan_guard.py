"""Stops a run at NaN or infinity."""

from __future__ import annotations

import torch
from torch import Tensor

from feedprop.errors import FeedpropError


class NaNGuard:
    """Finds the first step with NaN or infinity without waiting for the device at every step."""

    def __init__(self, step: int, device: torch.device) -> None:
        self.step = step
        self.found = torch.zeros(2, dtype=torch.long, device=device)  # first bad step of inputs, of outputs

    def observe(self, inputs: Tensor, outputs: Tensor) -> None:
        """Count a step and record whether its numbers are finite."""
        self.step += 1
        bad = torch.stack([~inputs.isfinite().all(), ~outputs.isfinite().all()])
        self.found = torch.where((self.found == 0) & bad, self.step, self.found)

    def check(self) -> None:
        """Raise if there was such a step."""
        for what, step in zip(("inputs", "outputs"), self.found.tolist(), strict=True):
            if step:
                hint = "look at the data" if what == "inputs" else "a smaller learning rate or --clip_norm may help"
                raise FeedpropError(f"the {what} hold NaN or infinity at step {step}; {hint}")
