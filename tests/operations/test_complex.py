"""Complex numbers: values are kept, credit is conjugated as torch's gradients are, parameters take |w| times theirs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from feedprop import attached, rules
from support.propagation import CLOSE, Call

pytestmark = pytest.mark.usefixtures("float64")

COMPOSITES = {
    "secant": rules.Composite(),
    "difference": rules.Composite(activation=rules.CentralDifference()),
    "floor": rules.Composite(magnitude_floor=0.5),
    "relative": rules.Composite(relative_magnitude=True, magnitude_floor=0.3),
}


def _magnitude(weight: Tensor, composite: rules.Composite) -> Tensor:
    size = weight.abs()
    if composite.relative_magnitude:
        size = size / size.square().mean().sqrt()
    return size.clamp(min=composite.magnitude_floor)


def _gradients(model: nn.Module, x: Tensor, given: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    found = torch.autograd.grad(output, [x, *model.parameters()], given)
    return output, list(found[1:]), found[0]


def _spectral(x: Tensor, w: Tensor) -> Tensor:
    """The convolution of a Fourier neural operator (Li et al. 2021): the lowest frequencies, mixed over channels."""
    spectrum = torch.fft.rfft(x)
    mixed = torch.zeros(len(x), w.shape[1], spectrum.shape[-1], dtype=spectrum.dtype)
    mixed[:, :, : w.shape[-1]] = torch.einsum("bix,iox->box", spectrum[:, :, : w.shape[-1]], w)
    return torch.fft.irfft(mixed, n=x.shape[-1])


def _written(view: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Autograd makes the nodes of the view anew once it is written to."""

    def function(x: Tensor, w: Tensor) -> Tensor:
        found = view(torch.complex(x, x.flip(1)) * w)
        found[0] = 0.4
        return torch.view_as_real(found.resolve_conj()).sum(-1) if found.is_complex() else found

    return function


LINEAR: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "Fourier neural operator": (_spectral, (5, 3, 8), (3, 2, 4)),
    "matrix": (lambda x, w: torch.fft.irfft(torch.fft.rfft(x) @ w, 4), (5, 4), (3, 3)),
    "elementwise": (lambda x, w: torch.fft.irfft(torch.fft.rfft(x) * w, 4), (5, 4), (3,)),
    "conjugated": (lambda x, w: torch.fft.irfft(torch.fft.rfft(x) * w.conj(), 4), (5, 4), (3,)),
    "real part": (lambda x, w: (torch.complex(x, x.flip(1)) * w).real, (5, 4), (4,)),
    "imaginary part": (lambda x, w: (torch.complex(x, x.flip(1)) @ w).imag, (5, 4), (4, 2)),
    "as real": (lambda x, w: torch.view_as_real(torch.complex(x, x.flip(1)) * w).sum(-1), (5, 4), (4,)),
    "real part, written": (_written(lambda z: z.real), (5, 4), (4,)),
    "imaginary part, written": (_written(lambda z: z[1:].imag.T), (5, 4), (4,)),
    "as real, written": (_written(torch.view_as_real), (5, 4), (4,)),
    "conjugate, written": (_written(lambda z: z.conj()), (5, 4), (4,)),
    "imaginary part of the conjugate, written": (_written(lambda z: z.conj().imag), (5, 4), (4,)),
    "as complex, written": (_written(lambda z: torch.view_as_complex(torch.view_as_real(z) * 2.0)), (5, 4), (4,)),
    "magnitude": (lambda x, w: (torch.complex(x, x.flip(1)) * w).abs(), (5, 4), (4,)),
    "state space": (lambda x, w: (w.exp() * torch.complex(x, x.flip(1))).real, (5, 4), (4,)),
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", LINEAR)
def test_a_complex_parameter_takes_its_magnitude_times_its_gradient(name: str, composite: str) -> None:
    function, shape, size = LINEAR[name]
    model, x = Call(function, w=torch.randn(size, dtype=torch.complex128)), torch.randn(shape)
    given = torch.randn_like(model(x))
    output, (gradient,), at_inputs = _gradients(model, x, given)
    with attached(model, COMPOSITES[composite]):
        found = _gradients(model, x, given)
    assert torch.equal(found[0], output)
    torch.testing.assert_close(found[1][0], _magnitude(model.w.detach(), COMPOSITES[composite]) * gradient, **CLOSE)
    torch.testing.assert_close(found[2], at_inputs, **CLOSE)


ABSOLUTE = {
    "training": rules.Composite(),
    "difference": rules.Composite(activation=rules.CentralDifference()),
    "conserving": rules.presets.conserving(),
}


@pytest.mark.parametrize("composite", ABSOLUTE)
def test_the_absolute_value_teaches_both_parts(composite: str) -> None:
    """|z| is of degree 1, so credit passes it as its gradient does: z / |z| as torch writes it."""

    class Polar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.complex(self.a(x), self.b(x)).abs()

    model, x, given = Polar(), torch.randn(5, 4), torch.randn(5, 3)
    _, gradients, _ = _gradients(model, x, given)
    with attached(model, ABSOLUTE[composite]):
        _, found, _ = _gradients(model, x, given)
    for parameter, gradient, feedback in zip(model.parameters(), gradients, found, strict=True):
        torch.testing.assert_close(feedback, parameter.detach().abs() * gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_products_with_a_complex_weight_are_damped(epsilon: float) -> None:
    """z = h w is damped by |z| / (|z| + epsilon), with the absolute value of the complex z."""
    w, x = torch.randn(3, dtype=torch.complex128), torch.randn(5, 4)
    given = torch.randn(5, 4)
    spectrum = torch.fft.rfft(x)
    z = (spectrum * w).requires_grad_()
    (credit,) = torch.autograd.grad(torch.fft.irfft(z, 4), z, given)
    size = z.detach().abs()
    credit = credit * size / (size + epsilon)
    expected = w.abs() * (credit * spectrum.conj()).sum(0)
    model = Call(lambda x, w: torch.fft.irfft(torch.fft.rfft(x) * w, 4), w=w)
    with attached(model, rules.Epsilon(epsilon)):
        _, (found,), _ = _gradients(model, x, given)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    "function",
    [torch.tanh, torch.exp, torch.sin, torch.sigmoid, torch.square],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_complex_functions_keep_their_values_and_the_direction_of_credit(function: Callable[[Tensor], Tensor]) -> None:
    w = torch.randn(4, dtype=torch.complex128) * 0.1
    model, x = Call(lambda x, w: function(x * w).real, w=w), torch.randn(5, 4)
    given = torch.randn(5, 4)
    output, (gradient,), _ = _gradients(model, x, given)
    with attached(model):
        found, (feedback,), _ = _gradients(model, x, given)
    assert torch.equal(found, output)
    assert torch.isfinite(torch.view_as_real(feedback)).all()
    cosine = torch.cosine_similarity(
        torch.view_as_real(feedback / w.abs()).flatten(), torch.view_as_real(gradient).flatten(), dim=0
    )
    assert cosine > 0.9


def test_a_fourier_block_learns() -> None:
    torch.manual_seed(1)
    x = torch.randn(64, 1, 16)
    target = torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfftfreq(16) * 2j, 16)  # about the derivative
    model = Call(_spectral, w=torch.randn(1, 1, 9, dtype=torch.complex128) * 0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    with attached(model, rules.Composite(magnitude_floor=0.1)):
        for _ in range(200):
            optimizer.zero_grad()
            loss = (model(x) - target).square().sum() / len(x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


SLOPES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tanh": (torch.tanh, lambda z: z.tanh() / z),
    "sgn": (torch.sgn, lambda z: 1 / (z.abs() + 0.1 * z.abs().square().mean().sqrt())),
}


@pytest.mark.parametrize("name", SLOPES)
def test_a_damped_complex_sum_passes_the_secant(name: str) -> None:
    """For complex numbers, the sign that epsilon gets is z / |z|."""
    function, slope = SLOPES[name]
    z, given = torch.randn(6, 4, dtype=torch.complex128), torch.randn(6, 4, dtype=torch.complex128)
    leaf = z.clone().requires_grad_()
    with attached(Call(lambda z: function(z + 0.1)), rules.Composite(rules.Epsilon(0.3))) as model:
        model(leaf).backward(given)
    z = z + 0.1
    expected = given * slope(z).conj() * z.abs() / (z.abs() + 0.3)
    torch.testing.assert_close(leaf.grad, expected, **CLOSE)


@pytest.mark.parametrize(
    "composite",
    [rules.presets.training(), rules.presets.published(), rules.presets.conserving(0.3)],
    ids=["training", "published", "conserving"],
)
@pytest.mark.parametrize("function", [torch.tanh, torch.sigmoid, torch.sgn, torch.abs, torch.angle])
def test_complex_activations_pass_finite_credit_at_0(function: Callable, composite: rules.Composite) -> None:
    z = torch.tensor([0.0, 1.0 + 2.0j, -0.5j]).to(torch.complex128).requires_grad_()
    with attached(Call(lambda z: function(z * 1.0 + 0.0)), composite) as model:
        output = model(z)
        output.backward(torch.ones_like(output))
    assert torch.equal(output, function(z))
    assert z.grad.isfinite().all()
    assert z.grad[1:].abs().gt(0).all()
