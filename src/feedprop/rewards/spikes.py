"""Rewards for spiking outputs (T, B, classes): they enter at each step, and at silent neurons undivided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.rewards.reward import Reward


class _SpikeReward(Reward):
    """Outputs are spikes (T, B, classes), or a list of T tensors (B, classes); targets are classes, shape (B,)."""

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return minus the mean (or summed) reward over samples; its `.backward()` starts the propagation."""
        return super().forward(outputs if isinstance(outputs, Tensor) else stacked(outputs), targets)

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r at each step, shaped like `outputs`."""
        if outputs.ndim != 3 or targets.shape != outputs.shape[1:2]:
            raise FeedpropError(
                f"{type(self).__name__} takes time-first spikes (steps, batch, classes) and targets (batch,), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if targets.is_floating_point() or targets.dtype is torch.bool:
            raise FeedpropError(f"{type(self).__name__} takes classes as integers, not {targets.dtype}")
        spikes = outputs.detach()
        if spikes.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in torch.aminmax(targets))
            if low < 0 or high >= spikes.shape[2]:
                raise FeedpropError(
                    f"label {low if low < 0 else high} is out of range: the model has {spikes.shape[2]} outputs, "
                    f"so labels go from 0 to {spikes.shape[2] - 1}"
                )
        true = torch.zeros_like(spikes[0]).scatter_(1, targets.long().unsqueeze(1), 1.0)
        return self.at_steps(spikes, spikes.sum(0), true)

    def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
        """Return r from spikes (T, B, classes), their counts (B, classes) and the true classes, one-hot."""
        raise NotImplementedError

    def samples(self, outputs: Tensor, targets: Tensor) -> int:
        """Return the batch size: time comes first."""
        return outputs.shape[1]


class SpikeRateReward(_SpikeReward):
    """As published: the true class should fire at every second step and more, the others at fewer.

    With n spikes in T steps, r = 1 - sigmoid(n - T // 2) at each step for the true class, and
    r = -s_t (1 - sigmoid(T - n - T // 2)) for the others (Weber et al. 2023, spiking networks).
    """

    def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
        """Return r."""
        steps = spikes.shape[0]
        more, less = (steps // 2 - counts).sigmoid(), (counts + (steps // 2 - steps)).sigmoid()
        return torch.where(true.bool(), more, -spikes * less)


class SpikeTargetReward(_SpikeReward):
    """The true class should fire at a share of the T steps, the others never.

    With n spikes, r = sigmoid(share T - n) at each step for the true class, silent or not, and r = -s_t sigmoid(n) for
    the others. `SpikeRateReward` leaves others alone until they fire at half of the steps; this answers each of their
    spikes. What that is worth stands in `experiments/spiking`.

    Args:
        share: of the steps, in (0, 1].
        reduction: see `Reward`.
    """

    def __init__(self, *, share: float = 0.5, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        if not 0 < share <= 1:
            raise FeedpropError(f"share has to be in (0, 1], got {share!r}")
        self.share = share

    def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
        """Return r."""
        return torch.where(true.bool(), (self.share * len(spikes) - counts).sigmoid(), -spikes * counts.sigmoid())


def stacked(steps: Sequence[Tensor]) -> Tensor:
    """Return the outputs of single steps as one tensor (T, B, ...), as torch.stack does.

    Unlike torch.stack outside of an attached model, it lets rewards on silent neurons enter.
    """
    outputs = torch.stack(list(steps))
    if credit.traced():  # otherwise they are found through the graph
        credit.marks.carry(torch.stack, (list(steps),), {}, outputs)
    return outputs
