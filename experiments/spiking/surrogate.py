"""snnTorch's atan surrogate gradient, a layer at a time: spikes and gradients as of its loop, in less time."""

import math
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


class Surrogate(nn.Module):
    """The layers of a feedprop network, trained by the gradient of snnTorch's `Leaky` neurons."""

    def __init__(self, network: SpikingSequential) -> None:
        super().__init__()
        self.steps, self.layers = network.steps, nn.ModuleList(network.layers)

    def forward(self, inputs: Tensor) -> Tensor:
        values, steps = inputs, self.steps or 0
        for layer in self.layers:
            if isinstance(layer, LIF):
                values, steps = _Leaky.apply(values, float(layer.beta), float(layer.threshold), steps), 0
            else:
                values = layer(values) if steps else layer(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        return values


class Stepped(nn.Module):
    """The same with snnTorch's own neurons, stepped in a loop as its tutorials do."""

    def __init__(self, network: SpikingSequential) -> None:
        super().__init__()
        self.steps = network.steps
        self.layers = nn.ModuleList(
            snntorch.Leaky(beta=layer.beta) if isinstance(layer, LIF) else layer for layer in network.layers
        )

    def forward(self, inputs: Tensor) -> Tensor:
        membranes = {id(neuron): neuron.reset_mem() for neuron in self.layers if isinstance(neuron, snntorch.Leaky)}
        outputs = []
        for step in range(self.steps or len(inputs)):
            values = inputs if self.steps else inputs[step]
            for layer in self.layers:
                if isinstance(layer, snntorch.Leaky):
                    values, membranes[id(layer)] = layer(values, membranes[id(layer)])
                else:
                    values = layer(values)
            outputs.append(values)
        return torch.stack(outputs)


def checked(network: SpikingSequential, inputs: Tensor) -> Surrogate:
    """Return the fast network, after spikes and gradients on these inputs were compared with those of the loop."""
    fast, loop = Surrogate(network), Stepped(network)
    found = []
    for model in (fast, loop):
        spikes = model(inputs)
        shares = torch.linspace(-1, 1, spikes.numel()).view_as(spikes)  # a gradient of its own for each spike
        found.append((spikes, torch.autograd.grad((spikes * shares).sum(), list(network.parameters()))))
    (spikes, gradients), (expected_spikes, expected) = found
    torch.testing.assert_close(spikes, expected_spikes, rtol=0, atol=0)
    for mine, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    return fast
