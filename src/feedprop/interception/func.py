"""Models under torch.func: weights that are given in the place of parameters take feedback like those."""

from __future__ import annotations

from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.nn import Parameter

from feedprop import credit
from feedprop.errors import FeedpropError
from feedprop.interception.unsupported import refuse_flat_parameters

Places = list[tuple[dict[str, Any], str, Tensor]]


def swap_in(model: nn.Module, magnitude: credit.Magnitude) -> Places:
    """Put the uses of given weights in their places, and return these with what was there.

    torch.func.functional_call puts tensors where parameters are, for one call. Their gradient will be multiplied by
    their magnitude, as that of a parameter.
    """
    places: Places = []
    modules: list[Any] = [model]
    for module in modules:  # runs at every step; model.modules() takes longer
        modules += filter(None, module._modules.values())
        if "_is_fsdp_managed_module" in module.__dict__:
            refuse_flat_parameters(module)
        for name, weight in module._parameters.items():
            if type(weight) is not Parameter and not isinstance(weight, (Parameter, NoneType)):
                places.append((module._parameters, name, weight))
    uses: dict[int, Tensor] = {}
    for held, name, weight in places:
        if weight.requires_grad and not hasattr(weight, "_from_parameters"):
            if id(weight) not in uses:  # tied weights: one use of one tensor
                uses[id(weight)] = credit.weighted(weight, magnitude)
                uses[id(weight)]._from_parameters = True  # type: ignore[attr-defined]
            held[name] = uses[id(weight)]
    return places


def restore(places: Places) -> None:
    """Undo `swap_in`."""
    for held, name, weight in places:
        held[name] = weight


def refuse_hidden_gradients(model: nn.Module) -> None:
    """Raise where a transform of torch.func keeps from a forward pass what will be differentiated."""
    levels = [level.key().name for level in retrieve_all_functorch_interpreters()]
    if "Jvp" in levels:
        raise FeedpropError(
            "torch.func.jvp and jacfwd differentiate forwards, but credit travels backwards; use grad, vjp or jacrev"
        )
    if levels[-1:] == ["Vmap"] and any(_follows_gradient(weight) for weight in model.parameters()):
        raise FeedpropError(
            "torch.func.vmap inside a gradient hides which tensors are differentiated: write vmap(grad(...)) instead "
            "of grad(vmap(...)) or of backward() after vmap(...); for inference use torch.no_grad()"
        )


def _follows_gradient(weight: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(weight):
        if weight.requires_grad:
            return True
        weight = torch._C._functorch.get_unwrapped(weight)
    return weight.requires_grad
