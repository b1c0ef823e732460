"""Arithmetic has its ordinary backward in training: written out or fused, a function gets the same feedback."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from feedprop.operations import table
from feedprop.operations.spellings import spellings
from support import calls
from support.propagation import CLOSE, Call, randomised

pytestmark = pytest.mark.usefixtures("float64")

TARGETS = torch.tensor([0, 3, 7, 3, 1])
GIVEN = torch.linspace(-1.0, 1.0, 40, dtype=torch.float64).view(5, 8)
SOFT = GIVEN.softmax(1)


def _largest(h: Tensor) -> Tensor:
    return h.amax(1, keepdim=True).detach()


def _shifted(h: Tensor) -> Tensor:
    e = torch.exp(h - h.max(1, keepdim=True).values)
    return e / e.sum(1, keepdim=True)


def _variance(h: Tensor) -> Tensor:
    return (h - h.mean(1, keepdim=True)).square().mean(1, keepdim=True) + 1e-5


def _gaussian(h: Tensor) -> Tensor:
    mean, log_variance = h.chunk(2, 1)
    return (0.5 * (log_variance + (GIVEN[:, :4] - mean) ** 2 * torch.exp(-log_variance))).mean()


def _gaussian_fused(h: Tensor) -> Tensor:
    mean, log_variance = h.chunk(2, 1)
    return F.gaussian_nll_loss(mean, GIVEN[:, :4], log_variance.exp())


def _gaussian_by_deviation(h: Tensor) -> Tensor:
    mean, log_variance = h.chunk(2, 1)
    deviation = (log_variance / 2).exp()
    return (deviation.log() + ((GIVEN[:, :4] - mean) / deviation).pow(2) / 2).mean()


def _latent(h: Tensor) -> Tensor:  # of a variational autoencoder
    mean, log_variance = h.chunk(2, 1)
    return -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum()


def _latent_of_distributions(h: Tensor) -> Tensor:
    mean, log_variance = h.chunk(2, 1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp(), validate_args=False)
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()), validate_args=False)
    return torch.distributions.kl_divergence(normal, standard).sum()


# the same function in several spellings, the fused one first
SPELLINGS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "softmax": [
        lambda h: F.softmax(h, 1),
        lambda h: h.exp() / h.exp().sum(1, keepdim=True),
        _shifted,
        lambda h: torch.exp(h - torch.logsumexp(h, 1, keepdim=True)),
        lambda h: h.exp() * h.exp().sum(1, keepdim=True).reciprocal(),
        lambda h: 1 / torch.exp(h[:, None] - h[:, :, None]).sum(2),
    ],
    "log softmax": [
        lambda h: F.log_softmax(h, 1),
        lambda h: h.softmax(1).log(),
        lambda h: torch.log(_shifted(h)),
        lambda h: h - h.exp().sum(1, keepdim=True).log(),
        lambda h: h.softmax(1).log2() * math.log(2),
    ],
    "logsumexp": [
        lambda h: torch.logsumexp(h, 1),
        lambda h: h.exp().sum(1).log(),
        lambda h: (h - _largest(h)).exp().sum(1).log() + _largest(h)[:, 0],
        lambda h: -F.log_softmax(h, 1)[:, 0] + h[:, 0],
    ],
    "layer normalisation": [
        lambda h: F.layer_norm(h, (8,)),
        lambda h: (h - h.mean(1, keepdim=True)) / torch.sqrt(_variance(h)),
        lambda h: (h - h.mean(1, keepdim=True)) * _variance(h).rsqrt(),
        lambda h: (h - h.mean(1, keepdim=True)) * _variance(h) ** -0.5,
        lambda h: (h - h.mean(1, True)) * torch.exp(-0.5 * torch.log(h.var(1, correction=0, keepdim=True) + 1e-5)),
    ],
    "root mean square": [
        lambda h: F.rms_norm(h, (8,), eps=1e-5),
        lambda h: h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-5),
        lambda h: h / (h.norm(dim=1, keepdim=True) ** 2 / 8 + 1e-5).sqrt(),
    ],
    "unit length": [
        lambda h: F.normalize(h),
        lambda h: h / h.norm(dim=1, keepdim=True),
        lambda h: h * h.square().sum(1, keepdim=True).rsqrt(),
        lambda h: h / (h * h).sum(1, keepdim=True).sqrt(),
    ],
    "length": [
        lambda h: torch.linalg.vector_norm(h, dim=1),
        lambda h: h.square().sum(1).sqrt(),
        lambda h: (h * h).sum(1) ** 0.5,
        lambda h: h.abs().pow(2).sum(1).sqrt(),
    ],
    "cosine": [
        lambda h: F.cosine_similarity(h[:, :4], h[:, 4:]),
        lambda h: (F.normalize(h[:, :4]) * F.normalize(h[:, 4:])).sum(1),
        lambda h: (h[:, :4] * h[:, 4:]).sum(1) / (h[:, :4].norm(dim=1) * h[:, 4:].norm(dim=1)),
    ],
    "cross entropy": [
        lambda h: F.cross_entropy(h, TARGETS),
        lambda h: F.nll_loss(h.softmax(1).log(), TARGETS),
        lambda h: -h.softmax(1)[torch.arange(5), TARGETS].log().mean(),
        lambda h: -(F.one_hot(TARGETS, 8) * torch.log(h.exp() / h.exp().sum(1, keepdim=True))).sum(1).mean(),
        lambda h: (h.logsumexp(1) - h.gather(1, TARGETS[:, None])[:, 0]).mean(),
    ],
    "binary cross entropy": [
        lambda h: F.binary_cross_entropy_with_logits(h, SOFT),
        lambda h: (torch.log1p(h.exp()) - SOFT * h).mean(),
        lambda h: -(SOFT * F.logsigmoid(h) + (1 - SOFT) * F.logsigmoid(-h)).mean(),
        lambda h: -(SOFT * (1 / (1 + (-h).exp())).log() + (1 - SOFT) * (1 / (1 + h.exp())).log()).mean(),
    ],
    "Gaussian": [_gaussian_fused, _gaussian, _gaussian_by_deviation],
    "latent Gaussian": [_latent, _latent_of_distributions],
    "divergence": [
        lambda h: F.kl_div(F.log_softmax(h, 1), SOFT, reduction="batchmean"),
        lambda h: (SOFT * (SOFT.log() - h.softmax(1).log())).sum() / 5,
        lambda h: (SOFT * (SOFT / h.softmax(1)).log()).sum() / 5,
    ],
    "divergence, turned": [
        lambda h: F.kl_div(SOFT.log().expand(5, 8), F.log_softmax(h, 1), reduction="batchmean", log_target=True),
        lambda h: (h.softmax(1) * (h.softmax(1).log() - SOFT.log())).sum() / 5,
    ],
    "entropy": [
        lambda h: torch.special.entr(h.softmax(1)).sum(),
        lambda h: -(h.softmax(1) * F.log_softmax(h, 1)).sum(),
        lambda h: torch.distributions.Categorical(logits=h, validate_args=False).entropy().sum(),
    ],
    "logarithms of energies": [  # as of a spectrogram
        lambda h: torch.log1p(h.square()),
        lambda h: torch.log(1 + h * h),
        lambda h: (h**2 + 1).log10() * math.log(10),
        lambda h: torch.logaddexp(torch.zeros(()), h.square().log()),
    ],
    "squared error": [
        lambda h: F.mse_loss(h, GIVEN),
        lambda h: ((h - GIVEN) ** 2).mean(),
        lambda h: (h - GIVEN).norm().square() / 40,
    ],
    "distance": [
        lambda h: torch.cdist(h[None], GIVEN[None])[0],
        lambda h: (h[:, None] - GIVEN).square().sum(2).sqrt(),
        lambda h: (h[:, None] - GIVEN).norm(dim=2),
    ],
    "log cosh": [
        lambda h: h.cosh().log(),
        lambda h: torch.logaddexp(h, -h) - math.log(2),
        lambda h: ((h.exp() + torch.exp(-h)) / 2).log(),
    ],
    "rounded absolute value": [
        lambda h: torch.hypot(h, torch.ones(())),
        lambda h: (h.square() + 1).sqrt(),
        lambda h: torch.sqrt(1 + h * h),
    ],
    "double angle": [lambda h: torch.sin(2 * h), lambda h: 2 * h.sin() * h.cos(), lambda h: 2 * h.tan() * h.cos() ** 2],
    "powers": [lambda h: h.abs() ** 1.5, lambda h: (1.5 * h.abs().log()).exp(), lambda h: h.abs().pow(3).sqrt()],
}  # fmt: skip
EACH = [(name, number) for name, written in SPELLINGS.items() for number in range(len(written))]


class Headed(nn.Module):
    """A network of rectifiers with a function at its end."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layers(x))


@pytest.mark.parametrize(("name", "number"), EACH, ids=[f"{name} {number}" for name, number in EACH])
def test_each_spelling_gets_weight_times_the_gradient_of_the_fused_one(name: str, number: int) -> None:
    fused, written = SPELLINGS[name][0], SPELLINGS[name][number]
    model, x = randomised(Headed(fused)), torch.randn(5, 6)
    plain = model(x)
    credit = torch.randn_like(plain)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(plain, parameters, credit)
    expected = [g * p.detach().abs() for g, p in zip(gradients, parameters, strict=True)]
    model.function = written
    value = model(x).detach()
    torch.testing.assert_close(value, plain.detach(), **CLOSE)
    with attached(model, rules.Epsilon()):
        output = model(x)
    assert torch.equal(output, value)
    output.backward(credit)
    torch.testing.assert_close([p.grad for p in parameters], expected, rtol=1e-8, atol=1e-11)


SAMPLES: dict[str, Callable[[Tensor], torch.distributions.Distribution]] = {
    "normal": lambda h: torch.distributions.Normal(h, h.exp()),
    "gamma": lambda h: torch.distributions.Gamma(h.exp(), torch.exp(-h)),
    "chi-squared": lambda h: torch.distributions.Chi2(h.exp()),
    "Fisher": lambda h: torch.distributions.FisherSnedecor(h.exp(), 1 + h.exp()),
    "Student": lambda h: torch.distributions.StudentT(1 + h.exp(), h),
    "beta": lambda h: torch.distributions.Beta(h.exp(), 1 + h.exp()),
    "Dirichlet": lambda h: torch.distributions.Dirichlet(h.exp()),
    "relaxed": lambda h: torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.5), logits=h),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_pass_the_gradient_of_their_reparametrisation(name: str) -> None:
    def sampled(h: Tensor) -> Tensor:
        torch.manual_seed(0)
        return SAMPLES[name](h).rsample()

    model, x = randomised(Headed(sampled)), torch.randn(5, 6)
    plain = model(x)
    credit, parameters = torch.randn_like(plain), list(model.parameters())
    gradients = torch.autograd.grad(plain, parameters, credit)
    with attached(model, rules.Epsilon()):
        output = model(x)
    assert torch.equal(output, plain)
    output.backward(credit)
    expected = [g * p.detach().abs() for g, p in zip(gradients, parameters, strict=True)]
    torch.testing.assert_close([p.grad for p in parameters], expected, rtol=1e-8, atol=1e-11)


class Contrastive(nn.Module):
    """NT-Xent of two views (Chen et al. 2020, SimCLR, eq. 1), written out in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        z = torch.cat([self.layers(first), self.layers(second)])
        z = z / z.norm(dim=1, keepdim=True)
        similar = torch.exp(z @ z.T / 0.5)
        n = len(first)
        positive = torch.cat([similar.diagonal(n), similar.diagonal(-n)])
        others = similar.sum(1) - similar.diagonal()
        return -(positive / others).log().mean()


def test_a_contrastive_loss_written_in_forward_falls() -> None:
    model, x = Contrastive(), torch.randn(32, 8)
    first, second = (x + 0.3 * torch.randn(32, 8) for _ in range(2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    with attached(model):
        for _ in range(50):
            optimizer.zero_grad()
            loss = model(first, second)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


CALLED = [name for name, value in calls.ARITHMETIC.items() if value != "elsewhere"]


@pytest.mark.parametrize("name", CALLED)
def test_conserving_it_passes_by_its_secant(name: str) -> None:
    function = next(spellings(name))
    x = calls.domain(name, torch.randn(3, 4)).requires_grad_()
    with attached(Call(lambda x: function(x * 1.0)), rules.presets.conserving()) as model:
        output = model(x)
    y, credit = function(x.detach()), torch.randn(3, 4)
    assert torch.equal(output, y)
    output.backward(credit)
    (limits,) = (limits for names, limits in table.ARITHMETIC.items() if name in names.split())
    torch.testing.assert_close(x.grad, credit * (y - limits()[0]) / x.detach(), **CLOSE)


NO_LIMIT = """log log2 log10 logit acosh arccosh lgamma gammaln digamma psi ndtri bessel_y0 bessel_y1
    modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", [name for names in table.ARITHMETIC for name in names.split()])
def test_limits_at_zero_are_right(name: str) -> None:
    (limits,) = (limits for names, limits in table.ARITHMETIC.items() if name in names.split())
    near = next(spellings(name))(torch.tensor([-1e-9, 1e-9]))
    if name in NO_LIMIT:  # 0 stands for it; the first digits of infinity differ
        assert not (near.abs() < 5).all()
        assert limits() == (0.0, 0.0)
    else:
        expected = [y for y in near.tolist() if math.isfinite(y)]  # defined on one side or both
        assert expected
        assert limits()[: len(expected)] == pytest.approx(expected, abs=1e-7)
