"""Normalisations and lookups.

In training they have their ordinary backward, statistics included. Conserving, the divisor is a constant, so that
reward is conserved (Achtibat et al. 2024, AttnLRP, prop. 3.4).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feedprop import credit
from feedprop.operations.products import product, quotient
from feedprop.operations.registry import (
    Arguments,
    Context,
    Function,
    Handler,
    Keywords,
    as_constant,
    damped,
    is_activation,
    operands_of,
    summed,
)

Flow = Callable[..., Tensor]  # of the input and the named arguments: the normalised input, divided by a constant


def layer(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass credit as `summed` does; the output is an activation even if it was computed from parameters alone."""
    _, args, kwargs = operands_of(context, args, kwargs)
    return damped(context, function(*args, **kwargs))


def normalisation(names: str, flow: Flow) -> Handler:
    """Return the handler of a normalisation with arguments of these names; `flow` divides by a constant."""

    def handle(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
        named = dict(zip(names.split(), args, strict=False)) | kwargs
        x, weight = named["input"], named.get("weight")
        if (
            not context.conserving
            or not is_activation(x)
            or not named.get("training", named.get("use_input_stats", True))
        ):
            return layer(context, function, args, kwargs)
        _, _, operands = operands_of(context, (), named)
        found = function(**operands | {"input": as_constant(context, x)})
        output, *statistics = (found,) if isinstance(found, Tensor) else found
        passing = flow(x, **{name: value for name, value in named.items() if name != "input"})
        if weight is not None:
            passing = passing * _along(weight.detach(), x, channels=function.__name__ not in OVER_LAST)
        output = damped(context, output + (passing - passing.detach()).to(output.dtype))
        return (output, *statistics) if statistics else output

    return handle


# their weights are over the last dimensions; those of the others are over channels
OVER_LAST = ("layer_norm", "rms_norm", "native_layer_norm")


def _along(weight: Tensor, x: Tensor, *, channels: bool) -> Tensor:
    return weight.view(-1, *(1,) * (x.dim() - 2)) if channels else weight


def _divided(x: Tensor, dims: tuple[int, ...], eps: float | None, *, centred: bool = True) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) with a constant root."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    x = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
    x = x - x.mean(dims, keepdim=True) if centred else x
    return x * (x.detach().square().mean(dims, keepdim=True) + eps).rsqrt()


def _over_last(x: Tensor, *, normalized_shape: Any, eps: float = 1e-5, **_: Any) -> Tensor:
    return _divided(x, tuple(range(-len(normalized_shape), 0)), eps)


def _root_mean_square(x: Tensor, *, normalized_shape: Any, eps: float | None = None, **_: Any) -> Tensor:
    return _divided(x, tuple(range(-len(normalized_shape), 0)), eps, centred=False)


def _over_groups(x: Tensor, *, num_groups: int, eps: float = 1e-5, **_: Any) -> Tensor:
    return _divided(x.reshape(len(x), num_groups, -1), (-1,), eps).view(x.shape)


def _over_positions(x: Tensor, *, eps: float = 1e-5, **_: Any) -> Tensor:
    return _divided(x, tuple(range(2, x.dim())), eps)


def _over_batch(x: Tensor, *, eps: float = 1e-5, **_: Any) -> Tensor:
    return _divided(x, (0, *range(2, x.dim())), eps)


_RUNNING = "input running_mean running_var weight bias"
_NAMES: dict[str, Handler] = {
    "layer_norm": normalisation("input normalized_shape weight bias eps cudnn_enable", _over_last),
    "rms_norm": normalisation("input normalized_shape weight eps", _root_mean_square),
    "group_norm": normalisation("input num_groups weight bias eps cudnn_enabled", _over_groups),
    "instance_norm": normalisation(f"{_RUNNING} use_input_stats momentum eps", _over_positions),
    "batch_norm": normalisation(f"{_RUNNING} training momentum eps", _over_batch),
}

_AS_TORCH = "input weight bias running_mean running_var"  # torch's own order of the arguments
NORMALISATIONS: dict[Function, Handler] = {
    **{getattr(functional, name): handler for name, handler in _NAMES.items()},
    **{getattr(torch, name): handler for name, handler in _NAMES.items()},
    torch.instance_norm: normalisation(f"{_AS_TORCH} use_input_stats momentum eps cudnn_enabled", _over_positions),
    torch.batch_norm: normalisation(f"{_AS_TORCH} training momentum eps cudnn_enabled", _over_batch),
    torch.native_batch_norm: normalisation(f"{_AS_TORCH} training momentum eps", _over_batch),
    torch.native_layer_norm: normalisation("input normalized_shape weight bias eps", _over_last),
    torch.native_group_norm: normalisation(
        "input weight bias N C HxW group eps", lambda x, *, group, **named: _over_groups(x, num_groups=group, **named)
    ),
}


_LOOKUPS = {  # function -> names of its arguments
    function: tuple(inspect.signature(function).parameters)
    for function in (functional.embedding, functional.embedding_bag)
}


def lookup(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Look up embeddings; with `max_norm`, first rescale the rows of the table in place, as torch does."""
    if function not in _LOOKUPS:  # torch.embedding has no max_norm
        return layer(context, function, args, kwargs)
    named = dict(zip(_LOOKUPS[function], args, strict=False)) | kwargs
    max_norm, weight = named.get("max_norm"), named["weight"]
    if max_norm is not None and isinstance(weight, Tensor):
        with torch.no_grad():
            indices = named["input"].contiguous().view(-1)
            torch.embedding_renorm_(weight.detach(), indices, max_norm, named.get("norm_type", 2.0))
        named["max_norm"] = None
        named["weight"] = credit.as_weight(weight, context.magnitude, copied=True)  # a later lookup rescales it again
        args, kwargs = (), named
    return layer(context, function, args, kwargs)


def unit_length(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass normalize(x) = x / |x|."""
    named = dict(zip(("input", "p", "dim", "eps"), args, strict=False)) | kwargs
    x = named["input"]
    if not context.conserving or not is_activation(x):
        return summed(context, function, args, kwargs)
    size = x.norm(named.get("p", 2.0), named.get("dim", 1), keepdim=True).clamp_min(named.get("eps", 1e-12))
    return quotient(context, torch.div, (x, size), {})


def cosine_similarity(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass cosine_similarity(a, b) = a b / (|a| |b|)."""
    if not context.conserving:
        return product(context, function, args, kwargs)
    named = {"dim": 1, "eps": 1e-8} | dict(zip(("x1", "x2", "dim", "eps"), args, strict=False)) | kwargs
    a, b, dim, eps = (named[name] for name in ("x1", "x2", "dim", "eps"))
    whole = torch.broadcast_tensors(as_constant(context, a), as_constant(context, b))  # type: ignore[no-untyped-call]  # torch has no types there
    size = [x.norm(dim=dim, keepdim=True).clamp_min(eps) for x in whole]
    return product(context, lambda a, b: (a / size[0] * (b / size[1])).sum(dim), (a, b), {})


def rescaled(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Multiply each x by a function of its neighbours (local response normalisation), a constant if conserving."""
    x = args[0] if args else kwargs["input"]
    if not context.conserving or not is_activation(x):
        return layer(context, function, args, kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "input"}
    return credit.secant(lambda z: function(z, *args[1:], **rest), x)
