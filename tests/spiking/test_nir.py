"""Networks as NIR graphs: a round trip fires the same spikes, and what NIR cannot say is refused."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

from feedprop import FeedpropError
from feedprop.spiking import IF, LIF, LeakyIntegrator, Recurrent, SpikingResidual, SpikingSequential, Synaptic
from feedprop.spiking.nir import from_nir, to_nir

PER_NEURON = torch.tensor([0.3, 0.6, 0.9, 0.95])
NEURONS = {
    "zero": lambda: LIF(0.8, reset="zero"),
    "zero at once": lambda: LIF(0.8, 0.7, reset="zero", reset_delay=False),
    "refractory at once": lambda: LIF(0.8, reset="refractory", reset_delay=False),
    "per neuron": lambda: LIF(PER_NEURON, PER_NEURON, reset="zero", learn_beta=True),
    "without memory": lambda: LIF(0.0, reset="zero"),
    "IF": lambda: IF(0.9, reset="zero"),
    "synaptic": lambda: Synaptic(0.6, 0.8, reset="zero"),
    "synaptic per neuron": lambda: Synaptic(PER_NEURON, 0.8, reset="zero"),
    "integrator": lambda: LeakyIntegrator(0.8),
}


def same_spikes(network: SpikingSequential, inputs: torch.Tensor, path) -> SpikingSequential:
    """Check a round trip through a file; return what came back."""
    nir.write(path / "network.nir", to_nir(network.eval(), tuple(inputs.shape[2:])))
    back = from_nir(nir.read(path / "network.nir"))
    with torch.no_grad():
        wanted, found = network(inputs), back(inputs)
    assert wanted.sum() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    return back


@pytest.mark.parametrize("build", NEURONS.values(), ids=NEURONS)
def test_a_round_trip_fires_the_same_spikes(build, tmp_path) -> None:
    network = SpikingSequential(nn.Linear(3, 4), build(), nn.Linear(4, 4, bias=False), build())
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.abs_().mul_(2)
    back = same_spikes(network, torch.rand(20, 5, 3) * 2, tmp_path)
    assert (back[1].beta if isinstance(back[1].beta, float) else back[1].beta.tolist()) == pytest.approx(
        network[1].beta.tolist() if isinstance(network[1].beta, torch.Tensor) else network[1].beta
    )


def test_convolutions_and_what_stands_between(tmp_path) -> None:
    def neuron() -> LIF:
        return LIF(0.8, 0.3, reset="zero")

    network = SpikingSequential(
        *(nn.Conv2d(2, 4, 3, stride=2, padding=1), neuron(), nn.AvgPool2d(2), nn.Dropout(0.5)),
        SpikingSequential(nn.Conv2d(4, 3, 3, padding="same", bias=False), neuron()),
        *(nn.Flatten(), nn.Linear(12, 4), neuron()),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    back = same_spikes(network, torch.rand(6, 3, 2, 8, 8), tmp_path)
    assert [type(layer).__name__ for layer in back] == [
        *("Conv2d", "LIF", "AvgPool2d", "Conv2d", "LIF", "Flatten", "Linear", "LIF")
    ]


def test_one_dimension(tmp_path) -> None:
    network = SpikingSequential(nn.Conv1d(2, 3, 3, padding=1), LIF(0.8, 0.2, reset="zero"))
    same_spikes(network, torch.rand(6, 3, 2, 8) * 3, tmp_path)


def test_numbers_are_those_of_snntorch() -> None:
    """tau = dt / (1 - beta) with dt = 1e-4, R = tau / dt; by hand, as in snntorch.export_nir."""
    graph = to_nir(SpikingSequential(nn.Linear(3, 2), LIF(0.9, 0.7, reset="zero")), (3,))
    node = graph.nodes["lif"]
    np.testing.assert_allclose(node.tau, [1e-3, 1e-3])
    np.testing.assert_allclose(node.r, [10, 10])
    np.testing.assert_allclose(node.v_threshold, [0.7, 0.7])
    assert not node.v_leak.any()
    assert not node.v_reset.any()
    cuba = to_nir(SpikingSequential(Synaptic(0.5, 0.9, reset="zero")), (2,)).nodes["cubalif"]
    np.testing.assert_allclose([cuba.tau_syn[0], cuba.tau_mem[0], cuba.w_in[0], cuba.r[0]], [2e-4, 1e-3, 2, 10])


def test_snntorch_fires_the_same_spikes() -> None:
    pytest.importorskip("nirtorch")
    from snntorch.import_nir import import_from_nir

    network = SpikingSequential(nn.Linear(3, 4), LIF(0.8, reset="zero"), nn.Linear(4, 2), LIF(0.6, 0.5, reset="zero"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    inputs, state, fired = torch.rand(10, 5, 3), None, []
    stepped = import_from_nir(to_nir(network, (3,)))
    with torch.no_grad():
        for step in inputs:
            spikes, state = stepped(step, state)
            fired.append(spikes)
        wanted = network(inputs)
    assert wanted.sum() > 0
    assert torch.equal(torch.stack(fired), wanted)


def test_euler_steps_of_the_differential_equation() -> None:
    """An integration of NIR's own equations, dt at a time, fires when the network does."""
    network = SpikingSequential(LIF(0.9, 0.7, reset="zero"))
    node, currents = to_nir(network, (4,)).nodes["lif"], torch.rand(30, 1, 4) * 0.4
    v, fired = np.zeros(4), []
    for current in currents[:, 0].numpy():
        v = v + 1e-4 / node.tau * (node.v_leak - v + node.r * current)
        fired.append(v > node.v_threshold)
        v = np.where(fired[-1], node.v_reset, v)
    spikes = network(currents)
    assert spikes.sum() > 0
    assert np.array_equal(np.array(fired), spikes[:, 0].numpy() > 0)


def test_scaled_currents_become_thresholds() -> None:
    """Graphs of other tools: R = 1 scales currents by dt / tau."""
    ones = np.ones(2)
    lif = nir.LIF(tau=ones * 1e-3, r=ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)
    (neuron,) = from_nir(nir.NIRGraph.from_list(lif))
    assert (neuron.beta, neuron.threshold) == (0.9, 10.0)
    (neuron,) = from_nir(nir.NIRGraph.from_list(nir.IF(r=2 * ones, v_threshold=ones)), steps=3)
    assert (neuron.beta, neuron.threshold) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            LIF(0.9),
            r"layers\.1 cannot be written in NIR: LIF has reset='subtract' and reset_delay=True.*train with reset",
        ),
        (LIF(0.9, reset="refractory"), "reset='refractory' and reset_delay=True"),
        (LIF(0.9, reset="none"), "reset='none'"),
        (Synaptic(1.0, 0.9, reset="zero"), "alpha = 1, for which tau_syn would be infinite"),
        (Synaptic(0.5, 1.0, reset="zero"), "beta = 1, for which tau would be infinite"),
        (Recurrent(nn.Linear(4, 4), reset="zero"), "Recurrent has no node"),
        (SpikingResidual(nn.Linear(4, 4), LIF(reset="zero")), "SpikingResidual has no node"),
        (nn.MaxPool2d(2), "MaxPool2d has no node; use AvgPool2d"),
        (nn.BatchNorm2d(3), "fold it into the layer before it"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "pads with reflect"),
        (nn.Conv2d(2, 2, 3, groups=2), "groups=2, which NIR does not support"),
        (nn.Conv2d(2, 2, (3, 5)), r"kernel \(3, 5\), but NIR supports square ones only"),
        (nn.AvgPool2d(2, ceil_mode=True), "settings that NIR lacks"),
    ],
)
def test_what_nir_cannot_say(layer: nn.Module, reason: str) -> None:
    network = SpikingSequential(nn.Linear(4, 4), layer, LIF(reset="zero"))
    with pytest.raises(FeedpropError, match=reason):
        to_nir(network, (4,))


def test_graphs_that_cannot_be_read() -> None:
    ones = np.ones(2)
    linear = nir.Linear(weight=np.eye(2))

    def lif(**settings) -> nir.LIF:
        return nir.LIF(
            **({"tau": ones * 1e-3, "r": ones, "v_leak": 0 * ones, "v_threshold": ones, "v_reset": 0 * ones} | settings)
        )

    for node, reason in (
        (lif(v_leak=ones), "node lif has v_leak other than 0"),
        (lif(v_reset=-ones), "node lif has v_reset other than 0"),
        (lif(tau=ones * 1e-5), "node lif has beta from -9 to -9 at this dt"),
        (nir.LI(tau=ones * 1e-3, r=ones, v_leak=0 * ones), "node li scales its currents by"),
        (nir.Threshold(threshold=ones), "no layer for the NIR node threshold, a Threshold"),
    ):
        with pytest.raises(FeedpropError, match=reason):
            from_nir(nir.NIRGraph.from_list(linear, node))
    nodes = {"input": nir.Input(np.array([2])), "a": linear, "b": lif(), "output": nir.Output(np.array([2]))}
    edges = [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")]
    with pytest.raises(FeedpropError, match="one chain from input to output"):
        from_nir(nir.NIRGraph(nodes=nodes, edges=edges))
