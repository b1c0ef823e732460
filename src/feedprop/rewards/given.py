"""Rewards from outside: a score of each output, or a yes/no on the class that was chosen."""

from __future__ import annotations

import torch
from torch import Tensor

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.rewards.reward import (
    Reward,
    check_outputs,
    check_range,
    check_same_shape,
    check_targets,
    in_single_precision,
)


class ChoiceReward(Reward):
    """r_k = o_k (right - softmax(o)_k) at the class k that was chosen, nothing elsewhere: partial, yes/no feedback.

    Only whether the choice was right is known, not which one would have been (the bandit setting). The model chooses
    the class of the largest output; to explore, say which class was tried: `reward(outputs, targets, chosen=classes)`.

    Targets are yes/no, shape (batch,): whether the choice was right, as bool or as numbers in [0, 1].
    """

    def forward(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return minus the mean (or summed) reward, a scalar whose `.backward()` starts the propagation.

        Args:
            outputs: (batch, classes) as the attached model returned them.
            targets: (batch,), yes/no.
            chosen: (batch,), the classes that were tried, as integers; default: those of the largest outputs.
        """
        check_outputs(outputs)
        return self._started(outputs, targets, self.credit(in_single_precision(outputs), targets, chosen=chosen))

    def per_output(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        return outputs.detach() * self.credit(outputs, targets, chosen=chosen)

    def credit(self, outputs: Tensor, targets: Tensor, *, chosen: Tensor | None = None) -> Tensor:
        """Return right - softmax(o) at the chosen class, shaped like `outputs`."""
        outputs = outputs.detach()
        check_targets(self, targets)
        if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
            raise FeedpropError(
                f"ChoiceReward takes outputs (batch, classes) and yes/no targets (batch,), "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if credit.readable(targets) and not ((targets >= 0) & (targets <= 1)).all():
            raise FeedpropError("ChoiceReward takes yes/no targets in [0, 1], not classes: pass chosen == classes")
        if chosen is None:
            chosen = outputs.argmax(1)
        elif not isinstance(chosen, Tensor):
            raise FeedpropError(f"chosen must be a tensor of classes (batch,), not {type(chosen).__name__}")
        elif chosen.shape != targets.shape or chosen.is_floating_point() or chosen.dtype is torch.bool:
            raise FeedpropError(
                f"chosen must be classes (batch,) as integers, one for each of {len(targets)} targets, "
                f"got {chosen.dtype} {tuple(chosen.shape)}"
            )
        check_range(chosen, outputs.shape[1])
        index, right = chosen.long().unsqueeze(1), targets.detach().to(outputs.dtype).unsqueeze(1)
        return torch.zeros_like(outputs).scatter(1, index, right - outputs.softmax(1).gather(1, index))


class GivenReward(Reward):
    """Rewards from outside: a person's verdict on the class that was chosen, a simulator's score.

    The second argument is r_o itself, shaped like `outputs`; unknown rewards are 0 and give no feedback. A reward
    strengthens what an output is made of: +1 moves a positive output up and a negative one further down, away from 0.
    To ask for a larger output whatever its sign, give +1 * sign(o), or use `ChoiceReward` or `SoftmaxReward`.
    """

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        check_same_shape(self, outputs, targets)
        return targets.detach().to(outputs.dtype)
