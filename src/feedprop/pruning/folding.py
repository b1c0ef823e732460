"""Batch normalisations folded into the layers before them."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from feedprop.diagnosis.trial import copy_without_rules
from feedprop.errors import FeedpropError
from feedprop.pruning.importances import is_attached
from feedprop.pruning.masks import make_permanent

_NORMS = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}


def fold_batch_norms(model: nn.Module, inputs: Any) -> nn.Module:
    """Return a copy in evaluation mode whose batch normalisations are folded into the layers before them.

    The magnitude of a weight then says what it does to the output; before, the normalisation may scale it by any
    number. Weights of 0 stay 0, and masks of `torch.nn.utils.prune` are written into the weights. A normalisation
    becomes `nn.Identity` where it alone reads a convolution or a linear layer; others stay.

    Args:
        model: one that `torch.fx` can trace, not attached.
        inputs: a batch, or a tuple of what the model takes. The outputs must be those of `model.eval()`, up to
            rounding.

    Raises:
        FeedpropError: the model is attached, or cannot be traced; or the outputs differ, since a linear layer and its
            normalisation do not share the dimension of the channels.
    """
    if any(map(is_attached, model.modules())):
        raise FeedpropError("fold_batch_norms() takes a plain model; call feedprop.detach(model) first")
    plain = make_permanent(copy_without_rules(model, "fold_batch_norms()")).eval()
    folded = copy.deepcopy(plain)
    for name, norm_name in _pairs(folded):
        layer: Any = folded.get_submodule(name)
        norm: Any = folded.get_submodule(norm_name)
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
        layer.bias.requires_grad_(layer.weight.requires_grad)  # of a layer without one, it does not
        folded.set_submodule(norm_name, nn.Identity())
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        expected, found = plain(*arguments), folded(*arguments)
    try:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    except AssertionError as error:
        raise FeedpropError(
            "with its batch normalisations folded the model gives other outputs; leave them as they are, and prune "
            "the model itself"
        ) from error
    return folded


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of each layer whose only reader is a normalisation, and of that."""
    try:
        nodes = list(fx.symbolic_trace(model).graph.nodes)
    except Exception as error:  # whatever control flow raises
        raise FeedpropError(
            f"torch.fx cannot trace {type(model).__name__} ({error}), so its batch normalisations cannot be folded; "
            f"prune the model as it is"
        ) from error
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(modules[node.target] for node in nodes if node.op == "call_module")
    found = []
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = modules[str(before.target)], modules[node.target]
        once = calls[layer] == calls[norm] == 1
        if once and _NORMS.get(type(layer)) is type(norm) and norm.running_mean is not None:
            found.append((str(before.target), node.target))
    return found
