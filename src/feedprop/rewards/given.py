"""Rewards that come from outside, and regression."""

from __future__ import annotations

import torch
from torch import Tensor

from feedprop.errors import FeedpropError
from feedprop.rewards.reward import Reward, check_outputs


class ChoiceReward(Reward):
    """r_k = o_k (right - softmax(o)_k) at the class k that was chosen, nothing elsewhere: partial, yes/no feedback.

    Only whether the choice was right is known, not which one would have been (the bandit setting). The model chooses
    the class of the largest output; who explores says what was tried, `reward(outputs, targets, chosen=classes)`.

    Targets are yes/no, shape (batch,): whether the choice was right, as bool or as numbers in [0, 1].
    """

    def forward(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return minus the mean (or summed) reward, a scalar whose `.backward()` starts the propagation.

        Args:
            outputs: (batch, classes) as the attached model returned them.
            targets: (batch,), yes/no.
            chosen: (batch,), the classes that were tried, as integers; those of the largest outputs if not given.
        """
        check_outputs(outputs)
        return self._started(outputs, targets, self.credit(outputs, targets, chosen=chosen))

    def per_output(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return r_o, shaped like `outputs`."""
        return outputs.detach() * self.credit(outputs, targets, chosen=chosen)

    def credit(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return right - softmax(o) at the chosen class, shaped like `outputs`."""
        outputs = outputs.detach()
        if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
            raise FeedpropError(
                f"ChoiceReward takes outputs (batch, classes) and yes/no targets (batch,), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if chosen is None:
            chosen = outputs.argmax(1)
        elif chosen.shape != targets.shape or chosen.is_floating_point():
            raise FeedpropError(
                f"chosen has to be classes (batch,) as integers, one for each of {len(targets)} targets, "
                f"got {chosen.dtype} {tuple(chosen.shape)}"
            )
        index, right = chosen.long().unsqueeze(1), targets.to(outputs.dtype).unsqueeze(1)
        return torch.zeros_like(outputs).scatter_(1, index, right - outputs.softmax(1).gather(1, index))


class RegressionReward(Reward):
    """r = o (target - o): the output is rewarded as far as it should grow. Targets are shaped like `outputs`.

    The published r = (target - o)^3 sign(o) is a stopgap that does not train: it hardly answers small errors, turns
    with the sign of the output, and its credit is unbounded near o = 0. Here the credit is the error itself.
    """

    def credit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return target - o."""
        _check_same_shape(self, outputs, targets)
        return targets.detach().to(outputs.dtype) - outputs.detach()


class GivenReward(Reward):
    """Rewards from outside: a person's verdict on the class that was chosen, a simulator's score.

    The second argument is r_o itself, shaped like `outputs`; what is not known is 0 and gets no feedback. A reward
    makes what an output is made of larger: +1 moves a positive output up and a negative one further down, away from 0.
    To ask for a larger output whatever its sign, give +1 * sign(o); `ChoiceReward` and `SoftmaxReward` see to that.
    """

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the rewards given."""
        _check_same_shape(self, outputs, targets)
        return targets.detach().to(outputs.dtype)


def _check_same_shape(reward: Reward, outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape:
        raise FeedpropError(
            f"{type(reward).__name__} takes targets shaped like the outputs, got {tuple(targets.shape)} "
            f"for outputs {tuple(outputs.shape)}"
        )
