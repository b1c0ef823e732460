"""Normalisations as modules, functions and written by hand: the ordinary backward, or with a constant divisor."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from support.propagation import CLOSE, Call, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

CONSERVING = rules.presets.conserving()
SHAPE = (3, 4, 6)


def _by_hand(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


def _convnext(x: Tensor) -> Tensor:  # torchvision's and ConvNeXt's
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)


def _root(x: Tensor) -> Tensor:  # Hugging Face's
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def _bert(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) * (variance + 1e-5).rsqrt()


def _gemma(x: Tensor) -> Tensor:
    return (x.float() * torch.pow((x * x).mean(-1, keepdim=True) + 1e-5, -0.5).float()).to(x.dtype)


LAYER, ROOT = lambda x: F.layer_norm(x, (6,)), lambda x: F.rms_norm(x, (6,), eps=1e-5)
WRITTEN = {
    "layer norm, std": (LAYER, _by_hand, CLOSE),
    "layer norm, pow": (LAYER, _convnext, CLOSE),
    "layer norm, var_mean": (LAYER, _bert, CLOSE),
    "root mean square, rsqrt": (ROOT, _root, CLOSE),
    "root mean square, reciprocal": (ROOT, lambda x: x * ((x**2).mean(-1, True) + 1e-5).sqrt().reciprocal(), CLOSE),
    "root mean square, one over": (ROOT, lambda x: x * (1 / (x.square().mean(-1, True) + 1e-5).sqrt()), CLOSE),
    "root mean square, cast": (ROOT, _gemma, {"rtol": 1e-4, "atol": 1e-5}),  # in float32 on the way
    "length": (lambda x: F.normalize(x, dim=-1), lambda x: x / x.norm(dim=-1, keepdim=True), CLOSE),
    "length, squared": (lambda x: F.normalize(x, dim=-1), lambda x: x / (x * x).sum(-1, True).sqrt(), CLOSE),
}


def _run(function, x: Tensor, composite, credit: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    with attached(Call(lambda x: function(x * 1.0)), composite) as model:
        output = model(leaf)
    output.backward(credit)
    return output.detach(), leaf.grad


@pytest.mark.parametrize("composite", [None, CONSERVING], ids=["training", "conserving"])
@pytest.mark.parametrize("name", WRITTEN)
def test_hand_written_equals_function(name: str, composite) -> None:
    function, written, tolerance = WRITTEN[name]
    x, credit = torch.randn(SHAPE), torch.randn(SHAPE)
    expected = _run(function, x, composite, credit)
    torch.testing.assert_close(_run(written, x, composite, credit), expected, **tolerance)


MODULES = {
    "layer": (lambda: nn.LayerNorm(6), lambda n, c, i: (slice(n, n + 1), slice(c, c + 1), slice(None))),
    "layer, two dimensions": (lambda: nn.LayerNorm((4, 6)), lambda n, c, i: (slice(n, n + 1),)),
    "root mean square": (lambda: nn.RMSNorm(6), lambda n, c, i: (slice(n, n + 1), slice(c, c + 1))),
    "groups": (lambda: nn.GroupNorm(2, 4), lambda n, c, i: (slice(n, n + 1), slice(c // 2 * 2, c // 2 * 2 + 2))),
    "instance": (
        lambda: nn.InstanceNorm1d(4, affine=True),
        lambda n, c, i: (slice(n, n + 1), slice(c, c + 1)),
    ),
    "batch": (lambda: nn.BatchNorm1d(4), lambda n, c, i: (slice(None), slice(c, c + 1))),
    "batch, running": (lambda: nn.BatchNorm1d(4).eval(), None),
}


def _oracle(module: nn.Module, region, x: Tensor, credit: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Credit at the inputs and feedback, one element at a time, what is divided by being a constant."""
    at_inputs = torch.zeros_like(x)
    feedback = torch.zeros_like(module.weight), torch.zeros_like(module.weight)
    output = module(x).detach()
    centred = not isinstance(module, nn.RMSNorm)
    for index in itertools.product(*map(range, x.shape)):
        where = index[-module.weight.dim() :] if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) else index[1:2]
        weight = module.weight.detach()[where]
        arriving = credit[index] * abs(output[index]) / (abs(output[index]) + epsilon)
        if region is None:
            mean, square = module.running_mean[index[1]], module.running_var[index[1]]
        else:
            part = x[region(*index)]
            mean = part.mean() if centred else 0.0
            square = (part - mean).square().mean()
        deviation = (square + (module.eps or torch.finfo(x.dtype).eps)) ** 0.5
        at_inputs[index] += arriving * weight / deviation
        if region is not None and centred:
            at_inputs[region(*index)] -= arriving * weight / deviation / part.numel()
        feedback[0][where] -= arriving * abs(weight) * (x[index] - mean) / deviation
        feedback[1][where] -= arriving * (abs(module.bias.detach()[where]) if hasattr(module, "bias") else 0.0)
    return at_inputs, *feedback


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("name", MODULES)
def test_conserving_normalisations_by_loops(name: str, epsilon: float) -> None:
    make, region = MODULES[name]
    module, x, credit = randomised(make()), torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    with torch.no_grad():
        at_inputs, weight, bias = _oracle(module, region, x.detach(), credit, epsilon)
    with attached(Call(lambda x: module(x * 1.0)), rules.Composite(rules.Epsilon(epsilon), conserving=True)) as model:
        model(x).backward(credit)
    torch.testing.assert_close(x.grad, at_inputs, **CLOSE)
    torch.testing.assert_close(feedback_of(module)["weight"], weight, **CLOSE)
    if hasattr(module, "bias"):
        torch.testing.assert_close(feedback_of(module)["bias"], bias, **CLOSE)


@pytest.mark.parametrize("name", MODULES)
def test_in_training_normalisations_have_minus_w_times_gradient(name: str) -> None:
    module, x, credit = randomised(MODULES[name][0]()), torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    (at_inputs, *gradients) = torch.autograd.grad(module(x), [x, *module.parameters()], credit)
    with attached(module, rules.Epsilon()):
        output = module(x)
    output.backward(credit)
    torch.testing.assert_close(x.grad, at_inputs, **CLOSE)
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * parameter.detach().abs(), **CLOSE)


@pytest.mark.parametrize("name", [*sorted(set(MODULES) - {"batch, running"}), "local response"])
def test_conserving_normalisations_without_offset_hand_on_all_reward(name: str) -> None:
    module = nn.LocalResponseNorm(2) if name == "local response" else randomised(MODULES[name][0]())
    if hasattr(module, "bias"):
        nn.init.zeros_(module.bias)
    x, given = torch.randn(SHAPE), torch.randn(SHAPE)
    output = module(x).detach()
    with attached(Call(lambda x: module(x * 1.0)), CONSERVING) as model:
        x = x.requires_grad_()
        model(x).backward(given / output)
    torch.testing.assert_close((x * x.grad).sum().detach(), given.sum(), **CLOSE)


def test_layer_norm_by_hand() -> None:
    # x = (1, 3), mean 2, deviation 1 (eps 0): y = w (x - 2) = (-2, 3) with w = (2, 3); credit (1, 1) at y:
    # 2 and 3 at (x - 2), less their mean 2.5: (-0.5, 0.5); rewards -0.5 + 1.5 = 1 = -2 + 3
    x = torch.tensor([1.0, 3.0])
    _, credit = _run(lambda x: F.layer_norm(x, (2,), torch.tensor([2.0, 3.0]), eps=0.0), x, CONSERVING, torch.ones(2))
    torch.testing.assert_close(credit, torch.tensor([-0.5, 0.5]), **CLOSE)


def test_values_are_those_of_the_function_in_half_precision() -> None:
    module, x = nn.LayerNorm(6).bfloat16(), torch.randn(3, 6, dtype=torch.bfloat16, requires_grad=True)
    with attached(Call(lambda x: module(x * 1.0)), CONSERVING) as model:
        output = model(x)
    torch.testing.assert_close(output, module(x), rtol=0, atol=0)


def test_cosine_similarity_conserves() -> None:
    a, b, given = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True), torch.randn(3)
    with attached(Call(lambda a, b: F.cosine_similarity(a * 1.0, b * 1.0)), CONSERVING) as model:
        output = model(a, b)
    torch.testing.assert_close(output, F.cosine_similarity(a, b), **CLOSE)
    output.backward(given / output.detach())
    for x in (a, b):
        torch.testing.assert_close((x * x.grad).sum(1).detach(), given / 2, **CLOSE)
    plain, leaves = F.cosine_similarity(a, b), [x.detach().clone().requires_grad_() for x in (a, b)]
    with attached(Call(lambda a, b: F.cosine_similarity(a * 1.0, b * 1.0))) as model:
        model(*leaves).backward(given)
    expected = torch.autograd.grad(plain, (a, b), given)
    torch.testing.assert_close([leaf.grad for leaf in leaves], list(expected), **CLOSE)


SPELLINGS = {
    # each in several spellings of x, weight, bias, running mean and running variance
    "layer": [
        lambda x, w, b, m, v: F.layer_norm(x, (6,), w, b, 1e-3),
        lambda x, w, b, m, v: torch.layer_norm(x, (6,), w, b, 1e-3),
        lambda x, w, b, m, v: torch.layer_norm(input=x, normalized_shape=(6,), bias=b, weight=w, eps=1e-3),
        lambda x, w, b, m, v: torch.native_layer_norm(x, (6,), w, b, 1e-3)[0],
        lambda x, w, b, m, v: torch.func.functional_call(nn.LayerNorm(6, 1e-3), {"weight": w, "bias": b}, (x,)),
        lambda x, w, b, m, v: (x - x.mean(-1, True)) / (x.var(-1, correction=0, keepdim=True) + 1e-3).sqrt() * w + b,
    ],
    "root mean square": [
        lambda x, w, b, m, v: F.rms_norm(x, (6,), w, 1e-3),
        lambda x, w, b, m, v: torch.rms_norm(x, (6,), w, 1e-3),
        lambda x, w, b, m, v: F.rms_norm(input=x, normalized_shape=[6], eps=1e-3, weight=w),
        lambda x, w, b, m, v: torch.func.functional_call(nn.RMSNorm(6, 1e-3), {"weight": w}, (x,)),
        lambda x, w, b, m, v: x * (x.square().mean(-1, keepdim=True) + 1e-3).pow(torch.tensor(-0.5)) * w,
    ],
    "groups": [
        lambda x, w, b, m, v: F.group_norm(x, 2, w, b, 1e-3),
        lambda x, w, b, m, v: torch.group_norm(x, 2, w, b, 1e-3),
        lambda x, w, b, m, v: F.group_norm(x, bias=b, weight=w, eps=1e-3, num_groups=2),
        lambda x, w, b, m, v: torch.native_group_norm(x, w, b, 5, 6, 3, 2, 1e-3)[0],
        lambda x, w, b, m, v: torch.func.functional_call(nn.GroupNorm(2, 6, 1e-3), {"weight": w, "bias": b}, (x,)),
    ],
    "batch": [
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, True, 0.1, 1e-3),
        lambda x, w, b, m, v: torch.batch_norm(x, w, b, m, v, True, 0.1, 1e-3, False),
        lambda x, w, b, m, v: torch.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-3)[0],
        lambda x, w, b, m, v: F.batch_norm(x, None, None, eps=1e-3, training=True, weight=w, bias=b),
        lambda x, w, b, m, v: torch.func.functional_call(nn.BatchNorm1d(6, 1e-3), {"weight": w, "bias": b}, (x,)),
    ],
    "batch, running": [
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, False, 0.1, 1e-3),
        lambda x, w, b, m, v: torch.batch_norm(x, w, b, m, v, False, 0.1, 1e-3, False),
        lambda x, w, b, m, v: torch.native_batch_norm(x, w, b, m, v, False, 0.1, 1e-3)[0],
        lambda x, w, b, m, v: F.instance_norm(x, m, v, w, b, False, 0.1, 1e-3),
        lambda x, w, b, m, v: torch.instance_norm(x, w, b, m, v, False, 0.1, 1e-3, False),
    ],
    "instance": [
        lambda x, w, b, m, v: F.instance_norm(x, None, None, w, b, True, 0.1, 1e-3),
        lambda x, w, b, m, v: F.instance_norm(x, m, v, w, b, eps=1e-3),
        lambda x, w, b, m, v: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-3, False),
        lambda x, w, b, m, v: torch.group_norm(x, 6, w, b, 1e-3),
    ],
}  # fmt: skip


@pytest.mark.parametrize("composite", [rules.Composite(), CONSERVING], ids=["training", "conserving"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_passes_the_same_credit(name: str, composite: rules.Composite) -> None:
    shape = (5, 4, 6) if name in ("layer", "root mean square") else (5, 6, 3)
    x, credit, statistics = torch.randn(shape), torch.randn(shape), (torch.randn(6), torch.rand(6) + 0.5)
    weight, bias = torch.randn(6), torch.randn(6)
    found = []
    for spelling in SPELLINGS[name]:
        leaf, (m, v) = x.clone().requires_grad_(), (s.clone() for s in statistics)

        def function(x: Tensor, weight: Tensor, bias: Tensor, f=spelling, m=m, v=v) -> Tensor:
            return f(x * 1.0, weight, bias, m, v)

        with attached(Call(function, weight=weight, bias=bias), composite) as model:
            output = model(leaf)
        output.backward(credit)
        found.append({"x": leaf.grad, **feedback_of(model)})
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("composite", [rules.Composite(), CONSERVING], ids=["training", "conserving"])
@pytest.mark.parametrize("eps", [{}, {"eps": 1e-3}, {"dim": 0}])
def test_cosine_similarity_by_name(composite: rules.Composite, eps: dict) -> None:
    a, b, found = torch.randn(3, 4), torch.randn(3, 4), []
    for function in (
        lambda a, b: torch.cosine_similarity(a, b, **eps),
        lambda a, b: F.cosine_similarity(x1=a, x2=b, **eps),
        lambda a, b: F.cosine_similarity(a, x2=b, **eps),
        lambda a, b: nn.CosineSimilarity(**eps)(x2=b, x1=a),
    ):
        leaves = [x.clone().requires_grad_() for x in (a, b)]
        with attached(Call(lambda a, b, f=function: f(a * 1.0, b * 1.0)), composite) as model:
            output = model(*leaves)
        assert torch.equal(output, function(a, b))
        output.backward(torch.arange(1.0, len(output) + 1))
        found.append([leaf.grad for leaf in leaves])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **CLOSE)
