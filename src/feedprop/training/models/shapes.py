"""Which inputs a network can take, and which outputs it must return."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training.tasks import Task


def image_shape(model: str, inputs: Sequence[int], *, smallest: int, instead: str = "mlp") -> tuple[int, int, int]:
    """Return channels, height and width, or refuse a shape that is no image of sufficient size."""
    if len(inputs) != 3 or min(inputs[1:]) < smallest:
        raise FeedpropError(
            f"{model} needs images (channels, height, width) of at least {smallest}x{smallest} pixels, but one input "
            f"of the data has shape {tuple(inputs)}; --model {instead} takes any shape"
        )
    return inputs[0], inputs[1], inputs[2]


def check_widths(*widths: int) -> None:
    if min(widths) < 1:
        raise FeedpropError(f"every layer needs at least one neuron, but the widths are {list(widths)}")


def check_fit(model: nn.Module, inputs: Tensor, *, samples: int, task: Task, name: str) -> Tensor:
    """Run the model on a few inputs as in evaluation and return its outputs; refuse what does not fit the task.

    Outputs are (samples, outputs), or spikes over time, (T, samples, classes). Lazy layers take their sizes from this
    call.
    """
    classes = len(task.outputs)
    shape = tuple(inputs.shape[1:])
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = model.eval()(inputs)
    except FeedpropError:
        raise
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FeedpropError(f"the model {name} cannot take inputs of shape {shape}: {reason}") from error
    finally:
        model.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim not in (2, 3) or outputs.shape[-2] != samples:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise FeedpropError(
            f"the model {name} must return one {task.each}, shape {(samples, classes)} for {samples} inputs, or "
            f"spikes over time, (steps, {samples}, {classes}), but returned {found}"
        )
    if outputs.shape[-1] != classes:
        raise FeedpropError(
            f"the model {name} has {outputs.shape[-1]} outputs, but the data has {task.expected}; give the "
            f"model {classes} outputs"
        )
    return outputs
