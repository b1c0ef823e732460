"""Feedback alignment (Lillicrap et al. 2016): errors return through fixed random matrices.

Where backprop has delta_l = (W_{l+1}^T delta_{l+1}) * phi'(z_l), it has delta_l = (B_{l+1} delta_{l+1}) * phi'(z_l),
and the update of W_l is still -delta_l x_l^T. The last layer learns as by backprop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from feedprop.training.methods.redirection import Response, feedback_of, layers_of, redirect, transposed


@dataclass
class _Fixed(Response):
    """Errors return through a matrix that stays."""

    feedback: Tensor

    def gradient(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(transposed, module, self.feedback, x.shape)


def attach(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Let errors return through matrices of the shape and size of the present weights, drawn from the seed."""
    layers, _ = layers_of(model, inputs, method="feedback_alignment")
    for layer in layers:
        redirect(layer.module, _Fixed(feedback_of(layer, seed=seed)))
