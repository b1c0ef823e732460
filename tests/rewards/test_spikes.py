"""Rewards on spikes: published numbers, silent neurons, errors, and learning."""

import pytest
import torch
from torch import Tensor, nn

from feedprop import FeedpropError, attached
from feedprop.rewards import GivenReward, SpikeRateReward, SpikeTargetReward
from feedprop.rules import Epsilon
from feedprop.spiking import LIF, SpikingSequential, lif
from support.published import cases

every_reward = pytest.mark.parametrize("build", [SpikeRateReward, SpikeTargetReward])


@pytest.mark.parametrize("case", cases("snn"), ids=lambda case: case.name)
def test_published_rewards(case) -> None:
    given = case.tensors()
    torch.testing.assert_close(SpikeRateReward().per_output(given["output"], given["target"]), given["reward"])


def test_spike_rate_by_hand() -> None:
    spikes = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]).unsqueeze(1)  # 4 steps, 2 classes
    rewards = SpikeRateReward().per_output(spikes, torch.tensor([0])).squeeze(1)
    # true class: n = 2, 1 - sigmoid(2 - 2) = .5 at each step; other: n = 3, -s (1 - sigmoid(4 - 3 - 2)) = -s * .7311
    torch.testing.assert_close(rewards[:, 0], torch.full((4,), 0.5))
    torch.testing.assert_close(rewards[:, 1], torch.tensor([0.0, -0.7311, -0.7311, -0.7311]), atol=1e-4, rtol=0)


def test_spike_target_by_hand() -> None:
    spikes = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]).unsqueeze(1)
    rewards = SpikeTargetReward(share=0.75).per_output(spikes, torch.tensor([0])).squeeze(1)
    # true class: sigmoid(.75 * 4 - 2) = .7311 at each step; other: -s sigmoid(3) = -s * .9526
    torch.testing.assert_close(rewards[:, 0], torch.full((4,), 0.7311), atol=1e-4, rtol=0)
    torch.testing.assert_close(rewards[:, 1], torch.tensor([0.0, -0.9526, -0.9526, -0.9526]), atol=1e-4, rtol=0)


@pytest.mark.usefixtures("float64")
def test_a_reward_on_a_silent_neuron_arrives_in_full() -> None:
    currents = torch.full((1, 1, 3), 0.25).requires_grad_()
    spikes, _ = lif(currents, epsilon=0.0)
    assert spikes.sum() == 0
    rewards = torch.tensor([2.0, -1.0, 0.0])
    GivenReward(reduction="sum")(spikes, rewards.view(1, 1, 3)).backward()
    torch.testing.assert_close((-currents.grad * currents.detach()).flatten(), rewards)


@pytest.mark.usefixtures("float64")
def test_a_reward_on_a_silent_neuron_whose_membrane_is_zero_arrives_in_full() -> None:
    # u1 = 2 fires, u2 = 2 - 1 - 1 = 0 is silent: D2 = |2| + |0 + 1 - 2| = 3, and r2 = 6 enters whole: q2 = 2
    # R1 = u1 q2 = 4, D1 = 2, q1 = 2
    currents = torch.tensor([2.0, -1.0]).view(2, 1, 1).requires_grad_()
    spikes, membranes = lif(currents, beta=1.0, epsilon=0.0)
    assert membranes.flatten().tolist() == [2.0, 0.0]
    GivenReward(reduction="sum")(spikes, torch.tensor([0.0, 6.0]).view(2, 1, 1)).backward()
    torch.testing.assert_close(-currents.grad.flatten(), torch.tensor([2.0, 2.0]))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_a_reward_on_a_neuron_that_cancelled_inputs_hold_at_zero(epsilon: float) -> None:
    """Nothing moved the membrane, D = 0: with epsilon contributions of +x and -x share, without they are left out."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.5, -0.5]])
    network = SpikingSequential(layer, LIF(), steps=1)
    with attached(network, Epsilon(epsilon)):
        GivenReward(reduction="sum")(network(torch.ones(1, 2)), torch.ones(1, 1, 1)).backward()
    wanted = 0.5 * 1 * 1 / (0 + epsilon) if epsilon else 0.0  # |w| a r / (D + epsilon)
    torch.testing.assert_close(-layer.weight.grad, torch.full((1, 2), wanted))


@pytest.mark.usefixtures("float64")
def test_a_refractory_neuron_takes_no_reward_for_the_step_it_sits_out() -> None:
    currents = torch.tensor([1.5, 0.7]).view(2, 1, 1).requires_grad_()
    spikes, _ = lif(currents, reset="refractory", epsilon=0.0)
    GivenReward(reduction="sum")(spikes, torch.tensor([0.0, 1.0]).view(2, 1, 1)).backward()
    assert currents.grad.flatten().tolist() == [0.0, 0.0]


@every_reward
def test_a_list_of_steps_is_as_good_as_a_tensor(build) -> None:
    targets, found = torch.tensor([0, 2]), []
    for as_list in (False, True):
        torch.manual_seed(0)
        currents = torch.rand(5, 2, 3).mul(0.7).requires_grad_()
        spikes, _ = lif(currents)
        assert (spikes.sum(0) == 0).any()
        rows = list(spikes)
        build()(rows if as_list else spikes, targets).backward()
        found.append(currents.grad)
    torch.testing.assert_close(*found)


@every_reward
def test_the_mean_is_over_samples_not_steps(build) -> None:
    spikes = (torch.rand(6, 4, 3) < 0.5).float()
    targets = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(build()(spikes, targets) * 4, build(reduction="sum")(spikes, targets))


@every_reward
def test_an_ignored_sample_gets_no_reward_and_does_not_count(build) -> None:
    spikes, targets = (torch.rand(6, 4, 3) < 0.5).float(), torch.tensor([0, 1, 2, 0])
    kept = targets != 0
    reward, plain = build(ignore_index=0), build()
    found = reward.per_output(spikes, targets)
    assert (found[:, ~kept] == 0).all()
    torch.testing.assert_close(found[:, kept], plain.per_output(spikes[:, kept], targets[kept]))
    torch.testing.assert_close(reward(spikes, targets), plain(spikes[:, kept], targets[kept]))


@every_reward
def test_what_is_refused(build) -> None:
    spikes = torch.zeros(6, 4, 3)
    with pytest.raises(FeedpropError, match=r"time-first spikes \(steps, batch, classes\).*got \(4, 6, 3\) and \(4,\)"):
        build()(spikes.transpose(0, 1), torch.zeros(4, dtype=torch.long))
    with pytest.raises(FeedpropError, match=r"classes as integers, not torch\.float32"):
        build()(spikes, torch.zeros(4))
    with pytest.raises(
        FeedpropError, match=r"label 3 is out of range: the model has 3 outputs, so labels go from 0 to 2"
    ):
        build()(spikes, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(FeedpropError, match=r"share must be in \(0, 1\], got 0"):
        SpikeTargetReward(share=0.0)


@every_reward
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_a_network_that_is_silent_at_first_learns(build, reset: str) -> None:
    network = SpikingSequential(nn.Linear(8, 32), LIF(reset=reset), nn.Linear(32, 2), LIF(reset=reset), steps=10)
    with torch.no_grad():
        network[2].weight.abs_().mul_(0.05)
        network[2].bias.fill_(1e-3)
    labels = torch.arange(64) % 2
    inputs = torch.stack([torch.arange(8) < 4, torch.arange(8) >= 4]).float()[labels] + 0.1 * torch.rand(64, 8)
    with torch.no_grad():
        assert network(inputs).sum() == 0
    optimizer, reward = torch.optim.Adam(network.parameters(), lr=1e-2), build()
    with attached(network):
        for _ in range(40):
            optimizer.zero_grad()
            reward(network(inputs), labels).backward()
            optimizer.step()
    with torch.no_grad():
        assert (network(inputs).sum(0).argmax(1) == labels).float().mean() > 0.95


class WrittenOut(nn.Module):
    """Two layers of leaky neurons whose spikes are comparisons."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(2, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = second = torch.zeros(())
        spikes = []
        for _ in range(8):
            first = 0.8 * first + self.hidden(x)
            fired = (first > 1.0).to(x.dtype)
            second = 0.8 * second + self.last(fired)
            spikes.append((second > 1.0).to(x.dtype))
            first, second = first - fired.detach(), second - spikes[-1].detach()
        return torch.stack(spikes)


def test_spikes_written_out_learn_to_fire() -> None:
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    x = 0.4 * torch.randn(400, 2) + labels[:, None] * 2 - 1
    model, reward = WrittenOut(), SpikeTargetReward()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    with attached(model):
        for _ in range(100):
            optimizer.zero_grad()
            reward(model(x), labels).backward()
            optimizer.step()
    assert (model(x).sum(0).argmax(1) == labels).float().mean() > 0.95
