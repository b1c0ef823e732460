"""Identities that hold for any numbers (Weber et al. 2023; its rules in terms of credit)."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rewards, rules
from support.propagation import CLOSE, Residual, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

RULE = rules.Epsilon(0.0)


def _perceptron(bias: bool = True) -> nn.Sequential:
    sizes = (nn.Linear(6, 8, bias=bias), nn.ReLU(), nn.Linear(8, 7, bias=bias), nn.ReLU(), nn.Linear(7, 4, bias=bias))
    return randomised(nn.Sequential(*sizes))


def _convolutional() -> nn.Sequential:
    block = Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)))
    first = (nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    return randomised(nn.Sequential(*first, block, nn.AvgPool2d(3), nn.Flatten(), nn.Linear(3, 4)))


def _shared() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return randomised(nn.Sequential(layer, nn.ReLU(), layer, nn.LeakyReLU(0.1), layer, nn.Linear(6, 4)))


NETWORKS = {
    "perceptron": (_perceptron, (6,)),
    "convolutional": (_convolutional, (1, 6, 6)),
    "shared": (_shared, (6,)),
}


def _gradients(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    plain = copy.deepcopy(model)
    for inputs, targets in batches:
        F.cross_entropy(plain(inputs), targets, reduction="sum").backward()
    return {name: -p.detach().abs() * p.grad for name, p in plain.named_parameters()}


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_feedback_of_a_rectifier_network_is_minus_w_times_gradient(name: str, passes: int) -> None:
    make, shape = NETWORKS[name]
    model, reward = make(), rewards.SoftmaxReward(reduction="sum")
    batches = [(torch.randn(5, *shape), torch.randint(4, (5,))) for _ in range(passes)]
    expected = _gradients(model, batches)
    with attached(model, RULE):
        for inputs, targets in batches:  # several backward passes add up
            reward(model(inputs), targets).backward()
    torch.testing.assert_close(feedback_of(model), expected, **CLOSE)


def test_two_backward_passes_through_one_graph_add_up() -> None:
    model, reward = _perceptron(), rewards.SoftmaxReward(reduction="sum")
    inputs, targets = torch.randn(5, 6), torch.randint(4, (5,))
    with attached(model, RULE):
        value = reward(model(inputs), targets)
        value.backward(retain_graph=True)
        once = feedback_of(model)
        once = {name: f.clone() for name, f in once.items()}
        value.backward()
    torch.testing.assert_close(feedback_of(model), {name: 2 * f for name, f in once.items()}, **CLOSE)


def test_half_batches_add_up_to_a_batch() -> None:
    model, reward = _perceptron(), rewards.SoftmaxReward(reduction="sum")
    inputs, targets = torch.randn(8, 6), torch.randint(4, (8,))
    with attached(model, rules.Epsilon(0.1)):
        reward(model(inputs), targets).backward()
        whole = {name: f.clone() for name, f in feedback_of(model).items()}
        model.zero_grad()
        for half in (slice(0, 4), slice(4, 8)):
            (reward(model(inputs[half]), targets[half])).backward()
    torch.testing.assert_close(feedback_of(model), whole, **CLOSE)


ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Softsign(), nn.LeakyReLU(-0.3)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_reward_is_conserved_layer_by_layer_without_biases(activation: nn.Module) -> None:
    first, *later = (
        nn.Conv2d(2, 3, 3, bias=False), activation, nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(12, 5, bias=False), activation, nn.Linear(5, 3, bias=False),
    )  # fmt: skip
    model = randomised(nn.Sequential(first, *later))
    seen = []

    def watch(module: nn.Module, inputs, output: Tensor) -> None:
        output.register_hook(lambda credit: seen.append((output.detach() * credit).sum()))

    handles = [layer.register_forward_hook(watch) for layer in model if not isinstance(layer, nn.ReLU)]
    given = torch.randn(4, 3)
    found = propagate(model, torch.randn(4, 2, 6, 6), given, RULE)
    for handle in handles:
        handle.remove()
    assert len(seen) >= 6
    torch.testing.assert_close(-torch.stack(seen), given.sum().expand(len(seen)), **CLOSE)
    torch.testing.assert_close(found.input_reward.sum(), given.sum(), **CLOSE)


def test_feedback_of_a_layer_sums_to_its_reward() -> None:
    # sum_ij sign(w_ij) F_ij + sum_j sign(b_j) F_j = sum_j r_j, as every message passes one connection
    model = nn.Sequential(nn.Linear(6, 4))
    given = torch.randn(5, 4)
    feedback = propagate(model, torch.randn(5, 6), given, RULE).feedback
    total = sum((p.detach().sign() * feedback[name]).sum() for name, p in model.named_parameters())
    torch.testing.assert_close(total, given.sum(), **CLOSE)


@given(scale=st.floats(0.1, 10), epsilon=st.just(0.0), seed=st.integers(0, 2**16))
def test_scaling_or_flipping_weights_leaves_rewards_unchanged(scale: float, epsilon: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = _perceptron(bias=False)
    other = copy.deepcopy(model)
    signs = torch.randn(7).sign()
    with torch.no_grad():
        other[0].weight *= scale
        other[4].weight *= -1
    linear, flipped = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 4)), nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 4))
    flipped.load_state_dict(linear.state_dict())
    with torch.no_grad():
        flipped[0].weight *= signs[:, None]
        flipped[0].bias *= signs
        flipped[1].weight *= signs
    inputs, given = torch.randn(3, 6), torch.randn(3, 4)
    for one, two in ((model, other), (linear, flipped)):
        first, second = propagate(one, inputs, given, rules.Epsilon(epsilon)), propagate(two, inputs, given, RULE)
        torch.testing.assert_close(first.input_reward, second.input_reward, rtol=1e-7, atol=1e-10)
        sizes = {name: f.abs() for name, f in first.feedback.items()}
        torch.testing.assert_close(sizes, {name: f.abs() for name, f in second.feedback.items()}, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_a_zero_weight_has_zero_feedback(epsilon: float) -> None:
    model = _perceptron()
    with torch.no_grad():
        model[2].weight[:, ::2] = 0
        model[2].bias[0] = 0
    feedback = propagate(model, torch.randn(5, 6), torch.randn(5, 4), rules.Epsilon(epsilon)).feedback
    assert (feedback["2.weight"][:, ::2] == 0).all()
    assert feedback["2.bias"][0] == 0
    assert (feedback["2.weight"][:, 1::2] != 0).any()


@pytest.mark.parametrize("floor", [0.05, 0.5, 10.0])
def test_magnitude_floor_replaces_only_small_weights(floor: float) -> None:
    model = _perceptron()
    inputs, given = torch.randn(5, 6), torch.randn(5, 4)
    with torch.no_grad():
        model[2].weight[0] = 0
        model[0].bias.zero_()
    with pytest.warns(UserWarning, match="0.bias"):
        plain = {name: f.clone() for name, f in propagate(model, inputs, given, RULE).feedback.items()}
    gradients = copy.deepcopy(model)
    output = gradients(inputs)
    output.backward(-given / output.detach())
    found = propagate(model, inputs, given, RULE, magnitude_floor=floor).feedback
    for name, p in gradients.named_parameters():
        torch.testing.assert_close(found[name], -p.grad * p.detach().abs().clamp(min=floor), **CLOSE)
        large = p.detach().abs() >= floor
        torch.testing.assert_close(found[name][large], plain[name][large], **CLOSE)
    assert (found["0.bias"] != 0).any()
