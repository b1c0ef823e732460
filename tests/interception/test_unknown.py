"""A function without a rule stops the forward pass, says where, and how to go on."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedprop
from feedprop import FeedpropError, UnknownOperationError, attached, rules
from feedprop.operations.registry import HANDLERS
from support.propagation import Call, propagate

pytestmark = pytest.mark.usefixtures("float64")


class Unusual(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_unknown_function_is_named_with_its_module_and_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Unusual()))
    monkeypatch.setattr(torch.special, "bessel_j0", torch.special.i1)  # bessel_j0 has no derivative; stands for any
    function = torch.special.i1
    monkeypatch.delitem(HANDLERS, function, raising=False)
    with attached(model), pytest.raises(UnknownOperationError) as caught:
        model(torch.randn(1, 2))
    text = str(caught.value)
    assert "torch.special.i1" in text or "special_i1" in text
    assert "'1.1' (Unusual)" in text
    line = text[text.index("feedprop.rules.register") :].split(" if ")[0]
    try:
        exec(line, {"feedprop": feedprop, "torch": torch})  # as a user would paste it
        inputs, given = torch.randn(1, 2), torch.randn(1, 2)
        found = propagate(model, inputs, given)
    finally:
        HANDLERS.pop(function, None)
    z = F.relu(model[0](inputs)).detach()
    assert found.output.equal(function(z))
    assert (found.feedback["0.weight"] != 0).any()


def _advised(model: nn.Module, names: dict) -> None:
    """Run the line that the error advises, then a step."""
    with attached(model):
        with pytest.raises(UnknownOperationError) as caught:
            model(torch.randn(3, 2))
        text = str(caught.value)
        exec(text[text.index("feedprop.rules.register") :].split(" if ")[0], {"feedprop": feedprop, **names})
        model(torch.randn(3, 2)).sum().backward()
    assert all((p.grad != 0).any() for p in model.parameters())


OVERLOADS = {"tanh.default": (), "add.Tensor": (1.0,), "pow.Tensor_Scalar": (3.0,)}


@pytest.mark.parametrize("name", OVERLOADS)
def test_the_advice_for_one_overload_of_an_operator_runs(name: str, handlers_kept: None) -> None:
    packet, overload = name.split(".")
    function = getattr(getattr(torch.ops.aten, packet), overload)
    model = nn.Sequential(nn.Linear(2, 2), Call(lambda z: function(z, *OVERLOADS[name])), nn.Linear(2, 2))
    _advised(model, {"torch": torch})


def test_the_advice_for_a_function_of_ones_own_in_a_function_runs(handlers_kept: None) -> None:
    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return z**3

        @staticmethod
        def backward(ctx, given):
            return given * 3 * ctx.saved_tensors[0] ** 2

    _advised(nn.Sequential(nn.Linear(2, 2), Call(lambda z: Cubed.apply(z)), nn.Linear(2, 2)), {"Cubed": Cubed})


def test_unknown_gradient_takes_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(HANDLERS, torch.special.i1)
    x = torch.randn(3, requires_grad=True)
    with attached(Call(lambda x: torch.special.i1(x * 1.0)), unknown="gradient") as model:
        model(x).sum().backward()
    (expected,) = torch.autograd.grad(torch.special.i1(x).sum(), x)
    torch.testing.assert_close(x.grad, expected)


def test_register_is_a_decorator_too(handlers_kept: None) -> None:
    function = torch.special.i1e

    @rules.register(function)
    def halved(context, function, args, kwargs):
        return rules.ordinary(context, function, args, kwargs)

    assert HANDLERS[function] is halved
    with pytest.raises(TypeError, match="torch function"):
        rules.register("i0")


class Extension(nn.Module):
    """What torch hands to no mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return self.inner(x)


def test_parameters_that_no_rule_sees_are_named() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Extension(nn.Linear(4, 2))), torch.randn(5, 3)
    with attached(model), pytest.raises(UnknownOperationError, match=r"^2\.inner\.weight, 2\.inner\.bias: used where"):
        model(x)
    with attached(model, unknown="gradient"):
        model(x).sum().backward()
    assert model[2].inner.weight.grad is not None


def test_parameters_on_two_ways_of_which_one_is_unseen_are_named() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.extension = Extension(self.layer)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.extension(x)

    with (
        attached(Both()) as model,
        pytest.raises(UnknownOperationError, match=r"^layer\.weight, layer\.bias: used where"),
    ):
        model(torch.randn(5, 3))


def test_what_computes_the_inputs_is_not_the_concern_of_the_model() -> None:
    embedding, head = nn.Linear(3, 3), nn.Linear(3, 3)
    x = torch.randn(5, 3)
    with attached(head):
        head(embedding(x)).sum().backward()
    assert embedding.weight.grad is not None


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    "made", [torch.jit.script, lambda f: torch.jit.trace(f, torch.randn(2, 4))], ids=["script", "trace"]
)
def test_scripted_functions_are_seen(made) -> None:
    def bent(z: Tensor) -> Tensor:
        return torch.tanh(z * 2.0)

    scripted, layers = made(bent), [nn.Linear(3, 4), nn.Linear(4, 2)]
    models = [nn.Sequential(layers[0], Call(function), layers[1]) for function in (bent, scripted)]
    inputs, given = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(*(propagate(model, inputs, given).feedback for model in models))
    z = torch.randn(3, requires_grad=True)
    assert torch.autograd.grad(scripted(z).sum(), z)[0].equal(torch.autograd.grad(bent(z).sum(), z)[0])


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_scripted_function_without_its_python_is_refused() -> None:
    unit = torch.jit.CompilationUnit("def bent(z: Tensor) -> Tensor:\n    return torch.tanh(z)\n")
    with attached(nn.Sequential(nn.Linear(3, 4), Call(unit.bent))) as model:
        with pytest.raises(FeedpropError, match="bent is TorchScript without its Python"):
            model(torch.randn(5, 3))
        with torch.no_grad():
            model(torch.randn(5, 3))


def test_questions_that_torch_takes_apart_itself_are_no_functions_to_treat() -> None:
    x = torch.tensor([2.0, 1.0, 2.0], requires_grad=True)

    def counted(x: Tensor) -> Tensor:
        kinds = (x.detach().unique(), torch.unique(x.detach(), return_inverse=True)[1], x.detach().unique_consecutive())
        return x * float(sum(len(kind) for kind in kinds))

    with attached(Call(counted)) as model:
        assert model(x).tolist() == [16.0, 8.0, 16.0]
