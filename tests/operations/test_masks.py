"""Masks compared from what they multiply select; as values of their own, comparisons pass credit as steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from feedprop import FeedpropError, attached, rules
from support.propagation import CLOSE, Call, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

COMPOSITES = {
    "secant": rules.Composite(),
    "published": rules.Composite(activation=rules.Secant.published()),
    "difference": rules.Composite(activation=rules.CentralDifference()),
    "conserving": rules.presets.conserving().replace(activation=rules.Secant()),
    "conserving difference": rules.presets.conserving().replace(activation=rules.CentralDifference()),
}
WITH_COMPOSITES = pytest.mark.parametrize("composite", COMPOSITES)


def _credit(
    function: Callable[[Tensor], Tensor], z: Tensor, composite: rules.Composite, *, compiled: bool = False
) -> Tensor:
    """Return what arrives at z, as an activation inside a model, of random credit at the output."""
    x = z.clone().requires_grad_()
    if compiled:
        torch._dynamo.reset()
    with attached(Call(lambda x: function(x * 1.0)), composite) as model:
        output = torch.compile(model, backend="aot_eager", fullgraph=True)(x) if compiled else model(x)
        output.backward(torch.linspace(-1, 2, output.numel()).view(output.shape))
    return x.grad


# --- masks of an activation: the same as selecting by indexing ---


def _top_k_gate(z: Tensor) -> Tensor:
    threshold = z.topk(2, dim=-1).values[..., -1:]
    return z * (z >= threshold).double()


def _top_k_scattered(z: Tensor) -> Tensor:
    values, indices = z.topk(2, dim=-1)
    return torch.zeros_like(z).scatter(-1, indices, values)


SELECTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "ReLU": (lambda z: z * (z > 0).double(), F.relu),
    "ReLU by float": (lambda z: z * (z > 0).float(), F.relu),
    "ReLU by to": (lambda z: z * (z > 0).to(z.dtype), F.relu),
    "ReLU by type_as": (lambda z: z * (z > 0).type_as(z), F.relu),
    "ReLU, mask first": (lambda z: (z > 0).double() * z, F.relu),
    "ReLU, 0 < z": (lambda z: z * (0 < z).double(), F.relu),  # noqa: SIM300
    "ReLU by gt": (lambda z: torch.mul(z, torch.gt(z, 0).double()), F.relu),
    "ReLU by where of numbers": (lambda z: z * torch.where(z > 0, 1.0, 0.0), F.relu),
    "ReLU by integers": (lambda z: z * torch.where(z > 0, 1, 0), F.relu),
    "ReLU by heaviside": (lambda z: z * torch.heaviside(z, torch.zeros(())), F.relu),
    "ReLU by int": (lambda z: z * (z > 0).int().double(), F.relu),
    "ReLU by bool": (lambda z: z * (z > 0), F.relu),
    "ReLU by a flat mask": (lambda z: z * (z.flatten() > 0).double().view_as(z), F.relu),
    "ReLU by cat of one mask": (lambda z: z * torch.cat([(z > 0).double()]), F.relu),
    "ReLU by cat of one bool": (lambda z: z * torch.concat(tensors=((z > 0),)).double(), F.relu),
    "ReLU by stack of one mask": (lambda z: z * torch.stack([(z > 0).double()], -1).squeeze(-1), F.relu),
    "ReLU by an expanded mask": (lambda z: z * (z > 0).double().expand_as(z), F.relu),
    "ReLU by a mask of one row": (lambda z: z * (z[None] > 0).double().select(0, 0), F.relu),
    "ReLU by cpu": (lambda z: z * (z > 0).double().cpu().broadcast_to(z.shape), F.relu),
    "ReLU by atleast": (lambda z: z * torch.atleast_2d((z > 0).double()), F.relu),
    "ReLU of cat of one": (lambda z: torch.cat([z]) * (z > 0).double(), F.relu),
    "ReLU of a column": (lambda z: z[:, 0] * (z[:, 0] > 0).double(), lambda z: F.relu(z[:, 0])),
    "ReLU by a column of a mask": (lambda z: z[:, :2] * (z > 0).double()[:, :2], lambda z: F.relu(z[:, :2])),
    "ReLU by a column of a bool": (lambda z: z[:, 1] * (z > 0)[:, 1].double(), lambda z: F.relu(z[:, 1])),
    "ReLU transposed": (lambda z: z.t() * (z > 0).double().t(), lambda z: F.relu(z.t())),
    "ReLU transposed twice": (lambda z: z.mT * (z.mT > 0).double(), lambda z: F.relu(z.t())),
    "ReLU by transpose": (
        lambda z: z.transpose(0, 1) * (z > 0).transpose(0, 1).double(), lambda z: F.relu(z.t())
    ),
    "ReLU of a chunk": (lambda z: z.chunk(2, 1)[1] * (z > 0).double().chunk(2, 1)[1], lambda z: F.relu(z[:, 3:])),
    "ReLU of a flip": (lambda z: z.flip(0) * (z.flip(dims=(0,)) > 0).flip(0).flip(0), lambda z: F.relu(z.flip(0))),
    "ReLU of a column of a column": (
        lambda z: z[1:][:, 0] * torch.where(z[1:] > 0, 1.0, 0.0)[:, 0], lambda z: F.relu(z[1:, 0])
    ),
    "ReLU repeated": (
        lambda z: z.repeat_interleave(2, 0) * (z > 0).double().repeat_interleave(2, 0),
        lambda z: F.relu(z.repeat_interleave(2, 0)),
    ),
    "ReLU padded": (lambda z: F.pad(z, (1, 2)) * F.pad((z > 0).double(), (1, 2)), lambda z: F.relu(F.pad(z, (1, 2)))),
    "ReLU of a triangle": (lambda z: z.tril() * (z > 0).double().tril(), lambda z: F.relu(z.tril())),
    "ReLU expanded": (
        lambda z: z.unsqueeze(0).expand(2, 5, 6) * (z.unsqueeze(0).expand(2, 5, 6) > 0).double(),
        lambda z: F.relu(z.unsqueeze(0).expand(2, 5, 6)),
    ),
    "ReLU by a flat bool": (lambda z: z * (z.view(-1) > 0).reshape_as(z).double(), F.relu),
    "ReLU of a slice of all": (lambda z: z[...] * (z[:, None] > 0).squeeze(1).double(), F.relu),
    "ReLU by a flat tanh": (lambda z: z * (z.flatten(0).tanh() > 0).double().unflatten(0, z.shape), F.relu),
    "ReLU in place": (lambda z: z.clone().mul_((z > 0).double()), F.relu),
    "ReLU by a far mask": (
        lambda z: z * (z.mul(2).tanh().mul(3).atan().mul(2).tanh().mul(5).tanh() > 0).double(), F.relu
    ),
    "ReLU by a mask of a gated value": (
        lambda z: z * ((z.mul(2).tanh().mul(3).atan().add(9).mul(2) * (z > 0).double()) > 0).double(), F.relu
    ),
    "leaky ReLU": (lambda z: z * torch.where(z > 0, 1.0, 0.1), lambda z: F.leaky_relu(z, 0.1)),
    "threshold": (lambda z: z * (z > 0.5).double(), lambda z: z.masked_fill(z <= 0.5, 0.0)),
    "by magnitude": (lambda z: z * (z.abs() > 0.5).double(), lambda z: z.masked_fill(z.abs() <= 0.5, 0.0)),
    "band": (
        lambda z: z * (z > -1).double() * (z < 1).double(),
        lambda z: z.masked_fill((z <= -1) | (z >= 1), 0.0),
    ),
    "top-k": (_top_k_gate, _top_k_scattered),
    "scaled mask": (lambda z: z * (2.0 * (z > 0).double()), lambda z: 2.0 * F.relu(z)),
    "inverted mask": (lambda z: z * (1.0 - (z > 0).double()), lambda z: -F.relu(-z)),
    "band by one mask": (
        lambda z: z * ((z > -1).double() * (z < 1).double()),
        lambda z: z.masked_fill((z <= -1) | (z >= 1), 0.0),
    ),
    "a count of masks": (lambda z: z * ((z > 0).double() + (z > 0).double()), lambda z: 2.0 * F.relu(z)),
}  # fmt: skip


@WITH_COMPOSITES
@pytest.mark.parametrize("name", SELECTIONS)
def test_a_mask_of_what_it_multiplies_selects(name: str, composite: str) -> None:
    masked, selecting = SELECTIONS[name]
    z = torch.randn(5, 6)
    torch.testing.assert_close(masked(z), selecting(z), **CLOSE)
    settings = COMPOSITES[composite]
    torch.testing.assert_close(_credit(masked, z, settings), _credit(selecting, z, settings), **CLOSE)


def _written(z: Tensor) -> Tensor:
    h = z.clone()
    mask = (h[:, 0] > 0).double()
    h.copy_(z.flip(1))
    return h[:, 0] * mask


@pytest.mark.parametrize(
    "other",
    [
        lambda z: z[:, 0] * (z[:, 1] > 0).double(),
        lambda z: z[0] * (z.view(6, 5)[0] > 0).double().sum(),
        lambda z: z.chunk(2, 1)[0] * (z > 0).double().chunk(2, 1)[1],
        lambda z: z[:5, :5] * (z[:5, :5] > 0).double().t(),
        _written,
    ],
    ids=["another column", "another shape", "another chunk", "transposed", "written"],
)
def test_a_mask_of_other_values_is_a_value(other: Callable[[Tensor], Tensor]) -> None:
    """It passes credit of its own, where a mask that selects, or plain torch, passes none."""
    z = torch.randn(5, 6)
    found = _credit(other, z, rules.Composite())
    constant = z.clone().requires_grad_()
    output = other(constant)
    output.backward(torch.linspace(-1, 2, output.numel()).view(output.shape))
    assert not torch.allclose(found, constant.grad)


@pytest.mark.parametrize(
    "name",
    ["ReLU of a column", "ReLU by a column of a mask", "ReLU transposed", "ReLU of a chunk", "ReLU by a far mask"],
)
def test_a_mask_of_moved_values_selects_compiled(name: str) -> None:
    masked, selecting = SELECTIONS[name]
    z = torch.randn(5, 6)
    settings = rules.presets.training()
    found = _credit(masked, z, settings, compiled=True)
    torch.testing.assert_close(found, _credit(selecting, z, settings), **CLOSE)


# --- masks of values that moved, of statistics, of parts; all are functions of what they multiply ---

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "above the mean": lambda z: (z > z.mean()).double(),
    "above the mean of the row": lambda z: (z > z.mean(-1, keepdim=True)).double(),
    "difference from the mean": lambda z: (z - z.mean(-1, keepdim=True) > 0).double(),
    "difference, keywords": lambda z: (torch.sub(z, other=z.mean()) > 0).double(),
    "standard score": lambda z: ((z - z.mean()) / z.std() > 0.3).double(),
    "above the median": lambda z: (z > z.median(-1, keepdim=True).values).double(),
    "above half of the maximum": lambda z: (z.abs() / z.abs().max() > 0.5).double(),
    "softmax": lambda z: (z.softmax(-1) > 0.15).double(),
    "log-softmax": lambda z: (F.log_softmax(z, -1) > -1.5).double(),
    "layer norm": lambda z: (F.layer_norm(z, (6,)) > 0).double(),
    "batch norm": lambda z: (F.batch_norm(z, None, None, training=True) > 0).double(),
    "unit length": lambda z: (F.normalize(z, dim=-1) > 0.2).double(),
    "norm of the row": lambda z: (z.norm(dim=-1, keepdim=True) > 2.2).double(),
    "norm of the column": lambda z: (torch.linalg.vector_norm(z, dim=0) > 2.2).double(),
    "sum of squares": lambda z: (z.pow(2).sum(-1, keepdim=True) > 5).double(),
    "variance": lambda z: (z.var(-1, keepdim=True) > 1).double(),
    "sum of all": lambda z: (z.sum() > 0).double(),
    "running sum": lambda z: (z.cumsum(-1) > 0).double(),
    "distance": lambda z: (torch.cdist(z, z)[:, :1] > 1).double(),
    "divided by the share": lambda z: (lambda mask: mask / mask.mean(-1, keepdim=True))((z > 0).double()),
    "divided by the sum": lambda z: (lambda mask: mask / mask.sum())((z > 0).double()),
    "by a constant mask": lambda z: (z > 0).double() * torch.tensor([1.0, 0, 1, 0, 1, 0]),
    "product so far": lambda z: (z > 0).double().cumprod(-1),
    "least so far": lambda z: (z > -1).double().cummin(-1).values,
    "lesser of two masks": lambda z: torch.minimum((z > -1).double(), (z < 1).double()),
    "greater of two masks": lambda z: torch.maximum((z > 1).double(), (z < -1).double()),
    "rolled there and back": lambda z: (z.roll(1, 0) > 0).double().roll(-1, 0),
    "transposed there and back": lambda z: (z.permute(1, 0) > 0).double().permute(1, 0),
    "transposed before it is a number": lambda z: (z.t() > 0).t().double(),
    "flipped there and back": lambda z: (z.flip(1) > 0).double().flip(1),
    "picked": lambda z: (z.index_select(1, torch.arange(6).flip(0)) > 0).double()[:, torch.arange(6).flip(0)],
    "joined halves": lambda z: torch.cat([(z[:, :3] > 0).double(), (z[:, 3:] > 0).double()], 1),
    "joined chunks": lambda z: torch.cat([(part > 0.1).double() for part in z.chunk(2, -1)], -1),
    "joined rows": lambda z: torch.stack([(row > 0).double() for row in z]),
    "joined columns": lambda z: torch.stack([(column > 0).double() for column in z.unbind(1)], 1),
    "joined booleans": lambda z: torch.cat([z[:2] > 0, z[2:] > 0]).double(),
    "between tensors": lambda z: torch.where(z > 0, torch.ones_like(z), torch.zeros_like(z)),
    "between a number and a tensor": lambda z: torch.where(z > 0, 1.0, z.new_zeros(6)),
    "between numbers, in steps": lambda z: torch.where(z > 1, 1.0, torch.where(z > 0, 0.5, 0.0)),
    "ones where": lambda z: torch.ones_like(z).where(z > 0, torch.zeros(())),
    "interpolated": lambda z: torch.lerp(torch.zeros_like(z), torch.ones_like(z), (z > 0).double()),
}  # fmt: skip


@WITH_COMPOSITES
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_computed_from_what_it_multiplies_is_a_constant(name: str, composite: str) -> None:
    z, settings = torch.randn(5, 6), COMPOSITES[composite]
    kept = MASKS[name](z)
    assert 0 < kept.count_nonzero() < kept.numel() or kept.numel() == 1
    found, expected = (_credit(f, z, settings) for f in (lambda z: z * MASKS[name](z), lambda z: z * kept))
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", [name for name in MASKS if name != "least so far"])  # parts of tuples have no marks
def test_a_mask_computed_from_what_it_multiplies_is_a_constant_compiled(name: str) -> None:
    z, settings = torch.randn(5, 6), rules.presets.training()
    found = _credit(lambda z: z * MASKS[name](z), z, settings, compiled=True)
    torch.testing.assert_close(found, _credit(lambda z: z * MASKS[name](z), z, settings), **CLOSE)


@pytest.mark.parametrize(
    "mask",
    [lambda z: (z[:, :1] > 0).double(), lambda z: (z[:, :2].sum(-1, keepdim=True) > 0).double().expand(5, 6)],
    ids=["of a column", "of a sum of columns"],
)
def test_a_mask_selects_only_what_it_was_computed_from(mask: Callable[[Tensor], Tensor]) -> None:
    z, columns = torch.randn(5, 6), 1 if mask(torch.zeros(5, 6)).shape[1] == 1 else 2
    constant = mask(z).expand(5, 6)

    def apart(z: Tensor) -> Tensor:
        return torch.cat(
            [z[:, :columns] * constant[:, :columns], z[:, columns:] * mask(z).expand(5, 6)[:, columns:]], 1
        )

    found, expected = (_credit(f, z, rules.Composite()) for f in (lambda z: z * mask(z), apart))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(found, _credit(lambda z: z * constant, z, rules.Composite()))
    compiled = _credit(lambda z: z * mask(z), z, rules.presets.training(), compiled=True)
    torch.testing.assert_close(compiled, _credit(apart, z, rules.presets.training()), **CLOSE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_mask_of_each_pair_selects_on_the_diagonal(compiled: bool) -> None:
    z, settings = torch.randn(4, 6), rules.presets.training()
    own = torch.eye(4, dtype=torch.bool)[..., None]

    def pairs(z: Tensor) -> Tensor:
        return z[:, None] * (z[None] > 0).double()

    def apart(z: Tensor) -> Tensor:
        mask = (z[None] + torch.zeros(4, 1, 1) > 0).double()
        return (z[:, None] + torch.zeros(1, 4, 1)) * torch.where(own, mask.detach(), mask)

    torch.testing.assert_close(_credit(pairs, z, settings, compiled=compiled), _credit(apart, z, settings), **CLOSE)


def test_a_mask_selects_in_fused_products() -> None:
    z, zeros = torch.randn(5, 6), torch.zeros(5, 6)
    expected = _credit(F.relu, z, rules.Composite())
    for fused in (
        lambda z: torch.addcmul(zeros, z, (z > 0).double()),
        lambda z: torch.addcdiv(zeros, (z > 0).double(), 1 / z),
        lambda z: torch.lerp(zeros, z, (z > 0).double()),
    ):
        torch.testing.assert_close(_credit(fused, z, rules.Composite()), expected, **CLOSE)


STEPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "signs": (
        lambda z: torch.where(z > 0, 1.0, -1.0), lambda z: torch.where(z > 0, torch.ones_like(z), -torch.ones_like(z))
    ),
    "a tensor and a number": (
        lambda z: torch.where(z > 0.3, 2.0, 0.0), lambda z: torch.where(z > 0.3, torch.full_like(z, 2.0), 0.0)
    ),
    "keywords": (
        lambda z: torch.where(z > 0.3, 2.0, 0.5),
        lambda z: torch.where(input=torch.tensor(2.0), condition=z > 0.3, other=torch.full((6,), 0.5)),
    ),
    "falling": (lambda z: (z < 0).double(), lambda z: torch.where(z < 0, torch.ones(()), torch.zeros(()))),
    "method": (lambda z: (z > 0).double(), lambda z: torch.ones_like(z).where(z > 0, torch.zeros(()))),
}  # fmt: skip


@WITH_COMPOSITES
@pytest.mark.parametrize("name", STEPS)
def test_selecting_between_constant_tensors_is_a_step(name: str, composite: str) -> None:
    numbers, tensors = STEPS[name]
    z, settings = torch.randn(5, 6), COMPOSITES[composite]
    assert torch.equal(numbers(z), tensors(z))
    expected = _credit(numbers, z, settings)
    assert expected.any()
    torch.testing.assert_close(_credit(tensors, z, settings), expected, **CLOSE)


@WITH_COMPOSITES
def test_joined_comparisons_are_steps(composite: str) -> None:
    z, settings = torch.randn(5, 6), COMPOSITES[composite]
    joined = _credit(lambda z: torch.cat([z[:2] > 0, z[2:] > 0]).double(), z, settings)
    assert joined.any()
    torch.testing.assert_close(joined, _credit(lambda z: (z > 0).double(), z, settings), **CLOSE)


ADDED: dict[str, Callable[[Tensor], Tensor]] = {  # 0 where z > 0, elsewhere far below
    "where": lambda z: torch.where(z > 0, 0.0, -torch.inf),
    "where, large": lambda z: torch.where(z > 0, 0.0, -1e9),
    "where, tensors": lambda z: torch.where(z > 0, torch.zeros_like(z), torch.full_like(z, -torch.inf)),
    "where, a tensor and a number": lambda z: torch.where(z > 0, torch.zeros(()), -1e9),
    "product": lambda z: (1 - (z > 0).double()) * -1e9,
    "product by a keyword": lambda z: torch.mul(1 - (z > 0).double(), other=-1e9),
    "least number": lambda z: (1.0 - (z > 0).double()) * torch.finfo(z.dtype).min,
    "BERT": lambda z: (1.0 - (z > 0).double()) * -10000.0,
    "in place": lambda z: (1 - (z > 0).double()).mul_(-1e9),
    "subtracted": lambda z: -((z < 0).double() * 1e9),
    "logarithm": lambda z: (z > 0).double().log(),
    "logarithm in place": lambda z: (z > 0).double().log_(),
}


@WITH_COMPOSITES
@pytest.mark.parametrize("name", ADDED)
def test_a_mask_that_is_added_is_a_constant(name: str, composite: str) -> None:
    """As a step between 0 and -1e9 it passed credit of that size, or NaN."""
    z, settings = torch.randn(5, 6), COMPOSITES[composite]
    added = ADDED[name]
    selected = _credit(lambda z: (z + added(z)).softmax(-1), z, settings)
    torch.testing.assert_close(selected, _credit(lambda z: (z + added(z).detach()).softmax(-1), z, settings), **CLOSE)


@pytest.mark.parametrize("name", ADDED)
def test_a_mask_that_is_added_is_a_constant_compiled(name: str) -> None:
    z, settings = torch.randn(5, 6), rules.presets.training()
    credit = _credit(lambda z: (z + ADDED[name](z)).softmax(-1), z, settings, compiled=True)
    expected = _credit(lambda z: (z + ADDED[name](z)).softmax(-1), z, settings)
    torch.testing.assert_close(credit, expected, **CLOSE)


@WITH_COMPOSITES
def test_a_sign_selects_the_half_of_an_absolute_value(composite: str) -> None:
    """|z| sign(z) is z; conserving, |z| is an activation by itself, so its own slope stays."""
    z, settings = torch.randn(5, 6), COMPOSITES[composite]
    sign = z.sign()
    expected = _credit(lambda z: z.abs() * sign, z, settings)
    if not settings.conserving:
        torch.testing.assert_close(expected, torch.linspace(-1, 2, 30).view(5, 6), **CLOSE)
    torch.testing.assert_close(_credit(lambda z: torch.sign(z) * z.abs(), z, settings), expected, **CLOSE)
    torch.testing.assert_close(_credit(lambda z: z.abs() * torch.sign(z), z, settings), expected, **CLOSE)
    expected = _credit(lambda z: z * sign, z, settings)
    torch.testing.assert_close(_credit(lambda z: torch.sign(z) * z, z, settings), expected, **CLOSE)


@WITH_COMPOSITES
def test_a_product_of_masks_is_a_value_of_both(composite: str) -> None:
    z = torch.randn(5, 6)
    found = _credit(lambda z: (z > -1).double() * (z < 1).double(), z, COMPOSITES[composite])
    assert (found != 0).any()


@WITH_COMPOSITES
def test_a_rounded_value_scales_what_was_rounded(composite: str) -> None:
    """round(z) is a step function of z, so in z round(z) it is a constant, as a mask is."""
    z = torch.randn(5, 6) * 3
    expected = z.round() * torch.linspace(-1, 2, 30).view(5, 6)
    torch.testing.assert_close(_credit(lambda z: z.round() * z, z, COMPOSITES[composite]), expected, **CLOSE)


def test_a_mask_of_weights_selects_weights() -> None:
    def masked(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight * (layer.weight.abs() > 0.3).double(), layer.bias)

    x, given = torch.randn(5, 6), torch.randn(5, 3)
    layer = randomised(nn.Linear(6, 3))
    kept = (layer.weight.detach().abs() > 0.3).double()
    assert 0 < kept.sum() < kept.numel()
    expected = -layer.weight.detach().abs() * kept * (given.T @ x)
    for settings in COMPOSITES.values():

        class Masked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, x: Tensor) -> Tensor:
                return masked(self.layer, x)

        layer.zero_grad()
        with attached(Masked(), settings) as model:
            model(x).backward(given)
        torch.testing.assert_close(feedback_of(layer)["weight"], expected, **CLOSE)


@pytest.mark.parametrize("rule", [rules.Gamma(0.5), rules.AlphaBeta(), rules.ZPlus()], ids=str)
def test_a_masked_weight_is_a_weight_by_its_rule(rule: rules.Rule) -> None:
    x, weight, given = torch.randn(5, 6), torch.randn(3, 6), torch.randn(5, 3)
    masks = {
        "filled": lambda w: w.masked_fill(w.abs() <= 0.3, 0.0),
        "compared": lambda w: w * (w.abs() > 0.3).double(),
        "compared twice": lambda w: w * (w > -0.3).double() * 0.0 + w * (w.abs() > 0.3).double(),
    }
    found = []
    for mask in masks.values():
        model = Call(lambda x, w, mask=mask: F.linear(x, mask(w)), w=weight)
        found.append(propagate(model, x, given, rule).feedback["w"].clone())
    torch.testing.assert_close(found[1], found[0], **CLOSE)
    torch.testing.assert_close(found[2], found[0], **CLOSE)


@pytest.mark.parametrize(
    "composite", [rules.Composite(rules.Gamma()), rules.presets.conserving()], ids=["Gamma", "conserving"]
)
def test_a_weight_masked_by_a_buffer_is_a_weight_compiled(composite: rules.Composite) -> None:
    """As those of torch.nn.utils.prune; its layer lost its rule, and half of the reward, eager it had both."""
    layer = randomised(nn.Linear(6, 3))
    prune.l1_unstructured(layer, "weight", 0.5)
    x, found = torch.rand(5, 6), []
    for compiled in (False, True):
        layer.zero_grad()
        torch._dynamo.reset()
        with attached(nn.Sequential(layer), composite) as model:
            run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
            run(x).backward(torch.linspace(-1, 2, 15).view(5, 3))
        found.append(feedback_of(layer))
    torch.testing.assert_close(*found, **CLOSE)


def test_a_mask_of_something_else_is_a_factor() -> None:
    """A gate computed from another tensor carries credit of its own: it is a value there."""
    z, other = torch.randn(5, 6), torch.randn(5, 6, requires_grad=True)
    with attached(Call(lambda z, other: (z * 1) * ((other * 1) > 0).double())) as model:
        model(z.requires_grad_(), other).sum().backward()
    assert (other.grad != 0).any()
    torch.testing.assert_close(z.grad, (other.detach() > 0).double(), **CLOSE)


# --- as a value of its own, a comparison is a step function ---


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda z: (z > 0).double(),
    "to": lambda z: (z > 0).to(z.dtype),
    "where": lambda z: torch.where(z > 0, 1.0, 0.0),
    "integers": lambda z: torch.where(z > 0, 1, 0).double(),
    "int": lambda z: (z > 0).int().double(),
    "the other way round": lambda z: (0 < z).double(),  # noqa: SIM300
    "of a difference": lambda z: (z + 1 > 1).double(),
}


@pytest.mark.parametrize("activation", [rules.Secant(), rules.Secant.published(), rules.CentralDifference()], ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_a_comparison_as_a_value_is_a_step(name: str, activation: rules.ActivationRule) -> None:
    z, composite = torch.randn(5, 6), rules.Composite(activation=activation)
    step = _credit(lambda z: torch.heaviside(z, torch.zeros(())), z, composite)
    assert (step != 0).any()
    torch.testing.assert_close(_credit(VALUES[name], z, composite), step, rtol=1e-6, atol=1e-9)


def test_the_numbers_of_a_step_are_those_of_where() -> None:
    z, composite = torch.randn(5, 6), COMPOSITES["difference"]
    step = _credit(VALUES["float"], z, composite)
    torch.testing.assert_close(_credit(lambda z: torch.where(z > 0, 3.0, -2.0), z, composite), 5 * step, **CLOSE)
    torch.testing.assert_close(_credit(lambda z: torch.where(z > 0, 3, -2).double(), z, composite), 5 * step, **CLOSE)
    torch.testing.assert_close(_credit(lambda z: torch.where(z < 0, 1.0, 0.0), z, composite), -step, **CLOSE)


MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "part": lambda x: x[..., 0],
    "view": lambda x: x.view(-1),
    "transpose": lambda x: x.mT,
    "clone": lambda x: x.clone(),
    "stack": lambda x: torch.stack([x, x]),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_moved_mask_of_a_parameter_is_a_step_of_it(name: str) -> None:
    move, parameter = MOVED[name], torch.randn(5, 6)
    found = []
    for function in (lambda x, p: x * move(p > 0).double(), lambda x, p: x * (move(p * 1.0) > 0).double()):
        model = Call(function, p=parameter.clone())
        with attached(model, rules.Epsilon()):
            model(torch.ones(())).sum().backward()
        found.append(feedback_of(model)["p"])
    assert (found[1] != 0).any()
    torch.testing.assert_close(found[0], found[1], **CLOSE)


def test_a_written_mask_is_a_constant() -> None:
    def written(z: Tensor) -> Tensor:
        keep = z > 0
        keep[0] = True
        return keep.double() * 3 + 0 * z

    for settings in COMPOSITES.values():
        assert (_credit(written, torch.randn(5, 6), settings) == 0).all()


def test_a_mask_may_stand_before_the_weight() -> None:
    """As mask * w as well as w * mask, the masked weight has the rule of the module that owns w."""

    def feedback(masked: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(6, 3)
        model = Call(lambda x, **_: F.linear(x, masked((layer.weight.abs() > 0.1).double(), layer.weight), layer.bias))
        model.layer = layer
        with attached(model, rules.Composite(rules.Epsilon(), by_name={"layer": rules.Gamma(0.5)})):
            model(torch.randn(5, 6, requires_grad=True).abs() + 0.1).sum().backward()
        return layer.weight.grad

    torch.testing.assert_close(feedback(torch.mul), feedback(lambda mask, w: w * mask), **CLOSE)
    assert not torch.allclose(feedback(torch.mul), feedback(lambda mask, w: w))


def test_what_a_mask_multiplied_may_be_written_to_until_the_backward_pass() -> None:
    """A spike scaled by a threshold that adapts: the reward on the spike would need the threshold's old value."""
    threshold = torch.rand(6)

    def scaled(z: Tensor) -> Tensor:
        output = (z > 0).double() * threshold
        threshold.mul_(0.9)
        return output

    with attached(Call(lambda x: scaled(x * 1.0)), rules.Epsilon()) as model:
        output = model(torch.randn(5, 6, requires_grad=True))
        with pytest.raises(FeedpropError, match="overwrote what the backward pass of feedprop needs: write it out of"):
            output.sum().backward()


def test_a_mask_that_is_used_twice_is_both() -> None:
    """In z m + m, the first m selects and the second is a value."""
    z, composite = torch.randn(5, 6), COMPOSITES["difference"]

    def both(z: Tensor) -> Tensor:
        mask = (z > 0).double()
        return z * mask + mask

    expected = _credit(F.relu, z, composite) + _credit(VALUES["float"], z, composite)
    torch.testing.assert_close(_credit(both, z, composite), expected, **CLOSE)


def test_a_network_of_written_out_relus_is_one_of_relus() -> None:
    class Written(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z * (z > 0).to(z.dtype)

    torch.manual_seed(3)
    layers = [randomised(nn.Linear(4, 6)), randomised(nn.Linear(6, 6)), randomised(nn.Linear(6, 3))]
    x, given, found = torch.randn(5, 4), torch.randn(5, 3), []
    for activation in (nn.ReLU(), Written()):
        model = nn.Sequential(layers[0], activation, layers[1], activation, layers[2])
        found.append(propagate(model, x, given, rules.Epsilon(0.1), activation=rules.Secant()).feedback)
    torch.testing.assert_close(*found, **CLOSE)


LABELS = torch.tensor([1, 0, 3])
CONSTANT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of scores (3, 4) and a mask that torch cannot follow
    "target of soft_margin_loss": lambda x, mask: F.soft_margin_loss(x, mask * 2 - 1),
    "weight of binary_cross_entropy": lambda x, mask: F.binary_cross_entropy(x.sigmoid(), torch.ones(3, 4), mask),
    "weight=": lambda x, mask: F.binary_cross_entropy_with_logits(x, torch.ones(3, 4), weight=mask),
    "pos_weight=": lambda x, mask: F.binary_cross_entropy_with_logits(x, torch.ones(3, 4), pos_weight=mask + 1),
    "weight of torch's own": lambda x, mask: torch.binary_cross_entropy_with_logits(x, torch.ones(3, 4), mask),
    "weight of cross_entropy": lambda x, mask: F.cross_entropy(x, LABELS, mask[0] + 0.5),
    "weight of nll_loss": lambda x, mask: F.nll_loss(x, LABELS, weight=mask[0] + 0.5),
    "weight of multi_margin_loss": lambda x, mask: F.multi_margin_loss(x, LABELS, weight=mask[0] + 0.5),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_where_torch_takes_constants_a_mask_is_one(name: str) -> None:
    """Hard examples weighted by (score > t).float() train in plain torch, where a mask has no gradient."""
    loss, z = CONSTANT[name], torch.randn(3, 4)
    found = _credit(lambda z: loss(z, (z > 0.2).double()), z, COMPOSITES["difference"])
    mask = (z > 0.2).double()
    torch.testing.assert_close(found, _credit(lambda z: loss(z, mask), z, COMPOSITES["difference"]), **CLOSE)
    assert (found != 0).any()


def test_class_weights_of_soft_targets_carry_credit() -> None:
    z, targets = torch.randn(3, 4), torch.rand(3, 4).softmax(1)
    found = _credit(lambda z: F.cross_entropy(z.detach(), targets, z[0].exp()), z, COMPOSITES["difference"])
    assert (found[0] != 0).all()


def test_a_mask_of_one_half_is_a_value_for_the_other() -> None:
    """A GLU with a hard gate: its gate must learn, though both halves are of one tensor."""
    z = torch.randn(3, 8)
    found = _credit(lambda z: z[:, :4] * (z[:, 4:] > 0).double(), z, rules.presets.training())
    assert (found[:, 4:] != 0).any()


def test_a_mask_in_another_order_is_a_value() -> None:
    z = torch.randn(3, 4)
    for function in (lambda z: z * (z.flip(0) > 0).double(), lambda z: z * (z[[2, 0, 1]] > 0).double()):
        found = _credit(function, z, rules.presets.training())
        assert not torch.allclose(found, torch.linspace(-1, 2, 12).view(3, 4) * (function(z) != 0))


# --- means over what a mask keeps, and other sums of products with a mask ---


def _tokens(z: Tensor) -> Tensor:
    return (z.sum(-1) > 0).double()


def _entries(z: Tensor) -> Tensor:
    return (z > 0).double()


def _routed(z: Tensor) -> Tensor:
    shares = z.softmax(-1)
    return (shares >= shares.topk(2, -1).values[..., 1:]).double()


Masked = tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]  # of values and their mask; the mask
COUNTED: dict[str, Masked] = {
    "mean": (lambda z, m: (z * m).sum(1) / m.sum(1).clamp(min=1), _entries),
    "mean of all": (lambda z, m: (z * m).sum() / m.sum(), _entries),
    "offset": (lambda z, m: (z * m).sum(1) / (m.sum(1) + 1e-6), _entries),
    "reciprocal": (lambda z, m: (z * m).sum(1) * (1 / m.sum(1).clamp(min=1)), _entries),
    "mean of tokens": (lambda z, m: (z * m[..., None]).sum(1) / m.sum(1, keepdim=True).clamp(min=1), _tokens),
    "expanded": (
        lambda z, m: (z * m[..., None].expand(z.shape)).sum(1) / m[..., None].expand(z.shape).sum(1).clamp(min=1e-9),
        _tokens,
    ),
    "filled": (lambda z, m: z.masked_fill(m == 0, 0.0).sum(1) / m.sum(1).clamp(min=1), _entries),
    "selected": (lambda z, m: torch.where(m > 0, z, 0.0).sum(1) / m.sum(1).clamp(min=1), _entries),
    "mean of squares": (lambda z, m: (z.square() * m).mean() / m.mean(), _entries),
    "load balance": (lambda z, m: (z.softmax(-1).mean((0, 1)) * m.mean((0, 1))).sum(), _routed),
}
WITH_COUNTED = pytest.mark.parametrize("name", COUNTED)


@WITH_COMPOSITES
@WITH_COUNTED
def test_the_count_of_a_mask_selects(name: str, composite: str) -> None:
    """In a mean over what a mask keeps, the count passed the credit of a step, larger than that of the mean."""
    masked, mask = COUNTED[name]
    z, settings = torch.randn(3, 5, 4), COMPOSITES[composite]
    kept = mask(z)
    found, expected = (_credit(f, z, settings) for f in (lambda z: masked(z, mask(z)), lambda z: masked(z, kept)))
    torch.testing.assert_close(found, expected, **CLOSE)


@WITH_COUNTED
def test_the_count_of_a_mask_selects_compiled(name: str) -> None:
    masked, mask = COUNTED[name]
    z = torch.randn(3, 5, 4)
    kept = mask(z)
    found = _credit(lambda z: masked(z, mask(z)), z, rules.presets.training(), compiled=True)
    torch.testing.assert_close(found, _credit(lambda z: masked(z, kept), z, rules.presets.training()), **CLOSE)


def test_the_count_of_another_mask_is_a_value() -> None:
    z = torch.randn(3, 8)
    for count in (lambda z: (z[:, 4:] > 0).double().sum(1), lambda z: (z.roll(1, 0) > 0).double().sum(1)):
        kept = count(z)
        divided = (
            (lambda z, count=count: z[:, :4].sum(1) / (1 + count(z))),
            (lambda z, n=kept: z[:, :4].sum(1) / (1 + n)),
        )
        assert not torch.allclose(*(_credit(f, z, rules.presets.training()) for f in divided))


PRODUCTS: dict[str, Masked] = {
    "einsum": (lambda z, m: torch.einsum("bt,btd->bd", m, z), _tokens),
    "einsum, mask last": (lambda z, m: torch.einsum("...td, ...t -> ...d", z, m), _tokens),
    "einsum of entries": (lambda z, m: torch.einsum("btd,btd->bt", z, m), _entries),
    "bmm": (lambda z, m: torch.bmm(m.unsqueeze(1), z), _tokens),
    "matmul": (lambda z, m: m[:, None] @ z, _tokens),
    "matmul by a column": (lambda z, m: z.transpose(1, 2) @ m[..., None], _tokens),
    "dot": (lambda z, m: torch.dot(z.flatten(), m.flatten()), _entries),
    "diagonal": (lambda z, m: torch.diag_embed(m) @ z, _tokens),
    "graph of neighbours": (lambda z, m: m @ z, lambda z: (torch.cdist(z, z) < 2.5).double()),
    "mean": (lambda z, m: torch.einsum("bt,btd->bd", m, z) / m.sum(1, keepdim=True).clamp(min=1), _tokens),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_mask_selects_in_matrix_products(name: str, compiled: bool) -> None:
    masked, mask = PRODUCTS[name]
    z = torch.randn(3, 5, 4)
    kept = mask(z)
    for composite in ["training"] if compiled else COMPOSITES:
        settings = COMPOSITES.get(composite, rules.presets.training())
        found = _credit(lambda z: masked(z, mask(z)), z, settings, compiled=compiled)
        torch.testing.assert_close(found, _credit(lambda z: masked(z, kept), z, settings), **CLOSE)


def test_a_mask_selects_in_matrix_products_what_it_was_computed_from() -> None:
    """Binary keys of linear attention are values, whose projection learns, though one tensor holds keys and values."""
    z, settings = torch.randn(3, 5, 4), rules.presets.training()
    for product in (
        lambda z, m: m.mT[:, 2:] @ z[..., :2],
        lambda z, m: torch.einsum("btk,btd->bkd", m[..., 2:], z[..., :2]),
        lambda z, m: m @ z.mT,
    ):
        kept = _entries(z)
        found = _credit(lambda z, product=product: product(z, _entries(z)), z, settings)
        constant = _credit(lambda z, product=product, kept=kept: product(z, kept), z, settings)
        assert not torch.allclose(found, constant)


STEEP: dict[str, Callable[[Tensor], Tensor]] = {  # of a mask, where it is 0 or 1
    "prediction of binary_cross_entropy": lambda m: F.binary_cross_entropy(m, torch.full((3, 4), 0.5)),
    "target of kl_div": lambda m: F.kl_div(torch.zeros(3, 4), m, reduction="sum"),
    "entropy": lambda m: torch.special.entr(m),
    "xlogy": lambda m: torch.xlogy(m, m),
    "degree": lambda m: (m.sum(1) * 0).pow(-0.5).nan_to_num(posinf=0.0),
    "square root": lambda m: (m * 0).sqrt(),
    "inverse square root": lambda m: (m * 0 + 1e-12).rsqrt(),
    "reciprocal": lambda m: 1 / (m * 0 + 1e-9),
    "quotient": lambda m: torch.ones(3, 4) / (m * 0 + 1e-9),
}


@WITH_COMPOSITES
@pytest.mark.parametrize("name", STEEP)
def test_a_mask_is_a_constant_where_functions_are_infinitely_steep(name: str, composite: str) -> None:
    """It passed credit of 1e11 or NaN, where plain torch passes none."""
    found = _credit(lambda z: STEEP[name]((z > 0).double()) + 0 * z.sum(), torch.randn(3, 4), COMPOSITES[composite])
    assert found.abs().max() < 100


def _fixed(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.no_grad()(function)


MADE: dict[str, Callable[[Tensor], Tensor]] = {  # weights from weights and what has no gradient
    "mask under no_grad": lambda w: w * _fixed(lambda w: (w.abs() > 0.3).double())(w),
    "mask of detached weights": lambda w: w * (w.detach().abs() > 0.3).double(),
    "top-k mask": lambda w: w * _fixed(lambda w: torch.zeros_like(w).scatter_(1, w.abs().topk(4, 1).indices, 1.0))(w),
    "binary weights and their scale": lambda w: w.sign() * w.abs().mean(1, keepdim=True).detach(),
    "straight-through": lambda w: w + ((w * 4).round() / 4 - w).detach(),
    "standardised": lambda w: (w - _fixed(lambda w: w.mean(1, keepdim=True))(w)) / w.std(1, keepdim=True).detach(),
    "selected": lambda w: torch.where(w.detach().abs() > 0.3, w, 0.0),
}


@pytest.mark.parametrize(
    "composite", [rules.Composite(rules.Gamma()), rules.presets.conserving()], ids=["Gamma", "conserving"]
)
@pytest.mark.parametrize("name", MADE)
def test_a_weight_times_a_constant_made_from_weights_is_a_weight(name: str, composite: rules.Composite) -> None:
    """Its layer lost its rule, and half of the reward when conserving."""
    x, weight, given, found = torch.randn(5, 6), torch.randn(3, 6), torch.randn(5, 3), []
    for make, parameter in ((MADE[name], weight), (torch.clone, MADE[name](weight))):
        inputs = x.clone().requires_grad_()
        with attached(Call(lambda x, w, make=make: F.linear(x * 1, make(w)).relu(), w=parameter), composite) as model:
            model(inputs).backward(given)
        found.append(inputs.grad)
    torch.testing.assert_close(*found, **CLOSE)


def test_a_parameter_times_data_under_no_grad_is_an_activation() -> None:
    x, found = torch.randn(5, 6), []
    for scale in (lambda x, w: w * x.abs(), lambda x, w: w * torch.no_grad()(lambda: w.detach() * 0 + x.abs())()):
        model = Call(lambda x, w, a, scale=scale: scale(x, w) * a.tanh(), w=torch.ones(5, 6), a=torch.ones(5, 6))
        with attached(model, rules.presets.conserving()):
            model(x).sum().backward()
        found.append(feedback_of(model)["w"])
    torch.testing.assert_close(*found, **CLOSE)


def test_a_normalised_mask_with_a_scale_that_learns_is_a_value() -> None:
    """Where it multiplied what the mask was computed from, it was a constant: scale and offset had no feedback."""
    composite = rules.Composite(activation=rules.CentralDifference(1e-6))
    for norm, shape in ((nn.LayerNorm(4), (3, 4)), (nn.BatchNorm1d(4), (3, 4)), (nn.GroupNorm(2, 4), (3, 4, 2))):
        layer, x = randomised(norm), torch.randn(shape)

        class Model(nn.Module):
            def __init__(self, layer: nn.Module) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, x: Tensor) -> Tensor:
                h = torch.tanh(x)
                return self.layer(torch.sign(h)) * h

        model, given = Model(layer), torch.linspace(-1, 2, x.numel()).view(shape)
        model(x).backward(given)
        plain = {name: p.grad.clone() * p.detach().abs() for name, p in layer.named_parameters()}
        model.zero_grad()
        with attached(model, composite):
            model(x.clone().requires_grad_()).backward(given)
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter.grad, plain[name], **CLOSE)
