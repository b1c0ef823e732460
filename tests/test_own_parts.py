"""What users write themselves: each mistake in it is answered by one sentence, and what is right is left alone.

The parts of docs/how-to-write-your-own-parts.md train in `tests/test_pages.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import FeedpropError, rewards, rules
from feedprop.spiking import LIF, Neuron, SpikingSequential, State

Answer = Callable[..., Any]


def one_sentence(error: pytest.ExceptionInfo[FeedpropError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert not text.endswith(".")
    assert error.value.__cause__ is None
    return text


class NoReward(rewards.Reward):
    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:  # a guessed name
        return outputs


class NoClassReward(rewards.ClassReward):
    pass


class NoSpikeReward(rewards.SpikeReward):
    pass


SPIKES = torch.ones(4, 3, 2)


@pytest.mark.parametrize(
    ("reward", "outputs", "missing"),
    [(NoReward(), SPIKES[0], "per_output"), (NoClassReward(), SPIKES[0], "per_output"),
     (NoSpikeReward(), SPIKES, "at_steps")],
)  # fmt: skip
def test_a_reward_without_its_method(reward: rewards.Reward, outputs: Tensor, missing: str) -> None:
    targets = torch.tensor([0, 1, 0])
    for call in (reward, reward.per_output, reward.credit):
        with pytest.raises(FeedpropError) as error:
            call(outputs, targets)
        assert f"{type(reward).__name__} does not say what" in one_sentence(error)
        assert f"define {missing}(self, " in str(error.value)


def reward_that_returns(answer: Answer, method: str = "per_output") -> rewards.Reward:
    return type("MyReward", (rewards.Reward,), {method: lambda self, outputs, targets: answer(outputs, targets)})()


WRONG_REWARDS: dict[str, tuple[Answer, str]] = {
    "nothing": (lambda o, t: None, "must return a tensor of real numbers, shaped like the outputs, not NoneType"),
    "a number": (lambda o, t: 1.0, "not float"),
    "complex": (lambda o, t: o + 0j, "not torch.complex64"),
    "one number per sample": (
        lambda o, t: (o.argmax(1) == t).float(),
        r"one number for each output, shaped \(3, 3\), ",
    ),
    "a sum": (lambda o, t: o.sum(), r"got shape \(\)"),
    "too many": (lambda o, t: o[None], r"got shape \(1, 3, 3\)"),
    "sparse": (lambda o, t: o.to_sparse(), "not torch.sparse_coo"),
    "elsewhere": (lambda o, t: o.to("meta"), "on the device of the outputs, cpu, not meta"),
    "NaN": (lambda o, t: o * torch.nan, "gave NaN or infinity for 9 of 9 outputs, all of which are finite: check"),
    "an infinity": (lambda o, t: o.masked_fill(o == 2, torch.inf), "gave NaN or infinity for 1 of 9 outputs"),
}


@pytest.mark.parametrize("method", ["per_output", "credit"])
@pytest.mark.parametrize(("answer", "words"), WRONG_REWARDS.values(), ids=WRONG_REWARDS)
def test_a_reward_that_returns_something_wrong(answer: Answer, words: str, method: str) -> None:
    outputs = torch.arange(1.0, 10).view(3, 3).requires_grad_()  # as many samples as classes: would broadcast
    with pytest.raises(FeedpropError, match=words) as error:
        reward_that_returns(answer, method)(outputs, torch.tensor([0, 1, 2]))
    assert one_sentence(error).startswith(f"MyReward.{method}()")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_a_reward_of_another_dtype_counts(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[2.0, 4.0]], requires_grad=True)
    value = reward_that_returns(lambda o, t: (o > 3).to(dtype))(outputs, torch.tensor([0]))
    value.backward()
    assert value.dtype is torch.float32
    torch.testing.assert_close(outputs.grad, torch.tensor([[0.0, -0.25]]))  # minus 1 / 4


def test_infinite_outputs_are_not_blamed_on_the_reward() -> None:
    """A GradScaler skips such steps; it would not if they were errors."""
    outputs = torch.tensor([[torch.inf, 1.0]], requires_grad=True)
    assert not reward_that_returns(lambda o, t: o)(outputs, torch.tensor([0])).isfinite()


class NoRule(rules.Rule):
    pass


def test_a_rule_without_shares() -> None:
    model = feedprop.attach(nn.Linear(2, 3), NoRule())
    with pytest.raises(FeedpropError, match=r"NoRule does not say how .* define shares\(self, part, z, in") as error:
        model(torch.ones(4, 2))
    one_sentence(error)


def step_with(rule: rules.Rule | rules.Composite, *, activation: type[nn.Module] = nn.ReLU) -> list[Tensor]:
    """Take a step with a small network and return its feedback."""
    model = feedprop.attach(nn.Sequential(nn.Linear(2, 3), activation(), nn.Linear(3, 2)), rule)
    rewards.SoftmaxReward()(model(torch.rand(4, 2)), torch.tensor([0, 1, 0, 1])).backward()
    return [-parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def rule_that_returns(answer: Answer) -> rules.Rule:
    return type("MyRule", (rules.Rule,), {"shares": lambda self, part, z, inputs: answer(part, z, inputs)})()


def same(w: Tensor) -> Tensor:
    return w


WRONG_SHARES: dict[str, tuple[Answer, str]] = {
    "nothing": (lambda part, z, a: None, r"must return a list of pairs \(factor, z'\), such as .* got NoneType"),
    "no pairs": (lambda part, z, a: [], "got list"),
    "z' alone": (lambda part, z, a: part(a, same, on_bias=same), "got Tensor"),
    "a list of z'": (lambda part, z, a: [part(a, same, on_bias=same)], "got a Tensor in its place"),
    "the pair alone": (lambda part, z, a: (1.0, part(a, same, on_bias=same)), "got a float in its place"),
    "a wrong shape": (lambda part, z, a: [(1.0, part(a, same, on_bias=same).sum(1))], r"shaped like z \(4, 3\), got"),
    "no tensor": (lambda part, z, a: [(1.0, 2.0)], "z' must be a tensor .* got float"),
    "a factor too large": (lambda part, z, a: [(torch.ones(2), part(a, same, on_bias=same))], r"shape \(2,\) does not"),
    "a factor of words": (lambda part, z, a: [("1", part(a, same, on_bias=same))], "a number or a tensor, got str"),
    "detached": (lambda part, z, a: [(1.0, z)], "computed without gradient, so no credit passes it; use part"),
    "NaN": (lambda part, z, a: [(1.0, part(a, lambda w: w / 0 * 0, on_bias=same))], "z' contains NaN, although"),
    "a weight summed": (
        lambda part, z, a: [(1.0, part(a, torch.sum, on_bias=None))],
        r"the shape of the .*, got shape",
    ),
    "a weight as a number": (lambda part, z, a: [(1.0, part(a, lambda w: 1.0, on_bias=None))], "got float"),
}


@pytest.mark.parametrize(("answer", "words"), WRONG_SHARES.values(), ids=WRONG_SHARES)
def test_a_rule_that_returns_something_wrong(answer: Answer, words: str) -> None:
    with pytest.raises(FeedpropError, match=words) as error:
        step_with(rule_that_returns(answer))
    one_sentence(error)


def test_a_rule_needs_no_call_of_its_parents_init() -> None:
    class Same(rules.Rule):
        def __init__(self) -> None:
            self.kept = 1

        def shares(self, part: rules.Part, z: Tensor, inputs: Tensor) -> list[tuple[float | Tensor, Tensor]]:
            return [(0.5, part(inputs, same, on_bias=same)), (0.5, part(inputs, same, on_bias=same).double().float())]

    torch.manual_seed(0)
    found = step_with(Same())
    torch.manual_seed(0)
    for mine, theirs in zip(found, step_with(rules.Epsilon()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


class NoActivationRule(rules.ActivationRule):
    def __init__(self) -> None:
        self.epsilon = 0.1


def test_an_activation_rule_without_slope() -> None:
    with pytest.raises(FeedpropError, match=r"NoActivationRule does not say how .* define slope") as error:
        step_with(rules.Composite(activation=NoActivationRule()), activation=nn.Tanh)
    one_sentence(error)


def slope_that_returns(answer: Answer) -> rules.Composite:
    methods = {"slope": lambda self, activation, z: answer(activation, z)}
    return rules.Composite(activation=type("MySlope", (rules.ActivationRule,), methods)())


WRONG_SLOPES: dict[str, tuple[Answer, str]] = {
    "nothing": (lambda f, z: None, r"must return a tensor shaped like z \(4, 3\), got NoneType"),
    "a number": (lambda f, z: 1.0, "got float"),
    "a mean": (lambda f, z: f(z).mean(), r"got shape \(\)"),
    "one number per neuron": (lambda f, z: f(z).mean(0), r"got shape \(3,\)"),
    "NaN": (lambda f, z: f(z) * torch.nan, "gave NaN or infinity for 12 of 12 pre-activations, all of which are fin"),
}


@pytest.mark.parametrize(("answer", "words"), WRONG_SLOPES.values(), ids=WRONG_SLOPES)
def test_a_slope_that_is_wrong(answer: Answer, words: str) -> None:
    with pytest.raises(FeedpropError, match=words) as error:
        step_with(slope_that_returns(answer), activation=nn.Tanh)
    assert one_sentence(error).startswith("MySlope.slope()")


def quotient(activation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return activation(z + 0.5) - activation(z - 0.5)


@pytest.mark.parametrize(
    "answer",
    [quotient, lambda f, z: quotient(f, z).double(), lambda f, z: quotient(f, z.double())],
    ids=["as it is", "a double", "of doubles"],
)
def test_a_slope_gives_the_feedback_of_the_rule_that_it_is(answer: Answer) -> None:
    torch.manual_seed(0)
    found = step_with(slope_that_returns(answer), activation=nn.Tanh)
    torch.manual_seed(0)
    expected = step_with(rules.Composite(activation=rules.CentralDifference()), activation=nn.Tanh)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_slope_may_be_constant_or_the_input_itself() -> None:
    """What a slope returns is not written to: neither the saved input nor a number that was expanded."""
    z = torch.tensor([1.0, 2.0], requires_grad=True)
    for answer, expected in ((lambda f, z: torch.ones(()).expand_as(z), [1.0, 1.0]), (lambda f, z: z, [1.0, 2.0])):
        with feedprop.attached(nn.Sequential(nn.Identity(), nn.Tanh()), slope_that_returns(answer)) as model:
            output = model(z * 1.0).sum()
            for _ in range(2):
                z.grad = None
                output.backward(retain_graph=True)
                torch.testing.assert_close(z.grad, torch.tensor(expected))


class NoNeuron(Neuron):
    pass


def test_a_neuron_without_step() -> None:
    with pytest.raises(FeedpropError, match="NoNeuron does not say what happens in a step: define step") as error:
        NoNeuron()(torch.ones(4, 2, 3))
    one_sentence(error)


def test_a_run_that_returns_outputs_alone() -> None:
    class MyNeuron(Neuron):
        def run(self, currents: Tensor, start: Any, *, steps: int | None) -> Any:
            return (currents > 0).float()

    with pytest.raises(FeedpropError, match=r"MyNeuron\.run\(\) must return \(outputs, state\)") as error:
        MyNeuron()(torch.ones(4, 2, 3))
    one_sentence(error)


def neuron_that_returns(answer: Answer) -> Neuron:
    return type("MyNeuron", (Neuron,), {"step": lambda self, current, state: answer(current, state)})()


WRONG_STEPS: dict[str, tuple[Answer, str]] = {
    "nothing": (lambda i, s: None, r"must return \(output, state\), a tensor and a tuple of tensors"),
    "spikes alone": (lambda i, s: i, "a tensor and a tuple"),
    "a state that is no tuple": (lambda i, s: (i, i), "a tensor and a tuple"),
    "bool": (lambda i, s: (i > 1, (i,)), r"floating-point tensors shaped like the current \(2, 3\), got torch.bool"),
    "another dtype": (lambda i, s: (i.double(), (i,)), r"dtype of the current, torch.float32, got torch.float64"),
    "a wrong shape": (lambda i, s: (i.sum(1), (i,)), r"got torch.float32 \(2,\)"),
    "a wrong state": (lambda i, s: (i, (i.sum(),)), r"got torch.float32 \(\)"),
    "a state of numbers": (lambda i, s: (i, (0.0,)), "got float"),
    "NaN": (lambda i, s: (i * torch.nan, (i,)), "are NaN or infinite, although the current is finite"),
}


@pytest.mark.parametrize(("answer", "words"), WRONG_STEPS.values(), ids=WRONG_STEPS)
def test_a_step_that_returns_something_wrong(answer: Answer, words: str) -> None:
    with pytest.raises(FeedpropError, match=words) as error:
        neuron_that_returns(answer)(torch.ones(4, 2, 3))
    assert one_sentence(error).startswith("MyNeuron.step()")


class Written(Neuron):
    """LIF as torch functions."""

    def step(self, current: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        membrane, spike = state or (torch.zeros_like(current), torch.zeros_like(current))
        membrane = self.beta * membrane + current - self.threshold * spike.detach()
        spike = (membrane > self.threshold).to(current.dtype)
        return spike, (membrane, spike)


def test_a_step_gives_the_values_of_the_neuron_that_it_is() -> None:
    currents = torch.rand(6, 2, 3)
    torch.testing.assert_close(Written()(currents), LIF()(currents))
    torch.testing.assert_close(Written()(currents[0], steps=6), LIF()(currents[0], steps=6))
    spikes, state = Written()(currents[:2], State())
    more, _ = Written()(currents[2:], state)
    torch.testing.assert_close(torch.cat([spikes, more]), LIF()(currents))


def test_a_neuron_of_ones_own_learns_in_a_network() -> None:
    network = SpikingSequential(nn.Linear(3, 8), Written(learn_beta=True), nn.Linear(8, 2), LIF(), steps=5)
    feedprop.attach(network)
    rewards.SpikeTargetReward()(network(torch.rand(16, 3) * 5), torch.arange(16) % 2).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert network.layers[0].weight.grad.any()


def test_a_reward_needs_no_call_of_its_parents_init() -> None:
    class Twice(rewards.Reward):
        def __init__(self) -> None:
            self.kept = nn.Linear(2, 2)

        def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return 2 * torch.ones_like(outputs)

    reward, outputs = Twice(), torch.full((4, 2), 2.0, requires_grad=True)
    reward(outputs, torch.zeros(4)).backward()
    torch.testing.assert_close(outputs.grad, torch.full((4, 2), -1 / 4))
    assert len([*copy.deepcopy(reward).parameters()]) == 2


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "not 0"),
        (-1.0, r"not -1\.0"),
        (None, "not NoneType"),
        ("3", "not str"),
        (torch.ones(2), r"not shape \(2,\)"),
    ],
    ids=["zero", "negative", "nothing", "text", "a tensor"],
)
def test_a_number_of_samples_that_cannot_divide(size: object, words: str) -> None:
    class MyReward(rewards.Reward):
        def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs

        def samples(self, outputs: Tensor, targets: Tensor) -> Any:
            return size

    with pytest.raises(FeedpropError, match=rf"MyReward\.samples\(\) must return what to divide by.*{words}") as error:
        MyReward()(torch.ones(2, 3, requires_grad=True), torch.tensor([0, 1]))
    one_sentence(error)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(lambda s, c, t: None, "not NoneType"), (lambda s, c, t: c, r"got shape \(3, 2\)")],
    ids=["nothing", "counts"],
)
def test_a_spike_reward_that_returns_something_wrong(answer: Answer, words: str) -> None:
    class MyReward(rewards.SpikeReward):
        def at_steps(self, spikes: Tensor, counts: Tensor, true: Tensor) -> Tensor:
            return answer(spikes, counts, true)

    with pytest.raises(FeedpropError, match=rf"MyReward\.at_steps\(\) must return .*{words}") as error:
        MyReward()(SPIKES, torch.tensor([0, 1, 0]))
    one_sentence(error)
