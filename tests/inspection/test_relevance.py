"""Relevance of inputs, neurons and weights: published cases, loops, what adds up, what stays as it was."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import feedprop
from feedprop import FeedpropError, UnknownOperationError, attached, relevance, rewards, rules
from feedprop.operations.registry import HANDLERS
from feedprop.rules import presets
from feedprop.spiking import LIF, SpikingSequential
from feedprop.spiking.models import lif_mlp
from support import rule_oracles
from support.propagation import CLOSE, Call, Residual, randomised
from support.published import Case, cases

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("case", cases("lrp"), ids=lambda case: case.name)
def test_published_relevances_are_met(case: Case) -> None:
    expected, model = case.tensors(), case.model().eval()
    composite = rules.Composite(case.rule, activation=rules.Secant.published())
    found = relevance(model, expected["input"], expected["target"], composite)
    torch.testing.assert_close(found.inputs, expected["input_reward"], **CLOSE)
    torch.testing.assert_close(found.explained, expected["output"].gather(1, expected["target"][:, None])[:, 0])


def test_a_compiled_model_is_explained_as_the_one_that_was_compiled() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs = torch.randn(5, 6)
    found = relevance(torch.compile(model, backend="aot_eager"), inputs, 1)
    expected = relevance(model, inputs, 1)
    torch.testing.assert_close(found.inputs, expected.inputs)
    torch.testing.assert_close(found.modules["_orig_mod.0"], expected.modules["0"])
    torch.testing.assert_close(found.parameters["_orig_mod.2.weight"], expected.parameters["2.weight"])


@pytest.mark.parametrize("case", cases("lfp"), ids=lambda case: case.name)
def test_feedback_is_the_relevance_of_a_weight_by_its_sign(case: Case) -> None:
    expected, model = case.tensors(), case.model()
    credit = (expected["reward"] / expected["output"]).masked_fill(expected["output"] == 0, 0.0)
    composite = rules.Composite(rules.Epsilon(case.settings["epsilon"]), activation=rules.Secant.published())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the model is in training mode")  # as the cases were computed
        found = relevance(model, expected["input"], lambda outputs: (outputs * credit).sum(1), composite)
    torch.testing.assert_close(found.inputs, expected["input_reward"], **CLOSE)
    signs = {name: torch.where(w < 0, -1.0, 1.0) for name, w in case.part("state").items()}
    feedback = {name: signs[name] * share for name, share in found.parameters.items()}
    torch.testing.assert_close(feedback, case.part("feedback"), **CLOSE)


LOOPS = {
    "epsilon": (rules.Epsilon(0.3), rule_oracles.epsilon(0.3)),
    "gamma": (rules.Gamma(0.25), rule_oracles.gamma(0.25)),
    "alpha 2 beta 1": (rules.AlphaBeta(), rule_oracles.alpha_beta(2.0, 1.0)),
    "z^B": (rules.ZBox(-3, 4), rule_oracles.z_box(-3, 4)),
    "flat": (rules.Flat(), rule_oracles.flat()),
}
LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "convolution": (lambda: nn.Conv2d(4, 2, 2, stride=2, padding=1, groups=2), (4, 3, 3)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", LOOPS)
def test_relevance_of_weights_is_that_of_loops(name: str, layer: str) -> None:
    make, shape = LAYERS[layer]
    model, inputs = randomised(make()), torch.randn(3, *shape)
    inputs.flatten()[::5] = 0.0  # Flat and z^B reward them too
    rule, share = LOOPS[name]
    with torch.no_grad():
        model.weight.flatten()[::3] = 0.0
    credit = torch.randn_like(model(inputs).detach())
    reward = credit * model(inputs).detach()
    expected, feedback = rule_oracles.backward(model, inputs, reward, share)
    found = relevance(model, inputs, lambda outputs: (outputs * credit).flatten(1).sum(1), rule)
    torch.testing.assert_close(found.inputs, expected, **CLOSE)
    for key, weight in model.named_parameters():
        signed = feedback[key] * torch.where(weight < 0, -1.0, 1.0)
        torch.testing.assert_close(found.parameters[key], signed, **CLOSE)


def test_by_hand() -> None:
    # x = (1, 2); z = (1*1 + 2*1, 1*3 - 2*2) = (3, -1), relu (3, 0); o = 2 * 3 - 5 * 0 + 1 = 7
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [3.0, -2.0]]))
        model[2].weight.copy_(torch.tensor([[2.0, -5.0]]))
        model[2].bias.fill_(1.0)
    found = relevance(model, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(found.explained, torch.tensor([7.0]))
    torch.testing.assert_close(found.inputs, torch.tensor([[2.0, 4.0]]))
    for name, expected in {"0": [6.0, 0.0], "1": [6.0, 0.0], "2": [7.0], "": [7.0]}.items():
        torch.testing.assert_close(found.modules[name], torch.tensor([expected]))
    torch.testing.assert_close(found.parameters["0.weight"], torch.tensor([[2.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found.parameters["2.weight"], torch.tensor([[6.0, 0.0]]))
    torch.testing.assert_close(found.parameters["2.bias"], torch.tensor([1.0]))
    last, total = list(found.conservation())[2], found.conservation().total
    assert (last.out, last.into, last.biases, last.gap) == (7.0, 6.0, 1.0, 0.0)
    assert (total.name, total.out, total.into, total.biases, total.gap) == ("", 7.0, 6.0, 1.0, 0.0)


class Shared(nn.Module):
    """One ReLU for two layers and a residual, all in place, as in torchvision's ResNet; no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.relu, self.answer = nn.ReLU(inplace=True), nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        y = self.second(x)
        y += x
        return self.answer(self.relu(y).mean((2, 3)))


@pytest.mark.parametrize("composite", [None, presets.epsilon_plus(0.0), presets.epsilon_gamma(0.0)], ids=str)
def test_nothing_is_lost_without_biases(composite: rules.Composite | None) -> None:
    model, inputs = Shared(), torch.randn(2, 3, 5, 5)
    found = relevance(model, inputs, 1, composite)
    rate = 1e-5 if composite else 1e-12  # zplus and gamma have a stabiliser
    torch.testing.assert_close(found.inputs.sum((1, 2, 3)), found.explained, rtol=rate, atol=1e-12)
    table = found.conservation()
    assert "-0.0%" not in str(table)
    assert [flow.name for flow in table] == ["first", "relu", "second", "answer"]
    for flow in (*table, table.total):
        assert abs(flow.gap) <= rate * flow.size, flow
        assert flow.biases == 0
    for name in ("first", "second", "answer"):
        flow = next(flow for flow in table if flow.name == name)
        assert float(found.parameters[f"{name}.weight"].sum()) == pytest.approx(flow.into, rel=rate)


def test_a_module_that_ran_twice_has_both_calls() -> None:
    model, inputs = Shared(), torch.randn(2, 3, 5, 5)
    found = relevance(model, inputs, 1)
    first, second = found.modules["relu"]
    torch.testing.assert_close(first.sum((1, 2, 3)), found.explained)  # to both branches
    torch.testing.assert_close(second.sum((1, 2, 3)), found.explained)
    torch.testing.assert_close(found.modules["first"], first)  # before relu wrote into it, and after
    through, around = float(found.modules["second"].sum()), float(first.sum())
    row = next(flow for flow in found.conservation() if flow.name == "second")
    assert row.out == pytest.approx(row.into) == pytest.approx(through)
    assert abs(through - around) > 1e-3  # the residual carries the rest


def test_a_model_may_write_into_its_inputs() -> None:
    inputs = torch.randn(4, 3)
    one, other = (nn.Sequential(nn.ReLU(inplace=within), nn.Linear(3, 2)) for within in (True, False))
    other.load_state_dict(one.state_dict())
    found, expected = relevance(one, inputs, 1), relevance(other, inputs, 1)
    torch.testing.assert_close(found.inputs, expected.inputs)
    assert (inputs < 0).any()


def test_the_table_has_layers_and_the_model_but_no_containers() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2))
    found = relevance(model, torch.randn(4, 3), 1)
    assert [flow.name for flow in found.conservation()] == ["0.0", "0.1", "1"]
    assert [line.split()[0] for line in str(found.conservation()).splitlines()] == [
        "layer",
        "0.0",
        "0.1",
        "1",
        "(model)",
    ]
    assert list(found.modules) == ["0.0", "0.1", "0", "1", ""]


@pytest.mark.parametrize("between", [nn.Identity(), nn.Unflatten(1, (2, 2))], ids=["directly", "moved"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_damped_sum_before_relu_is_seen(inplace: bool, between: nn.Module) -> None:
    layers = (nn.Linear(3, 4), between, nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(4, 2))
    model, inputs = nn.Sequential(*layers), torch.randn(5, 3)
    found = relevance(model, inputs, 0, rules.Epsilon(0.5))
    assert found.modules["0"].abs().sum() > 0
    torch.testing.assert_close(found.modules["0"], found.modules["2"].flatten(1))
    torch.testing.assert_close(found.inputs, relevance(model, inputs, 0, rules.Epsilon(0.5), only_inputs=True).inputs)
    rows = {flow.name: flow for flow in found.conservation()}
    assert rows["0"].out == pytest.approx(rows["2"].out) == pytest.approx(float(found.modules["2"].sum()))
    assert rows["0"].gap != 0  # what epsilon damps


def test_batch_norm_keeps_what_its_mean_and_offset_take() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).eval()
    for values in (model[1].running_mean, model[1].weight, model[1].bias):
        nn.init.uniform_(values, 0.5, 1.5)
    inputs = torch.randn(4, 2, 5, 5)
    for flow in (found := relevance(model, inputs, 0)).conservation():
        assert abs(flow.gap) <= 1e-12 * flow.size, flow
    assert abs(found.conservation().total.gap) < 1e-12
    merged = relevance(model, inputs, 0, merge_batch_norm=True)
    torch.testing.assert_close(merged.inputs, found.inputs)
    assert set(merged.parameters) == {"0.weight", "0.bias", "4.weight", "4.bias"}
    for flow in merged.conservation():
        assert abs(flow.gap) <= 1e-12 * flow.size, flow
    by_gamma = [relevance(model, inputs, 0, rules.Gamma(), merge_batch_norm=merge).inputs for merge in (False, True)]
    assert not torch.allclose(*by_gamma, rtol=1e-2)


class Reused(nn.Module):
    """What its layer returns is also used without the batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        nn.init.constant_(self.norm.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.norm(x) + x


def test_batch_norm_is_merged_only_where_answers_stay() -> None:
    with pytest.raises(FeedpropError, match="also used without its batch norm"):
        relevance(Reused().eval(), torch.randn(4, 3), 0, merge_batch_norm=True)
    with pytest.raises(FeedpropError, match=r"call model.eval\(\)"), pytest.warns(UserWarning, match="training mode"):
        relevance(Reused(), torch.randn(4, 3), 0, merge_batch_norm=True)


TARGETS = {
    "class": (2, [[2], [2], [2]]),
    "negative class": (-1, [[3], [3], [3]]),
    "one class in a tensor": (torch.tensor(2), [[2], [2], [2]]),
    "classes": (torch.tensor([0, 3, 1]), [[0], [3], [1]]),
    "list of classes": ([0, 3, 1], [[0], [3], [1]]),
    "index": ((1, 2), [[1, 2], [1, 2], [1, 2]]),
    "indices": ([(0, 1), (1, 2), (1, -1)], [[0, 1], [1, 2], [1, 2]]),
    "function": (lambda outputs: outputs[:, 1], [[1], [1], [1]]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_those_of_captum(name: str) -> None:
    target, places = TARGETS[name]
    shape = (2, 3) if len(places[0]) == 2 else (4,)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, torch.Size(shape).numel()), nn.Unflatten(1, shape))
    inputs = torch.randn(3, 3)
    found, outputs = relevance(model, inputs, target), model(inputs).detach()
    expected = torch.stack([row[tuple(place)] for row, place in zip(outputs, places, strict=True)])
    torch.testing.assert_close(found.explained, expected)
    alone = [relevance(model, one[None], tuple(place)) for one, place in zip(inputs, places, strict=True)]
    torch.testing.assert_close(found.inputs, torch.cat([one.inputs for one in alone]))


def test_classes_in_arrays_are_targets() -> None:
    np = pytest.importorskip("numpy")
    model, inputs, classes = nn.Linear(3, 4), torch.randn(3, 3), torch.tensor([0, 3, 1])
    expected = relevance(model, inputs, classes)
    for array in (classes.numpy(), classes.numpy().astype("uint8"), np.array([1, 3, 0])[::-1]):
        torch.testing.assert_close(relevance(model, inputs, array).inputs, expected.inputs)
    assert relevance(model, inputs, np.array(2)).explained.shape == (3,)
    with pytest.raises(FeedpropError, match=r"as integers; got torch\.float64"):
        relevance(model, inputs, np.array([0.0, 3.0, 1.0]))


def test_a_model_with_one_output_needs_no_target() -> None:
    inputs = torch.randn(3, 2)
    for model in (nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))):
        torch.testing.assert_close(relevance(model, inputs).explained, model(inputs).detach().flatten())


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (None, "4 numbers for each sample, shape .3, 4.; say which one to explain by target="),
        (4, "target 4 is out of range for outputs of shape .3, 4."),
        ((0, 1), "need 1 index for each sample, as in target=0; got 2"),
        (torch.tensor([0.5, 1.0, 2.0]), "as integers; got torch.float32"),
        (torch.tensor([0, 1]), "classes .batch,. of 3 samples"),
        ([0, 1], "a list of one of these for each of 3 samples"),
        ("dog", "target must be a class"),
        (lambda outputs: outputs.sum(), "one number for each sample"),
        (lambda outputs: outputs[:, 1].detach(), "one number for each sample"),
    ],
)
def test_wrong_targets_are_refused(target: object, sentence: str) -> None:
    with pytest.raises(FeedpropError, match=sentence):
        relevance(nn.Linear(2, 4), torch.randn(3, 2), target)


def test_an_output_that_only_divides_is_explained_by_rules_that_do_not_conserve() -> None:
    model, inputs = Call(lambda x, w: 1 / (x @ w), w=torch.randn(2, 1)), torch.randn(3, 2)
    with pytest.raises(FeedpropError, match=r"carries reward: .* or take composite=feedprop\.rules\.Epsilon\(\)"):
        relevance(model, inputs)
    assert relevance(model, inputs, composite=rules.Epsilon()).inputs.any()


class Reader(nn.Module):
    """Attention over embedded tokens, with positions and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 8), nn.Embedding(6, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
        self.encoder, self.answer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 20)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        states = self.tokens(tokens.view(-1, tokens.shape[-1])) + self.places(torch.arange(tokens.shape[1]))
        return self.answer(self.encoder(states, src_key_padding_mask=mask)[:, -1])


def test_tokens_have_the_relevance_of_their_embeddings() -> None:
    model = randomised(Reader()).eval()
    tokens, mask = torch.randint(20, (3, 6)), torch.zeros(3, 6, dtype=torch.bool)
    embedded: list[Tensor] = []
    with attached(model, presets.conserving()):
        handle = model.tokens.register_forward_hook(lambda module, args, output: embedded.append(output))
        output = model(tokens)
        embedded[0].retain_grad()
        output[:, 7].sum().backward()
        handle.remove()
    expected = (embedded[0] * embedded[0].grad).sum(-1).detach()
    model.zero_grad()
    torch.testing.assert_close(relevance(model, tokens, 7).inputs, expected)
    found = relevance(model, {"tokens": tokens, "mask": mask}, 7)
    torch.testing.assert_close(found.inputs["tokens"], expected)
    assert found.inputs["mask"] is None
    torch.testing.assert_close(relevance(model, (tokens,), 7, only_inputs=True).inputs[0], expected)
    row = next(flow for flow in found.conservation() if flow.name == "tokens")
    assert row.gap == 0
    assert row.out == pytest.approx(float(expected.sum()))


def test_relevance_per_sample_adds_up_and_is_that_of_each_alone() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2))
    inputs, target = torch.randn(4, 2, 5), torch.tensor([0, 1, 1, 0])
    each, summed = relevance(model, inputs, target, per_sample=True), relevance(model, inputs, target)
    for name, share in each.parameters.items():
        assert share.shape == (4, *dict(model.named_parameters())[name].shape)
        torch.testing.assert_close(share.sum(0), summed.parameters[name])
        for row in range(4):
            alone = relevance(model, inputs[row : row + 1], target[row : row + 1])
            torch.testing.assert_close(share[row], alone.parameters[name])
    assert str(each.conservation()) == str(summed.conservation())


def test_inputs_alone_are_the_same() -> None:
    model, inputs = Shared(), torch.randn(2, 3, 5, 5)
    found, alone = (relevance(model, inputs, 1, only_inputs=only) for only in (False, True))
    torch.testing.assert_close(found.inputs, alone.inputs)
    assert alone.modules == alone.parameters == {}
    with pytest.raises(FeedpropError, match="call it without only_inputs"):
        alone.conservation()


@pytest.mark.parametrize("attach", [False, True], ids=["plain", "attached"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_the_model_stays_as_it_was(attach: bool, training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True), nn.Linear(4, 2))
    randomised(model).train(training)
    model[0].bias.requires_grad_(False)
    model[4].weight.grad = torch.ones(2, 4)
    inputs = torch.randn(5, 3, requires_grad=True)
    expected = relevance(copy.deepcopy(model).eval(), inputs, 1)
    if attach:
        feedprop.attach(model, rules.Composite(rules.Epsilon(0.1), first=rules.ZPlus()))
    hooks = [len(module._forward_hooks) for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random, forward = torch.random.get_rng_state(), model.__dict__.get("forward")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the model is in training mode")
        with torch.no_grad():
            found = relevance(model, inputs, 1)
    if not training:
        torch.testing.assert_close(found.inputs, expected.inputs)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.__dict__.get("forward") is forward
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
    assert [p.grad is None for p in model.parameters()] == [True, True, True, True, False, True]
    assert torch.equal(model[4].weight.grad, torch.ones(2, 4))
    assert not model[0].bias.requires_grad
    assert inputs.grad is None
    assert "0.bias" in found.parameters  # frozen ones have relevance, too


def test_training_mode_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"in training mode.*\(1\); call model.eval\(\)"):
        relevance(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)), torch.randn(2, 3), 0)


def test_settings_of_training_do_not_count() -> None:
    model, inputs = Residual(nn.Linear(4, 4)), torch.randn(3, 4)
    expected = relevance(model, inputs, 0, rules.Composite(activation=rules.CentralDifference(jump_step=0.5)))
    torch.testing.assert_close(relevance(model, inputs, 0, presets.training()).parameters, expected.parameters)


def test_tied_weights_have_the_relevance_of_both_uses() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.one(x))

    model, inputs = Tied(), torch.randn(2, 3)
    found = relevance(model, inputs, 0)
    apart = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    for layer in apart:
        layer.load_state_dict(model.one.state_dict())
    expected = relevance(apart, inputs, 0).parameters
    assert set(found.parameters) == {"one.weight"}
    torch.testing.assert_close(found.parameters["one.weight"], expected["0.weight"] + expected["1.weight"])


SPIKING = {
    "dense": lambda: SpikingSequential(*(nn.Linear(16, 12), LIF(0.9), nn.Linear(12, 3), LIF(0.9)), steps=15),
    "flattened": lambda: SpikingSequential(
        *(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.Flatten(), LIF(0.9)),
        *(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3), LIF(0.9)),
        steps=15,
    ),
}


@pytest.mark.parametrize("name", SPIKING)
def test_looking_changes_nothing_where_neurons_take_their_current_before_its_damping(name: str) -> None:
    model, inputs = randomised(SPIKING[name]()), torch.rand(4, 16) * 3
    composite = presets.spiking(0.5)

    def spikes(outputs: Tensor) -> Tensor:
        return outputs.sum((0, 2))

    followed = inputs.clone().requires_grad_()
    with attached(model, composite):
        spikes(model(followed)).sum().backward()
    expected = (followed * followed.grad).detach()
    assert expected.abs().max() > 0.1
    found = relevance(model, inputs, spikes, composite)
    torch.testing.assert_close(found.inputs, expected, **CLOSE)
    torch.testing.assert_close(relevance(model, inputs, spikes, composite, only_inputs=True).inputs, expected, **CLOSE)
    first = next(flow for flow in found.conservation() if flow.kind in ("Linear", "Conv2d"))
    assert abs(first.gap) < 1e-9  # the neuron damps, not the layer before it
    assert first.into == pytest.approx(float(expected.sum()))


def test_recurrent_spiking_parametrized_and_checkpointed_models() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.answer = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.answer(self.lstm(x)[0][:, -1])

    found = relevance(Reading(), torch.randn(2, 5, 3), 0)
    assert [share.shape for share in found.modules["lstm"]] == [(2, 5, 4), (1, 2, 4), (1, 2, 4)]
    assert found.inputs.abs().sum() > 0
    spiking = lif_mlp((6, 8, 3), steps=5)
    inputs = torch.rand(4, 6) * 3
    found = relevance(spiking, inputs, lambda spikes: spikes.sum(0)[:, 1])
    assert found.inputs.shape == inputs.shape
    weighted = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2, bias=False)))
    found = relevance(weighted, torch.randn(2, 3), 0)
    size = found.parameters["0.parametrizations.weight.original0"]
    assert float(size.sum()) == pytest.approx(float(found.explained.sum()))
    assert [flow.name for flow in found.conservation()] == ["0"]

    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    saving, x = Saving(), torch.randn(2, 3)
    found, expected = relevance(saving, x, 0), relevance(saving.inner, x, 0)
    torch.testing.assert_close(found.inputs, expected.inputs)
    torch.testing.assert_close(found.modules["inner.0"], expected.modules["0"])


class Pair(nn.Module):
    """Two outputs of a shared layer, of which one may be unused."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.other(x)


def test_several_outputs_need_a_function() -> None:
    with pytest.raises(FeedpropError, match="2 tensors that carry reward"):
        relevance(Pair(), torch.randn(2, 2), 0)
    found = relevance(Pair(), torch.randn(2, 2), lambda result: result[0][:, 0])
    assert not found.modules["other"].any()
    assert not found.parameters["other.weight"].any()


def test_what_cannot_be_explained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"takes a torch.nn.Module, not function"):
        relevance(F.relu, torch.randn(2, 2))  # type: ignore[arg-type]
    with pytest.raises(FeedpropError, match="call it once before"):
        relevance(nn.LazyLinear(2), torch.randn(2, 2), 0)

    monkeypatch.delitem(HANDLERS, torch.special.i1)
    unknown, inputs = Call(lambda x: torch.special.i1(x * 1.0)), torch.rand(2, 1)
    with pytest.raises(UnknownOperationError, match="i1"):
        relevance(unknown, inputs)
    relevance(unknown, inputs, unknown="gradient")


def test_half_precision_is_multiplied_in_single_precision() -> None:
    model, inputs = nn.Linear(4, 2).bfloat16(), torch.randn(3, 4).bfloat16()
    found = relevance(model, inputs, 0)
    assert found.inputs.dtype == torch.float32
    torch.testing.assert_close(found.inputs, inputs.float() * model.weight.detach()[0].float())


def test_rewards_are_what_relevance_explains() -> None:
    """`GivenReward` of the outputs' values starts with a credit of 1, as an explanation does."""
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.randn(5, 3)
    found = relevance(model, inputs)
    with attached(model, rules.Epsilon()):
        output = model(inputs)
        rewards.GivenReward(reduction="sum")(output, output.detach()).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found.parameters[name] * torch.where(weight < 0, -1, 1), -weight.grad)


def test_an_empty_batch_has_no_rows() -> None:
    found = relevance(nn.Linear(4, 3), torch.zeros(0, 4), 1, per_sample=True)
    assert [share.shape for share in found.parameters.values()] == [(0, 3, 4), (0, 3)]


def test_a_sample_without_a_batch_is_explained_in_words() -> None:
    with pytest.raises(FeedpropError, match="a first dimension for the batch"):
        relevance(nn.Linear(4, 3), torch.zeros(4), 1)
