"""Rewards for spiking outputs (T, B, classes): they enter at each step, and at silent neurons undivided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.rewards.classes import ClassReward, Labels
from feedprop.rewards.reward import check_targets


class SpikeReward(ClassReward):
    """The base of rewards for spikes: a subclass defines `at_steps`.

    Outputs are spikes (T, B, classes), or a list of T tensors (B, classes); targets are classes, shape (B,).

    Args:
        weight: see `ClassReward`; so are `ignore_index` and `reduction`. "mean" is over samples, not steps.
    """

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return minus the mean (or summed) reward over samples; its `.backward()` starts the propagation."""
        return super().forward(outputs if isinstance(outputs, Tensor) else stacked(outputs), targets)

    def prepare(self, outputs: Tensor, targets: Any) -> Labels:
        if isinstance(targets, Labels):
            return targets
        check_targets(self, targets)
        if outputs.ndim != 3 or targets.shape != outputs.shape[1:2]:
            raise FeedpropError(
                f"{type(self).__name__} takes time-first spikes (steps, batch, classes) and targets (batch,), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        return super().prepare(outputs[0], targets)

    def _at_pre_activations(self, entering: credit.Entering) -> credit.Entering:
        """Let a rewarded silence become a spike, as at silent neurons; z is what a written-out spike tests.

        The reward is divided by |z| + rms(z), where rms is over all steps, whether they are one tensor or several.
        """
        at = [(z, z.detach(), credits) for z, credits in entering]
        squares = sum(
            torch.linalg.vector_norm(z, dtype=torch.promote_types(z.dtype, torch.float32)) ** 2 for _, z, _ in at
        )
        rms = (squares / max(sum(z.numel() for _, z, _ in at), 1)) ** 0.5
        return [
            (z, credits * values / (values.abs() + rms).clamp(min=torch.finfo(z.dtype).tiny))
            for z, values, credits in at
        ]

    def per_output(self, outputs: Tensor, targets: Any) -> Tensor:
        labels, spikes = self.prepare(outputs, targets), outputs.detach()
        answer = self.at_steps(spikes, spikes.sum(0), labels.onehot != 0)
        return self._shaped("at_steps", answer, spikes) * labels.weight

    def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
        """Return r_o, (T, B, classes).

        Args:
            spikes: (T, B, classes), 0 or 1.
            counts: spikes of each sample and class, (B, classes).
            true: whether a class is the true one, (B, classes), bool.
        """
        raise FeedpropError(
            f"{type(self).__name__} does not say what spikes are worth: define at_steps(self, spikes, counts, true), "
            f"which returns the reward of each spike, shaped like the spikes"
        )


class SpikeRateReward(SpikeReward):
    """As published: the true class should fire at every second step or more often, the others less often.

    With n spikes in T steps, r = 1 - sigmoid(n - T // 2) at each step for the true class, and
    r = -s_t (1 - sigmoid(T - n - T // 2)) for the others (Weber et al. 2023, spiking networks).
    """

    def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
        steps = spikes.shape[0]
        more, less = (steps // 2 - counts).sigmoid(), (counts + (steps // 2 - steps)).sigmoid()
        return torch.where(true, more, -spikes * less)


class SpikeTargetReward(SpikeReward):
    """The true class should fire at a share of the T steps, the others never.

    With n spikes, r = sigmoid(share T - n) at each step for the true class, silent or not, and r = -s_t sigmoid(n) for
    the others. `SpikeRateReward` leaves the others alone until they fire at half of the steps; this reward answers each
    of their spikes (compared in experiments/spiking).

    Args:
        share: of the steps, in (0, 1].
        weight: see `ClassReward`; so are `ignore_index` and `reduction`.
    """

    def __init__(
        self,
        *,
        share: float = 0.5,
        weight: Tensor | list[float] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)
        if not 0 < share <= 1:
            raise FeedpropError(f"share must be in (0, 1], got {share!r}")
        self.share = share

    def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
        return torch.where(true, (self.share * len(spikes) - counts).sigmoid(), -spikes * counts.sigmoid())


def stacked(steps: Sequence[Tensor]) -> Tensor:
    """Return the outputs of single steps as one tensor (T, B, ...), as torch.stack does.

    Unlike torch.stack outside an attached model, it lets rewards on silent neurons enter.
    """
    if not isinstance(steps, Sequence) or not steps or not all(isinstance(step, Tensor) for step in steps):
        raise FeedpropError(
            f"spikes are a tensor (steps, batch, ...) or a list of one tensor for each step, not {steps!r}"
        )
    outputs = torch.stack(list(steps))
    if credit.traced() or credit.marks.get(steps[0], credit.marks.START) is not None:  # the graph is hidden
        credit.marks.carry(torch.stack, (list(steps),), {}, outputs)
    return outputs
