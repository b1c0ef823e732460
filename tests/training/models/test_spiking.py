"""The named spiking networks, and spikes in mixed precision."""

from __future__ import annotations

import pytest
import snntorch
import torch
from torch import nn

import feedprop
from feedprop.rewards import GivenReward
from feedprop.spiking import LIF, LeakyIntegrator, SpikingSequential, models
from feedprop.training.models.spiking import firing_neurons, lif_cnn, lif_cnn5, lif_mlp


def test_named_networks_are_those_of_the_literature():
    shapes = [
        [tuple(p.shape) for p in network.parameters()]
        for network in (lif_mlp((1, 28, 28), 10), lif_cnn((1, 28, 28), 10), lif_cnn5((3, 32, 32), 10))
    ]
    wanted = [
        [tuple(p.shape) for p in build().parameters()] for build in (models.lif_mlp, models.lif_cnn, models.lif_cnn5)
    ]
    assert shapes == wanted


@pytest.mark.parametrize(("build", "steps"), [(lif_mlp, 15), (lif_cnn, 15), (lif_cnn5, 25)])
def test_steps_and_sizes(build, steps):
    assert build((2, 16, 21), 3).steps == steps
    with torch.no_grad():
        assert build((2, 16, 21), 3, steps=2, beta=0.5)(torch.rand(4, 2, 16, 21)).shape == (2, 4, 3)
        assert build((2, 16, 21), 3, timed=True)(torch.rand(2, 4, 2, 16, 21)).shape == (2, 4, 3)
    neurons = [
        layer for layer in build((2, 16, 21), 3, beta=0.5, reset="zero", reset_delay=False) if isinstance(layer, LIF)
    ]
    assert all((layer.beta, layer.reset, layer.reset_delay) == (0.5, "zero", False) for layer in neurons)


def test_mixed_precision_keeps_rewards_on_silent_neurons():
    class Converted(SpikingSequential):
        def forward(self, inputs):
            return super().forward(inputs.bfloat16()).float()  # as accelerate does it

    network = Converted(LIF(), steps=2)
    feedprop.attach(network)
    inputs = torch.full((1, 3), 0.25, requires_grad=True)
    spikes = network(inputs)
    assert spikes.dtype is torch.float32
    assert spikes.sum() == 0
    GivenReward(reduction="sum")(spikes, torch.ones(2, 1, 3)).backward()
    assert (inputs.grad < 0).all()


def test_firing_neurons_are_known_by_their_modules():
    network = lif_mlp((4,), 2, hidden=(3,))
    assert firing_neurons(network) == [layer for layer in network if isinstance(layer, LIF)]
    assert len(firing_neurons(nn.Sequential(snntorch.Leaky(beta=0.9), nn.ReLU()))) == 1
    assert firing_neurons(nn.Sequential(nn.Linear(2, 2), LeakyIntegrator())) == []
