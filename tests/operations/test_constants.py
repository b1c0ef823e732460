"""A weight times a constant of the model is a weight: a buffer, what is made of buffers, what the model makes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from support.propagation import CLOSE, feedback_of

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.filterwarnings("ignore:::torch")]

SIZE = 4
COMPOSITES = {
    "Gamma": rules.Composite(rules.Gamma()),
    "conserving": rules.presets.conserving(),
    "damped": rules.presets.training(epsilon=0.1),
}


def _written(mask: Tensor) -> Tensor:
    mask[0, 1:] = 0
    mask[1, 2:].zero_()
    mask[2, 3:] *= 0
    return mask


def _set(target: Tensor, place: int | slice, values: Tensor) -> Tensor:
    target[place] = values
    return target


def _grid(*, at: int) -> Tensor:
    return torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")[at]


@torch.no_grad()
def _without_gradients(mask: Tensor) -> Tensor:
    return (mask[:SIZE, :SIZE] > 0).double()


MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # the lower triangle of a weight, by a buffer that is larger
    "a part of a buffer": lambda w, mask: w * mask[:SIZE, :SIZE],
    "compared": lambda w, mask: w * (mask[:SIZE, :SIZE] > 0).to(w.dtype),
    "converted": lambda w, mask: w * mask.bool()[:SIZE, :SIZE],
    "filled": lambda w, mask: w.masked_fill(mask[:SIZE, :SIZE] == 0, 0.0),
    "selected": lambda w, mask: torch.where(mask[:SIZE, :SIZE] > 0, w, 0.0),
    "without gradients": lambda w, mask: w * _without_gradients(mask),
    "written without gradients": lambda w, mask: w * torch.no_grad()(lambda: _written(torch.ones(SIZE, SIZE)))(),
    "written into zeros without gradients": lambda w, mask: (
        w * torch.no_grad()(lambda: _set(torch.zeros(SIZE, SIZE), slice(None), mask[:SIZE, :SIZE]))()
    ),
    "joined parts": lambda w, mask: w * torch.cat(mask[:SIZE, :SIZE].chunk(2)),
    "made by ones": lambda w, mask: w * torch.ones(SIZE, SIZE).tril(),
    "made by new_ones": lambda w, mask: w * w.new_ones(SIZE, SIZE).tril(),
    "made by ones_like": lambda w, mask: w * torch.ones_like(mask)[:SIZE, :SIZE].tril(),
    "made by arange": lambda w, mask: w * (torch.arange(SIZE)[:, None] >= torch.arange(SIZE)),
    "made by meshgrid": lambda w, mask: w * (_grid(at=0) >= _grid(at=1)),
    "made by tensor": lambda w, mask: w * torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
    "written": lambda w, mask: w * _written(torch.ones(SIZE, SIZE)),
    "written in place": lambda w, mask: w * torch.empty(SIZE, SIZE).fill_(1.0).tril_(),
}


class _Layer(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.make = nn.Parameter(torch.linspace(-2, 1.5, SIZE**2).view(SIZE, SIZE)), make
        self.register_buffer("mask", torch.ones(2 * SIZE, 2 * SIZE).tril())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * 1, self.make(self.w, self.mask)).relu()


class _SideBySide(nn.ModuleList):
    """Several models, each on an input of its own: one compilation instead of one for each."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [model(x) for model, x in zip(self, inputs, strict=True)]


def _propagated(models: list[nn.Module], composite: str, backend: str | None) -> list[tuple[Tensor | None, Tensor]]:
    """Return the credit of the input of each model and the feedback of its weight w."""
    inputs = [torch.linspace(-1, 1, 3 * SIZE).view(3, SIZE).requires_grad_() for _ in models]
    with attached(_SideBySide(models), COMPOSITES[composite]) as model:
        run = torch.compile(model, backend=backend, fullgraph=True) if backend else model
        given = torch.linspace(-1, 2, 3 * SIZE).view(3, SIZE)
        torch.autograd.backward(run(inputs), [given] * len(models))
    return [(x.grad, feedback_of(one)["w"]) for x, one in zip(inputs, models, strict=True)]


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_weight_times_a_constant_is_a_weight(composite: str, backend: str | None) -> None:
    """Its layer lost its rule without a word, and half of the reward when conserving."""
    (expected,) = _propagated([_Layer(lambda w, mask: w.tril())], composite, None)
    results = _propagated([_Layer(make) for make in MASKED.values()], composite, backend)
    for name, found in zip(MASKED, results, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda words, name=name: f"{name}: {words}")


def _after(target: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    write(target)
    return target


Pair = tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
WRITES: dict[str, Pair] = {  # weights written into constants (a clone of k) or weights, and the same out of place
    "add_": (lambda w, k: k.clone().add_(w), lambda w, k: k + w),
    "sub_": (lambda w, k: k.clone().sub_(w), lambda w, k: k - w),
    "mul_": (lambda w, k: k.clone().mul_(w), lambda w, k: k * w),
    "copy_": (lambda w, k: k.clone().copy_(w), lambda w, k: w.clone()),
    "all": (lambda w, k: _set(k.clone(), slice(None), w), lambda w, k: w.clone()),
    "a row": (lambda w, k: _set(k.clone(), 0, w[0]), lambda w, k: torch.cat([w[:1], k[1:]])),
    "a view": (lambda w, k: _after(k.clone(), lambda c: c.view(-1).add_(w.view(-1))), lambda w, k: k + w),
    "add_ to a row": (lambda w, k: _after(k.clone(), lambda c: c[0].add_(w[0])), lambda w, k: _stacked(k + w, k)),
    "mul_ of a row": (lambda w, k: _after(k.clone(), lambda c: c[0].mul_(w[0])), lambda w, k: _stacked(k * w, k)),
    "copy_ to a row": (lambda w, k: _after(k.clone(), lambda c: c[0].copy_(w[0])), lambda w, k: _stacked(w, k)),
    "a weight's row": (lambda w, k: _after(w * 2, lambda c: c[0].add_(k[0])), lambda w, k: _stacked(w * 2 + k, w * 2)),
    "a row by weights": (lambda w, k: _after(w * 2, lambda c: c[0].add_(w[0])), lambda w, k: _stacked(w * 3, w * 2)),
    "a view of a weight": (lambda w, k: _after(w * 2, lambda c: c.view(-1).add_(k.view(-1))), lambda w, k: w * 2 + k),
    "scatter_": (
        lambda w, k: torch.zeros(SIZE, SIZE).scatter_(1, torch.arange(SIZE)[:, None], w[:, :1]),
        lambda w, k: torch.diag(w[:, 0]),
    ),
    "index_put_": (
        lambda w, k: torch.zeros(SIZE, SIZE).index_put_((torch.arange(SIZE), torch.arange(SIZE)), w[:, 0]),
        lambda w, k: torch.diag(w[:, 0]),
    ),
}


def _stacked(first: Tensor, others: Tensor) -> Tensor:
    return torch.cat([first[:1], others[1:]])


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_weight_written_into_a_constant_is_a_weight(composite: str, backend: str | None) -> None:
    """A weight put together in place (symmetric, banded, circulant) lost its rule; compiled, even its gradient."""

    def layers(place: int) -> list[nn.Module]:
        makes = [pair[place] for pair in WRITES.values()]
        return [_Layer(lambda w, mask, make=make: make(w, 0.5 + mask[:SIZE, :SIZE] * 1.5)) for make in makes]

    written, plain = _propagated(layers(0), composite, backend), _propagated(layers(1), composite, None)
    for name, *pair in zip(WRITES, written, plain, strict=True):
        torch.testing.assert_close(*pair, **CLOSE, msg=lambda words, name=name: f"{name}: {words}")


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
def test_what_was_made_from_inputs_is_no_constant(backend: str | None) -> None:
    """A mask of the input's, however it was made: the weight in a product with it takes a share."""
    makes: dict[str, Callable[[Tensor], Tensor]] = {
        "itself": lambda x: x,
        "a part": lambda x: torch.cat([x[:1], x[1:]]),
        "compared": lambda x: (x > -9).double() * x,
        "written": lambda x: torch.zeros(3, SIZE).copy_(x),
        "written by index": lambda x: _set(torch.zeros(3, SIZE), slice(None), x),
        "without gradients": torch.no_grad()(lambda x: x + torch.zeros(3, SIZE)),
        "by a scalar": lambda x: torch.ones(3, SIZE) * x,
    }

    class Gate(nn.Module):
        def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.make, self.w, self.a = make, nn.Parameter(torch.ones(3, SIZE)), nn.Parameter(torch.ones(3, SIZE))

        def forward(self, x: Tensor) -> Tensor:
            scaled = self.w * self.make(x)  # an activation: conserving, it shares the reward with the other factor
            return scaled * F.linear(x, torch.eye(SIZE) * self.a[0])

    x = torch.linspace(-1, 1, 3 * SIZE).view(3, SIZE)
    expected = -torch.linspace(-1, 2, 3 * SIZE).view(3, SIZE) * x * x / 2
    results = _propagated([Gate(make) for make in makes.values()], "conserving", backend)
    for name, (_, found) in zip(makes, results, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda words, name=name: f"{name}: {words}")


def test_inputs_and_buffers_are_left_as_they_are() -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(SIZE))
            self.register_buffer("scale", torch.ones(SIZE))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = self.scale.double().contiguous()
            return self.w * scale.to(self.w) * x.double().contiguous().to(self.w).requires_grad_(False)

    x, model = torch.ones(3, SIZE), Returns()
    with attached(model):
        model(x).sum().backward()
        assert vars(x) == vars(model.scale) == {}
