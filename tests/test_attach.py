"""`attach` changes nothing but the backward pass, and `detach` leaves nothing behind."""

import copy
import functools
import inspect
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attach, attached, detach, rewards, rules
from feedprop.interception.mode import Propagation
from feedprop.operations.registry import HANDLERS
from support.propagation import CLOSE, Residual, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")


def _network() -> nn.Sequential:
    block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    tail = (nn.Dropout(0.2, inplace=True), nn.Flatten(), nn.Linear(48, 4))
    return randomised(nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True), Residual(block), *tail))


def _everything(model: nn.Module) -> dict:
    """Return every attribute of every module; dictionaries are copied."""
    return {
        path: {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in module.__dict__.items()
        } | {"class": type(module)}
        for path, module in model.named_modules()
    }  # fmt: skip


def _train_once(model: nn.Module) -> None:
    rewards.SoftmaxReward()(model(torch.randn(5, 1, 4, 4)), torch.randint(4, (5,))).backward()


def _train_and_fail(model: nn.Module) -> None:
    _train_once(model)
    raise ZeroDivisionError


def test_detach_restores_everything() -> None:
    model = _network().eval()
    model[2].train()
    before, state = _everything(model), copy.deepcopy(model.state_dict())
    assert attach(model, rules.Composite(rules.Epsilon(0.1), magnitude_floor=0.1), unknown="gradient") is model
    rewards.SoftmaxReward()(model.eval()(torch.randn(5, 1, 4, 4)), torch.randint(4, (5,))).backward()
    model[2].train()
    assert detach(model) is model
    assert _everything(model) == before
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert "forward" not in model.__dict__


class _Writing(nn.Module):
    """Writes what it computes from a parameter into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("state", torch.zeros(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.state.detach().clone()
        return (self.state.add_((self.weight * 2).tanh()) * x).relu()


def test_detach_leaves_nothing_on_buffers() -> None:
    with attached(_Writing()) as model:
        model(torch.randn(3, 4)).sum().backward()
        assert [name for name in model.state.__dict__ if name.startswith("_feedprop")]
    assert not [name for name in model.state.__dict__ if name.startswith("_feedprop")]


class _Counting(nn.Module):
    """Keeps figures of its masks in buffers, as layers do that balance experts or look for dead neurons."""

    def __init__(self, count: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.layer, self.count = nn.Linear(3, 4), count
        self.register_buffer("active", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        mask = (z > 0).double()
        self.count(self.active, mask)
        return z * mask


COUNTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda active, mask: active.__iadd__(mask.sum(0)),
    "running mean": lambda active, mask: active.mul_(0.9).add_(mask.mean(0), alpha=0.1),
    "lerp": lambda active, mask: active.lerp_(mask.mean(0), 0.1),
    "copy": lambda active, mask: active.copy_(mask.mean(0)),
    "items": lambda active, mask: active.__setitem__(slice(None), mask.mean(0)),
    "one item": lambda active, mask: active.__setitem__(0, mask.mean()),
    "a view": lambda active, mask: active[1:].add_(mask[:, 1:].sum(0)),
    "sum by a view": lambda active, mask: active.view(2, 2).add_(mask.view(-1, 2, 2).sum(0)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_figures_of_masks_in_buffers_hold_no_graph(name: str) -> None:
    """The buffer got a gradient and held the graphs of all steps; the model could not be copied any more."""
    model = _Counting(COUNTS[name])
    plain = copy.deepcopy(model)
    with attached(model):
        for x in torch.randn(3, 5, 3):
            torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
            model(x).sum().backward()
            plain(x)
            assert not model.active.requires_grad
    torch.testing.assert_close(model.active, plain.active, rtol=0, atol=0)
    copy.deepcopy(model)


def test_figures_of_masks_in_buffers_hold_no_graph_compiled() -> None:
    model = _Counting(COUNTS["running mean"])
    plain, x = copy.deepcopy(model), torch.randn(5, 3)
    with attached(model):
        torch.compile(model, backend="aot_eager", fullgraph=True)(x).sum().backward()
    plain(x)
    assert not model.active.requires_grad
    torch.testing.assert_close(model.active, plain.active)


def test_attached_restores_after_an_exception() -> None:
    model = _network()
    before = _everything(model)
    with pytest.raises(ZeroDivisionError), attached(model):
        _train_and_fail(model)
    with pytest.raises(RuntimeError), attached(model):
        model(torch.randn(5, 2, 4, 4))
    assert _everything(model) == before
    assert torch.overrides._get_current_function_mode_stack() == []


def test_gradients_are_ordinary_again_afterwards() -> None:
    model = _network().eval()
    plain, inputs, targets = copy.deepcopy(model), torch.randn(5, 1, 4, 4), torch.randint(4, (5,))
    with attached(model):
        rewards.SoftmaxReward()(model(inputs), targets).backward()
    model.zero_grad()
    for one in (model, plain):
        F.cross_entropy(one(inputs), targets).backward()
    torch.testing.assert_close(feedback_of(model), feedback_of(plain), **CLOSE)


def test_a_forward_set_on_the_instance_is_restored() -> None:
    model = nn.Linear(3, 2)
    own = lambda x: F.linear(x, model.weight)  # noqa: E731
    model.forward = own
    with attached(model):
        assert model.forward is not own
        torch.testing.assert_close(model(torch.ones(1, 3)), own(torch.ones(1, 3)))
    assert model.forward is own


def test_hooks_are_kept_and_called() -> None:
    model, calls = _network(), []
    handle = model[0].register_forward_hook(lambda *_: calls.append("hook"))
    model.register_full_backward_hook(lambda *_: calls.append("backward"))
    with attached(model):
        model(torch.randn(5, 1, 4, 4, requires_grad=True)).sum().backward()
    assert calls == ["hook", "backward"]
    handle.remove()


def test_attach_leaves_the_state_dict_alone() -> None:
    model = _network()
    keys = list(model.state_dict())
    with attached(model):
        assert list(model.state_dict()) == keys
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        assert [m.training for m in model.modules()] == [True] * len(list(model.modules()))
        assert model.eval().training is False
    assert model.training is False


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: _saved(model),
}


def _saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_attached_and_independent(name: str) -> None:
    model = attach(_network().eval(), rules.Epsilon(0.1))
    inputs, given = torch.randn(5, 1, 4, 4), torch.randn(5, 4)

    def run(one: nn.Module) -> dict[str, Tensor]:
        one.zero_grad()
        rewards.GivenReward()(one(inputs), given).backward()
        return {key: f.clone() for key, f in feedback_of(one).items()}

    expected = run(model)
    other = COPIES[name](model)
    torch.testing.assert_close(run(other), expected, **CLOSE)
    with torch.no_grad():
        model[0].weight.mul_(2)
    model.zero_grad()
    torch.testing.assert_close(run(other), expected, **CLOSE)
    assert not feedback_of(model)
    detach(model)
    torch.testing.assert_close(run(other), expected, **CLOSE)
    detach(other)
    assert "forward" not in other.__dict__


def test_the_signature_of_forward_is_kept() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, *, scale: float = 2.0) -> Tensor:
            return x * scale

    model = Named()
    before = inspect.signature(model.forward)
    with attached(model):
        assert inspect.signature(model.forward) == before
        assert model(torch.ones(1), scale=3.0) == 3


def test_nothing_is_intercepted_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach(_network().eval())
    inputs = torch.randn(2, 1, 4, 4)
    expected = model(inputs).detach()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("intercepted")

    monkeypatch.setattr(Propagation, "__torch_function__", refuse)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            torch.testing.assert_close(model(inputs), expected)
    with pytest.raises(AssertionError, match="intercepted"):
        model(inputs)


def test_no_grad_inside_an_attached_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(3, 3)

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                mask = (torch.special.i1(self.layer(x)) > 0).to(x.dtype)
            return self.layer(x) * mask

    def refuse(*_: object) -> None:
        raise AssertionError("handled without gradients")

    monkeypatch.setitem(HANDLERS, torch.special.i1, refuse)
    assert propagate(Partly(), torch.randn(2, 3), torch.randn(2, 3)).feedback


def test_attached_models_nest() -> None:
    inner, reference = randomised(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), None
    outer = nn.Sequential(randomised(nn.Linear(4, 4)), inner, randomised(nn.Linear(4, 2)))
    reference = copy.deepcopy(outer)
    inputs, given = torch.randn(3, 4), torch.randn(3, 2)
    expected = propagate(reference, inputs, given, rules.Epsilon(0.1))
    with attached(inner, rules.Epsilon(0.1)):
        found = propagate(outer, inputs, given, rules.Epsilon(0.1))
    torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)
    with attached(inner, rules.Epsilon(5.0)):  # the inner model has its own rule
        other = propagate(outer, inputs, given, rules.Epsilon(0.1))
    assert not torch.allclose(other.feedback["0.weight"], expected.feedback["0.weight"])
    torch.testing.assert_close(other.feedback["2.weight"], expected.feedback["2.weight"], **CLOSE)


def test_misuse_raises_a_helpful_error() -> None:
    model = attach(nn.Linear(2, 2))
    with pytest.raises(FeedpropError, match="attached already"):
        attach(model)
    model.forward = lambda x: x
    with pytest.raises(FeedpropError, match="forward replaced"):
        detach(model)
    with pytest.raises(FeedpropError, match="not attached"):
        detach(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"torch.nn.Module, not function"):
        attach(lambda x: x)
    with pytest.raises(TypeError, match="a rule"):
        attach(nn.Linear(2, 2), "epsilon")
    with pytest.raises(FeedpropError, match='"error" or "gradient"'):
        attach(nn.Linear(2, 2), unknown="ignore")
    for wrong in (-1.0, float("nan"), float("inf"), "much"):
        with pytest.raises(FeedpropError, match="magnitude_floor"):
            attach(nn.Linear(2, 2), rules.Composite(magnitude_floor=wrong))
        with pytest.raises(FeedpropError, match="epsilon"):
            rules.Epsilon(wrong)
    with pytest.raises(TypeError, match=r"True or False, not 0\.1"):
        attach(nn.Linear(2, 2), rules.Composite(relative_magnitude=0.1))


HIDING: dict[str, Callable[[], nn.Module]] = {
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(3),
    "DataParallel": lambda: nn.DataParallel(nn.Linear(4, 3)),
    "ScriptModule": lambda: torch.jit.trace(nn.Linear(3, 2), torch.randn(1, 3)),
}


@pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated
@pytest.mark.parametrize("kind", HIDING)
def test_modules_that_hide_parameters_are_refused(kind: str) -> None:
    hiding = HIDING[kind]()
    with pytest.raises(FeedpropError, match=rf"{kind} \(1\) uses parameters where the rules cannot see it"):
        attach(nn.Sequential(nn.Linear(4, 3), hiding))


class Storing(nn.Module):
    """Keeps what it computed, as models do that show their activations."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.stored: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(x)
        h = z.relu()
        moved = h.view(-1, 2, 2).transpose(1, 2).reshape(-1, 4)
        self.stored = {"z": z, "h": h, "moved": moved, "mask": (z > 0).to(z.dtype)}
        return moved * moved.sigmoid() * self.stored["mask"]


@pytest.mark.parametrize("name", ["z", "h", "moved", "mask", "output"])
def test_what_a_model_computed_is_saved_without_what_feedprop_remembers(name: str) -> None:
    model = attach(Storing())
    model.stored["output"] = model(torch.randn(3, 4))
    tensor = model.stored[name]
    tensor.note = "kept"
    before = dict(tensor.__dict__)
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    found = torch.load(file)  # weights only
    assert found.__dict__ == {"note": "kept"}
    torch.testing.assert_close(found, tensor, rtol=0, atol=0)
    assert tensor.__dict__ == before
    assert pickle.loads(pickle.dumps(model)).stored[name].__dict__ == {"note": "kept"}


class Sparse(nn.Module):
    """Multiplies by a sparse matrix, which is a parameter, or is made of one."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(make(torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, 0.0]])))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.layout is torch.strided:
            weight = torch.sparse_coo_tensor([[0, 0, 1], [0, 2, 1]], weight, (2, 3))
        return torch.sparse.mm(weight, x.T).T


@pytest.mark.filterwarnings("ignore:Sparse")  # in beta state
@pytest.mark.parametrize("make", [Tensor.to_sparse, Tensor.to_sparse_csr])
def test_sparse_parameters_are_refused_with_a_remedy_that_works(make: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(FeedpropError, match=r"weight is a parameter of layout .*torch.sparse_coo_tensor\(indices"):
        attach(Sparse(make))
    remedied = Sparse(lambda weight: weight[weight != 0])
    found = propagate(remedied, torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, -1.0]])).feedback["weight"]
    expected = torch.tensor([1 * 1 / -5, 2 * 3 / -5, 3 * 2 * -1 / 6])  # |w| a R / z, with z = (-5, 6)
    torch.testing.assert_close(found, expected, **CLOSE)


class Sampler:
    """Computes gradients from hooks, as opacus.GradSampleModule does, whose hooks are methods and partial functions."""

    def capture_activations(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """See what a layer takes."""

    def capture_backprops(self, module: nn.Module, inputs: Any, outputs: Any, *, batch_first: bool) -> None:
        """See what comes back to a layer."""


for method in (Sampler.capture_activations, Sampler.capture_backprops):
    method.__module__ = "opacus.grad_sample.grad_sample_module"


@pytest.mark.parametrize(
    ("hook", "steps"),  # before the hook is there; None stands for before attach
    [("forward", None), ("backward", None), ("forward", 0), ("backward", 0), ("backward", 2)],
)
def test_packages_that_compute_gradients_in_hooks_are_refused(hook: str, steps: int | None) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    if steps is not None:
        attach(model)
    for _ in range(steps or 0):
        model(torch.randn(2, 4)).sum().backward()
    if hook == "forward":
        model[0].register_forward_hook(Sampler().capture_activations)
    else:
        model[0].register_full_backward_hook(functools.partial(Sampler().capture_backprops, batch_first=True))
    with pytest.raises(FeedpropError, match="opacus computes gradients of weights from its hooks on 0"):
        attach(model) if steps is None else model(torch.randn(2, 4))


def test_parameters_stuck_at_zero_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.warns(UserWarning, match=r"1 parameters are 0 .*1\.bias"):
        attach(model, rules.presets.sparse())
    detach(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model)  # has a floor


class Administrator(nn.Module):
    """Sets attributes of a parameter during the forward pass, as FSDP does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.grad = torch.ones(3, 4)
        assert self.weight.is_leaf
        assert self.weight.grad.sum() == 12
        del self.weight.grad
        self.weight.requires_grad = True
        self.weight.data = self.weight.data.clone()
        return F.linear(x, self.weight.T.mT)


def test_attributes_of_a_parameter_can_be_set_in_a_forward_pass() -> None:
    found = propagate(Administrator(), torch.randn(5, 4), torch.randn(5, 3)).feedback["weight"]
    assert (found != 0).all()
