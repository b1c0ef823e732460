"""Figures by hand: the read-out of spikes, and weights near zero."""

from __future__ import annotations

import torch
from torch import nn

from feedprop.rewards import GivenReward
from feedprop.training.evaluation import Objective, evaluate, near_zero_share


def test_share_of_near_zero_weights_by_hand():
    model = nn.Linear(4, 1)
    model.weight.data = torch.tensor([[4.0, 0.9, -0.9, -1.0]])  # a quarter of the largest is 1
    assert near_zero_share(model) == 0.5
    assert near_zero_share(nn.ReLU()) == 0.0


def test_classes_are_read_out_by_spike_count():
    """Also where processes gather along the first dimension, and cut a last batch to its samples."""
    spikes = torch.zeros(4, 3, 2)
    spikes[:, 0, 1], spikes[:3, 1, 0], spikes[3, 1, 1], spikes[0, 2, 1] = 1, 1, 1, 1  # 4 to 0, 1 to 3, 1 to 0

    class Network(torch.nn.Module):
        def forward(self, inputs):
            return spikes

    seen = []

    def gather(pair):
        seen.append(tuple(pair[0].shape))
        return tuple(part[:2] for part in pair)

    objective = Objective(GivenReward(), "reward", -1)
    objective.module.forward = lambda outputs, targets: outputs.sum() * 0 + outputs.shape[1]
    found = evaluate(
        Network(), [(torch.zeros(3, 2), torch.tensor([1, 0, 0]))], objective=objective, classes=2,
        device=torch.device("cpu"), gather=gather,
    )  # fmt: skip
    assert seen == [(3, 4, 2)]
    assert found.accuracy == 1.0
    assert found.objective == -2
    assert found.confusion == [[1, 0], [0, 1]]
