"""Every weight gets the rule that `describe` says, however it is used, in whatever order and thread."""

import copy
import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attach, attached, detach, rewards, rules
from support.propagation import CLOSE, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

GAMMA = rules.Gamma(5.0)


def _feedback(model: nn.Module, x: Tensor, given: Tensor, composite: rules.Composite | rules.Rule) -> dict[str, Tensor]:
    return {key: f.clone() for key, f in propagate(model, x, given, composite).feedback.items()}


# --- weights that are used without calling their module ---


class Used(nn.Module):
    """A layer, and a second one whose weight is used in some way."""

    def __init__(self, use: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.fc, self.use = randomised(nn.Linear(6, 6)), randomised(nn.Linear(6, 3)), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.fc, torch.relu(self.stem(x)))


USES: dict[str, Callable[[nn.Linear, Tensor], Tensor]] = {
    "F.linear": lambda fc, x: F.linear(x, fc.weight, fc.bias),
    "by keywords": lambda fc, x: F.linear(x, weight=fc.weight, bias=fc.bias),
    "@": lambda fc, x: x @ fc.weight.T + fc.bias,
    "matmul of mT": lambda fc, x: torch.matmul(x, fc.weight.mT) + fc.bias,
    "einsum": lambda fc, x: torch.einsum("bi,oi->bo", x, fc.weight) + fc.bias,
    "addmm": lambda fc, x: torch.addmm(fc.bias, x, fc.weight.t()),
    "a view": lambda fc, x: F.linear(x, fc.weight.view(-1).view(3, 6), fc.bias),
    "scaled": lambda fc, x: F.linear(x, 1.0 * fc.weight, fc.bias),
    "its forward": lambda fc, x: fc.forward(x),
}


@pytest.mark.parametrize("name", USES)
def test_a_weight_gets_the_rule_of_its_module(name: str) -> None:
    composite = rules.Composite(rules.Epsilon(0.1), by_name={"fc": GAMMA})
    model, x, given = Used(lambda fc, x: fc(x)), torch.randn(5, 6), torch.randn(5, 3)
    expected = _feedback(model, x, given, composite)
    model.use = USES[name]
    found = _feedback(model, x, given, composite)
    if name not in ("@", "matmul of mT", "einsum"):  # there weight and bias are two sums
        torch.testing.assert_close(found["fc.weight"], expected["fc.weight"], **CLOSE)
    without = _feedback(model, x, given, rules.Epsilon(0.1))
    assert not torch.allclose(found["fc.weight"], without["fc.weight"])


def _assign(model: nn.Module) -> dict[str, Tensor]:
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    return dict(model.named_parameters())


def _replace_layer(model: nn.Module) -> dict[str, Tensor]:
    model.fc = copy.deepcopy(model.fc)
    for hooks in (model.fc._forward_pre_hooks, model.fc._forward_hooks):
        hooks.clear()
    return dict(model.named_parameters())


def _give(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}


@pytest.mark.parametrize("change", [_assign, _replace_layer, _give])
@pytest.mark.parametrize("name", ["F.linear", "its forward", "a call"])
def test_a_weight_that_replaces_another_gets_the_rule_of_its_module(name: str, change: Callable) -> None:
    model = Used(USES.get(name, lambda fc, x: fc(x)))
    x, given = torch.randn(5, 6), torch.randn(5, 3)
    with attached(model, rules.Composite(rules.Epsilon(0.1), by_name={"fc": GAMMA})):
        found = []
        for weights_of in (lambda model: dict(model.named_parameters()), change):
            model.zero_grad()
            weights = weights_of(model)
            outputs = torch.func.functional_call(model, weights, (x,)) if change is _give else model(x)
            rewards.GivenReward()(outputs, given).backward()
            found.append({key: weight.grad.clone() for key, weight in weights.items()})
    torch.testing.assert_close(found[1], found[0], **CLOSE)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.a(x, x, x)[0].mean(1))


def test_the_projection_of_an_attention_gets_its_rule() -> None:
    """torch uses out_proj.weight without calling out_proj."""
    model, x, given = randomised(Attention()), torch.randn(5, 2, 6), torch.randn(5, 3)
    plain = _feedback(model, x, given, rules.Epsilon(0.1))
    of_projection = _feedback(model, x, given, rules.Composite(rules.Epsilon(0.1), by_name={"a.out_proj": GAMMA}))
    of_all = _feedback(model, x, given, rules.Composite(rules.Epsilon(0.1), by_name={"a": GAMMA}))
    assert not torch.allclose(of_projection["a.out_proj.weight"], plain["a.out_proj.weight"])
    torch.testing.assert_close(of_projection["a.out_proj.weight"], of_all["a.out_proj.weight"], **CLOSE)
    torch.testing.assert_close(of_projection["o.weight"], plain["o.weight"], **CLOSE)
    others = rules.Composite(rules.Epsilon(0.1), by_name={"a.out_proj": rules.Epsilon(0.1), "a": GAMMA})
    others = _feedback(model, x, given, others)
    assert not torch.allclose(others["a.in_proj_weight"], plain["a.in_proj_weight"])
    torch.testing.assert_close(others["a.out_proj.weight"], plain["a.out_proj.weight"], **CLOSE)


def test_a_shared_weight_gets_the_rule_of_the_module_that_is_called() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    model, x, given = randomised(Tied()), torch.randn(5, 6), torch.randn(5, 6)
    apart = copy.deepcopy(model)
    apart.b.weight = nn.Parameter(model.a.weight.detach().clone())
    composite = rules.Composite(rules.Epsilon(0.1), by_name={"b": GAMMA})
    expected = _feedback(apart, x, given, composite)
    found = _feedback(model, x, given, composite)
    torch.testing.assert_close(found["a.weight"], expected["a.weight"] + expected["b.weight"], **CLOSE)


# --- modules that are called inside others ---


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = randomised(nn.Linear(4, 6))

    def forward(self, x: Tensor, head: nn.Module | None = None) -> Tensor:
        x = torch.relu(self.layer(x))
        return x if head is None else head(x)


class Calling(nn.Module):
    """A head that is called by the model, or by its block."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head, self.inside = Block(), randomised(nn.Linear(6, 3)), False

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, self.head) if self.inside else self.head(self.block(x))


@pytest.mark.parametrize("default", [rules.Epsilon(0.1), GAMMA], ids=str)
@pytest.mark.parametrize("other", [rules.Epsilon(0.3), rules.ZPlus()], ids=str)
def test_a_default_module_inside_a_ruled_one_keeps_the_default(default: rules.Rule, other: rules.Rule) -> None:
    model, x, given = Calling(), torch.randn(5, 4), torch.randn(5, 3)
    composite = rules.Composite(default, by_name={"block": other})
    expected = _feedback(model, x, given, composite)
    model.inside = True
    torch.testing.assert_close(_feedback(model, x, given, composite), expected, **CLOSE)


def test_an_exception_inside_a_ruled_module_leaves_its_scope() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = randomised(nn.Linear(4, 4)), randomised(nn.Linear(4, 3))
            self.inner.register_forward_hook(self.fail)
            self.fails = False

        def fail(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            if self.fails:
                raise ZeroDivisionError

        def forward(self, x: Tensor) -> Tensor:
            try:
                y = self.inner(x)
            except ZeroDivisionError:
                y = x
            return self.last(y).cumsum(1)  # damped by the epsilon of the active rule

    class Summed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).cumsum(1)

    model, x, given = Failing(), torch.randn(5, 4), torch.randn(5, 3)
    composite = rules.Composite(rules.Epsilon(0.1), by_name={"inner": rules.Epsilon(3.0)})
    model.fails = True
    found = _feedback(model, x, given, composite)
    alone = Summed(4, 3)
    alone.load_state_dict(model.last.state_dict())
    expected = _feedback(alone, x, given, rules.Epsilon(0.1))
    torch.testing.assert_close(found["last.weight"], expected["weight"], **CLOSE)


# --- the first layer is the one that runs first ---


class Registered(nn.Module):
    """Layers registered in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.middle, self.stem = (randomised(nn.Linear(*sizes)) for sizes in ((8, 3), (8, 8), (6, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(torch.relu(self.stem(x)))))


@pytest.mark.parametrize("first", [rules.Flat(), rules.WSquare(), rules.ZBox(-3, 3), rules.ZPlus()], ids=str)
def test_first_is_the_layer_that_runs_first(first: rules.Rule) -> None:
    model, x, given = Registered(), torch.randn(5, 6), torch.randn(5, 3)
    in_order = nn.Sequential(model.stem, nn.ReLU(), model.middle, nn.ReLU(), model.head)
    composite = rules.Composite(rules.Epsilon(0.1), first=first)
    expected = _feedback(in_order, x, given, rules.Composite(rules.Epsilon(0.1), by_name={"0": first}))
    found = _feedback(model, x, given, composite)
    for name, place in {"stem": "0", "middle": "2", "head": "4"}.items():
        torch.testing.assert_close(found[f"{name}.weight"], expected[f"{place}.weight"], **CLOSE)
    for _ in range(2):  # each pass begins anew
        torch.testing.assert_close(_feedback(model, x, given, composite), found, **CLOSE)


class UsedFirst(nn.Module):
    """Two layers, the first of which is only used."""

    def __init__(self, use: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.fc, self.use = randomised(nn.Linear(3, 3)), randomised(nn.Linear(6, 3)), use

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.use(self.fc, x)))


@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", USES)
@pytest.mark.filterwarnings("ignore:::torch")
def test_first_is_the_layer_whose_weight_is_used_first(name: str, compiles: bool) -> None:
    if compiles and name in ("@", "matmul of mT") and Version(torch.__version__) < Version("2.14"):
        pytest.skip("before torch 2.14, it is not known compiled whose weight a transposed one is")
    composite = rules.Composite(rules.Epsilon(0.1), first=rules.ZPlus())
    model, x = UsedFirst(USES[name]), torch.rand(5, 6)
    called = copy.deepcopy(nn.Sequential(model.fc, nn.ReLU(), model.head))
    attach(called, composite)(x).sum().backward()
    attach(model, composite)
    (torch.compile(model, backend="eager", fullgraph=True) if compiles else model)(x).sum().backward()
    torch.testing.assert_close(model.head.weight.grad, called[2].weight.grad, **CLOSE)
    if name not in ("@", "matmul of mT", "einsum"):  # there weight and bias are two sums
        torch.testing.assert_close(model.fc.weight.grad, called[0].weight.grad, **CLOSE)


def test_a_projection_that_torch_only_uses_is_the_first_layer() -> None:
    """The in_proj_weight of an attention belongs to no linear layer, its out_proj is one and is never called."""
    model, x, given = randomised(Attention()), torch.randn(5, 2, 6), torch.randn(5, 3)
    by_name = rules.Composite(rules.Epsilon(0.1), by_name={"a.out_proj": GAMMA})
    expected = _feedback(model, x, given, by_name)
    torch.testing.assert_close(
        _feedback(model, x, given, rules.Composite(rules.Epsilon(0.1), first=GAMMA)), expected, **CLOSE
    )


def test_a_layer_whose_weight_is_only_looked_up_is_not_the_first() -> None:
    """A lookup shares no reward among inputs, as that of nn.Embedding, which no rule is for."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.middle = nn.Linear(6, 7), nn.Linear(6, 6)

        def forward(self, indices: Tensor) -> Tensor:
            return self.head(torch.relu(self.middle(self.head.weight[indices])))

    model, indices = randomised(Tied()), torch.tensor([0, 3, 6])
    found = []
    for composite in (
        rules.Composite(rules.Epsilon(0.1), by_name={"middle": GAMMA}),
        rules.Composite(rules.Epsilon(0.1), first=GAMMA),
    ):
        model.zero_grad()
        with attached(model, composite):
            model(indices).sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*found, **CLOSE)


def test_first_may_change_from_pass_to_pass() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.swapped = randomised(nn.Linear(4, 4)), randomised(nn.Linear(4, 4)), False

        def forward(self, x: Tensor) -> Tensor:
            one, two = (self.b, self.a) if self.swapped else (self.a, self.b)
            return two(torch.relu(one(x)))

    model, x, given = Either(), torch.randn(5, 4), torch.randn(5, 4)
    composite, found = rules.Composite(rules.Epsilon(0.1), first=rules.Flat()), []
    with attached(model, composite):
        for model.swapped in (False, True):
            model.zero_grad()
            model(x).backward(given)
            found.append({key: f.clone() for key, f in feedback_of(model).items()})
    for swapped, feedback in enumerate(found):
        one, two = (model.b, model.a) if swapped else (model.a, model.b)
        alone = nn.Sequential(one, nn.ReLU(), two)
        with attached(alone, composite):
            alone.zero_grad()
            alone(x).backward(given)
        torch.testing.assert_close(feedback["ba"[1 - swapped] + ".weight"], feedback_of(alone)["0.weight"], **CLOSE)


def _eager(model: nn.Module, x: Tensor) -> None:
    model(x)


def _compiled(model: nn.Module, x: Tensor) -> None:
    torch._dynamo.reset()
    torch.compile(model, backend="eager")(x)


def _functional(model: nn.Module, x: Tensor) -> None:
    def reward(parameters: dict[str, Tensor]) -> Tensor:
        return rewards.SoftmaxReward()(torch.func.functional_call(model, parameters, (x,)), torch.arange(5) % 3)

    torch.func.grad(reward)({name: p.detach() for name, p in model.named_parameters()})


BEYOND = [
    *itertools.product((rules.Flat(), rules.WSquare(), rules.ZBox(-3, 3)), (_eager, _functional), ("2", "4")),
    (rules.ZBox(-3, 3), _compiled, "2"),  # which takes long
]


@pytest.mark.parametrize(("rule", "run", "where"), BEYOND, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.filterwarnings("ignore:::torch")
def test_rules_of_the_first_layer_are_refused_beyond_it(rule: rules.Rule, run: Callable, where: str) -> None:
    layers = (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model = attach(nn.Sequential(*layers), rules.Composite(by_name={where: rule}))
    with pytest.raises(
        FeedpropError, match=rf"{type(rule).__name__} shares rewards regardless .*first={type(rule).__name__}"
    ):
        run(model, torch.randn(5, 4))
    detach(model)
    run(attach(model, rules.Composite(by_name={"0": rule})), torch.randn(5, 4))


# --- threads ---


def test_two_threads_with_one_model_have_a_scope_each() -> None:
    """Each thread waits for the other inside a ruled module, so both scopes are open at once."""
    barrier, inside = threading.Barrier(2, timeout=60), threading.local()

    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = randomised(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            if getattr(inside, "waits", False):
                barrier.wait()
            y = self.layer(x)
            if getattr(inside, "waits", False):
                barrier.wait()
            return y.cumsum(1)  # damped by the epsilon of the active rule

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = Waiting(), Waiting(), randomised(nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            one, two = (self.b, self.a) if getattr(inside, "swapped", False) else (self.a, self.b)
            return self.last(two(torch.relu(one(x))))

    model, x, given = Both(), torch.randn(5, 4), torch.randn(5, 3)
    composite = rules.Composite(rules.Epsilon(0.1), by_name={"a": rules.Epsilon(1.0), "b": rules.Epsilon(9.0)})

    def feedback() -> list[Tensor]:
        return list(torch.autograd.grad(model(x), list(model.parameters()), given))

    def run(*, swapped: bool) -> None:
        inside.waits, inside.swapped = True, swapped
        try:
            found[swapped] = feedback()
        except BaseException as error:
            barrier.abort()
            found[swapped] = error

    found: dict[bool, list[Tensor] | BaseException] = {}
    with attached(model, composite):
        expected = {}
        for inside.swapped in (False, True):
            expected[inside.swapped] = feedback()
        inside.swapped = False
        threads = [threading.Thread(target=run, kwargs={"swapped": swapped}) for swapped in (False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    torch.testing.assert_close(found, expected, **CLOSE)
