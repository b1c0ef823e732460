"""Second-order neurons and recurrent connections against loops in the paper's order, in float64."""

import pytest
import torch
from torch import Tensor, nn

from feedprop import attached, rules
from feedprop.rewards import GivenReward
from feedprop.spiking import LIF, Recurrent, Synaptic
from support.spiking_oracles import Settings, fire, shares

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
pytestmark = pytest.mark.usefixtures("float64")


def run(neuron: LIF, currents: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the credit at the currents."""
    currents = currents.clone().requires_grad_()
    with attached(neuron, rules.Epsilon(1e-6)):
        spikes = neuron(currents)
    assert 0.05 < spikes.mean() < 0.95
    GivenReward(reduction="sum")(spikes, rewards).backward()
    return spikes, -currents.grad


@pytest.mark.parametrize("reset", ["subtract", "zero", "refractory", "none"])
@pytest.mark.parametrize("reset_delay", [True, False])
def test_synaptic(reset: str, reset_delay: bool) -> None:
    alpha, settings = 0.6, Settings(beta=0.7, reset=reset, reset_delay=reset_delay)
    currents, rewards = torch.rand(8, 3, 2) - 0.2, torch.randn(8, 3, 2)
    neuron = Synaptic(alpha, 0.7, reset=reset, reset_delay=reset_delay, learn_alpha=True)
    spikes, found = run(neuron, currents, rewards)
    alpha_feedback = 0.0
    for n in range(3):
        for j in range(2):
            flowing, last = [], 0.0
            for t in range(8):
                last = alpha * last + float(currents[t, n, j])
                flowing.append(last)
            trace = fire(flowing, 0.7, settings, 0.0)
            assert spikes[:, n, j].tolist() == trace.spikes
            share = shares(trace, rewards[:, n, j].tolist(), 0.7, settings)
            credit = 0.0
            for t in reversed(range(8)):
                credit = share[t] + alpha * credit
                torch.testing.assert_close(found[t, n, j].item(), credit, **CLOSE)
                alpha_feedback += abs(alpha) * (flowing[t - 1] if t else 0.0) * credit
    torch.testing.assert_close(-neuron.alpha.grad.item(), alpha_feedback, **CLOSE)


def test_recurrent() -> None:
    steps, batch, size, beta, threshold, epsilon = 7, 2, 3, 0.7, 1.0, 1e-6
    connection = nn.Linear(size, size)
    neuron = Recurrent(connection, beta)
    weight, bias = connection.weight.detach(), connection.bias.detach()
    currents, rewards = torch.rand(steps, batch, size), torch.randn(steps, batch, size)
    spikes, found = run(neuron, currents, rewards)
    weight_feedback, bias_feedback = torch.zeros_like(weight), torch.zeros_like(bias)
    for n in range(batch):
        u, s = torch.zeros(steps + 1, size), torch.zeros(steps + 1, size)  # row 0 is rest
        fed = torch.zeros(steps + 1, size)
        for t in range(1, steps + 1):
            for j in range(size):
                fed[t, j] = sum(weight[j, i] * s[t - 1, i] for i in range(size)) + bias[j]
                u[t, j] = beta * u[t - 1, j] + currents[t - 1, n, j] + fed[t, j] - threshold * s[t - 1, j]
                s[t, j] = float(u[t, j] > threshold)
        assert torch.equal(s[1:], spikes[:, n])
        q = torch.zeros(steps + 2, size)
        for t in reversed(range(1, steps + 1)):
            for j in range(size):
                reward = rewards[t - 1, n, j] + u[t, j] * beta * q[t + 1, j]
                for k in range(size):  # what came back as current to neuron k in the next step
                    if t < steps:
                        message = s[t, j] * weight[k, j] / (fed[t + 1, k] + epsilon * fed[t + 1, k].sign())
                        reward += message * fed[t + 1, k] * q[t + 1, k]
                v = u[t, j] + threshold * s[t - 1, j]
                q[t, j] = reward / (abs(u[t - 1, j]) + abs(v - u[t - 1, j]) + epsilon)
                damping = fed[t, j].abs() / (fed[t, j].abs() + epsilon)
                for i in range(size):
                    weight_feedback[j, i] += abs(weight[j, i]) * s[t - 1, i] * q[t, j] * damping
                bias_feedback[j] += abs(bias[j]) * q[t, j] * damping
        torch.testing.assert_close(found[:, n], q[1:-1], **CLOSE)
    torch.testing.assert_close(-connection.weight.grad, weight_feedback, **CLOSE)
    torch.testing.assert_close(-connection.bias.grad, bias_feedback, **CLOSE)
