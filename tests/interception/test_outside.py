"""Parameters of an attached model outside of its passes: penalties are fine, every other use is refused."""

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, UnknownOperationError, attach, attached, credit, detach, rewards, rules
from feedprop.interception.audit import nodes_behind
from feedprop.interception.passes import PASSES
from support.propagation import CLOSE, feedback_of, randomised

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # torch.compile looks at it
]


class Scaled(nn.Module):
    """Two layers, parameters of several shapes, and tensors that forward stores."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = randomised(nn.Linear(4, 4)), randomised(nn.Linear(4, 3))
        self.scale, self.offset = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(3))
        self.alpha = nn.Parameter(torch.randn(()))
        self.table = nn.Embedding(5, 4)
        self.stored: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.fc(x) * self.scale)
        self.stored = {"hidden": [h], "balance": h.mean(0).square().sum()}
        return self.head(h) + self.offset

    def hidden(self) -> Tensor:
        return self.stored["hidden"][0]


X, V = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
TARGETS = torch.tensor([0, 1, 2, 2, 1, 0])
Use = Callable[[Scaled, Tensor], Tensor]

USES: dict[str, tuple[str, Use]] = {
    "a product with data": ("fc.weight", lambda model, out: out.sum() + (model.fc.weight @ V).sum()),
    "a factor of data": ("scale", lambda model, out: out.sum() + (X * model.scale).sum()),
    "a factor of a batch of one": ("scale", lambda model, out: out.sum() + (X[:1] * model.scale).sum()),
    "a factor of the output": ("alpha", lambda model, out: (out * model.alpha).sum()),
    "a factor of the loss": ("alpha", lambda model, out: out.square().sum() * model.alpha),
    "a temperature": ("alpha", lambda model, out: F.cross_entropy(out * model.alpha.exp(), TARGETS)),
    "an offset": ("offset", lambda model, out: (out + model.offset).sum()),
    "an offset of one number": ("alpha", lambda model, out: (out + model.alpha).sum()),
    "joined": ("offset", lambda model, out: torch.cat([out, model.offset[None]]).sum()),
    "repeated": ("scale", lambda model, out: out.sum() + F.mse_loss(model.scale.expand_as(X), X)),
    "in addcmul": ("scale", lambda model, out: out.sum() + torch.addcmul(X, X, model.scale).sum()),
    "distances": ("fc.weight", lambda model, out: out.sum() + torch.cdist(X[:2], model.fc.weight).sum()),
    "centres": ("table.weight", lambda model, out: (model.hidden() - model.table.weight[TARGETS]).square().sum()),
    "similarities": ("scale", lambda model, out: F.cosine_similarity(model.hidden(), model.scale, dim=-1).sum()),
    "a tied head": ("table.weight", lambda model, out: F.linear(model.hidden(), model.table.weight).sum()),
    "a tied head of data": ("table.weight", lambda model, out: out.sum() + F.linear(X, model.table.weight).sum()),
    "a lookup": ("table.weight", lambda model, out: out.sum() + model.table(TARGETS).sum()),
    "a child on its own": ("head.weight, head.bias", lambda model, out: out.sum() + model.head(model.hidden()).sum()),
    "before the model": ("scale", lambda model, out: model(X * model.scale).sum()),
    "a child before the model": ("fc.weight, fc.bias", lambda model, out: model(model.fc(X)).sum()),
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_uses_outside_of_passes_are_refused(name: str) -> None:
    parameters, use = USES[name]
    with attached(Scaled()) as model:
        loss = use(model, model(X))
        with pytest.raises(FeedpropError, match=rf"^{parameters} of the attached Scaled: used outside of its forward"):
            loss.backward()
        assert feedback_of(model) == {}
        with pytest.raises(FeedpropError, match="move that use into its forward"):
            torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)


def test_tied_weights_of_a_module_that_is_not_attached_are_refused() -> None:
    embedding, head = nn.Linear(3, 3), nn.Linear(3, 3)
    head.weight = embedding.weight
    with attached(head), pytest.raises(FeedpropError, match=r"^weight of the attached Linear: used outside"):
        head(embedding(torch.randn(5, 3))).sum().backward()


PENALTIES: dict[str, Callable[[Scaled], Tensor]] = {
    "of all": lambda model: sum(p.square().sum() for p in model.parameters()),  # type: ignore[misc, return-value]
    "of all in one": lambda model: torch.cat([p.flatten() for p in model.parameters()]).norm(),
    "of norms in one call": lambda model: torch.stack(torch._foreach_norm(list(model.parameters()))).sum(),
    "from another point": lambda model: (torch.ones(4, 4) * (model.fc.weight - torch.eye(4)).square()).sum(),
    "orthogonality": lambda model: (model.head.weight @ model.head.weight.T - torch.eye(3)).square().sum(),
    "orthogonal directions": lambda model: (F.normalize(model.fc.weight) @ F.normalize(model.fc.weight).T).norm(),
    "orthogonal filters": lambda model: F.conv1d(model.fc.weight[..., None], model.fc.weight[..., None]).norm(),
    "of a product": lambda model: (model.head.weight @ model.fc.weight).norm(),
    "of pairs": lambda model: (model.fc.weight[:, None] - model.fc.weight).square().sum(),
    "of similarities": lambda model: F.cosine_similarity(model.fc.weight[:, None], model.fc.weight, dim=-1).sum(),
    "of distances": lambda model: torch.pdist(model.table.weight).sum(),
    "of singular values": lambda model: torch.linalg.svdvals(model.head.weight).sum(),
    "of rows": lambda model: model.fc.weight.norm(dim=1).sum(),
    "of a part": lambda model: model.fc.weight[model.fc.weight.abs() > 0.1].abs().sum(),
    "of the spread": lambda model: (model.fc.weight - model.fc.weight.mean(0)).square().sum(),
    "of one number": lambda model: 0.1 * model.alpha.square(),
    "added to a tensor of one number": lambda model: torch.zeros(1) + model.fc.weight.norm(),
}  # fmt: skip
JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda loss, penalty: loss.sum() + penalty.sum(),
    "added to each sample": lambda loss, penalty: (loss + penalty.sum()).mean(),
    "stacked": lambda loss, penalty: torch.stack([loss.sum(), penalty.sum()]).sum(),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_keep_their_gradient(name: str) -> None:
    with attached(Scaled()) as model:
        model(X).square().sum().backward()
        alone = {name: value.clone() for name, value in feedback_of(model).items()}
        model.zero_grad()
        (model(X).square().sum() + PENALTIES[name](model)).sum().backward()
        found = feedback_of(model)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(PENALTIES[name](model).sum(), parameters, materialize_grads=True)
    for key, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(found.get(key, 0 * gradient), alone.get(key, 0 * gradient) - gradient, **CLOSE)


@pytest.mark.parametrize("name", JOINED)
def test_penalties_may_join_the_loss_in_any_way(name: str) -> None:
    with attached(Scaled()) as model:
        JOINED[name](model(X).square().sum(1), model.fc.weight.norm()).backward()


def test_a_module_that_is_not_attached_may_be_used_outside() -> None:
    with attached(Scaled()) as model:
        head = nn.Linear(3, 2)
        (head(model(X) * nn.Parameter(torch.ones(3))).sum() + head.weight.norm()).backward()
        assert head.weight.grad is not None


# --- what forward stores, and the loss uses ---


def test_a_loss_of_what_forward_stored_is_an_ordinary_function_of_it() -> None:
    with attached(Scaled(), rules.Epsilon()) as model:
        (model(X).square().sum() + model.stored["balance"]).backward()
        expected = {name: value.clone() for name, value in feedback_of(model).items()}
        model.zero_grad()
        (model(X).square().sum() + model.hidden().mean(0).square().sum()).backward()
    torch.testing.assert_close(feedback_of(model), expected, **CLOSE)


@pytest.mark.filterwarnings("error")
def test_rewards_enter_at_stored_outputs_of_0() -> None:
    model, given = Scaled(), torch.ones(6, 4)
    with attached(model, rules.Epsilon()):
        model(X)
        assert (model.hidden() == 0).any()
        rewards.GivenReward()(model.hidden(), given).backward()
        found = feedback_of(model)
    returned = Scaled()
    returned.load_state_dict(model.state_dict())
    returned.forward = lambda x: F.relu(returned.fc(x) * returned.scale)  # type: ignore[method-assign]
    with attached(returned, rules.Epsilon()):
        rewards.GivenReward()(returned(X), given).backward()
    torch.testing.assert_close(found, feedback_of(returned), **CLOSE)


class Aside(nn.Module):
    """Stores a tensor that it does not return."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = randomised(nn.Linear(4, 3)), function
        self.aux: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.aux = self.function(self.layer, x)
        return self.layer(x)


def _disabled(layer: nn.Module, x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return layer(x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> Tensor:
        return 2 * credit


STORED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "torch functions disabled": (_disabled, "AddmmBackward0 was computed where no rule sees it"),
    "a parameter unseen": (lambda layer, x: _disabled(lambda _: layer.weight[0].view(2, 2), x), r"layer\.weight: used"),
    "an autograd function": (lambda layer, x: Doubled.apply(layer(x)), "no rule says how credit passes .*Doubled"),
}  # fmt: skip


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", STORED)
def test_what_forward_stores_is_searched_as_what_it_returns(name: str, steps: int, nested: bool) -> None:
    function, message = STORED[name]
    model = Aside(function)
    whole = nn.Sequential(model, nn.Linear(3, 3)) if nested else model
    with attached(whole):
        for _ in range(steps):
            whole(X).sum().backward()  # which the stored tensor does not reach
        loss = whole(X).sum() + model.aux.sum()
        with pytest.raises(UnknownOperationError, match=message):
            loss.backward()
    with attached(whole, unknown="gradient"):
        (whole(X).sum() + model.aux.sum()).backward()


def test_what_a_model_inside_stores_is_searched() -> None:
    inner = Aside(_disabled)
    outer = nn.Sequential(nn.Linear(4, 4), inner)
    with attached(inner), attached(outer):
        loss = outer(X).sum() + inner.aux.sum()
        with pytest.raises(UnknownOperationError, match="was computed where no rule sees it"):
            loss.backward()


def test_what_a_hook_collects_is_searched() -> None:
    found: list[Tensor] = []
    model = nn.Sequential(randomised(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda module, args, output: found.append(_disabled(torch.square, output)))
    with attached(model):
        loss = model(X).sum() + found[0].sum()
        with pytest.raises(UnknownOperationError, match="PowBackward0 was computed where no rule sees it"):
            loss.backward()


# --- backward passes that are to be differentiated ---


def test_a_derivative_of_credit_is_refused() -> None:
    x, model = X.clone().requires_grad_(), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    with attached(model):
        refused = pytest.raises(FeedpropError, match=r"create_graph=True asks.*feedprop\.detach")
        with refused:
            torch.autograd.grad(model(x).sum(), x, create_graph=True)
        with refused:
            model(x).sum().backward(create_graph=True)
        (credit_of_x,) = torch.autograd.grad(model(x).sum(), x)
        assert credit_of_x.any()
        (penalty,) = torch.autograd.grad(
            x.square().sum() + model[0].weight.sum(), x, create_graph=True
        )  # not through it
        penalty.sum().backward()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    gradient.norm().backward()


# --- compiled parts ---

COMPILED: dict[str, Use] = {
    "a child": lambda model, out: torch.compile(model.fc, backend="aot_eager")(X).sum(),
    "a function": lambda model, out: torch.compile(F.linear, backend="aot_eager")(X, model.fc.weight).sum(),
    "a loss": lambda model, out: torch.compile(distance, backend="aot_eager")(X, model.fc.weight),
    "what is no loss": lambda model, out: torch.compile(torch.square, backend="aot_eager")(model.fc.weight).sum(),
}


def distance(x: Tensor, weight: Tensor) -> Tensor:
    return (x[:, None] - weight).square().sum()


def similarities(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).square().sum()


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, backend="aot_eager")


# What uses a weight without rules beside a model that is compiled with them, or in the same function
BESIDE: dict[str, Callable[[Scaled], Tensor]] = {
    "a loss": lambda model: compiled(similarities)(compiled(model)(X), model.head.weight),
    "a loss of a transposed weight": lambda model: compiled(F.linear)(compiled(model)(X), model.head.weight.mT).sum(),
    "what a loss is given": lambda model: compiled(model)(X).sum() + compiled(torch.sum)(model.head(X)),
    "a child": lambda model: compiled(model)(X).sum() + compiled(model.head)(X).sum(),
    "another method": lambda model: compiled(model)(X).sum() + compiled(project)(model).sum(),
    "the step": lambda model: compiled(lambda x: similarities(model(x), model.head.weight))(X),
    "a scale in the step": lambda model: compiled(lambda x: (model(x) * model.head.weight[0, 0]).sum())(X),
    "after a break in the step": lambda model: compiled(broken)(model),
    "before the model was attached": lambda model: before_attach(model),
}


def project(model: Scaled) -> Tensor:
    return model.head(X)


def broken(model: Scaled) -> Tensor:
    output = model(X)
    torch._dynamo.graph_break()
    return similarities(output, model.head.weight)


def before_attach(model: Scaled) -> Tensor:
    loss = compiled(lambda output: similarities(output, model.head.weight))
    detach(model)
    loss(model(X)).backward()
    model.zero_grad(set_to_none=True)
    return loss(compiled(attach(model))(X))


@pytest.mark.parametrize("name", BESIDE)
def test_uses_beside_a_compiled_model_are_refused(name: str) -> None:
    model = attach(Scaled())
    for _ in range(2):
        loss = BESIDE[name](model)
        with pytest.raises(FeedpropError, match=r"head\.weight.* used outside of its forward"):
            loss.backward()


PENALISED: dict[str, Callable[[Scaled], Tensor]] = {
    "in the step": lambda model: compiled(lambda x: model(x).sum() + penalty(model.parameters()))(X),
    "of views": lambda model: compiled(model)(X).sum() + compiled(penalty)([p.flatten() for p in model.parameters()]),
}


def penalty(weights: Iterable[Tensor]) -> Tensor:
    return torch.stack([weight.square().sum() for weight in weights]).sum()


@pytest.mark.parametrize("name", PENALISED)
def test_penalties_beside_a_compiled_model_keep_their_gradient(name: str) -> None:
    model = attach(Scaled())
    model(X).sum().backward()
    expected = {key: p.grad + 2 * p.detach() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    PENALISED[name](model).backward()
    for key, value in expected.items():
        torch.testing.assert_close(model.get_parameter(key).grad, value, **CLOSE)


def test_what_is_before_a_compiled_child_is_searched() -> None:
    squared = nn.Sequential()
    squared.forward = lambda h: _disabled(torch.square, h)
    model = nn.Sequential(randomised(nn.Linear(4, 4)), squared, randomised(nn.Linear(4, 3)))
    model[2].compile(backend="aot_eager")
    with attached(model), pytest.raises(UnknownOperationError, match="PowBackward0 was computed where no rule sees it"):
        model(X)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_uses_outside_of_passes_are_refused(name: str) -> None:
    model = attach(Scaled())
    for _ in range(2):
        loss = model(X).sum() + COMPILED[name](model, X)
        with pytest.raises(FeedpropError, match=r"fc\.weight.* used outside of its forward.* add a penalty outside"):
            loss.backward()


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_penalties_keep_their_gradient(compiled: bool) -> None:
    model = attach(Scaled())
    run = torch.compile(model, backend="aot_eager") if compiled else model
    penalty = torch.compile(lambda weights: sum(w.square().sum() for w in weights), backend="aot_eager")
    for _ in range(2):
        model.zero_grad()
        run(X).sum().backward()
        before = model.head.weight.grad.clone()
        model.zero_grad()
        (run(X).sum() + penalty([model.fc.weight, model.head.weight])).backward()
        torch.testing.assert_close(model.head.weight.grad, before + 2 * model.head.weight)


@pytest.mark.parametrize("part", ["fc", "head"])
def test_a_compiled_child_gives_feedback_inside_and_is_refused_outside(part: str) -> None:
    model = attach(Scaled())
    model(X).sum().backward()
    expected = feedback_of(model)
    model.zero_grad(set_to_none=True)
    getattr(model, part).compile(backend="aot_eager")
    model(X).sum().backward()
    torch.testing.assert_close(feedback_of(model), expected, **CLOSE)
    with pytest.raises(FeedpropError, match=rf"{part}\.weight.* used outside of its forward"):
        getattr(model, part)(X).sum().backward()


# --- models that have no pass ---


class Called(nn.Module):
    """Has a __call__ of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def __call__(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Enabling(Called):
    __call__ = nn.Module.__call__

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.fc(x)


@pytest.mark.parametrize("model", [nn.ModuleList([nn.Linear(4, 4)]), nn.ParameterList([torch.ones(2)]), Called()])
def test_models_without_a_forward_are_refused(model: nn.Module) -> None:
    with pytest.raises(
        FeedpropError, match=rf"^{type(model).__name__} has no forward\(\): attach the module that calls"
    ):
        attach(model)


def test_methods_do_without_a_forward() -> None:
    model = Called()
    model.encode = lambda x: model.fc(x)
    with attached(model, methods=("encode",)):
        model.encode(X).sum().backward()
    assert model.fc.weight.grad.any()


def test_gradients_that_forward_turns_on_again_are_refused() -> None:
    with attached(Enabling()) as model:
        with torch.no_grad():
            output = model(X)
        with pytest.raises(FeedpropError, match="or in one that was called with gradients off"):
            output.sum().backward()


# --- what is remembered of passes ---


def test_graphs_are_freed_after_the_backward_pass() -> None:
    gc.collect()
    gc.disable()
    try:
        with attached(Scaled()) as model:
            output = model(X)
            node = next(weakref.ref(node) for node in nodes_behind([output]) if isinstance(node, credit.WEIGHT_NODES))
            (output.sum() + model.fc.weight.norm()).backward()
            del output, model.stored
            assert node() is None
    finally:
        gc.enable()


def test_steps_leave_no_objects_behind() -> None:
    with attached(Scaled()) as model:

        def count(steps: int) -> int:
            for _ in range(steps):
                (model(X).sum() + model.hidden().sum() + model.fc.weight.norm()).backward()
            gc.collect()
            return len(gc.get_objects())

        count(3)
        before = count(1)
        assert count(20) <= before + 5


def test_old_passes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedprop.interception.passes._MOST", 8)
    model = attach(Aside(lambda layer, x: layer(x).square()))
    for _ in range(20):
        output = model(X)
        torch.ones(1, requires_grad=True) * 2.0  # between passes
    assert len(PASSES.all.bounds) <= 10
    assert output.grad_fn._sequence_nr() in PASSES.all
    (output.sum() + model.aux.sum()).backward()
