"""A torch.autograd.Function is refused until it is registered, since its backward is a gradient and no credit."""

import copy

import pytest
import torch
from torch import Tensor, nn

from feedprop import UnknownOperationError, attach, attached, rewards, rules
from support.propagation import CLOSE, Call, Residual, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64", "handlers_kept")


class Sign(torch.autograd.Function):
    """A straight-through estimator as people write it; one of its own per test, as registering changes it."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        return z.sign()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.clamp(-1, 1)


@pytest.fixture
def straight_through() -> type[Sign]:
    class StraightThrough(Sign):
        pass

    return StraightThrough


def _network(function: type[Sign]) -> nn.Module:
    return randomised(
        nn.Sequential(nn.Linear(3, 5), Residual(Call(lambda z: function.apply(z))), nn.ReLU(), nn.Linear(5, 2))
    )


def test_it_is_refused_with_the_line_that_registers_it(straight_through: type[Sign]) -> None:
    model = attach(_network(straight_through))
    with pytest.raises(UnknownOperationError, match=r"StraightThrough.*register\(.*StraightThrough\)"):
        model(torch.randn(4, 3))
    with pytest.raises(UnknownOperationError):  # and again, should someone go on
        model(torch.randn(4, 3))


def test_registered_it_passes_credit_as_the_plain_function_does(straight_through: type[Sign]) -> None:
    model, inputs, given = _network(straight_through), torch.randn(4, 3), torch.randn(4, 2)
    plain = copy.deepcopy(model)
    plain[1].inner = Call(torch.sign)
    expected = propagate(plain, inputs, given, activation=rules.Secant())
    for _ in range(2):  # registering twice does no harm
        rules.register(straight_through)(rules.elementwise)
        found = propagate(model, inputs, given, activation=rules.Secant())
    torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)
    assert (found.feedback["0.weight"] != 0).any()


def test_without_an_attached_model_it_is_what_it_was(straight_through: type[Sign]) -> None:
    rules.register(straight_through)(rules.elementwise)
    z = torch.randn(5, requires_grad=True)
    straight_through.apply(z).backward(torch.full((5,), 3.0))
    assert z.grad.equal(torch.ones(5))


def test_registered_as_ordinary_its_own_backward_counts(straight_through: type[Sign]) -> None:
    rules.register(straight_through)(rules.ordinary)
    model = Call(lambda z: straight_through.apply(z * 1.0))
    z = torch.randn(5, requires_grad=True)
    with attached(model):
        model(z).backward(torch.full((5,), 3.0))
    assert z.grad.equal(torch.ones(5))


def test_unknown_gradient_takes_its_backward(straight_through: type[Sign]) -> None:
    model = attach(_network(straight_through), unknown="gradient")
    rewards.SoftmaxReward()(model(torch.randn(4, 3)), torch.randint(2, (4,))).backward()
    assert feedback_of(model).keys() == dict(model.named_parameters()).keys()


def test_what_inputs_went_through_before_is_not_the_models(straight_through: type[Sign]) -> None:
    inputs = straight_through.apply(torch.randn(4, 3, requires_grad=True))
    model = attach(nn.Linear(3, 2))
    model(inputs).sum().backward()
    assert model.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["Swish", "Mish", "HardSigmoid", "HardSwish", "HardMish"])
def test_those_of_timm_are_known(name: str) -> None:
    module = pytest.importorskip("timm.layers.activations_me", reason="timm is not installed")
    function = getattr(module, f"{name}AutoFn")
    z, given = torch.randn(6), torch.randn(6)
    found = propagate(Call(lambda z: function.apply(z * 1.0)), z, given)
    torch.testing.assert_close(found.input_reward, given.masked_fill(found.output == 0, 0.0), **CLOSE)


def test_those_of_transformers_are_known_and_a_root_near_0_has_a_finite_slope() -> None:
    module = pytest.importorskip(
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma", reason="transformers is not installed"
    )
    z = torch.tensor([0.0, 0.1, 3.0], requires_grad=True)
    with attached(Call(lambda z: module.SqrtBoundDerivative.apply(z * 1.0))) as model:
        model(z).sum().backward()
    found = z.grad
    assert found.isfinite().all()
    assert (found > 0).all()


def test_experts_of_transformers_are_matrix_products_where_torch_has_no_kernel() -> None:
    """Compiling, or with an older PyTorch, transformers multiplies by an operator of its own."""
    pytest.importorskip("transformers.integrations.moe", reason="transformers is not installed")
    if not hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        pytest.skip("this version of transformers has no such operator")
    ends = torch.tensor([2, 5])

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 3, 4))

    class Grouped(Experts):
        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = torch.ops.transformers.grouped_mm_fallback(inputs, self.weight, ends)
            return output

    class Separate(Experts):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.cat([inputs[:2] @ self.weight[0], inputs[2:] @ self.weight[1]])

    grouped, separate, inputs, given = Grouped(), Separate(), torch.randn(5, 3), torch.randn(5, 4)
    separate.load_state_dict(grouped.state_dict())
    for settings in ({}, {"rule": rules.Epsilon(0.1)}, {"relative_magnitude": True, "magnitude_floor": 0.7}):
        found, expected = (propagate(model, inputs, given, **settings) for model in (grouped, separate))
        torch.testing.assert_close(found.output, expected.output, **CLOSE)
        torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
        torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)
