"""What one_step requires of a model, each seen to be required."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import credit
from support.listed import CLASSES, Listed
from support.one_step import StepError, counted, one_step


class _Classifier(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.inner(x)))


class _Floored(nn.Linear):
    """A linear layer whose feedback is not proportional to |w|."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, credit.weighted(self.weight, credit.Magnitude(floor=1.0)))


class _Unused(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 6)
        self.unused = nn.Parameter(torch.ones(3))


class _Different(nn.Linear):
    calls = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + next(self.calls)


class _Unbounded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        if z.requires_grad:
            z.register_hook(lambda credit: credit / 0)
        return z


def _listed(inner: Callable[[], nn.Module]) -> Listed:
    return Listed("small", "here", lambda: _Classifier(inner()), lambda: {"x": torch.rand(5, 4)})


def test_what_is_right_passes() -> None:
    step = one_step(dataclasses.replace(_listed(lambda: nn.Linear(4, 6)), relu=True))
    assert (step.tensors, step.numbers, step.zero) == (4, 24 + 6 + 60 + 10, 0)
    assert (step.nodes, step.own) == (7, 2)  # twice addmm and t, one ReLU; two layers' weights


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (_Unused, "inner.unused is not reached"),
        (lambda: _Floored(4, 6, bias=False), "inner.weight: weights of 0 have feedback"),
        (lambda: _Different(4, 6), "attached, the model answers differently"),
        (lambda: _Unbounded(4, 6), "the feedback is not finite"),
    ],
    ids=["unused", "floored", "different", "unbounded"],
)
def test_what_is_not_right_is_said(inner: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(StepError, match=message):
        one_step(_listed(inner))


def test_a_network_that_is_not_of_relus_is_told_apart() -> None:
    listed = _listed(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    with pytest.raises(StepError, match=r"-\|w\| times the gradient"):
        one_step(dataclasses.replace(listed, relu=True))


def test_what_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedprop, "detach", lambda model: model)
    with pytest.raises(StepError, match=r"detach left a difference in \['._call_impl', '.forward'\]"):
        one_step(_listed(lambda: nn.Linear(4, 6)))


def test_a_hook_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = feedprop.detach

    def forgetful(model: nn.Module) -> nn.Module:
        model.inner.register_forward_hook(lambda *_: None)
        return plain(model)

    monkeypatch.setattr(feedprop, "detach", forgetful)
    with pytest.raises(StepError, match=r"detach left a difference in .*inner\._forward_hooks"):
        one_step(_listed(lambda: nn.Linear(4, 6)))


class _Foreign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *credit: Tensor) -> Tensor:
        return credit[0]


def test_a_node_that_is_neither_torchs_nor_feedprops_is_not_counted() -> None:
    with pytest.raises(StepError, match="nodes of"):
        counted([_Foreign.apply(torch.ones(2, requires_grad=True))])
