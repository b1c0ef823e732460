"""The spiking networks named lif_mlp, lif_cnn and lif_cnn5; and which neurons of any model fire."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import nn

from feedprop.errors import FeedpropError
from feedprop.spiking import SpikingSequential, models
from feedprop.spiking.activity import fires
from feedprop.training.models.shapes import check_widths, image_shape

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
        steps: how often an input is presented, 15 unless given; sequences have steps of their own
        beta: decay of the membrane per step
        reset: what a spike does to the membrane
        reset_delay: reset a neuron in the step after its spike, otherwise in the same step
        timed: whether inputs are sequences; taken from the data unless given
    """
    widths = (math.prod(inputs), *hidden, classes)
    check_widths(*widths)
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
        steps: how often an image is presented, 15 unless given; sequences have steps of their own
        beta: decay of the membrane per step
        reset: what a spike does to the membrane
        reset_delay: reset a neuron in the step after its spike, otherwise in the same step
        timed: whether inputs are sequences of images; taken from the data unless given
    """
    channels, height, width = image_shape("lif_cnn", inputs, smallest=16, instead="lif_mlp")
    return models.lif_cnn(
        classes,
        channels=channels,
        size=(height, width),
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
        steps: how often an image is presented, 25 unless given; sequences have steps of their own
        beta: decay of the membrane per step
        reset: what a spike does to the membrane
        reset_delay: reset a neuron in the step after its spike, otherwise in the same step
        timed: whether inputs are sequences of images; taken from the data unless given
    """
    channels, height, width = image_shape("lif_cnn5", inputs, smallest=6, instead="lif_mlp")
    return models.lif_cnn5(
        classes,
        channels=channels,
        size=(height, width),
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


# The spiking networks of the command, with the epsilon that each was trained with in experiments/spiking; that of
# lif_cnn5 was not measured. They take their inputs as they are: an image is a current of intensities in [0, 1].
EPSILON: Mapping[Callable[..., object], float] = {lif_mlp: 1.0, lif_cnn: 0.1, lif_cnn5: 0.1}


def firing_neurons(model: nn.Module) -> list[nn.Module]:
    """Return the neurons of a model that fire, feedprop's own and snnTorch's."""
    return [module for module in model.modules() if fires(module)]
