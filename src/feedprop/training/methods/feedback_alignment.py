"""Feedback alignment (Lillicrap et al. 2016): errors return through fixed random matrices.

Where backprop has delta_l = (W_{l+1}^T delta_{l+1}) * phi'(z_l), it has delta_l = (B_{l+1} delta_{l+1}) * phi'(z_l),
and the update of W_l is still -delta_l x_l^T. The last layer learns as by backprop.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from feedprop.training.methods.layers import Layer, feedback_of, layers_of, redirect, transposed


def attach(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Let errors return through matrices of the shape and size of the present weights, drawn from the seed."""
    layers, _ = layers_of(model, inputs, method="feedback_alignment")
    for layer in layers:
        _attach(layer, feedback_of(layer, seed=seed))


def _attach(layer: Layer, feedback: Tensor) -> None:
    redirect(layer.module, lambda x: partial(transposed, layer.module, feedback, x.shape))
