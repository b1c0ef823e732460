"""Spiking neurons again, as loops over samples, neurons and steps in the paper's order; plain numbers, float64."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    beta: float | list[float] = 0.9  # one per neuron, or shared
    threshold: float = 1.0
    reset: str = "subtract"
    reset_delay: bool = True
    epsilon: float = 1e-6

    def decay(self, neuron: int) -> float:
        return self.beta[neuron] if isinstance(self.beta, list) else self.beta


@dataclass
class Trace:
    """What one neuron did for one sample."""

    before: list[float] = field(default_factory=list)  # v_t
    membranes: list[float] = field(default_factory=list)  # u_t
    spikes: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)  # k_(t-1)
    lost: list[bool] = field(default_factory=list)  # refractory: nothing that came in counts
    emptied: list[bool] = field(default_factory=list)  # nothing of u_(t-1) is left


def fire(currents: list[float], beta: float, settings: Settings, start: float) -> Trace:
    """Run one neuron forwards in time, as the neuron's equations say."""
    trace, last, threshold = Trace(), start, settings.threshold
    for current in currents:
        above = last > threshold
        emptied = above and settings.reset == "zero"
        kept = 0.0 if emptied else last
        before = beta * kept + current
        membrane = before
        if above and settings.reset == "subtract":
            membrane = before - threshold
        if above and settings.reset == "refractory":
            membrane = 0.0
        spike = membrane > threshold
        if not settings.reset_delay:
            if settings.reset == "subtract":
                membrane -= threshold * (float(spike) - float(above))
                before = membrane + threshold * float(above)
            elif settings.reset in ("zero", "refractory") and spike:
                membrane = 0.0
        trace.before.append(before)
        trace.membranes.append(membrane)
        trace.spikes.append(float(spike))
        trace.kept.append(kept)
        trace.lost.append(above and settings.reset == "refractory")
        trace.emptied.append(above and settings.reset in ("zero", "refractory"))
        last = membrane
    return trace


def shares(trace: Trace, rewards: list[float], beta: float, settings: Settings) -> list[float]:
    """q_t for the rewards that arrive at the spikes, backwards in time."""
    steps = len(rewards)
    q = [0.0] * steps
    for t in reversed(range(steps)):
        reward = rewards[t]
        if t + 1 < steps and not trace.emptied[t + 1]:
            reward += trace.membranes[t] * beta * q[t + 1]
        denominator = abs(trace.kept[t]) + abs(trace.before[t] - trace.kept[t])
        if not trace.lost[t] and denominator + settings.epsilon > 0:
            q[t] = reward / (denominator + settings.epsilon)
    return q


@dataclass
class Layer:
    """One linear layer and its neurons, after `forward` and `backward`."""

    weight: Tensor  # (outputs, inputs)
    bias: Tensor
    settings: Settings

    def forward(self, inputs: Tensor, start: Tensor | None = None) -> Tensor:
        steps, batch, _ = inputs.shape
        self.inputs, self.traces = inputs, {}
        spikes = torch.zeros(steps, batch, len(self.weight))
        for n in range(batch):
            for j in range(len(self.weight)):
                currents = [float(inputs[t, n] @ self.weight[j] + self.bias[j]) for t in range(steps)]
                begin = 0.0 if start is None else float(start[n, j])
                trace = fire(currents, self.settings.decay(j), self.settings, begin)
                self.traces[n, j] = trace
                spikes[:, n, j] = torch.tensor(trace.spikes)
        return spikes

    def backward(self, rewards: Tensor) -> Tensor:
        """Share rewards at the spikes (T, B, outputs); keeps the feedback and returns the rewards of the inputs."""
        self.weight_feedback, self.bias_feedback = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.beta_feedback = torch.zeros(len(self.weight))
        below = torch.zeros_like(self.inputs)
        for (n, j), trace in self.traces.items():
            beta = self.settings.decay(j)
            q = shares(trace, rewards[:, n, j].tolist(), beta, self.settings)
            for t, share in enumerate(q):
                message = self.inputs[t, n] * self.weight[j] * share
                below[t, n] += message
                self.weight_feedback[j] += self.weight[j].sign() * message
                self.bias_feedback[j] += self.bias[j].sign() * self.bias[j] * share
                self.beta_feedback[j] += abs(beta) * trace.kept[t] * share
        return below
