"""Which module gets which rule: what matches, what comes first, what is refused, and that it takes effect."""

import copy
import functools
import pickle

import pytest
import torch
from torch import Tensor, nn

from feedprop import FeedpropError, attach, attached, detach, rewards, rules
from feedprop.rules import presets
from support.propagation import CLOSE, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

A, B, C, D, E = (rules.Epsilon(value) for value in (0.1, 0.2, 0.3, 0.4, 0.5))
PRESETS = {
    name: getattr(presets, name) for name in vars(presets) if name.islower() and callable(getattr(presets, name))
}
PRESETS["epsilon_gamma_box"] = functools.partial(presets.epsilon_gamma_box, -2, 3)


def _network() -> nn.Module:
    features = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Conv1d(3, 2, 2), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return randomised(nn.ModuleDict({"features": features, "head": head}))


class Network(nn.Module):
    """Convolutions under `features`, linear layers under `head`."""

    def __init__(self) -> None:
        super().__init__()
        for name, part in _network().items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.unsqueeze(1)))


def _assigned(composite: rules.Composite) -> dict[str, rules.Rule]:
    return {path: rule for path, (rule, _) in composite.assign(Network()).items()}


@pytest.mark.parametrize(
    ("composite", "expected"),
    [
        # rules of features.0 (conv), features.1 (norm), features.3 (conv), head.1, head.3 (linear)
        (rules.Composite(), [rules.Epsilon()] * 5),
        (rules.Composite(A), [A] * 5),
        (rules.Composite(A, by_type={nn.Linear: B}), [A, A, A, B, B]),
        (rules.Composite(A, by_type={(nn.Linear, nn.BatchNorm1d): B}), [A, B, A, B, B]),
        (rules.Composite(A, by_type={nn.Conv1d: B, nn.Module: C}), [B, C, B, C, C]),
        (rules.Composite(A, by_type={nn.Module: C, nn.Conv1d: B}), [C] * 5),
        (rules.Composite(A, by_name={"features.*": B}), [B, B, B, A, A]),
        (rules.Composite(A, by_name={"features": B}), [B, B, B, A, A]),
        (rules.Composite(A, by_name={"features.3": B, "features.*": C}), [C, C, B, A, A]),
        (rules.Composite(A, by_name={"*.3": B}), [A, A, B, A, B]),
        (rules.Composite(A, by_name={"head.[0-2]": B}), [A, A, A, B, A]),
        (rules.Composite(A, first=B), [B, A, A, A, A]),
        (rules.Composite(A, last=B), [A, A, A, A, B]),
        (rules.Composite(A, first=B, last=C, by_type={nn.Conv1d: D}), [B, A, D, A, C]),
        (rules.Composite(A, first=B, last=C, by_name={"features.0": D, "head*": E}), [D, A, A, E, E]),
        (rules.Composite(by_type={nn.Sequential: B, nn.Tanh: C}), [B] * 5),
        (rules.Composite(A, by_type={nn.Sequential: B}, by_name={"head": C}), [B, B, B, C, C]),
    ],
)
def test_the_first_match_counts(composite: rules.Composite, expected: list[rules.Rule]) -> None:
    found = _assigned(composite)
    assert [found[path] for path in ("features.0", "features.1", "features.3", "head.1", "head.3")] == expected


@pytest.mark.parametrize(
    ("patterns", "named"),
    [
        ({"by_name": {"feature.*": A}}, "'feature.\\*'"),
        ({"by_name": {"head": A, "neck": B}}, "'neck'; its modules are features, features.0"),
        ({"by_type": {nn.Conv2d: A}}, "Conv2d"),
        ({"by_type": {(nn.Conv2d, nn.Conv3d): A}, "by_name": {"x": A}}, "'x', Conv2d | Conv3d"),
    ],
)
def test_patterns_that_match_nothing_are_refused(patterns: dict, named: str) -> None:
    model = Network()
    with pytest.raises(FeedpropError, match=f"no module of this Network matches .*{named}".replace("|", "\\|")):
        attach(model, rules.Composite(**patterns))
    assert "forward" not in model.__dict__
    detach(attach(model, rules.Composite(**patterns, allow_unmatched=True)))


def test_positions_need_a_linear_layer() -> None:
    with pytest.raises(FeedpropError, match="matches first, last"):
        attach(nn.Sequential(nn.ReLU()), rules.Composite(first=A, last=B))


@pytest.mark.parametrize("wrong", [{"default": 0.1}, {"first": "flat"}, {"by_name": {"*": rules.Epsilon}}])
def test_what_is_no_rule_is_refused(wrong: dict) -> None:
    with pytest.raises(TypeError, match=r"a rule such as feedprop\.rules\.Epsilon\(\), or a Composite, not"):
        rules.Composite(**wrong)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (rules.Epsilon, r"not Epsilon; call it: Epsilon\(\)"),
        (rules.presets.published, r"not published; call it: published\(\)"),
        (rules.CentralDifference(), r"not CentralDifference\(.*\); give it as Composite\(activation=\.\.\.\)"),
        ("epsilon", r"or a Composite, not 'epsilon'$"),
    ],
    ids=["a class", "a preset", "an activation rule", "a name"],
)
def test_what_was_meant_instead_of_a_rule(wrong: object, remedy: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=remedy):
        attach(model, wrong)
    detach(attach(model))  # nothing was left behind


def test_an_activation_rule_is_an_instance_and_a_composite_holds_none() -> None:
    with pytest.raises(TypeError, match=r"not Secant; call it: Secant\(\)"):
        rules.Composite(activation=rules.Secant)
    with pytest.raises(TypeError, match=r"a composite itself; use that, or its replace\(\)"):
        rules.Composite(rules.presets.training())


def test_describe_prints_a_table() -> None:
    composite = rules.Composite(
        rules.Epsilon(0.1), by_type={nn.Conv1d: rules.ZPlus()}, by_name={"head.3": rules.Gamma()}, first=rules.Flat()
    )
    assert composite.describe(Network()) == "\n".join(
        [
            "features.0  Conv1d       Flat(epsilon=1e-06, update='rule')               first",
            "features.1  BatchNorm1d  Epsilon(epsilon=0.1)                             default",
            "features.3  Conv1d       ZPlus(epsilon=1e-06, update='rule')              Conv1d",
            "head.1      Linear       Epsilon(epsilon=0.1)                             default",
            "head.3      Linear       Gamma(epsilon=1e-06, update='rule', gamma=0.25)  'head.3'",
        ]
    )
    assert rules.Composite().describe(nn.Linear(1, 1)) == "(model)  Linear  Epsilon(epsilon=0.0)  default"
    assert rules.Composite().describe(nn.ReLU()) == ""
    assert repr(composite).startswith("Composite(default=Epsilon(epsilon=0.1), by_type={")


COMPOSITE = rules.Composite(
    rules.Epsilon(0.2), by_type={nn.Conv1d: rules.Gamma(0.5)}, by_name={"head": rules.AlphaBeta()}, first=rules.ZPlus()
)


def _by_hand(model: nn.Module, inputs: Tensor, given: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Each layer attached with its rule alone, credit handed from one to the next."""
    of_layer = [rules.ZPlus(), rules.Epsilon(0.2), None, rules.Gamma(0.5), None, None, *[rules.AlphaBeta()] * 3]
    layers = [*model.features, *model.head]
    names = [f"features.{i}" for i in range(5)] + [f"head.{i}" for i in range(4)]
    activations = [inputs.unsqueeze(1)]
    for layer in layers:
        activations.append(copy.deepcopy(layer)(activations[-1]).detach())  # a copy: batch norm counts what it sees
    reward, feedback = given, {}
    for name, layer, rule, values in reversed(list(zip(names, layers, of_layer, activations[:-1], strict=True))):
        found = propagate(layer, values, reward, rule)
        reward = found.input_reward
        feedback |= {f"{name}.{key}": value for key, value in found.feedback.items()}
    return feedback, reward.squeeze(1)


def test_each_module_runs_by_its_own_rule() -> None:
    model, inputs, given = Network().eval(), torch.randn(6, 6), torch.randn(6, 3)
    found = propagate(model, inputs, given, COMPOSITE)
    found.feedback = {name: f.clone() for name, f in found.feedback.items()}
    feedback, reward = _by_hand(model, inputs, given)
    torch.testing.assert_close(found.feedback, feedback, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.input_reward, reward, rtol=1e-8, atol=1e-10)


def test_functions_outside_a_module_have_the_rule_of_the_module_around() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.weight = nn.Linear(4, 4), nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.inner(x), self.weight)

    model = nn.Sequential(Holder(), nn.Linear(2, 2))
    inputs, given = torch.randn(3, 4), torch.randn(3, 2)
    composite = rules.Composite(by_name={"0": rules.ZPlus(), "0.inner": rules.Epsilon(0.5)})
    assert composite.assign(model)["0.inner"][0] == rules.ZPlus()  # the first pattern holds for all inside
    composite = rules.Composite(by_name={"0.inner": rules.Epsilon(0.5), "0": rules.ZPlus()})
    found = propagate(model, inputs, given, composite).feedback["0.weight"].clone()
    hidden = model[0].inner(inputs).detach()
    credit = given / model(inputs).detach() @ model[1].weight.detach()
    z = (hidden @ model[0].weight.T).detach()
    expected = propagate(nn.Linear(4, 2, bias=False), hidden, credit * z, rules.ZPlus())
    assert expected.feedback["weight"].shape == found.shape
    alone = nn.Linear(4, 2, bias=False)
    alone.weight = model[0].weight
    torch.testing.assert_close(found, propagate(alone, hidden, credit * z, rules.ZPlus()).feedback["weight"], **CLOSE)


def _hooks(model: nn.Module) -> list[int]:
    return [
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._forward_hooks_always_called)
    ]


def test_hooks_go_on_detach_and_those_of_others_stay() -> None:
    model, seen = Network(), []
    model.head.register_forward_hook(lambda *_: seen.append("other"))
    before = _hooks(model)
    attach(model, COMPOSITE)
    assert sum(_hooks(model)) > sum(before)
    model(torch.randn(2, 6))
    detach(model)
    assert _hooks(model) == before
    assert seen == ["other"]


def test_an_exception_leaves_neither_hooks_nor_rules_behind() -> None:
    class Failing(nn.Module):
        fails = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fails:
                raise KeyError
            return x

    model = randomised(nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), Failing()), nn.Linear(3, 2)))
    before = _hooks(model)
    composite = rules.Composite(rules.Epsilon(0.3), by_name={"1": rules.ZPlus()})
    inputs, given = torch.randn(4, 3), torch.randn(4, 2)
    with pytest.raises(KeyError), attached(model, composite):
        model(inputs)
    assert _hooks(model) == before
    with attached(model, composite):
        with pytest.raises(KeyError):
            model(inputs)
        Failing.fails = False
        rewards.GivenReward()(model(inputs), given).backward()  # by the default again where nothing matches
    found = {name: f.clone() for name, f in feedback_of(model).items()}
    model.zero_grad()
    with attached(model, composite):
        rewards.GivenReward()(model(inputs), given).backward()
    torch.testing.assert_close(found, feedback_of(model), **CLOSE)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("name", COPIES)
def test_copies_keep_their_rules(name: str) -> None:
    model = attach(Network().eval(), COMPOSITE)
    inputs, given = torch.randn(4, 6), torch.randn(4, 3)
    other = COPIES[name](model)
    for one in (model, other):
        rewards.GivenReward()(one(inputs), given).backward()
    torch.testing.assert_close(feedback_of(other), feedback_of(model), **CLOSE)
    detach(model)
    other.zero_grad()
    rewards.GivenReward()(other(inputs), given).backward()
    torch.testing.assert_close(feedback_of(other), feedback_of(model), **CLOSE)
    detach(other)
    assert _hooks(other) == _hooks(Network())


@pytest.mark.filterwarnings("ignore:::torch")
def test_compiled_with_a_composite() -> None:
    model = attach(Network(), COMPOSITE)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    inputs, targets = torch.randn(5, 6), torch.randint(3, (5,))
    for one in (model, compiled):
        rewards.SoftmaxReward()(one(inputs), targets).backward()
    found = {key.removeprefix("_orig_mod."): f for key, f in feedback_of(compiled).items()}
    torch.testing.assert_close(found, feedback_of(model), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run_and_print(name: str) -> None:
    composite, model = PRESETS[name](), Network()
    assert composite.describe(model).count("\n") == 4
    assert eval(repr(composite.default), vars(rules)) == composite.default
    with attached(model, composite):
        rewards.SoftmaxReward()(model(torch.randn(5, 6)), torch.randint(3, (5,))).backward()
    found = feedback_of(model)
    assert {path.removesuffix(".weight") for path in found if path.endswith("weight")} == set(composite.assign(model))
    assert all(f.isfinite().all() for f in found.values())
    with attached(nn.Sequential(nn.Linear(2, 2)), composite) as without_convolutions:
        without_convolutions(torch.randn(1, 2)).sum().backward()


def test_every_preset_is_what_its_name_says() -> None:
    small, gamma, two_one = rules.Epsilon(1e-6), rules.Gamma(0.25), rules.AlphaBeta(2.0, 1.0)
    expected = {  # first convolution, norm, second convolution, two linear layers
        "training": [rules.Epsilon()] * 5,
        "conserving": [rules.Epsilon()] * 5,
        "published": [small] * 5,
        "transformer": [rules.Epsilon()] * 5,
        "spiking": [rules.Epsilon(1.0)] * 5,
        "sparse": [rules.Epsilon()] * 5,
        "epsilon_plus": [rules.ZPlus(), small, rules.ZPlus(), small, small],
        "epsilon_plus_flat": [rules.Flat(), small, rules.ZPlus(), small, small],
        "epsilon_gamma": [gamma, small, gamma, small, small],
        "epsilon_gamma_box": [rules.ZBox(-2, 3), small, gamma, small, small],
        "epsilon_alpha2_beta1": [two_one, small, two_one, small, small],
        "epsilon_alpha2_beta1_flat": [rules.Flat(), small, two_one, small, small],
        "gamma_everywhere": [gamma] * 5,
        "deep_taylor": [rules.WSquare(), *[rules.ZPlus()] * 4],
    }
    assert {name: list(_assigned(make()).values()) for name, make in PRESETS.items()} == expected
    assert [name for name, make in PRESETS.items() if make().conserving] == ["conserving"]
    assert all(isinstance(make(), rules.Composite) and make.__doc__ for make in PRESETS.values())
