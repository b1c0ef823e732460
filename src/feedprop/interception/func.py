"""Models under torch.func: tensors that are swapped in for parameters get feedback, as parameters do."""

from __future__ import annotations

from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.nn import Parameter

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.interception.unsupported import refuse_flat_parameters

Places = list[tuple[dict[str, Any], str, Tensor]]


def swap_in(model: nn.Module, magnitude: credit.Magnitude) -> Places:
    """Replace each tensor that stands for a parameter by its `weighted` view. Returns what was replaced, and where.

    torch.func.functional_call puts such tensors in `_parameters` for one call.
    """
    places: Places = []
    modules: list[Any] = [model]
    for module in modules:  # at every step, so not model.modules(), which is slower
        modules += [child for child in module._modules.values() if child is not None]
        if "_is_fsdp_managed_module" in module.__dict__:
            refuse_flat_parameters(module)
        for name, weight in module._parameters.items():
            if type(weight) is not Parameter and not isinstance(weight, (Parameter, NoneType)):
                places.append((module._parameters, name, weight))
    uses: dict[int, Tensor] = {}
    for held, name, weight in places:
        if weight.requires_grad and not credit.is_weight(weight):
            if id(weight) not in uses:  # tied weights are one tensor, which is weighted once
                uses[id(weight)] = marks.mark_weight(credit.weighted(weight, magnitude))
            held[name] = uses[id(weight)]
    return places


def restore(places: Places) -> None:
    """Undo `swap_in`."""
    for held, name, weight in places:
        held[name] = weight


def refuse_hidden_gradients(model: nn.Module) -> None:
    """Raise if a transform of torch.func hides from the pass which tensors will be differentiated."""
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
