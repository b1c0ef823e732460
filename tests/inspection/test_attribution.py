"""Relevance through the interfaces of captum and Quantus."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from feedprop import relevance, rules
from feedprop.inspection.attribution import Attribution, quantus_explain_func

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.usefixtures("float64")


class Two(nn.Module):
    """A ReLU network of two inputs without biases, whose outputs are (batch, *shape); scaled by a further argument."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 6, bias=False), nn.Linear(2, 6, bias=False)
        self.answer = nn.Sequential(nn.ReLU(), nn.Linear(6, int(np.prod(shape)), bias=False), nn.Unflatten(1, shape))

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.answer(self.one(x) + self.other(y)) * scale


TARGETS = {
    "class": ((4,), 2),
    "tensor": ((4,), torch.tensor([1])),
    "classes": ((4,), torch.tensor([0, 3, 1, 2, 0])),
    "list": ((4,), [0, 3, 1, 2, 0]),
    "tuple": ((2, 3), (1, 2)),
    "tuples": ((2, 3), [(0, 0), (1, 2), (0, 1), (1, 0), (1, 1)]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_mean_what_they_mean_in_captum(name: str) -> None:
    shape, target = TARGETS[name]
    model, inputs = Two(*shape), (torch.randn(5, 3), torch.randn(5, 2))
    followed = tuple(one.clone().requires_grad_() for one in inputs)
    expected = captum.InputXGradient(model).attribute(followed, target, additional_forward_args=2.5)
    found = Attribution(model).attribute(inputs, target, 2.5)  # the same, for LRP-0 on a ReLU network
    assert isinstance(found, tuple)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach())


def test_relevance_is_that_of_captum() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    inputs = torch.randn(3, 5)
    theirs = captum.LRP(model)
    found = Attribution(model, rules.Epsilon(1e-9))
    assert found.has_convergence_delta() == theirs.has_convergence_delta()
    expected = theirs.attribute(inputs.clone().requires_grad_(), target=1)  # which has an epsilon of 1e-9
    share, delta = found.attribute(inputs, 1, return_convergence_delta=True)
    torch.testing.assert_close(share, expected.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(delta, share.sum(1) - model(inputs)[:, 1].detach())


def test_quantus_gets_arrays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).float().eval()
    inputs, targets = np.random.default_rng(0).normal(size=(4, 1, 4, 4)), np.array([0, 2, 1, 1])
    found = quantus_explain_func(
        model, inputs, targets, composite=rules.Gamma(), device="cpu", method="LRP", normalise=True
    )
    expected = relevance(model, torch.tensor(inputs).float(), torch.tensor(targets), rules.Gamma()).inputs
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.numpy())
