"""The masks of `torch.nn.utils.prune`: a masked weight is 0, whatever its parameter `weight_orig` holds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module of a parameter, and the name of the weight that it computes: "weight" for `weight_orig`."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    weight, _, kind = own.rpartition("_")
    return module, weight if kind == "orig" and hasattr(module, f"{weight}_mask") else own


def values(model: nn.Module, name: str) -> Tensor:
    """Return a parameter as the model uses it: 0 where it is masked."""
    weight = model.get_parameter(name).detach()
    held = held_at_zero(model, name)
    return weight if held is None else weight.masked_fill(held, 0)


def held_at_zero(model: nn.Module, name: str) -> Tensor | None:
    """Return where a mask holds a parameter at 0, or None if it has no mask."""
    module, own = owner(model, name)
    mask = getattr(module, f"{own}_mask", None)
    return None if mask is None or name.rpartition(".")[2] == own else mask == 0


def refresh(model: nn.Module, names: Iterable[str]) -> None:
    """Compute the masked weights of these parameters again; otherwise that happens in the next forward pass alone."""
    for name in names:
        module, own = owner(model, name)
        if held_at_zero(model, name) is not None:
            weight = model.get_parameter(name)
            with torch.enable_grad():
                setattr(module, own, getattr(module, f"{own}_mask").to(weight.dtype) * weight)


def make_permanent(model: nn.Module) -> nn.Module:
    """Write all masks into the weights, as `torch.nn.utils.prune.remove` does. Returns `model`."""
    for module in model.modules():
        for name in [name.rpartition("_")[0] for name, _ in module.named_buffers(recurse=False)]:
            if hasattr(module, f"{name}_orig") and hasattr(module, f"{name}_mask"):
                prune.remove(module, name)  # type: ignore[no-untyped-call]  # torch's own
    return model
