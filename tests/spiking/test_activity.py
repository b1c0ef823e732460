"""Spikes and synaptic operations, by hand."""

import pytest
import snntorch
import torch
from torch import nn

from feedprop import FeedpropError
from feedprop.spiking import LIF, LeakyIntegrator, Recurrent, SpikingSequential, Synaptic
from feedprop.spiking.activity import activity, traces
from support.stepped import Stepped


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
    assert (first.passes, second.passes) == (2, 2)
    assert (neurons.size, second.size) == (2 * 2, 0)


def test_convolutions_count_their_borders() -> None:
    network = SpikingSequential(nn.Conv2d(1, 2, 3, padding=1), LIF(), steps=2)
    image = torch.zeros(5, 1, 4, 4)
    image[:, 0, 0, 0] = 1.0  # a corner is seen by 4 windows, for each of 2 channels
    conv, _ = activity(network, image)
    assert conv.operations == 4 * 2
    assert conv.dense == (4 * 4 + 8 * 6 + 4 * 9) * 2
    assert conv.passes == 1


def test_a_recurrent_connection_runs_at_every_step() -> None:
    recurrent = Recurrent(nn.Linear(2, 2, bias=False), beta=0.0)
    nn.init.zeros_(recurrent.connection.weight)
    inputs = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 2.0]]).view(3, 1, 2).expand(3, 4, 2)
    connection, neurons = activity(SpikingSequential(recurrent), inputs)
    assert (connection.operations, connection.dense, connection.passes) == ((0 + 1 + 1) * 2, 3 * 2 * 2, 3)
    assert (neurons.layer, neurons.spikes) == (
        "layers.0",
        3,
    )  # the second is reset in the last step: 2 - 1 is not above 1


@pytest.mark.parametrize(
    "neuron", [LIF(0.9, threshold=0.5), Synaptic(0.5, 0.9), Recurrent(nn.Linear(4, 4)), LIF(reset="zero")]
)
def test_traces(neuron: LIF) -> None:
    network = SpikingSequential(nn.Linear(3, 4), neuron, nn.Linear(4, 2), LIF(), LeakyIntegrator())
    inputs = torch.rand(6, 2, 3) * 4
    hidden, last = traces(network, inputs)
    assert torch.equal(hidden.spikes, network[:2][1](network[0](inputs)))
    assert torch.equal(hidden.spikes, (hidden.membranes > neuron.threshold).float())
    assert (hidden.layer, last.layer, last.spikes.shape) == ("layers.1", "layers.3", (6, 2, 2))
    assert not any("scan" in vars(module) for module in network.modules())


def test_neurons_of_snntorch_count_as_ours_do() -> None:
    network = SpikingSequential(
        *(nn.Linear(3, 4), LIF(0.9, threshold=0.1)), *(nn.Linear(4, 2), LIF(0.9, threshold=0.1))
    )
    network[2].weight.data.abs_()
    inputs = torch.rand(6, 5, 3) * 2
    stepped = Stepped(
        network[0], snntorch.Leaky(beta=0.9, threshold=0.1), network[2], snntorch.Leaky(beta=0.9, threshold=0.1)
    )
    ours, theirs = activity(network, inputs), activity(stepped, inputs)
    assert all(row.spikes > 0 for row in (ours[1], ours[3]))
    assert [row[1:] for row in theirs] == [pytest.approx(row[1:]) for row in ours]
    assert [row.layer for row in theirs] == ["first", "hidden", "second", "output"]
    for own, its in zip(traces(network, inputs), traces(stepped, inputs), strict=True):
        assert torch.equal(own.spikes, its.spikes)
        torch.testing.assert_close(own.membranes, its.membranes)
        assert its.threshold == pytest.approx(own.threshold)


def test_what_only_integrates_has_no_spikes() -> None:
    _, readout = activity(SpikingSequential(nn.Linear(3, 4), LeakyIntegrator()), torch.ones(6, 2, 3))
    assert (readout.spikes, readout.rate, readout.size) == (0, 0, 0)


def test_channels_are_not_samples() -> None:
    conv, _ = activity(SpikingSequential(nn.Conv1d(1, 5, 3), LIF(), steps=2), torch.ones(5, 1, 8))
    assert conv.passes == 1


def test_it_leaves_nothing_behind() -> None:
    network = SpikingSequential(nn.Linear(3, 2), LIF())
    with pytest.raises(FeedpropError):
        activity(network, torch.zeros(2, 2, 5))
    assert not any(module._forward_hooks for module in network.modules())
