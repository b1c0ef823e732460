"""To and from the Neuromorphic Intermediate Representation (Pedersen et al. 2024); the only file that imports nir.

NIR's neurons live in continuous time, tau dv/dt = -v + R I, and are set to 0 when they fire. One step of length dt
(forward Euler) is v_t = (1 - dt/tau) v_(t-1) + (dt/tau) R I_t, so that with dt = 1e-4, as in snnTorch's exporter,

    nir.LIF, nir.LI    tau = dt / (1 - beta), R = 1 / (1 - beta)                   LIF, LeakyIntegrator
    nir.CubaLIF        tau_syn = dt / (1 - alpha), w_in = 1 / (1 - alpha), too     Synaptic
    nir.IF             R = 1                                                       LIF with beta = 1

are the same step by step. A graph does not say how often a constant input is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nir  # type: ignore[import-untyped]  # nir ships no types
import numpy as np
import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.spiking.dynamics import Number
from feedprop.spiking.neuron import IF, LIF, LeakyIntegrator, Neuron
from feedprop.spiking.sequential import SpikingSequential
from feedprop.spiking.synapse import Synaptic

DT = 1e-4


def to_nir(network: SpikingSequential, shape: tuple[int, ...], *, dt: float = DT) -> nir.NIRGraph:
    """Return the graph of a network, in evaluation mode; `nir.write("network.nir", graph)` saves it.

    Args:
        network: neurons, Linear, Conv1d, Conv2d, AvgPool2d, Flatten, Dropout, in a row.
        shape: of one input at one step, without the batch.
        dt: seconds per step.

    Raises:
        FeedpropError: NIR has no node for a layer or its settings.
    """
    nodes: list[Any] = [nir.Input(input_type=np.array(shape))]
    values = torch.zeros(1, *shape)
    for path, layer in _layers(network):
        if isinstance(layer, Neuron):
            nodes.append(_neuron(path, layer, tuple(values.shape[1:]), dt))
        elif not isinstance(layer, nn.Dropout | nn.Identity):
            nodes.append(_layer(path, layer, tuple(values.shape[1:])))
            with torch.no_grad():
                values = layer(values)
    nodes.append(nir.Output(output_type=np.array(values.shape[1:])))
    return nir.NIRGraph.from_list(*nodes)


def _layers(network: SpikingSequential, path: str = "layers") -> Iterator[tuple[str, nn.Module]]:
    for number, layer in enumerate(network):
        if type(layer) is SpikingSequential:
            yield from _layers(layer, f"{path}.{number}.layers")
        else:
            yield f"{path}.{number}", layer


def _refused(path: str, layer: nn.Module, reason: str) -> FeedpropError:
    return FeedpropError(f"{path} cannot be written in NIR: {type(layer).__name__} {reason}")


def _layer(path: str, layer: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return the node of a layer without time."""
    if isinstance(layer, nn.Linear):
        weight = _array(layer.weight)
        return nir.Linear(weight=weight) if layer.bias is None else nir.Affine(weight=weight, bias=_array(layer.bias))
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        if layer.padding_mode != "zeros":
            raise _refused(path, layer, f"pads with {layer.padding_mode}, but NIR with zeros")
        if layer.groups != 1:
            raise _refused(path, layer, f"has groups={layer.groups}, which NIR does not support")
        if len(set(layer.kernel_size)) != 1:
            raise _refused(path, layer, f"has the kernel {layer.kernel_size}, but NIR supports square ones only")
        return _convolution(layer, shape)
    if isinstance(layer, nn.AvgPool2d):
        if layer.ceil_mode or not layer.count_include_pad or layer.divisor_override:
            raise _refused(path, layer, "has settings that NIR lacks; give only kernel_size, stride and padding")
        return nir.AvgPool2d(*(np.array(_pair(size)) for size in (layer.kernel_size, layer.stride, layer.padding)))
    if isinstance(layer, nn.Flatten):
        return nir.Flatten(np.array(shape), *(d - 1 if d > 0 else d for d in (layer.start_dim, layer.end_dim)))
    hint = {"MaxPool2d": "; use AvgPool2d", "BatchNorm2d": "; fold it into the layer before it"}
    raise _refused(path, layer, f"has no node{hint.get(type(layer).__name__, '')}")


def _convolution(layer: nn.Conv1d | nn.Conv2d, shape: tuple[int, ...]) -> Any:
    bias = np.zeros(layer.out_channels, np.float32) if layer.bias is None else _array(layer.bias)
    settings: list[Any] = [layer.stride, layer.padding, layer.dilation]
    if isinstance(layer, nn.Conv2d):
        stride, padding, dilation = settings
        return nir.Conv2d(shape[1:], _array(layer.weight), stride, padding, dilation, layer.groups, bias)
    stride, padding, dilation = (size if isinstance(size, str) else size[0] for size in settings)
    return nir.Conv1d(shape[1], _array(layer.weight), stride, padding, dilation, layer.groups, bias)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _neuron(path: str, neuron: Neuron, shape: tuple[int, ...], dt: float) -> Any:
    if type(neuron) not in (LIF, IF, Synaptic, LeakyIntegrator):
        raise _refused(path, neuron, "has no node")
    emptied = neuron.reset == "zero" or (neuron.reset == "refractory" and not neuron.reset_delay)
    if neuron.fires and not emptied:
        raise _refused(
            path,
            neuron,
            f"has reset={neuron.reset!r} and reset_delay={neuron.reset_delay}, but NIR's neurons are set to 0 when "
            f'they fire; train with reset="zero"',
        )
    beta, threshold = (_filled(value, shape) for value in (neuron.decay(neuron.beta), neuron.threshold))
    if (beta == 1).all() and type(neuron) in (LIF, IF):
        return nir.IF(r=np.ones(shape), v_threshold=threshold, v_reset=np.zeros(shape))
    if (beta == 1).any():
        raise _refused(path, neuron, "has beta = 1, for which tau would be infinite; use LIF with beta = 1")
    common = {"r": 1 / (1 - beta), "v_leak": np.zeros(shape)}
    if isinstance(neuron, LeakyIntegrator):
        return nir.LI(tau=dt / (1 - beta), **common)
    common |= {"v_threshold": threshold, "v_reset": np.zeros(shape)}
    if not isinstance(neuron, Synaptic):
        return nir.LIF(tau=dt / (1 - beta), **common)
    alpha = _filled(neuron.decay(neuron.alpha), shape)
    if (alpha == 1).any():
        raise _refused(path, neuron, "has alpha = 1, for which tau_syn would be infinite")
    return nir.CubaLIF(tau_syn=dt / (1 - alpha), tau_mem=dt / (1 - beta), w_in=1 / (1 - alpha), **common)


def _array(values: Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = values.detach().cpu().numpy()
    return found


def _filled(value: Number, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """One number per neuron, in double precision."""
    values = _array(value.double()) if isinstance(value, Tensor) else np.array(value, np.float64)
    return np.broadcast_to(values, shape).copy()


def from_nir(graph: nir.NIRGraph, *, steps: int | None = None, dt: float = DT) -> SpikingSequential:
    """Return the network of a graph that is a single chain of nodes.

    Args:
        graph: as `nir.read("network.nir")` returns it.
        steps: as for SpikingSequential.
        dt: seconds per step.

    Raises:
        FeedpropError: the graph branches, or has nodes or settings that feedprop has no layer for.
    """
    return SpikingSequential(*(_module(name, graph.nodes[name], dt) for name in _chain(graph)), steps=steps)


def _chain(graph: nir.NIRGraph) -> list[str]:
    """Return the names of the nodes between input and output, in order."""
    after: dict[str, list[str]] = {}
    for source, target in dict.fromkeys(graph.edges):
        after.setdefault(source, []).append(target)
    names = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    while len(names) <= len(graph.nodes) and len(after.get(names[-1], [])) == 1:
        names += after[names[-1]]
    if len(names) != len(graph.nodes) or not isinstance(graph.nodes[names[-1]], nir.Output):
        raise FeedpropError("from_nir() takes a graph in which the nodes form one chain from input to output")
    return names[1:-1]


def _module(name: str, node: Any, dt: float) -> nn.Module:
    """Return the layer that a node stands for."""
    if isinstance(node, nir.Linear | nir.Affine):
        outer, inner = node.weight.shape
        return _loaded(nn.Linear(inner, outer, bias=isinstance(node, nir.Affine)), node)
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        kind: Any = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
        outer, inner, *kernel = node.weight.shape  # (C_out, C_in / groups, ...)
        settings = {"stride": node.stride, "padding": node.padding, "dilation": node.dilation, "groups": node.groups}
        settings = {key: value if isinstance(value, str) else _numbers(value) for key, value in settings.items()}
        return _loaded(kind(inner * settings["groups"], outer, tuple(kernel), **settings), node)
    if isinstance(node, nir.AvgPool2d):
        return nn.AvgPool2d(*(_numbers(size) for size in (node.kernel_size, node.stride, node.padding)))
    if isinstance(node, nir.Flatten):
        return nn.Flatten(*(int(d) + 1 if d >= 0 else int(d) for d in (node.start_dim, node.end_dim)))
    return _neurons(name, node, dt)


def _numbers(values: Any) -> Any:
    """Return one int or a tuple of ints, as torch takes them."""
    return tuple(int(value) for value in values) if np.ndim(values) else int(values)


def _loaded(layer: nn.Module, node: Any) -> nn.Module:
    for key, parameter in layer.named_parameters():
        parameter.data = torch.as_tensor(np.asarray(getattr(node, key))).to(torch.get_default_dtype())
    return layer


def _neurons(name: str, node: Any, dt: float) -> nn.Module:
    """Return the neurons of a node; a scale of the currents is divided out of the threshold."""
    if not isinstance(node, nir.IF | nir.LIF | nir.CubaLIF | nir.LI):
        raise FeedpropError(f"feedprop has no layer for the NIR node {name}, a {type(node).__name__}")
    for key in ("v_leak", "v_reset"):
        if np.any(getattr(node, key, 0) != 0):
            raise FeedpropError(f"the NIR node {name} has {key} other than 0, for which feedprop has no neuron")
    tau = getattr(node, "tau_mem", getattr(node, "tau", None))
    beta, gain = (np.ones(()), node.r) if tau is None else (1 - dt / tau, node.r * dt / tau)
    if isinstance(node, nir.LI):
        if not np.allclose(gain, 1):
            raise FeedpropError(
                f"the NIR node {name} scales its currents by {np.unique(gain)}; scale the weights instead"
            )
        return LeakyIntegrator(_number(name, "beta", beta))
    if not isinstance(node, nir.CubaLIF):
        threshold = _number(name, "threshold", node.v_threshold / gain)
        return LIF(_number(name, "beta", beta), threshold, reset="zero", reset_delay=False)
    alpha, gain = 1 - dt / node.tau_syn, gain * node.w_in * dt / node.tau_syn
    threshold = _number(name, "threshold", node.v_threshold / gain)
    return Synaptic(
        *(_number(name, key, value) for key, value in (("alpha", alpha), ("beta", beta))),
        threshold=threshold,
        reset="zero",
        reset_delay=False,
    )


def _number(name: str, key: str, values: Any) -> Number:
    """One number if all neurons share it, else one per neuron."""
    values = np.round(values, 12)  # 1 - dt / (dt / (1 - 0.9)) is not quite 0.9
    low, high = float(np.min(values)), float(np.max(values))
    if not (low > 0 if key == "threshold" else 0 <= low <= high <= 1):
        raise FeedpropError(
            f"the NIR node {name} has {key} from {low:g} to {high:g} at this dt; give the graph's own dt"
        )
    return low if low == high else torch.as_tensor(values).to(torch.get_default_dtype())
