"""Products: of two activations, by a weight, gates, powers, quotients, and products that are added at once.

In training, every factor has its ordinary backward, as if the others were constants. If `context.conserving`, the
activations among the factors share the reward equally, and divisors are constants (Achtibat et al. 2024, AttnLRP).
Parameters get feedback and never a share in both cases.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feedprop import credit
from feedprop.credit import marks
from feedprop.errors import FeedpropError
from feedprop.operations.registry import (
    Arguments,
    Context,
    Function,
    Keywords,
    as_constant,
    damped,
    flat,
    is_activation,
    operands_of,
    ordinary,
    shared,
    summed,
    without_gradient,
)


def product(context: Context, function: Function, args: Arguments, kwargs: Keywords, *, adds: bool = True) -> Any:
    """Multiply; `adds` says that products are added up (matmul, einsum), so the sum is damped."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    if context.conserving and operands.activations > 1:
        factors = shared(context, (*args, *kwargs.values()))
        args, kwargs = factors[: len(args)], dict(zip(kwargs, factors[len(args) :], strict=True))
    output = function(*args, **kwargs)
    if operands.yield_weight and (not operands.constants or not adds):
        return operands.mark(output)
    return damped(context, output) if adds or operands.weights else output


def elementwise_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Multiply elementwise: nothing is added up, so only a product with a parameter, a linear layer, is damped."""
    output = product(context, function, args, kwargs, adds=False)
    if any(type(factor) in (int, float) and factor == 1 for factor in (*args, *kwargs.values())):
        context.starts.carry((*args, *kwargs.values()), output)  # the same values: a reward on a 0 finds its start
    return output


def quotient(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Divide; conserving, the numerator gets all of the reward (AttnLRP, identity rule of normalisations)."""
    if kwargs.get("rounding_mode") is not None:
        return rounded_quotient(context, function, args, kwargs)
    names = [name for name in ("input", "other") if name in kwargs]
    numerator, denominator, *rest = (*args, *(kwargs.pop(name) for name in names))
    if context.conserving and isinstance(denominator, Tensor) and not credit.is_weight(denominator):
        denominator = as_constant(context, denominator)
    return elementwise_product(context, function, (numerator, denominator, *rest), kwargs)


def rounded_quotient(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Divide and round, a // b or div(a, b, rounding_mode="trunc"), as a quotient and a step function of it."""
    numerator, denominator = (*args, *(kwargs[name] for name in ("input", "self", "other") if name in kwargs))[:2]
    if function.__name__ == "__rfloordiv__":
        numerator, denominator = denominator, numerator
    if not any(isinstance(x, Tensor) and x.requires_grad for x in (numerator, denominator)):
        return function(*args, **kwargs)
    rounded = torch.trunc if kwargs.get("rounding_mode") == "trunc" else torch.floor
    passing = context.decompose(lambda: rounded(torch.div(numerator, denominator)))
    return _through(function, args, kwargs, passing)


def solution(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Solve A x = b; conserving, b gets all of the reward, as the numerator of a quotient does."""
    names = [name for name in ("A", "input", "B") if name in kwargs]
    matrix, right, *rest = (*args, *(kwargs.pop(name) for name in names))
    if context.conserving and not credit.is_weight(matrix):
        matrix = as_constant(context, matrix)
    return product(context, function, (matrix, right, *rest), kwargs)


def power(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Raise to a power; conserving, credit passes by x^n / x, as by a product x x ... x, and not at all if n <= 0."""
    x, *rest = (*args, *(kwargs[name] for name in ("input", "exponent") if name in kwargs))
    exponent = rest[0] if rest else EXPONENTS[function.__name__]
    if not context.conserving or not is_activation(x):
        output = ordinary(context, function, args, kwargs)
        if function.__name__ in ("square", "sqrt", "rsqrt"):
            marks.mark_non_negative(output)
        return output
    if isinstance(exponent, Tensor) and exponent.numel() == 1 and not exponent.requires_grad:
        exponent = exponent.item()
    if isinstance(exponent, Tensor) and exponent.requires_grad:
        return elementwise_product(context, function, args, kwargs)
    if not isinstance(exponent, Tensor) and exponent <= 0:
        return function(as_constant(context, x), *rest)  # a scale, as what divides
    return credit.secant(lambda z: function(z, *rest), x)


EXPONENTS = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}


def linear(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Apply the rule of the weight to function(input, weight, bias, ...); a "weight" with credit makes it a product."""
    if len(args) >= 3:
        inputs, weight, bias, *rest = args
        named = kwargs
    else:
        named = dict(zip(("input", "weight"), args, strict=False)) | kwargs
        inputs, weight, bias, rest = named.pop("input"), named.pop("weight"), named.pop("bias", None), []

    def operation(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return function(inputs, weight, bias, *rest, **named)

    inputs = credit.as_weight(inputs, context.magnitude)
    if weight.requires_grad and not credit.is_weight(weight):
        bias = None if bias is None else credit.as_weight(bias, context.magnitude)
        inputs, weight = shared(context, (inputs, weight))
        return damped(context, operation(inputs, weight, bias))
    return context.rule_of(weight)(operation, inputs, weight, bias, context.magnitude)


def deformable(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Apply the rule of the weight to a deformable convolution; its mask is a factor of the input."""
    inputs, weight, offset, mask, bias, *rest = args
    inputs, mask = shared(context, (inputs, credit.as_weight(mask, context.magnitude)))
    offset = credit.as_weight(offset, context.magnitude)

    def operation(by_inputs: Tensor, by_weight: Tensor, bias: Tensor | None) -> Any:
        used, given = (by_inputs, inputs) if inputs.requires_grad else (by_weight, weight)
        once = used.requires_grad == given.requires_grad  # a rule may call it for weights and inputs separately
        further = (offset, mask) if once else (offset.detach(), mask.detach())
        bias = by_weight.new_zeros(len(by_weight)) if bias is None else bias
        return function(by_inputs, by_weight, *further, bias, *rest, **kwargs)

    return linear(context, operation, (inputs, weight, bias), {})


_ADDED = ("input", "mat", "mat1", "batch1", "vec1", "vec", "mat2", "batch2", "vec2")  # in positional order


def added_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass function(bias, input, weight) = bias + input @ weight (addmm and its like) as a linear operation."""
    named = [kwargs[name] for name in _ADDED if name in kwargs]
    bias, inputs, weight, *rest = *args, *named
    kwargs = {name: value for name, value in kwargs.items() if name not in _ADDED}

    def operation(a: Tensor, w: Tensor, b: Tensor | None) -> Any:
        return function(a.new_zeros(()) if b is None else b, a, w, *rest, **kwargs)

    return linear(context, operation, (inputs, weight, bias), {})


def sampled_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass torch.sparse.sampled_addmm(c, a, b), which is c + a @ b where c has entries, as a product and a sum."""
    sparse, *factors = (*args, *(kwargs.pop(name) for name in ("input", "mat1", "mat2") if name in kwargs))
    if any(credit.is_weight(factor) for factor in factors):
        raise FeedpropError(
            "no rule says how credit passes torch.sparse.sampled_addmm with a weight; write (a @ b) * mask with a "
            "dense mask"
        )
    added = credit.as_weight(sparse, context.magnitude)
    return damped(context, function(added, *shared(context, tuple(factors)), **kwargs))


def matrix_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass a product of two tensors as a linear layer if one is a weight or constant; else as a `product`."""
    tensors = [value for value in flat([*args, *kwargs.values()]) if _is_factor(value)]
    weights = [value for value in tensors if credit.is_weight(value)] or [
        value for value in tensors if not value.requires_grad
    ]
    if len(tensors) != 2 or len(weights) != 1 or not any(value.requires_grad for value in tensors):
        return product(context, function, args, kwargs)
    (weight,) = weights
    if not weight.requires_grad and weight.is_complex():
        return product(context, function, args, kwargs)  # a constant that no rule can modify
    inputs = tensors[0] if tensors[1] is weight else tensors[1]

    def operation(by_inputs: Tensor, by_weight: Tensor, _: None) -> Any:
        def put(value: Any) -> Any:
            if type(value) in (list, tuple):
                return type(value)([put(item) for item in value])
            return by_inputs if value is inputs else by_weight if value is weight else value

        return function(*put(args), **{name: put(value) for name, value in kwargs.items()})

    return context.rule_of(weight)(operation, inputs, weight, None, context.magnitude)


def _is_factor(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())  # not an index


def product_of_elements(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Multiply the elements of a tensor: prod, cumprod."""
    operands, args, kwargs = operands_of(context, args, kwargs)
    output = function(*args, **kwargs)
    if operands.activations == 0:
        return operands.mark(output)
    if not context.conserving:
        return output
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    x = args[0] if args else kwargs["input"]
    if output.shape != x.shape:
        return credit.scaled(output, 1 / (x.numel() if dim is None else x.shape[dim]))
    factors = torch.ones_like(x).cumsum(0 if dim is None else dim)
    return credit.scaled(output, 1 / factors)


def interpolated(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass lerp(a, b, w) as a sum; if w is an activation, as the product and sums a + w (b - a)."""
    a, b, gate = (*args, *(kwargs[name] for name in ("input", "end", "weight")[len(args) :]))
    if not is_activation(gate):
        return summed(context, function, args, kwargs)
    passing = context.decompose(lambda: a + gate * (b - a))
    return credit.with_values(function(a.detach(), b.detach(), gate.detach()), passing)


def gated(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass glu(x) = a * sigmoid(b), with a and b the halves of x, as a product and a sigmoid."""
    x = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    if not x.requires_grad or credit.is_weight(x):
        return ordinary(context, function, args, kwargs)
    value, gate = x.chunk(2, dim)
    opened = context.activation(torch.sigmoid, gate, at_zero=(0.5, 0.5))
    passing = elementwise_product(context, torch.mul, (value, opened), {})
    return _through(function, args, kwargs, passing)


def summed_with_product(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass addcmul(x, a, b, value=v) = x + v a b as a product and a sum."""
    x, a, b = _three(args, kwargs)
    part = context.decompose(torch.mul, a, b)
    passing = summed(context, torch.add, (x, part), {"alpha": kwargs.get("value", 1)})
    return _through(function, args, kwargs, passing)


def summed_with_quotient(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Pass addcdiv(x, a, b, value=v) = x + v a / b as a quotient and a sum."""
    x, a, b = _three(args, kwargs)
    part = context.decompose(torch.div, a, b)
    passing = summed(context, torch.add, (x, part), {"alpha": kwargs.get("value", 1)})
    return _through(function, args, kwargs, passing)


def _through(function: Function, args: Arguments, kwargs: Keywords, passing: Tensor) -> Tensor:
    """Return the value of a call; credit goes through `passing`, the same value computed in parts."""
    return credit.with_values(function(*without_gradient(args), **without_gradient(kwargs)), passing)


def _three(args: Arguments, kwargs: Keywords) -> list[Any]:
    return [*args, *(kwargs[name] for name in ("input", "tensor1", "tensor2")[len(args) :])]
