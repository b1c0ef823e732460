"""What neuromorphic hardware pays for: spikes per layer, and synaptic operations per inference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from feedprop.spiking.dynamics import Number
from feedprop.spiking.neuron import LIF, Neuron

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Activity(NamedTuple):
    """One layer of a spiking network, per sample of the batch.

    `spikes` is how often its neurons fired, over all steps; `rate` the share of neurons and steps with a spike;
    `operations` how many additions of a weight its incoming spikes cause (0 for a neuron); `dense` how many all inputs
    would cause; `passes` how often the layer ran: 1 if its input was constant, else once per step (0 for a neuron);
    `size` is its number of neurons times steps (0 for what is no neuron).
    """

    layer: str
    spikes: float
    rate: float
    operations: float
    dense: float
    passes: int
    size: int


def activity(network: nn.Module, inputs: Tensor) -> list[Activity]:
    """Run `network` once without gradients and return what its neurons, linear layers and convolutions did, in order.

    A synaptic operation is one weight that is added because its input is not 0; a constant input is counted once.
    """
    found: dict[str, Activity] = {}
    samples = [1]
    shapes: list[tuple[str, torch.Size]] = []

    def watch(path: str, layer: nn.Module) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            if isinstance(module, Neuron):
                samples[0] = values.shape[1]
                found[path] = Activity(
                    path, float(values.sum()), float(values.mean()), 0.0, 0.0, 0, values[:, 0].numel()
                )
                return
            before = found.get(
                path, Activity(path, 0.0, 0.0, 0.0, 0.0, 0, 0)
            )  # a recurrent connection runs at each step
            operations, dense = _operations(module, (arguments[0] != 0).to(values.dtype))
            found[path] = before._replace(operations=before.operations + operations, dense=before.dense + dense)
            shapes.append((path, values.shape))

        return layer.register_forward_hook(hook)

    handles = [watch(path, layer) for path, layer in network.named_modules() if isinstance(layer, (Neuron, *WEIGHTED))]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    size = samples[0]
    for path, shape in shapes:
        timed = (
            len(shape) > 2 and shape[1] == size and isinstance(network.get_submodule(path), nn.Linear)
        )  # (T, B, ...)
        found[path] = found[path]._replace(passes=found[path].passes + (shape[0] if timed else shape[0] // size))
    return [
        row._replace(spikes=row.spikes / size, operations=row.operations / size, dense=row.dense / size)
        for row in found.values()
    ]


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
    """Run `network` once without gradients and return what its neurons did, layer by layer."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    neurons = {path: module for path, module in network.named_modules() if isinstance(module, LIF) and module.fires}
    with ExitStack() as stack, torch.no_grad():
        for path, neuron in neurons.items():
            neuron.scan = _recorded(neuron.scan, found.setdefault(path, []))  # type: ignore[method-assign]
            stack.callback(neuron.__dict__.pop, "scan")
        network(inputs)
    return [
        Trace(
            path,
            torch.cat([spikes for spikes, _ in ran]),
            torch.cat([membranes for _, membranes in ran]),
            neurons[path].threshold,
        )
        for path, ran in found.items()
        if ran
    ]


def _recorded(scan: Callable[..., tuple[Tensor, Tensor]], kept: list[tuple[Tensor, Tensor]]) -> Any:
    def record(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        kept.append(scan(*args, **kwargs))
        return kept[-1]

    return record
