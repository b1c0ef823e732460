"""SpikingSequential: one batch of all steps gives what a loop over the steps gives."""

import copy

import pytest
import torch
from torch import nn

from feedprop import FeedpropError, attach, attached
from feedprop.rewards import GivenReward
from feedprop.spiking import LIF, LeakyIntegrator, Recurrent, SpikingResidual, SpikingSequential, State, Synaptic
from feedprop.spiking.activity import activity
from feedprop.spiking.models import lif_cnn, lif_cnn5, lif_mlp

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def convolutional(*, steps: int | None = None) -> SpikingSequential:
    return SpikingSequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), LIF(0.8), nn.MaxPool2d(2)),
        SpikingResidual(nn.Conv2d(3, 3, 3, padding=1), LIF(0.8), shortcut=nn.Conv2d(3, 3, 1)),
        SpikingResidual(nn.Conv2d(3, 3, 3, padding=1), LIF(0.8)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), LIF(0.8)),
        steps=steps,
    )


def randomised(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.8 + 0.2)
    return network.eval()


@pytest.mark.usefixtures("float64")
def test_all_steps_at_once_are_as_one_by_one() -> None:
    network = randomised(convolutional())
    inputs, rewards = torch.rand(6, 3, 2, 8, 8), torch.randn(6, 3, 4)
    found = []
    for at_once in (True, False):
        network.zero_grad()
        values = inputs.clone().requires_grad_()
        with attached(network):
            if at_once:
                spikes = network(values)
            else:
                state, outputs = State(), []
                for step in range(6):
                    output, state = network(values[step : step + 1], state)
                    outputs.append(output)
                spikes = torch.cat(outputs)
        spikes.backward(rewards)
        found.append([spikes, values.grad, *(p.grad for p in network.parameters())])
    assert 0.05 < found[0][0].mean() < 0.95
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channels", [1, 2])
def test_a_constant_input_is_the_same_as_repeating_it(channels: int) -> None:
    once = randomised(
        SpikingSequential(nn.Conv2d(channels, 3, 3), LIF(0.8), nn.Flatten(), nn.Linear(108, 4), LIF(), steps=5)
    )
    again = copy.deepcopy(once)
    again.steps = None
    image, rewards = torch.rand(3, channels, 8, 8), torch.randn(5, 3, 4)
    found = []
    for network, inputs in ((once, image), (again, image.expand(5, -1, -1, -1, -1))):
        values = inputs.clone().requires_grad_()
        with attached(network):
            spikes = network(values)
        GivenReward(reduction="sum")(spikes, rewards).backward()
        at_image = values.grad if network is once else values.grad.sum(0)
        found.append([spikes, at_image, *(p.grad for p in network.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_batch_normalisation_sees_all_steps() -> None:
    norm = nn.BatchNorm1d(3, momentum=1.0)
    inputs = torch.rand(4, 5, 3)
    SpikingSequential(norm, LIF())(inputs)
    torch.testing.assert_close(norm.running_mean, inputs.mean((0, 1)))


def test_a_thousand_steps_in_bounded_memory() -> None:
    """Truncated propagation: what is kept does not grow with the sequence."""
    network = attach(SpikingSequential(nn.Linear(16, 64), LIF(), nn.Linear(64, 4), LIF()))
    rewards, peaks, state = GivenReward(), [], State()
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    for _ in range(1000 // 50):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            spikes, state = network((torch.rand(50, 8, 16) < 0.3).float(), state.detach())
            rewards(spikes, torch.ones_like(spikes)).backward()
        peaks.append(sum(sizes))
    assert max(peaks[1:]) == min(peaks[1:])
    assert state.parts[0].tensors[0].detach().untyped_storage().nbytes() <= 50 * 8 * 64 * 4
    cut = state.detach().parts[0].tensors[0]
    assert cut.untyped_storage().nbytes() == 8 * 64 * 4
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_memory_grows_with_the_steps_by_spikes_and_membranes_only() -> None:
    network = attach(SpikingSequential(nn.Linear(5, 6), LIF(), steps=10))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    found = []
    for steps in (10, 20):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            spikes = network(torch.rand(3, 5), steps=steps)  # noqa: F841  keeps the graph alive
        found.append(sum(kept.values()))
    assert found[1] - found[0] == 2 * 10 * 3 * 6 * 4  # spikes and membranes, 10 steps, 3 samples, 6 neurons, 4 bytes


@pytest.mark.parametrize(
    ("build", "inputs"),
    [(lif_mlp, torch.rand(2, 1, 28, 28)), (lif_cnn, torch.rand(2, 1, 28, 28)), (lif_cnn5, torch.rand(2, 3, 32, 32))],
)
def test_models_of_the_literature(build, inputs: torch.Tensor) -> None:
    network = attach(build(steps=3))
    spikes = network(inputs)
    assert spikes.shape == (3, 2, 10)
    GivenReward()(spikes, torch.ones_like(spikes)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        timed = build(steps=None)
        timed.load_state_dict(network.state_dict())
        assert torch.equal(timed(inputs.expand(3, *inputs.shape)), network(inputs))


def test_deep_networks_are_not_silent_at_first() -> None:
    """Where no spike arrives there is no feedback, so that a network that is silent inside never learns."""
    rates = [
        row.rate for row in activity(lif_cnn5(channels=1, size=(12, 16)), torch.rand(2, 1, 12, 16)) if not row.dense
    ]
    assert len(rates) == 6
    assert min(rates) > 0.01


@pytest.mark.filterwarnings("ignore:nothing arrived")  # some are silent
@pytest.mark.parametrize("build", [lif_mlp, lif_cnn])
def test_compiled_without_a_break(build) -> None:
    network, inputs = attach(build(steps=3)), torch.rand(2, 1, 28, 28)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    found = []
    for model in (network, compiled):
        network.zero_grad()
        spikes = model(inputs)
        spikes.backward(torch.ones_like(spikes))
        found.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:nothing arrived")  # some are silent
@pytest.mark.parametrize(
    "neuron",
    [LIF(reset=reset) for reset in ("subtract", "zero", "refractory")]
    + [
        LIF(reset_delay=False),
        LIF(torch.full((4,), 0.8), learn_beta=True),
        Synaptic(0.5, 0.9),
        Recurrent(nn.Linear(4, 4)),
        LeakyIntegrator(0.9),
    ],
    ids=repr,
)
def test_sequences_compiled(neuron) -> None:
    network = attach(SpikingSequential(nn.Linear(3, 4), neuron, nn.Linear(4, 2), LIF()).double())
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.abs_()  # so that outputs fire
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    inputs, found = torch.rand(5, 2, 3, dtype=torch.float64) * 3, []
    for model in (network, compiled):
        network.zero_grad()
        spikes, state = model(inputs[:3], State())
        more, _ = model(inputs[3:], state.detach())
        (spikes.sum() + more.sum()).backward()
        found.append([spikes, more, *(p.grad.clone() for p in network.parameters())])
    assert any(part.any() for part in found[0][2:])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_readout_by_membrane() -> None:
    network = SpikingSequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 2), LeakyIntegrator(0.9))
    outputs = network(torch.rand(5, 2, 3) * 3)
    assert outputs.shape == (5, 2, 2)
    assert ((outputs != 0) & (outputs != 1)).any()


def test_what_is_refused() -> None:
    with pytest.raises(FeedpropError, match="at least one spiking neuron"):
        SpikingSequential(nn.Linear(2, 3))
    with pytest.raises(FeedpropError, match="steps must be at least 1, got 0"):
        SpikingSequential(LIF(), steps=0)
    for shape in ((3,), (4, 3), (4, 1, 2)):
        with pytest.raises(
            FeedpropError, match=r"without steps takes time-first inputs \(T, B, ...\), got shape .* at Lin"
        ):
            SpikingSequential(nn.Linear(3, 2), LIF())(torch.zeros(shape))
    for network, shape in ((lif_mlp(steps=None), (2, 784)), (lif_cnn(steps=None), (2, 1, 28, 28))):
        with pytest.raises(
            FeedpropError, match=r"without steps takes time-first inputs \(T, B, ...\), got shape \(2, "
        ):
            network(torch.zeros(shape))
    for network in (lif_mlp(), lif_cnn()):
        with pytest.raises(
            FeedpropError, match=r"with steps takes inputs \(B, ...\), to be shown 15 times, got shape \(5, "
        ):
            network(torch.zeros(5, 2, 1, 28, 28))
    with pytest.raises(FeedpropError, match="at least one step, got T = 0"):
        lif_cnn(steps=None)(torch.zeros(0, 2, 1, 28, 28))
    with pytest.raises(FeedpropError, match="membranes are NaN or infinite"):
        lif_cnn()(torch.full((2, 1, 28, 28), float("nan")))
    with pytest.raises(FeedpropError, match="state of SpikingSequential has 1 parts, but it has 2 layers with a state"):
        SpikingSequential(LIF(), LIF())(torch.zeros(3, 1, 2), State(parts=(State(),)))


def test_its_layers() -> None:
    network = SpikingSequential(nn.Linear(3, 2), LIF())
    assert len(network) == 2
    assert network[1] is list(network)[1]
    assert [type(layer) for layer in network[:1]] == [nn.Linear]
