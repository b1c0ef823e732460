"""Neurons by hand, their states, kinds of numbers, and what they refuse."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from feedprop import FeedpropError, attach, attached, rules
from feedprop.rewards import GivenReward
from feedprop.spiking import IF, LIF, LeakyIntegrator, Neuron, Recurrent, State, Synaptic, leaky_sum, lif
from support.propagation import Call

NEURONS = {
    "LIF": lambda: LIF(0.8),
    "zero": lambda: LIF(0.8, reset="zero"),
    "at once": lambda: LIF(0.8, reset_delay=False),
    "zero at once": lambda: LIF(0.8, reset="zero", reset_delay=False),
    "refractory": lambda: LIF(0.8, reset="refractory"),
    "none": lambda: LIF(0.8, reset="none"),
    "IF": IF,
    "integrator": lambda: LeakyIntegrator(0.8),
    "synaptic": lambda: Synaptic(0.5, 0.8),
    "recurrent": lambda: Recurrent(nn.Linear(4, 4), 0.8),
}
every_neuron = pytest.mark.parametrize("build", NEURONS.values(), ids=NEURONS)


@pytest.mark.usefixtures("float64")
def test_by_hand() -> None:
    currents = torch.tensor([0.8, 0.6, 0.5]).view(3, 1, 1).requires_grad_()
    spikes, membranes = lif(currents, beta=0.5, epsilon=0.0)
    # u1 = .8; u2 = .4 + .6 = 1.0, not above 1; u3 = .5 + .5 = 1.0
    assert membranes.flatten().tolist() == [0.8, 1.0, 1.0]
    assert spikes.sum() == 0
    # a reward of 2 at s3 enters at u3: R3 = 2, D3 = |1.0| + |1.0 - 1.0| = 1, q3 = 2
    # R2 = u2 .5 q3 = 1, D2 = .8 + |1.0 - .8| = 1, q2 = 1;  R1 = u1 .5 q2 = .4, D1 = .8, q1 = .5
    GivenReward(reduction="sum")(spikes, torch.tensor([0.0, 0.0, 2.0]).view(3, 1, 1)).backward()
    torch.testing.assert_close(-currents.grad.flatten(), torch.tensor([0.5, 1.0, 2.0]))


@pytest.mark.usefixtures("float64")
def test_by_hand_across_a_spike() -> None:
    currents = torch.tensor([1.5, 0.5]).view(2, 1, 1).requires_grad_()
    spikes, membranes = lif(currents, beta=0.5, epsilon=0.0)
    # u1 = 1.5 fires; u2 = .75 + .5 - 1 = .25
    assert membranes.flatten().tolist() == [1.5, 0.25]
    # R2 = 1, D2 = 1.5 + |.25 + 1 - 1.5| = 1.75; R1 = 3 + 1.5 * .5 / 1.75, D1 = 1.5
    GivenReward(reduction="sum")(spikes, torch.tensor([3.0, 1.0]).view(2, 1, 1)).backward()
    torch.testing.assert_close(-currents.grad.flatten(), torch.tensor([(3 + 0.75 / 1.75) / 1.5, 1 / 1.75]))


@pytest.mark.usefixtures("float64")
def test_the_reward_of_a_membrane() -> None:
    currents = torch.tensor([0.4, 0.4]).view(2, 1, 1).requires_grad_()
    membranes = LeakyIntegrator(0.5)(currents)
    membranes[1].backward(torch.ones(1, 1))  # credit 1 at u2 = .6: R2 = .6, D2 = .4 + .2; R1 = .4 * .5, D1 = .4
    torch.testing.assert_close(currents.grad.flatten(), torch.tensor([0.5, 1.0]), rtol=1e-5, atol=0)  # epsilon is 1e-6


@pytest.mark.usefixtures("float64")
def _unrolled(currents: Tensor, *, beta: float, reset: str, reset_delay: bool) -> Tensor:
    """Return the membranes of a LIF neuron of threshold 1, step by step, with its spikes as constants."""
    membranes, last = [], torch.zeros_like(currents[0])
    for current in currents:
        fired = (last.detach() > 1).to(last.dtype)
        kept = last * (1 - fired) if reset == "zero" else last
        v = beta * kept + current - (fired if reset == "subtract" else 0)
        v = v * (1 - fired) if reset == "refractory" else v
        spike = (v.detach() > 1).to(v.dtype)
        if not reset_delay and reset == "subtract":
            v = v - (spike - fired)
        elif not reset_delay and reset != "none":
            v = v * (1 - spike)
        membranes.append(v)
        last = v
    return torch.stack(membranes)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero", "refractory", "none"])
def test_additive_membranes_pass_credit_as_the_sums_they_are(reset: str, reset_delay: bool) -> None:
    currents, given = torch.randn(7, 3, 4, requires_grad=True), torch.randn(7, 3, 4)
    settings = {"beta": 0.9, "reset": reset, "reset_delay": reset_delay}
    with attached(Call(lambda z: lif(z * 1.0, **settings)), rules.presets.training()) as model:
        membranes = model(currents)[1]
        found = torch.autograd.grad(membranes, currents, given)[0]
    expected = _unrolled(currents, **settings)
    torch.testing.assert_close(membranes, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, currents, given)[0])


@pytest.mark.usefixtures("float64")
def test_additive_membranes_leave_the_reward_of_spikes_to_the_published_shares() -> None:
    currents = torch.tensor([1.5, -2.0, 3.0]).view(3, 1, 1).requires_grad_()
    with attached(Call(lambda z: lif(z * 1.0, beta=0.5)), rules.presets.training()) as model:
        spikes, membranes = model(currents)
        # u1 = 1.5 fires; u2 = .75 - 2 - 1 = -2.25; u3 = -1.125 + 3 = 1.875 fires
        assert membranes.flatten().tolist() == [1.5, -2.25, 1.875]
        spikes.backward(torch.tensor([3.0, 7.0, 2.0]).view(3, 1, 1))
    # D3 = 2.25 + |1.875 + 2.25|, q3 = 2 / D3; q2 = .5 q3; q1 = 3 / 1.5 + .5 q2
    third = 2 / 6.375
    torch.testing.assert_close(currents.grad.flatten(), torch.tensor([2 + third / 4, third / 2, third]))


@every_neuron
def test_a_sequence_may_be_continued(build) -> None:
    neuron = build()
    currents = torch.rand(9, 3, 4).mul(2).requires_grad_()
    with attached(neuron):
        whole = neuron(currents)
        whole.sum().backward()
        wanted, currents.grad = currents.grad, None
        first, state = neuron(currents[:4], State())
        second, _ = neuron(currents[4:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    torch.cat([first, second]).sum().backward()
    torch.testing.assert_close(currents.grad, wanted)


@every_neuron
def test_a_detached_state_cuts_the_propagation(build) -> None:
    neuron = build()
    currents = torch.rand(6, 3, 4).mul(2).requires_grad_()
    _, state = neuron(currents[:3], State())
    outputs, _ = neuron(currents[3:], state.detach())
    outputs.sum().backward()
    assert currents.grad[:3].abs().sum() == 0
    assert currents.grad[3:].abs().sum() > 0


@every_neuron
def test_nothing_leaks_from_batch_to_batch(build) -> None:
    neuron = build()
    currents = torch.rand(6, 3, 4) * 2
    with torch.no_grad():
        first = neuron(currents)
        neuron(torch.rand(6, 5, 4) * 9)
        assert torch.equal(neuron(currents), first)


@pytest.mark.usefixtures("float64")
@every_neuron
def test_a_constant_current_is_the_same_as_repeating_it(build) -> None:
    neuron = build()
    current = torch.rand(3, 4).requires_grad_()
    with attached(neuron):
        once = neuron(current, steps=7)
        again = neuron(current.expand(7, 3, 4))
    assert torch.equal(once, again)
    credit = torch.randn_like(once)
    (wanted,) = torch.autograd.grad(again, current, credit)
    (found,) = torch.autograd.grad(once, current, credit)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero", "refractory", "none"])
def test_blocks_of_the_batch_change_nothing(monkeypatch, reset: str, reset_delay: bool) -> None:
    neuron = LIF(torch.tensor([0.5, 0.7, 0.9]), reset=reset, reset_delay=reset_delay, learn_beta=True)
    currents = torch.rand(6, 7, 3).mul(2).requires_grad_()
    start = torch.rand(7, 3).requires_grad_()
    found = []
    for block in (2**16, 6, 1):
        monkeypatch.setattr("feedprop.spiking.scan.BLOCK", block)
        spikes, _ = neuron(currents, State((start,)))
        found.append([spikes, *torch.autograd.grad(spikes.square().sum(), [currents, start, neuron.beta])])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two)


def test_any_layout_in_memory() -> None:
    images = torch.rand(4, 2, 3, 5, 6).requires_grad_()
    laid = images.movedim(2, -1).contiguous().movedim(-1, 2)
    for steps, values in ((None, laid), (4, laid[0])):
        spikes = LIF()(values * 2, steps=steps)
        assert spikes[0].stride() == laid[0].stride()
        assert torch.equal(spikes, LIF()(values.contiguous() * 2, steps=steps))


@every_neuron
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_kinds_of_numbers(build, kind: torch.dtype) -> None:
    neuron = build().to(kind)
    currents = torch.rand(5, 3, 4).mul(2).to(kind).requires_grad_()
    with attached(neuron):
        outputs = neuron(currents)
    outputs.sum().backward()
    assert currents.grad.dtype is kind
    assert currents.grad.isfinite().all()
    if not isinstance(neuron, LeakyIntegrator):
        assert outputs.dtype is kind


def test_membranes_of_half_precision_currents_are_kept_in_single_precision() -> None:
    currents = torch.full((300, 1, 1), 0.01, dtype=torch.bfloat16)
    _, membranes = lif(currents, beta=1.0, threshold=9.0)
    assert membranes[-1].item() == pytest.approx(300 * currents[0].item(), rel=1e-4)


def test_the_graph_is_freed_with_its_outputs() -> None:
    currents = torch.rand(3, 2, 4, requires_grad=True)
    spikes, membranes = lif(currents)
    watched = weakref.ref(membranes)
    gc.disable()
    try:
        del spikes, membranes
        assert watched() is None
    finally:
        gc.enable()


def test_feedback_accumulates_and_a_shared_neuron_gets_that_of_both_uses() -> None:
    neuron = LIF(0.5, learn_beta=True)
    attach(neuron)
    currents = torch.rand(5, 3, 4) * 2

    def step(values: Tensor) -> None:
        neuron(values).sum().backward()

    step(currents)
    once = neuron.beta.grad.clone()
    step(currents)
    torch.testing.assert_close(neuron.beta.grad, 2 * once)


class Bare(nn.Module):
    """The pure functions with parameters of the caller's own."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.8))

    def forward(self, currents: Tensor) -> Tensor:
        return lif(leaky_sum(currents, alpha=self.alpha), beta=self.beta)[0]


def test_the_functions_take_parameters_as_weights() -> None:
    bare, neuron = Bare(), Synaptic(0.5, 0.8, learn_alpha=True, learn_beta=True)
    currents = torch.rand(6, 3, 4)
    for model in (bare, neuron):
        with attached(model):
            model(currents).sum().backward()
    assert bare.beta.grad != 0
    torch.testing.assert_close(bare.beta.grad, neuron.beta.grad)
    torch.testing.assert_close(bare.alpha.grad, neuron.alpha.grad)


@every_neuron
def test_a_copy_and_its_state_dict(build) -> None:
    neuron, other = build(), build()
    other.load_state_dict(neuron.state_dict())
    currents = torch.rand(5, 3, 4) * 2
    assert torch.equal(other(currents), neuron(currents))
    assert type(neuron).__name__ in repr(neuron)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 1.5}, r"beta must be in \[0, 1\], got 1.5"),
        ({"beta": float("nan")}, r"beta must be in \[0, 1\], got nan"),
        ({"beta": torch.tensor([0.5, -0.1])}, r"beta must be in \[0, 1\]"),
        ({"threshold": 0.0}, "threshold must be > 0, got 0.0"),
        ({"threshold": -1.0}, "threshold must be > 0, got -1.0"),
        ({"reset": "soft"}, "reset must be one of 'subtract', 'zero', 'refractory', 'none', not 'soft'"),
    ],
)
def test_settings_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(FeedpropError, match=message):
        LIF(**arguments)
    if not isinstance(arguments.get("beta"), Tensor):
        with pytest.raises(FeedpropError, match=message):
            lif(torch.rand(3, 1, 2), **arguments)
    if "beta" in arguments:
        with pytest.raises(FeedpropError, match="alpha"):
            Synaptic(arguments["beta"])


@pytest.mark.parametrize(
    ("currents", "message"),
    [
        (torch.zeros(5), r"takes time-first currents \(T, B, ...\), got shape \(5,\)"),
        (torch.zeros(0, 2, 3), "at least one step, got T = 0"),
        (torch.zeros(4, 2, 3, dtype=torch.long), "floating-point currents, not torch.int64"),
        (torch.zeros(4, 2, 3).index_fill(0, torch.tensor(1), float("nan")), "6 of 6 membranes are NaN or infinite"),
        (torch.zeros(4, 2, 3).index_fill(2, torch.tensor(1), float("inf")), "2 of 6 membranes are NaN or infinite"),
    ],
    ids=["no time", "no steps", "integers", "nan", "inf"],
)
@every_neuron
def test_inputs_that_cannot_be_run(build, currents: Tensor, message: str) -> None:
    neuron: Neuron = build()
    if isinstance(neuron, Recurrent):
        neuron.connection = nn.Identity()
    with pytest.raises(FeedpropError, match=message):
        neuron(currents)


def test_a_current_that_cannot_decay() -> None:
    with pytest.raises(FeedpropError, match=r"alpha must be in \[0, 1\], got 2.0"):
        leaky_sum(torch.rand(3, 2), alpha=2.0)
    with pytest.raises(FeedpropError, match="at least one step, got T = 0"):
        leaky_sum(torch.rand(0, 2), alpha=0.5)
    with pytest.raises(FeedpropError, match=r"takes time-first currents \(T, B, ...\), got shape \(3,\)"):
        leaky_sum(torch.rand(3), alpha=0.5)


def test_a_state_of_another_batch() -> None:
    _, state = LIF()(torch.zeros(4, 2, 3), State())
    with pytest.raises(FeedpropError, match=r"state of LIF has shape \(2, 3\), but the currents are \(5, 3\)"):
        LIF()(torch.zeros(4, 5, 3), state)


@every_neuron
def test_torch_func_is_refused(build) -> None:
    neuron, currents = build(), torch.rand(2, 3, 1, 4)
    with pytest.raises(FeedpropError, match=r"do not run under torch.func .* call backward\(\) for one sample"):
        torch.func.vmap(neuron)(currents)


def test_a_step_of_ones_own_gives_feedback_per_sample() -> None:
    class Own(Neuron):
        def step(self, current: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
            membrane = current + (self.beta * state[0] if state else 0)
            spike = (membrane > self.threshold).to(current.dtype)
            return spike, (membrane,)

    model = attach(nn.Sequential(nn.Linear(4, 3), Own()))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    currents = torch.rand(5, 6, 4) * 3

    def total(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (sample.unsqueeze(1),)).sum()

    together = torch.func.vmap(torch.func.grad(total), (None, 0))(weights, currents)
    for sample, found in zip(currents, together["0.weight"], strict=True):
        model.zero_grad()
        model(sample.unsqueeze(1)).sum().backward()
        assert found.abs().sum() > 0
        torch.testing.assert_close(found, model[0].weight.grad)


def test_outputs_whose_sum_overflows_are_finite() -> None:
    class Large(Neuron):
        def step(self, current: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
            return torch.full_like(current, 3e38), (current,)

    assert Large()(torch.ones(2, 3, 4)).isfinite().all()
