"""Fused attention, which stays one call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from feedprop import credit
from feedprop.operations.registry import Arguments, Context, Function, Keywords, damped, is_activation, operands_of

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def scaled_dot_product_attention(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Return softmax(q k^T / sqrt d + mask) v with the ordinary backward, times the share of each if conserving.

    Attention weights and values each get half of the reward, queries and keys each half of the former (Achtibat et al.
    2024, AttnLRP, eq. 11 and 15). A constant or a parameter leaves its share to the other factor.
    """
    operands, args, kwargs = operands_of(context, args, kwargs)
    named = dict(zip(_NAMES, args, strict=False)) | kwargs
    if context.conserving:
        named |= _shared(*(named.get(name) for name in ("query", "key", "value", "attn_mask", "is_causal")))
    output = function(**named)
    return operands.mark(output) if operands.yield_weight and not operands.constants else damped(context, output)


def _shared(query: Any, key: Any, value: Any, bias: Any, is_causal: Any) -> Keywords:
    masked = (bias is not None or is_causal) and (query.requires_grad or key.requires_grad)
    at_logits = masked or any(map(is_activation, (query, key, bias)))
    half = 0.5 if at_logits and is_activation(value) else 1.0
    quarter = half / 2 if is_activation(query) and is_activation(key) else half
    shares = {"query": quarter, "key": quarter, "attn_mask": half, "value": half}
    factors = {"query": query, "key": key, "attn_mask": bias, "value": value}
    return {
        name: credit.scaled(factor, shares[name])
        for name, factor in factors.items()
        if isinstance(factor, Tensor) and factor.requires_grad
    }
