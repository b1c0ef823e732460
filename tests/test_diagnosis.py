"""`feedprop.check`: what it finds right, what it finds wrong, and that it leaves the model alone."""

import copy
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attach, attached, detach, discrete, rules, spiking
from feedprop.diagnosis import Check, check
from support.propagation import Call

INPUTS = (5, 6)


def network() -> nn.Sequential:
    """Two layers with what a check must leave alone: dropout, running statistics."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 3))
    nn.init.constant_(model[1].bias, 0.1)
    return model


def classes() -> Tensor:
    return torch.tensor([0, 1, 2, 1, 0])


def only(found: Check) -> str:
    """Return the one problem that was found."""
    (problem,) = found.problems
    return problem


def test_a_sound_model_is_ok() -> None:
    found = check(network(), torch.randn(INPUTS), classes())
    assert found.ok
    assert found.difference == 0
    assert [p.name for p in found.parameters] == [name for name, _ in network().named_parameters()]
    assert all(p.feedback > 0 and p.error < 1e-7 and p.zeros == 0 for p in found.parameters)
    assert {p.rule for p in found.parameters} == {"Epsilon(epsilon=0.0)"}
    assert all(y.lost < 1e-9 and not y.silent for y in found.layers)
    assert [(y.name, y.kind, y.linear) for y in found.layers][::4] == [("0", "Linear", True), ("4", "Linear", True)]


def test_rules_are_those_of_the_composite() -> None:
    composite = rules.Composite(by_name={"0": rules.Gamma(0.25)}, magnitude_floor=0.02)
    with attached(network(), composite) as model:
        found = check(model, torch.randn(INPUTS), classes())
    assert found.ok
    assert [p.rule for p in found.parameters if "Gamma" in p.rule] == [repr(rules.Gamma(0.25))] * 2
    assert [p.name for p in found.parameters if "Gamma" in p.rule] == ["0.weight", "0.bias"]


def test_reward_of_a_layer_by_hand() -> None:
    # z = 1 + 2 + 1 = 4, rewarded for its size: credit 1. The inputs get 1 + 2, the bias 1; F = |w| a = (1, 2), |b| = 1
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.fill_(1.0)
    found = check(attach(nn.Sequential(model), rules.Epsilon()), torch.ones(1, 2))
    (layer,) = found.layers
    assert (layer.out, layer.into, layer.biases, layer.lost) == (4.0, 3.0, 1.0, 0.0)
    assert [p.feedback for p in found.parameters] == pytest.approx([5**0.5, 1.0])


@pytest.mark.parametrize("is_attached", [False, True])
def test_the_model_stays_as_it_is(is_attached: bool) -> None:
    model = network()
    if is_attached:
        attach(model)
    model[4].weight.grad = torch.ones(3, 8)
    inputs = torch.randn(INPUTS)
    state, kept = copy.deepcopy(model.state_dict()), inputs.clone()
    before = {path: dict(module.__dict__) for path, module in model.named_modules()}
    random = torch.get_rng_state()
    check(model, inputs, classes())
    assert {path: dict(module.__dict__) for path, module in model.named_modules()} == before
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(inputs, kept, rtol=0, atol=0)
    assert not inputs.requires_grad
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["4.weight"]
    assert bool((model[4].weight.grad == 1).all())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_default_dtype() is torch.float32


def test_inputs_and_gradients_of_before_change_nothing() -> None:
    model, inputs = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)), torch.randn(INPUTS)
    kept = inputs.clone()
    once = check(model, inputs, classes())
    assert torch.equal(inputs, kept)
    model[1].weight.grad = torch.ones(3, 6)
    assert check(model, inputs, classes()) == once


@dataclass
class Output:
    """As Hugging Face's models return."""

    hidden: Tensor
    logits: Tensor


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(5, 6), nn.Linear(6, 3)

    def forward(self, words: Tensor, scale: Tensor) -> Output:
        hidden = self.embedding(words) * scale
        return Output(hidden, self.layer(hidden))


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_inputs_as_forward_takes_them(kind: type) -> None:
    words, scale = torch.tensor([0, 1, 2, 3, 4]), torch.randn(5, 1)
    inputs = {"words": words, "scale": scale} if kind is dict else kind([words, scale])
    found = check(Named(), inputs, classes())
    assert found.ok
    assert len(found.parameters) == 3


def twice(x: Tensor) -> Tensor:
    if torch.overrides.has_torch_function_unary(x):
        return torch.overrides.handle_torch_function(twice, (x,), x)
    return 2 * x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return twice(self.layer(x))


@pytest.mark.usefixtures("handlers_kept")
def test_answers_that_differ_under_rules() -> None:
    rules.register(twice)(lambda context, function, args, kwargs: args[0] * 2.0001)
    found = check(Twice(), torch.randn(INPUTS), classes())
    assert found.difference > 1e-6
    assert "Answers differ" in found.problems[0]
    rules.register(twice)(lambda context, function, args, kwargs: (args[0] * 2).double())
    assert check(Twice(), torch.randn(INPUTS), classes()).difference == float("inf")


@pytest.mark.usefixtures("handlers_kept")
def test_buffers_that_differ_under_rules() -> None:
    class Counting(Twice):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("largest", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            answer = self.layer(x)
            self.largest += twice(answer.detach()).amax(0)
            return answer

    rules.register(twice)(lambda context, function, args, kwargs: args[0] * 3)
    assert "Answers differ" in only(check(Counting(), torch.randn(INPUTS), classes()))


@pytest.mark.usefixtures("handlers_kept")
def test_feedback_that_is_not_the_gradient() -> None:
    rules.register(twice)(lambda context, function, args, kwargs: args[0] + args[0].detach())
    found = check(Twice(), torch.randn(INPUTS), classes())
    assert [p.error for p in found.parameters] == pytest.approx([0.5, 0.5])
    assert "other than |w| times the gradient" in found.problems[0]
    assert "layer.weight, layer.bias" in found.problems[0]


def test_a_refused_model() -> None:
    found = check(Twice(), torch.randn(INPUTS))
    assert only(found).startswith("Refused: ")
    assert str(found) == f"- {found.problems[0]}"


@pytest.mark.filterwarnings("ignore:1 parameters are 0")  # what `attach` says of them
@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_parameters_stuck_at_0(floor: float) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.zeros_(model[0].bias)
    attach(model, rules.Composite(magnitude_floor=floor))
    found = check(model, torch.randn(INPUTS), classes())
    assert [p.zeros for p in found.parameters] == [0, 1, 0, 0]
    if floor:
        assert found.ok
    else:
        assert "Stuck at 0" in only(found)
        assert "1 parameters (0.bias)" in only(found)


@pytest.mark.parametrize("fault", ["inputs", "parameters", "outputs"])
def test_what_is_not_a_number_is_named_first(fault: str) -> None:
    """Feedback is NaN then too, which says nothing about the rules."""
    model, inputs = nn.Sequential(nn.Linear(6, 3)), torch.randn(INPUTS)
    if fault == "inputs":
        inputs[2, 1] = torch.nan
    elif fault == "parameters":
        nn.init.constant_(model[0].bias, torch.inf)
    else:
        model.append(Call(lambda z: (z - 100).log()))
    expected = {
        "inputs": "1 of 30 inputs are NaN.",
        "parameters": "NaN or infinite without any rule: 1 parameters (0.bias).",
        "outputs": "15 of 15 outputs are NaN without any rule.",
    }
    assert only(check(model, inputs, classes())).startswith(expected[fault])


def test_a_mask_of_minus_infinity_is_fine() -> None:
    model = nn.Sequential(nn.Linear(6, 3), Call(lambda z: z + torch.tensor([0.0, 0.0, -torch.inf])))
    assert check(model, torch.randn(INPUTS), torch.tensor([0, 1, 1, 1, 0])).ok


def test_parameters_that_take_no_part() -> None:
    model = Named()
    model.spare = nn.Linear(2, 2)
    inputs = {"words": torch.tensor([0, 1, 2, 3, 4]), "scale": torch.randn(5, 1)}
    found = check(model, inputs, classes())
    assert "Without a part" in only(found)
    assert "spare.weight, spare.bias" in only(found)
    assert [y.name for y in found.layers] == ["embedding", "layer"]
    model.spare.requires_grad_(False)
    assert check(model, inputs, classes()).ok
    assert "No parameter" in only(check(model.requires_grad_(False), inputs, classes()))


def test_a_dead_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[0].bias, -100.0)
    dead, silent = check(model, torch.randn(INPUTS), classes()).problems
    assert "Feedback of exactly 0: 3 parameters (0.weight, 0.bias, 2.weight)" in dead
    assert "Outputs of nothing but 0: 1 layers (1)" in silent


@pytest.mark.parametrize(
    ("last", "enters"),
    [(nn.ReLU(), True), (nn.ReLU(inplace=True), False), (Call(lambda z: z.relu().sin()), False)],
)
def test_rewards_on_outputs_of_0(last: nn.Module, enters: bool) -> None:
    model, inputs = nn.Sequential(nn.Linear(6, 3), last), torch.randn(INPUTS)
    found = check(model, inputs)
    assert found.silent == int((model(inputs) == 0).sum()) > 0
    assert found.blocked == (0 if enters else found.silent)
    assert found.ok == enters
    if not enters:
        assert f"cannot for {found.silent} of them" in only(found)
    assert check(model, inputs, classes()).ok  # this reward divides by nothing


def test_silent_neurons_learn_from_rewards_that_enter_there() -> None:
    model = spiking.SpikingSequential(nn.Linear(6, 8), spiking.LIF(), nn.Linear(8, 3), spiking.LIF(threshold=50.0))
    found = check(model, torch.rand(7, 5, 6))
    assert found.silent == 7 * 5 * 3
    assert found.blocked == 0
    assert all(p.feedback > 0 for p in found.parameters if p.name.startswith("layers.2"))


def test_parameters_outside_what_is_attached() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3))
    attach(model[0], rules.Gamma(0.25))
    found = check(model, torch.randn(INPUTS), classes())
    assert "Outside what is attached" in only(found)
    assert "1.weight, 1.bias" in only(found)
    assert [p.rule for p in found.parameters] == [repr(rules.Gamma(0.25))] * 2 + ["none"] * 2
    assert [p.error is None for p in found.parameters] == [False, False, True, True]
    detach(model[0])
    assert check(model, torch.randn(INPUTS), classes()).ok


def test_a_linear_layer_that_loses_reward() -> None:
    class Cut(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x.detach(), self.weight, self.bias)

    found = check(nn.Sequential(Cut(6, 3)), torch.randn(INPUTS), classes())
    assert "does not reach their inputs" in only(found)


def binary() -> nn.Module:
    layer = nn.utils.parametrize.register_parametrization(nn.Linear(6, 8), "weight", discrete.BinaryWeight())
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 3))


class Sign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight.sign(), self.layer.bias)


def bent() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 3), Call(lambda z: F.hardtanh(z)))
    with torch.no_grad():
        model[0].weight.fill_(0.25)
        model[0].bias.fill_(-0.5)  # z = 6 / 4 - 1 / 2 = 1, where hardtanh bends
    return model


@pytest.mark.parametrize(
    ("model", "inputs", "where"),
    [
        (binary(), torch.ones(INPUTS), "0.parametrizations.weight.0: a step"),
        (Sign(), torch.ones(INPUTS), "torch.sign: a step"),
        (bent(), torch.ones(INPUTS), "0.weight: a pre-activation lies"),
    ],
)
def test_where_the_identity_cannot_hold(model: nn.Module, inputs: Tensor, where: str) -> None:
    found = check(model, inputs, classes())
    assert any(excuse.startswith(where) for excuse in found.incomparable)
    assert any(p.error is None for p in found.parameters)
    assert found.ok


def test_a_model_that_cannot_run_in_float64() -> None:
    class Single(Twice):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype is torch.float64:
                raise RuntimeError("float32 alone")
            return self.layer(x)

    found = check(Single(), torch.randn(INPUTS), classes())
    assert found.ok
    assert found.layers == ()
    assert "float32 alone" in found.incomparable[0]
    assert {p.error for p in found.parameters} == {None}


def test_what_cannot_be_checked() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, not Linear|not type"):
        check(nn.Linear, torch.randn(INPUTS))
    model = nn.Linear(6, 3)
    model.last = model(torch.randn(INPUTS))
    with pytest.raises(FeedpropError, match=r"copy\.deepcopy fails"):
        check(model, torch.randn(INPUTS))


def test_what_is_printed() -> None:
    torch.manual_seed(0)
    lines = str(check(network(), torch.randn(INPUTS), classes())).splitlines()
    assert lines[:2] == ["answers     equal bit for bit", "parameters  6 of 6 get feedback"]
    assert lines[3] == "reward      2 of 2 linear layers conserve it"
    assert "No problems found." in lines[-1]
    assert any(line.startswith("4.bias     Epsilon(epsilon=0.0)  0%") for line in lines)
    assert any(line.startswith("3      Dropout") for line in lines)


def test_the_tables_fit_80_columns_with_long_names() -> None:
    layers = [nn.Linear(4, 4) for _ in range(12)]
    model = nn.Sequential(
        OrderedDict(
            (f"a_very_long_name_of_a_block_{n}", nn.Sequential(OrderedDict(projection=layer)))
            for n, layer in enumerate(layers)
        )
    )
    tables = str(check(model, torch.randn(3, 4))).rpartition("\n\n")[0]
    assert max(map(len, tables.splitlines())) <= 80
    names = {line.split()[0] for line in tables.splitlines() if "Linear" in line}
    assert len(names) == 12


class BeginsAtZero(nn.Module):
    """A block whose last layer begins at 0, as in ReZero and ControlNet."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.zero, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.zero(torch.tanh(self.before(x))))


def test_layers_that_begin_at_0_are_no_problem_where_a_floor_lets_them_learn() -> None:
    model, inputs = BeginsAtZero(), torch.randn(INPUTS)
    state = copy.deepcopy(model.state_dict())
    assert check(model, inputs).problems == ()
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    nn.init.constant_(model.before.bias, -100.0)  # saturated: it would get none later either
    assert "Feedback of exactly 0: 2 parameters (before.weight, before.bias)" in only(check(model, inputs))
    nn.init.zeros_(model.before.bias)
    with pytest.warns(UserWarning, match="stay there"):
        attach(model, rules.presets.published())
    assert any(problem.startswith("Stuck at 0") for problem in check(model, inputs).problems)


class Answering(nn.Module):
    def __init__(self, answer: Call) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(6, 3), answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.layer(x))


@pytest.mark.parametrize("answer", [lambda y: y.argmax(1), lambda y: y.detach()], ids=["classes", "detached"])
def test_outputs_without_a_history(answer: Call) -> None:
    assert only(check(Answering(answer), torch.randn(INPUTS))).startswith("Nothing that the model returns can be")


def test_no_samples_and_no_parameters() -> None:
    assert "at least one sample" in only(check(nn.Linear(6, 3), torch.zeros(0, 6)))
    assert "no parameters, so nothing can be trained" in only(check(nn.ReLU(), torch.randn(INPUTS)))
    assert "Set requires_grad" in only(check(nn.Linear(6, 3).requires_grad_(False), torch.randn(INPUTS)))


def test_a_last_layer_that_begins_at_0_is_fine_without_targets() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    found = check(model, torch.randn(INPUTS))
    assert found.ok, found
    assert "outputs     15 are exactly 0\n" in str(found)


@pytest.mark.parametrize("rewarded", [[0, 1, 2, 3], [0, 0, 2, 1]])
def test_a_last_layer_that_begins_at_0_is_fine_whatever_the_classes_of_the_batch(rewarded: list[int]) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)  # whose feedback is 0 in the first step if there is as much of each class
    assert check(model, torch.randn(4, 6), torch.tensor(rewarded)).problems == ()


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
def test_a_compiled_model_is_checked(whole: bool) -> None:
    model = attach(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    if not whole:
        model[0] = torch.compile(model[0], backend="aot_eager")
    found = check(torch.compile(model, backend="aot_eager") if whole else model, torch.randn(INPUTS), classes())
    assert found.ok
    assert sum(layer.linear for layer in found.layers) == 2


@pytest.mark.parametrize("targets", [torch.tensor([0, 1, 2, 0, 5]), torch.tensor([0, 1])], ids=["class", "number"])
def test_targets_that_do_not_fit(targets: Tensor) -> None:
    with pytest.raises(FeedpropError, match=r"leave targets out of check\(\)"):
        check(nn.Linear(6, 3), torch.randn(INPUTS), targets)
    with pytest.raises(FeedpropError, match=r"one output, \(5, 1\); leave targets out"):
        check(nn.Linear(6, 1), torch.randn(INPUTS), torch.randn(5, 1))
