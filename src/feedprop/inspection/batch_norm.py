"""Batch norm as a part of the layer before it, as zennit's canonizers do: its offsets then share as biases do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from feedprop.diagnosis.trial import devices_of, tensors
from feedprop.errors import FeedpropError
from feedprop.rules.composite import LINEAR_LAYERS

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def merge_batch_norm(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Merge each batch norm into the linear or convolution layer whose output it takes; the norm then does nothing.

    The layer's weight becomes w gamma / sigma, its bias beta + (b - mean) gamma / sigma.

    Args:
        model: without rules; it runs twice without gradient.
        args: what it is called with.
        kwargs: likewise.

    Raises:
        FeedpropError: a batch norm uses the statistics of the batch, or what a layer returns is also used without its
            batch norm.
    """
    if any(isinstance(module, BATCH_NORMS) and module.training for module in model.modules()):
        raise FeedpropError("merge_batch_norm needs running statistics; call model.eval() before")
    pairs: dict[nn.Module, nn.Module] = {}
    before = _run(model, args, kwargs, pairs)
    for norm, layer in pairs.items():
        _merge(layer, norm)
    after = _run(model, args, kwargs, {})
    for one, other in zip(before, after, strict=True):
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()) if one.numel() else 0.0):
            raise FeedpropError(
                "merging batch norm would change what the model returns, since a layer's output is also used without "
                "its batch norm; call relevance() without merge_batch_norm"
            )


def _run(model: nn.Module, args: Any, kwargs: Any, pairs: dict[nn.Module, nn.Module]) -> list[Tensor]:
    """Run the model; add each batch norm with the layer that returned its input, by identity, just before."""
    latest: list[Any] = [None, None]

    def left(module: nn.Module, args: Any, result: Any) -> None:
        if isinstance(module, LINEAR_LAYERS) and (isinstance(module.weight, nn.Parameter) or prune.is_pruned(module)):
            latest[:] = module, result

    def entered(module: nn.Module, args: Any) -> None:
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None and args and args[0] is latest[1]:
            pairs[module] = latest[0]

    hooks: list[Any] = [module.register_forward_hook(left) for module in model.modules()]
    hooks += [module.register_forward_pre_hook(entered) for module in model.modules()]
    with torch.no_grad(), torch.random.fork_rng(devices=devices_of(model)):
        result = model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return [tensor.detach().clone() for tensor in tensors(result) if tensor.is_floating_point()]


def _merge(layer: Any, norm: Any) -> None:
    for name in ("weight", "bias"):
        if hasattr(layer, f"{name}_mask"):
            prune.remove(layer, name)  # type: ignore[no-untyped-call]  # torch's own
    offsets = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        weight, bias = fuse_linear_bn_weights(layer.weight, layer.bias, *offsets)
    else:
        transpose = isinstance(layer, _TRANSPOSED)
        weight, bias = fuse_conv_bn_weights(layer.weight, layer.bias, *offsets, transpose=transpose)
    layer.weight, layer.bias = weight, bias
    for name in ("weight", "bias"):
        norm.register_parameter(name, None)
    for name in ("running_mean", "running_var"):
        norm.register_buffer(name, None)
    norm.forward = _unchanged


def _unchanged(x: Tensor) -> Tensor:
    return x
