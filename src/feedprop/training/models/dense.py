"""The networks that have a short name: mlp, lenet, vgg; and the check that a network fits its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import import_path, nearest


class MLP(nn.Sequential):
    """Fully connected network on flattened inputs.

    Args:
        inputs: shape of one input, without the batch; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        hidden: width of each hidden layer
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the hidden outputs that is dropped in training
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
        super().__init__(nn.Flatten(), *_dense([math.prod(inputs), *hidden], classes, _maker(activation), dropout))


class LeNet(nn.Sequential):
    """Two 5x5 convolutions of 16 channels with max-pooling, then 120 and 84 hidden neurons.

    Args:
        inputs: channels, height, width of one image; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the outputs of the two hidden dense layers that is dropped in training
    """

    def __init__(self, inputs: Sequence[int], classes: int, *, activation: str = "ReLU", dropout: float = 0.5) -> None:
        channels, height, width = image_shape("lenet", inputs, smallest=16)
        act = _maker(activation)
        rows, columns = (height - 12) // 4, (width - 12) // 4
        super().__init__(
            *(nn.Conv2d(channels, 16, 5), act(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 5), act(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *_dense([16 * rows * columns, 120, 84], classes, act, dropout),
        )


class VGG(nn.Sequential):
    """Six 3x3 convolutions in three stages, then 1024 and 512 hidden neurons.

    Args:
        inputs: channels, height, width of one image; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        activation: class in torch.nn, or import path of a class or function without arguments
        dropout: share of the outputs of the two hidden dense layers that is dropped in training
        batch_norm: normalise after each convolution
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
        act = _maker(activation)
        layers: list[nn.Module] = []
        for stage in ((32, 64), (128, 128), (256, 256)):
            for filters in stage:
                layers += [nn.Conv2d(channels, filters, 3, padding=1)]
                layers += [nn.BatchNorm2d(filters)] if batch_norm else []
                layers += [act()]
                channels = filters
            layers += [nn.MaxPool2d(2)]
        flat = channels * (height // 8) * (width // 8)
        super().__init__(*layers, nn.Flatten(), *_dense([flat, 1024, 512], classes, act, dropout))


def _dense(widths: Sequence[int], classes: int, activation: Callable[[], nn.Module], dropout: float) -> list[nn.Module]:
    """Return linear layers of these widths, each followed by its activation, and the output layer."""
    if min(*widths, classes, 1) < 1:
        raise FeedpropError(f"every layer needs at least one neuron, but the widths are {[*widths, classes]}")
    if not 0 <= dropout < 1:
        raise FeedpropError(f"--model.dropout must be at least 0 and below 1, but is {dropout}")
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return [*layers, nn.Linear(widths[-1], classes)]


def image_shape(model: str, inputs: Sequence[int], *, smallest: int, instead: str = "mlp") -> tuple[int, int, int]:
    """Return channels, height and width, or say why this shape is no image that the network can take."""
    if len(inputs) != 3 or min(inputs[1:]) < smallest:
        raise FeedpropError(
            f"{model} needs images (channels, height, width) of at least {smallest}x{smallest} pixels, but one input "
            f"of the data has shape {tuple(inputs)}; --model {instead} takes any shape"
        )
    return inputs[0], inputs[1], inputs[2]


def _maker(activation: str) -> Callable[[], nn.Module]:
    """Return the function that makes the activation of this name."""
    dotted = "." in activation
    found: Any = import_path(activation, option="--model.activation") if dotted else getattr(nn, activation, None)
    if not callable(found):
        raise FeedpropError(f"--model.activation: torch.nn has no {activation!r}{nearest(activation, dir(nn))}")
    made = _call_activation(activation, found)
    if not isinstance(made, nn.Module):
        raise FeedpropError(f"--model.activation: {activation} makes a {type(made).__name__}, not a torch.nn.Module")
    maker: Callable[[], nn.Module] = found
    return maker


def _call_activation(name: str, make: Callable[[], object]) -> object:
    try:
        return make()
    except TypeError as error:
        raise FeedpropError(f"--model.activation: {name} cannot be made without arguments: {error}") from error


def check_fit(model: nn.Module, inputs: Tensor, *, samples: int, classes: int, name: str) -> Tensor:
    """Run the model on a few inputs as in evaluation and return its outputs; refuse what is not one score per class.

    Outputs are (samples, classes), or spikes over time, (T, samples, classes). Lazy layers take their sizes from this
    call.
    """
    shape = tuple(inputs.shape[1:])
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = model.eval()(inputs)
    except FeedpropError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FeedpropError(f"the model {name} cannot take inputs of shape {shape}: {reason}") from error
    finally:
        model.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim not in (2, 3) or outputs.shape[-2] != samples:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise FeedpropError(
            f"the model {name} must return one score per class, shape {(samples, classes)} for {samples} inputs, or "
            f"spikes over time, (steps, {samples}, {classes}), but returned {found}"
        )
    if outputs.shape[-1] != classes:
        raise FeedpropError(
            f"the model {name} has {outputs.shape[-1]} outputs, but the data has {classes} classes, labels 0 to "
            f"{classes - 1}; give the model {classes} outputs"
        )
    return outputs
