"""Models under torch.func: tensors that are swapped in for parameters get feedback, as parameters do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import GradInterpreter, retrieve_all_functorch_interpreters
from torch.nn import Parameter

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.interception.scopes import Owner, sharing
from feedprop.interception.unsupported import refuse_flat_parameters

Places = list[tuple[dict[str, Any], str, Tensor]]


def swap_in(
    model: nn.Module, magnitude: credit.Magnitude, owner_of: Callable[[nn.Module], Owner | None] | None = None
) -> Places:
    """Replace each tensor that stands for a parameter by its `weighted` view. Returns what was replaced, and where.

    torch.func.functional_call puts such tensors in `_parameters` for one call.

    Args:
        model: whose parameters are looked at.
        magnitude: what the credit of the tensors is multiplied by.
        owner_of: tells which owner a module is, if modules have rules of their own.
    """
    places: Places = []
    given: dict[int, list[Owner]] = {}  # id of a tensor -> the owners of the modules that have it
    modules: list[Any] = [model]
    for module in modules:  # at every step, so not model.modules(), which is slower
        modules += [child for child in module._modules.values() if child is not None]
        if "_is_fsdp_managed_module" in module.__dict__:
            refuse_flat_parameters(module)
        for name, weight in module._parameters.items():
            if type(weight) is not Parameter and not isinstance(weight, (Parameter, NoneType)):
                places.append((module._parameters, name, weight))
                if owner_of is not None and (owner := owner_of(module)) is not None:
                    given.setdefault(id(weight), []).append(owner)
    uses: dict[int, Tensor] = {}
    for held, name, weight in places:
        if weight.requires_grad and not credit.is_weight(weight):
            if id(weight) not in uses:  # tied weights are one tensor, which is weighted once
                owners = tuple(sharing(given[id(weight)])) if id(weight) in given else True
                uses[id(weight)] = marks.mark_weight(credit.weighted(weight, magnitude), owners)
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


_INSIDE = {  # the kind of a transform -> its names, and what to do instead
    "Jvp": ("torch.func.jvp or jacfwd", "take the derivative by torch.autograd.grad, without create_graph"),
    "Grad": ("torch.func.grad, vjp or jacrev", "take the derivative by torch.autograd.grad, without create_graph"),
    "Vmap": ("torch.func.vmap", "call its function on the whole batch, or in a loop whose results are stacked"),
}


def refuse_transforms_inside(outside: int, values: Iterable[Any]) -> None:
    """Raise if a transform of torch.func inside of a model hides tensors that get feedback or carry credit.

    Args:
        outside: the number of transforms around the model.
        values: the arguments of a function that is called inside of the transform.
    """
    inside = retrieve_all_functorch_interpreters()[outside:]
    if not next((level.prev_grad_mode() for level in inside if isinstance(level, GradInterpreter)), True):
        return  # called under torch.no_grad()
    if any(isinstance(value, Tensor) and _unwrapped(value, outside).requires_grad for value in values):
        kinds = {level.key().name for level in inside}
        names, remedy = next(
            (told for kind, told in _INSIDE.items() if kind in kinds), ("a transform of torch.func", "do without it")
        )
        raise FeedpropError(
            f"{names} inside of an attached model hides from the rules what it computes, so it would pass plain "
            f"gradients: {remedy}, detach what it is given, or take the gradient of all such parts by "
            f'attach(model, unknown="gradient")'
        )


def _unwrapped(tensor: Tensor, outside: int) -> Tensor:
    """Return the tensor as it is outside of the transforms beyond the first `outside` ones."""
    while torch._C._functorch.maybe_get_level(tensor) > outside:
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
