"""Every in-place spelling does what its out-of-place spelling does, also as a statement and on views."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rewards, rules
from feedprop.errors import FeedpropError
from feedprop.operations import table
from support import calls
from support.propagation import CLOSE, Call, Residual, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

RULE = rules.Epsilon(0.3)
SOURCES = {
    "damped": lambda x: x + 0.1,
    "scaled": lambda x: x * 1.5,
    "selected": lambda x: torch.where(x > 5, 0.0, x),
    "activated": lambda x: F.gelu(x),
}


def _arguments(table: dict, name: str, x: Tensor) -> tuple:
    value = table[name]
    return tuple(value(x))[1:] if callable(value) else value


# calls.py gives them x as another argument than the first, or not x itself
OTHER = {"index_reduce", "float_power", "polygamma", "igamma", "igammac"}


def _in_place_names() -> list[tuple[str, str]]:
    found = []
    for kind in ("ORDINARY", "SUMMED", "ARITHMETIC", "SECANT"):  # tables of calls.py
        for name, value in getattr(calls, kind).items():
            method = getattr(Tensor, f"{name}_", None)
            if method is not None and value != "elsewhere" and not name.startswith("__") and name not in OTHER:
                found.append((kind, name))
    return found


IN_PLACE = _in_place_names()
CHANGE_SHAPE = {"squeeze", "unsqueeze", "t", "transpose", "swapaxes", "swapdims", "as_strided"}


def _credit(function, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    with attached(Call(function), RULE) as model:
        torch.manual_seed(1)
        output = model(leaf)
    torch.manual_seed(2)
    if output.requires_grad:
        output.backward(torch.randn_like(output))
    return output.detach(), torch.zeros_like(x) if leaf.grad is None else leaf.grad


def test_the_table_has_the_in_place_names() -> None:
    assert len(IN_PLACE) > 70


@pytest.mark.parametrize(("kind", "name"), IN_PLACE, ids=[name for _, name in IN_PLACE])
def test_method_in_place_equals_out_of_place(kind: str, name: str) -> None:
    table = getattr(calls, kind)
    x = calls.domain(name, torch.randn(calls.SHAPES.get(name, (2, 3, 4, 4))))
    for source in SOURCES.values() if name not in calls.POSITIVE | calls.FRACTION else [SOURCES["selected"]]:

        def start(x: Tensor, source=source) -> tuple[Tensor, tuple]:
            h = source(x)
            return h, _arguments(table, name, x)

        def out_of_place(x: Tensor) -> Tensor:
            h, arguments = start(x)
            return getattr(torch, name, getattr(Tensor, name, None))(h, *arguments)

        def statement(x: Tensor) -> Tensor:
            h, arguments = start(x)
            getattr(h, f"{name}_")(*arguments)
            return h

        def expression(x: Tensor) -> Tensor:
            h, arguments = start(x)
            return getattr(h, f"{name}_")(*arguments)

        def on_view(x: Tensor) -> Tensor:
            h, arguments = start(x)
            getattr(h.view(h.shape), f"{name}_")(*arguments)
            return h

        if not hasattr(torch, name) and not hasattr(Tensor, name):  # fill_, zero_, copy_ have no other spelling
            continue
        expected = _credit(out_of_place, x)
        for written in [statement, expression] + ([] if name in CHANGE_SHAPE else [on_view]):
            torch.testing.assert_close(
                _credit(written, x), expected, **CLOSE, msg=lambda t, w=written: f"{w.__name__}: {t}"
            )


WITH_OPTION = [
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "silu",
    "mish",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "rrelu",
    "threshold",
    "dropout",
]
OPTIONS = {"threshold": (0.1, 0.0), "rrelu": (0.2, 0.2), "dropout": (0.4,)}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", WITH_OPTION)
def test_functional_inplace_equals_out_of_place(name: str, source: str) -> None:
    x, function, options = torch.randn(4, 5), getattr(F, name), OPTIONS.get(name, ())

    def statement(x: Tensor) -> Tensor:
        h = SOURCES[source](x)
        function(h, *options, inplace=True)
        return h

    def on_half(x: Tensor) -> Tensor:
        h = SOURCES[source](x)
        function(h[:2], *options, inplace=True)
        return h

    def halves(x: Tensor) -> Tensor:
        h = SOURCES[source](x)
        return torch.cat([function(h[:2], *options), h[2:]])

    expected = _credit(lambda x: function(SOURCES[source](x), *options), x)
    torch.testing.assert_close(
        _credit(lambda x: function(SOURCES[source](x), *options, inplace=True), x), expected, **CLOSE
    )
    torch.testing.assert_close(_credit(statement, x), expected, **CLOSE)
    torch.testing.assert_close(_credit(on_half, x), _credit(halves, x), **CLOSE)


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (lambda h, x: h.__iadd__(x), lambda h, x: h + x),
        (lambda h, x: h.__isub__(x), lambda h, x: h - x),
        (lambda h, x: h.__imul__(x), lambda h, x: h * x),
        (lambda h, x: h.__itruediv__(x), lambda h, x: h / x),
        (lambda h, x: h.add_(x, alpha=2.0), lambda h, x: h.add(x, alpha=2.0)),
        (lambda h, x: h.mul_(x), lambda h, x: h.mul(x)),
        (lambda h, x: h.div_(x), lambda h, x: h.div(x)),
        (lambda h, x: h.mul_(2.0), lambda h, x: h * 2.0),
        (lambda h, x: h.zero_(), lambda h, x: h * 0.0),
        (lambda h, x: h.copy_(x), lambda h, x: x.clone()),
        (lambda h, x: h[0].add_(x[0]), lambda h, x: torch.stack([h[0] + x[0], *h[1:]])),
        (lambda h, x: h.__setitem__(0, x[1]), lambda h, x: torch.stack([x[1], *h[1:]])),
        (lambda h, x: h.__setitem__((slice(None), 0), 0.0), lambda h, x: torch.cat([h[:, :1] * 0.0, h[:, 1:]], 1)),
    ],
)
def test_operators_in_place(written, plain) -> None:
    for source in SOURCES.values():

        def statement(x: Tensor, source=source) -> Tensor:
            h = source(x)
            written(h, x)
            return h

        x = torch.randn(3, 4)
        torch.testing.assert_close(_credit(statement, x), _credit(lambda x, s=source: plain(s(x), x), x), **CLOSE)


COMPOSITES = {"epsilon": rules.Composite.of(RULE), "conserving": rules.presets.conserving(0.3)}
FURTHER: dict[str, Callable[[Tensor], tuple]] = {  # arguments of names that are not in IN_PLACE
    **dict.fromkeys(["gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"], lambda y: (y,)),
    **dict.fromkeys(["mul", "multiply", "div", "divide", "true_divide", "floor_divide", "float_power"], lambda y: (y,)),
    **dict.fromkeys(["addcmul", "addcdiv"], lambda y: (y, y * 0.3 + 0.1)),
    **dict.fromkeys(["relu", "gelu"], lambda y: ()),
    **dict.fromkeys(["pow"], lambda y: (3,)),
    "lerp": lambda y: (y, y.sigmoid()),
    "cumprod": lambda y: (1,),
    "addr": lambda y: (y[:, 0], torch.linspace(-1.0, 1.0, y.shape[1])),
    "addmm": lambda y: (y[:, :2], torch.linspace(-1.0, 1.0, 2 * y.shape[1]).view(2, -1)),
}
SHAPED = sorted(
    name for _, name in IN_PLACE if name not in CHANGE_SHAPE | calls.POSITIVE | calls.FRACTION | calls.SHAPES.keys()
)


def _given(name: str, x: Tensor) -> tuple:
    if name in FURTHER:
        return FURTHER[name](x.flip(0).abs() + 0.2 if name == "float_power" else x.flip(0) * 0.7)
    return next(_arguments(getattr(calls, kind), name, x) for kind, other in IN_PLACE if other == name)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", sorted({*SHAPED, *FURTHER} & {*table.handlers()}))
def test_every_composite_credits_in_place_as_out_of_place(name: str, composite: str) -> None:
    """On what a linear layer returns, on a view of it, and on a part of a tensor; other layers follow."""
    x = torch.randn((4, 4) if name in ("addr", "addmm") else (2, 3, 4, 4))
    weight = torch.randn(4, 4)
    plain = getattr(torch, name, None) or getattr(F, name, None)
    written = getattr(Tensor, f"{name}_", None) or getattr(torch._C._nn, f"{name}_")

    def layer(x: Tensor) -> Tensor:
        h = F.linear(x, model.weight)
        return h.abs() + 0.2 if name == "float_power" else h

    def out_of_place(x: Tensor) -> Tensor:
        h = layer(x)
        return plain(h, *_given(name, x)).to(h.dtype)

    def statement(x: Tensor) -> Tensor:
        h = layer(x)
        written(h, *_given(name, x))
        return h

    def on_view(x: Tensor) -> Tensor:
        h = layer(x)
        written(h.view(h.shape), *_given(name, x))
        return h

    def on_part(x: Tensor) -> Tensor:
        h = layer(x)
        both = torch.stack([h, h])
        written(both[1], *_given(name, x))
        return both[1]

    found = []
    for function in (out_of_place, statement, on_view, on_part):
        model = Call(lambda x, weight, function=function: torch.tanh(F.linear(function(x), weight)), weight=weight)
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        with attached(model, COMPOSITES[composite]):
            output = model(leaf)
            torch.manual_seed(1)
            output.backward(torch.randn_like(output))
        found.append((output.detach(), leaf.grad, model.weight.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **CLOSE)


def test_statements_with_operators() -> None:
    class Block(nn.Module):
        def __init__(self, *, inplace: bool) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.inplace = inplace

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(self.first(x), inplace=self.inplace)
            out = self.second(out)
            if self.inplace:
                out += x
                out *= 0.5
                out -= 0.1
                out[:, 0] = out[:, 1]
                return out
            out = (out + x) * 0.5 - 0.1
            return torch.cat([out[:, 1:2], out[:, 1:]], 1)

    model = randomised(Block(inplace=True).double())
    other = Block(inplace=False).double()
    other.load_state_dict(model.state_dict())
    inputs, rewards = torch.randn(3, 4), torch.randn(3, 4)
    found, expected = propagate(model, inputs, rewards, RULE), propagate(other, inputs, rewards, RULE)
    torch.testing.assert_close(found.output, expected.output, **CLOSE)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)
    torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)


def test_inplace_flags_of_a_network() -> None:
    def network(inplace: bool) -> nn.Sequential:
        inner = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=inplace))
        tail = (
            nn.Flatten(),
            nn.Linear(48, 8),
            nn.SiLU(inplace=inplace),
            nn.Dropout(0.0, inplace=inplace),
            nn.Linear(8, 3),
        )
        return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ELU(inplace=inplace), Residual(inner), *tail).double()

    model, other = randomised(network(inplace=True)), network(inplace=False)
    other.load_state_dict(model.state_dict())
    inputs, rewards = torch.randn(3, 2, 4, 4), torch.randn(3, 3)
    found, expected = propagate(model, inputs, rewards, RULE), propagate(other, inputs, rewards, RULE)
    torch.testing.assert_close(found.feedback, expected.feedback, **CLOSE)
    torch.testing.assert_close(found.input_reward, expected.input_reward, **CLOSE)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_dropout_in_place_that_drops_nothing_writes_nothing(p: float, training: bool) -> None:
    # as torch: attention weights whose softmax kept them for its backward may pass through it
    x = torch.randn(2, 3, requires_grad=True)
    found = []
    for inplace in (False, True):
        with attached(Call(lambda x, inplace=inplace: F.dropout(x.softmax(-1), p, training, inplace) * 2.0)) as model:
            found.append(torch.autograd.grad(model(x), x, torch.arange(6.0).view(2, 3))[0])
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.parametrize("rule", [rules.ZPlus(), rules.AlphaBeta(), rules.Gamma(0.5)], ids=repr)
def test_what_was_written_to_is_no_longer_known_to_be_positive(rule: rules.Rule) -> None:
    """After relu some rules spare half of their work; not so where rectified memory was written to, be it by a view."""
    layer, x = nn.Linear(4, 3).double(), torch.randn(5, 4)

    def written(x: Tensor) -> Tensor:
        h = F.relu(x).clone()
        view = h.view(5, 4)
        h -= 0.5
        return layer(view)

    found = []
    for function in (written, lambda x: layer(F.relu(x) - 0.5)):
        leaf = x.clone().requires_grad_()
        with attached(Call(function), rule) as model:
            model(leaf).backward(torch.ones(5, 3))
        found.append(leaf.grad)
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "write", [lambda h: h.mul_(2.0), lambda h: h.neg_(), lambda h: h.tanh_(), lambda h: h[:2].add_(1.0)]
)
def test_what_follows_a_write_sees_the_write(source: str, write) -> None:
    def written(x: Tensor) -> Tensor:
        h = SOURCES[source](x)
        write(h)
        return torch.tanh(h)

    def copied(x: Tensor) -> Tensor:
        h = SOURCES[source](x).clone()
        write(h)
        return torch.tanh(h)

    x = torch.randn(4, 5)
    torch.testing.assert_close(_credit(written, x), _credit(copied, x), **CLOSE)


@pytest.mark.parametrize(
    "erase",
    [lambda y: y.mul_(0.0), lambda y: y.zero_(), lambda y: y.sub_(y.detach()), lambda y: y[:, :].zero_()],
)
def test_a_reward_does_not_enter_before_a_later_write(erase) -> None:
    def erased(z: Tensor) -> Tensor:
        y = torch.tanh(z.clone())
        erase(y)
        return y

    z, given = torch.tensor([[-1.0, 2.0]], requires_grad=True), torch.tensor([[1.0, 1.0]])
    with attached(Call(erased)) as model, pytest.warns(UserWarning, match="2 of 2 outputs are rewarded but exactly 0"):
        rewards.GivenReward()(model(z), given).backward()
    assert z.grad.tolist() == [[0.0, 0.0]]


def test_every_in_place_method_of_the_table_is_named_here() -> None:
    """So that a name added to the table is tested in place too."""
    names = [*calls.ORDINARY, *calls.SUMMED, *calls.ARITHMETIC, *calls.SECANT]
    written = {name for name in names if hasattr(Tensor, f"{name}_") and not name.startswith("__")} - OTHER
    assert written - {name for _, name in IN_PLACE} <= {"resize"}


LAID_OUT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], tuple[Tensor, ...]]]] = {
    "addmm_": (lambda h: h.mT.contiguous().mT, lambda x, y: (x[:, :1], y[:1])),
    "baddbmm_": (
        lambda h: h.expand(2, 64, 64).contiguous().mT.contiguous().mT,
        lambda x, y: (x[:, :1].expand(2, 64, 1), y[:1].expand(2, 1, 64)),
    ),
    "addmv_": (lambda h: h[:, 0], lambda x, y: (x, y[:, 0])),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LAID_OUT)
def test_values_do_not_depend_on_the_layout_of_the_target(name: str, dtype: torch.dtype) -> None:
    """The layout says in which order a kernel adds up, and so the last bit."""
    layout, factors = LAID_OUT[name]
    x, y = torch.randn(64, 33, dtype=dtype), torch.randn(33, 64, dtype=dtype)
    w = torch.randn(64, 64, dtype=dtype)
    model = Call(lambda x, y, w: getattr(layout(torch.tanh(w)), name)(*factors(x, y)), w=w)
    plain = model(x, y)
    with attached(model, rules.Epsilon()):
        assert torch.equal(model(x, y), plain)


@pytest.mark.parametrize("name", ["sigmoid_", "tanh_", "erf_", "exp_", "sin_", "log1p_", "erfinv_", "mul_"])
def test_values_do_not_depend_on_the_gaps_between_elements(name: str) -> None:
    """Torch computes contiguous elements several at a time, by other formulas than single ones."""

    def gaps(x: Tensor) -> Tensor:
        h = torch.complex(x, x).imag
        return getattr(h, name)(*[h + 0.1] * (name == "mul_"))

    x = torch.rand(64, 33)
    with attached(Call(gaps)) as model:
        assert torch.equal(model(x.clone().requires_grad_()), gaps(x.clone().requires_grad_()))


ACTIVATIONS = [
    torch.tanh,
    torch.sigmoid,
    torch.sign,
    F.gelu,
    lambda z: (z > 0).to(z.dtype),
    lambda z: z.view(-1).tanh(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("composite", [RULE, rules.presets.training(), rules.presets.conserving()])
@pytest.mark.parametrize("write", [lambda z: z.add_(1), lambda z: z[0].mul_(2), lambda z: z.view(-1).tanh_(), F.relu_])
def test_what_an_activation_was_computed_from_may_be_overwritten(activation, composite, write) -> None:
    x = torch.randn(5, 4)
    found = []
    for overwrites in (False, True):
        torch.manual_seed(0)

        def forward(x: Tensor, weight: Tensor, overwrites: bool = overwrites) -> Tensor:
            z = x @ weight + 0.1
            output = activation(z).reshape(z.shape)
            if overwrites:
                write(z)
            return output

        model = Call(forward, weight=torch.randn(4, 4))
        with attached(model, composite):
            model(x).sum().backward()
        found.append(model.weight.grad)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_weights_cannot_be_updated_before_the_backward_pass() -> None:
    with attached(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))) as model:
        output = model(torch.randn(5, 4))
        with torch.no_grad():
            model[2].weight.add_(1.0)
        with pytest.raises(FeedpropError, match=r"call its step\(\) after backward\(\)"):
            output.sum().backward()


@pytest.mark.parametrize("use", [lambda z: z * 2, lambda z: z + 1, lambda z: z.sum(0)])
def test_relu_in_place_leaves_what_others_took(use) -> None:
    found = []
    for relu in (F.relu, F.relu_):

        def forward(x: Tensor, weight: Tensor, relu=relu) -> tuple[Tensor, Tensor]:
            z = x @ weight
            return use(z), relu(z)

        torch.manual_seed(0)
        model, x = Call(forward, weight=torch.randn(4, 4)), torch.randn(5, 4)
        with attached(model, RULE):
            sum(output.sum() for output in model(x)).backward()
        found.append(model.weight.grad)
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.parametrize("composite", [rules.presets.training(), rules.presets.conserving()])
def test_products_of_elements_are_needed_by_torch_itself(composite) -> None:
    """The mask needs no gradient in plain torch, so that its product may be overwritten there."""
    model = nn.Sequential(nn.Linear(4, 4), Call(lambda x: (x > 0).double().prod(-1).div_(2.0)))
    with attached(model, composite):
        output = model(torch.randn(5, 4))
        with pytest.raises(FeedpropError, match="write it out of place"):
            output.sum().backward()


def test_what_an_activation_was_computed_from_cannot_be_overwritten_without_gradients() -> None:
    def forward(x: Tensor) -> Tensor:
        output = torch.tanh(x)
        with torch.no_grad():
            x += 1
        return output

    with attached(nn.Sequential(nn.Linear(4, 8), Call(forward), nn.Linear(8, 3))) as model:
        output = model(torch.randn(5, 4))
        with pytest.raises(FeedpropError, match=r"write it out of place.*version 1"):
            output.sum().backward()


def test_torch_speaks_of_overwritten_values_outside_of_attached_models() -> None:
    x = torch.randn(3, requires_grad=True).exp()
    output = x.sin()
    x += 1
    with attached(nn.Linear(4, 3)), pytest.raises(RuntimeError, match="modified by an inplace") as raised:
        output.sum().backward()
    assert not isinstance(raised.value, FeedpropError)


@pytest.mark.parametrize(
    "write", [Tensor.tanh_, Tensor.mul_, Tensor.relu_, Tensor.__setitem__], ids=lambda f: f.__name__
)
def test_a_write_to_a_part_of_a_chunk_of_a_mask_is_refused(write: Callable) -> None:
    """Plain torch follows no gradient there, and allows it; a mask carries credit."""
    arguments = {"mul_": (2.0,), "__setitem__": (0, 1.0)}.get(write.__name__, ())

    def written(x: Tensor) -> Tensor:
        first, second = (x > 0).double().chunk(2, -1)
        write(second, *arguments)
        return first + second

    x = torch.randn(3, 4, requires_grad=True)
    written(x)
    with attached(Call(written)) as model, pytest.raises(FeedpropError, match=r"one of several views .* out of place"):
        model(x)
