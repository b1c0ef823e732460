"""What is remembered about a tensor ends with a write to its memory, whoever writes, and moves with its values."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from feedprop.credit import marks
from support.propagation import CLOSE, Call, feedback_of

pytestmark = pytest.mark.usefixtures("float64")

WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda x: x.mul_(2),
    "an item": lambda x: x.__setitem__(0, 1.0),
    "through a view": lambda x: x.view(-1)[1:].zero_(),
    "through .data of a view": lambda x: x.detach().fill_(1.0),
    "copy": lambda x: x.copy_(torch.ones(3)),
    "out": lambda x: torch.add(torch.ones(3), 1, out=x),
    "foreach": lambda x: torch._foreach_add_([x], 1.0),
}


@pytest.mark.parametrize("kind", marks.KINDS)
@pytest.mark.parametrize("name", WRITES)
def test_a_write_ends_a_mark(name: str, kind: str) -> None:
    x = torch.randn(3)
    view = x.view(3)
    for tensor in (x, view):
        marks.mark(tensor, kind, "remembered")
    assert [marks.get(tensor, kind) for tensor in (x, view)] == ["remembered"] * 2
    WRITES[name](x)
    assert [marks.get(tensor, kind) for tensor in (x, view)] == [None] * 2


def test_reading_ends_no_mark() -> None:
    x = torch.randn(3)
    marks.mark(x, marks.SOURCES, 1)
    x.sum(), x.clone().mul_(2), x.numpy(), x.view(-1)
    assert marks.get(x, marks.SOURCES) == 1


@pytest.mark.parametrize("kind", marks.KINDS)
def test_forget_forgets_everything(kind: str) -> None:
    x = torch.randn(3)
    marks.mark(x, kind, 1)
    marks.forget(x)
    assert marks.get(x, kind) is None
    assert vars(x) == {}


def test_parameters_are_not_marked() -> None:
    parameter = nn.Parameter(torch.randn(3))
    marks.mark(parameter, marks.WEIGHT, 1)
    assert vars(parameter) == {}
    assert marks.is_weight(parameter)


@pytest.mark.parametrize(
    "move", [torch.flatten, Tensor.clone, Tensor.t, lambda x: x[1:], lambda x: x.unbind()[0], lambda x: x.to(x.device)]
)
def test_a_mask_that_moves_is_still_a_step(move: Callable[[Tensor], Tensor]) -> None:
    def value(z: Tensor, *, move_first: bool) -> Tensor:
        mask = z > 0
        return move(mask).double() if move_first else move(mask.double())

    z = torch.randn(4, 4)
    found = []
    for first in (False, True):
        x = z.clone().requires_grad_()
        model = Call(lambda x, first=first: value(x * 1, move_first=first))
        with attached(model, rules.Composite(activation=rules.CentralDifference())):  # does not look at other values
            model(x).sum().backward()
        found.append(x.grad)
    assert (found[0] != 0).any()
    torch.testing.assert_close(*found, **CLOSE)


def test_masks_of_several_comparisons_move_together_only_if_all_are_marked() -> None:
    x = torch.randn(4, requires_grad=True)
    constant = torch.ones(4, dtype=torch.bool)
    with attached(Call(lambda x: torch.cat([x > 0, constant]).double() + 0 * x.repeat(2))) as model:
        model(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(4))


# --- a weight's mark ends with a write that makes an activation of it ---


class Begun(nn.Module):
    """Sums that begin with a parameter."""

    def __init__(self, form: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.start, self.layer, self.last = nn.Parameter(torch.randn(3)), nn.Linear(4, 3), nn.Linear(3, 2)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.form(self.start, self.layer(x)))


def _in_place(start: Tensor, y: Tensor) -> Tensor:
    total = start.expand(5, 3).clone()
    total += y
    return total


def _item_by_item(start: Tensor, y: Tensor) -> Tensor:
    total = start.expand(5, 3).clone()
    total[:] = total + y
    return total


def _through_a_view(start: Tensor, y: Tensor) -> Tensor:
    total = start.expand(5, 3).clone()
    total.view(15).add_(y.view(15))
    return total


def _copied(start: Tensor, y: Tensor) -> Tensor:
    total = start.expand(5, 3).clone()
    return total.copy_(start + y)


def _method(start: Tensor, y: Tensor) -> Tensor:
    return (start * 1).expand(5, 3).clone().add_(y)


FORMS = {"in place": _in_place, "items": _item_by_item, "view": _through_a_view, "copy": _copied, "method": _method}


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("name", FORMS)
def test_a_sum_begun_from_a_parameter_is_an_activation(name: str, epsilon: float) -> None:
    model, x, found = Begun(lambda start, y: start + y), torch.randn(5, 4), []
    for form in (lambda start, y: start + y, FORMS[name]):
        model.form = form
        model.zero_grad()
        with attached(model, rules.Composite(rules.Gamma(0.5), by_name={"layer": rules.Epsilon(epsilon)})):
            output = model(x)
            output.square().sum().backward()
        found.append((output.detach(), {key: f.clone() for key, f in feedback_of(model).items()}))
    torch.testing.assert_close(*found, **CLOSE)


def test_an_input_plus_a_parameter_is_an_activation() -> None:
    """Data is no weight: x + p carries credit, so the layer behind sees an input and not a second weight."""
    p, q = torch.randn(5, 4), torch.randn(4, 3)
    for data in (torch.randn(5, 4), torch.randn(5, 4, requires_grad=True)):
        model = Call(lambda x, p, q: (x + p) @ q, p=p, q=q)
        with attached(model, rules.Gamma(2.0)):
            model(data).square().sum().backward()
        reference = Call(lambda x, p, q: F.linear(x + p, q.T), p=p, q=q)
        with attached(reference, rules.Gamma(2.0)):
            reference(data).square().sum().backward()
        torch.testing.assert_close(feedback_of(model), feedback_of(reference), **CLOSE)
        plain = Call(lambda x, p, q: (x + p) @ q, p=p, q=q)
        with attached(plain, rules.Epsilon()):
            plain(data).square().sum().backward()
        assert not torch.allclose(feedback_of(plain)["q"], feedback_of(model)["q"])


def test_what_was_overwritten_is_no_mask() -> None:
    """A mask that was written to is a constant: its values are no longer those of a comparison."""

    def written(z: Tensor) -> Tensor:
        keep = z > 0
        keep[0] = True
        return keep.double() * 3 + 0 * z

    x = torch.randn(4, requires_grad=True)
    with attached(Call(written)) as model:
        model(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(4))
