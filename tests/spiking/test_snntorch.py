"""Models of snnTorch's neurons, stepped in a loop as its tutorials do: attached, they give our own neurons' numbers."""

import copy
from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from feedprop import FeedpropError, attach, attached, detach, rules
from feedprop.rewards import GivenReward, SpikeTargetReward, stacked
from feedprop.spiking import LIF, Recurrent, SpikingSequential, Synaptic
from support.published import cases

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


class Tutorial(nn.Module):
    """A network as in snnTorch's tutorials: hidden states initialised, then a loop over the steps."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor) -> Tensor:
        states = {}
        for layer in self.layers:
            if isinstance(layer, snn.SpikingNeuron):
                state = layer.reset_mem()
                states[layer] = state if isinstance(state, tuple) else (state,)
        recorded = []
        for step in range(len(inputs)):
            values = inputs[step]
            for layer in self.layers:
                if layer in states:
                    values, *rest = layer(values, *states[layer])
                    states[layer] = (values, *rest) if isinstance(layer, snn.RLeaky) else tuple(rest)
                else:
                    values = layer(values)
            recorded.append(values)
        return torch.stack(recorded)


def feedback(model: nn.Module, inputs: Tensor, rewards: Tensor, epsilon: float) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    inputs = inputs.clone().requires_grad_()
    with attached(model, rules.Epsilon(epsilon)):
        spikes = model(inputs)
    GivenReward(reduction="sum")(spikes, rewards).backward()
    return spikes, [-p.grad for p in model.parameters()] + [-inputs.grad * inputs.detach()]


@torch.no_grad()
def their_own(tutorial: Tutorial, inputs: Tensor) -> Tensor:
    """Spikes by snnTorch's own forward, which fires in single precision whatever the membranes are."""
    return copy.deepcopy(tutorial).float()(inputs.float()).double()


def compare(theirs: nn.Module, ours: nn.Module, *, sizes: tuple[int, int] = (5, 4)) -> None:
    """One hidden layer of each neuron between the same linear layers."""
    first, last = nn.Linear(sizes[0], sizes[1]), nn.Linear(sizes[1], 3)
    with torch.no_grad():
        first.weight.mul_(4)
        last.weight.mul_(4)
        first.bias.add_(1)
        last.bias.add_(1)
    tutorial = Tutorial(nn.ModuleList([first, theirs, last, snn.Leaky(beta=0.7)]))
    network = SpikingSequential(first, ours, last, LIF(0.7))
    inputs, rewards = torch.rand(9, 6, sizes[0]), torch.randn(9, 6, 3)
    before = their_own(tutorial, inputs)
    spikes, wanted = feedback(network, inputs, rewards, 1e-6)
    found_spikes, found = feedback(tutorial, inputs, rewards, 1e-6)
    assert torch.equal(found_spikes, spikes)
    assert torch.equal(before, spikes)
    assert 0.05 < spikes.mean() < 0.95
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


EXACT: dict[str, Callable[..., nn.Module]] = {
    "Leaky": lambda **settings: snn.Leaky(beta=0.9, threshold=0.7, **settings),
    "Leaky, learned decay": lambda **settings: snn.Leaky(beta=torch.rand(5), learn_beta=True, **settings),
    "Leaky, a threshold each": lambda **settings: snn.Leaky(beta=0.9, threshold=torch.rand(5) + 0.3, **settings),
    "Leaky, no delay": lambda **settings: snn.Leaky(beta=0.9, reset_delay=False, **settings),
    "Synaptic": lambda **settings: snn.Synaptic(alpha=0.8, beta=0.9, **settings),
    "Synaptic, no delay": lambda **settings: snn.Synaptic(alpha=0.8, beta=0.9, reset_delay=False, **settings),
    "RLeaky": lambda **settings: snn.RLeaky(beta=0.9, linear_features=5, **settings),
    "RLeaky, no delay": lambda **settings: snn.RLeaky(beta=0.9, linear_features=5, reset_delay=False, **settings),
    "Lapicque": lambda **settings: snn.Lapicque(beta=0.9, **settings),
    "Lapicque, R and C": lambda **settings: snn.Lapicque(R=4.0, C=1.5, **settings),
}


class Stated(nn.Module):
    """One neuron over time; returns all it returns at each step, and its membranes."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.layer, self.neuron = nn.Linear(3, 5), neuron

    def forward(self, inputs: Tensor) -> list[Tensor]:
        recorded: list[Tensor] = []
        state = self.neuron.reset_mem()
        state = () if self.neuron.init_hidden else state if isinstance(state, tuple) else (state,)
        for values in inputs:
            returned = self.neuron(self.layer(values), *state)
            returned = returned if isinstance(returned, tuple) else (returned,)
            if state:
                state = returned if isinstance(self.neuron, snn.RLeaky) else returned[1:]
            recorded += [*returned, self.neuron.mem]
        return recorded


@pytest.mark.parametrize("hidden", [{}, {"init_hidden": True}, {"init_hidden": True, "output": True}], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("name", EXACT)
def test_values_are_those_of_snntorch_to_the_last_bit(name: str, reset: str, kind: torch.dtype, hidden: dict) -> None:
    model = Stated(EXACT[name](reset_mechanism=reset, **hidden)).to(kind)
    inputs = (torch.rand(12, 4, 3) * 3).to(kind)
    if name.startswith("RLeaky") and kind != torch.float32:
        pytest.skip("snnTorch's spikes have single precision, which its recurrent connection refuses")
    expected = [values.detach() for values in model(inputs)]
    with attached(model):
        found = model(inputs)
    assert any(values.any() for values in expected)
    for values, own in zip(found, expected, strict=True):
        assert values.dtype == (kind if kind == torch.float64 else own.dtype)
        assert torch.equal(values.detach().to(own.dtype), own)


@pytest.mark.parametrize("name", EXACT)
def test_under_autocast_spikes_have_the_precision_of_snntorch(name: str) -> None:
    model, inputs = Stated(EXACT[name]()), torch.rand(6, 4, 3) * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(inputs)  # the neurons remember a membrane of single precision from here on
        expected = [values.detach() for values in model(inputs)]
        with attached(model):
            found = model(inputs)
        spikes = torch.stack(found[:: 3 if "Synaptic" not in name else 4])
    for values, own in zip(found, expected, strict=True):
        assert values.dtype == own.dtype
        assert torch.equal(values.detach(), own)
    GivenReward()(spikes, torch.ones_like(spikes)).backward()
    assert model.layer.weight.grad.any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("reset_delay", [True, False])
def test_leaky(reset: str, reset_delay: bool) -> None:
    compare(
        snn.Leaky(beta=0.8, threshold=0.875, reset_mechanism=reset, reset_delay=reset_delay),
        LIF(0.8, 0.875, reset=reset, reset_delay=reset_delay),
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("beta", [0.8, torch.tensor([0.2, 0.5, 0.7, 0.9])], ids=["shared", "per neuron"])
def test_leaky_with_a_learned_decay(beta: float | Tensor) -> None:
    compare(snn.Leaky(beta=torch.as_tensor(beta).double(), learn_beta=True), LIF(beta, learn_beta=True))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("reset_delay", [True, False])
def test_synaptic(reset: str, reset_delay: bool) -> None:
    compare(
        snn.Synaptic(alpha=0.5, beta=0.8, reset_mechanism=reset, reset_delay=reset_delay, learn_alpha=True),
        Synaptic(0.5, 0.8, reset="refractory" if reset == "zero" else reset, reset_delay=reset_delay, learn_alpha=True),
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_recurrent(reset: str) -> None:
    theirs = snn.RLeaky(beta=0.8, linear_features=4, reset_mechanism=reset)
    compare(theirs, Recurrent(theirs.recurrent, 0.8, reset="refractory" if reset == "zero" else reset))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_lapicque(reset: str) -> None:
    resistance, capacity = 4.0, 1.5
    theirs = snn.Lapicque(R=resistance, C=capacity, reset_mechanism=reset)
    first = nn.Linear(5, 4)
    with torch.no_grad():
        first.weight.mul_(6)
    ours = LIF(1 - 1 / (resistance * capacity), reset="refractory" if reset == "zero" else reset)
    scaled = copy.deepcopy(first)
    with torch.no_grad():  # their neuron divides the current by C
        scaled.weight.div_(capacity)
        scaled.bias.div_(capacity)
    inputs, rewards = torch.rand(9, 6, 5), torch.randn(9, 6, 4)
    tutorial = Tutorial(nn.ModuleList([first, theirs]))
    before = their_own(tutorial, inputs)
    spikes, found = feedback(tutorial, inputs, rewards, 1e-6)
    assert torch.equal(before, spikes)
    wanted_spikes, wanted = feedback(SpikingSequential(scaled, ours), inputs, rewards, 1e-6)
    assert torch.equal(spikes, wanted_spikes)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("case", cases("snn"), ids=lambda case: case.name)
def test_published_numbers(case) -> None:
    given, settings = case.tensors(), case.settings
    layers, own = [], []
    for name, arguments in case.spec:
        own.append(getattr(nn, name)(*arguments))
        layers.append(own[-1])
        if name in ("Linear", "Conv2d"):
            neuron = {key: settings[key] for key in ("beta", "threshold", "reset_delay")}
            layers.append(snn.Leaky(**neuron, reset_mechanism=settings["reset"]))
    for name, value in case.part("state").items():
        index, parameter = name.split(".")
        getattr(own[int(index)], parameter).data.copy_(value)
    spikes, found = feedback(Tutorial(nn.ModuleList(layers)), given["input"], given["reward"], settings["epsilon"])
    assert torch.equal(spikes, given["output"])
    names = [f"{i}.{name}" for i, layer in enumerate(own) for name, _ in layer.named_parameters()]
    wanted = case.part("feedback") | {"input": given["input_reward"]}
    for name, value in zip([*names, "input"], found, strict=True):
        assert (value - wanted[name]).abs().max() <= 1e-5 * wanted[name].abs().max(), name


def test_states_inside_the_neurons() -> None:
    """init_hidden=True: the model is one step, the caller loops, and the membranes stay in the neurons."""
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.mul_(4)
    model = nn.Sequential(linear, snn.Leaky(beta=0.8, init_hidden=True))
    inputs, rewards = torch.rand(6, 4, 3), torch.randn(6, 4, 2)
    _, wanted = feedback(SpikingSequential(linear, LIF(0.8)), inputs, rewards, 1e-6)
    linear.zero_grad()
    inputs.requires_grad_()
    with attached(model, rules.Epsilon(1e-6)):
        model[1].reset_mem()
        spikes = stacked([model(step) for step in inputs])
    GivenReward(reduction="sum")(spikes, rewards).backward()
    found = [-linear.weight.grad, -linear.bias.grad, -inputs.grad * inputs.detach()]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_without_gradients_and_after_detach_the_neuron_is_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 2), snn.Leaky(beta=0.8, init_hidden=True))
    attach(model)
    with torch.no_grad():
        model(torch.rand(4, 3))
    copied = copy.deepcopy(model)
    assert copied[1].forward.neuron is copied[1]
    detach(model)
    assert "forward" not in model[1].__dict__


def test_restored_after_an_exception() -> None:
    model = nn.Sequential(nn.Linear(3, 2), snn.Leaky(beta=0.8, init_hidden=True))
    with pytest.raises(RuntimeError, match="shapes"), attached(model):
        model(torch.rand(4, 5))
    assert "forward" not in model[1].__dict__


def test_a_neuron_that_is_attached_twice_is_released_once() -> None:
    inner = nn.Sequential(nn.Linear(3, 2), snn.Leaky(beta=0.8, init_hidden=True))
    outer = nn.Sequential(inner)
    with attached(outer):
        with attached(inner):
            pass
        assert "forward" in inner[1].__dict__
    assert "forward" not in inner[1].__dict__


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize(
    "neuron",
    [
        snn.Leaky(beta=0.9, learn_threshold=True),
        snn.Leaky(beta=0.9, graded_spikes_factor=2.0),
        snn.Leaky(beta=0.9, state_quant=torch.round),
        snn.Alpha(alpha=0.9, beta=0.8),
    ],
    ids=["learn_threshold", "graded_spikes", "state_quant", "Alpha"],
)
def test_what_no_rule_covers_is_refused(neuron: nn.Module) -> None:
    known = snn.Leaky(beta=0.9)
    with pytest.raises(FeedpropError, match=type(neuron).__name__):
        attach(nn.Sequential(nn.Linear(3, 2), known, neuron))
    assert "forward" not in known.__dict__


def test_a_tutorial_network_learns() -> None:
    """Two patterns of input spikes, told apart in a few steps."""
    model = Tutorial(nn.ModuleList([nn.Linear(8, 16), snn.Leaky(beta=0.8), nn.Linear(16, 2), snn.Leaky(beta=0.8)]))
    attach(model)
    optimizer, reward = torch.optim.Adam(model.parameters(), lr=1e-2), SpikeTargetReward()
    labels = torch.arange(32) % 2
    patterns = torch.stack([torch.arange(8) < 4, torch.arange(8) >= 4]).float()[labels]
    for _ in range(20):
        inputs = (torch.rand(8, 32, 8) < 0.1 + 0.5 * patterns).float()
        optimizer.zero_grad()
        reward(model(inputs), labels).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model(inputs).sum(0).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("neuron", [snn.Leaky(beta=0.9), snn.Lapicque(beta=0.9)], ids=["Leaky", "Lapicque"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_without_a_break(neuron: nn.Module) -> None:
    model, inputs, found = Stated(neuron), torch.rand(3, 4, 3) * 3, []
    with attached(model):
        for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
            model.zero_grad()
            spikes = run(inputs)[::3]  # beside each, its membrane twice
            SpikeTargetReward()(spikes, torch.arange(4)).backward()
            found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*found)
