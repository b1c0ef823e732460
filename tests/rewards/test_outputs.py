"""What a model returns: each output that is an activation is rewarded where it is 0, at no cost in memory."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from feedprop import FeedpropError, attach, attached, recomputation, rewards, rules
from support import oracles
from support.propagation import CLOSE, Step, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")


@dataclass
class Answer:
    """Several outputs by name."""

    left: Tensor
    right: Tensor


CONTAINERS = {
    "tuple": lambda left, right: (left, right),
    "list": lambda left, right: [left, right],
    "dictionary": lambda left, right: {"left": left, "right": right},
    "nested": lambda left, right: ({"left": [left]}, (right,)),
    "dataclass": Answer,
}


class TwoHeads(nn.Module):
    """Two outputs, each the end of its own activation."""

    def __init__(self, activation: nn.Module, container) -> None:
        super().__init__()
        self.left, self.right = randomised(nn.Linear(4, 6)), randomised(nn.Linear(4, 5))
        self.activation, self.container = activation, container

    def forward(self, x: Tensor):
        return self.container(self.activation(self.left(x)), self.activation(self.right(x)))


def _flat(result) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    parts = (
        result.values() if isinstance(result, dict) else vars(result).values() if isinstance(result, Answer) else result
    )
    return [tensor for part in parts for tensor in _flat(part)]


def _compare(model: TwoHeads, inputs: Tensor) -> None:
    given = torch.randn(3, 6), torch.randn(3, 5)
    with attached(model, rules.Composite(activation=rules.Secant.published())):
        outputs = _flat(model(inputs))
        assert [bool((output == 0).any()) for output in outputs] == [True, True]
        sum(rewards.GivenReward(reduction="sum")(*pair) for pair in zip(outputs, given, strict=True)).backward()
    expected = {}
    for name, reward in zip(("left", "right"), given, strict=True):
        _, feedback = oracles.backward(getattr(model, name), inputs, reward, 0.0)
        expected |= {f"{name}.{key}": value for key, value in feedback.items()}
    torch.testing.assert_close(feedback_of(model), expected, **CLOSE)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("activation", [nn.ReLU(), Step()], ids=str)
def test_every_output_is_rewarded_where_it_is_zero(activation: nn.Module, container: str) -> None:
    _compare(TwoHeads(activation, CONTAINERS[container]), torch.randn(3, 4))


def test_a_hidden_activation_is_an_output_too() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = randomised(nn.Linear(4, 6)), nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.ReLU())

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.relu(self.first(x))
            return hidden, self.rest(self.rest(hidden))

    model, inputs, given = Deep(), torch.randn(3, 4), torch.randn(3, 6)
    with attached(model, rules.Epsilon()):
        hidden, _ = model(inputs)
        assert (hidden == 0).any()
        rewards.GivenReward(reduction="sum")(hidden, given).backward()
    _, expected = oracles.backward(model.first, inputs, given, 0.0)
    torch.testing.assert_close(model.first.weight.grad, -expected["weight"], **CLOSE)


def test_both_outputs_are_rewarded_when_compiled() -> None:
    model = TwoHeads(nn.ReLU(), lambda left, right: (left, right))
    inputs, given = torch.randn(3, 4), (torch.randn(3, 6), torch.randn(3, 5))
    found = []
    with attached(model):
        for one in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
            model.zero_grad()
            pairs = zip(one(inputs), given, strict=True)
            sum(rewards.GivenReward()(*pair) for pair in pairs).backward()
            found.append({name: f.clone() for name, f in feedback_of(model).items()})
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-11)


class Watched(nn.ReLU):
    """Notes how many of all pre-activations so far are still there."""

    def __init__(self, seen: list[weakref.ref], alive: list[int]) -> None:
        super().__init__()
        self.seen, self.alive = seen, alive

    def forward(self, z: Tensor) -> Tensor:
        self.seen.append(weakref.ref(z))
        self.alive.append(sum(reference() is not None for reference in self.seen))
        return super().forward(z)


def test_pre_activations_of_the_inside_are_let_go() -> None:
    seen, alive = [], []
    layers = [layer for _ in range(12) for layer in (randomised(nn.Linear(4, 4)), Watched(seen, alive))]
    with attached(nn.Sequential(*layers)) as model:
        output = model(torch.randn(2, 4))
    gc.collect()
    assert output.grad_fn is not None  # its graph is alive
    assert max(alive) <= 3  # the one at hand, and at most two before
    assert sum(reference() is not None for reference in seen) == 1


class Checkpointed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.first, self.inner, self.settings = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 6), nn.Tanh()), settings
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        def block(x: Tensor) -> Tensor:
            return nn.functional.linear(self.inner(x), self.weight)

        x = self.first(x)
        return checkpoint(block, x, **self.settings) if self.settings else block(x)


def test_a_reentrant_checkpoint_is_refused() -> None:
    model = Checkpointed(use_reentrant=True)
    with (
        attached(model),
        pytest.raises(FeedpropError, match=r"write checkpoint\(\.\.\., use_reentrant=False\)"),
    ):
        model(torch.randn(2, 4))
    model(torch.randn(2, 4)).sum().backward()  # not attached: as ever
    assert model.inner[0].weight.grad is not None


@pytest.mark.parametrize(
    "composite",
    [
        rules.Epsilon(0.1),
        rules.Composite(rules.ZPlus(), last=rules.Epsilon(0.1)),
        rules.Composite(by_name={"*": rules.Gamma()}),
    ],
    ids=str,
)
@pytest.mark.parametrize("settings", [{}, {"context_fn": recomputation}], ids=["default", "given"])
def test_a_checkpoint_takes_the_rules_along(composite, settings) -> None:
    plain = randomised(Checkpointed())
    other = Checkpointed(use_reentrant=False, **settings)
    other.load_state_dict(plain.state_dict())
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    found = [propagate(model, inputs, given, composite).feedback for model in (plain, other)]
    torch.testing.assert_close(*found, **CLOSE)


class Holder(nn.Module):
    """Holds a parameter itself, under a rule of its own, and checkpoints what uses it."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.weight, self.settings = nn.Parameter(torch.randn(3, 4)), settings

    def forward(self, x: Tensor) -> Tensor:
        def block(x: Tensor) -> Tensor:
            return nn.functional.linear(x.tanh(), self.weight)

        return checkpoint(block, x, **self.settings) if self.settings else block(x)


def test_the_active_rule_comes_along() -> None:
    plain, composite = (
        nn.Sequential(randomised(nn.Linear(4, 4)), Holder()),
        rules.Composite(by_name={"1": rules.ZPlus()}),
    )
    other = nn.Sequential(plain[0], Holder(use_reentrant=False))
    other[1].weight = plain[1].weight
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    found = [propagate(model, inputs, given, composite).feedback for model in (plain, other)]
    torch.testing.assert_close(found[1]["1.weight"], found[0]["1.weight"], **CLOSE)


def test_outputs_of_zero_are_rewarded_through_a_conversion() -> None:
    model = attach(randomised(nn.Sequential(nn.Linear(4, 6), nn.ReLU())))
    inputs, given = torch.randn(5, 4), torch.randn(5, 6).float()
    found = []
    for convert in (lambda outputs: outputs, torch.Tensor.float):  # as accelerate and FSDP convert what a model returns
        model.zero_grad()
        outputs = convert(model(inputs))
        assert (outputs == 0).any()
        rewards.GivenReward()(outputs, given).backward()
        found.append(feedback_of(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
