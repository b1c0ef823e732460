"""How credit passes every function of the table, in every out-of-place spelling: expected from plain autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from feedprop import attached, rules
from feedprop.operations import elementwise, products, table
from feedprop.operations.registry import HANDLERS, moved, ordinary, summed
from feedprop.operations.spellings import spellings
from support import calls
from support.propagation import CLOSE, Call

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings(
        "ignore:.*(upsample|chain_matmul|torch.meshgrid|nuclear_norm|frobenius_norm|index_reduce|size_average|batchmean)"
    ),  # spellings that torch deprecates
    pytest.mark.filterwarnings("ignore:torch.(qr|cholesky) is deprecated"),
]

EPSILON = 0.3
TABLES = {
    "ORDINARY": calls.ORDINARY | calls.SELECTED | calls.CONVERSION,
    "SUMMED": calls.SUMMED,
    "ARITHMETIC": calls.ARITHMETIC,
    "SECANT": calls.SECANT,
}
BASES = {name: getattr(handler, "base", handler) for name, handler in table.handlers().items()}
NAMES = {
    "ORDINARY": [
        *(name for name, base in BASES.items() if base in (ordinary, moved)),
        *(
            name
            for name, base in BASES.items()
            if base in (products.power, elementwise.converted, elementwise.selected)
        ),
    ],
    "SUMMED": [*(name for name, base in BASES.items() if base is summed), "normalize", "lerp"],
    "ARITHMETIC": [name for names in table.ARITHMETIC for name in names.split()],
    "SECANT": [name for names in table.ACTIVATIONS for name in names.split()],
}
PUBLISHED = rules.Secant.published()
HERE = [(kind, name) for kind, table in TABLES.items() for name, value in table.items() if value != "elsewhere"]


def _inputs(name: str) -> Tensor:
    shape = calls.SHAPES.get(name, (2, 3, 4, 4))
    return calls.domain(name, torch.randn(shape)).requires_grad_()


def _differentiable(output) -> list[Tensor]:
    items = output if isinstance(output, (tuple, list)) else [output]
    return [item for item in items if isinstance(item, Tensor) and item.requires_grad]


def _run(function, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return _differentiable(function(x * 1.0))  # an activation, not a leaf


# two calls of plain torch may differ in the last bits: LAPACK's depend on where its workspace lies
NOT_REPRODUCIBLE = {"lstsq"}


def _credit(outputs: list[Tensor], x: Tensor, credits: list[Tensor]) -> Tensor:
    (found,) = torch.autograd.grad(outputs, x, credits, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def _spellings(kind: str, name: str) -> list[tuple[str, object]]:
    """Those that plain torch accepts with these arguments."""
    accepted = []
    for spelling, function in calls.calls(TABLES[kind], name):
        try:
            function(_inputs(name) * 1.0)
        except (RuntimeError, TypeError):
            continue
        accepted.append((spelling, function))
    assert accepted, f"{name} cannot be called as calls.py says"
    return accepted


def _expected(kind: str, function, x: Tensor, credits: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    outputs = _run(function, x)
    if kind == "SECANT":
        (y,), (credit,) = (outputs or [function(x)]), credits
        return [y], torch.where(x == 0, 0.0, credit * y / x).detach()
    if kind == "SUMMED":
        credits = [credit * y.abs() / (y.abs() + EPSILON) for credit, y in zip(credits, outputs, strict=True)]
    return outputs, _credit(outputs, x, credits)


@pytest.mark.parametrize("kind", TABLES)
def test_every_name_of_the_table_is_called(kind: str) -> None:
    assert set(TABLES[kind]) == set(NAMES[kind])


@pytest.mark.parametrize(("kind", "name"), HERE, ids=[f"{kind.lower()}-{name}" for kind, name in HERE])
def test_credit_passes(kind: str, name: str) -> None:
    for spelling, function in _spellings(kind, name):
        x = _inputs(name)
        rule = rules.Epsilon(0.0 if name in calls.PREPARED else EPSILON)
        with attached(Call(function), rules.Composite(rule, activation=PUBLISHED)) as model:
            found = _run(model, x)
        credits = [torch.randn_like(y) for y in found]
        outputs, expected = _expected(kind, function, x, credits)
        last_bits = 1e-14 if name in NOT_REPRODUCIBLE else 0.0
        torch.testing.assert_close(
            found, outputs, rtol=last_bits, atol=last_bits, msg=lambda text, s=spelling: f"{s}: {text}"
        )
        credit = _credit(found, x, credits)
        torch.testing.assert_close(credit, expected, **CLOSE, msg=lambda text, s=spelling: f"{s}: {text}")


@pytest.mark.parametrize("name", [name for kind, name in HERE if kind == "SECANT"])
def test_default_secant_starts_at_the_limits_of_the_activation(name: str) -> None:
    """(phi(z) - m) / (z + sign(z) e), with m the middle and e = 0.1 rms(z) where phi jumps at 0."""
    for _, function in _spellings("SECANT", name):
        x = _inputs(name)
        with attached(Call(function), rules.Epsilon()) as model:
            (found,) = _run(model, x)
        tiny = torch.finfo(torch.float64).tiny
        below, above = (function(torch.full((1,), side)).item() for side in (-tiny, tiny))
        if not (abs(below) < 1e100 and abs(above) < 1e100):
            below = above = 0.0
        z, y = x.detach(), found.detach()
        epsilon = 0.1 * z.square().mean().sqrt() if abs(above - below) > 1e-9 else 0.0
        credit = torch.randn_like(y)
        expected = credit * (y - (below + above) / 2) / (z + z.sign() * epsilon)
        torch.testing.assert_close(_credit([found], x, [credit]), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (lambda z: (z > 0).float(), (0.0, 1.0)),
        (lambda z: (z > 0).to(z.dtype), (0.0, 1.0)),
        (lambda z: (z.ge(0.5)).double(), (0.0, 1.0)),
        (lambda z: torch.lt(z, 0.5).type_as(z), (1.0, 0.0)),
        (lambda z: (z <= 0).to(torch.float64), (1.0, 0.0)),
        (lambda z: torch.where(z > 0.5, 1.0, -1.0), (-1.0, 1.0)),
    ],
)
def test_a_comparison_that_becomes_a_number_is_a_step(function, values: tuple[float, float]) -> None:
    x = torch.randn(40, requires_grad=True)
    with attached(Call(lambda x: function(x * 1.0)), rules.Composite(activation=PUBLISHED)) as model:
        output = model(x)
    assert set(output.unique().tolist()) == set(values)
    credit = torch.randn(40)
    output.backward(credit.to(output.dtype))
    edge = 0.5 if any(name in function.__code__.co_consts for name in (0.5,)) else 0.0
    expected = credit * output.detach() / (x.detach() - edge)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("convert", ["float", "half", "bfloat16"])
def test_credit_passes_a_change_of_dtype(convert: str) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    with attached(Call(lambda x: getattr(x * 1.0, convert)())) as model:
        y = model(x)
    assert y.dtype == {"float": torch.float32}.get(convert, getattr(torch, convert, None))
    y.backward(torch.full_like(y, 0.5))
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.5))


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("relu", F.relu),
        ("leaky_relu", lambda z: F.leaky_relu(z, 0.2)),
        ("prelu", lambda z: F.prelu(z, torch.tensor(0.3))),
    ],
)
def test_rectifiers_pass_their_secant(name: str, activation) -> None:
    z = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    with attached(Call(lambda z: activation(z * 1.0))) as model:
        model(z).backward(torch.ones(5))
    expected = torch.where(z == 0, z.grad, activation(z) / z).detach()
    torch.testing.assert_close(z.grad, expected)


def test_batch_of_spellings_of_relu() -> None:
    for relu in (
        torch.relu,
        F.relu,
        Tensor.relu,
        torch.nn.ReLU(),
        lambda z: z.clamp(min=0),
        lambda z: torch.relu_(z * 1.0),
    ):
        z = torch.randn(4, 5, requires_grad=True)
        with attached(Call(lambda z, relu=relu: relu(F.linear(z, torch.eye(5)))), rules.Epsilon(EPSILON)) as model:
            output = model(z)
            output.backward(torch.ones_like(output))
        expected = (z > 0) * z / (z + EPSILON * z.sign())
        torch.testing.assert_close(z.grad, expected.detach(), **CLOSE)


def test_questions_about_a_tensor_change_nothing() -> None:
    def asks(x: Tensor) -> Tensor:
        assert x.size() == x.shape
        assert (x.dim(), x.ndim, x.numel(), len(x)) == (2, 2, 12, 3)
        assert x.is_floating_point()
        assert x.device.type == "cpu"
        assert x.requires_grad
        assert not x.is_leaf
        assert x.dtype is torch.float64
        assert x.argmax().item() >= 0
        keep = (x.detach() > -9).to(x.dtype) * torch.ones_like(x) * (x.detach() == x.detach())
        x.register_hook(lambda credit: None)
        return x * keep

    x = torch.randn(3, 4, requires_grad=True)
    with attached(Call(lambda x: asks(x * 1.0)), rules.Epsilon(EPSILON)) as model:
        model(x).backward(torch.full((3, 4), 2.0))
    torch.testing.assert_close(x.grad, torch.full((3, 4), 2.0))


NEWER = {"matrix_sqrth"}  # than the oldest torch that is supported


def test_each_name_stands_once() -> None:
    rows = [names for _, names in table.ROWS] + [*table.ACTIVATIONS, *table.ARITHMETIC]
    names = [name for row in rows for name in row.split()]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", BASES)
def test_no_name_of_the_table_is_dead(name: str) -> None:
    found = list(spellings(name)) or list(spellings(f"{name}_"))
    if name in NEWER and not found:
        pytest.skip(f"this release of torch has no {name}")
    assert found, f"torch knows no {name!r}"
    assert all(function in HANDLERS for function in found)
