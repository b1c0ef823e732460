"""Counts what neuromorphic hardware pays for: spikes per layer, and synaptic operations per inference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from feedprop.operations.packages import is_snntorch_neuron
from feedprop.spiking.dynamics import Number
from feedprop.spiking.neuron import LIF, Neuron

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Activity(NamedTuple):
    """One layer of a spiking network, per sample of the batch.

    `spikes` is how often its neurons fired, over all steps; `rate` the share of neurons and steps with a spike;
    `operations` how many additions of a weight its incoming spikes cause (0 for a neuron); `dense` how many all inputs
    would cause; `passes` how often the layer ran: 1 if its input was constant, else once per step (0 for a neuron);
    `size` its number of neurons times steps (0 if it is no neuron).
    """

    layer: str
    spikes: float
    rate: float
    operations: float
    dense: float
    passes: int
    size: int


def fires(module: nn.Module) -> bool:
    """Whether a module is a spiking neuron, feedprop's own or snnTorch's."""
    return module.fires if isinstance(module, Neuron) else is_snntorch_neuron(module)


def activity(network: nn.Module, inputs: Tensor) -> list[Activity]:
    """Run `network` once without gradients and return what its neurons, linear layers and convolutions did, in order.

    Neurons may be feedprop's, which run all steps at once, or snnTorch's, called once per step. A synaptic operation
    adds one weight whose input is not 0; a constant input is counted once.
    """
    counted = _watched(network, inputs)
    samples = next((counts.samples for counts in counted.values() if counts.samples), 1)
    return [counts.per_sample(path, samples) for path, counts in counted.items()]


class _Counts:
    """What one layer did in a run of the network, over all samples."""

    def __init__(self) -> None:
        self.spikes = self.operations = self.dense = 0.0
        self.cells = 0  # neurons times steps times samples
        self.samples = 0  # only neurons know whether the first dimension is time
        self.leading: list[torch.Size] = []  # of each output of a layer with weights: (B,), (T B,), (T, B)

    def hook(self, module: nn.Module, arguments: tuple[Tensor, ...], output: Any) -> None:
        values = output[0] if isinstance(output, tuple) else output
        if isinstance(module, WEIGHTED):
            operations, dense = _operations(module, (arguments[0] != 0).to(values.dtype))
            self.operations, self.dense = self.operations + operations, self.dense + dense
            self.leading.append(values.shape[: -1 if isinstance(module, nn.Linear) else 1])
            return
        self.samples = values.shape[1 if isinstance(module, Neuron) else 0]
        if fires(module):
            self.spikes, self.cells = self.spikes + float(values.sum()), self.cells + values.numel()

    def per_sample(self, path: str, samples: int) -> Activity:
        rows = (shape.numel() if shape[1:] == (samples,) else shape[0] for shape in self.leading)
        return Activity(
            path,
            spikes=self.spikes / samples,
            rate=self.spikes / self.cells if self.cells else 0.0,
            operations=self.operations / samples,
            dense=self.dense / samples,
            passes=sum(rows) // samples,
            size=self.cells // samples,
        )


def _watched(network: nn.Module, inputs: Tensor) -> dict[str, _Counts]:
    """Run the network and return the counts of each layer, in the order in which they ended."""
    counted: dict[str, _Counts] = {}

    def hook(path: str) -> Any:
        return lambda *call: counted.setdefault(path, _Counts()).hook(*call)

    with ExitStack() as stack, torch.no_grad():
        for path, layer in network.named_modules():
            if isinstance(layer, (Neuron, *WEIGHTED)) or is_snntorch_neuron(layer):
                stack.callback(layer.register_forward_hook(hook(path)).remove)
        network(inputs)
    return counted


def _operations(layer: nn.Module, active: Tensor) -> tuple[float, float]:
    """Additions caused by the inputs that are not 0, and by all inputs."""
    if isinstance(layer, nn.Linear):
        return float(active.sum()) * layer.out_features, float(active.numel()) * layer.out_features
    weight: Tensor = layer.weight  # type: ignore[assignment]
    ones = torch.ones_like(weight)
    run: Any = layer._conv_forward
    return float(run(active, ones, None).sum()), float(run(torch.ones_like(active), ones, None).sum())


class Trace(NamedTuple):
    """What the neurons of one layer did: spikes and membranes (T, B, ...), and where they fire."""

    layer: str
    spikes: Tensor
    membranes: Tensor
    threshold: Number


def traces(network: nn.Module, inputs: Tensor) -> list[Trace]:
    """Run `network` once without gradients and return what its neurons did, layer by layer.

    Neurons of your own, whose membranes only they know, are left out.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    neurons = {path: module for path, module in network.named_modules() if fires(module)}
    with ExitStack() as stack, torch.no_grad():
        for path, neuron in neurons.items():
            kept = found.setdefault(path, [])
            if isinstance(neuron, LIF):
                neuron.scan = _recorded(neuron.scan, kept)  # type: ignore[method-assign]
                stack.callback(neuron.__dict__.pop, "scan")
            elif is_snntorch_neuron(neuron):
                stack.callback(neuron.register_forward_hook(_record_step(kept)).remove)
        network(inputs)
    return [
        Trace(
            path,
            torch.cat([spikes for spikes, _ in ran]),
            torch.cat([membranes for _, membranes in ran]),
            _threshold(neurons[path]),
        )
        for path, ran in found.items()
        if ran
    ]


def _recorded(scan: Callable[..., tuple[Tensor, Tensor]], kept: list[tuple[Tensor, Tensor]]) -> Any:
    def record(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        kept.append(scan(*args, **kwargs))
        return kept[-1]

    return record


def _record_step(kept: list[tuple[Tensor, Tensor]]) -> Any:
    def hook(neuron: Any, _: Any, output: Any) -> None:
        spikes = output[0] if isinstance(output, tuple) else output
        kept.append((spikes[None], neuron.mem[None]))

    return hook


def _threshold(neuron: Any) -> Number:
    threshold: Number = neuron.threshold
    return threshold.item() if isinstance(threshold, Tensor) and threshold.numel() == 1 else threshold
