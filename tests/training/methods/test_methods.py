"""Each method against its paper's equation, written out in float64 by matrices and loops."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from feedprop import discrete
from feedprop.errors import FeedpropError
from feedprop.training.command_line.config import Method
from feedprop.training.methods import METHODS, TITLES, attach, detach
from feedprop.training.methods.direct_feedback_alignment import _feedback
from feedprop.training.methods.feedback_alignment import _Fixed
from feedprop.training.methods.redirection import feedback_of, layers_of, redirect, size_of

pytestmark = pytest.mark.usefixtures("float64")


def mlp(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(5, 7), activation(), nn.Linear(7, 6), activation(), nn.Linear(6, 3)),
    )


def conv() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(54, 3)),
    )


def data(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    shape = (4, 5) if isinstance(model[0], nn.Linear) else (4, 2, 6, 6)
    return torch.randn(shape), torch.tensor([0, 1, 2, 1])


def gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def error(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the mean cross entropy at the outputs."""
    return (model(inputs).detach().softmax(1) - nn.functional.one_hot(targets, 3)) / len(targets)


def windows(layer: nn.Conv2d, padded: Tensor, delta: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each output channel and place: the channel, its errors, and the padded inputs that it saw."""
    wide, ins = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    for out in range(layer.out_channels):
        first = (out // wide) * ins
        for row in range(delta.shape[2]):
            for column in range(delta.shape[3]):
                top, left = row * layer.stride[0], column * layer.stride[0]
                window = padded[:, first : first + ins, top : top + 3, left : left + 3]
                yield out, delta[:, out, row, column, None, None, None], window


def through_conv(layer: nn.Conv2d, weight: Tensor, delta: Tensor, shape: torch.Size) -> Tensor:
    """What a convolution passes back: each output's error, times the weight of each input that it saw, in loops."""
    padding = layer.padding[0]
    padded = torch.zeros(shape[0], shape[1], shape[2] + 2 * padding, shape[3] + 2 * padding)
    for out, errors, window in windows(layer, padded, delta):
        window += errors * weight[out]
    return padded[:, :, padding : padding + shape[2], padding : padding + shape[3]]


def update(layer: nn.Module, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """delta x^T, summed over samples and, for a convolution, over places; and the sum of delta."""
    if isinstance(layer, nn.Linear):
        return delta.T @ x, delta.sum(0)
    padding = layer.padding[0]
    padded = nn.functional.pad(x, (padding,) * 4)
    grad = torch.zeros_like(layer.weight)
    for out, errors, window in windows(layer, padded, delta):
        grad[out] += (errors * window).sum(0)
    return grad, delta.sum((0, 2, 3))


def written_out(model, inputs, targets, back) -> dict[str, Tensor]:
    """The updates of a chain of layers; `back(index, delta, x, e)` is what arrives at a layer's input x."""
    xs = [inputs]
    for module in model:
        xs.append(module(xs[-1]).detach())
    e = delta = error(model, inputs, targets)
    found = {}
    for index in reversed(range(len(model))):
        module, x, y = model[index], xs[index], xs[index + 1]
        if isinstance(module, nn.Tanh):
            delta = delta * (1 - y**2)
        elif isinstance(module, nn.Flatten):
            delta = delta.view(x.shape)
        else:
            found[f"{index}.weight"], found[f"{index}.bias"] = update(module, x, delta)
            delta = back(index, delta, x, e)
    return found


def through(module: nn.Module, weight: Tensor, delta: Tensor, x: Tensor) -> Tensor:
    return delta @ weight if isinstance(module, nn.Linear) else through_conv(module, weight, delta, x.shape)


def check(model, method: str, back) -> dict[str, Tensor]:
    """Compare with the equation, and values with those of the plain model, bit by bit."""
    inputs, targets = data(model)
    plain, values = gradients(model, inputs, targets), model(inputs).detach()
    keys = list(model.state_dict())
    expected = written_out(model, inputs, targets, back)
    attach(method, model, inputs[:2], seed=3)
    assert torch.equal(model(inputs), values)
    assert list(model.state_dict()) == keys
    found = gradients(model, inputs, targets)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for name in list(plain)[-2:]:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-13, atol=0)  # the last layer learns as by backprop
    assert all((found[name] - plain[name]).abs().max() > 1e-4 for name in list(plain)[:-2])
    return found


@pytest.mark.parametrize("make", [mlp, conv])
def test_the_oracle_is_right_about_backprop(make):
    model = make()
    inputs, targets = data(model)
    expected = written_out(
        model, inputs, targets, lambda at, delta, x, e: through(model[at], model[at].weight, delta, x)
    )
    torch.testing.assert_close(gradients(model, inputs, targets), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [mlp, conv])
def test_feedback_alignment(make):
    model = make()
    layers, _ = layers_of(model, data(model)[0], method="feedback_alignment")
    feedback = {int(layer.name): feedback_of(layer, seed=3) for layer in layers}
    sizes = [float(feedback[at].square().mean() / model[at].weight.detach().square().mean()) for at in feedback]
    assert sizes == pytest.approx([1.0] * len(sizes), rel=0.6)  # as large as the weights, on average
    check(model, "feedback_alignment", lambda at, delta, x, e: through(model[at], feedback[at], delta, x))


@pytest.mark.parametrize("make", [mlp, conv])
def test_feedback_stays_while_weights_change(make):
    """The matrices are those of the first step, and those of the seed; other layers and seeds have others."""
    models = [make(), make(), make()]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        model.load_state_dict(models[0].state_dict())
        attach("feedback_alignment", model, data(model)[0], seed=seed)
    for model in models:
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1
    inputs, targets = data(models[0])
    first, same, other = (gradients(model, inputs, targets)["0.weight"] for model in models)
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("make", [mlp, conv])
def test_sign_symmetric(make):
    model = make()
    layers, _ = layers_of(model, data(model)[0], method="sign_symmetric")
    sizes = {int(layer.name): size_of(layer) for layer in layers}

    def back(at: int, delta: Tensor, x: Tensor, e: Tensor) -> Tensor:
        weight = model[at].weight.detach()
        return through(model[at], sizes[at] * torch.where(weight > 0, 1.0, -1.0), delta, x)

    check(model, "sign_symmetric", back)
    with torch.no_grad():
        for weight in model.parameters():
            weight.neg_()  # signs follow the weights
    inputs, targets = data(model)
    torch.testing.assert_close(
        gradients(model, inputs, targets), written_out(model, inputs, targets, back), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("make", [mlp, conv])
def test_direct_feedback_alignment(make):
    model = make()
    layers, _ = layers_of(model, data(model)[0], method="direct_feedback_alignment")
    feedback = {int(layer.name): _feedback(layer, classes=3, seed=3) for layer in layers}
    assert all(float(matrix.abs().max()) <= matrix.shape[1] ** -0.5 for matrix in feedback.values())

    def back(at: int, delta: Tensor, x: Tensor, e: Tensor) -> Tensor:
        return torch.einsum("nc,cf->nf", e, feedback[at]).view(x.shape)

    check(model, "direct_feedback_alignment", back)


def test_direct_feedback_keeps_passes_apart():
    """Two forward passes before the first backward pass, as with two terms of a loss."""
    model = mlp()
    inputs, targets = data(model)
    attach("direct_feedback_alignment", model, inputs, seed=0)
    one, two = (gradients(model, part, labels) for part, labels in zip(inputs.split(2), targets.split(2), strict=True))
    model.zero_grad()
    losses = [
        nn.functional.cross_entropy(model(part), labels)
        for part, labels in zip(inputs.split(2), targets.split(2), strict=True)
    ]
    (losses[0] + losses[1]).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, one[name] + two[name])


def test_a_layer_outside_of_a_pass_has_no_direct_feedback():
    model = mlp()
    inputs, _ = data(model)
    attach("direct_feedback_alignment", model, inputs, seed=0)
    model(inputs)
    with pytest.raises(FeedpropError, match="2 was called outside of the model"):
        model[2](torch.ones(1, 7, requires_grad=True))


def test_last_layer():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    inputs, targets = data(model)
    plain = gradients(model, inputs, targets)
    attach("last_layer", model, inputs, seed=0)
    found = gradients(model, inputs, targets)
    assert list(found) == ["4.weight", "4.bias"]
    assert all(torch.equal(gradient, plain[name]) for name, gradient in found.items())


def test_the_last_layer_is_the_one_that_is_called_last():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 3), nn.Linear(5, 4)

        def forward(self, x):
            return self.head(self.body(x).relu())

    model = Model()
    attach("last_layer", model.double(), torch.randn(2, 5), seed=0)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("module", "window"),
    [
        (discrete.Step(), lambda z: abs(z) <= 1),
        (discrete.Sign(), lambda z: abs(z) <= 1),
        (discrete.Ternary(), lambda z: abs(z) <= 1),
        (discrete.Quantize(2), lambda z: 0 <= z <= 1),
        (discrete.Round(), lambda z: True),
    ],
)
def test_straight_through(module, window):
    """The identity's gradient within the window: W_1's update is sum over samples of (W_2^T e) [window] x^T."""
    model = nn.Sequential(nn.Linear(5, 7), module, nn.Linear(7, 3))
    inputs, targets = data(mlp())
    values = model(inputs).detach()
    e = error(model, inputs, targets)
    z = model[0](inputs).detach()
    weight, expected = model[2].weight.detach(), torch.zeros(7, 5)
    for sample in range(4):
        for neuron in range(7):
            if window(float(z[sample, neuron])):
                back = sum(float(e[sample, out] * weight[out, neuron]) for out in range(3))
                expected[neuron] += back * inputs[sample]
    attach("straight_through", model, inputs, seed=0)
    assert torch.equal(model(inputs), values)
    assert sum(window(value) for value in z.flatten().tolist()) > 0
    torch.testing.assert_close(gradients(model, inputs, targets)["0.weight"], expected, rtol=1e-12, atol=1e-14)


def ordinary() -> nn.Sequential:
    """Normalisation, pooling, dropout, activations in place, a skip connection and layers on sequences."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)

        def forward(self, x):
            return (x + self.norm(self.conv(x))).relu_()

    return nn.Sequential(
        *(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True), Block(), nn.MaxPool2d(2), nn.Flatten(2)),
        *(nn.Linear(9, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)),
    )


def test_what_returns_through_the_weights_themselves_is_the_gradient():
    model = ordinary().eval()
    inputs, targets = data(conv())
    expected = gradients(model, inputs, targets)
    for layer in layers_of(model, inputs, method="feedback_alignment")[0]:
        redirect(layer.module, _Fixed(layer.module.weight.detach()))
    torch.testing.assert_close(gradients(model, inputs, targets), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["feedback_alignment", "direct_feedback_alignment", "sign_symmetric"])
def test_ordinary_networks_train(method):
    model = ordinary()
    inputs, targets = data(conv())
    attach(method, model, inputs, seed=0)
    found = gradients(model, inputs, targets)
    assert len(found) == len([*model.parameters()])
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in found.values())


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize(
    ("method", "model", "sentence"),
    [
        ("feedback_alignment", nn.Sequential(Own(), nn.Linear(5, 3)), "0 is a Own with parameters of its own"),
        ("sign_symmetric", nn.Sequential(nn.Linear(5, 4), discrete.Step(), nn.Linear(4, 3)), "no gradient reaches it"),
        ("straight_through", mlp(), "the model has none; use --method backprop"),
        ("last_layer", nn.Flatten(), "no layer with parameters"),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, model, sentence):
    with pytest.raises(FeedpropError, match=sentence):
        attach(method, model.double(), torch.randn(2, 5), seed=0)


def test_other_paddings_are_refused():
    for options in ({"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}):
        model = nn.Sequential(nn.Conv2d(2, 2, 3, **options), nn.Flatten())
        with pytest.raises(FeedpropError, match="padded with zeros, by a number"):
            attach("feedback_alignment", model, torch.randn(2, 2, 6, 6), seed=0)


@pytest.mark.parametrize("method", ["feedback_alignment", "direct_feedback_alignment", "sign_symmetric"])
def test_a_copy_is_a_model_of_its_own(method):
    """As pruning measures it: a copy with other weights has other values, and gradients by the same method."""
    model = mlp()
    inputs, targets = data(model)
    plain = gradients(model, inputs, targets)
    attach(method, model, inputs, seed=0)
    expected = gradients(model, inputs, targets)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(gradients(twin, inputs, targets), expected)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert not twin(inputs).any()
    torch.testing.assert_close(gradients(model, inputs, targets), expected)
    detach(model)
    torch.testing.assert_close(gradients(model, inputs, targets), plain)
    assert all("forward" not in vars(module) for module in model.modules())


def test_attaching_draws_no_random_number_and_keeps_the_mode():
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 3)).train()
    state, buffers = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    attach("feedback_alignment", model, torch.randn(4, 5, generator=torch.Generator()), seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())


def test_the_command_knows_every_method():
    assert list(typing.get_args(Method)) == ["lfp", "backprop", *METHODS] == list(TITLES)
