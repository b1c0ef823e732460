"""Treatments of functions with a product inside: of gates, of all elements, and products that are added at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.treatments import (
    Arguments,
    Context,
    Function,
    Keywords,
    elementwise_product,
    is_weight,
    ordinary,
    product,
    quotient,
    summed,
    used,
)


def matrix_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Treat a product of two, of which one is a weight or a constant, as the linear layer that it is; see `product`."""
    tensors = [value for value in _flat([*args, *kwargs.values()]) if _is_factor(value)]
    weights = [value for value in tensors if is_weight(value)] or [
        value for value in tensors if not value.requires_grad
    ]
    if len(tensors) != 2 or len(weights) != 1 or not any(value.requires_grad for value in tensors):
        return product(context, function, args, kwargs)
    (weight,) = weights
    inputs = tensors[0] if tensors[1] is weight else tensors[1]

    def operation(by_inputs: Tensor, by_weight: Tensor, _: None) -> Any:
        def put(value: Any) -> Any:
            if type(value) in (list, tuple):
                return type(value)([put(item) for item in value])
            return by_inputs if value is inputs else by_weight if value is weight else value

        return function(*put(args), **{name: put(value) for name, value in kwargs.items()})

    return context.rule(operation, inputs, weight, None, floor=context.magnitude_floor)


def _is_factor(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())  # not an index


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if type(value) in (list, tuple):
            yield from _flat(value)
        else:
            yield value


def product_of_elements(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Share the reward of prod or cumprod equally among the elements that were multiplied (AttnLRP, eq. 11)."""
    operands, args, kwargs = used(context, args, kwargs)
    output = function(*args, **kwargs)
    if operands.carriers == 0:
        return operands.mark(output)
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    x = args[0] if args else kwargs["input"]
    if output.shape != x.shape:
        return credit.scaled(output, 1 / (x.numel() if dim is None else x.shape[dim]))
    factors = torch.ones_like(x).cumsum(0 if dim is None else dim)
    return credit.scaled(output, 1 / factors)


def gated(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Treat glu(x) = a * sigmoid(b), the halves of x, as the product that it is."""
    x = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    if not x.requires_grad or is_weight(x):
        return ordinary(context, function, args, kwargs)
    value, gate = x.chunk(2, dim)
    opened = context.activation(torch.sigmoid, gate, at_zero=(0.5, 0.5))
    return elementwise_product(context, torch.mul, (value, opened), {})


def summed_with_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Treat addcmul(x, a, b, value=v) = x + v a b as a product and a sum."""
    x, a, b = _three(args, kwargs)
    part = elementwise_product(context, torch.mul, (a, b), {})
    return summed(context, torch.add, (x, part), {"alpha": kwargs.get("value", 1)})


def summed_with_quotient(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Treat addcdiv(x, a, b, value=v) = x + v a / b as a quotient and a sum."""
    x, a, b = _three(args, kwargs)
    return summed(context, torch.add, (x, quotient(context, torch.div, (a, b), {})), {"alpha": kwargs.get("value", 1)})


def _three(args: Arguments, kwargs: Keywords) -> list[Any]:
    return [*args, *(kwargs[name] for name in ("input", "tensor1", "tensor2")[len(args) :])]
