"""Layers as modules: against the loops where these know them, else against autograd."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from feedprop import attached, rules
from support import oracles
from support.propagation import CLOSE, Residual, Step, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

EPSILON = 0.1

LINEAR = [
    (nn.Linear(5, 4), (5,)),
    (nn.Linear(5, 4, bias=False), (5,)),
    (nn.Conv1d(2, 3, 3), (2, 6)),
    (nn.Conv1d(4, 6, 2, stride=2, padding=1, dilation=2, groups=2), (4, 7)),
    (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4)),
    (nn.Conv2d(4, 4, (2, 3), stride=(1, 2), groups=4, bias=False), (4, 4, 5)),
    (nn.Conv3d(2, 2, 2, stride=2, padding=1), (2, 3, 2, 3)),
    (nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4)),
    (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (4, 3, 2)),
    (nn.ConvTranspose2d(2, 3, 3, dilation=2, bias=False), (2, 3, 3)),
    (nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 2, 2, 2)),
]


def _named(pair: tuple[nn.Module, tuple[int, ...]]) -> str:
    return str(pair[0]).replace(" ", "")


def _compare_with_loops(model: nn.Sequential, shape: tuple[int, ...], epsilon: float, batch: int = 3) -> None:
    model = randomised(copy.deepcopy(model).double())
    inputs = torch.randn(batch, *shape)
    output = oracles.forward(model, inputs)
    rewards = torch.randn_like(output)
    shares, feedback = oracles.backward(model, inputs, rewards, epsilon)
    found = propagate(model, inputs, rewards, rules.Epsilon(epsilon), activation=rules.Secant.published())
    torch.testing.assert_close(found.output, output, **CLOSE)
    torch.testing.assert_close(found.input_reward, shares, **CLOSE)
    torch.testing.assert_close(found.feedback, feedback, **CLOSE)


@pytest.mark.parametrize("pair", LINEAR, ids=_named)
def test_linear_layers_share_as_the_loops_do(pair: tuple[nn.Module, tuple[int, ...]]) -> None:
    _compare_with_loops(nn.Sequential(pair[0]), pair[1], EPSILON)


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.ReLU6(inplace=True), nn.LeakyReLU(0.2),
    nn.LeakyReLU(0.2, inplace=True),
    nn.ELU(), nn.ELU(inplace=True), nn.SELU(), nn.SELU(inplace=True), nn.CELU(), nn.CELU(0.5, inplace=True), nn.GELU(),
    nn.GELU("tanh"), nn.SiLU(), nn.SiLU(inplace=True), nn.Mish(), nn.Mish(inplace=True), nn.Sigmoid(), nn.Tanh(),
    nn.Softplus(), nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Hardtanh(-0.5, 0.8),
    nn.Hardtanh(inplace=True), nn.Hardswish(), nn.Hardswish(inplace=True), nn.Hardsigmoid(),
    nn.Hardsigmoid(inplace=True),
    nn.Threshold(0.2, -0.3), nn.Threshold(0.2, -0.3, inplace=True), nn.RReLU(0.2, 0.2), Step(),
    nn.RReLU(0.2, 0.2, inplace=True),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: str(layer).replace(" ", ""))
def test_activations_hand_their_reward_on_unchanged(activation: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(5, 6), activation, nn.Linear(6, 3))
    _compare_with_loops(net, (5,), EPSILON)
    _compare_with_loops(net, (5,), 0.0)


LAYERS = {
    "batch norm": (nn.BatchNorm1d(4), (4,)),
    "batch norm, running statistics": (nn.BatchNorm1d(4).eval(), (4,)),
    "batch norm 2d": (nn.BatchNorm2d(2), (2, 3, 3)),
    "batch norm 3d": (nn.BatchNorm3d(2), (2, 2, 2, 2)),
    "average pooling": (nn.AvgPool2d(2), (2, 4, 4)),
    "max pooling": (nn.MaxPool2d(2), (2, 4, 4)),
    "residual sum": (Residual(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), (4,)),
    "flatten": (nn.Flatten(), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_other_layers_share_as_the_loops_do(name: str) -> None:
    layer, shape = LAYERS[name]
    _compare_with_loops(nn.Sequential(layer), shape, EPSILON)
    _compare_with_loops(nn.Sequential(layer, nn.Tanh()), shape, EPSILON)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    kind=st.sampled_from(["relu", "tanh", "gelu", "elu", "step"]),
    epsilon=st.sampled_from([1e-6, 0.1, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_any_perceptron_agrees_with_the_loops(sizes: list[int], kind: str, epsilon: float, seed: int) -> None:
    torch.manual_seed(seed)
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "elu": nn.ELU, "step": Step}[kind]
    layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), activation())]
    _compare_with_loops(nn.Sequential(*layers[:-1]), (sizes[0],), epsilon, batch=2)


@given(
    channels=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    transposed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_convolution_agrees_with_the_loops(
    channels: int, kernel: int, stride: int, padding: int, transposed: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    first = kind(channels, 2, kernel, stride=stride, padding=padding)
    _compare_with_loops(nn.Sequential(first, nn.Tanh(), nn.Conv2d(2, 1, 1)), (channels, 4, 3), EPSILON, batch=2)


def _compare_with_autograd(layer: nn.Module, inputs: Tensor) -> None:
    """Credit is an ordinary gradient, damped at the output, and |w| comes with every weight."""
    layer = randomised(copy.deepcopy(layer).double())
    expected = copy.deepcopy(layer)
    leaf = inputs.clone().requires_grad_()
    output = expected(leaf)
    rewards = torch.randn_like(output)
    size = output.detach().abs()
    output.backward(rewards / output.detach() * size / (size + EPSILON))
    found = propagate(layer, inputs, rewards, rules.Epsilon(EPSILON))
    torch.testing.assert_close(found.output, output.detach(), **CLOSE)
    torch.testing.assert_close(found.input_reward, inputs * leaf.grad, **CLOSE)
    feedback = {name: p.detach().abs() * p.grad for name, p in expected.named_parameters()}
    torch.testing.assert_close(found.feedback, feedback, **CLOSE)
    torch.testing.assert_close(dict(layer.named_buffers()), dict(expected.named_buffers()), **CLOSE)


IMAGE = (3, 4, 6, 6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(6), (3, 6)),
        (nn.LayerNorm((6, 6)), IMAGE),
        (nn.RMSNorm(6), (3, 6)),
        (nn.GroupNorm(2, 4), IMAGE),
        (nn.InstanceNorm1d(4, affine=True), (3, 4, 6)),
        (nn.InstanceNorm2d(4), IMAGE),
        (nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval(), IMAGE),
        (nn.InstanceNorm3d(2, affine=True), (2, 2, 3, 3, 2)),
        (nn.LocalResponseNorm(2), IMAGE),
        (nn.BatchNorm2d(4, momentum=0.3), IMAGE),
        (nn.BatchNorm1d(4, affine=False, track_running_stats=False), (5, 4)),
        (nn.AdaptiveAvgPool2d(2), IMAGE),
        (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), IMAGE),
        (nn.AvgPool1d(2), (3, 4, 6)),
        (nn.AvgPool3d(2), (2, 2, 4, 4, 4)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE),
        (nn.Upsample(scale_factor=2, mode="nearest"), IMAGE),
        (nn.Fold((4, 4), 2), (2, 8, 9)),
        (nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), IMAGE),
        (nn.Conv2d(4, 2, 3, padding="same"), IMAGE),
    ],
    ids=str,
)
def test_layers_that_add_up_are_damped_gradients(layer: nn.Module, shape: tuple[int, ...]) -> None:
    _compare_with_autograd(layer, torch.randn(shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.MaxPool1d(2), (2, 3, 6)),
        (nn.MaxPool2d(3, stride=2, padding=1), IMAGE),
        (nn.MaxPool3d(2), (2, 2, 4, 4, 4)),
        (nn.AdaptiveMaxPool2d(2), IMAGE),
        (nn.PReLU(4), IMAGE),
        (nn.Softmax(1), (3, 4)),
        (nn.Unfold(2), IMAGE),
        (nn.ZeroPad2d(1), IMAGE),
        (nn.ReflectionPad2d(1), IMAGE),
        (nn.ReplicationPad2d(1), IMAGE),
        (nn.ConstantPad1d(2, 0.5), (3, 4)),
        (nn.PixelShuffle(2), IMAGE),
        (nn.ChannelShuffle(2), IMAGE),
        (nn.Unflatten(1, (2, 2)), IMAGE),
        (nn.Identity(), IMAGE),
    ],
    ids=str,
)
def test_layers_that_select_are_plain_gradients(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer, inputs = randomised(copy.deepcopy(layer).double()), torch.randn(shape)
    expected, leaf = copy.deepcopy(layer), inputs.clone().requires_grad_()
    output = expected(leaf)
    rewards = torch.where(output == 0, 0.0, torch.randn_like(output)).detach()
    output.backward(torch.where(output == 0, 0.0, rewards / output))
    attached_leaf = inputs.clone().requires_grad_()
    with attached(layer, rules.Epsilon(EPSILON)):
        found = layer(attached_leaf)
    found.backward(torch.where(found == 0, 0.0, rewards / found))
    torch.testing.assert_close(attached_leaf.grad, leaf.grad, **CLOSE)
    for parameter, plain in zip(layer.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, plain.grad * plain.abs(), **CLOSE)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout])
def test_kept_rewards_pass_dropout_unchanged(kind: type[nn.Module], inplace: bool) -> None:
    shape = {nn.Dropout1d: (6, 5, 4), nn.Dropout2d: (6, 5, 4, 4)}.get(kind, (6, 20))
    layer, inputs = kind(0.5, inplace=inplace), torch.randn(shape)
    torch.manual_seed(3)
    kept = layer(inputs.clone()) != 0 if kind is not nn.AlphaDropout else None
    rewards = torch.randn(shape)
    torch.manual_seed(3)
    leaf = inputs.clone().requires_grad_()
    with attached(nn.Sequential(nn.Identity(), layer)) as model:
        output = model(leaf * 1.0)
    output.backward(torch.where(output == 0, 0.0, rewards / output).detach())
    found = (leaf * leaf.grad).detach()
    if kept is None:  # AlphaDropout shifts what it keeps: only its factor passes
        assert found.isfinite().all()
        return
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(found, torch.where(kept, rewards, 0.0), **CLOSE)


def test_embedding_dense_and_sparse() -> None:
    tokens = torch.tensor([[1, 4, 1], [0, 2, 4]])
    for sparse in (False, True):
        torch.manual_seed(5)
        model = randomised(nn.Sequential(nn.Embedding(6, 3, sparse=sparse), nn.Flatten(), nn.Linear(9, 2)))
        with attached(model, rules.Epsilon(EPSILON)):
            output = model(tokens)
        credit = torch.randn_like(output)
        output.backward(-credit)
        feedback = -model[0].weight.grad.to_dense()
        weight, first = model[0].weight.detach(), model[2]
        size = output.detach().abs()
        at_embedding = ((credit * size / (size + EPSILON)) @ first.weight.detach()).view(2, 3, 3)
        expected = torch.zeros(6, 3)
        for n in range(2):
            for position in range(3):
                a = weight[tokens[n, position]]
                expected[tokens[n, position]] += a.abs() * at_embedding[n, position] * a.abs() / (a.abs() + EPSILON)
        torch.testing.assert_close(feedback, expected, **CLOSE)
        assert (feedback[[3, 5]] == 0).all()
