"""Memory and open files stay flat over thousands of steps, whether or not the backward pass runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import feedprop
from feedprop import rewards
from feedprop.spiking import LIF, SpikingSequential

snntorch = pytest.importorskip("snntorch")
if not Path("/proc/self/statm").exists():
    pytest.skip("resident memory is read from /proc", allow_module_level=True)

STEPS = {True: 5000, False: 1000}  # with and without backward
GROWTH = 5e6  # bytes; what leaked was 110 kB a step, and 15 MB a call without backward


class SnnTorch(nn.Module):
    """A layer of snnTorch's neurons over two steps of time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.neurons = nn.Linear(8, 6), snntorch.Leaky(beta=0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        membrane, spikes = self.neurons.init_leaky(), []
        for step in x:
            spike, membrane = self.neurons(self.layer(step), membrane)
            spikes.append(spike)
        return torch.stack(spikes)


MODELS = {
    "MLP": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6)), (4, 8), rewards.SoftmaxReward),
    "CNN": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6)),
        (4, 1, 6, 6),
        rewards.SoftmaxReward,
    ),
    "spiking": (lambda: SpikingSequential(nn.Linear(8, 6), LIF()), (2, 4, 8), rewards.SpikeRateReward),
    "snnTorch": (SnnTorch, (2, 4, 8), rewards.SpikeRateReward),
}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("backward", [True, False], ids=["with backward", "without backward"])
@pytest.mark.parametrize("name", [*MODELS])
def test_memory_stays_flat(name: str, backward: bool) -> None:
    build, shape, reward = MODELS[name]
    model, criterion = feedprop.attach(build()), reward()
    x, targets = torch.rand(shape), torch.randint(6, (4,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = files = 0
    for step in range(STEPS[backward]):
        optimizer.zero_grad()
        value = criterion(model(x), targets)
        if backward:
            value.backward()
            optimizer.step()
        if step == 300:
            before, files = _resident(), len(os.listdir("/proc/self/fd"))
    assert _resident() - before < GROWTH
    assert len(os.listdir("/proc/self/fd")) == files
