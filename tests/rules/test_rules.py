"""Each rule against published cases and loops: rewards of the inputs, feedback of the weights, what it promises."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attached, credit, rules
from support import rule_oracles
from support.propagation import CLOSE, Call, feedback_of, propagate, randomised
from support.published import Case, cases

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "epsilon 0": (rules.Epsilon(), rule_oracles.epsilon(0.0)),
    "epsilon 0.3": (rules.Epsilon(0.3), rule_oracles.epsilon(0.3)),
    "gamma": (rules.Gamma(0.25), rule_oracles.gamma(0.25)),
    "gamma 2, epsilon 0.1": (rules.Gamma(2.0, epsilon=0.1), rule_oracles.gamma(2.0, 0.1)),
    "alpha 2 beta 1": (rules.AlphaBeta(), rule_oracles.alpha_beta(2.0, 1.0)),
    "alpha 1.5 beta 0.5": (rules.AlphaBeta(1.5, 0.5, epsilon=0.2), rule_oracles.alpha_beta(1.5, 0.5, 0.2)),
    "alpha 1 beta 0": (rules.AlphaBeta(1.0, 0.0), rule_oracles.alpha_beta(1.0, 0.0)),
    "z+": (rules.ZPlus(), rule_oracles.alpha_beta(1.0, 0.0)),
    "w^2": (rules.WSquare(), rule_oracles.w_square()),
    "flat": (rules.Flat(), rule_oracles.flat()),
    "z^B": (rules.ZBox(-3, 4), rule_oracles.z_box(-3, 4)),
}
INNER = [name for name in RULES if name not in ("w^2", "flat", "z^B")]
LAYERS = {
    "linear": (lambda bias: nn.Linear(4, 3, bias=bias), (4,)),
    "conv1d": (lambda bias: nn.Conv1d(2, 3, 3, padding=1, bias=bias), (2, 4)),
    "conv2d": (lambda bias: nn.Conv2d(4, 2, 2, stride=2, padding=1, groups=2, bias=bias), (4, 3, 3)),
    "conv3d": (lambda bias: nn.Conv3d(1, 2, 2, bias=bias), (1, 2, 3, 2)),
    "conv_transpose1d": (lambda bias: nn.ConvTranspose1d(2, 2, 3, stride=2, padding=1, bias=bias), (2, 3)),
    "conv_transpose2d": (lambda bias: nn.ConvTranspose2d(2, 2, 2, dilation=2, bias=bias), (2, 2, 2)),
    "conv_transpose3d": (lambda bias: nn.ConvTranspose3d(1, 2, 2, bias=bias), (1, 2, 2, 2)),
}


def _compare(layer: nn.Module, inputs: Tensor, name: str, **settings) -> None:
    rule, share = RULES[name]
    rewards = torch.randn_like(layer(inputs).detach())
    shares, feedback = rule_oracles.backward(layer, inputs, rewards, share)
    found = propagate(layer, inputs, rewards, rule, **settings)
    torch.testing.assert_close(found.input_reward, shares, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.feedback, feedback, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", cases("lrp"), ids=lambda case: case.name)
def test_published_relevances_are_met(case: Case) -> None:
    expected, model = case.tensors(), case.model()
    given = F.one_hot(expected["target"], expected["output"].shape[1]) * expected["output"]
    found = propagate(model, expected["input"], given, case.rule)
    torch.testing.assert_close(found.output, expected["output"], **CLOSE)
    torch.testing.assert_close(found.input_reward, expected["input_reward"], **CLOSE)


@pytest.mark.parametrize("sign", ["any", "non-negative", "negative"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", RULES)
def test_loops_agree(name: str, layer: str, bias: bool, sign: str) -> None:
    make, shape = LAYERS[layer]
    inputs = torch.randn(2, *shape)
    inputs = {"any": inputs, "non-negative": inputs.abs(), "negative": -inputs.abs()}[sign]
    _compare(randomised(make(bias)), inputs, name)


def test_a_rule_by_hand() -> None:
    # a = (1, 2), w = (3, -1), b = 1: contributions 3, -2, bias 1; z = 2, r = 2
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -1.0]]))
        model.bias.fill_(1.0)
    for rule, share, weights, bias in (
        (rules.ZPlus(epsilon=0), [1.5, 0.0], [1.5, 0.0], 0.5),  # 3/4, 0, 1/4
        (rules.AlphaBeta(epsilon=0), [3.0, -2.0], [3.0, 2.0], 1.0),  # 2 * 3/4, -(-2/-2), 2 * 1/4
        (rules.Gamma(1.0, epsilon=0), [2.0, -2 / 3], [2.0, 2 / 3], 2 / 3),  # 6/6, -2/6, 2/6
        (rules.WSquare(epsilon=0), [18 / 11, 2 / 11], [18 / 11, -2 / 11], 2 / 11),  # 9/11, 1/11, 1/11
        (rules.Flat(epsilon=0), [1.0, 1.0], [1.0, -1.0], 0.0),  # 1/2, 1/2, nothing
        (rules.ZBox(0, 3, epsilon=0), [1.5, 0.5], [1.5, -0.5], 0.0),  # 3 - 0, -2 + 3: 3/4, 1/4, nothing
    ):
        found = propagate(model, torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0]]), rule)
        torch.testing.assert_close(found.input_reward, torch.tensor([share]))
        torch.testing.assert_close(found.feedback["weight"], torch.tensor([weights]))
        torch.testing.assert_close(found.feedback.get("bias", torch.zeros(1)), torch.tensor([bias]))


WRITTEN_OUT = {
    "matmul": lambda x, weight: x @ weight.T,
    "mm": lambda x, weight: torch.mm(x, weight.t()),
    "functional": lambda x, weight: F.linear(x, weight),
    "addmm": lambda x, weight: torch.addmm(torch.zeros(3), x, weight.T),
    "einsum": lambda x, weight: torch.einsum("ni,oi->no", x, weight),
}


@pytest.mark.parametrize("operation", ["functional", "addmm", "matmul", "mm", "einsum"])
@pytest.mark.parametrize("name", INNER)
def test_a_matrix_product_with_a_parameter_is_a_linear_layer(name: str, operation: str) -> None:
    layer, inputs, given = randomised(nn.Linear(4, 3, bias=False)), torch.randn(5, 4), torch.randn(5, 3)
    model = Call(WRITTEN_OUT[operation], weight=layer.weight.detach().clone())
    found, expected = (propagate(one, inputs, given, RULES[name][0]) for one in (model, layer))
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)


@pytest.mark.parametrize("name", INNER)
def test_experts_are_linear_layers_of_their_own_rows(name: str) -> None:
    weight, ends = torch.randn(2, 4, 4).float(), torch.tensor([2, 5], dtype=torch.int32)
    inputs, given = torch.randn(5, 4).float(), torch.randn(5, 4).float()  # the kernel has no float64

    def one_by_one(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:2] @ weight[0], x[2:] @ weight[1]])

    together = Call(lambda x, weight: torch._grouped_mm(x, weight, offs=ends), weight=weight)
    found = propagate(together, inputs, given, RULES[name][0])
    expected = propagate(Call(one_by_one, weight=weight), inputs, given, RULES[name][0])
    torch.testing.assert_close(found.input_reward, expected.input_reward, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.feedback, expected.feedback, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", INNER)
def test_a_computed_weight_hands_its_feedback_on_to_its_parameters(name: str) -> None:
    direction, size = torch.randn(3, 4), torch.rand(3, 1) + 0.5
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    model = Call(lambda x, direction, size: F.linear(x, direction * size), direction=direction, size=size)
    found = propagate(model, inputs, given, RULES[name][0])
    plain = Call(F.linear, weight=direction * size)
    expected = propagate(plain, inputs, given, RULES[name][0])
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    if "epsilon 0.3" not in name:  # the product itself is damped too
        torch.testing.assert_close(found.feedback["direction"], expected.feedback["weight"], **CLOSE)
        signed = expected.feedback["weight"] * direction.sign()
        torch.testing.assert_close(found.feedback["size"], signed.sum(1, keepdim=True), **CLOSE)


@pytest.mark.parametrize(
    "rule", [rules.Gamma(update="epsilon"), rules.AlphaBeta(update="epsilon"), rules.ZPlus(update="epsilon")], ids=repr
)
def test_weights_may_learn_by_epsilon_while_rewards_travel_by_the_rule(rule: rules.Rule) -> None:
    layer, inputs, given = randomised(nn.Conv1d(2, 3, 3)), torch.randn(2, 2, 5), torch.randn(2, 3, 3)
    by_rule = copy.deepcopy(rule)
    by_rule.update = "rule"
    found, expected = propagate(layer, inputs, given, rule), propagate(layer, inputs, given, by_rule)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    epsilon = propagate(layer, inputs, given, rules.Epsilon()).feedback
    torch.testing.assert_close(found.feedback, epsilon, **CLOSE)
    layer.zero_grad()


@pytest.mark.parametrize("name", RULES)
def test_magnitude_floor_lets_weights_of_zero_learn(name: str) -> None:
    layer, inputs, given = randomised(nn.Linear(4, 3)), torch.randn(5, 4), torch.randn(5, 3)
    with torch.no_grad():
        layer.weight[:, 0] = 0.0
    without = propagate(layer, inputs, given, RULES[name][0]).feedback["weight"].clone()
    found = propagate(layer, inputs, given, RULES[name][0], magnitude_floor=0.05).feedback["weight"]
    if name != "flat":  # which counts every weight as 1
        assert (without[:, 0] == 0).all()
    assert (found[:, 0] != 0).all()
    if name != "w^2":
        large = layer.weight.abs() > 0.05
        torch.testing.assert_close(found[large], without[large], **CLOSE)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", RULES)
def test_rewards_are_conserved_without_biases(name: str, layer: str) -> None:
    make, shape = LAYERS[layer]
    layer, inputs = randomised(make(False)), torch.randn(3, *shape)
    rule = copy.deepcopy(RULES[name][0])
    rule.epsilon = rule.damping = 0.0
    given = torch.randn_like(layer(inputs).detach())
    found = propagate(layer, inputs, given, rule)
    if "+" in name or "alpha" in name:  # an output to which nothing contributes with the sign loses its share
        positive, negative = (
            _of_sign(layer, inputs, wanted, unwanted) for wanted, unwanted in ((F.relu, _neg), (_neg, F.relu))
        )
        alpha, beta = (rule.alpha, rule.beta) if isinstance(rule, rules.AlphaBeta) else (1.0, 0.0)
        given = given * (alpha * (positive != 0) - beta * (negative != 0))
    reached = layer(torch.ones_like(inputs)) != 0  # padding alone reaches some outputs of a strided convolution
    torch.testing.assert_close(found.input_reward.sum(), given[reached].sum(), **CLOSE)


def _neg(x: Tensor) -> Tensor:
    return -F.relu(-x)


def _of_sign(layer: nn.Module, inputs: Tensor, positive, negative) -> Tensor:
    with torch.no_grad():
        parts = []
        for modify, of_inputs in ((positive, F.relu), (negative, _neg)):
            modified = copy.deepcopy(layer)
            modified.weight.copy_(modify(layer.weight))
            parts.append(modified(of_inputs(inputs)))
        return sum(parts)


@pytest.mark.parametrize("name", [name for name in INNER if "epsilon 0" not in name or "gamma" in name])
def test_the_cheaper_path_for_non_negative_inputs_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(
        nn.Sequential(
            nn.Conv1d(1, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)
        )
    )
    inputs, given = torch.randn(4, 1, 6), torch.randn(4, 3)
    asked, found = [], []
    for known in (credit.marks.known_non_negative, lambda x: False):
        monkeypatch.setattr(
            credit.marks, "known_non_negative", lambda x, known=known: asked.append(known(x)) or asked[-1]
        )
        model.zero_grad(set_to_none=True)
        found.append(propagate(model, inputs, given, RULES[name][0]))
    assert asked.count(True) >= 2
    torch.testing.assert_close(found[0].input_reward, found[1].input_reward, **CLOSE)
    torch.testing.assert_close(found[0].feedback, found[1].feedback, **CLOSE)


@pytest.mark.parametrize("rule", [rules.Gamma(0.25), rules.ZPlus(), rules.AlphaBeta()], ids=repr)
def test_an_input_of_0_gets_its_credit_once(rule: rules.Rule) -> None:
    """A step of 0 has credit for what turning 1 would be worth; it does not depend on what is known of its sign."""

    class Steps(nn.Module):
        def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.after = after
            self.threshold = nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.4]))
            self.layer = randomised(nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.after((x > self.threshold).double()))

    inputs, given = torch.randn(6, 4), torch.randn(6, 3)
    activation = rules.CentralDifference(2.0)  # passes credit below the threshold too
    found = []
    for after in (lambda steps: steps, lambda steps: steps * 1):
        torch.manual_seed(1)
        found.append(propagate(Steps(after), inputs, given, rule, activation=activation).feedback["threshold"])
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_what_was_written_to_is_not_known_to_be_non_negative() -> None:
    class Lowered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x * 1.0).clone().sub_(0.5)

    model = nn.Sequential(nn.Linear(4, 6), Lowered(), nn.Linear(6, 2, bias=False))
    inputs, given = torch.randn(5, 4), torch.randn(5, 2)
    hidden = model[:2](inputs).detach()
    found = propagate(model, inputs, given, rules.ZPlus())
    _, expected = rule_oracles.backward(model[2], hidden, given, rule_oracles.alpha_beta(1.0, 0.0))
    torch.testing.assert_close(found.feedback["2.weight"], expected["weight"], **CLOSE)


@pytest.mark.parametrize("rule", [rules.WSquare(), rules.Flat(), rules.ZBox(-3, 3)], ids=repr)
def test_rules_of_the_first_layer_are_refused_elsewhere(rule: rules.Rule) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    with attached(model, rule), pytest.raises(FeedpropError, match=f"first={type(rule).__name__}"):
        model(torch.randn(2, 4))
    with attached(model, rules.Composite(first=rule)):
        model(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert {"0.weight", "2.weight", "2.bias"} <= set(feedback_of(model))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rules.Gamma(-1), "gamma must be finite and not negative, got -1"),
        (lambda: rules.Gamma("much"), "gamma must be a number, not 'much'"),
        (lambda: rules.AlphaBeta(2, 2), "alpha - beta must be 1"),
        (lambda: rules.AlphaBeta(0.5, -0.5), "beta must be finite and not negative"),
        (lambda: rules.ZPlus(epsilon=float("nan")), "epsilon"),
        (lambda: rules.WSquare(epsilon=float("inf")), "epsilon"),
        (lambda: rules.ZBox("black", 1), "low must be a number, or one for each channel, all finite, not 'black'"),
        (lambda: rules.ZBox(0, float("inf")), "high must be a number"),
        (lambda: rules.Gamma(update="gradient"), '"rule" or "epsilon", not \'gradient\''),
    ],
)
def test_wrong_arguments_are_refused(make, sentence: str) -> None:
    with pytest.raises(FeedpropError, match=sentence):
        make()


def test_bounds_are_one_number_or_one_for_each_channel() -> None:
    layer, inputs, given = nn.Conv2d(2, 3, 2), torch.randn(2, 2, 3, 3), torch.randn(2, 3, 2, 2)
    one = propagate(layer, inputs, given, rules.ZBox(-3, 4))
    each = propagate(layer, inputs, given, rules.ZBox((-3, -3), torch.tensor([4, 4]).view(1, 2, 1, 1)))
    torch.testing.assert_close(one.input_reward, each.input_reward)
    other = propagate(layer, inputs, given, rules.ZBox((-3, -2), (4, 5)))
    shifted = nn.Conv2d(2, 3, 2)  # the bounds of the second channel are those of the first, moved by 1
    shifted.load_state_dict(layer.state_dict())
    moved = inputs - torch.tensor([0.0, 1.0]).view(2, 1, 1)
    with torch.no_grad():
        shifted.bias += layer.weight[:, 1].sum((1, 2))
    expected = propagate(shifted, moved, given, rules.ZBox(-3, 4))
    torch.testing.assert_close(other.output, expected.output)
    torch.testing.assert_close(other.input_reward, expected.input_reward)
    with pytest.raises(FeedpropError, match=r"3 bounds, but the inputs .* have 2 channels"):
        propagate(layer, inputs, given, rules.ZBox((0, 0, 0), 1))
