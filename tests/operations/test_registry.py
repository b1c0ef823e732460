"""Functions of several tensors: who takes which share, worked by hand and by loops."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from feedprop.operations import products, table
from support import oracles
from support.propagation import CLOSE, Call, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

EPSILON = 0.25
RULE = rules.Epsilon(EPSILON)


def _names(*handlers) -> set[str]:
    """Return the names of the table that one of these handles."""
    return {name for name, handler in table.handlers().items() if getattr(handler, "base", handler) in handlers}


def _damping(z: Tensor) -> Tensor:
    return (z.abs() / (z.abs() + EPSILON)).detach()


def _backward(function, *inputs: Tensor, credit: Tensor | None = None, conserving: bool = True, **parameters: Tensor):
    """Return output, credit at the output, credit at each input, gradient of each parameter."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with attached(Call(function, **parameters), rules.Composite(RULE, conserving=conserving)) as model:
        output = model(*leaves)
    credit = torch.randn_like(output) if credit is None else credit
    output.backward(credit)
    return output.detach(), credit, [leaf.grad for leaf in leaves], [p.grad for p in model.parameters()]


def test_a_linear_layer_by_hand() -> None:
    # a = (1, 2), w = ((3, -1), (0.5, 2)), b = (1, -1): z = (2, 3.5); r = (2, 7), epsilon 0: credit (1, 2)
    # messages a_i w_ij c_j: (3*1*1 + 1*.5*2, -1*2*1 + 2*2*2) = (4, 6); F = |w| a c = ((3, 2), (1, 8)); |b| c = (1, 2)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -1.0], [0.5, 2.0]]))
        model.bias.copy_(torch.tensor([1.0, -1.0]))
    found = propagate(model, torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 7.0]]), rules.Epsilon(0.0))
    torch.testing.assert_close(found.output, torch.tensor([[2.0, 3.5]]))
    torch.testing.assert_close(found.input_reward, torch.tensor([[4.0, 6.0]]))
    torch.testing.assert_close(found.feedback["weight"], torch.tensor([[3.0, 2.0], [1.0, 8.0]]))
    torch.testing.assert_close(found.feedback["bias"], torch.tensor([1.0, 2.0]))


PRODUCTS = {
    "matmul": (torch.matmul, (3, 4), (4, 2)),
    "@": (lambda a, b: a @ b, (3, 4), (4, 2)),
    "__rmatmul__": (lambda a, b: b.__rmatmul__(a), (3, 4), (4, 2)),
    "__matmul__": (Tensor.__matmul__, (3, 4), (4, 2)),
    "mm": (Tensor.mm, (3, 4), (4, 2)),
    "bmm": (torch.bmm, (2, 3, 4), (2, 4, 2)),
    "mv": (torch.mv, (3, 4), (4,)),
    "dot": (torch.dot, (4,), (4,)),
    "vdot": (torch.vdot, (4,), (4,)),
    "inner": (torch.inner, (3, 4), (2, 4)),
    "outer": (torch.outer, (3,), (4,)),
    "ger": (torch.ger, (3,), (4,)),
    "vecdot": (torch.linalg.vecdot, (3, 4), (3, 4)),
    "multi_dot": (lambda a, b: torch.linalg.multi_dot([a, b]), (3, 4), (4, 2)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=1), (3, 4), (4, 2)),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), (2, 3, 4), (2, 4, 2)),
    "einsum of a list": (lambda a, b: torch.einsum("ij,jk->ik", [a, b]), (3, 4), (4, 2)),
    "bilinear": (lambda a, b: F.bilinear(a, b, torch.ones(2, 3, 4)), (5, 3), (5, 4)),
    "linear with a computed weight": (F.linear, (3, 4), (2, 4)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_two_activations_share_a_product_equally(name: str) -> None:
    function, *shapes = PRODUCTS[name]
    a, b = (torch.randn(shape, requires_grad=True) for shape in shapes)
    output, credit, found, _ = _backward(lambda a, b: function(a * 1.0, b * 1.0), a, b)
    plain = torch.autograd.grad(function(a, b), (a, b), credit * _damping(output))
    torch.testing.assert_close(found, [share * 0.5 for share in plain], **CLOSE)


@pytest.mark.parametrize("name", PRODUCTS)
def test_in_training_each_factor_of_a_product_has_its_ordinary_backward(name: str) -> None:
    function, *shapes = PRODUCTS[name]
    a, b = (torch.randn(shape, requires_grad=True) for shape in shapes)
    output, credit, found, _ = _backward(lambda a, b: function(a * 1.0, b * 1.0), a, b, conserving=False)
    plain = torch.autograd.grad(function(a, b), (a, b), credit * _damping(output))
    torch.testing.assert_close(found, list(plain), **CLOSE)


@pytest.mark.parametrize("name", sorted(set(PRODUCTS) - {"einsum of a list"}))
def test_a_constant_takes_no_share_of_a_product(name: str) -> None:
    function, *shapes = PRODUCTS[name]
    a, b = torch.randn(shapes[0], requires_grad=True), torch.randn(shapes[1])
    output, credit, found, _ = _backward(lambda a: function(a * 1.0, b), a)
    plain = torch.autograd.grad(function(a, b), a, credit * _damping(output))
    torch.testing.assert_close(found, list(plain), **CLOSE)


@pytest.mark.parametrize("name", sorted(set(PRODUCTS) - {"linear with a computed weight"}))
def test_a_parameter_takes_feedback_and_no_share(name: str) -> None:
    function, *shapes = PRODUCTS[name]
    a, b = torch.randn(shapes[0], requires_grad=True), torch.randn(shapes[1], requires_grad=True)
    output, credit, found, parameters = _backward(lambda a, weight: function(a * 1.0, weight), a, weight=b.detach())
    plain = torch.autograd.grad(function(a, b), (a, b), credit * _damping(output))
    torch.testing.assert_close(found[0], plain[0], **CLOSE)
    torch.testing.assert_close(parameters[0], plain[1] * b.detach().abs(), **CLOSE)


def test_every_product_of_the_table_is_called() -> None:
    elsewhere = {"_grouped_mm", "kron", "conv_tbc"}  # in test_rules.py, and tests/fuzz
    assert _names(products.product, products.matrix_product) <= set(PRODUCTS) | elsewhere


@pytest.mark.parametrize(
    "function", [torch.mul, torch.multiply, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.mul_]
)
def test_elementwise_product(function) -> None:
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    _, credit, found, _ = _backward(lambda a, b: function(a * 1.0, b * 1.0), a, b)
    torch.testing.assert_close(found, [0.5 * credit * b, 0.5 * credit * a], **CLOSE)
    _, credit, found, _ = _backward(lambda a: function(a * 1.0, b), a)
    torch.testing.assert_close(found, [credit * b], **CLOSE)
    output, credit, found, (gradient,) = _backward(lambda a, weight: function(a * 1.0, weight), a, weight=b)
    torch.testing.assert_close(found, [credit * b * _damping(output)], **CLOSE)
    torch.testing.assert_close(gradient, credit * a * b.abs() * _damping(output), **CLOSE)


def test_prod_is_differentiable() -> None:
    rows = [set(names.split()) for _, names in table.ROWS]
    assert {"mul", "multiply", "__mul__", "__rmul__", "__imul__"} in rows
    _, credit, found, _ = _backward(lambda a: (a * 1.0).prod(1), torch.ones(3, 2) * 2)
    torch.testing.assert_close(found[0], credit[:, None].expand(3, 2), **CLOSE)  # a b: half of the reward to each


@pytest.mark.parametrize(
    "name", ["div", "divide", "true_divide", "__truediv__", "__div__", "__itruediv__", "__idiv__", "div_"]
)
def test_quotient_rewards_the_numerator(name: str) -> None:
    function = getattr(Tensor, name)
    a, b = torch.randn(3, 4), torch.randn(3, 4) + 3
    _, credit, (at_a, at_b), _ = _backward(lambda a, b: function(a * 1.0, b * 1.0), a, b)
    torch.testing.assert_close(at_a, credit / b, **CLOSE)
    assert at_b is None
    _, credit, found, _ = _backward(lambda a, b: function(a * 1.0, b * 1.0), a, b, conserving=False)
    torch.testing.assert_close(found, [credit / b, -credit * a / b**2], **CLOSE)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    "solve",
    [torch.linalg.solve, functools.partial(torch.linalg.solve_triangular, upper=False)],
    ids=["full", "triangular"],
)
def test_a_solution_rewards_the_right_side(solve, named: bool) -> None:
    a, b = (torch.randn(4, 4) + 4 * torch.eye(4)).tril(), torch.randn(4, 2)

    def function(a: Tensor, b: Tensor) -> Tensor:
        return solve(a * 1.0, B=b * 1.0) if named else solve(a * 1.0, b * 1.0)

    leaves = [x.clone().requires_grad_() for x in (a, b)]
    for conserving in (True, False):
        output, credit, found, _ = _backward(function, a, b, conserving=conserving)
        at_a, at_b = torch.autograd.grad(solve(*leaves), leaves, credit * _damping(output))
        torch.testing.assert_close(found, [None if conserving else at_a, at_b], **CLOSE)


ADDED = {
    "addmm": (torch.addmm, (3, 2), (3, 4), (4, 2)),
    "addmv": (torch.addmv, (3,), (3, 4), (4,)),
    "addbmm": (torch.addbmm, (3, 2), (2, 3, 4), (2, 4, 2)),
    "baddbmm": (torch.baddbmm, (2, 3, 2), (2, 3, 4), (2, 4, 2)),
    "addr": (torch.addr, (3, 2), (3,), (2,)),
}


@pytest.mark.parametrize("name", ADDED)
def test_an_added_product_is_a_linear_operation(name: str) -> None:
    assert set(ADDED) == _names(products.added_product)
    function, bias, inputs, weight = ADDED[name][0], *map(torch.randn, ADDED[name][1:])
    leaves = [x.clone().requires_grad_() for x in (bias, inputs, weight)]
    for spelling in (function, getattr(Tensor, name), lambda b, a, w: getattr(b.clone(), f"{name}_")(a, w)):
        output, credit, found, parameters = _backward(
            lambda a, bias, weight, s=spelling: s(bias, a * 1.0, weight), inputs, bias=bias, weight=weight
        )
        plain = torch.autograd.grad(function(*leaves), leaves, credit * _damping(output))
        torch.testing.assert_close(found[0], plain[1], **CLOSE)
        torch.testing.assert_close(parameters[0], plain[0] * bias.abs(), **CLOSE)
        torch.testing.assert_close(parameters[1], plain[2] * weight.abs(), **CLOSE)


def test_an_added_product_takes_its_factors_by_name() -> None:
    inputs, weight = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    bias = torch.randn(2, 1, 5)  # a constant, as alibi in Bloom

    def by_position(x: Tensor, weight: Tensor) -> Tensor:
        return torch.baddbmm(bias, x, weight, beta=2.0, alpha=0.5)

    def by_name(x: Tensor, weight: Tensor) -> Tensor:
        return bias.baddbmm(alpha=0.5, batch2=weight, beta=2.0, batch1=x)

    credits = torch.randn(2, 3, 5)
    expected, found = (propagate(Call(f, weight=weight), inputs, credits, RULE) for f in (by_position, by_name))
    torch.testing.assert_close(vars(found), vars(expected), **CLOSE)


def test_conv_functions_take_keywords_in_any_order() -> None:
    layer = randomised(nn.Conv2d(2, 3, 3, stride=2, padding=1))
    inputs, rewards = torch.randn(2, 2, 5, 5), torch.randn(2, 3, 3, 3)
    named = Call(lambda x, weight, bias: F.conv2d(padding=1, bias=bias, stride=2, weight=weight, input=x))
    named.weight, named.bias = layer.weight, layer.bias
    expected, found = propagate(layer, inputs, rewards, RULE), propagate(named, inputs, rewards, RULE)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)


def test_a_shared_module_gets_the_feedback_of_both_uses() -> None:
    shared = randomised(nn.Linear(4, 4))
    inputs, rewards = torch.randn(3, 4), torch.randn(3, 4)
    twice = nn.Sequential(shared, nn.Tanh(), shared)
    middle = oracles.forward(nn.Sequential(shared, nn.Tanh()), inputs)
    between, late = oracles.backward(shared, middle, rewards, EPSILON)
    first, early = oracles.backward(shared, inputs, between, EPSILON)
    found = propagate(twice, inputs, rewards, RULE)
    torch.testing.assert_close(found.input_reward, first, **CLOSE)
    torch.testing.assert_close(found.feedback["0.weight"], early["weight"] + late["weight"], **CLOSE)
    torch.testing.assert_close(found.feedback["0.bias"], early["bias"] + late["bias"], **CLOSE)


def test_tied_weights_get_the_feedback_of_every_use() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(self.encode(x)), self.encode.weight.t())

    tied, untied = (
        randomised(Tied()),
        nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 4, bias=False)),
    )
    with torch.no_grad():
        untied[0].weight.copy_(tied.encode.weight)
        untied[2].weight.copy_(tied.encode.weight.t())
    inputs, rewards = torch.randn(5, 4), torch.randn(5, 4)
    found, expected = propagate(tied, inputs, rewards, RULE), propagate(untied, inputs, rewards, RULE)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    both = expected.feedback["0.weight"] + expected.feedback["2.weight"].t()
    torch.testing.assert_close(found.feedback["encode.weight"], both, **CLOSE)


COMPUTED = {
    "a sum": lambda a, b: a + b,
    "a difference, scaled": lambda a, b: (a - 2 * b) * 0.5,
    "a mean": lambda a, b: torch.stack([a, b]).mean(0),
    "an elementwise product": lambda a, b: a * b,
    "a low-rank product": lambda a, b: a @ b.t() @ a,
    "a smooth function": lambda a, b: torch.tanh(a) + b,
    "a part": lambda a, b: torch.cat([a[:1], b[1:]]),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_computed_from_parameters_is_a_weight(name: str) -> None:
    """It takes no share and is not damped; each parameter has the gradient times its own size."""
    compute, (a, b), x = COMPUTED[name], torch.randn(2, 3, 4), torch.randn(5, 4)
    output, credit, (at_x,), (grad_a, grad_b) = _backward(lambda x, a, b: F.linear(x, compute(a, b)), x, a=a, b=b)
    leaves = [value.clone().requires_grad_() for value in (x, a, b)]
    plain = torch.autograd.grad(F.linear(leaves[0], compute(*leaves[1:])), leaves, credit * _damping(output))
    torch.testing.assert_close(at_x, plain[0], **CLOSE)
    torch.testing.assert_close(grad_a, plain[1] * a.abs(), **CLOSE)
    torch.testing.assert_close(grad_b, plain[2] * b.abs(), **CLOSE)


def test_several_inputs_and_outputs_some_without_gradient() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)
            self.table = nn.Embedding(5, 2)

        def forward(self, a: Tensor, b: Tensor, tokens: Tensor) -> dict[str, Tensor]:
            total = self.left(a) + self.right(b) + self.table(tokens)
            return {"total": total, "doubled": (total * 2, tokens + 1), "constant": torch.ones(2), "b": b.detach()}

    model = randomised(Fork())
    a, b, tokens = torch.randn(2, 3), torch.randn(2, 4, requires_grad=True), torch.tensor([0, 3])
    with attached(model, RULE):
        outputs = model(a, b=b, tokens=tokens)
    assert not outputs["constant"].requires_grad
    (-outputs["total"].sum() - outputs["doubled"][0].sum()).backward()
    assert a.grad is None
    assert set(feedback_of(model)) == {"left.weight", "left.bias", "right.weight", "right.bias", "table.weight"}
    z = (model.left(a) + model.right(b)).detach()
    total = outputs["total"].detach()
    at_sum = 3 * _damping(total) * _damping(z)
    expected = at_sum * _damping(model.right(b))
    torch.testing.assert_close(-b.grad, expected @ model.right.weight.detach(), **CLOSE)


def test_frozen_parameters_stay_without_feedback() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    model = randomised(nn.Sequential(inner, nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    inputs, rewards = torch.randn(5, 4), torch.randn(5, 2)
    expected = propagate(model, inputs, rewards, RULE)
    frozen = ["0.0.weight", "0.1.weight", "0.1.bias", "1.bias", "3.weight"]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    found = propagate(model, inputs, rewards, RULE)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    kept = {name: value for name, value in expected.feedback.items() if name not in frozen}
    torch.testing.assert_close(found.feedback, kept, **CLOSE)
