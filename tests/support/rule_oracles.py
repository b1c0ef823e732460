"""The rules of Layer-wise Relevance Propagation as plain loops over connections, in rewards; shares no code with src.

A rule gives each contribution to an output j a count: that of an input a_i through w_ij, or of the bias b_j (a_i = 1).
The reward is shared in proportion, r_(i<-j) = counts_ij / (sum_i counts_ij) r_j; feedback is sign(w_ij) r_(i<-j).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from support import oracles
from support.oracles import stabilised

Contribution = tuple[float, float]  # a_i, w_ij
Share = Callable[[list[Contribution], list[bool]], list[float]]  # contributions, which is a bias -> share of each


def _proportional(counts: list[float], epsilon: float) -> list[float]:
    total = stabilised(math.fsum(counts), epsilon)
    return [count / total if total else 0.0 for count in counts]


def epsilon(epsilon: float) -> Share:
    return lambda parts, _: _proportional([a * w for a, w in parts], epsilon)


def gamma(gamma: float, epsilon: float = 1e-6) -> Share:
    """Contributions with the sign of z_j count 1 + gamma times."""

    def share(parts: list[Contribution], _: list[bool]) -> list[float]:
        z = math.fsum(a * w for a, w in parts)
        counts = [a * w * (1 + gamma if a * w * z > 0 else 1) for a, w in parts]
        return _proportional(counts, epsilon) if z else [0.0] * len(parts)

    return share


def alpha_beta(alpha: float, beta: float, epsilon: float = 1e-6) -> Share:
    def share(parts: list[Contribution], _: list[bool]) -> list[float]:
        positive = _proportional([max(a * w, 0.0) for a, w in parts], epsilon)
        negative = _proportional([min(a * w, 0.0) for a, w in parts], epsilon)
        return [alpha * p - beta * n for p, n in zip(positive, negative, strict=True)]

    return share


def w_square(epsilon: float = 1e-6) -> Share:
    return lambda parts, _: _proportional([w * w for _, w in parts], epsilon)


def flat(epsilon: float = 1e-6) -> Share:
    return lambda _, bias: _proportional([0.0 if is_bias else 1.0 for is_bias in bias], epsilon)


def z_box(low: float, high: float, epsilon: float = 1e-6) -> Share:
    """A contribution counts a w - low max(w, 0) - high min(w, 0); biases take nothing."""

    def share(parts: list[Contribution], bias: list[bool]) -> list[float]:
        counts = [a * w - low * max(w, 0.0) - high * min(w, 0.0) for a, w in parts]
        return _proportional([0.0 if is_bias else c for c, is_bias in zip(counts, bias, strict=True)], epsilon)

    return share


def backward(layer: nn.Module, inputs: Tensor, rewards: Tensor, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the rewards of the inputs and the feedback of weight and bias."""
    linear = oracles.Linear(layer, tuple(inputs.shape[1:]))
    feedback = {"weight": [0.0] * len(linear.weight), "bias": [0.0] * len(linear.bias or [])}
    rows = []
    for a, r in zip(inputs.flatten(1).tolist(), rewards.flatten(1).tolist(), strict=True):
        row = [0.0] * len(a)
        for j in range(len(r)):
            reached = [(i, k) for i, output, k in linear.connections if output == j]
            parts = [(a[i], linear.weight[k]) for i, k in reached]
            if linear.bias:
                parts.append((1.0, linear.bias[linear.bias_of[j]]))
            shares = share(parts, [False] * len(reached) + [True] * bool(linear.bias))
            for (i, k), proportion in zip(reached, shares, strict=False):
                row[i] += proportion * r[j]
                feedback["weight"][k] += (1 if linear.weight[k] >= 0 else -1) * proportion * r[j]
            if linear.bias:
                b = linear.bias_of[j]
                feedback["bias"][b] += (1 if linear.bias[b] >= 0 else -1) * shares[-1] * r[j]
        rows.append(row)
    named = dict(layer.named_parameters())
    return torch.tensor(rows).view(inputs.shape), {
        name: torch.tensor(feedback[name]).view_as(p) for name, p in named.items()
    }
