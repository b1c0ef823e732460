"""Whatever would give a parameter of an attached model a plain gradient is refused, and the message says what to do.

What reaches the rules by another way than `forward` gets the same feedback as by `forward`.
"""

import collections
import copy
import dataclasses
import functools
import threading
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from feedprop import FeedpropError, UnknownOperationError, attach, attached, credit, rules
from support.propagation import CLOSE, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")


class Auto(nn.Module):
    """Two layers, each in a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.d = randomised(nn.Linear(4, 6)), randomised(nn.Linear(6, 3))

    def encode(self, x: Tensor) -> Tensor:
        return F.relu(self.e(x))

    def decode(self, x: Tensor) -> Tensor:
        return self.d(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


GIVEN = rules.Composite(rules.Epsilon(0.1), by_name={"d": rules.Gamma(0.5)})


def _feedback(model: nn.Module, call: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    call().square().sum().backward()
    return feedback_of(model)


# --- methods ---


def test_methods_run_under_the_rules() -> None:
    model, x = Auto(), torch.randn(5, 4)
    with attached(model, GIVEN, methods=("encode", "decode")):
        expected = _feedback(model, lambda: model(x))
        torch.testing.assert_close(_feedback(model, lambda: model.decode(model.encode(x))), expected, **CLOSE)
        assert torch.equal(model.decode(model.encode(x)), model(x))
    assert "encode" not in vars(model)
    plain = _feedback(model, lambda: model(x))
    assert not torch.allclose(plain["e.weight"], expected["e.weight"])


def test_static_methods_and_those_of_the_class_run_under_the_rules() -> None:
    class Projected(Auto):
        @staticmethod
        def project(x: Tensor, weight: Tensor) -> Tensor:
            return F.linear(x, weight).relu()

        @classmethod
        def joined(cls, x: Tensor, weight: Tensor) -> Tensor:
            return cls.project(x, weight)

    model, x = Projected(), torch.randn(5, 4)
    plain = _plain(model, lambda: F.linear(x, model.e.weight).relu())["e.weight"]
    with attached(model, rules.Epsilon(), methods=("project", "joined")):
        for call in (model.project, model.joined):
            found = _feedback(model, lambda call=call: call(x, model.e.weight))["e.weight"]
            torch.testing.assert_close(found, -plain * model.e.weight.detach().abs(), **CLOSE)


def test_a_static_forward_is_called_as_it_is() -> None:
    class Squashed(nn.Module):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.tanh()

    x = torch.randn(5, 4, requires_grad=True)
    with attached(Squashed()) as model:
        assert torch.equal(model(x), x.tanh())


def test_methods_is_no_single_name() -> None:
    with pytest.raises(FeedpropError, match=r"methods takes several names, such as methods=\('encode',\)"):
        attach(Auto(), methods="encode")


@pytest.mark.parametrize("name", ["embed", "forward", "training", "d", "__call__", "_call_impl"])
def test_what_is_no_further_method_is_refused(name: str) -> None:
    with pytest.raises(FeedpropError, match=f"methods names '{name}', which is no further method of Auto"):
        attach(Auto(), methods=(name,))


# --- what is used outside of a pass is refused when the backward pass starts ---


def _traced(model: nn.Module, x: Tensor) -> Tensor:
    return torch.fx.symbolic_trace(model)(x)


OUTSIDE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "methods that were not named": lambda model, x: model.decode(model.encode(x)),
    "children": lambda model, x: model.d(F.relu(model.e(x))),
    "the last child after the model": lambda model, x: model.d(F.relu(model(x)).repeat(1, 2)),
    "functional": lambda model, x: F.linear(x, model.e.weight, model.e.bias),
    "a product": lambda model, x: x @ model.e.weight.T,
    "a weight reshaped": lambda model, x: x @ model.e.weight.view(4, 6),
    "einsum": lambda model, x: torch.einsum("bi,oi->bo", x, model.e.weight),
    "a weight computed outside": lambda model, x: x @ (2.0 * model.e.weight).T,
    "a masked weight": lambda model, x: F.linear(x, model.e.weight * torch.ones(6, 4)),
    "a layer behind an activation": lambda model, x: F.relu(F.linear(x, model.e.weight)).exp(),
    "as a sum's part before a layer": lambda model, x: F.linear(x + model.e.weight[0], torch.ones(2, 4)),
    "class": lambda model, x: type(model).forward(model, x),
    "fx": _traced,
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_parameters_used_outside_of_the_model_are_refused(name: str) -> None:
    with attached(Auto()) as model:
        output = OUTSIDE[name](model, torch.randn(5, 4))
        with pytest.raises(FeedpropError) as caught:
            output.sum().backward()
        text = str(caught.value)
        assert "of the attached Auto: used outside of its forward()" in text or "cannot be exported" in text
        assert 'attach(model, methods=("encode", ...))' in text or "detach(model)" in text
        assert feedback_of(model) == {}


def test_a_parameter_used_outside_is_refused_beside_a_pass() -> None:
    with attached(Auto()) as model:
        output = model(torch.randn(5, 4)).sum() + F.linear(torch.randn(5, 4), model.e.weight).sum()
        with pytest.raises(FeedpropError, match=r"^e\.weight of the attached Auto: used outside"):
            torch.autograd.backward([output])


def test_a_layer_that_is_attached_by_itself_may_be_called() -> None:
    model, x = Auto(), torch.randn(5, 4)
    with attached(model.e, rules.Epsilon()):
        found = _feedback(model, lambda: F.relu(model.e(x)).sum(1))
    expected = -_plain(model, lambda: F.relu(model.e(x)).sum(1))["e.weight"] * model.e.weight.detach().abs()
    torch.testing.assert_close(found["e.weight"], expected, **CLOSE)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.PReLU, nn.Conv1d, nn.BatchNorm1d, nn.LayerNorm, nn.EmbeddingBag])
def test_every_kind_of_layer_is_known(kind: type[nn.Module]) -> None:
    arguments = {nn.PReLU: (), nn.Conv1d: (4, 4, 1), nn.BatchNorm1d: (4,), nn.LayerNorm: (4,)}.get(kind, (4, 4))
    model = nn.Sequential(kind(*arguments).float())
    x = torch.zeros(5, 4, dtype=torch.long) if kind is nn.EmbeddingBag else torch.randn(2, 4, 4, dtype=torch.float32)
    with attached(model, rules.Composite(magnitude_floor=0.1)):
        output = model[0](x)
        with pytest.raises(FeedpropError, match=r"of the attached Sequential: used outside"):
            (output[0] if isinstance(output, tuple) else output).sum().backward()


def _plain(model: nn.Module, call: Callable[[], Tensor]) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(call().square().sum(), parameters, allow_unused=True)
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "L2": lambda weight: weight.square().sum(),
    "L1": lambda weight: weight.abs().sum(),
    "norm": lambda weight: weight.norm(),
    "orthogonality": lambda weight: (weight.reshape(3, -1) @ weight.reshape(3, -1).T - torch.eye(3)).square().sum(),
    "distance from the start": lambda weight: (weight - 1.0).pow(2).mean(),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_beside_the_reward_adds_its_gradient(name: str) -> None:
    penalty = PENALTIES[name]
    model, x = Auto(), torch.randn(5, 4)
    with attached(model):
        alone = {name: value.clone() for name, value in _feedback(model, lambda: model(x)).items()}
        model.zero_grad()
        (model(x).square().sum() + sum(penalty(p) for p in model.parameters())).backward()
        found = feedback_of(model)
    for key, parameter in model.named_parameters():
        (gradient,) = torch.autograd.grad(penalty(parameter), parameter)
        torch.testing.assert_close(found[key], alone[key] - gradient, **CLOSE)


# --- what is used inside, but where no rule sees it ---


class Given(nn.Module):
    """A layer whose output goes through a function of the layer and x."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = randomised(nn.Linear(4, 3)), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer, x)


def _in_a_thread(layer: nn.Module, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(layer(x)))
    thread.start()
    thread.join()
    return found[0] * 2.0


def _in_a_pool(layer: nn.Module, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(2) as pool:
        return next(pool.map(torch.tanh, [layer(x)]))


def _in_a_thread_that_ran_before(layer: nn.Module, x: Tensor) -> Tensor:
    """Use a thread whose nodes have the numbers of this one's."""
    y = layer(x).relu()
    end = credit.sequence_number()

    def late(z: Tensor) -> Tensor:
        leaf = torch.ones(1, requires_grad=True)
        while credit.sequence_number() < end - 1:
            leaf * 2.0
        return z.tanh()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(late, y).result()


LEAF = torch.ones(3, dtype=torch.float64, requires_grad=True)

INSIDE: dict[str, tuple[Callable[[nn.Module, Tensor], Any], str]] = {
    "another thread": (_in_a_thread, r"in another thread"),
    "a pool of threads": (_in_a_pool, r"^TanhBackward0 was computed where no rule sees it: in another thread"),
    "a thread that ran before": (_in_a_thread_that_ran_before, r"^TanhBackward0 was computed .* in another thread"),
    "torch functions disabled": (lambda layer, x: _disabled(layer, x), r"layer\.weight, layer\.bias: used where"),
    "a leaf": (lambda layer, x: layer(x) * LEAF, r"a tensor of shape \(3,\) requires a gradient.*make it an nn.Param"),
    "a leaf returned": (lambda layer, x: (layer(x), LEAF), r"a tensor of shape \(3,\) .*make it an nn.Parameter"),
    "a leaf that is told again": (lambda layer, x: layer(x) * LEAF.requires_grad_(), r"a tensor of shape \(3,\)"),
    "a generator": (lambda layer, x: (layer(part) for part in x), r"returns a generator.*return the tensors"),
    "a function": (lambda layer, x: lambda: layer(x), r"returns the function <lambda>.*return the tensors"),
    "a function in a tuple": (lambda layer, x: (layer(x), lambda: layer(x)), r"returns the function .*return the tens"),
    "a function in a dictionary": (lambda layer, x: {"later": lambda: layer(x)}, r"returns the function"),
    "a function deep inside": (lambda layer, x: [{"a": (Data(layer(x)), [lambda: layer(x)])}], r"returns the function"),
    "a function in a dataclass": (lambda layer, x: (Data(lambda: layer(x)), 1), r"returns the function <lambda>"),
    "a partial": (lambda layer, x: {"later": functools.partial(layer, x)}, r"returns a functools\.partial, whose"),
    "a method": (lambda layer, x: (layer(x), layer.forward), r"returns the method forward, whose.*return the tensors"),
    "a map": (lambda layer, x: map(layer, x), r"returns a map, whose body"),
    "a generator in a list": (lambda layer, x: [layer(x), (layer(part) for part in x)], r"returns a generator"),
}  # fmt: skip


def _disabled(layer: nn.Module, x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return layer(x)


@pytest.mark.parametrize("name", INSIDE)
def test_what_no_rule_sees_is_refused(name: str) -> None:
    function, message = INSIDE[name]
    with attached(Given(function)) as model, pytest.raises(FeedpropError, match=message):
        model(torch.randn(5, 4))


def test_a_weight_computed_before_the_call_is_refused() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2.0 * weight

    model = nn.Sequential(randomised(nn.Linear(4, 3)))
    parametrize.register_parametrization(model[0], "weight", Doubled())
    x = torch.randn(5, 4)
    with attached(model):
        found = _feedback(model, lambda: model(x))
        with parametrize.cached():
            model[0].weight  # noqa: B018  computed outside of the pass
            with pytest.raises(UnknownOperationError, match=r"before the call \(cached\).*inside of forward"):
                model(x).sum().backward()
        with parametrize.cached():  # computed inside
            torch.testing.assert_close(_feedback(model, lambda: model(x)), found, **CLOSE)


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return (w * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> Tensor:
        return credit


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_unregistered_function_is_refused_at_any_step(steps: int) -> None:
    model = Given(lambda layer, x: F.linear(x, Rounded.apply(layer.weight) if layer.quantised else layer.weight))
    model.layer.quantised = False
    with attached(model):
        for _ in range(steps):
            model(torch.randn(5, 4)).sum().backward()
        model.layer.quantised = True
        with pytest.raises(
            UnknownOperationError, match=r"Rounded, a torch\.autograd\.Function.*feedprop\.rules\.register"
        ):
            model(torch.randn(5, 4))


def _disabled_product(layer: nn.Module, x: Tensor) -> Tensor:
    y = layer(x)
    with torch._C.DisableTorchFunction():
        doubled = y * 2.0
    return doubled.sin() if layer.other else y.cos()


def _leaf_if_other(layer: nn.Module) -> Tensor:
    return LEAF if layer.other else LEAF.detach()


OTHER_GRAPHS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "another function": (_disabled_product, r"MulBackward0 was computed where no rule sees it"),
    "a leaf": (lambda layer, x: layer(x) * _leaf_if_other(layer), r"a tensor of shape \(3,\)"),
    "a leaf in a list": (lambda layer, x: torch.cat([layer(x)[0], _leaf_if_other(layer)]), r"a tensor of shape \(3,\)"),
    "a leaf by keyword": (
        lambda layer, x: F.linear(layer(x), torch.eye(3), bias=_leaf_if_other(layer)),
        r"a tensor of shape \(3,\)",
    ),
}


@pytest.mark.parametrize("name", OTHER_GRAPHS)
def test_another_graph_with_as_many_nodes_is_searched_too(name: str) -> None:
    function, message = OTHER_GRAPHS[name]
    model, x = Given(function), torch.randn(5, 4)
    model.layer.other = False
    with attached(model):
        model(x).sum().backward()
        model.layer.other = True
        with pytest.raises(UnknownOperationError, match=message):
            model(x)


# --- outputs in any object ---


@dataclasses.dataclass
class Data:
    y: Tensor


class Plain:
    def __init__(self, y: Tensor) -> None:
        self.y = y


class Slotted:
    __slots__ = ("y",)

    def __init__(self, y: Tensor) -> None:
        self.y = y


Named = namedtuple("Named", ["y"])
OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda y: (y,),
    "list in a dictionary": lambda y: {"y": [y]},
    "namedtuple": Named,
    "dataclass": Data,
    "plain class": Plain,
    "slots": Slotted,
    "plain class in a list": lambda y: [Plain(y)],
    "deque": lambda y: collections.deque([y]),
    "mappingproxy": lambda y: types.MappingProxyType({"y": y}),
    "values of a dictionary": lambda y: {"y": [y]}.values(),
    "UserDict": lambda y: collections.UserDict(y=y),
    "namespace": lambda y: types.SimpleNamespace(y=y),
    "distribution": lambda y: torch.distributions.Independent(torch.distributions.Normal(y, 1.0), 1),
    "dataclass in a dataclass": lambda y: {"y": [Data(Data((y,)))]},  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_in_any_object_are_looked_into(name: str) -> None:
    model = Given(lambda layer, x: OUTPUTS[name](_disabled(layer, x)))
    with attached(model), pytest.raises(UnknownOperationError, match=r"^layer\.weight, layer\.bias: used where"):
        model(torch.randn(5, 4))
    model = Given(lambda layer, x: OUTPUTS[name](layer(x)))
    with attached(model):
        model(torch.randn(5, 4))


def test_functions_of_their_arguments_alone_may_be_returned() -> None:
    with attached(Given(lambda layer, x: (layer(x), F.relu))) as model:
        assert model(torch.randn(5, 4))[1] is F.relu


def _model_output(y: Tensor) -> Any:
    return pytest.importorskip("transformers.modeling_outputs").CausalLMOutput(logits=y)


RETURNED: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "as it is": (lambda p: p, lambda out: out),
    "tuple": (lambda p: (p, 1), lambda out: out[0]),
    "namedtuple": (Named, lambda out: out.y),
    "dictionary": (lambda p: {"y": p}, lambda out: out["y"]),
    "ModelOutput": (_model_output, lambda out: out.logits),
    "ModelOutput by name": (_model_output, lambda out: out["logits"]),
    "dataclass": (Data, lambda out: out.y),
}


@pytest.mark.parametrize("name", RETURNED)
def test_a_parameter_that_is_returned_takes_feedback(name: str) -> None:
    pack, unpack = RETURNED[name]
    model, given = Given(lambda layer, x: pack(layer.bias)), torch.tensor([1.0, -2.0, 3.0])
    with attached(model, rules.Epsilon()):
        (unpack(model(torch.randn(5, 4))) * given).sum().backward()
    torch.testing.assert_close(model.layer.bias.grad, given * model.layer.bias.detach().abs(), **CLOSE)


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_a_parameter_returned_in_an_object_of_ones_own_is_refused(kind: type) -> None:
    unseen = pytest.raises(UnknownOperationError, match=r"^layer\.bias: used where no rule sees it")
    with attached(Given(lambda layer, x: kind(layer.bias))) as model, unseen:
        model(torch.randn(5, 4))


# --- the model's own hooks count as inside ---


HOOKED: dict[str, Callable[[nn.Linear], Any]] = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": lambda layer: nn.utils.spectral_norm(layer).eval(),
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pre-hook": lambda layer: layer.register_forward_pre_hook(lambda own, args: torch.tanh(args[0] * own.bias[0])),
    "hook": lambda layer: layer.register_forward_hook(lambda module, args, output: F.relu(output * module.bias)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", HOOKED)
def test_hooks_of_the_attached_module_run_in_the_pass(name: str) -> None:
    layer, inner = (randomised(nn.Linear(4, 3)) for _ in range(2))
    inner.load_state_dict(layer.state_dict())
    for one in (layer, inner):
        HOOKED[name](one)
    for key, value in layer.state_dict().items():  # spectral_norm begins with random vectors
        inner.state_dict()[key].copy_(value)
    outer, x = nn.Sequential(inner), torch.randn(5, 4)
    with attached(outer, rules.Epsilon(0.1)):
        expected = _feedback(outer, lambda: outer(x))
    plain = _plain(layer, lambda: layer(x))
    with attached(layer, rules.Epsilon(0.1)):
        found = _feedback(layer, lambda: layer(x))
    torch.testing.assert_close({f"0.{key}": value for key, value in found.items()}, expected, **CLOSE)
    assert not any(torch.allclose(-found[key], plain[key]) for key in found)


# --- inside forward ---


def test_requires_grad_inside_forward() -> None:
    def forces(layer: nn.Module, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        energy = layer(x).tanh().sum()
        (force,) = torch.autograd.grad(energy, x)
        return force

    model, x = Given(forces), torch.randn(5, 4)
    expected = model(x)
    with attached(model, rules.Epsilon(0.3)):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("activation", [torch.tanh, F.gelu, F.relu, lambda z: F.softplus(z) * z.sigmoid()])
def test_a_gradient_taken_inside_the_model_is_the_derivative(activation: Callable[[Tensor], Tensor]) -> None:
    def both(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = activation(layer(x))
        (slope,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
        return y, slope

    model, x = Given(both), torch.randn(5, 4)
    y, slope = model(x)
    with attached(model, rules.Composite(rules.Epsilon(0.3), activation=rules.CentralDifference())):
        found = model(x)
        assert torch.equal(found[0], y)
        torch.testing.assert_close(found[1], slope, **CLOSE)
        found[0].sum().backward()
        assert (model.layer.weight.grad != 0).any()


def _by_grad(y: Tensor, x: Tensor, **options: Any) -> Tensor:
    return torch.autograd.grad(y, x, **options)[0]


def _by_method(y: Tensor, x: Tensor, **options: Any) -> Tensor:
    y.backward(inputs=[x], **options)
    return x.grad


def _by_function(y: Tensor, x: Tensor, **options: Any) -> Tensor:
    torch.autograd.backward([y], inputs=[x], **options)
    return x.grad


def _without_recording(y: Tensor, x: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return _by_grad(y, x, **options)


GRADIENTS = {"grad": _by_grad, "method": _by_method, "function": _by_function, "no_grad": _without_recording}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_taken_inside_by_any_call_is_ordinary(name: str) -> None:
    def both(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = layer(x).tanh()
        return y, GRADIENTS[name](y.square().sum(), x, retain_graph=True)

    model, x = Given(both), torch.randn(5, 4)
    y, slope = model(x)
    with attached(model, rules.Epsilon(0.3)):
        found = model(x)
        assert torch.equal(found[0], y)
        torch.testing.assert_close(found[1], slope, **CLOSE)
        found[0].sum().backward()
        assert (model.layer.weight.grad != 0).any()


@pytest.mark.parametrize("composite", [rules.Composite(), rules.presets.conserving()], ids=["training", "conserving"])
def test_a_gradient_taken_inside_behind_what_the_rules_take_for_constant_is_refused(composite: rules.Composite) -> None:
    def both(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = layer(x)
        y = F.layer_norm(y, y.shape) if composite.conserving else y * y.sigmoid()
        return y, torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0]

    with attached(Given(both), composite) as model, pytest.raises(FeedpropError, match="would miss a part"):
        model(torch.randn(5, 4))


class Forces(nn.Module):
    """An energy and its derivative, which is taken also if gradients are disabled around the model."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))

    @torch.enable_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        energy = self.energy(x).sum()
        return energy.detach(), -torch.autograd.grad(energy, x)[0]


def test_a_derivative_is_taken_inside_also_under_no_grad() -> None:
    model, x = Forces(), torch.randn(5, 3)
    expected = model(x)
    with attached(model), torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_gradients_of_parameters_taken_inside_are_ordinary() -> None:
    def steps(layer: nn.Module, x: Tensor) -> Tensor:
        layer(x).tanh().sum().backward()
        gradient, layer.weight.grad, layer.bias.grad = layer.weight.grad, None, None
        return layer(x) * gradient.sum()

    model, x = Given(steps), torch.randn(5, 4)
    expected = model(x)
    with attached(model):
        torch.testing.assert_close(model(x), expected, **CLOSE)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_that_is_to_be_differentiated_is_refused(name: str) -> None:
    def penalised(layer: nn.Module, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return GRADIENTS[name](layer(x).tanh().sum(), x, create_graph=True)

    with attached(Given(penalised)) as model, pytest.raises(FeedpropError, match="without create_graph"):
        model(torch.randn(5, 4))


# --- torch.func ---


class Memory(nn.Module):
    """A module of length 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = randomised(nn.Linear(4, 3))

    def __len__(self) -> int:
        return 0

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(x)


@pytest.mark.parametrize("before", [0, 1])
def test_functional_call_reaches_modules_of_length_0(before: int) -> None:
    model, x = Top(), torch.randn(5, 4)
    with attached(model):
        for _ in range(before):
            model(x)
        given = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        torch.func.functional_call(model, given, (x,)).square().sum().backward()
        expected = _feedback(model, lambda: model(x))
    torch.testing.assert_close({name: -w.grad for name, w in given.items()}, expected, **CLOSE)


# --- closures and generators that the model uses up itself ---


def test_closures_and_generators_inside_are_seen() -> None:
    def parts(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
        for part in x:
            yield layer(part)

    def later(layer: nn.Module, x: Tensor) -> Tensor:
        call = lambda: torch.stack(list(parts(layer, x)))  # noqa: E731
        return call()

    x, model = torch.randn(5, 4), Given(later)
    direct = copy.deepcopy(model)
    direct.function = lambda layer, x: layer(x)
    with attached(model), attached(direct):
        torch.testing.assert_close(_feedback(model, lambda: model(x)), _feedback(direct, lambda: direct(x)), **CLOSE)
