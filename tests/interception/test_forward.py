"""An attached model answers as it does plain, bit for bit; copies of it run their own weights."""

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attach, attached, detach, rules
from support.propagation import CLOSE, Call, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")


class Layered(nn.Module):
    """A function of a linear layer's output."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = randomised(nn.Linear(3, 4)), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


# --- comparisons that are written to, or become numbers ---


def _item_written(z: Tensor) -> Tensor:
    keep = z > 0
    keep[:, 0] = True
    return z * keep.float()


def _or_written(z: Tensor) -> Tensor:
    keep = z > 0
    keep |= z < -1
    return keep.double()


def _counted(z: Tensor) -> Tensor:
    count = (z > 0).int()
    count += (z > 0.5).int()
    return count.double()


def _where_written(z: Tensor) -> Tensor:
    keep = z > 0
    keep[:, 0] = True
    return torch.where(keep, 1.0, -1.0)


def _view_written(z: Tensor) -> Tensor:
    keep = z > 0
    keep.view(-1)[::3] = True
    return keep.to(z.dtype)


def _operand_written(z: Tensor) -> Tensor:
    z = z * 1.0
    keep = z > 0
    z.mul_(-1.0)
    return keep.double() + 0 * z


def _operand_and_mask_written(z: Tensor) -> Tensor:
    z = z * 1.0
    keep = z > 0
    z += 5.0
    keep.logical_not_()
    return z * keep.double()


MASKS: dict[str, Callable[[Tensor], Any]] = {
    "item written": _item_written,
    "or": _or_written,
    "count": _counted,
    "where": _where_written,
    "view written": _view_written,
    "operand written": _operand_written,
    "both written": _operand_and_mask_written,
    "where of integers": lambda z: torch.where(z > 0, 1, 0),
    "where of integers, divided": lambda z: torch.where(z > 0, 7, 3) // 2,
    "where of a number and an integer": lambda z: torch.where(z > 0, 1.0, 0),
    "where of integers, made a number": lambda z: torch.where(z > 0, 3, -2).double(),
    "integer, then float": lambda z: (z > 0).int().float(),
    "float32": lambda z: (z > 0).float(),
    "infinite scores": lambda z: (z.masked_fill(z < 0, -torch.inf) > -torch.inf).double(),
    "infinite thresholds": lambda z: (z <= torch.full_like(z, torch.inf)).double(),
    "infinite and itself": lambda z: (z.masked_fill(z < 0, torch.inf) >= z.masked_fill(z < 0, torch.inf)).double(),
    "not a number": lambda z: (z.masked_fill(z < 0, torch.nan) > 0).double(),
    "top-k of infinite": lambda z: (z.masked_fill(z < 0, -torch.inf) >= z.amax(1, keepdim=True)).double(),
}  # fmt: skip


@pytest.mark.parametrize("activation", [rules.Secant(), rules.CentralDifference(), rules.Secant.published()], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_comparisons_keep_their_values(name: str, activation: rules.ActivationRule) -> None:
    model, x = Layered(MASKS[name]), torch.randn(50, 3)
    expected = model(x)
    with attached(model, rules.Composite(activation=activation)):
        found = model(x)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


# --- functions that handlers take apart ---


FUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "addcmul": lambda z: torch.addcmul(z, z.sin(), z.cos(), value=0.3),
    "addcmul_": lambda z: z.clone().addcmul_(z.sin(), z.cos(), value=-1.7),
    "addcdiv": lambda z: torch.addcdiv(z, z.sin(), z.square() + 1, value=0.3),
    "addcdiv_": lambda z: z.clone().addcdiv_(z.sin(), z.square() + 1),
    "glu": lambda z: F.glu(z, dim=1),
    "lerp": lambda z: torch.lerp(z, z.cos(), 0.3),
    "silu": lambda z: F.silu(z),
    "written out": lambda z: z * torch.sigmoid(z),
    "softmax": lambda z: z.softmax(1).log(),
    "addmm": lambda z: torch.addmm(z[0], z, torch.ones_like(z[:4]), beta=0.3, alpha=0.7),
    "layer_norm": lambda z: F.layer_norm(z, (4,)),
    "normalize": lambda z: F.normalize(z),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_fused_functions_keep_their_values(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(50, 4, dtype=dtype, requires_grad=True)
    model = Call(lambda x: FUSED[name](x * 1))
    expected = model(x)
    for composite in (rules.Epsilon(0.1), rules.presets.transformer(), rules.presets.conserving()):
        with attached(model, composite):
            assert torch.equal(model(x), expected)


RECURRENT = {
    "LSTM": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    "LSTM with projections": lambda: nn.LSTM(3, 4, proj_size=2),
    "GRU": lambda: nn.GRU(3, 4, num_layers=2),
    "RNN": lambda: nn.RNN(3, 4),
    "RNN of ReLU": lambda: nn.RNN(3, 4, nonlinearity="relu", bidirectional=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_recurrent_layers_keep_their_values(name: str, dtype: torch.dtype) -> None:
    model, x = RECURRENT[name]().to(dtype), torch.randn(7, 5, 3, dtype=dtype)
    expected = model(x)[0]
    with attached(model):
        assert torch.equal(model(x)[0], expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_fast_path_of_transformer_layers_is_kept(training: bool) -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(3, 5, 8)
    expected, unrecorded = model(x), torch.no_grad()(model)(x)
    with attached(model):
        assert torch.equal(model(x), expected)
        assert torch.equal(torch.no_grad()(model)(x), unrecorded)
    with attached(model.requires_grad_(False)):  # torch takes no fast path under any mode: other roundings
        torch.testing.assert_close(model(x), unrecorded)


# --- copies ---


def _changed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(0.1)
    return model


def _shallow(model: nn.Module) -> nn.Module:
    """Copy a model as replicas do: the same objects, but with parameters of its own."""
    own = copy.copy(model)
    own._parameters = {name: nn.Parameter(p.detach() * 3.0 + 0.1) for name, p in model._parameters.items()}
    return own


COPIES = {"copy": _shallow, "deepcopy": lambda model: _changed(copy.deepcopy(model))}


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("name", COPIES)
def test_copies_run_their_own_weights(name: str, hooked: bool) -> None:
    model, x = randomised(nn.Linear(3, 2)), torch.randn(5, 3)
    if hooked:
        model.register_forward_hook(lambda module, args, output: output * module.bias)
    plain = _changed(copy.deepcopy(model))
    expected = plain(x)
    gradients = torch.autograd.grad(expected.sum(), list(plain.parameters()))
    feedback = {
        key: -p.detach().abs() * g for (key, p), g in zip(plain.named_parameters(), gradients, strict=True)
    }  # fmt: skip
    original = model(x).detach()
    attach(model, rules.Epsilon())
    own = COPIES[name](model)
    for _ in range(2):
        own.zero_grad()
        output = own(x)
        assert torch.equal(output, expected)
        output.sum().backward()
        torch.testing.assert_close(feedback_of(own), feedback, **CLOSE)
    assert feedback_of(model) == {}
    assert torch.equal(model(x), original)
    detach(model)
    torch.testing.assert_close(own(x), expected, rtol=0, atol=0)


class _TwoLayers(nn.Module):
    """The weight of `second` is used by the model itself, outside of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.first(x).relu() + 1.0), self.second.weight)


WHOLE_COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "copy": copy.copy,
}


@pytest.mark.parametrize("kept", [True, False], ids=["original kept", "original dropped"])
@pytest.mark.parametrize("name", WHOLE_COPIES)
def test_parts_of_copies_are_refused_outside_of_a_pass(name: str, kept: bool) -> None:
    model, x = attach(_TwoLayers()), torch.randn(5, 3)
    own = WHOLE_COPIES[name](model)
    if not kept:
        del model
        gc.collect()
    own.first(torch.randn(5, 3))
    with pytest.raises(FeedpropError, match=r"second.*outside of its forward"):
        own.second(torch.relu(own.first(x))).sum().backward()
    assert all(parameter.grad is None for parameter in own.parameters())
    detach(own)
    if name != "copy":  # which has the same layers as the original
        own.second(torch.relu(own.first(x))).sum().backward()


@pytest.mark.parametrize("name", WHOLE_COPIES)
def test_copies_keep_the_rule_of_each_module(name: str) -> None:
    composite = rules.Composite(by_name={"second": rules.Gamma(0.5), "first": rules.Epsilon(0.3)})
    model, x = attach(randomised(_TwoLayers()), composite), torch.randn(5, 3)
    own, found = WHOLE_COPIES[name](model), []
    for each in (model, own):
        each.zero_grad()
        each(x).sum().backward()
        found.append(feedback_of(each))
    torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_shallow_copies_run_under_the_rules_of_the_modules() -> None:
    """Sums inside a module are damped by its epsilon, not by that of the default rule."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.bias).sum(-1)

    model = attach(nn.Sequential(Sum()), rules.Composite(by_type={Sum: rules.Epsilon(0.5)}))
    own, x = copy.copy(model), torch.randn(5, 3)
    model(x).sum().backward()
    expected = feedback_of(model)
    model.zero_grad()
    own(x).sum().backward()
    torch.testing.assert_close(feedback_of(own), expected, **CLOSE)


class _Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def encode(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)


CALLS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "call": lambda model, x: model(x),
    "forward": lambda model, x: model.forward(x),
    "_call_impl": lambda model, x: model._call_impl(x),
    "method": lambda model, x: model.encode(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_way_to_call_a_shallow_copy_runs_its_own_weights(name: str) -> None:
    model, x = attach(_Coder(), rules.Epsilon(), methods=("encode",)), torch.randn(5, 3)
    own = _shallow(model)
    output = CALLS[name](own, x)
    assert torch.equal(output, F.linear(x, own.weight))
    output.sum().backward()
    torch.testing.assert_close(own.weight.grad, x.sum(0) * own.weight.detach().abs(), **CLOSE)
    assert model.weight.grad is None


def test_methods_of_a_shallow_copy_that_were_not_named_are_refused() -> None:
    own = _shallow(attach(_Coder()))
    with pytest.raises(FeedpropError, match=r"^weight of the attached _Coder: used outside of its forward"):
        own.encode(torch.randn(5, 3)).sum().backward()


def test_detaching_a_shallow_copy_leaves_the_original_attached() -> None:
    model, x = _TwoLayers(), torch.randn(5, 3)
    model(x).sum().backward()
    gradient = model.second.weight.grad
    model.zero_grad()
    own = copy.copy(attach(model, rules.Epsilon()))
    detach(own)
    assert "forward" not in own.__dict__
    model(x).sum().backward()
    torch.testing.assert_close(model.second.weight.grad, model.second.weight.detach().abs() * gradient, **CLOSE)


def test_a_copy_that_fails_halfway_disturbs_nobody() -> None:
    model = attach(_TwoLayers())
    model.held = threading.Lock()  # cannot be copied
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    nn.Linear(3, 1)(torch.randn(2, 3)).sum().backward()
