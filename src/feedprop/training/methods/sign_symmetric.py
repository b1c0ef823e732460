"""Sign-symmetric feedback: errors return through the signs of the weights.

This is uSF, "uniform sign-concordant feedback", of Liao et al. (2016), which Xiao et al. (2019) train on ImageNet:
delta_l = (V_{l+1}^T delta_{l+1}) * phi'(z_l) with V = c sign(W), and the update of W_l is still -delta_l x_l^T. c is
one number for each layer, the root mean square of its weights before the first step, so that errors begin at the size
that they have in backprop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from feedprop.training.methods.redirection import Response, layers_of, redirect, size_of, transposed, weight_of


@dataclass
class _Signs(Response):
    """Errors return through the signs that the weights have in the forward pass, times a size that stays."""

    size: float

    def gradient(self, module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(transposed, module, self.size * weight_of(module).sign(), x.shape)


def attach(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Let errors return through the signs that the weights have at each step; the seed is not needed."""
    layers, _ = layers_of(model, inputs, method="sign_symmetric")
    for layer in layers:
        redirect(layer.module, _Signs(size_of(layer)))
