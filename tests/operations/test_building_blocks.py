"""What models are built from: gates, rotary positions, tied embeddings, stochastic depth, grouped convolution."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rewards, rules
from support import oracles
from support.propagation import CLOSE, Call, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

CONSERVING = rules.presets.conserving()
PUBLISHED = rules.Secant.published()


class Gated(nn.Module):
    """down(gate(W x) * V x): GLU, GEGLU, SwiGLU (Shazeer 2020)."""

    def __init__(self, gate) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.function = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.gate(x)) * self.up(x))


GATES = {"GLU": torch.sigmoid, "GEGLU": F.gelu, "SwiGLU": F.silu, "ReGLU": F.relu, "bilinear": lambda z: z}


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("name", GATES)
def test_gated_units_by_their_layers(name: str, share: float, epsilon: float) -> None:
    """The three layers by loops; between them, each factor's credit is the other factor's value times its share."""
    model, x, given = randomised(Gated(GATES[name])), torch.randn(3, 4), torch.randn(3, 3)
    composite = rules.Composite(rules.Epsilon(epsilon), conserving=share == 0.5)
    found = propagate(model, x, given, composite, activation=PUBLISHED)
    with torch.no_grad():
        value, z = model.up(x), model.gate(x)
        product = GATES[name](z) * value
        at_product, down = oracles.backward(model.down, product, given, epsilon)
        by_up, up = oracles.backward(model.up, x, share * at_product, epsilon)  # the reward of a product: a c_a = y c
        by_gate, gate = oracles.backward(model.gate, x, share * at_product, epsilon)  # the gate hands it on unchanged
    torch.testing.assert_close(found.input_reward, by_up + by_gate, **CLOSE)
    for layer, feedback in (("down", down), ("up", up), ("gate", gate)):
        for kind in ("weight", "bias"):
            torch.testing.assert_close(found.feedback[f"{layer}.{kind}"], feedback[kind], **CLOSE)


@pytest.mark.parametrize("name", GATES)
def test_gated_units_conserve_reward_without_biases(name: str) -> None:
    model, x, given = randomised(Gated(GATES[name])), torch.randn(3, 4), torch.randn(3, 3)
    for layer in (model.up, model.gate, model.down):
        layer.bias = None
    found = propagate(model, x, given, CONSERVING, activation=PUBLISHED)
    torch.testing.assert_close(found.input_reward.sum(), given.sum(), **CLOSE)
    assert not torch.isclose(propagate(model, x, given).input_reward.sum(), given.sum())


class SqueezeExcite(nn.Module):
    """x * sigmoid(fc(relu(fc(mean x)))) (Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return torch.sigmoid(self.excite(F.relu(self.squeeze(scale)))) * x


def test_squeeze_and_excite_conserves_reward() -> None:
    model, x, given = randomised(SqueezeExcite()), torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        model.squeeze.weight.abs_()  # open
    found = propagate(model, x, given, CONSERVING, activation=PUBLISHED)
    torch.testing.assert_close(found.input_reward.sum(), given.sum(), **CLOSE)
    assert set(found.feedback) == {"squeeze.weight", "excite.weight"}


def test_squeeze_and_excite_in_training_by_hand() -> None:
    # one channel of 1 x 2: x = (1, 3), mean 2, squeezed 2, excited z = 2, gate s = sigmoid(2); credit (1, 1) at y = s x
    # at s: 1 + 3 = 4; at z: 4 (s - 1/2) / 2; at the mean the same; at each x: s + half of that
    model = SqueezeExcite()
    model.squeeze, model.excite = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(model.squeeze.weight)
    nn.init.ones_(model.excite.weight)
    x = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2).requires_grad_()
    with attached(model, rules.Epsilon()):
        model(x).sum().backward()
    gate = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(x.grad.flatten(), torch.full((2,), gate + (gate - 0.5)), **CLOSE)


def _halves(x: Tensor, angle: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * angle.cos().repeat(1, 2) + torch.cat([-second, first], -1) * angle.sin().repeat(1, 2)


def _complex(x: Tensor, angle: Tensor) -> Tensor:
    turns = torch.polar(torch.ones_like(angle), angle)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2)


@pytest.mark.parametrize("composite", [None, CONSERVING], ids=["training", "conserving"])
@pytest.mark.parametrize("rotate", [_halves, _complex])
def test_rotary_positions_turn_credit_back_and_conserve_reward(rotate, composite) -> None:
    x, angle, credit = torch.randn(2, 3, 4, requires_grad=True), torch.randn(3, 2), torch.randn(2, 3, 4)
    (expected,) = torch.autograd.grad(rotate(x, angle), x, credit)
    with attached(Call(lambda x: rotate(x * 1.0, angle)), composite) as model:
        output = model(x)
    output.backward(credit)
    torch.testing.assert_close(x.grad, expected, **CLOSE)
    torch.testing.assert_close((x * x.grad).sum(), (output * credit).sum(), **CLOSE)
    torch.testing.assert_close(rotate(x.grad, angle), credit, **CLOSE)  # a rotation: turned on, it is the credit again


class Tied(nn.Module):
    """An embedding that is also the output layer."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(tokens)))


def test_tied_embeddings_get_the_feedback_of_both_uses() -> None:
    tied, apart = randomised(Tied(tied=True)), Tied(tied=False)
    apart.load_state_dict(tied.state_dict())
    tokens, targets = torch.randint(7, (3, 5)), torch.randint(7, (15,))
    for model in (tied, apart):
        with attached(model):
            rewards.SoftmaxReward()(model(tokens).flatten(0, 1), targets).backward()
    found, expected = feedback_of(tied), feedback_of(apart)
    both = expected.pop("embed.weight") + expected.pop("head.weight")
    torch.testing.assert_close(found.pop("embed.weight"), both, **CLOSE)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_hands_on_the_reward_of_what_was_kept(mode: str) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision comes with the extra train")
    x, given = torch.randn(8, 3, 2, 2), torch.randn(8, 3, 2, 2)
    with attached(Call(lambda x: ops.stochastic_depth(x * 1.0, 0.5, mode) + 0.0)) as model:
        leaf = x.clone().requires_grad_()
        output = model(leaf)
    kept = (output != 0).flatten(1).any(1)
    assert kept.all() or (~kept).any()
    output.backward((given / output.detach()).masked_fill(output == 0, 0.0))
    torch.testing.assert_close(leaf.grad * x, given * kept.view(-1, 1, 1, 1), **CLOSE)


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize(("groups", "channels"), [(4, 4), (4, 8), (2, 6)], ids=["depthwise", "multiplied", "grouped"])
def test_grouped_convolution_by_loops(groups: int, channels: int, epsilon: float) -> None:
    layer = randomised(nn.Conv2d(4, channels, 3, padding=1, stride=2, groups=groups))
    x, given = torch.randn(2, 4, 5, 5), torch.randn(2, channels, 3, 3)
    at_inputs, feedback = oracles.backward(layer, x, given, epsilon)
    found = propagate(layer, x, given, rules.Epsilon(epsilon))
    torch.testing.assert_close(found.input_reward, at_inputs, **CLOSE)
    torch.testing.assert_close(found.feedback, feedback, **CLOSE)


@pytest.mark.parametrize("rule", [rules.Gamma(0.25), rules.AlphaBeta(), rules.ZPlus(), rules.WSquare()], ids=str)
def test_a_grouped_convolution_is_a_dense_one_with_zeros(rule: rules.Rule) -> None:
    grouped, dense = randomised(nn.Conv2d(4, 8, 3, groups=4)), nn.Conv2d(4, 8, 3)
    with torch.no_grad():
        dense.weight.zero_()
        dense.bias.copy_(grouped.bias)
        for channel in range(8):
            dense.weight[channel, channel // 2] = grouped.weight[channel, 0]
    x, given = torch.randn(2, 4, 5, 5), torch.randn(2, 8, 3, 3)
    found, expected = propagate(grouped, x, given, rule), propagate(dense, x, given, rule)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    same = torch.stack([expected.feedback["weight"][channel, channel // 2] for channel in range(8)])
    torch.testing.assert_close(found.feedback["weight"][:, 0], same, **CLOSE)


def test_a_query_that_is_a_parameter_takes_feedback_as_a_weight() -> None:
    """Learned queries of attention pooling, at the input of a layer: |w| times the gradient."""
    layer, x = randomised(nn.Linear(4, 3)), torch.randn(2, 4)
    model = Call(lambda scale, query: F.linear(query, layer.weight, layer.bias) * scale, query=x)
    scale = torch.randn(2, 3, requires_grad=True)
    with attached(model, rules.Epsilon()):
        model(scale).sum().backward()
    plain = x.clone().requires_grad_()
    (F.linear(plain, layer.weight, layer.bias) * scale).sum().backward()
    torch.testing.assert_close(model.query.grad, plain.grad * x.abs(), **CLOSE)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "bernoulli": lambda z: torch.bernoulli(z.sigmoid()),
    "bernoulli as a method": lambda z: z.sigmoid().bernoulli(),
    "poisson": lambda z: torch.poisson(z.exp()),
    "normal": lambda z: torch.normal(z, 1.0),
    "binomial": lambda z: torch.binomial(torch.full_like(z, 3.0), z.sigmoid()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_is_a_constant(name: str) -> None:
    """It was refused as computed in another thread, because of a node whose gradient is 0."""
    found = []
    for constant in (False, True):
        x = torch.linspace(-1, 1, 6).requires_grad_()

        def noisy(x: Tensor, constant: bool = constant) -> Tensor:
            z = x * 2
            drawn = DRAWS[name](z)
            return z.tanh() * (drawn.detach() if constant else drawn)

        torch.manual_seed(0)
        with attached(Call(noisy)) as model:
            model(x).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=0, atol=0)
