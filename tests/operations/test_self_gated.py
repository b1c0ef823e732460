"""Activations that are written out pass credit as the activations they are, whatever the rest of the model does."""

import math
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from support.propagation import CLOSE, Call, accuracy_on_blobs, feedback_of

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
    "swish, reciprocal": (F.silu, lambda x: (1 + torch.exp(-x)).reciprocal() * x),
    "swish, divided constant": (F.silu, lambda x: x * (torch.tensor(1.0) / (1 + torch.exp(-x)))),
    "swish, negative power": (F.silu, lambda x: x * (1 + torch.exp(-x)) ** -1),
    "swish, keywords": (F.silu, lambda x: torch.mul(input=torch.sigmoid(x), other=x)),
    "swish, written gate": (F.silu, lambda x: x * x.clone().sigmoid_()),
    "swish, written divisor": (F.silu, lambda x: x / x.neg().exp_().add_(1)),
    "gelu, erfc": (F.gelu, lambda x: x * torch.erfc(-x / math.sqrt(2.0)) / 2),
    "gelu, normal distribution": (F.gelu, lambda x: x * torch.special.ndtr(x)),
    "gelu, power of products": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
    ),
    "relu": (F.relu, lambda x: x * (x > 0).float()),
    "relu, written gate": (lambda x: x * F.relu(x), lambda x: x * F.relu(x.clone(), inplace=True)),
    "leaky relu, written gate": (lambda x: x * F.leaky_relu(x), lambda x: x * F.leaky_relu_(x.clone())),
    "relu, product": (F.relu, lambda x: x * (x > 0)),
    "hard swish, clamped": (F.hardswish, lambda x: x * torch.clamp(x + 3.0, 0.0, 6.0) / 6.0),
    "swish of whole numbers": (lambda x: F.silu(x.floor()), lambda x: _swish(x.floor())),
    "source overwritten": (
        lambda x: _of_double(x.flip(0), F.relu),
        lambda x: _of_double(x.flip(0), torch.relu_),
    ),
    "swish of signs": (lambda x: F.silu(x.sign()), lambda x: _swish(x.sign())),
}


def _swish(h: Tensor) -> Tensor:
    return h.sigmoid() * h


def _of_double(h: Tensor, gate) -> Tensor:
    double = 2 * h
    return double * (double + gate(h))


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
        (lambda x: x.roll(1) * torch.sigmoid(x.roll(1)), 0.75),
        (lambda x: x.roll(1) * torch.sigmoid(x.roll(2)), 1.0),
    ):
        leaf.grad = None
        with attached(Call(function), rules.Epsilon()) as model:
            model(leaf).backward()
        torch.testing.assert_close(leaf.grad, torch.full((1,), expected), **CLOSE)


# Products of x with powers and arithmetic of x alone
ARITHMETIC = {
    "x x x": lambda x: x * x * x,
    "x (x x)": lambda x: x * (x * x),
    "x^2 x": lambda x: x**2 * x,
    "x^3": lambda x: x * torch.square(x),
    "x^4": lambda x: x * x * x * x,
    "x^5, squares": lambda x: (x * x) * (x * x) * x,
    "power of a tensor": lambda x: x.pow(torch.tensor(2.0)) * x,
    "in place": lambda x: (x * 1.0).mul_(x * x),
    "multiple": lambda x: (2 * x) * (x * x / 3),
    "root": lambda x: x * x.sqrt(),
    "inverse root": lambda x: x * x.rsqrt(),
    "x |x|": lambda x: x * x.abs(),
    "logarithm": lambda x: x * x.log(),
    "entropy": lambda x: -(x * torch.log(x)),
    "exponential": lambda x: x * x.exp(),
    "exponential, quotient": lambda x: x / torch.exp(-x),
    "exponential first": lambda x: torch.exp2(x).mul(x),
    "sine": lambda x: x * torch.sin(x),
    "cosine": lambda x: torch.cos(x) * x,
    "tan": lambda x: x * torch.tan(x / 4),
    "reciprocal": lambda x: x * x.reciprocal(),
    "reciprocal, quotient": lambda x: x * (1 / x),
    "reciprocal of a square": lambda x: x / (x * x),
    "constant by x": lambda x: (torch.tensor(2.0) / x) * x * x,
    "polynomial": lambda x: x * (1 + x),
    "polynomial of powers": lambda x: x * (x**2 + 0.5 * x + 1),
    "polynomial, Horner": lambda x: ((2 * x + 1) * x - 3) * x,
    "logarithm of a sum": lambda x: x * torch.log1p(x),
    "gaussian": lambda x: x * torch.exp(-(x**2)),
    "expm1": lambda x: x * torch.expm1(x),
    "keywords": lambda x: torch.mul(input=x, other=x * x),
}


ACTIVATIONS = {"default": rules.Composite(), "published": rules.Composite(activation=rules.Secant.published())}


def _positive() -> tuple[Tensor, Tensor]:
    """Return positive numbers twice: to propagate to, and to differentiate by."""
    x = torch.randn(3, 8).abs() + 0.2
    return x.clone().requires_grad_(), x.requires_grad_()


@pytest.mark.parametrize("composite", ACTIVATIONS)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_written_out_has_its_gradient(name: str, composite: str) -> None:
    function, (leaf, plain) = ARITHMETIC[name], _positive()
    with attached(Call(lambda x: function(x * 1.0)), ACTIVATIONS[composite]) as model:
        model(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, *torch.autograd.grad(function(plain * 1.0).sum(), plain), **CLOSE)


@pytest.mark.parametrize("composite", ACTIVATIONS)
def test_arithmetic_written_out_has_its_gradient_compiled(composite: str) -> None:
    """All at once: one compilation instead of one for each."""
    leaves, plain = zip(*(_positive() for _ in ARITHMETIC), strict=True)

    def run(*inputs: Tensor) -> list[Tensor]:
        return [function(x * 1.0) for function, x in zip(ARITHMETIC.values(), inputs, strict=True)]

    with attached(Call(run), ACTIVATIONS[composite]) as model:
        sum(output.sum() for output in torch.compile(model, backend="aot_eager")(*leaves)).backward()
    gradients = torch.autograd.grad([output.sum() for output in run(*plain)], plain)
    for name, leaf, gradient in zip(ARITHMETIC, leaves, gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, **CLOSE, msg=lambda words, name=name: f"{name}: {words}")


def test_cube_by_hand() -> None:
    # y = x^3 at x = .3: 3 x^2 = .27, however it is written; conserving, y / x = .09
    for function in (lambda x: x * x * x, lambda x: x * (x * x), lambda x: x**2 * x, lambda x: x**3):
        for composite, expected in ((rules.Composite(), 0.27), (rules.presets.conserving(), 0.09)):
            leaf = torch.tensor([0.3], requires_grad=True)
            with attached(Call(lambda x, function=function: function(x * 1.0)), composite) as model:
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

    assert accuracy_on_blobs(nn.Sequential(nn.Linear(2, 16), Gate(), nn.Linear(16, 2))) > 0.95
