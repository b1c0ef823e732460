"""Credit that only silent neurons receive is lost, and that is said."""

import warnings

import pytest
import snntorch as snn
import torch
from snntorch import functional
from torch import Tensor, nn

from feedprop import attached, rewards, rules
from feedprop.spiking import LIF, LeakyIntegrator, Neuron, Recurrent, SpikingSequential, State, Synaptic
from support.stepped import Stepped

STEPS, LABELS = 6, torch.tensor([0, 1, 1, 0])


def layer(inner: int, outer: int, weight: float, bias: float | None = 0.01) -> nn.Linear:
    linear = nn.Linear(inner, outer, bias=bias is not None)
    nn.init.constant_(linear.weight, weight)
    if bias is not None:
        nn.init.constant_(linear.bias, bias)
    return linear


def stepped(last: nn.Linear) -> nn.Module:
    return Stepped(layer(3, 4, 1.0), snn.Leaky(beta=0.9), last, snn.Leaky(beta=0.9))


def at_once(last: nn.Linear) -> nn.Module:
    return SpikingSequential(layer(3, 4, 1.0), LIF(), last, LIF())


def backward(model: nn.Module, objective) -> None:
    with attached(model):
        objective(model(torch.ones(STEPS, 4, 3)), LABELS).backward()


def counted(spikes: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(spikes.sum(0), labels)


BUILDS = pytest.mark.parametrize("build", [stepped, at_once])


@BUILDS
@pytest.mark.parametrize(
    "objective", [counted, functional.ce_rate_loss(), lambda s, y: rewards.SoftmaxReward()(s.sum(0), y)]
)
def test_a_loss_on_silent_outputs_says_that_nothing_arrived(build, objective) -> None:
    model = build(layer(4, 2, 1e-3))
    with pytest.warns(UserWarning, match=r"nothing arrived: .* feedprop\.rewards\.SpikeRateReward"):
        backward(model, objective)
    assert all((p.grad == 0).all() for p in model.parameters())


@BUILDS
@pytest.mark.parametrize("reward", [rewards.SpikeRateReward(), rewards.SpikeTargetReward()])
def test_a_reward_on_spikes_arrives(build, reward) -> None:
    model = build(layer(4, 2, 1e-3))
    backward(model, reward)  # a warning would be an error
    assert all((p.grad != 0).any() for p in model.parameters())


@BUILDS
@pytest.mark.parametrize("weight", [0.06, 0.5])  # fires in the last steps only, and in most
def test_a_loss_on_outputs_that_fire_is_fine(build, weight: float) -> None:
    model = build(layer(4, 2, weight))
    with torch.no_grad():
        spikes = model(torch.ones(STEPS, 4, 3))
    assert spikes.any()
    assert weight > 0.1 or not spikes[:2].any()
    backward(model, counted)


def without_biases(beta: float = 0.9) -> nn.Module:
    """A network whose silent hidden neurons leave the membranes behind them at exactly 0."""
    return Stepped(layer(3, 4, 1e-3, bias=None), snn.Leaky(beta), layer(4, 2, 1.0, bias=None), snn.Leaky(beta))


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("preset", [rules.presets.training, rules.presets.spiking, rules.presets.published])
@pytest.mark.parametrize(
    "objective",
    [counted, functional.ce_rate_loss(), functional.ce_temporal_loss(), functional.mse_count_loss(0.8, 0.2)],
    ids=["counted", "rate", "temporal", "count"],
)
def test_silent_neurons_without_biases_are_named(beta: float, preset, objective) -> None:
    model = without_biases(beta)
    with pytest.warns(UserWarning, match="nothing arrived"), attached(model, preset()):
        objective(model(torch.ones(STEPS, 4, 3)), LABELS).backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("build", [stepped, at_once, lambda _: without_biases()])
def test_each_model_is_told_once(build) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            model = build(layer(4, 2, 1e-3))
            for _ in range(3):
                backward(model, counted)
    assert ["nothing arrived" in str(warning.message) for warning in said] == [True, True]


def test_a_reward_on_spikes_of_another_model_hides_nothing() -> None:
    backward(at_once(layer(4, 2, 1e-3)), rewards.SpikeRateReward())
    with pytest.warns(UserWarning, match="nothing arrived"):
        backward(at_once(layer(4, 2, 1e-3)), counted)


@pytest.mark.parametrize("chunks", [1, 2, STEPS])
@pytest.mark.parametrize("weight", [1e-3, 0.2])
def test_a_sequence_in_chunks_is_one_sequence(chunks: int, weight: float) -> None:
    """Neurons that fire in the last chunk alone are not silent."""
    model = SpikingSequential(layer(3, 2, weight), LIF())
    parts, state, spikes = torch.ones(STEPS, 4, 3).chunk(chunks), State(), []
    with attached(model), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for part in parts:
            out, state = model(part, state)
            spikes.append(out)
        counted(torch.cat(spikes), LABELS).backward()
    assert not torch.cat(spikes)[0].any()
    assert bool(said) is not bool(torch.cat(spikes).any())


def test_silent_hidden_neurons_are_named_too() -> None:
    model = SpikingSequential(layer(3, 4, 1e-3), LIF(), nn.Linear(4, 2), LeakyIntegrator())
    with pytest.warns(UserWarning, match="give silent hidden neurons larger weights"):
        backward(model, counted)


def test_a_reward_on_spikes_is_not_disturbed_by_silent_hidden_neurons() -> None:
    model = SpikingSequential(layer(3, 4, 1e-3), LIF(), layer(4, 2, 1.0), LIF())
    backward(model, rewards.SpikeRateReward())  # a warning would be an error


class OneLayer(nn.Module):
    """One layer of snnTorch's neurons, step by step."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.linear, self.neuron = layer(3, 2, 1.0), snn.Leaky(**settings)

    def forward(self, inputs: Tensor) -> Tensor:
        membrane, spikes = self.neuron.reset_mem(), []
        for values in inputs:
            spike, membrane = self.neuron(self.linear(values), membrane)
            spikes.append(spike)
        return torch.stack(spikes)


MODELS = {
    "memoryless": lambda: SpikingSequential(layer(3, 2, 1.0), LIF(0.0)),
    "zero": lambda: SpikingSequential(layer(3, 2, 1.0), LIF(0.9, reset="zero")),
    "synaptic": lambda: SpikingSequential(layer(3, 2, 0.8), Synaptic(0.1, 0.1)),
    "recurrent": lambda: SpikingSequential(layer(3, 2, 1.0), Recurrent(layer(2, 2, 0.1), beta=0.0)),
    "stepped": lambda: OneLayer(beta=0.5),
    "stepped, memoryless": lambda: OneLayer(beta=0.0),
    "stepped, zero": lambda: OneLayer(beta=0.5, reset_mechanism="zero"),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("first", [0.0, 0.1])
def test_steps_before_the_first_spike_are_not_silence(build, first: float) -> None:
    """A current that grows fires in the last steps alone."""
    model = build()
    inputs = torch.linspace(first, 0.4, STEPS).view(STEPS, 1, 1).expand(STEPS, 4, 3)
    with attached(model):
        spikes = model(inputs)
        assert not spikes[:2].any()
        assert spikes[-2:].any()
        counted(spikes, LABELS).backward()  # a warning would be an error


class WrittenOut(Neuron):
    """LIF as torch functions, whose reset carries credit."""

    def step(self, current: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (membrane,) = state or (torch.zeros_like(current),)
        membrane = self.beta * membrane + current
        spike = (membrane > self.threshold).to(current.dtype)
        return spike, (membrane - spike,)


class Listed(nn.Module):
    """A spiking network that returns its steps in a list."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.network(x).unbind(0))


@pytest.mark.parametrize("listed", [False, True], ids=["one tensor", "list"])
@pytest.mark.parametrize("preset", [rules.presets.training, rules.presets.spiking, rules.presets.published])
@pytest.mark.parametrize("neuron", [LIF, WrittenOut])
@pytest.mark.filterwarnings("ignore:::torch")
def test_rewards_reach_silent_neurons_of_a_compiled_network_as_they_do_uncompiled(neuron, preset, listed) -> None:
    torch.manual_seed(0)
    network = SpikingSequential(nn.Linear(6, 8), LIF(), nn.Linear(8, 4), neuron()).double()
    model, x, labels = Listed(network) if listed else network, torch.rand(4, 5, 6).double(), torch.arange(5) % 4
    found = []
    with attached(model, preset()):
        for run in (model, torch.compile(model, backend="aot_eager")):
            torch._dynamo.reset()
            model.zero_grad()
            rewards.SpikeTargetReward()(run(x), labels).backward()
            found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*found)
