"""Networks without a derivative, and rewards that say only yes or no, learn seeded toy problems."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from feedprop import attached, discrete, rewards, rules
from support.propagation import feedback_of

pytestmark = pytest.mark.usefixtures("float64")


def circles(samples: int = 300) -> tuple[Tensor, Tensor]:
    labels = torch.arange(samples) % 2
    angles, radius = torch.rand(samples) * 2 * math.pi, torch.where(labels == 1, 1.5, 0.5) + 0.1 * torch.randn(samples)
    return torch.stack([radius * angles.cos(), radius * angles.sin()], 1), labels


class Mixture(nn.Module):
    """Two experts, of which a router chooses one for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2), discrete.TopOne())
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.stack([expert(x) for expert in self.experts], 1)  # (batch, expert, class)
        return (self.router(x).unsqueeze(2) * answers).sum(1)


def _binary() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    parametrize.register_parametrization(layers[2], "weight", discrete.BinaryWeight())
    return layers


NETWORKS = {
    "step": lambda: nn.Sequential(
        nn.Linear(2, 48), discrete.Step(), nn.Linear(48, 24), discrete.Step(), nn.Linear(24, 2)
    ),
    "sign": lambda: nn.Sequential(
        nn.Linear(2, 48), discrete.Sign(), nn.Linear(48, 24), discrete.Sign(), nn.Linear(24, 2)
    ),
    "ternary": lambda: nn.Sequential(nn.Linear(2, 48), discrete.Ternary(), nn.Linear(48, 2)),
    "2 bits": lambda: nn.Sequential(nn.Linear(2, 48), discrete.Quantize(2), nn.Linear(48, 2)),
    "binary weights": _binary,
}


def _trained(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    reward: nn.Module,
    *,
    rate: float = 0.03,
    steps: int = 150,
    **settings,
) -> Tensor:
    """Return the outputs after training."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with attached(model, rules.Composite(**settings)):
        for _ in range(steps):
            optimizer.zero_grad()
            reward(model(inputs), labels).backward()
            optimizer.step()
    return model(inputs)


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return (outputs.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_a_derivative_learns_circles(name: str) -> None:
    inputs, labels = circles()
    assert _accuracy(_trained(NETWORKS[name](), inputs, labels, rewards.SoftmaxReward()), labels) > 0.95


def test_a_routed_mixture_learns_what_no_expert_can() -> None:
    inputs = torch.rand(400, 2) * 2 - 1
    labels = ((inputs[:, 0] > 0) == (inputs[:, 1] > 0)).long()  # exclusive or: each expert is linear
    model = Mixture()
    outputs = _trained(model, inputs, labels, rewards.SoftmaxReward(), steps=250)
    assert _accuracy(outputs, labels) > 0.95
    assert all((model(inputs) == answer(inputs)).all(1).double().mean() < 0.9 for answer in model.experts)


def _four_blobs() -> tuple[Tensor, Tensor]:
    labels = torch.arange(400) % 4
    centres = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    return centres[labels] + 0.25 * torch.randn(400, 2), labels


@pytest.mark.parametrize("explores", [False, True])
def test_partial_feedback_on_the_choice_trains_a_step_network(explores: bool) -> None:
    inputs, labels = _four_blobs()
    model = nn.Sequential(nn.Linear(2, 48), discrete.Step(), nn.Linear(48, 4))
    optimizer, reward = torch.optim.Adam(model.parameters(), lr=0.02), rewards.ChoiceReward()
    with attached(model):
        for _ in range(200):
            optimizer.zero_grad()
            outputs = model(inputs)
            chosen = torch.randint(4, (400,)) if explores else outputs.argmax(1)
            reward(outputs, chosen == labels, chosen=chosen).backward()  # never which one would have been right
            optimizer.step()
    assert _accuracy(model(inputs), labels) > 0.95


class Centred(nn.Module):
    """Outputs less their mean, so that mistakes alone cannot drive them all down."""

    def forward(self, o: Tensor) -> Tensor:
        return o - o.mean(1, keepdim=True)


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.03])
def test_mistakes_alone_train_over_a_range_of_rates(rate: float) -> None:
    inputs, labels = _four_blobs()
    model = nn.Sequential(nn.Linear(2, 48), nn.ReLU(), nn.Linear(48, 4), Centred())
    settings = {"default": rules.Epsilon(0.1), "magnitude_floor": 0.02}
    outputs = _trained(model, inputs, labels, rewards.MisclassificationReward(), rate=rate, steps=200, **settings)
    assert _accuracy(outputs, labels) > 0.95


def test_feedback_reaches_the_layer_below_every_step() -> None:
    inputs, labels = circles()
    model = NETWORKS["step"]()
    with attached(model, rules.Epsilon()):
        rewards.SoftmaxReward()(model(inputs), labels).backward()
    found = feedback_of(model)
    assert (found["0.weight"] != 0).all()
    assert (found["2.bias"] != 0).all()
