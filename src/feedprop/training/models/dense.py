"""The networks named mlp, lenet and vgg."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import import_path, nearest
from feedprop.training.models.shapes import check_widths, image_shape


class MLP(nn.Sequential):
    """Fully connected network on flattened inputs.

    Args:
        inputs: shape of one input, without the batch; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        hidden: width of each hidden layer
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the hidden outputs dropped in training
    """

    def __init__(
        self,
        inputs: Sequence[int],
        classes: int,
        *,
        hidden: Sequence[int] = (120, 84),
        activation: str = "ReLU",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            nn.Flatten(), *dense_layers([math.prod(inputs), *hidden], classes, activation_maker(activation), dropout)
        )


class LeNet(nn.Sequential):
    """Two 5x5 convolutions of 16 channels with max-pooling, then 120 and 84 hidden neurons.

    Args:
        inputs: channels, height, width of one image; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the outputs of the two hidden dense layers dropped in training
    """

    def __init__(self, inputs: Sequence[int], classes: int, *, activation: str = "ReLU", dropout: float = 0.5) -> None:
        channels, height, width = image_shape("lenet", inputs, smallest=16)
        act = activation_maker(activation)
        rows, columns = (height - 12) // 4, (width - 12) // 4
        super().__init__(
            *(nn.Conv2d(channels, 16, 5), act(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 5), act(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *dense_layers([16 * rows * columns, 120, 84], classes, act, dropout),
        )


class VGG(nn.Sequential):
    """Six 3x3 convolutions in three stages, then 1024 and 512 hidden neurons.

    Args:
        inputs: channels, height, width of one image; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the outputs of the two hidden dense layers dropped in training
        batch_norm: add batch normalisation after each convolution
    """

    def __init__(
        self,
        inputs: Sequence[int],
        classes: int,
        *,
        activation: str = "ReLU",
        dropout: float = 0.5,
        batch_norm: bool = False,
    ) -> None:
        channels, height, width = image_shape("vgg", inputs, smallest=8)
        act = activation_maker(activation)
        layers: list[nn.Module] = []
        for stage in ((32, 64), (128, 128), (256, 256)):
            for filters in stage:
                layers += [nn.Conv2d(channels, filters, 3, padding=1)]
                layers += [nn.BatchNorm2d(filters)] if batch_norm else []
                layers += [act()]
                channels = filters
            layers += [nn.MaxPool2d(2)]
        flat = channels * (height // 8) * (width // 8)
        super().__init__(*layers, nn.Flatten(), *dense_layers([flat, 1024, 512], classes, act, dropout))


def dense_layers(
    widths: Sequence[int], classes: int, activation: Callable[[], nn.Module], dropout: float
) -> list[nn.Module]:
    """Return linear layers of these widths, each followed by its activation, and the output layer."""
    check_widths(*widths, classes)
    if not 0 <= dropout < 1:
        raise FeedpropError(f"--model.dropout must be at least 0 and below 1, but is {dropout}")
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return [*layers, nn.Linear(widths[-1], classes)]


def activation_maker(activation: str) -> Callable[[], nn.Module]:
    """Return the function that makes the activation of this name."""
    dotted = "." in activation
    make: Any = import_path(activation, option="--model.activation") if dotted else getattr(nn, activation, None)
    if not callable(make):
        raise FeedpropError(f"--model.activation: torch.nn has no {activation!r}{nearest(activation, dir(nn))}")
    try:
        made = make()
    except TypeError as error:
        raise FeedpropError(f"--model.activation: {activation} cannot be made without arguments: {error}") from error
    if not isinstance(made, nn.Module):
        raise FeedpropError(f"--model.activation: {activation} makes a {type(made).__name__}, not a torch.nn.Module")
    return make  # type: ignore[no-any-return]  # as was just tried
