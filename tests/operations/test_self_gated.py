"""Activations that are written out pass credit as the activations they are, whatever the rest of the model does."""

import math
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from support.propagation import CLOSE, Call, feedback_of

pytestmark = pytest.mark.usefixtures("float64")

ROOT = math.sqrt(2 / math.pi)
WRITTEN = {
    "swish": (F.silu, lambda x: x * torch.sigmoid(x)),
    "swish, gate first": (F.silu, lambda x: x.sigmoid().mul(x)),
    "swish, quotient": (F.silu, lambda x: x / (1 + torch.exp(-x))),
    "swish, in place": (F.silu, lambda x: (x * 1.0).mul_(x.sigmoid())),
    "swish, of itself in place": (F.silu, lambda x: _gated_in_place(x * 1.5 / 1.5)),
    "quick": (lambda x: F.silu(1.702 * x) / 1.702, lambda x: x * torch.sigmoid(1.702 * x)),
    "quick, tensor": (lambda x: F.silu(1.702 * x) / 1.702, lambda x: x * torch.sigmoid(torch.tensor(1.702) * x)),
    "gelu, erf": (F.gelu, lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))),
    "gelu, tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
    ),
    "gelu, products": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(x * ROOT * (1 + 0.044715 * x * x))),
    ),
    "mish": (F.mish, lambda x: x * torch.tanh(F.softplus(x))),
    "hard swish": (F.hardswish, lambda x: x * F.relu6(x + 3.0) / 6.0),
    "hard swish, in place": (F.hardswish, lambda x: x * (F.relu6(x + 3.0, inplace=True) / 6.0)),
    "softsign": (F.softsign, lambda x: x / (1 + x.abs())),
}


def _gated_in_place(h: Tensor) -> Tensor:
    h.mul_(h.sigmoid())
    return h


def _run(function, x: Tensor, composite=None, **settings) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    with attached(Call(lambda x: function(x + 0.1)), rules.Composite.of(composite).replace(**settings)) as model:
        output = model(leaf)
    torch.manual_seed(1)
    output.backward(torch.randn_like(output))
    return output.detach(), leaf.grad


@pytest.mark.parametrize("settings", [{}, {"activation": rules.Secant.published()}], ids=["default", "published"])
@pytest.mark.parametrize("composite", [None, rules.presets.conserving(), rules.Epsilon(0.2)], ids=str)
@pytest.mark.parametrize("name", WRITTEN)
def test_written_out_equals_function(name: str, composite, settings) -> None:
    function, written = WRITTEN[name]
    x = torch.randn(3, 8)
    expected = _run(function, x, composite, **settings)
    torch.testing.assert_close(_run(written, x, composite, **settings), expected, **CLOSE)


def test_swish_by_hand() -> None:
    # x = log 3: sigmoid 3/4, y = 0.75 log 3, so c_x = y / x = 0.75. Of two tensors that are log 3, a sigmoid(b):
    # a takes sigmoid(b) = 0.75, b takes a (sigmoid(b) - 0.5) / b = 0.25, together 1
    leaf = torch.tensor([math.log(3)], requires_grad=True)
    for function, expected in (
        (lambda x: (lambda h: h * torch.sigmoid(h))(x.clone()), 0.75),
        (lambda x: x.clone() * torch.sigmoid(x.clone()), 0.75),
        (lambda x: x.roll(1) * torch.sigmoid(x.roll(1)), 1.0),
    ):
        leaf.grad = None
        with attached(Call(function), rules.Epsilon()) as model:
            model(leaf).backward()
        torch.testing.assert_close(leaf.grad, torch.full((1,), expected), **CLOSE)


NOT_ACTIVATIONS = {
    "another tensor": lambda x: x * torch.sigmoid(x.roll(1, 0)),
    "a mean": lambda x: x * torch.sigmoid(x.mean(0, keepdim=True)),
    "a square": lambda x: x * x,
    "two gates": lambda x: torch.tanh(x) * torch.sigmoid(x),
    "not elementwise": lambda x: x * torch.softmax(x, -1),
    "constants that differ": lambda x: x * torch.sigmoid(x * torch.linspace(1, 2, 8)),
}


@pytest.mark.parametrize("name", NOT_ACTIVATIONS)
def test_other_products_share_as_products(name: str) -> None:
    """Conserving, the factors' shares differ from a secant of the whole, but for their sum over all elements."""
    function, x = NOT_ACTIVATIONS[name], torch.randn(3, 8)
    output, found = _run(function, x)
    credit = _run(lambda x: x * 1.0, x)[1]
    assert not torch.allclose(found, credit * output / (x + 0.1))


def test_a_gate_with_a_parameter_inside_still_teaches_it() -> None:
    x, slope = torch.randn(3, 8), torch.tensor(1.3)
    model = Call(lambda x, slope: (lambda h: h * torch.sigmoid(slope * h))(x + 0.1), slope=slope)
    with attached(model):
        model(x.requires_grad_()).sum().backward()
    assert feedback_of(model)["slope"] != 0


def test_what_was_overwritten_is_not_taken_for_a_function_of_what_it_was() -> None:
    def overwritten(x: Tensor) -> Tensor:
        h, gate = x * 2.0, torch.sigmoid(x)
        h[0] = 3.0
        return h * gate

    def relu_overwritten(x: Tensor) -> Tensor:
        h, gate = x * 2.0, torch.sigmoid(x)
        return torch.relu_(h) * gate

    def source_overwritten(x: Tensor) -> Tensor:
        h = x * 1.0
        gate = h + 2.0
        h.add_(1.0)
        return h * gate

    x = torch.randn(3, 8)
    plain = {
        overwritten: lambda x: torch.cat([torch.full((1, 8), 3.0), x[1:] * 2.0]) * torch.sigmoid(x),
        relu_overwritten: lambda x: torch.relu(x * 2.0) * torch.sigmoid(x),
        source_overwritten: lambda x: torch.stack([*(x + 1.0)]) * (x + 2.0),
    }
    for written, expected in plain.items():
        torch.testing.assert_close(_run(written, x), _run(expected, x), **CLOSE)


def test_inputs_are_not_kept_alive() -> None:
    kept = []

    def function(x: Tensor) -> Tensor:
        h = x + 1.0
        kept.append(weakref.ref(h))
        return h * 2.0  # saves nothing of h

    leaf = torch.randn(3, requires_grad=True)
    with attached(Call(lambda x: function(x * 1.0))) as model:
        output = model(leaf)
        assert kept[0]() is None
    assert output.requires_grad


def test_a_gated_network_learns() -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(1.702 * x)

    labels = torch.arange(200) % 2
    inputs = torch.randn(200, 2) * 0.3 + labels[:, None] * 2 - 1
    model = nn.Sequential(nn.Linear(2, 16), Gate(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with attached(model):
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        assert (model(inputs).argmax(1) == labels).double().mean() > 0.95
