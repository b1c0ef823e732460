"""Every neuron against loops in the paper's order (float64) and against published numbers (float32)."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from feedprop import attached, rules
from feedprop.rewards import GivenReward
from feedprop.spiking import IF, LIF, SpikingSequential, State
from support.published import cases
from support.spiking_oracles import Layer, Settings

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
RESETS = ["subtract", "zero", "refractory", "none"]


def networks(sizes: list[int], settings: Settings) -> tuple[SpikingSequential, list[Layer]]:
    """The same network twice: ours and as loops."""
    layers, loops = [], []
    for inner, outer in itertools.pairwise(sizes):
        linear = nn.Linear(inner, outer)
        with torch.no_grad():
            linear.weight.mul_(2.0)
        beta = settings.beta if isinstance(settings.beta, float) else torch.tensor(settings.beta[:outer])
        layers += [linear, LIF(beta, settings.threshold, reset=settings.reset, reset_delay=settings.reset_delay)]
        loops.append(Layer(linear.weight.detach(), linear.bias.detach(), settings))
    return SpikingSequential(*layers), loops


def check(network: SpikingSequential, loops: list[Layer], inputs: Tensor, epsilon: float) -> None:
    expected = inputs
    for loop in loops:
        expected = loop.forward(expected)
    rewards = torch.randn_like(expected)
    inputs = inputs.clone().requires_grad_()
    with attached(network, rules.Epsilon(epsilon)):
        spikes = network(inputs)
    assert torch.equal(spikes, expected)
    assert 0.05 < spikes.mean() < 0.95  # a network that fires always or never shows nothing
    GivenReward(reduction="sum")(spikes, rewards).backward()
    for loop, linear in zip(reversed(loops), reversed(network[0::2]), strict=True):
        rewards = loop.backward(rewards)
        torch.testing.assert_close(-linear.weight.grad, loop.weight_feedback, **CLOSE)
        torch.testing.assert_close(-linear.bias.grad, loop.bias_feedback, **CLOSE)
    torch.testing.assert_close(-inputs.grad * inputs.detach(), rewards, **CLOSE)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_feedback_is_that_of_the_loops(reset: str, reset_delay: bool, epsilon: float) -> None:
    settings = Settings(beta=0.8, threshold=0.7, reset=reset, reset_delay=reset_delay, epsilon=epsilon)
    network, loops = networks([5, 6, 4], settings)
    check(network, loops, torch.rand(7, 3, 5), epsilon)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", RESETS)
def test_each_neuron_may_have_its_own_decay(reset: str) -> None:
    settings = Settings(beta=[0.1, 0.5, 0.9, 1.0, 0.0, 0.7], reset=reset)
    network, loops = networks([5, 6, 4], settings)
    check(network, loops, torch.rand(6, 3, 5) * 2, 1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:1 parameters are 0")  # on purpose, see below
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("reset_delay", [True, False])
def test_without_epsilon_only_what_contributed_nothing_is_left_out(reset: str, reset_delay: bool) -> None:
    settings = Settings(reset=reset, reset_delay=reset_delay, epsilon=0.0)
    network, loops = networks([5, 6, 4], settings)
    inputs = torch.rand(6, 3, 5) * 2
    with torch.no_grad():
        network[0].bias.zero_()
    inputs[:2] = 0.0  # all membranes of the first layer are exactly 0 at first
    check(network, loops, inputs, 0.0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("per_neuron", [True, False])
def test_a_learned_decay_gets_its_feedback(reset: str, reset_delay: bool, per_neuron: bool) -> None:
    betas = [0.3, 0.6, 0.9, 0.8] if per_neuron else [0.8] * 4
    neuron = LIF(torch.tensor(betas) if per_neuron else 0.8, reset=reset, reset_delay=reset_delay, learn_beta=True)
    linear = nn.Linear(5, 4)
    loop = Layer(linear.weight.detach(), linear.bias.detach(), Settings(betas, 1.0, reset, reset_delay))
    inputs, start, rewards = torch.rand(6, 3, 5) * 3, torch.rand(3, 4) * 2, torch.randn(6, 3, 4)
    expected = loop.forward(inputs, start)
    loop.backward(rewards)
    network = SpikingSequential(linear, neuron)
    with attached(network, rules.Epsilon(1e-6)):
        spikes, _ = network(inputs, State(parts=(State((start,)),)))
    assert torch.equal(spikes, expected)
    GivenReward(reduction="sum")(spikes, rewards).backward()
    wanted = loop.beta_feedback if per_neuron else loop.beta_feedback.sum()
    torch.testing.assert_close(-neuron.beta.grad, wanted, **CLOSE)
    torch.testing.assert_close(-linear.weight.grad, loop.weight_feedback, **CLOSE)


@pytest.mark.usefixtures("float64")
def test_a_threshold_per_neuron() -> None:
    thresholds = torch.tensor([0.5, 1.0, 1.5])
    currents = torch.rand(8, 2, 3, requires_grad=True)
    spikes = LIF(0.9, thresholds)(currents)
    spikes.backward(torch.ones_like(spikes))
    for neuron, threshold in enumerate(thresholds.tolist()):
        alone = currents.detach()[..., neuron : neuron + 1].requires_grad_()
        one = LIF(0.9, threshold)(alone)
        one.backward(torch.ones_like(one))
        assert torch.equal(spikes[..., neuron], one[..., 0])
        torch.testing.assert_close(currents.grad[..., neuron], alone.grad[..., 0], **CLOSE)


@pytest.mark.usefixtures("float64")
def test_integrate_and_fire_does_not_leak() -> None:
    currents = torch.full((5, 1, 1), 0.4)
    # u = .4 .8 1.2|s .6 (1.2 - 1 + .4) 1.0
    assert IF()(currents).flatten().tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("case", cases("snn"), ids=lambda case: case.name)
def test_published_numbers(case) -> None:
    given, settings = case.tensors(), case.settings
    neuron = {name: settings[name] for name in ("beta", "threshold", "reset", "reset_delay")}
    layers = []
    for name, arguments in case.spec:
        layers.append(getattr(nn, name)(*arguments))
        if name in ("Linear", "Conv2d"):
            layers.append(
                LIF(neuron["beta"], neuron["threshold"], reset=neuron["reset"], reset_delay=neuron["reset_delay"])
            )
    network = SpikingSequential(*layers)
    own = [layer for layer in network if not isinstance(layer, LIF)]
    for name, value in case.part("state").items():
        index, parameter = name.split(".")
        getattr(own[int(index)], parameter).data.copy_(value)
    inputs = given["input"].clone().requires_grad_()
    with attached(network, rules.Epsilon(settings["epsilon"])):
        spikes = network(inputs)
    assert torch.equal(spikes, given["output"])
    GivenReward(reduction="sum")(spikes, given["reward"]).backward()
    found = {f"{i}.{name}": -p.grad for i, layer in enumerate(own) for name, p in layer.named_parameters()}
    found["input"] = -inputs.grad * inputs.detach()
    wanted = case.part("feedback") | {"input": given["input_reward"]}
    assert found.keys() == wanted.keys()
    for name, feedback in wanted.items():
        assert (found[name] - feedback).abs().max() <= 1e-5 * feedback.abs().max(), name
