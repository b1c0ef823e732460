"""An attached model compiles into one graph and computes the same."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attach, rewards, rules
from propagation import Residual, feedback_of, randomised

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:::torch"),  # the compiler's own
]


class Block(nn.Module):
    """The residual block of a ResNet: everything in place."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.activation(self.inner(x))
        out = self.inner(out)
        out += identity
        return self.activation(out)


class Handwritten(nn.Module):
    """Methods of tensors that torch writes in Python, and an activation and a normalisation written out."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(1.702 * x)
        x = x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-5)
        return 1 - x + 1 / (3 + x.square()) + x.unflatten(-1, (-1, 2)).norm(dim=-1, keepdim=True).flatten(-2).mean()


NETWORKS = {
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 8)), nn.TransformerEncoderLayer(8, 2, 8, activation="gelu", batch_first=True, dropout=0.0),
        Handwritten(), nn.Flatten(), nn.Linear(16, 4),
    ),
    "perceptron": lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)),
    "convolutional": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), Block(nn.ReLU(inplace=True)),
        Block(nn.SiLU(inplace=True)), Residual(nn.GELU()), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "conserving"), [*((name, False) for name in NETWORKS), ("transformer", True)], ids=str
)
def test_compiled_equals_eager(name: str, conserving: bool) -> None:
    torch._dynamo.reset()
    model = attach(randomised(NETWORKS[name]()), rules.Composite(rules.Epsilon(0.1), conserving=conserving))
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    inputs, targets, reward = torch.randn(5, 16), torch.randint(4, (5,)), rewards.SoftmaxReward()
    for _ in range(2):
        values = [reward(one(inputs), targets) for one in (model, compiled)]
        for value in values:
            value.backward()
    torch.testing.assert_close(values[1], values[0])
    found = {key.removeprefix("_orig_mod."): f for key, f in feedback_of(compiled).items()}
    torch.testing.assert_close(found, feedback_of(model), rtol=1e-8, atol=1e-11)


class Unlisted(nn.Module):
    """Functions that torch.compile hands to no mode by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.weight = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)]), nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        for layer, phi in zip(self.layers, (F.tanh, F.sigmoid, F.hardswish, F.hardsigmoid), strict=True):
            x = phi(layer(x))
        return F.linear(x.unflatten(1, (2, 8)).flatten(1), torch.as_strided(self.weight, (4, 16), (16, 1)))


def test_no_function_is_hidden_by_the_compiler() -> None:
    torch._dynamo.reset()
    model = attach(randomised(Unlisted()), rules.Epsilon(0.1))
    inputs, targets, found = torch.randn(5, 16), torch.randint(4, (5,)), []
    for one in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        rewards.SoftmaxReward()(one(inputs), targets).backward()
        found.append(feedback_of(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-11)


def test_inductor_compiles_the_whole_step() -> None:
    torch._dynamo.reset()
    model = attach(randomised(NETWORKS["perceptron"]()), rules.Epsilon(0.1))
    reward = rewards.SoftmaxReward()
    inputs, targets = torch.randn(5, 16), torch.randint(4, (5,))
    reward(model(inputs), targets).backward()
    expected = {key: f.clone() for key, f in feedback_of(model).items()}
    model.zero_grad()
    step = torch.compile(lambda x, y: reward(model(x), y), fullgraph=True)
    step(inputs, targets).backward()
    torch.testing.assert_close(feedback_of(model), expected, rtol=1e-8, atol=1e-11)


def test_outputs_of_zero_are_rewarded_when_compiled() -> None:
    torch._dynamo.reset()
    model = attach(randomised(nn.Sequential(nn.Linear(16, 4), nn.ReLU())))
    inputs, given = torch.randn(6, 16), torch.randn(6, 4)
    assert (model(inputs) == 0).any()
    rewards.GivenReward()(model(inputs), given).backward()
    expected = {key: f.clone() for key, f in feedback_of(model).items()}
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    rewards.GivenReward()(compiled(inputs), given).backward()
    torch.testing.assert_close(feedback_of(model), expected, rtol=1e-8, atol=1e-11)
