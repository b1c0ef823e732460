"""A function without a rule stops the forward pass, says where, and how to go on."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedprop
from feedprop import UnknownOperationError, attached, rules
from feedprop.treatments import TREATMENTS
from propagation import Call, propagate

pytestmark = pytest.mark.usefixtures("float64")


class Unusual(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_unknown_function_is_named_with_its_module_and_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Unusual()))
    monkeypatch.setattr(torch.special, "bessel_j0", torch.special.i1)  # bessel_j0 has no derivative; stands for any
    function = torch.special.i1
    monkeypatch.delitem(TREATMENTS, function, raising=False)
    with attached(model), pytest.raises(UnknownOperationError) as caught:
        model(torch.randn(1, 2))
    text = str(caught.value)
    assert "torch.special.i1" in text or "special_i1" in text
    assert "'1.1' (Unusual)" in text
    line = text[text.index("feedprop.rules.register") :].split(" if ")[0]
    try:
        exec(line, {"feedprop": feedprop, "torch": torch})  # as a user would paste it
        inputs, given = torch.randn(1, 2), torch.randn(1, 2)
        found = propagate(model, inputs, given)
    finally:
        TREATMENTS.pop(function, None)
    z = F.relu(model[0](inputs)).detach()
    assert found.output.equal(function(z))
    assert (found.feedback["0.weight"] != 0).any()


def test_unknown_gradient_takes_the_gradient() -> None:
    x = torch.randn(3, requires_grad=True)
    with attached(Call(lambda x: torch.special.i1(x * 1.0)), unknown="gradient") as model:
        model(x).sum().backward()
    (expected,) = torch.autograd.grad(torch.special.i1(x).sum(), x)
    torch.testing.assert_close(x.grad, expected)


def test_register_is_a_decorator_too() -> None:
    function = torch.special.i1e
    try:

        @rules.register(function)
        def halved(context, function, args, kwargs):
            return rules.ordinary(context, function, args, kwargs)

        assert TREATMENTS[function] is halved
    finally:
        TREATMENTS.pop(function, None)
    with pytest.raises(TypeError, match="torch function"):
        rules.register("i0")
