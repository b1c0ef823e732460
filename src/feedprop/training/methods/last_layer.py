"""Only the last layer is trained, by backprop, on the random features that the others compute: what learning must beat.

The last layer is the one that is called last among those with parameters of their own.
"""

from __future__ import annotations

from torch import Tensor, nn

from feedprop.errors import FeedpropError
from feedprop.training.methods.redirection import trial


def attach(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Let no parameter but those of the last layer require a gradient; the seed is not needed."""
    calls, _ = trial(model, inputs)
    if not calls:
        raise FeedpropError("--method last_layer finds no layer with parameters that is called; use --method backprop")
    last = [*calls[-1][0].parameters(recurse=False)]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is kept for kept in last) and parameter.requires_grad)
    if not any(parameter.requires_grad for parameter in last):
        raise FeedpropError("--method last_layer: the parameters of the last layer do not require a gradient")
