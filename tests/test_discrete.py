"""Networks without a derivative: the same credit however a block is written, discrete weights, yes/no, training."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from feedprop import FeedpropError, attached, discrete, rewards, rules
from support.propagation import CLOSE, Call

pytestmark = pytest.mark.usefixtures("float64")

BLOCKS = {
    # module, function, and the same written out in torch
    "step": [
        discrete.Step(),
        discrete.step,
        lambda z: (z > 0).float(),
        lambda z: z.gt(0).double(),
        lambda z: (z > 0).to(torch.float64),
        lambda z: (z > 0).type_as(z),
        lambda z: (z > 0).int().to(z.dtype),
        lambda z: torch.where(z > 0, 1.0, 0.0),
        lambda z: torch.heaviside(z, z.new_zeros(())),
        lambda z: torch.greater(z, 0).to(z),
    ],
    "sign": [discrete.Sign(), discrete.sign, torch.sign, lambda z: torch.where(z > 0, 1.0, -1.0), lambda z: z.sgn()],
    "ternary": [
        discrete.Ternary(0.4),
        lambda z: discrete.ternary(z, 0.4),
        lambda z: (z > 0.4).to(z.dtype) - (z < -0.4).to(z.dtype),
        lambda z: torch.where(z > 0.4, 1.0, 0.0) - z.lt(-0.4).double(),
    ],
    "round": [discrete.Round(), torch.round, Tensor.round, lambda z: (z * 1.0).round_()],
    "quantize": [
        discrete.Quantize(2),
        lambda z: discrete.quantize(z, 2),
        lambda z: torch.round(torch.clamp(z, 0, 1) * 3) / 3,
        lambda z: z.clip(0, 1).mul(3).round().div(3),
    ],
    "top one": [discrete.TopOne(), discrete.top_one],
}


def _credit(function, z: Tensor, credit: Tensor, **settings) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    with attached(Call(lambda z: function(z * 1.0)), rules.Composite(**settings)) as model:
        output = model(z)
    output.backward(credit.to(output.dtype))
    return output.detach().to(credit.dtype), z.grad


@pytest.mark.parametrize(
    "settings", [{}, {"default": rules.Epsilon(0.2)}, {"activation": rules.Secant.published()}], ids=str
)
@pytest.mark.parametrize("name", BLOCKS)
def test_every_way_to_write_a_block_passes_the_same_credit(name: str, settings: dict) -> None:
    z, credit = torch.randn(6, 5), torch.randn(6, 5)
    (output, expected), *others = (_credit(function, z, credit, **settings) for function in BLOCKS[name])
    assert (expected != 0).any()
    exact = {"rtol": 1e-6, "atol": 1e-7} if name == "step" else CLOSE  # .float() rounds the credit
    for value, found in others:
        torch.testing.assert_close(value, output, **CLOSE)
        torch.testing.assert_close(found, expected, **exact)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_is_kept_with_and_without_rules(name: str, dtype: torch.dtype) -> None:
    module, *_ = BLOCKS[name]
    layers = nn.Sequential(nn.Linear(4, 5), module, nn.Linear(5, 2)).to(dtype)
    with attached(layers):
        assert layers(torch.randn(3, 4, dtype=dtype)).dtype is dtype
        with torch.no_grad():
            assert layers(torch.randn(3, 4, dtype=dtype)).dtype is dtype
    assert layers(torch.randn(3, 4, dtype=dtype)).dtype is dtype


def test_values() -> None:
    z = torch.tensor([-0.7, -0.2, 0.0, 0.3, 0.9])
    for function, expected in (
        (discrete.Step(), [0, 0, 0, 1, 1]),
        (discrete.Sign(), [-1, -1, -1, 1, 1]),
        (discrete.Ternary(0.5), [-1, 0, 0, 0, 1]),
        (discrete.Round(), [-1, 0, 0, 0, 1]),
        (discrete.Quantize(1), [0, 0, 0, 0, 1]),
        (discrete.Quantize(2), [0, 0, 0, 1 / 3, 1]),
        (discrete.TopOne(), [0, 0, 0, 0, 1]),
    ):
        torch.testing.assert_close(function(z), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("compare", [lambda z: z > 0.5, lambda z: torch.ge(z, 0.5), lambda z: ~(z < 0.5) & (z > 0)])
def test_a_mask_carries_no_credit(compare) -> None:
    x, z = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    with attached(
        Call(lambda x, z: x * 1.0 * compare(z * 1.0) + (z * 0.0)), rules.Composite(activation=rules.Secant.published())
    ) as model:
        model(x, z).sum().backward()
    torch.testing.assert_close(x.grad, compare(z).to(x.dtype), **CLOSE)
    assert (z.grad == 0).all()


@pytest.mark.parametrize("threshold", [0.3, torch.tensor(0.3, dtype=torch.float64)])
def test_a_comparison_is_a_step_of_the_difference(threshold) -> None:
    z, credit = torch.randn(9), torch.randn(9)
    _, found = _credit(lambda z: (z > threshold).to(z.dtype), z, credit)
    _, expected = _credit(discrete.step, z - 0.3, credit)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_two_activations_compared_share_the_difference() -> None:
    a, b, credit = torch.randn(9, requires_grad=True), torch.randn(9, requires_grad=True), torch.randn(9)
    with attached(Call(lambda a, b: (a * 1.0 > b * 1.0).to(a.dtype)), rules.Epsilon()) as model:
        model(a, b).backward(credit)
    _, expected = _credit(discrete.step, (a - b).detach(), credit)
    torch.testing.assert_close(a.grad, expected, **CLOSE)
    torch.testing.assert_close(b.grad, -expected, **CLOSE)


def test_losers_of_a_selection_get_credit() -> None:
    # scores (3, 1, 0): margins (2, -2, -3), rms = sqrt(17 / 3), e = 0.1 rms;
    # slopes (1 - .5) / (2 + e), -.5 / (-2 - e), -.5 / (-3 - e), each to its own score and minus that to its rival
    e = 0.1 * math.sqrt(17 / 3)
    slopes = [0.5 / (2 + e), 0.5 / (2 + e), 0.5 / (3 + e)]
    _, found = _credit(discrete.top_one, torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[slopes[0], -slopes[0], 0.0]]), **CLOSE)
    _, found = _credit(discrete.top_one, torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.5, 1.0]]))
    lost = 0.5 * slopes[1] + slopes[2]
    torch.testing.assert_close(found, torch.tensor([[-lost, 0.5 * slopes[1], slopes[2]]]), **CLOSE)


def _latent(parametrization: nn.Module, weight: list[float]) -> tuple[nn.Linear, Tensor]:
    layer = nn.Linear(len(weight), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight]))
    parametrize.register_parametrization(layer, "weight", parametrization)
    return layer, layer.parametrizations.weight.original


def test_binary_weights_by_hand() -> None:
    # latent (0.5, -1.5): binary (1, -1), their mean size 1; a = (2, 3): z = 2 - 3 = -1; r = 2, credit -2
    # feedback of a binary weight sign(w) a w c = |w| a c = (2 * -2, 3 * -2) = (-4, -6); signs hand it on unchanged
    layer, latent = _latent(discrete.BinaryWeight(), [0.5, -1.5])
    with attached(layer, rules.Composite(activation=rules.Secant.published())):
        output = layer(torch.tensor([[2.0, 3.0]]))
        assert output.item() == -1
        rewards.GivenReward()(output, torch.tensor([[2.0]])).backward()
    torch.testing.assert_close(-latent.grad, torch.tensor([[-4.0, -6.0]]), **CLOSE)


def test_quantised_weights_by_hand() -> None:
    # 2 bits: levels (-1.5, 0, 1.5) for a largest latent of 1.5; (0.9, -1.5, 0.1) become (1.5, -1.5, 0)
    # a = (2, 1, 4): z = 1.5, r = 3, credit 2; |w| a c = (6, 3, 0): the weight that was rounded to 0 took no part
    layer, latent = _latent(discrete.QuantizedWeight(2), [0.9, -1.5, 0.1])
    with attached(layer, rules.Epsilon()):
        output = layer(torch.tensor([[2.0, 1.0, 4.0]]))
        assert output.item() == 1.5
        rewards.GivenReward()(output, torch.tensor([[3.0]])).backward()
    torch.testing.assert_close(-latent.grad, torch.tensor([[6.0, 3.0, 0.0]]), **CLOSE)


def test_with_a_floor_the_feedback_of_a_latent_weight_does_not_grow_without_bound_near_0() -> None:
    # rms(w) = sqrt((3² + 4² + .001² + 0²) / 4) = 2.5; c of sign(w) is mean|w| a = 1.75025 a; c |sign(w)| / rms(w)
    layer, latent = _latent(discrete.BinaryWeight(), [3.0, -4.0, 0.001, 0.0])
    inputs = torch.tensor([[2.0, 3.0, 5.0, 7.0]])
    with attached(layer, rules.Composite(relative_magnitude=True, magnitude_floor=0.3)):
        layer(inputs).backward()
    size = latent.detach().square().mean().sqrt()
    expected = 1.75025 * inputs / size
    expected[0, 3] *= 0.3 * (3 / 4) ** 0.5  # sign(0) = 0, so it has the floor: .3 rms(sign(w))
    torch.testing.assert_close(latent.grad, expected, rtol=1e-4, atol=0)


def test_with_a_floor_weights_that_were_rounded_to_0_learn() -> None:
    # levels (-1.5, 0, 1.5): (0.9, -1.5, 0.1) become (1.5, -1.5, 0); c = a = (2, 1, 4)
    layer, latent = _latent(discrete.QuantizedWeight(2), [0.9, -1.5, 0.1])
    with attached(layer, rules.Composite(magnitude_floor=0.3)):
        layer(torch.tensor([[2.0, 1.0, 4.0]])).backward()
    torch.testing.assert_close(latent.grad, torch.tensor([[3.0, 1.5, 1.2]]), **CLOSE)


def test_a_latent_weight_falls_where_the_weight_made_from_it_should_rise_and_the_step_falls() -> None:
    layer, latent = _latent(Call(lambda w: (w < 0).to(w.dtype)), [-2.0, 3.0])
    with attached(layer, rules.Composite(magnitude_floor=0.3)):
        layer(torch.tensor([[1.0, 1.0]])).backward()
    assert (latent.grad < 0).all()  # d output / d w, whose sign is that of a step down


@pytest.mark.parametrize("rule", [rules.Epsilon(), rules.ZPlus(), rules.Gamma(), rules.AlphaBeta()], ids=repr)
def test_discrete_weights_take_the_feedback_of_every_rule(rule: rules.Rule) -> None:
    layer, latent = _latent(discrete.BinaryWeight(), [0.5, -1.5, 0.7, -0.3])
    plain = nn.Linear(4, 1, bias=False)
    plain.weight = nn.Parameter(layer.weight.detach().clone())
    inputs, given = torch.randn(5, 4), torch.randn(5, 1)
    for one in (layer, plain):
        with attached(one, rule):
            rewards.GivenReward()(one(inputs), given).backward()
    torch.testing.assert_close(latent.grad, plain.weight.grad, **CLOSE)


@pytest.mark.parametrize(
    "make", [lambda: discrete.Quantize(0), lambda: discrete.Quantize(17), lambda: discrete.Quantize(2.0)]
)
def test_wrong_bits_are_refused(make) -> None:
    with pytest.raises(FeedpropError, match="bits must be a whole number from 1 to 16"):
        make()
    with pytest.raises(FeedpropError, match="from 2 to 16, not 1"):
        discrete.QuantizedWeight(1)
    with pytest.raises(FeedpropError, match="threshold"):
        discrete.Ternary(-1)


def test_modules_say_what_they_are() -> None:
    assert repr(discrete.Ternary(0.25)) == "Ternary(threshold=0.25)"
    assert repr(discrete.Quantize(3)) == "Quantize(bits=3)"


def test_argmax_written_out_carries_nothing() -> None:
    """Only `top_one` passes credit to a selection; an index by argmax selects."""
    z = torch.randn(4, 3, requires_grad=True)
    with attached(Call(lambda z: F.one_hot((z * 1.0).argmax(1), 3) * (z * 1.0))) as model:
        model(z).sum().backward()
    torch.testing.assert_close(z.grad, F.one_hot(z.argmax(1), 3).double(), **CLOSE)
