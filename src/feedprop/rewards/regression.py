"""The reward for regression."""

from __future__ import annotations

from torch import Tensor

from feedprop.rewards.reward import Reward, check_same_shape


class RegressionReward(Reward):
    """r = o (target - o): the output is rewarded as far as it should grow. Targets are shaped like `outputs`.

    The credit target - o is minus the gradient of nn.MSELoss / 2 of the same reduction ("mean" divides by the number of
    outputs).

    The published r = (target - o)^3 sign(o) is a stopgap that does not train: it hardly answers small errors, turns
    with the sign of the output, and its credit is unbounded near o = 0.
    """

    def credit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        check_same_shape(self, outputs, targets)
        return targets.detach().to(outputs.dtype) - outputs.detach()

    def samples(self, outputs: Tensor, targets: Tensor) -> int:
        return outputs.numel()
