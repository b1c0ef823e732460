"""Central differences of activations instead of secants from 0: against loops, and in every way to run a network."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attach, attached, discrete, rewards, rules
from feedprop.credit import activations, central_difference
from feedprop.credit.marks import mark_elementwise
from support.propagation import CLOSE, Call, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

FUNCTIONS = {
    "gelu": F.gelu,
    "gelu of tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "sign": torch.sign,
    "hardtanh": F.hardtanh,
    "clamp": lambda z: torch.clamp(z, min=-0.2),
}
RELUS = {
    "clamp": lambda z: z.clamp(min=0),
    "clamp with keywords": lambda z: torch.clamp(input=z, min=0.0, max=None),
    "clip": lambda z: z.clip(0),
    "clamp_min": lambda z: torch.clamp_min(z, 0),
    "clamp_min_": lambda z: z.clone().clamp_min_(0.0),
    "clamp of -z": lambda z: -(-z).clamp(max=0),
    "clamp_max of -z": lambda z: -torch.clamp_max(-z, 0.0),
    "threshold": nn.Threshold(0, 0.0),
    "threshold in place": lambda z: F.threshold(z.clone(), 0, 0, inplace=True),
    "maximum": lambda z: torch.maximum(z, torch.zeros(())),
}


def _network(activation: nn.Module) -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)))


def _feedback(model: nn.Module, inputs: Tensor, given: Tensor, *, run=None, **settings) -> list[Tensor]:
    model = copy.deepcopy(model)
    with attached(model, rules.Composite(activation=rules.CentralDifference(0.7), **settings)):
        rewards.GivenReward()((run or (lambda model: model))(model)(inputs), given).backward()
    return [parameter.grad for parameter in model.parameters()]


def _slope(function, z: Tensor, width: float, *, conserving: bool = False, **settings: float) -> Tensor:
    z = z.clone().requires_grad_()
    composite = rules.Composite(activation=rules.CentralDifference(width, **settings), conserving=conserving)
    with attached(Call(lambda z: function(z * 1.0)), composite) as model:
        output = model(z)
    output.backward(torch.ones_like(output))
    return z.grad


@pytest.mark.parametrize("width", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_are_those_of_the_loops(name: str, width: float) -> None:
    function, z = FUNCTIONS[name], torch.cat([torch.randn(20) * 3, torch.zeros(1)])
    expected = []
    for value in z.tolist():
        high, low = (function(torch.tensor(value + end)).item() for end in (width, -width))
        expected.append((high - low) / (2 * width))
    torch.testing.assert_close(_slope(function, z, width), torch.tensor(expected), **CLOSE)


@pytest.mark.parametrize("name", RELUS)
def test_two_lines_through_0_keep_their_secant_in_every_spelling(name: str) -> None:
    z = torch.cat([torch.randn(20), torch.tensor([0.1, -0.1])])
    assert torch.equal(_slope(RELUS[name], z, 0.5), (z > 0).to(z.dtype))


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize(
    "function",
    [F.gelu, lambda z: torch.clamp(z, min=torch.linspace(-1, 0, 7)), lambda z: F.threshold(z, 0.1, -1.0)],
    ids=["gelu", "clamp by a tensor", "threshold"],
)
def test_blocks_are_as_the_whole(function, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(7, 5, 7).transpose(0, 2) if layout == "transposed" else torch.randn(7, 5, 7)
    expected = _slope(function, z, 0.3)
    monkeypatch.setattr(activations, "_BLOCK", 16)
    torch.testing.assert_close(_slope(function, z, 0.3), expected, rtol=0, atol=0)


def test_elementwise_functions_alone_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_BLOCK", 16)
    sizes: list[int] = []

    def seen(z: Tensor) -> Tensor:
        sizes.append(z.numel())
        return F.gelu(z)

    z = torch.randn(40, requires_grad=True)
    central_difference(seen, z, 0.3).sum().backward()
    assert sizes == [40, 40, 40]
    sizes.clear()
    mark_elementwise(seen)
    central_difference(seen, z, 0.3).sum().backward()
    assert sizes == [40, 16, 16, 16, 16, 8, 8]


def test_by_hand() -> None:
    # sign, width 2: from -1 to 3 it rises by 2 over 4; from 1 to 5 not at all; from -2 to 2 by 2 over 4
    torch.testing.assert_close(_slope(torch.sign, torch.tensor([1.0, 3.0, 0.0]), 2.0), torch.tensor([0.5, 0.0, 0.5]))
    # tanh at ln 2, width ln 2: tanh(ln 4) = 15/17, over 2 ln 2
    two = torch.tensor([math.log(2)])
    torch.testing.assert_close(
        _slope(torch.tanh, two, math.log(2)), torch.tensor([15 / 17 / (2 * math.log(2))]), **CLOSE
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_where_one_point_has_no_value_the_difference_ends_at_z(compiled: bool, handlers_kept: None) -> None:
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z: Tensor) -> Tensor:
            return z.sqrt()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient

    rules.register(Root)(rules.elementwise)
    model = Call(lambda z: Root.apply(z * 1.0))
    z = torch.tensor([0.0, 0.25, 4.0], requires_grad=True)
    with attached(model, rules.Composite(activation=rules.CentralDifference(2.0))):
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        run(z).sum().backward()
    # from 0 to 2, from .25 to 2.25, from 2 to 6
    torch.testing.assert_close(z.grad, torch.tensor([2**0.5 / 2, (1.5 - 0.5) / 2, (6**0.5 - 2**0.5) / 4]), **CLOSE)


@pytest.mark.parametrize("name", ["log", "sqrt", "asin", "atanh", "logit", "acosh"])
def test_arithmetic_that_conserves_has_finite_slopes_up_to_the_ends_of_its_domain(name: str) -> None:
    z = torch.tensor([1.05, 1.2] if name == "acosh" else [0.05, 0.3, 0.95])
    slopes = _slope(getattr(torch, name), z, 0.5, conserving=True)
    assert slopes.isfinite().all()
    assert (slopes > 0).all()


def test_where_neither_point_has_a_value_the_step_is_refused() -> None:
    with pytest.raises(FeedpropError, match=r"finite values at 0\.3 but none at 3 less or more.*smaller step"):
        _slope(torch.asin, torch.tensor([0.3]), 3.0, conserving=True)


def test_a_narrow_difference_is_the_derivative_and_the_feedback_is_magnitude_times_the_gradient() -> None:
    model, inputs, targets = _network(nn.GELU()), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))
    with attached(model, rules.Composite(activation=rules.CentralDifference(1e-5))):
        rewards.SoftmaxReward()(model(inputs), targets).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, parameter.abs() * gradient, rtol=1e-6, atol=1e-9)


JUMPS = {
    "sign": torch.sign,
    "step": lambda z: (z > 0).to(z.dtype),
    "threshold elsewhere": lambda z: (z > 0.4).to(z.dtype),
    "minus one or one": lambda z: torch.where(z > 0, 1.0, -1.0),
    "round": torch.round,
    "floor": torch.floor,
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_step_is_in_units_of_the_layer(name: str) -> None:
    z = torch.cat([torch.randn(200) * 3, torch.zeros(1)])
    found = _slope(JUMPS[name], z, 0.01, jump_step=0.5)
    at = z - 0.4 if name == "threshold elsewhere" else z  # a step of this difference
    d = 0.5 * at.square().mean().sqrt()
    torch.testing.assert_close(found, (JUMPS[name](z + d) - JUMPS[name](z - d)) / (2 * d), **CLOSE)
    assert found.count_nonzero() > 20
    torch.testing.assert_close(_slope(torch.tanh, z, 0.01, jump_step=0.5), _slope(torch.tanh, z, 0.01))


def test_a_jump_step_of_a_layer_without_scale() -> None:
    zeros, one_infinite = torch.zeros(5), torch.tensor([0.1, 2.0, math.inf])
    torch.testing.assert_close(_slope(torch.sign, zeros, 1.0, jump_step=0.5), 2 * torch.ones(5))  # 2 / (2 * .5)
    torch.testing.assert_close(_slope(torch.sign, one_infinite, 1.0, jump_step=0.5), torch.tensor([2.0, 0.0, 0.0]))


def test_a_hard_choice_passes_credit_by_differences_of_its_margin() -> None:
    scores = torch.tensor([[1.0, 1.2, -3.0], [2.0, 2.0, 0.0]], requires_grad=True)
    with attached(Call(lambda z: discrete.top_one(z * 1.0)), rules.presets.training()) as model:
        output = model(scores)
    assert output.tolist() == [[0, 1, 0], [1, 0, 0]]
    output.sum().backward()
    # margins -.2, .2, -4.2; 0, 0, -2: those within d of 0 have the slope 1 / (2 d), and each pulls on its rival
    assert scores.grad.abs().sum() == 0  # every pull on one score is undone by the pull on its rival
    scores.grad = None
    with attached(Call(lambda z: discrete.top_one(z * 1.0)), rules.presets.training()) as model:
        model(scores)[0, 1].backward()
    d = 0.5 * torch.tensor([-0.2, 0.2, -4.2, 0, 0, -2]).square().mean().sqrt().item()
    torch.testing.assert_close(scores.grad[0], torch.tensor([-1 / (2 * d), 1 / (2 * d), 0.0]))


def test_relu_keeps_its_derivative() -> None:
    z = torch.tensor([-0.1, 0.1, 2.0])
    torch.testing.assert_close(_slope(torch.relu, z, 1.0), torch.tensor([0.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    "written",
    [
        lambda z: z * torch.sigmoid(1.702 * z),
        lambda z: 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
        lambda z: z / (1 + torch.exp(-z)),
    ],
    ids=["swish", "gelu", "quotient"],
)
def test_activations_written_out_bend_as_the_fused_ones_do(written) -> None:
    z = torch.linspace(-4, 4, 41)
    values = z.clone().requires_grad_()
    derivative = torch.autograd.grad(written(values).sum(), values)[0]
    torch.testing.assert_close(_slope(written, z, 0.01), derivative, rtol=1e-3, atol=1e-3)
    assert (_slope(written, z, 0.5)[(z < -1.5) & (z > -3)] < 0).all()  # where they fall


def test_in_place_compiled_per_sample_and_plain_are_the_same() -> None:
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    model = _network(nn.SiLU())
    expected = _feedback(model, inputs, given)
    in_place = nn.Sequential(model[0], nn.SiLU(inplace=True), model[2])
    compiled = _feedback(
        model, inputs, given, run=lambda model: torch.compile(model, fullgraph=True, backend="aot_eager")
    )
    for found in (_feedback(in_place, inputs, given), compiled):
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, **CLOSE)


def test_under_torch_func_feedback_is_the_same() -> None:
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    model = _network(nn.GELU())
    expected = _feedback(model, inputs, given)
    attach(model, rules.Composite(activation=rules.CentralDifference(0.7)))
    reward = rewards.GivenReward()
    found = torch.func.grad(lambda parameters: reward(torch.func.functional_call(model, parameters, (inputs,)), given))(
        {name: p.detach() for name, p in model.named_parameters()}
    )
    for mine, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


def test_an_activation_that_is_overwritten_keeps_its_slope() -> None:
    class Overwriting(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            x = torch.tanh(z)
            x += 1.0
            return x

    class Plain(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.tanh(z) + 1.0

    model, inputs, given = _network(Overwriting()), torch.randn(5, 4), torch.randn(5, 3)
    plain = nn.Sequential(model[0], Plain(), model[2])
    for mine, other in zip(_feedback(model, inputs, given), _feedback(plain, inputs, given), strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


def test_rewards_are_no_longer_conserved_but_scale_with_the_credit() -> None:
    model, inputs, given = _network(nn.GELU()), torch.randn(5, 4), torch.randn(5, 3)
    once = propagate(model, inputs, given, activation=rules.CentralDifference())
    feedback = {name: values.clone() for name, values in once.feedback.items()}
    twice = propagate(model, inputs, 2 * given, activation=rules.CentralDifference())
    for name, values in twice.feedback.items():
        torch.testing.assert_close(values, 2 * feedback[name], **CLOSE)


def test_low_precision_is_close() -> None:
    z = torch.linspace(-30, 30, 61)
    found = _slope(F.gelu, z.bfloat16(), 0.5)
    torch.testing.assert_close(found.double(), _slope(F.gelu, z.bfloat16().double(), 0.5), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf, "wide"])
def test_a_width_that_is_none(width) -> None:
    with pytest.raises((FeedpropError, TypeError), match="step"):
        rules.CentralDifference(width)


def test_rules_of_equal_width_are_equal_and_readable() -> None:
    assert rules.CentralDifference(0.5) == rules.CentralDifference() != rules.CentralDifference(1.0) != rules.Secant()
    assert len({rules.CentralDifference(0.5), rules.CentralDifference(0.5)}) == 1
    assert repr(rules.CentralDifference(2.0)) == "CentralDifference(step=2.0)"


def test_what_is_no_rule_for_activations_is_named() -> None:
    with pytest.raises(TypeError, match=r"Secant\(\), CentralDifference\(\)"):
        attach(nn.Linear(2, 1), rules.Composite(activation=rules.Epsilon()))


def test_a_rule_of_ones_own() -> None:
    class Derivative(rules.ActivationRule):
        def __call__(self, activation, z: Tensor, *, at_zero) -> Tensor:
            return activation(z)

    model, inputs, targets = _network(nn.Mish()), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))
    with attached(model, rules.Composite(activation=Derivative())):
        rewards.SoftmaxReward()(model(inputs), targets).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, parameter.abs() * gradient, **CLOSE)
