"""torchvision's operators: regions of interest select or average, deformable convolutions are linear layers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from support.propagation import CLOSE, Call, randomised

ops = pytest.importorskip("torchvision.ops")
pytestmark = pytest.mark.usefixtures("float64")

BOXES = torch.tensor([[0.0, 0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 2.0, 6.0, 7.0]])  # image, x1, y1, x2, y2
REGIONS = {
    "roi_align": lambda x: ops.roi_align(x, BOXES.to(x), 2),
    "roi_pool": lambda x: ops.roi_pool(x, BOXES.to(x), 2),
    "ps_roi_align": lambda x: ops.ps_roi_align(x, BOXES.to(x), 2),
    "ps_roi_pool": lambda x: ops.ps_roi_pool(x, BOXES.to(x), 2),
    "nms": lambda x: x[:, :, ops.nms(BOXES[:, 1:].to(x), x[0, 0, 0, :2].detach(), 0.5)],
}


class Deformable(nn.Module):
    """A deformable convolution: offsets and mask are computed from the input by convolutions of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.mask = nn.Conv2d(2, 18, 3), nn.Conv2d(2, 9, 3)
        self.layer = ops.DeformConv2d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.offset(x), torch.exp(self.mask(x)))


def _passed(model: nn.Module, x: Tensor, composite: rules.Composite | None, credit: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the parameters and of x, attached with the composite or plain."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    if composite is None:
        output = model(x * 1.0)
    else:
        with attached(model, composite):
            output = model(x * 1.0)
    output.backward(credit)
    return {"x": x.grad} | {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", REGIONS)
def test_regions_pass_credit_by_their_gradient(name: str) -> None:
    model, x = Call(REGIONS[name]), torch.randn(2, 4, 8, 8)
    output = model(x)
    with attached(model):
        assert torch.equal(model(x.clone().requires_grad_()), output)
    credit = torch.randn_like(output)
    expected = _passed(model, x, None, credit)["x"]
    torch.testing.assert_close(_passed(model, x, rules.Composite(), credit)["x"], expected, **CLOSE)


@pytest.mark.parametrize("name", ["roi_align", "ps_roi_align", "ps_roi_pool", "roi_pool"])
def test_averages_of_regions_are_damped_and_maxima_are_not(name: str) -> None:
    model, x = Call(REGIONS[name]), torch.randn(2, 4, 8, 8)
    z = model(x)
    credit = torch.randn_like(z)
    damping = 1.0 if name == "roi_pool" else z.abs() / (z.abs() + 0.3)
    expected = _passed(model, x, None, credit * damping)["x"]
    found = _passed(model, x, rules.Composite(rules.Epsilon(0.3)), credit)["x"]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_deformable_convolution_has_weight_times_gradient() -> None:
    model, x = randomised(Deformable()), torch.randn(2, 2, 6, 6)
    credit = torch.randn(2, 3, 4, 4)
    plain = _passed(model, x, None, credit)
    expected = {name: plain[name] * p.detach().abs() for name, p in model.named_parameters()} | {"x": plain["x"]}
    found = _passed(model, x, rules.Composite(), credit)
    torch.testing.assert_close(found, {name: expected[name] for name in found}, **CLOSE)


@pytest.mark.parametrize("rule", [rules.Epsilon(0.3), rules.Gamma(0.5), rules.AlphaBeta(2.0, 1.0)], ids=repr)
def test_without_offsets_it_is_a_convolution_under_any_rule(rule: rules.Rule) -> None:
    def deformed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.deform_conv2d(x, x.new_zeros(2, 18, 4, 4), weight, bias)

    parameters = {"weight": torch.randn(3, 2, 3, 3), "bias": torch.randn(3)}
    x, credit = torch.randn(2, 2, 6, 6), torch.randn(2, 3, 4, 4)
    found = _passed(Call(deformed, **parameters), x, rules.Composite(rule), credit)
    expected = _passed(Call(F.conv2d, **parameters), x, rules.Composite(rule), credit)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("rule", [rules.Gamma, rules.ZPlus])
def test_offsets_take_their_credit_once(rule) -> None:
    model, x = randomised(Deformable()), torch.randn(2, 2, 6, 6)
    credit = torch.randn(2, 3, 4, 4)
    one, other = (
        _passed(model, x, rules.Composite(by_name={"layer": rule(update=update)}), credit)
        for update in ("rule", "epsilon")
    )
    for name in ("x", "offset.weight", "mask.weight"):
        torch.testing.assert_close(one[name], other[name], **CLOSE)
    assert not torch.allclose(one["layer.weight"], other["layer.weight"])
