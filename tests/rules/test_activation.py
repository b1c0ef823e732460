"""How activations pass credit by default: against loops, by its promises, and where the paper's way hardly trains."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attach, attached, credit, rewards, rules
from feedprop.operations import table
from feedprop.operations.registry import HANDLERS
from feedprop.operations.spellings import spellings
from support import oracles
from support.propagation import CLOSE, Call, Step, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

PUBLISHED = rules.Secant.published()
ACTIVATIONS = {
    # function, limits at 0 from below and above
    "step": (lambda z: (z > 0).to(z.dtype), 0.0, 1.0),
    "sign": (torch.sign, -1.0, 1.0),
    "heaviside": (lambda z: torch.heaviside(z, z.new_tensor(0.5)), 0.0, 1.0),
    "ceil": (torch.ceil, 0.0, 1.0),
    "sigmoid": (torch.sigmoid, 0.5, 0.5),
    "softplus": (F.softplus, math.log(2), math.log(2)),
    "softplus, beta 3": (lambda z: F.softplus(z, beta=3.0), math.log(2) / 3, math.log(2) / 3),
    "hardsigmoid": (F.hardsigmoid, 0.5, 0.5),
    "hardtanh from 0.2": (lambda z: F.hardtanh(z, 0.2, 1.0), 0.2, 0.2),
    "clamp below -0.3": (lambda z: z.clamp(max=-0.3), -0.3, -0.3),
    "threshold": (lambda z: F.threshold(z, 0.4, 2.0), 2.0, 2.0),
    "tanh": (torch.tanh, 0.0, 0.0),
    "gelu": (F.gelu, 0.0, 0.0),
    "relu": (torch.relu, 0.0, 0.0),
}


def _slopes(
    function, z: Tensor, below: float, above: float, *, epsilon: float = 0.1, offset: bool = True
) -> list[float]:
    """(phi(z) - m) / (z + sign(z) e), value by value."""
    values = z.flatten().tolist()
    middle = (below + above) / 2 if offset else 0.0
    size = math.sqrt(math.fsum(value**2 for value in values) / len(values))
    bent = above != below or (not offset and (below, above) != (0.0, 0.0))
    e = epsilon * size if bent else 0.0
    slopes = []
    for value in values:
        x = function(torch.tensor(value)).item()
        if value == 0 and not e:
            slopes.append(0.0)
        elif value == 0 and offset and above != below:
            slopes.append((above - below) / 2 / e)
        else:
            slopes.append((x - middle) / (value + (e if value >= 0 else -e)))
    return slopes


def _slope(function, z: Tensor, activation: rules.Secant | None = None) -> Tensor:
    z = z.clone().requires_grad_()
    with attached(Call(lambda z: function(z * 1.0)), rules.Composite(activation=activation)) as model:
        output = model(z)
    output.backward(torch.ones_like(output))
    return z.grad


@pytest.mark.parametrize(
    "settings",
    [{}, {"epsilon": 0.5}, {"offset": False}, {"epsilon": 0.0}],
    ids=["default", "wide", "no offset", "narrow"],
)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_the_loops(name: str, settings: dict) -> None:
    function, below, above = ACTIVATIONS[name]
    z = torch.cat([torch.randn(20) * 2, torch.zeros(1)])
    if name == "relu":
        settings = {"epsilon": 0.0}  # its derivative is its secant, whatever is asked
    found = _slope(function, z, rules.Secant(**settings))
    if settings.get("epsilon") == 0.0 and above != below:  # no width: 0 at z = 0
        z, found = z[:-1], found[:-1]
    expected = torch.tensor(_slopes(function, z, below, above, **settings))
    if settings.get("offset", True) and name in AT_ZERO:
        expected[-1] = AT_ZERO[name]
    torch.testing.assert_close(found, expected, **CLOSE)


# the limit of the secant at 0, which is the slope there
AT_ZERO = {"sigmoid": 0.25, "softplus": 0.5, "softplus, beta 3": 0.5, "hardsigmoid": 1 / 6, "tanh": 1.0, "gelu": 0.5}


def test_by_hand() -> None:
    # z = (-3, 0, 4): rms = 5 / sqrt(3), e = 0.1 rms; step: (0 - 0.5) / (-3 - e), 0.5 / e at 0, 0.5 / (4 + e)
    z, e = torch.tensor([-3.0, 0.0, 4.0]), 0.5 / math.sqrt(3)
    expected = torch.tensor([0.5 / (3 + e), 0.5 / e, 0.5 / (4 + e)])
    torch.testing.assert_close(_slope(lambda z: (z > 0).to(z.dtype), z), expected, **CLOSE)
    # sigmoid: m = 0.5 and (sigmoid(z) - 0.5) / z = tanh(z / 2) / (2 z), at most 1/4
    expected = torch.tensor([math.tanh(1.5) / 6, 0.25, math.tanh(2.0) / 8])
    torch.testing.assert_close(_slope(torch.sigmoid, z), expected, **CLOSE)


@pytest.mark.parametrize("function", [torch.sign, lambda z: (z > 0).to(z.dtype), lambda z: (z >= 0).to(z.dtype)])
def test_a_negative_zero_is_a_zero(function) -> None:
    slopes = _slope(function, torch.tensor([0.0, -0.0, 1.0]))
    assert slopes[0] == slopes[1] > 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_published_hands_the_reward_on_unchanged(name: str) -> None:
    function, *_ = ACTIVATIONS[name]
    model = randomised(nn.Sequential(nn.Linear(4, 6), Call(function), nn.Linear(6, 3)))
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    shares, feedback = oracles.backward(model, inputs, given, 1e-6)
    found = propagate(model, inputs, given, rules.Epsilon(1e-6), activation=PUBLISHED)
    torch.testing.assert_close(found.input_reward, shares, **CLOSE)
    torch.testing.assert_close(found.feedback, feedback, **CLOSE)


@pytest.mark.parametrize("name", ["step", "sign", "heaviside"])
def test_scaling_the_weights_before_a_jump_changes_no_reward(name: str) -> None:
    function, *_ = ACTIVATIONS[name]
    model = randomised(nn.Sequential(nn.Linear(4, 6), Call(function), nn.Linear(6, 3)))
    inputs, given = torch.randn(5, 4), torch.randn(5, 3)
    before = propagate(model, inputs, given, activation=rules.Secant())
    feedback = {key: f.clone() for key, f in before.feedback.items()}
    with torch.no_grad():
        model[0].weight.mul_(64), model[0].bias.mul_(64)
    after = propagate(model, inputs, given, activation=rules.Secant())
    torch.testing.assert_close(after.input_reward, before.input_reward, **CLOSE)
    torch.testing.assert_close(after.feedback, feedback, **CLOSE)


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "hardsigmoid", "tanh", "gelu"])
def test_slopes_are_bounded_where_the_activation_is_smooth(name: str) -> None:
    function, *_ = ACTIVATIONS[name]
    slopes = _slope(function, torch.linspace(-1e-3, 1e-3, 101))
    assert (slopes.abs() <= 1.01).all()


@pytest.mark.parametrize("kind", ["all zero", "one value", "half precision"])
def test_edges(kind: str) -> None:
    z = {"all zero": torch.zeros(3, 2), "one value": torch.tensor(0.7), "half precision": torch.randn(9).bfloat16()}[
        kind
    ]
    for function, *_ in ACTIVATIONS.values():
        assert _slope(function, z).isfinite().all()


ARGUMENTS = {
    "heaviside": [{"values": torch.tensor(0.5, dtype=torch.float64)}],
    "hardtanh": [{}, {"min_val": 0.25, "max_val": 2.0}, {"min_val": -2.0, "max_val": -1.0}],
    "softplus": [{}, {"beta": 2.0}, {"beta": 0.5, "threshold": 5.0}],
    "threshold": [{"threshold": t, "value": 0.7} for t in (-0.5, 0.0, 0.5)],
    "_threshold": [{"threshold": t, "value": -0.7} for t in (-0.5, 0.0, 0.5)],
    "clamp": [{"min": 0.2}, {"max": -0.2}, {"min": -1.0, "max": 1.0}, {"min": 0.3, "max": 0.1}],
    "clip": [{"min": 0.2}, {"max": -0.2}],
    "clamp_min": [{"min": 0.2}, {"min": -0.2}],
    "clamp_max": [{"max": 0.2}, {"max": -0.2}],
}
NAMES = [(names, name) for names in table.ACTIVATIONS for name in names.split()]


@pytest.mark.parametrize(("names", "name"), NAMES, ids=[name for _, name in NAMES])
def test_limits_at_zero_are_right(names: str, name: str) -> None:
    function = next(spellings(name))
    for arguments in ARGUMENTS.get(name, [{}]):
        claimed = table.ACTIVATIONS[names](**arguments)
        near = [function(torch.tensor([side * 1e-9]), **arguments).item() for side in (-1, 1)]
        assert claimed == pytest.approx(near, abs=1e-8)


def test_unknown_limits_are_computed() -> None:
    z = torch.zeros(1)
    for function, below, above in ACTIVATIONS.values():
        assert credit.limits_at_zero(function, z) == pytest.approx((below, above))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        z = torch.zeros(1, dtype=dtype)
        for through_zero in (torch.tanh, torch.special.i1, torch.reciprocal, torch.abs, lambda z: z.abs().sqrt()):
            assert credit.limits_at_zero(through_zero, z) == (0.0, 0.0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_registered_function_passes_credit_as_a_known_one_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, below, above = ACTIVATIONS[name]

    def own(z: Tensor) -> Tensor:
        if torch.overrides.has_torch_function_unary(z):
            return torch.overrides.handle_torch_function(own, (z,), z)
        return function(z)

    monkeypatch.setitem(HANDLERS, own, rules.elementwise)
    z = torch.randn(20)
    torch.testing.assert_close(_slope(own, z), torch.tensor(_slopes(function, z, below, above)), **CLOSE)


TURNED = {
    "-tanh": lambda z: -torch.tanh(z),
    "-relu": lambda z: -torch.relu(z),
    "relu(-x)": lambda z: torch.relu(-z),
    "-step": lambda z: -(z > 0).to(z.dtype),
    "sign(-x)": lambda z: torch.sign(-z),
    "1 - sigmoid": lambda z: 1 - torch.sigmoid(z),
}
SMOOTH = {name: ACTIVATIONS[name][0] for name in ("step", "sign", "sigmoid", "softplus", "hardsigmoid")}


def _circles() -> tuple[Tensor, Tensor]:
    labels = torch.arange(300) % 2
    angles, radius = torch.rand(300) * 2 * math.pi, torch.where(labels == 1, 1.5, 0.5) + 0.1 * torch.randn(300)
    return torch.stack([radius * angles.cos(), radius * angles.sin()], 1), labels


def _blobs() -> tuple[Tensor, Tensor]:
    labels = torch.arange(300) % 2
    return 0.3 * torch.randn(300, 2) + 2 * labels[:, None] - 1, labels


def _accuracy(model: nn.Sequential, inputs: Tensor, labels: Tensor, *, rate: float) -> float:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    with attached(model):
        for _ in range(150):
            optimizer.zero_grad()
            rewards.SoftmaxReward()(model(inputs), labels).backward()
            optimizer.step()
    return (model(inputs).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("name", TURNED)
def test_activations_that_change_the_sign_train_the_layer_below(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 48), Call(TURNED[name]), nn.Linear(48, 2))
    model[2].requires_grad_(False)  # the layer below the activation has to do it
    assert _accuracy(model, *_blobs(), rate=0.02) > 0.97


@pytest.mark.parametrize("name", SMOOTH)
def test_activations_that_the_paper_hardly_trains(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 48), Call(SMOOTH[name]), nn.Linear(48, 2))
    assert _accuracy(model, *_circles(), rate=0.1) > 0.95


def test_wrong_arguments_are_refused() -> None:
    for wrong in (-0.1, float("nan"), "wide"):
        with pytest.raises(FeedpropError, match="epsilon"):
            rules.Secant(epsilon=wrong)
    with pytest.raises(TypeError, match=r"feedprop\.rules\.Secant"):
        attach(nn.Linear(1, 1), rules.Composite(activation=F.relu))
    assert repr(PUBLISHED) == "Secant(epsilon=0.0, offset=False)"
    assert copy.deepcopy(PUBLISHED) == PUBLISHED != rules.Secant()
    assert hash(rules.Secant()) == hash(rules.Secant())


def test_a_step_module_of_ones_own_learns_on_its_silent_side() -> None:
    model = randomised(nn.Sequential(nn.Linear(3, 8), Step(), nn.Linear(8, 2)))
    with attached(model):
        rewards.SoftmaxReward()(model(torch.randn(20, 3)), torch.randint(2, (20,))).backward()
    assert (feedback_of(model)["0.weight"] != 0).all()
