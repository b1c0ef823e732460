"""Refuses modules that use parameters where no rule sees it, and hooks that compute gradients of their own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from feedprop.errors import FeedpropError

_REFUSED = {
    "FullyShardedDataParallel": "shard with torch.distributed.fsdp.fully_shard instead, which keeps them as they are",
    "SyncBatchNorm": "use nn.BatchNorm2d and its like, or a normalisation that needs no other samples",
    "ScriptModule": "attach the model that it was made from, and script or trace after detach",
    "DataParallel": "use torch.nn.parallel.DistributedDataParallel instead",
}

# Packages that compute gradients of weights from what their hooks see: a layer's inputs, and what comes back to it
_FROM_HOOKS = {"opacus", "fastDP", "backpack", "curvlinops", "kfac", "singd", "asdl", "asdfghjkl", "nngeometry"}


def refuse_unsupported(model: nn.Module) -> None:
    """Raise if `model` contains sparse parameters, or modules or hooks of which the rules do not see what they do."""
    refuse_gradients_from_hooks(model)
    for name, parameter in model.named_parameters():
        if parameter.layout is not torch.strided:
            raise FeedpropError(
                f"{name} is a parameter of layout {parameter.layout}, but feedback is |w| times credit for dense ones: "
                f"make its values a dense nn.Parameter, and build the matrix inside of forward() by "
                f"torch.sparse_coo_tensor(indices, values, shape)"
            )
    for path, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith("torch.") and kind.__name__ in _REFUSED:
                raise FeedpropError(_hides(f"{kind.__name__} ({path or 'the model itself'})", kind.__name__))


def refuse_gradients_from_hooks(model: nn.Module) -> None:
    """Raise if a package computes gradients of weights from what its hooks see, which is credit under rules."""
    for path, module in model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._backward_hooks.values()):
            package = _package(hook)
            if package in _FROM_HOOKS:
                raise FeedpropError(
                    f"{package} computes gradients of weights from its hooks on {path or 'the model'}; under rules, "
                    f"they see credit, and what they make of it is neither feedback nor a gradient: use "
                    f"{package} without attach, or take feedback per sample by torch.func.vmap(torch.func.grad(...))"
                )


def _package(hook: Any) -> str:
    """Return the name of the package that a hook is from, which may be a method or a partial function."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", None) or "").partition(".")[0]


def refuse_flat_parameters(module: nn.Module) -> None:
    """Raise if FullyShardedDataParallel has replaced parameters by pieces of a flat one."""
    flat = [value for value in vars(module).values() if isinstance(value, Tensor) and value.requires_grad]
    if flat or any(hasattr(weight, "_is_flat_param") for weight in module._parameters.values()):
        raise FeedpropError(_hides("FullyShardedDataParallel", "FullyShardedDataParallel"))


def _hides(what: str, kind: str) -> str:
    return (
        f"{what} uses parameters where the rules cannot see it, so that they would get plain gradients; "
        f"{_REFUSED[kind]}"
    )
