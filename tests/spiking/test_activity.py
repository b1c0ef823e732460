"""Spikes and synaptic operations, by hand."""

import pytest
import torch
from torch import nn

from feedprop.spiking import LIF, SpikingSequential
from feedprop.spiking.activity import activity


def test_by_hand() -> None:
    network = SpikingSequential(nn.Linear(3, 2, bias=False), LIF(0.0), nn.Linear(2, 4), LIF())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.5]]))
    # one sample, two steps: the first input fires neuron 0, the last fires nothing
    inputs = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    first, neurons, second, _ = activity(network, inputs)
    assert (first.layer, first.operations, first.dense) == ("layers.0", 3 * 2, 6 * 2)
    assert (neurons.layer, neurons.spikes, neurons.rate) == ("layers.1", 1, 0.25)
    assert (second.operations, second.dense) == (1 * 4, 4 * 4)


def test_convolutions_count_their_borders() -> None:
    network = SpikingSequential(nn.Conv2d(1, 2, 3, padding=1), LIF(), steps=2)
    image = torch.zeros(5, 1, 4, 4)
    image[:, 0, 0, 0] = 1.0  # a corner is seen by 4 windows, for each of 2 channels
    conv, _ = activity(network, image)
    assert conv.operations == 4 * 2
    assert conv.dense == (4 * 4 + 8 * 6 + 4 * 9) * 2


def test_it_leaves_nothing_behind() -> None:
    network = SpikingSequential(nn.Linear(3, 2), LIF())
    with pytest.raises(RuntimeError):
        activity(network, torch.zeros(2, 2, 5))
    assert not any(module._forward_hooks for module in network.modules())
