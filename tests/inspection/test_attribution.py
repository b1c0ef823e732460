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
    "integer of numpy": ((4,), np.int64(2)),
    "list of tensors": ((4,), list(torch.tensor([0, 3, 1, 2, 0]))),
    "tuple": ((2, 3), (1, 2)),
    "tuples": ((2, 3), [(0, 0), (1, 2), (0, 1), (1, 0), (1, 1)]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_mean_what_they_mean_in_captum(name: str) -> None:
    shape, target = TARGETS[name]
    model, inputs = Two(*shape), (torch.randn(5, 3), torch.randn(5, 2))
    followed = tuple(one.clone().requires_grad_() for one in inputs)
    theirs = [int(one) for one in target] if name == "list of tensors" else target
    theirs = int(target) if isinstance(target, np.integer) else theirs
    expected = captum.InputXGradient(model).attribute(followed, theirs, additional_forward_args=2.5)
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
    torch.testing.assert_close(delta, model(inputs)[:, 1].detach() - share.sum(1))


def test_the_arguments_and_the_delta_are_those_of_captum(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    inputs, (theirs, ours) = torch.randn(3, 5), (captum.LRP(model), Attribution(model, rules.Epsilon(1e-9)))
    expected = theirs.attribute(inputs.clone().requires_grad_(), 1, None, True, False)
    found = ours.attribute(inputs, 1, None, True, False)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.compute_convergence_delta(found[0], model(inputs)[:, 1]).detach(), found[1])
    assert capsys.readouterr().out == ""
    ours.attribute(inputs, 1, verbose=True)
    assert "Epsilon(epsilon=1e-09)" in capsys.readouterr().out
    with torch.no_grad():
        torch.testing.assert_close(ours.attribute(inputs, 1), found[0])
    assert ours.multiplies_by_inputs


def test_a_noise_tunnel_of_captum_goes_through_it() -> None:
    model, inputs = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(3, 5)
    tunnels = [captum.NoiseTunnel(one) for one in (captum.LRP(model), Attribution(model, rules.Epsilon(1e-9)))]
    found = []
    for tunnel in tunnels:
        torch.manual_seed(1)
        followed = inputs.clone().requires_grad_()
        found.append(tunnel.attribute(followed, nt_samples=4, target=1, return_convergence_delta=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-6, atol=1e-8)


def test_quantus_gets_arrays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).float().eval()
    inputs, targets = np.random.default_rng(0).normal(size=(4, 1, 4, 4)), np.array([0, 2, 1, 1])
    found = quantus_explain_func(
        model, inputs, targets, composite=rules.Gamma(), device="cpu", method="LRP", normalise=True
    )
    expected = relevance(model, torch.tensor(inputs).float(), torch.tensor(targets), rules.Gamma()).inputs
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.numpy())
