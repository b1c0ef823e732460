"""The layers that `record` looks at, and what it computes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from feedprop.operations.packages import is_snntorch_neuron

SAMPLE = 10_000  # weights at most of which the Gini coefficient is computed
_ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention")
_POSITIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.Softmax)


class Layer:
    """A module that is recorded.

    Args:
        path: as in `named_modules()`.
        module: the module.
    """

    def __init__(self, path: str, module: nn.Module) -> None:
        self.module = module
        self.index = 0  # among those that are recorded
        self.kind = type(module).__name__
        self.name = path or self.kind
        own = list(module.parameters(recurse=False))
        self.has_parameters = bool(own)
        self.parameters = [parameter for parameter in own if parameter.requires_grad]
        self.weights = [parameter for parameter in self.parameters if parameter.ndim >= 2] or self.parameters
        self.size = sum(parameter.numel() for parameter in self.parameters)
        self.spikes = _is_neuron(module)
        self.activates = self.spikes or isinstance(module, _ACTIVATIONS)
        self.positive = isinstance(module, _POSITIVE)
        self.input_axes = -1 if isinstance(module, nn.Linear) else 1  # all but the last dimension, or the first
        self.output_axes = 2 if self.spikes and not is_snntorch_neuron(module) else 1  # time and batch, or batch
        self.overwritten = False  # whether its outputs or inputs are written to after it ran


def layers_of(modules: Mapping[str, nn.Module]) -> list[Layer]:
    """Return those modules that have parameters of their own, or are activations or spiking neurons."""
    layers = [Layer(path, module) for path, module in modules.items()]
    found = [layer for layer in layers if layer.has_parameters or layer.activates]
    for index, layer in enumerate(found):
        layer.index = index
    return found


def _is_neuron(module: nn.Module) -> bool:
    """Whether a module is a spiking neuron, feedprop's or snnTorch's."""
    own = any(f"{kind.__module__}.{kind.__name__}" == "feedprop.spiking.neuron.Neuron" for kind in type(module).__mro__)
    return own or is_snntorch_neuron(module)


def reward_and_size(values: Tensor, credit: Tensor, *, both: bool) -> tuple[Tensor, Tensor | None]:
    """Return the sum of the rewards at a tensor and, if `both`, the sum of their absolute values.

    Args:
        values: what the tensor holds.
        credit: what the backward pass carries there: minus the credit.
        both: otherwise the second one is None.
    """
    if values.is_complex():
        values, credit = torch.view_as_real(values.resolve_conj()), torch.view_as_real(credit.resolve_conj())
    if values.dtype in (torch.float16, torch.bfloat16):
        values, credit = values.float(), credit.float()
    if both:
        rewards = values * credit
        return -rewards.sum(), rewards.abs_().sum()
    if values.is_contiguous() and credit.is_contiguous():
        return -torch.dot(values.view(-1), credit.view(-1).to(values.dtype)), None
    return -(values * credit).sum(), None


def present(values: Tensor, axes: int, *, positive: bool) -> Tensor:
    """Return which entries are ever other than 0 along the first `axes` dimensions; -1: along all but the last.

    Args:
        values: any shape but that of a scalar.
        axes: 1 or more, or -1.
        positive: whether no value is negative.
    """
    rows = values.flatten(0, max(values.ndim - 1, 1) - 1 if axes < 0 else min(axes, values.ndim) - 1)
    if rows.is_complex():
        return (rows != 0).any(0)
    above = rows.amax(0) != 0  # unlike any(0), a single fast pass
    return above if positive else above.logical_or_(rows.amin(0) != 0)


def gini(weights: Sequence[Tensor]) -> Tensor:
    """Return the Gini coefficient of |w|: 0 if all are equal, near 1 if few are large; of a sample of many."""
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    sizes = torch.view_as_real(sizes).flatten() if sizes.is_complex() else sizes
    sizes = sizes[:: -(-len(sizes) // SAMPLE)].double().sort().values
    ranks = torch.arange(1, len(sizes) + 1, device=sizes.device, dtype=sizes.dtype)
    total = sizes.sum()
    return torch.where(total > 0, 2 * (ranks * sizes).sum() / (len(sizes) * total) - (len(sizes) + 1) / len(sizes), 0)
