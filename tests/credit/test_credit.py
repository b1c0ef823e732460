"""The autograd primitives one by one: values stay as they are, the backward pass alone changes."""

import pytest
import torch
from torch import Tensor

from feedprop import credit
from support.propagation import CLOSE

pytestmark = pytest.mark.usefixtures("float64")

Z = [-2.0, -0.5, 0.0, 0.5, 3.0]


def _passed(function, z: Tensor, arriving: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the value and what comes back for credit 1 (or `arriving`)."""
    leaf = z.clone().requires_grad_()
    output = function(leaf)
    output.backward(torch.ones_like(output) if arriving is None else arriving)
    return output.detach(), leaf.grad


@pytest.mark.parametrize(
    ("magnitude", "expected"),
    [
        (credit.Magnitude(), [2.0, 0.5, 0.0, 0.5, 3.0]),
        (credit.Magnitude(floor=0.7), [2.0, 0.7, 0.7, 0.7, 3.0]),
        # rms = sqrt((4 + 0.25 + 0 + 0.25 + 9) / 5) = sqrt(2.7)
        (credit.Magnitude(relative=True), [size / 2.7**0.5 for size in (2.0, 0.5, 0.0, 0.5, 3.0)]),
        (credit.Magnitude(floor=0.7, relative=True), [2 / 2.7**0.5, 0.7, 0.7, 0.7, 3 / 2.7**0.5]),
    ],
    ids=str,
)
def test_magnitude_by_hand(magnitude: credit.Magnitude, expected: list[float]) -> None:
    value, found = _passed(lambda w: credit.weighted(w, magnitude), torch.tensor(Z))
    assert value.tolist() == Z
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_relative_magnitude_of_zeros_is_the_floor(floor: float) -> None:
    _, found = _passed(lambda w: credit.weighted(w, credit.Magnitude(floor, relative=True)), torch.zeros(3))
    assert found.tolist() == [floor] * 3


def test_damped_by_hand() -> None:
    # |z| / (|z| + 0.5) = 2/2.5, 0.5/1, 0, 0.5/1, 3/3.5
    value, found = _passed(lambda z: credit.damped(z, 0.5), torch.tensor(Z))
    assert value.tolist() == Z
    torch.testing.assert_close(found, torch.tensor([0.8, 0.5, 0.0, 0.5, 6 / 7]))


def test_without_epsilon_nothing_is_added_to_the_graph() -> None:
    z = torch.tensor(Z, requires_grad=True)
    assert credit.damped(z, 0.0) is z
    constant = torch.tensor(Z)
    assert credit.damped(constant, 0.5) is constant
    assert not credit.damped(constant, 0.5).requires_grad


def test_damping_keeps_its_digits_near_zero() -> None:
    _, found = _passed(lambda z: credit.damped(z, 1.0), torch.tensor([1e-12, -1e-12, 1e-200]))
    torch.testing.assert_close(found, torch.tensor([1e-12, 1e-12, 1e-200]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_secant_by_hand(epsilon: float) -> None:
    # phi(z) = z + 1: (z + 1) / (z + epsilon sign z); at 0 nothing without epsilon, 1 / 0.5 with it
    value, found = _passed(lambda z: credit.secant(lambda z: z + 1, credit.damped(z, epsilon)), torch.tensor(Z))
    assert value.tolist() == [-1.0, 0.5, 1.0, 1.5, 4.0]
    expected = {0.0: [0.5, -1.0, 0.0, 3.0, 4 / 3], 0.5: [0.4, -0.5, 2.0, 1.5, 8 / 7]}[epsilon]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_secant_needs_no_derivative() -> None:
    value, found = _passed(lambda z: credit.secant(torch.sign, z), torch.tensor(Z))
    assert value.tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
    torch.testing.assert_close(found, torch.tensor([0.5, 2.0, 0.0, 2.0, 1 / 3]))


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_damped_relu_is_relu_and_damping(epsilon: float) -> None:
    value, found = _passed(lambda z: credit.damped_relu(credit.damped(z, epsilon)), torch.tensor(Z))
    assert value.tolist() == [0.0, 0.0, 0.0, 0.5, 3.0]
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 0.5 / (0.5 + epsilon), 3 / (3 + epsilon)]))


def test_scaled_by_hand() -> None:
    value, found = _passed(lambda z: credit.scaled(z, 0.25), torch.tensor(Z))
    assert value.tolist() == Z
    assert found.tolist() == [0.25] * 5


def test_credit_enters_with_a_minus() -> None:
    outputs = torch.tensor([1.0, 2.0], requires_grad=True)
    value = credit.start_backward(torch.tensor(3.0), outputs, torch.tensor([5.0, -6.0]), size=2)
    (4 * value).backward()
    assert value.item() == -1.5
    assert outputs.grad.tolist() == [-10.0, 12.0]


@pytest.mark.parametrize("source", ["damped", "secant"])
def test_what_is_written_to_keeps_what_it_needs(source: str) -> None:
    def plain(z: Tensor) -> Tensor:
        return credit.damped(z, 0.5) if source == "damped" else credit.secant(lambda z: z**3, z)

    def written(z: Tensor) -> Tensor:
        output = plain(z.clone())
        credit.prepare_write(output)
        return output.mul_(7.0)

    value, found = _passed(written, torch.tensor(Z))
    expected, at_z = _passed(plain, torch.tensor(Z))
    torch.testing.assert_close(value, 7 * expected, **CLOSE)
    torch.testing.assert_close(found, 7 * at_z, **CLOSE)


def test_two_writes_to_one_relu_are_refused() -> None:
    z = credit.damped(torch.tensor(Z, requires_grad=True) * 1.0, 0.5)
    credit.relu_in_place(z)
    z.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by"):
        z.sum().backward()


@pytest.mark.parametrize("watch", ["hook", "retain_grad"])
@pytest.mark.parametrize("activation", [lambda z: credit.secant(torch.tanh, z), credit.damped_relu])
def test_credit_of_a_damped_sum_is_seen_by_who_watches_it(activation, watch: str) -> None:
    seen, leaf = [], torch.tensor(Z, requires_grad=True)
    z = credit.damped(leaf * 1.0, 0.5)
    z.register_hook(seen.append) if watch == "hook" else z.retain_grad()
    activation(z).sum().backward()
    (at_z,) = seen or [z.grad]
    expected, at_leaf = _passed(activation, torch.tensor(Z))[1], leaf.grad
    torch.testing.assert_close(at_z, expected, **CLOSE)
    torch.testing.assert_close(at_leaf, at_z * _passed(lambda z: credit.damped(z, 0.5), torch.tensor(Z))[1], **CLOSE)
