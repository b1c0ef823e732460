"""What neuromorphic hardware pays for: spikes per layer, and synaptic operations per inference."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from feedprop.spiking.neuron import Neuron

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Activity(NamedTuple):
    """One layer of a spiking network, per sample of the batch.

    `spikes` is how often its neurons fired, over all steps; `rate` the share of neurons and steps with a spike;
    `operations` how many additions of a weight its incoming spikes cause (0 for a neuron); `dense` how many all inputs
    would cause.
    """

    layer: str
    spikes: float
    rate: float
    operations: float
    dense: float


def activity(network: nn.Module, inputs: Tensor) -> list[Activity]:
    """Run `network` once without gradients and return what its neurons, linear layers and convolutions did, in order.

    A synaptic operation is one weight that is added because its input is not 0; a constant input is counted once.
    """
    found: list[Activity] = []
    samples = [1]

    def watch(path: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            if isinstance(module, Neuron):
                samples[0] = values.shape[1]
                found.append(Activity(path, float(values.sum()), float(values.mean()), 0.0, 0.0))
            else:
                active = (arguments[0] != 0).to(values.dtype)
                found.append(Activity(path, 0.0, 0.0, *_operations(module, active)))

        return layer.register_forward_hook(hook)

    handles = [watch(path, layer) for path, layer in network.named_modules() if isinstance(layer, (Neuron, *WEIGHTED))]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    size = samples[0]
    return [Activity(row.layer, row.spikes / size, row.rate, row.operations / size, row.dense / size) for row in found]


def _operations(layer: nn.Module, active: Tensor) -> tuple[float, float]:
    """Additions caused by the inputs that are not 0, and by all inputs."""
    if isinstance(layer, nn.Linear):
        return float(active.sum()) * layer.out_features, float(active.numel()) * layer.out_features
    weight: Tensor = layer.weight  # type: ignore[assignment]
    ones = torch.ones_like(weight)
    run: Any = layer._conv_forward
    return float(run(active, ones, None).sum()), float(run(torch.ones_like(active), ones, None).sum())
