"""snnTorch's atan surrogate gradient, one layer at a time: the same spikes and gradients in less time."""

import math
from collections.abc import Callable
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from feedprop.spiking import LIF, SpikingSequential


class _Leaky(torch.autograd.Function):
    """`snntorch.Leaky` over all steps: reset by subtraction, which passes no gradient; atan surrogate with alpha 2."""

    @staticmethod
    def forward(ctx: Any, currents: Tensor, beta: float, threshold: float, steps: int) -> Tensor:
        """Currents (steps, ...), or (...) at every step, to spikes (steps, ...)."""
        ctx.beta, ctx.threshold, ctx.constant = beta, threshold, bool(steps)
        rows = [currents] * steps if steps else currents
        membranes = currents.new_empty(len(rows), *rows[0].shape)
        spikes, membrane, spike = torch.empty_like(membranes), *(torch.zeros_like(rows[0]) for _ in range(2))
        for step, current in enumerate(rows):
            membrane = torch.mul(membrane, beta, out=membranes[step]).add_(current).sub_(spike, alpha=threshold)
            spike = torch.gt(membrane, threshold, out=spikes[step])
        ctx.save_for_backward(membranes)
        return spikes

    @staticmethod
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor, None, None, None]:
        (membranes,) = ctx.saved_tensors
        gradient = (membranes - ctx.threshold).mul_(math.pi).square_().add_(1).reciprocal_().mul_(arriving)
        for step in range(len(gradient) - 2, -1, -1):
            gradient[step].add_(gradient[step + 1], alpha=ctx.beta)
        return gradient.sum(0) if ctx.constant else gradient, None, None, None


def stepped(currents: Tensor, beta: float, threshold: float, steps: int) -> Tensor:
    """Return the same spikes from snnTorch's own neuron, called step by step."""
    neuron = snntorch.Leaky(beta=beta, threshold=threshold)
    membrane, spikes = neuron.reset_mem(), []
    for current in [currents] * steps if steps else currents:
        spike, membrane = neuron(current, membrane)
        spikes.append(spike)
    return torch.stack(spikes)


class Surrogate(nn.Module):
    """The layers of a feedprop network, trained by the gradient of snnTorch's `Leaky` neurons."""

    def __init__(self, network: SpikingSequential, leaky: Callable[..., Tensor] = _Leaky.apply) -> None:
        super().__init__()
        self.steps, self.layers, self.leaky = network.steps, nn.ModuleList(network.layers), leaky

    def forward(self, inputs: Tensor) -> Tensor:
        values, steps = inputs, self.steps or 0
        for layer in self.layers:
            if isinstance(layer, LIF):
                values, steps = self.leaky(values, float(layer.beta), float(layer.threshold), steps), 0
            else:
                values = layer(values) if steps else layer(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        return values


def checked(network: SpikingSequential, inputs: Tensor) -> Surrogate:
    """Return the fast network, after comparing its spikes and gradients on these inputs with snnTorch's."""
    fast = Surrogate(network)
    found = []
    for model in (fast, Surrogate(network, stepped)):
        spikes = model(inputs)
        shares = torch.linspace(-1, 1, spikes.numel()).view_as(spikes)  # a gradient of its own for each spike
        found.append((spikes, torch.autograd.grad((spikes * shares).sum(), list(network.parameters()))))
    (spikes, gradients), (expected_spikes, expected) = found
    torch.testing.assert_close(spikes, expected_spikes, rtol=0, atol=0)
    for mine, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    return fast
