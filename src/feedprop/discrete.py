"""Building blocks without a useful derivative: steps, signs, quantisation, hard selection, discrete weights.

Each is a function on tensors and a module, and trains as it is in an attached model. So do `(z > 0).float()`,
`torch.sign(z)`, `torch.where(z > 0, 1.0, -1.0)` and `torch.round(z)`: these are names for them.
Discrete weights are parametrizations of real (latent) weights:

>>> layer = nn.utils.parametrize.register_parametrization(nn.Linear(2, 1), "weight", BinaryWeight())
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from feedprop.errors import FeedpropError, non_negative
from feedprop.operations.dispatch import listened_to
from feedprop.operations.registry import Arguments, Context, Function, Keywords, register, summed

__all__ = [
    "BinaryWeight",
    "Quantize",
    "QuantizedWeight",
    "Round",
    "Sign",
    "Step",
    "Ternary",
    "TopOne",
    "quantize",
    "sign",
    "step",
    "ternary",
    "top_one",
]


def step(z: Tensor) -> Tensor:
    """Return 1 where z > 0, else 0."""
    return (z > 0).to(z.dtype)


def sign(z: Tensor) -> Tensor:
    """Return +1 where z > 0, else -1."""
    return torch.where(z > 0, 1.0, -1.0).to(z.dtype)


def ternary(z: Tensor, threshold: float = 0.5) -> Tensor:
    """Return +1 where z > threshold, -1 where z < -threshold, else 0: two steps, so that credit passes between too."""
    return (z > threshold).to(z.dtype) - (z < -threshold).to(z.dtype)


def quantize(z: Tensor, bits: int = 2) -> Tensor:
    """Return z clamped to [0, 1] and rounded to 2^bits equidistant levels (DoReFa, Zhou et al. 2016, eq. 5)."""
    steps: int = 2**bits - 1
    return torch.round(z.clamp(0, 1) * steps) / steps


def top_one(scores: Tensor) -> Tensor:
    """Return the maximum along the last dimension, one-hot: hard attention, top-1 routing.

    Credit passes as through a step of the margin between a score and its best rival, so that the losers learn too.

    Args:
        scores: (..., n) with n >= 2.
    """
    if listened_to(scores):
        output: Tensor = handle_torch_function(top_one, (scores,), scores)
        return output
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


@register(top_one)
def _top_one(context: Context, function: Function, args: Arguments, kwargs: Keywords) -> Tensor:
    (scores,) = args
    selected = top_one(scores.detach())
    largest, second = scores.topk(2, dim=-1).values.split(1, dim=-1)
    margin = summed(context, torch.sub, (scores, torch.where(selected > 0, second, largest)), {})

    def phi(values: Tensor) -> Tensor:
        """1 where a score beats its rival; a tie, or NaN, as `top_one` decided it."""
        return torch.where(values > 0, 1.0, torch.where(values < 0, 0.0, selected)).to(selected.dtype)

    return context.activation(phi, margin, at_zero=(0.0, 1.0))


class Step(nn.Module):
    """1 where z > 0, else 0."""

    def forward(self, z: Tensor) -> Tensor:
        return step(z)


class Sign(nn.Module):
    """+1 where z > 0, else -1."""

    def forward(self, z: Tensor) -> Tensor:
        return sign(z)


class Round(nn.Module):
    """The nearest integer."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.round(z)


class Ternary(nn.Module):
    """+1 above `threshold`, -1 below -`threshold`, else 0.

    Args:
        threshold: >= 0.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = non_negative("threshold", threshold)

    def forward(self, z: Tensor) -> Tensor:
        return ternary(z, self.threshold)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


class Quantize(nn.Module):
    """2^bits equidistant levels in [0, 1].

    Args:
        bits: 1 to 16.
    """

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        self.bits = _bits(bits)

    def forward(self, z: Tensor) -> Tensor:
        return quantize(z, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class TopOne(nn.Module):
    """The maximum along the last dimension, one-hot."""

    def forward(self, scores: Tensor) -> Tensor:
        return top_one(scores)


class BinaryWeight(nn.Module):
    """Parametrization: sign of the latent weight times their mean size (Rastegari et al. 2016, eq. 6, per layer).

    The latent weight receives the feedback of the binary one: a rewarded weight moves away from 0, a punished one
    towards the other sign.
    """

    def forward(self, weight: Tensor) -> Tensor:
        return torch.sign(weight) * weight.detach().abs().mean()


class QuantizedWeight(nn.Module):
    """Parametrization: latent weights rounded to 2^bits - 1 levels, symmetric around 0, up to the largest of the layer.

    Args:
        bits: 2 to 16.
    """

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.bits = _bits(bits, least=2)

    def forward(self, weight: Tensor) -> Tensor:
        largest: int = 2 ** (self.bits - 1) - 1
        width = weight.detach().abs().amax().clamp(min=1e-12) / largest
        return torch.round(weight / width) * width


def _bits(bits: int, *, least: int = 1) -> int:
    if not isinstance(bits, int) or not least <= bits <= 16:
        raise FeedpropError(f"bits must be a whole number from {least} to 16, not {bits!r}")
    return bits
