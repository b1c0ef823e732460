"""Spiking networks of the literature, as builders: images (B, C, H, W) shown as a constant current at each step."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import nn

from feedprop.spiking.neuron import LIF
from feedprop.spiking.sequential import SpikingSequential

Size = int | tuple[int, int]  # of an image: its side, or height and width


def lif_mlp(
    sizes: tuple[int, ...] = (784, 1000, 10), *, steps: int | None = 15, beta: float = 0.9, **settings: Any
) -> SpikingSequential:
    """Return linear layers, each followed by LIF neurons (Weber et al. 2023: 784-1000-10, 15 steps).

    Args:
        sizes: inputs, hidden neurons, outputs.
        steps: how often an image is shown; None if inputs have time already, (T, B, ...).
        beta: decay of the membrane per step.
        settings: of the neurons, see LIF.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), LIF(beta, **settings)]
    return SpikingSequential(*layers, steps=steps)


def lif_cnn(
    classes: int = 10, *, channels: int = 1, size: Size = 28, steps: int | None = 15, beta: float = 0.9, **settings: Any
) -> SpikingSequential:
    """Return conv 12 - LIF - pool - conv 64 - LIF - pool - linear - LIF, kernels of 5 (snnTorch's tutorial network)."""
    left = math.prod(((side - 4) // 2 - 4) // 2 for side in _sides(size))
    return SpikingSequential(
        *(nn.Conv2d(channels, 12, 5), LIF(beta, **settings), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 64, 5), LIF(beta, **settings), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * left, classes), LIF(beta, **settings)),
        steps=steps,
    )


def lif_cnn5(
    classes: int = 10, *, channels: int = 3, size: Size = 32, steps: int | None = 25, beta: float = 0.9, **settings: Any
) -> SpikingSequential:
    """Return five 3x3 convolutions of 30, 150, 250, 200 and 100 channels and a linear layer, without biases.

    LIF neurons after each, maximum pooling after the first four (Weber et al. 2023: CIFAR-10, 25 steps). Weights are
    initialised as in He et al. 2015: with torch's default no spike reaches the last layers, and silent layers do not
    learn.
    """
    layers: list[nn.Module] = []
    height, width = _sides(size)
    for inner, outer, padding in ((channels, 30, 2), (30, 150, 1), (150, 250, 1), (250, 200, 2), (200, 100, 2)):
        layers += [nn.Conv2d(inner, outer, 3, padding=padding, bias=False), LIF(beta, **settings)]
        height, width = height + 2 * padding - 2, width + 2 * padding - 2
        if outer != 100:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(100 * height * width, classes, bias=False), LIF(beta, **settings)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return SpikingSequential(*layers, steps=steps)


def _sides(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
