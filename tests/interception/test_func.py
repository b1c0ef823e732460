"""Feedback per sample: torch.func.functional_call, grad and vmap around an attached model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from feedprop import FeedpropError, attached, rewards, rules
from support.propagation import CLOSE, Residual, Step, feedback_of, randomised

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # vmap of torch 2.15 calls it itself
]


class Tied(nn.Module):
    """One weight used twice, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.factor = nn.Linear(16, 16), nn.Linear(16, 16), nn.Parameter(torch.ones(16))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)) * self.factor)


class Assigned(nn.Module):
    """Writes a parameter to some of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.weight = nn.Linear(16, 4), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y[:, 1:3] = self.weight
        return y


def _convolution() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.SiLU(inplace=True))
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True), Residual(block),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.Softplus(),
    )  # fmt: skip


NETWORKS = {
    "perceptron": lambda: nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4)),
    "convolution": _convolution,
    "steps": lambda: nn.Sequential(nn.Linear(16, 8), Step(), nn.Linear(8, 4)),
    "tied": Tied,
    "assigned": Assigned,
}
RULES = {
    "epsilon": rules.Epsilon(0.1),
    "gamma": rules.Composite(rules.Gamma(0.25), first=rules.Flat()),
    "alpha-beta": rules.Composite(rules.AlphaBeta(), first=rules.WSquare()),
    "z+": rules.Composite(rules.ZPlus(), first=rules.ZBox(-3, 3)),
}
REWARDS = {"softmax": rewards.SoftmaxReward(), "correctness": rewards.CorrectnessReward()}


def _one_by_one(model: nn.Module, reward: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    found = []
    for x, y in zip(inputs, targets, strict=True):
        model.zero_grad()
        reward(model(x[None]), y[None]).backward()
        found.append(feedback_of(model))
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def _given(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_feedback_per_sample(network: str, rule: str, reward: str) -> None:
    model, objective = randomised(NETWORKS[network]()), REWARDS[reward]
    inputs, targets = torch.randn(3, 16), torch.randint(4, (3,))

    def value(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return objective(functional_call(model, weights, (x[None],)), y[None])

    with attached(model, rules.Composite.of(RULES[rule]).replace(magnitude_floor=0.1 if rule == "epsilon" else 0.0)):
        expected = _one_by_one(model, objective, inputs, targets)
        before = dict(model._parameters)
        found = vmap(grad(value), (None, 0, 0))(_given(model), inputs, targets)
        assert model._parameters == before
        alone = grad(value)(_given(model), inputs[0], targets[0])
    for name, feedback in expected.items():
        torch.testing.assert_close(-found[name], feedback, **CLOSE)
        torch.testing.assert_close(-alone[name], feedback[0], **CLOSE)


def test_given_weights_take_feedback_without_a_transform() -> None:
    model, reward = randomised(NETWORKS["perceptron"]()), rewards.SoftmaxReward()
    inputs, targets = torch.randn(3, 16), torch.randint(4, (3,))
    with attached(model, rules.ZPlus()):
        reward(model(inputs), targets).backward()
        given = {name: weight.requires_grad_() for name, weight in _given(model).items()}
        reward(functional_call(model, given, (inputs,)), targets).backward()
    for name, feedback in feedback_of(model).items():
        torch.testing.assert_close(-given[name].grad, feedback, **CLOSE)
    assert not any(hasattr(weight, "_from_parameters") for weight in given.values())


def test_relevance_of_inputs_by_jacrev() -> None:
    model, x = randomised(NETWORKS["perceptron"]()), torch.randn(16)
    with attached(model, rules.Epsilon(0.1)):
        credits = jacrev(lambda x: model(x[None])[0])(x)
        for number in range(4):
            leaf = x.clone().requires_grad_()
            model(leaf[None])[0, number].backward()
            torch.testing.assert_close(credits[number], leaf.grad, **CLOSE)


def test_what_hides_gradients_is_refused() -> None:
    model, x = randomised(NETWORKS["perceptron"]()), torch.randn(3, 16)

    def summed(weights: dict[str, Tensor]) -> Tensor:
        return vmap(lambda x: functional_call(model, weights, (x[None],)).sum())(x).sum()

    with attached(model):
        with pytest.raises(FeedpropError, match=r"write vmap\(grad\(...\)\)"):
            grad(summed)(_given(model))
        with pytest.raises(FeedpropError, match=r"write vmap\(grad\(...\)\)"):
            vmap(model)(x)
        with pytest.raises(FeedpropError, match="credit travels backwards"):
            jvp(model, (x,), (x,))
        with torch.no_grad():
            torch.testing.assert_close(vmap(model)(x), model(x), **CLOSE)


class Inside(nn.Module):
    """Returns what a function makes of a layer and x."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = randomised(nn.Linear(4, 3)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


def _without_recording(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        slopes = grad(lambda z: layer(z).tanh().sum())(x)
        return slopes + vmap(lambda z: z.tanh())(x)


TRANSFORMS_INSIDE: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "a layer": (lambda layer, x: vmap(layer)(x), "vmap inside .* call its function on the whole batch"),
    "an activation": (lambda layer, x: vmap(torch.tanh)(layer(x)), "vmap inside .* call its function on the whole"),
    "a weight": (lambda layer, x: vmap(lambda w: x @ w)(layer.weight), "vmap inside .* call its function on the whole"),
    "grad": (lambda layer, x: layer(x) * grad(lambda z: layer(z).tanh().sum())(x).sum(), r"grad, vjp or jacrev insid"),
    "vjp": (lambda layer, x: torch.func.vjp(lambda z: layer(z).tanh(), x)[0], r"grad, vjp or jacrev inside"),
    "jacrev": (lambda layer, x: jacrev(lambda z: layer(z).tanh())(x), r"take the derivative by torch\.autograd\.grad"),
    "jvp": (lambda layer, x: jvp(lambda z: layer(z).tanh(), (x,), (x,))[1], r"jvp or jacfwd inside .* torch\.autograd"),
    "jacfwd": (lambda layer, x: torch.func.jacfwd(lambda z: layer(z).tanh())(x), r"jvp or jacfwd inside"),
}


@pytest.mark.parametrize("name", TRANSFORMS_INSIDE)
def test_transforms_inside_of_the_model_are_refused(name: str) -> None:
    function, message = TRANSFORMS_INSIDE[name]
    with attached(Inside(function)) as model, pytest.raises(FeedpropError, match=message):
        model(torch.randn(5, 4))


@pytest.mark.filterwarnings("ignore:::torch")  # the compiler's own
@pytest.mark.parametrize("name", ["a layer", "grad"])
def test_transforms_inside_of_a_compiled_model_are_refused(name: str) -> None:
    function, message = TRANSFORMS_INSIDE[name]
    with attached(Inside(function)) as model, pytest.raises(FeedpropError, match=message):
        torch.compile(model, backend="aot_eager")(torch.randn(5, 4))


@pytest.mark.parametrize("per_sample", [False, True])
def test_transforms_of_constants_inside_of_the_model_are_left_alone(per_sample: bool) -> None:
    def function(layer: nn.Module, x: Tensor) -> Tensor:
        constants = vmap(grad(lambda z: z.tanh().sum()))(x) + _without_recording(layer, x)
        return layer(x + constants).tanh()

    model, x = Inside(function), torch.randn(5, 4)
    expected = model(x)
    with attached(model, rules.Epsilon(0.3)):
        assert torch.equal(model(x), expected)
        if per_sample:
            found = vmap(grad(lambda w, x: functional_call(model, w, (x[None],)).sum()), (None, 0))(_given(model), x)
            model(x).sum().backward()
            torch.testing.assert_close(-found["layer.weight"].sum(0), feedback_of(model)["layer.weight"], **CLOSE)


def test_a_model_without_values_is_attached_for_an_ensemble() -> None:
    models, inputs = [randomised(nn.Linear(3, 2)) for _ in range(2)], torch.randn(4, 3)
    weights, _ = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    with attached(base, rules.Epsilon()):
        found = vmap(grad(lambda given: functional_call(base, given, (inputs,)).sum()))(weights)
    expected = weights["weight"].abs() * inputs.sum(0)
    torch.testing.assert_close(found["weight"], expected)
