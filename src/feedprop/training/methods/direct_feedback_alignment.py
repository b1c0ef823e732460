"""Direct feedback alignment (Nøkland 2016): the error at the output reaches every layer through a random matrix.

With e the gradient of the loss at the outputs, delta_l = (B_l e) * phi'(z_l), and the update of W_l is -delta_l x_l^T.
The last layer learns as by backprop. B_l e arrives where the next layer takes its input: what lies between two layers
(activation, pooling, normalisation) keeps its backward pass. If several layers take the same input, as beside a skip
connection, it receives the sum of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training.methods.redirection import Layer, Response, generator, layers_of, redirect


@dataclass
class _Pass:
    """A forward pass, with the error at its outputs once its backward pass has begun."""

    error: Tensor | None = None

    def begins_with(self, error: Tensor) -> None:
        self.error = error

    def known_error(self) -> Tensor:
        """Return the gradient at the outputs, (samples, classes)."""
        if self.error is None:
            raise FeedpropError("--method direct_feedback_alignment: a backward pass began before the model's outputs")
        return self.error


class _Passes:
    """Knows the present forward pass of a model, from two hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.present: _Pass | None = None
        self.hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]

    def _begin(self, *_: object) -> None:
        self.present = _Pass()

    def _end(self, _: nn.Module, __: object, outputs: Tensor) -> None:
        if self.present is not None and outputs.requires_grad:
            outputs.register_hook(self.present.begins_with)  # type: ignore[no-untyped-call]  # torch's own
        self.present = None


@dataclass
class _Direct(Response):
    """The error at the outputs arrives through a matrix (classes, inputs of the layer)."""

    layer: str
    shape: tuple[int, ...]
    feedback: Tensor
    passes: _Passes

    def gradient(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        present = self.passes.present
        if present is None:
            raise FeedpropError(f"--method direct_feedback_alignment: {self.layer} was called outside of the model")
        if tuple(x.shape[1:]) != self.shape:
            raise FeedpropError(
                f"--method direct_feedback_alignment has a matrix for inputs of shape {self.shape} at {self.layer}, "
                f"but one of shape {tuple(x.shape[1:])} arrived; train on inputs of one size"
            )
        return lambda _: (present.known_error().to(self.feedback) @ self.feedback).view(x.shape)

    def remove(self) -> None:
        for hook in self.passes.hooks:
            hook.remove()


def attach(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Let the error at the outputs, (samples, classes), reach the input of every layer but the first.

    The matrices are uniform in +-1 / sqrt(n) for n inputs of a layer, torch's initialisation of a layer from these
    inputs to the outputs.
    """
    layers, outputs = layers_of(model, inputs, method="direct_feedback_alignment")
    if outputs.ndim != 2:
        raise FeedpropError(
            f"--method direct_feedback_alignment needs outputs (samples, classes), but they have shape "
            f"{tuple(outputs.shape)}; use --method lfp"
        )
    passes = _Passes(model)
    for layer in layers:
        if layer.samples != len(outputs):
            raise FeedpropError(
                f"--method direct_feedback_alignment needs one input per sample at every layer, but {layer.name} has "
                f"{layer.samples} for {len(outputs)} samples; use --method lfp or backprop"
            )
        feedback = _feedback(layer, classes=outputs.shape[1], seed=seed).to(outputs)
        redirect(layer.module, _Direct(layer.name, layer.shape, feedback, passes))


def _feedback(layer: Layer, *, classes: int, seed: int) -> Tensor:
    """Return a matrix (classes, inputs of the layer)."""
    features = math.prod(layer.shape)
    drawn = torch.rand(classes, features, generator=generator(seed, layer.name), dtype=torch.float64)
    return (2 * drawn - 1) / math.sqrt(features)
