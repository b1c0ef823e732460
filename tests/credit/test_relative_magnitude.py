"""Relative magnitudes: the feedback of each parameter is divided by its root mean square, however it takes part."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from feedprop import attach, attached, detach, rewards, rules
from support.propagation import CLOSE, feedback_of, randomised

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:::torch"),  # the compiler's own
]

REWARD = rewards.SoftmaxReward()
RULES = {
    "epsilon": rules.Epsilon(0.1),
    "gamma": rules.Composite(rules.Gamma(0.25), first=rules.Flat()),
    "alpha-beta": rules.Composite(rules.AlphaBeta(), first=rules.WSquare()),
    "z-plus": rules.ZPlus(),
}


class Network(nn.Module):
    """A weight used twice, another that is learned through its sign, a factor, a normalisation, convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(1, 8, 3, padding=1), nn.LayerNorm(8)
        self.twice, self.signed = nn.Linear(8, 8), nn.Linear(8, 8)
        self.factor, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution(x[:, None]).relu().mean(-1))
        x = self.twice(torch.tanh(self.twice(x)) * self.factor)
        return self.head(F.linear(x, self.signed.weight.sign(), self.signed.bias).relu())


def _spread(model: nn.Module) -> nn.Module:
    """Give each parameter a scale of its own."""
    with torch.no_grad():
        for number, parameter in enumerate(randomised(model).parameters()):
            parameter *= 2.0 ** (number - 4)
    return model


def _divided(feedback: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return {name: feedback[name] / p.detach().square().mean().sqrt() for name, p in model.named_parameters()}


def _feedback(model: nn.Module, rule: rules.Rule | rules.Composite, **settings: bool | float) -> dict[str, Tensor]:
    torch.manual_seed(1)
    inputs, targets = torch.randn(6, 8), torch.randint(4, (6,))
    model.zero_grad()
    with attached(model, rules.Composite.of(rule).replace(**settings)):
        REWARD(model(inputs), targets).backward()
    return feedback_of(model)


@pytest.mark.parametrize("rule", RULES)
def test_feedback_is_divided_by_the_root_mean_square(rule: str) -> None:
    model = _spread(Network())
    expected = _divided(_feedback(model, RULES[rule]), model)
    found = _feedback(model, RULES[rule], relative_magnitude=True)
    torch.testing.assert_close(found, expected, **CLOSE)
    without = {name for name, feedback in found.items() if not feedback.any()}
    assert without == ({"convolution.bias"} if rule == "gamma" else set())  # Flat gives biases nothing


@pytest.mark.parametrize("rule", RULES)
def test_the_floor_is_in_units_of_the_root_mean_square(rule: str) -> None:
    layer = _spread(nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        layer.weight[:, ::2] = 0.0
    rms = float(layer.weight.detach().square().mean().sqrt())
    expected = _feedback(layer, RULES[rule], magnitude_floor=0.5 * rms)
    assert (expected["weight"] != _feedback(layer, RULES[rule])["weight"]).any() or rule in ("gamma", "alpha-beta")
    found = _feedback(layer, RULES[rule], magnitude_floor=0.5, relative_magnitude=True)
    torch.testing.assert_close(found, _divided(expected, layer), **CLOSE)


def test_embeddings_are_divided_by_that_of_the_whole_table() -> None:
    tokens, targets = torch.tensor([[1, 4, 1], [0, 2, 4]]), torch.tensor([0, 3])
    for sparse in (False, True):
        model = _spread(nn.Sequential(nn.Embedding(6, 3, sparse=sparse), nn.Flatten(), nn.Linear(9, 4)))
        found = []
        for relative in (False, True):
            model.zero_grad()
            with attached(model, rules.Composite(relative_magnitude=relative)):
                REWARD(model(tokens), targets).backward()
            found.append({name: f.to_dense() for name, f in feedback_of(model).items()})
        torch.testing.assert_close(found[1], _divided(found[0], model), **CLOSE)


def test_given_weights_are_divided_by_theirs() -> None:
    model, inputs, targets = _spread(Network()), torch.randn(6, 8), torch.randint(4, (6,))
    given = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def value(weights: dict[str, Tensor]) -> Tensor:
        return REWARD(functional_call(model, weights, (inputs,)), targets)

    with attached(model, rules.Composite(relative_magnitude=True, magnitude_floor=0.2)):
        REWARD(model(inputs), targets).backward()
        found = {name: -f for name, f in grad(value)(given).items()}
    torch.testing.assert_close(found, feedback_of(model), **CLOSE)


def test_compiled_equals_eager() -> None:
    model, inputs, targets = _spread(Network()), torch.randn(6, 8), torch.randint(4, (6,))
    attach(model, rules.Composite(rules.Gamma(0.25), relative_magnitude=True, magnitude_floor=0.2))
    found = []
    for one in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        REWARD(one(inputs), targets).backward()
        found.append(feedback_of(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-11)


def test_feedback_has_about_the_norm_of_the_gradient() -> None:
    # the reason for it: what clips a gradient at 1, or suits it as a learning rate, suits the feedback as well
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    inputs, targets = torch.randn(32, 64), torch.randint(10, (32,))
    F.cross_entropy(model(inputs), targets).backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    found = {}
    for relative in (False, True):
        model.zero_grad()
        attach(model, rules.Composite(relative_magnitude=relative))
        REWARD(model(inputs), targets).backward()
        detach(model)
        found[relative] = nn.utils.get_total_norm([p.grad for p in model.parameters()]) / norm
    assert found[False] < 0.1
    assert 0.8 < found[True] < 1.25
