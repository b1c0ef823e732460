"""The spiking networks that have a short name: lif_mlp, lif_cnn, lif_cnn5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from feedprop.errors import FeedpropError
from feedprop.spiking import Neuron, SpikingSequential, models
from feedprop.spiking.activity import fires
from feedprop.training.models.dense import image_shape

Reset = Literal["subtract", "zero", "refractory", "none"]


def lif_mlp(
    inputs: Sequence[int],
    classes: int,
    *,
    hidden: Sequence[int] = (1000,),
    steps: int | None = None,
    beta: float = 0.9,
    reset: Reset = "subtract",
    reset_delay: bool = True,
    timed: bool = False,
) -> SpikingSequential:
    """Linear layers, each followed by leaky integrate-and-fire neurons.

    Args:
        inputs: shape of one input at one step, without the batch; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        hidden: width of each hidden layer
        steps: how often an input is shown, 15 unless given; sequences have steps of their own
        beta: decay of the membrane per step
        reset: what a spike does to the membrane
        reset_delay: reset a neuron in the step after its spike, otherwise in the same step
        timed: whether inputs are sequences; taken from the data unless given
    """
    widths = (math.prod(inputs), *hidden, classes)
    if min(widths) < 1:
        raise FeedpropError(f"every layer needs at least one neuron, but the widths are {list(widths)}")
    return models.lif_mlp(widths, steps=_steps(steps, 15, timed), beta=beta, reset=reset, reset_delay=reset_delay)


def lif_cnn(
    inputs: Sequence[int],
    classes: int,
    *,
    steps: int | None = None,
    beta: float = 0.9,
    reset: Reset = "subtract",
    reset_delay: bool = True,
    timed: bool = False,
) -> SpikingSequential:
    """Two 5x5 convolutions of 12 and 64 channels with max-pooling and a linear layer, each with LIF neurons.

    Args:
        inputs: channels, height, width of one image; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        steps: how often an image is shown, 15 unless given; sequences have steps of their own
        beta: decay of the membrane per step
        reset: what a spike does to the membrane
        reset_delay: reset a neuron in the step after its spike, otherwise in the same step
        timed: whether inputs are sequences of images; taken from the data unless given
    """
    channels, *size = image_shape("lif_cnn", inputs, smallest=16, instead="lif_mlp")
    return models.lif_cnn(
        classes,
        channels=channels,
        size=(size[0], size[1]),
        steps=_steps(steps, 15, timed),
        beta=beta,
        reset=reset,
        reset_delay=reset_delay,
    )


def lif_cnn5(
    inputs: Sequence[int],
    classes: int,
    *,
    steps: int | None = None,
    beta: float = 0.9,
    reset: Reset = "subtract",
    reset_delay: bool = True,
    timed: bool = False,
) -> SpikingSequential:
    """Five 3x3 convolutions of 30, 150, 250, 200 and 100 channels and a linear layer, each with LIF neurons.

    Args:
        inputs: channels, height, width of one image; taken from the data unless given
        classes: number of outputs; taken from the data unless given
        steps: how often an image is shown, 25 unless given; sequences have steps of their own
        beta: decay of the membrane per step
        reset: what a spike does to the membrane
        reset_delay: reset a neuron in the step after its spike, otherwise in the same step
        timed: whether inputs are sequences of images; taken from the data unless given
    """
    channels, *size = image_shape("lif_cnn5", inputs, smallest=6, instead="lif_mlp")
    return models.lif_cnn5(
        classes,
        channels=channels,
        size=(size[0], size[1]),
        steps=_steps(steps, 25, timed),
        beta=beta,
        reset=reset,
        reset_delay=reset_delay,
    )


def _steps(given: int | None, usual: int, timed: bool) -> int | None:
    if not timed:
        return usual if given is None else given
    if given is not None:
        raise FeedpropError(
            f"--model.steps is {given}, but the data are sequences with steps of their own; leave it out"
        )
    return None


def has_spiking_neurons(model: nn.Module) -> bool:
    """Whether a model has neurons that fire, feedprop's own or snnTorch's."""
    return any(fires(module) for module in model.modules())


def has_step_neurons(model: nn.Module) -> bool:
    """Whether a model has neurons of feedprop's that fire by a step function, with no surrogate gradient."""
    return any(fires(module) for module in model.modules() if isinstance(module, Neuron))
