"""Update sparsity: the share of weights that a step does not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

EVERY = 10  # one of so many steps is measured


class UpdateSparsity:
    """Counts, at every tenth step of an epoch from the first one, the weights that it changes not at all or hardly.

    A weight is without feedback if its feedback is exactly 0. Its change is negligible if there is none, or if it is
    smaller than a thousandth of the largest weight in its layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights = [weight for weight in model.parameters() if weight.ndim >= 2 and weight.requires_grad]
        self._reset()

    def state(self) -> dict[str, Any]:
        """Return what was counted, for `load`."""
        return {"count": self.count, "measured": self.measured, "without": self.without, "negligible": self.negligible}

    def load(self, state: Mapping[str, Any]) -> None:
        device = self.weights[0].device
        for name, value in state.items():
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)

    def _reset(self) -> None:
        self.count = 0  # steps of the epoch; one that is shorter than ten has a step that is measured, too
        self.measured = 0
        self.without: Tensor | int = 0
        self.negligible: Tensor | int = 0

    @torch.no_grad()
    def step(self, optimizer: Any) -> None:
        """Take a step of the optimizer, and measure every tenth one."""
        self.count += 1
        if (self.count - 1) % EVERY:
            optimizer.step()
            return
        before = [weight.clone() for weight in self.weights]
        self.without = self.without + _total(_zeros(weight.grad, weight) for weight in self.weights)
        optimizer.step()
        self.negligible = self.negligible + _total(
            ((weight == old) | ((weight - old).abs() < old.abs().amax() / 1000)).sum()
            for weight, old in zip(self.weights, before, strict=True)
        )
        self.measured += sum(weight.numel() for weight in self.weights)

    def shares(self) -> dict[str, float]:
        """Return the shares of an epoch, over all weights and all measured steps, and begin the next one.

        Nothing if no step was measured.
        """
        counts = {"without_feedback": self.without, "negligible": self.negligible}
        found = {name: float(count) / self.measured for name, count in counts.items() if self.measured}
        self._reset()
        return found


def _zeros(feedback: Tensor | None, weight: Tensor) -> Tensor:
    return torch.tensor(weight.numel(), device=weight.device) if feedback is None else (feedback == 0).sum()


def _total(counts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(counts)).sum()  # stays on the device, so nothing waits for it
