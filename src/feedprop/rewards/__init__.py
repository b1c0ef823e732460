"""Rewards: what outputs are worth, given targets. They are used instead of losses.

A reward is called like a loss, `reward(outputs, targets).backward()`. The scalar is minus the mean reward; its backward
pass starts the propagation with the credit c_o = r_o / o at the outputs.

Formulas are those of Weber et al. 2023 (arXiv 2308.12053), appendix, and of its published code; o is an output, y the
true class, r_o the reward.
"""

from feedprop.rewards.classes import (
    BoundedSoftmaxReward,
    ClassReward,
    CorrectnessReward,
    Labels,
    MaximizeReward,
    MinimizeReward,
    MisclassificationReward,
    SigmoidReward,
    SoftmaxReward,
)
from feedprop.rewards.given import ChoiceReward, GivenReward
from feedprop.rewards.regression import RegressionReward
from feedprop.rewards.reward import Reward
from feedprop.rewards.spikes import SpikeRateReward, SpikeReward, SpikeTargetReward, stacked

__all__ = [
    "BoundedSoftmaxReward",
    "ChoiceReward",
    "ClassReward",
    "CorrectnessReward",
    "GivenReward",
    "Labels",
    "MaximizeReward",
    "MinimizeReward",
    "MisclassificationReward",
    "RegressionReward",
    "Reward",
    "SigmoidReward",
    "SoftmaxReward",
    "SpikeRateReward",
    "SpikeReward",
    "SpikeTargetReward",
    "stacked",
]
