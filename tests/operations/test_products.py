"""Functions with a product inside share it equally; what normalises or measures a size has its derivative."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from feedprop.operations import products, table
from support.propagation import CLOSE, Call, accuracy_on_blobs, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

PUBLISHED = rules.Secant.published()
WRITTEN_OUT = {
    # a function of three tensors, and the same by operations that are checked elsewhere
    "glu": (lambda x, a, b: F.glu(torch.cat([x, a], 1)), lambda x, a, b: x * torch.sigmoid(a)),
    "glu along 0": (lambda x, a, b: F.glu(torch.cat([x, a]), dim=0), lambda x, a, b: x * torch.sigmoid(a)),
    "nn.GLU": (lambda x, a, b: nn.GLU(1)(torch.cat([x, a], 1)), lambda x, a, b: x * torch.sigmoid(a)),
    "addcmul": (lambda x, a, b: torch.addcmul(x, a, b, value=3), lambda x, a, b: x + 3 * (a * b)),
    "addcmul by name": (lambda x, a, b: x.addcmul(tensor1=a, tensor2=b), lambda x, a, b: x + a * b),
    "addcmul_": (lambda x, a, b: (x * 1.0).addcmul_(a, b), lambda x, a, b: x + a * b),
    "addcdiv": (lambda x, a, b: torch.addcdiv(x, a, b, value=2), lambda x, a, b: x + 2 * (a / b)),
    "lerp by a gate": (lambda x, a, b: torch.lerp(x, a, b.sigmoid()), lambda x, a, b: x + b.sigmoid() * (a - x)),
    "lerp by name": (
        lambda x, a, b: x.lerp(weight=b.sigmoid(), end=a),
        lambda x, a, b: x + b.sigmoid() * (a - x),
    ),
    "lerp_": (lambda x, a, b: (x * 1.0).lerp_(a, b), lambda x, a, b: x + b * (a - x)),
    "power of a tensor": (lambda x, a, b: torch.pow(x, torch.tensor(3.0)), lambda x, a, b: x**3),
    "power of a tensor, to divide": (lambda x, a, b: a * x.pow(torch.tensor(-2)), lambda x, a, b: a / x.square()),
    "power in place": (lambda x, a, b: (x * 1.0).pow_(torch.tensor(2)), lambda x, a, b: x.square()),
    "prod": (lambda x, a, b: torch.stack([x, a]).prod(0), lambda x, a, b: x * a),
    "prod, kept": (lambda x, a, b: torch.stack([x, a]).prod(dim=0, keepdim=True)[0], lambda x, a, b: x * a),
}  # fmt: skip


def _run(function, inputs: list[Tensor], rule: rules.Rule, credit: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    composite = rules.Composite(rule, conserving=True)
    with attached(
        Call(lambda *x: function(*(a * 1.0 for a in x))), rules.Composite.of(composite).replace(activation=PUBLISHED)
    ) as model:
        output = model(*leaves)
    output.backward(credit)
    return output.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_the_same_as_written_out(name: str, epsilon: float) -> None:
    inputs, credit = [torch.randn(2, 3) for _ in range(3)], torch.randn(2, 3)
    found, expected = (_run(function, inputs, rules.Epsilon(epsilon), credit) for function in WRITTEN_OUT[name])
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("function", [lambda w, x: torch.addcmul(x, x, w), lambda w, x: F.glu(w)[:, :1] * x])
def test_parameters_take_feedback(function) -> None:
    weight, x = torch.randn(2, 4), torch.randn(2, 4, requires_grad=True)
    model = Call(lambda x, weight: function(weight, x * 1.0), weight=weight)
    with attached(model, rules.Epsilon()):
        output = model(x)
    credit = torch.randn_like(output)
    output.backward(credit)
    leaf = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf, x.detach()), leaf, credit)
    torch.testing.assert_close(-feedback_of(model)["weight"], expected * weight.abs(), **CLOSE)


def test_rewards_of_products_of_many_are_conserved() -> None:
    x = torch.randn(2, 5, 3)
    for function in (lambda x: x.prod(1), lambda x: x.cumprod(1), lambda x: torch.cumprod(x, dim=-1), torch.prod):
        output = function(x)
        reward = torch.randn_like(output)
        _, (credit,) = _run(function, [x], rules.Epsilon(0.0), reward / output)
        torch.testing.assert_close((credit * x).sum(), reward.sum(), **CLOSE)


def test_in_training_products_of_many_have_their_gradient() -> None:
    for function in (lambda x: x.prod(1), lambda x: x.cumprod(1), torch.prod):
        x = torch.randn(2, 5, 3, requires_grad=True)
        with attached(Call(lambda x, f=function: f(x * 1.0))) as model:
            output = model(x)
        credit = torch.randn_like(output)
        (found,) = torch.autograd.grad(output, x, credit)
        torch.testing.assert_close(found, *torch.autograd.grad(function(x), x, credit), **CLOSE)


def test_running_product_by_hand() -> None:
    # outputs 2, 6, 30 with credit 1 each: output k gives 1/k of its value to each of its factors
    # x c: 2 + 6/2 + 30/3 = 15, 3 + 10 = 13, 10
    _, (credit,) = _run(lambda x: x.cumprod(0), [torch.tensor([2.0, 3.0, 5.0])], rules.Epsilon(0.0), torch.ones(3))
    torch.testing.assert_close(credit, torch.tensor([15 / 2, 13 / 3, 10 / 5]), **CLOSE)


@pytest.mark.parametrize("p", [1, 2, 3, float("inf")])
def test_sizes_hand_on_all_their_reward(p: float) -> None:
    x = torch.randn(4, 3)
    for function in (lambda x: x.norm(p, 1), lambda x: torch.linalg.vector_norm(x, p, 1), lambda x: torch.norm(x, p)):
        output = function(x)
        reward = torch.randn_like(output)
        _, (credit,) = _run(function, [x], rules.Epsilon(0.0), reward / output)
        torch.testing.assert_close((credit * x).sum(), reward.sum(), **CLOSE)


def test_a_normalised_weight_keeps_being_a_weight() -> None:
    model = randomised(nn.Linear(4, 3, bias=False))
    inputs = torch.randn(5, 4, requires_grad=True)
    with attached(
        Call(lambda x, weight: F.linear(x * 1.0, F.normalize(weight)), weight=model.weight.detach())
    ) as cosine:
        cosine(inputs).sum().backward()
    expected = F.normalize(model.weight.detach()).sum(0).expand(5, 4)
    torch.testing.assert_close(inputs.grad, expected, **CLOSE)  # all of the credit, not half


def test_cosine_classifier_and_gated_network_learn() -> None:
    for head in (nn.GLU(1), Call(lambda x: torch.addcmul(x, x, x) * 0.5), Call(lambda x: F.normalize(x, dim=1))):
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 8), head, nn.LazyLinear(2))
        model(torch.zeros(2, 2))
        assert accuracy_on_blobs(model) > 0.95


def test_every_name_is_called() -> None:
    called = {
        name
        for name, handler in table.handlers().items()
        if getattr(handler, "base", None) is products.product_of_elements
    }
    assert called == {"prod", "cumprod"}


ROUNDED = {
    "//": (lambda z: z // 2, lambda z: torch.floor(z / 2)),
    "function": (lambda z: torch.floor_divide(z, 2.0), lambda z: torch.floor(z / 2)),
    "in place": (lambda z: z.clone().floor_divide_(2), lambda z: torch.floor(z / 2)),
    "divisor": (lambda z: 7 // z, lambda z: torch.floor(7 / z)),
    "rounding down": (lambda z: torch.div(z, 2, rounding_mode="floor"), lambda z: torch.floor(z / 2)),
    "rounding to 0": (lambda z: z.div(torch.tensor(2.0), rounding_mode="trunc"), lambda z: torch.trunc(z / 2)),
    "rounding in place": (lambda z: z.clone().div_(2, rounding_mode="floor"), lambda z: torch.floor(z / 2)),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounded_quotient_is_a_quotient_and_a_step(name: str) -> None:
    found = []
    for function in ROUNDED[name]:
        z = torch.linspace(-4.1, 6.3, 8).requires_grad_()
        with attached(Call(lambda x, function=function: function(x * 1.0)), rules.presets.training()) as model:
            output = model(z)
            output.backward(torch.linspace(-1, 2, 8))
        found.append((output.detach(), z.grad))
    assert found[0][1].any()
    torch.testing.assert_close(*found, **CLOSE)
