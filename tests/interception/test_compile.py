"""An attached model compiles into one graph and computes the same."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import snntorch
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, UnknownOperationError, attach, attached, discrete, rewards, rules, spiking
from support.propagation import CLOSE, Call, Residual, feedback_of, randomised
from support.stepped import Stepped

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:::torch"),  # the compiler's own
]


class Block(nn.Module):
    """The residual block of a ResNet: everything in place."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.activation(self.inner(x))
        out = self.inner(out)
        out += identity
        return self.activation(out)


class Handwritten(nn.Module):
    """Methods of tensors that torch writes in Python, and an activation and a normalisation written out."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(1.702 * x)
        x = x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-5)
        return 1 - x + 1 / (3 + x.square()) + x.unflatten(-1, (-1, 2)).norm(dim=-1, keepdim=True).flatten(-2).mean()


NETWORKS = {
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 8)), nn.TransformerEncoderLayer(8, 2, 8, activation="gelu", batch_first=True, dropout=0.0),
        Handwritten(), nn.Flatten(), nn.Linear(16, 4),
    ),
    "perceptron": lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)),
    "convolutional": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), Block(nn.ReLU(inplace=True)),
        Block(nn.SiLU(inplace=True)), Residual(nn.GELU()), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "conserving"), [*((name, False) for name in NETWORKS), ("transformer", True)], ids=str
)
def test_compiled_equals_eager(name: str, conserving: bool) -> None:
    model = attach(randomised(NETWORKS[name]()), rules.Composite(rules.Epsilon(0.1), conserving=conserving))
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    inputs, targets, reward = torch.randn(5, 16), torch.randint(4, (5,)), rewards.SoftmaxReward()
    for _ in range(2):
        values = [reward(one(inputs), targets) for one in (model, compiled)]
        for value in values:
            value.backward()
    torch.testing.assert_close(values[1], values[0])
    found = {key.removeprefix("_orig_mod."): f for key, f in feedback_of(compiled).items()}
    torch.testing.assert_close(found, feedback_of(model), rtol=1e-8, atol=1e-11)


class Unlisted(nn.Module):
    """Functions that torch.compile hands to no mode by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.weight = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)]), nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> Tensor:
        for layer, phi in zip(self.layers, (F.tanh, F.sigmoid, F.hardswish, F.hardsigmoid), strict=True):
            x = phi(layer(x))
        return F.linear(x.unflatten(1, (2, 8)).flatten(1), torch.as_strided(self.weight, (4, 16), (16, 1)))


class Normed(nn.Module):
    """A weight-normalised layer, and a function in place, which torch lists neither as overridable nor as ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh_(self.inner(x))


@pytest.mark.parametrize("kind", [Unlisted, Normed])
def test_no_function_is_hidden_by_the_compiler(kind: type[nn.Module]) -> None:
    model = attach(randomised(kind()), rules.Epsilon(0.1))
    compared(model, torch.randn(5, 16), torch.randint(4, (5,)))


class Twice(torch.autograd.Function):
    """Two z + sign(z), with a backward pass that no handler uses."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        return 2 * z + z.sign()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 7 * gradient


def written_in_part(currents: Tensor) -> Tensor:
    currents = currents * 2
    currents[:, 0] += 5
    return spiking.lif(currents, beta=0.5, steps=3)[0].sum(0)


@pytest.mark.usefixtures("handlers_kept")
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize(
    ("registered", "inner"),
    [
        (None, Call(discrete.top_one)),
        (None, Call(lambda x: spiking.lif(x.expand(3, *x.shape) * 2, beta=0.5)[0].sum(0))),
        (None, Call(written_in_part)),
        (None, Call(lambda x: spiking.leaky_sum(x, alpha=0.5, steps=3).sum(0))),
        (Twice, Call(lambda x: Twice.apply(x))),
        (torch.special.i0, Call(torch.special.i0)),
        (torch.special.ndtr, Call(torch.special.ndtr)),
    ],
    ids=["top_one", "lif", "lif of what was written to", "leaky_sum", "autograd function", "i0", "ndtr"],
)
def test_added_functions_are_not_hidden_either(registered, inner: nn.Module, epsilon: float) -> None:
    if registered is not None:
        rules.register(registered)(rules.elementwise)
    model = attach(randomised(nn.Sequential(nn.Linear(16, 6), inner, nn.Linear(6, 4))), rules.Epsilon(epsilon))
    compared(model, torch.randn(5, 16), torch.randint(4, (5,)))


def test_neurons_of_snntorch_are_compiled_with_their_rules() -> None:
    neurons = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9, threshold=0.2)
    model = randomised(Stepped(nn.Linear(16, 8), neurons[0], nn.Linear(8, 4), neurons[1]))
    counts = nn.Sequential(model, Call(lambda spikes: spikes.sum(0)))
    compared(attach(counts, rules.Epsilon(1.0)), 3 * torch.randn(3, 5, 16), torch.randint(4, (5,)))


def compared(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """The feedback of a compiled step is that of the plain one, and there is some for the first layer."""
    found = []
    for one in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        rewards.SoftmaxReward()(one(inputs), targets).backward()
        found.append(feedback_of(model))
    assert next(iter(found[0].values())).any()
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-11)


def test_inductor_compiles_the_whole_step() -> None:
    model = attach(randomised(NETWORKS["perceptron"]()), rules.Epsilon(0.1))
    reward = rewards.SoftmaxReward()
    inputs, targets = torch.randn(5, 16), torch.randint(4, (5,))
    reward(model(inputs), targets).backward()
    expected = {key: f.clone() for key, f in feedback_of(model).items()}
    model.zero_grad()
    step = torch.compile(lambda x, y: reward(model(x), y), fullgraph=True)
    step(inputs, targets).backward()
    torch.testing.assert_close(feedback_of(model), expected, rtol=1e-8, atol=1e-11)


def test_outputs_of_zero_are_rewarded_when_compiled() -> None:
    model = attach(randomised(nn.Sequential(nn.Linear(16, 4), nn.ReLU())))
    inputs, given = torch.randn(6, 16), torch.randn(6, 4)
    assert (model(inputs) == 0).any()
    rewards.GivenReward()(model(inputs), given).backward()
    expected = {key: f.clone() for key, f in feedback_of(model).items()}
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    rewards.GivenReward()(compiled(inputs), given).backward()
    torch.testing.assert_close(feedback_of(model), expected, rtol=1e-8, atol=1e-11)


# torch 2.13 never compiles an nn.Linear by itself, with or without feedprop, and fullgraph=True makes that an error
LAYERS_COMPILE_ALONE = Version(torch.__version__) >= Version("2.14")


def _whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def _parts(model: nn.Module) -> nn.Module:
    for part in model:
        part.compile(backend="aot_eager", fullgraph=LAYERS_COMPILE_ALONE)
    return model


@pytest.mark.parametrize("compiled", [_whole, _parts])
@pytest.mark.parametrize(
    "composite", [rules.Epsilon(0.1), rules.Composite(rules.Epsilon(0.1), by_name={"*1.0": rules.ZPlus()})], ids=str
)
def test_what_was_compiled_before_is_attached(compiled, composite) -> None:
    inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), Handwritten())
    plain = randomised(nn.Sequential(nn.Linear(16, 8), inner, nn.Linear(8, 4), nn.ReLU()))
    inputs, given, found = torch.randn(6, 16), torch.randn(6, 4), []
    for model in (plain, compiled(copy.deepcopy(plain))):
        model(inputs).sum().backward()  # it has been compiled without rules
        model.zero_grad()
        attach(model, composite)
        for _ in range(2):
            outputs = model(inputs)
            rewards.GivenReward()(outputs, given).backward()
        assert (outputs == 0).any()  # the reward of those enters at their pre-activations
        found.append({name.removeprefix("_orig_mod."): f for name, f in feedback_of(model).items()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-11)


# --- what torch.compile does with a tensor by itself, so that no mode would see it ---


def _written(y: Tensor, place: Any, value: Any) -> Tensor:
    y = y * 1.0
    y[place] = value
    return y.tanh()


def _unpacked(y: Tensor, w: Tensor) -> Tensor:
    a, *others = w
    return y * a + sum(others)


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a row": lambda y, w: _written(y, 0, w),
    "rows": lambda y, w: _written(y, slice(1, 3), w),
    "a column": lambda y, w: _written(y, (..., 0), w[1]),
    "constants": lambda y, w: y * _written(torch.zeros(5, 4), 1, w),
    "operator": lambda y, w: (lambda z: (operator.setitem(z, 0, w), z.tanh())[1])(y * 1.0),
    "abs": lambda y, w: y * abs(w),
    "pow": lambda y, w: pow(y.square() + 0.5, w),
    "pow of a weight": lambda y, w: y * pow(w, 2),
    "pow of a number": lambda y, w: y * pow(2.0, w),
    "iteration": lambda y, w: torch.stack([row * y.mean() for row in w]),
    "iteration over activations": lambda y, w: torch.stack([row * w for row in abs(y)]),
    "unpacked": _unpacked,
    "list": lambda y, w: y * list(w)[1],
    "real": lambda y, w: y * w.real,
    "zip": lambda y, w: sum(a * b * y for a, b in zip(w, reversed(w), strict=True)),
}


class Operated(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.weight, self.function = nn.Linear(3, 4), nn.Parameter(torch.randn(4)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(torch.tanh(self.layer(x)), self.weight)


@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_python(name: str, part: bool) -> None:
    operated, x = randomised(Operated(OPERATORS[name])), torch.randn(5, 3)
    found = []
    for compiled in (False, True):
        inner = torch.compile(operated, backend="aot_eager") if compiled and part else operated
        with attached(nn.Sequential(nn.Linear(3, 3), inner) if part else inner) as model:
            if part:
                torch.nn.init.eye_(model[0].weight), torch.nn.init.zeros_(model[0].bias)
            operated.zero_grad()
            run = torch.compile(model, backend="aot_eager") if compiled and not part else model
            run(x).sum().backward()
        found.append(feedback_of(operated))
    torch.testing.assert_close(found[1], found[0], **CLOSE)


class ComplexWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.weight = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 4, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y @ self.weight.real - torch.tanh(y) @ self.weight.imag


def test_parts_of_complex_parameters_get_their_feedback_compiled() -> None:
    inner, x = randomised(ComplexWeight()), torch.randn(5, 3)
    found = []
    for compiled in (False, True):
        inner.zero_grad()
        with attached(inner) as model:
            (torch.compile(model, backend="aot_eager") if compiled else model)(x).sum().backward()
        found.append(feedback_of(inner))
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def _broken(y: Tensor, w: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return y * w


LEAVING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "an element": lambda y, w: _broken(y, w[1]),
    "a view": lambda y, w: _broken(y.view(5, 2, 2), w.view(2, 2)),
    "chunks": lambda y, w: _broken(y, torch.cat(w.chunk(2))),
    "rows": lambda y, w: _broken(y, list(w)[2]),
    "the parameter": _broken,
    "returned": lambda y, w: [y * w, w],
    "a view returned": lambda y, w: {"y": y, "w": w.view(2, 2)},
    "an element returned": lambda y, w: (y, w[1]),
}


@pytest.mark.parametrize("name", LEAVING)
def test_parameters_that_leave_a_compiled_graph(name: str) -> None:
    """By a graph break or at the end; the compiler restores views of inputs outside of the graph, without the rules."""
    model, x, found = randomised(Operated(LEAVING[name])), torch.randn(5, 3), []
    for compiled in (False, True):
        with attached(model):
            model.zero_grad()
            result = (torch.compile(model, backend="aot_eager") if compiled else model)(x)
            parts = [result] if isinstance(result, Tensor) else result.values() if isinstance(result, dict) else result
            sum(part.square().sum() for part in parts).backward()
        found.append(feedback_of(model))
    torch.testing.assert_close(found[1], found[0], **CLOSE)


class Forces(nn.Module):
    """Takes the gradient of an energy, computed by a function of the layer and x."""

    def __init__(self, energy: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.energy = randomised(nn.Linear(3, 4)), energy

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.force(x).sum()

    @torch.compiler.disable
    def force(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.energy(self.layer, x), x)[0]


def test_gradients_taken_inside_are_ordinary_or_refused() -> None:
    def energy(layer: nn.Module, x: Tensor) -> Tensor:
        return torch.tanh(layer(x)).sum()

    x, parted = torch.randn(5, 3), Forces(torch.compile(energy, backend="aot_eager"))
    plain = Forces(energy)
    with attached(plain, rules.Epsilon(0.3)), attached(parted):
        torch.testing.assert_close(torch.compile(plain, backend="aot_eager")(x), plain(x), **CLOSE)
        with pytest.raises(FeedpropError, match=r"goes through a part that torch\.compile compiled.*compiler\.disable"):
            parted(x)


@pytest.mark.parametrize("held", [lambda x: x, lambda x: [x], lambda x: {"scale": x}], ids=["tensor", "list", "dict"])
def test_a_held_tensor_that_is_no_parameter_is_refused(held: Any) -> None:
    """Compiled, the audit cannot tell it from an input."""

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            scale = self.scale
            scale = scale["scale"] if isinstance(scale, dict) else scale[0] if isinstance(scale, list) else scale
            return super().forward(x) * scale

    model = Scaled(4, 3)
    model.scale = held(torch.randn(3, requires_grad=True))
    compiled = torch.compile(attach(model), backend="aot_eager")
    with pytest.raises(UnknownOperationError, match=r"shape \(3,\) requires a gradient, but is neither"):
        compiled(torch.randn(2, 4))


# --- graphs that break inside of a pass ---


class Experts(nn.Module):
    """Sends each row to the expert that its gate prefers; the indices depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        largest, chosen = self.gate(x).softmax(-1).max(-1)
        output = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero(as_tuple=True)[0]
            if rows.numel():
                output[rows] = expert(x[rows]) * largest[rows, None]
        return output


class Steered(nn.Module):
    """Reads a number in the middle of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.last(h * self.scale if h.sum().item() > 0 else h)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, None])[0])


BROKEN = {"experts": (Experts, "experts.*"), "a number": (Steered, "first"), "an LSTM": (Recurrent, "head")}


@pytest.mark.parametrize("name", BROKEN)
def test_a_break_in_the_graph_keeps_the_rules(name: str) -> None:
    kind, ruled = BROKEN[name]
    model = kind().double()
    compiled = torch.compile(model, backend="aot_eager")
    with attached(model, rules.Composite(rules.Epsilon(1e-3), by_name={ruled: rules.Gamma(0.5)})):
        for rows in (6, 7, 8):
            x, found = torch.randn(rows, 4, dtype=torch.float64), []
            for run in (model, compiled):
                model.zero_grad()
                run(x).square().sum().backward()
                found.append(feedback_of(model))
            torch.testing.assert_close(found[1], found[0], **CLOSE)


@pytest.mark.parametrize("later", [False, True])
def test_a_layer_that_was_replaced_has_its_own_rule_when_compiled(later: bool) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double(), torch.randn(5, 4).double()
    compiled = torch.compile(model, backend="aot_eager")
    with attached(model, rules.Composite(rules.Epsilon(), by_name={"0": rules.Gamma(0.5)})):
        if later:
            compiled(x).sum().backward()
        model[0] = nn.Linear(4, 4).double()
        found = []
        for run in (compiled, model):
            model.zero_grad()
            run(x).sum().backward()
            found.append(feedback_of(model))
        torch.testing.assert_close(found[0], found[1], **CLOSE)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "composite", [rules.Composite(rules.Gamma()), rules.presets.training(epsilon=0.1)], ids=["Gamma", "damped"]
)
def test_after_a_break_in_a_compiled_graph_rules_apply_once(composite: rules.Composite, backend: str) -> None:
    """The backend "eager" calls torch functions, to which the rules were applied once more."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return self.layer(x)

    torch.manual_seed(0)
    model, results = Broken(), []
    x, given = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(-1, 2, 9).view(3, 3)
    for compiled in (False, True):
        torch._dynamo.reset()
        model.zero_grad()
        inputs = x.clone().requires_grad_()
        with attached(model, composite):
            run = torch.compile(model, backend=backend) if compiled else model
            run(inputs).backward(given)
        results.append((inputs.grad, feedback_of(model)["layer.weight"]))
    torch.testing.assert_close(*results, **CLOSE)
