"""Attention in every spelling: by loops, by hand-written equivalents, and by what its rewards have to add up to."""

import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import attached, rules
from support import oracles
from support.propagation import CLOSE, Call, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

BATCH, QUERIES, KEYS, SIZE = 2, 3, 4, 5
CONSERVING = rules.presets.conserving()
SETTINGS = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.7},
    "masked": {"attn_mask": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)},
    "biased": {"attn_mask": torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)},
}


def _inputs() -> list[Tensor]:
    return [torch.randn(BATCH, 1, length, SIZE) for length in (QUERIES, KEYS, KEYS)]


def _bias(attn_mask: Tensor | None = None, *, is_causal: bool = False, **_) -> Tensor:
    if is_causal:
        attn_mask = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril()
    if attn_mask is None:
        return torch.zeros(QUERIES, KEYS)
    return attn_mask if attn_mask.is_floating_point() else torch.zeros(QUERIES, KEYS).masked_fill(~attn_mask, -math.inf)


def _by_hand(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **settings) -> Tensor:
    logits = q @ k.transpose(-2, -1) * (scale or 1 / math.sqrt(SIZE))
    if settings:
        logits = logits + _bias(**settings)
    return torch.softmax(logits, -1) @ v


def _batched(q: Tensor, k: Tensor, v: Tensor, **_) -> Tensor:
    weights = torch.bmm(q[:, 0] / math.sqrt(SIZE), k[:, 0].mT).softmax(-1)
    return torch.bmm(weights, v[:, 0])[:, None]


def _added(q: Tensor, k: Tensor, v: Tensor, **_) -> Tensor:
    logits = torch.baddbmm(_bias().expand(BATCH, -1, -1), q[:, 0], k[:, 0].transpose(1, 2), alpha=1 / math.sqrt(SIZE))
    return torch.matmul(F.log_softmax(logits, dim=-1).softmax(-1), v[:, 0])[:, None]


def _by_einsum(q: Tensor, k: Tensor, v: Tensor, **_) -> Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(SIZE**-0.5).softmax(dim=-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def _run(function, inputs: list[Tensor], composite, credit: Tensor | None = None) -> tuple[Tensor, list[Tensor | None]]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    with attached(Call(lambda *x: function(*(a * 1.0 for a in x))), composite) as model:
        torch.manual_seed(1)
        output = model(*leaves)
    torch.manual_seed(2)
    output.backward(torch.randn_like(output) if credit is None else credit)
    return output.detach(), [leaf.grad for leaf in leaves]


def _oracle(q, k, v, credit, *, half: float, epsilon: float, scale: float | None = None, **settings) -> list[Tensor]:
    """Credit at queries, keys and values, one query at a time; a factor of a product has the share `half`."""
    scale, bias, found = scale or 1 / math.sqrt(SIZE), _bias(**settings), [torch.zeros_like(x) for x in (q, k, v)]
    for n, i in itertools.product(range(BATCH), range(QUERIES)):
        logits = [sum(q[n, 0, i, d] * k[n, 0, j, d] for d in range(SIZE)) * scale + bias[i, j] for j in range(KEYS)]
        weights = oracles.softmax([float(value) for value in logits])
        at_weights = [0.0] * KEYS
        for d in range(SIZE):
            output = sum(weights[j] * v[n, 0, j, d] for j in range(KEYS))
            arriving = credit[n, 0, i, d] * abs(output) / (abs(output) + epsilon)
            for j in range(KEYS):
                found[2][n, 0, j, d] += half * arriving * weights[j]
                at_weights[j] += half * arriving * v[n, 0, j, d]
        reward = sum(weights[j] * at_weights[j] for j in range(KEYS))
        for j, d in itertools.product(range(KEYS), range(SIZE)):
            at_logit = weights[j] * at_weights[j] - weights[j] * reward  # AttnLRP, eq. 13, divided by the logit
            found[0][n, 0, i, d] += half * at_logit * scale * k[n, 0, j, d]
            found[1][n, 0, j, d] += half * at_logit * scale * q[n, 0, i, d]
    return found


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("conserving", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_fused_attention_by_loops(name: str, conserving: bool, epsilon: float) -> None:
    inputs, credit = _inputs(), torch.randn(BATCH, 1, QUERIES, SIZE)
    composite = rules.Composite(rules.Epsilon(epsilon), conserving=conserving)
    output, found = _run(lambda *x: F.scaled_dot_product_attention(*x, **SETTINGS[name]), inputs, composite, credit)
    torch.testing.assert_close(output, F.scaled_dot_product_attention(*inputs, **SETTINGS[name]), rtol=0, atol=0)
    expected = _oracle(*inputs, credit, half=0.5 if conserving else 1.0, epsilon=epsilon, **SETTINGS[name])
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("composite", [None, CONSERVING], ids=["training", "conserving"])
@pytest.mark.parametrize("written", [_by_hand, _batched, _added, _by_einsum])
def test_hand_written_attention_equals_fused(written, composite) -> None:
    inputs = _inputs()
    for settings in SETTINGS.values() if written is _by_hand else [{}]:
        fused = _run(lambda *x, s=settings: F.scaled_dot_product_attention(*x, **s), inputs, composite)
        torch.testing.assert_close(_run(lambda *x, s=settings: written(*x, **s), inputs, composite), fused, **CLOSE)


@pytest.mark.parametrize("settings", [{"dropout_p": 0.4}, {"enable_gqa": True}, {"is_causal": True}])
def test_conserving_attention_is_the_gradient_in_fixed_shares(settings: dict) -> None:
    q, k, v = torch.randn(2, 4, 3, 5), torch.randn(2, 2, 6, 5), torch.randn(2, 2, 6, 5)
    inputs = [q, k, v] if "enable_gqa" in settings else [q, *(x.repeat_interleave(2, 1) for x in (k, v))]
    gradient, shared = (
        _run(lambda *x: F.scaled_dot_product_attention(*x, **settings), inputs, composite)
        for composite in (None, CONSERVING)
    )
    torch.testing.assert_close(shared[0], gradient[0])
    for found, plain, share in zip(shared[1], gradient[1], (0.25, 0.25, 0.5), strict=True):
        torch.testing.assert_close(found, plain * share, **CLOSE)


@pytest.mark.parametrize("fixed", [(0,), (1,), (2,), (0, 1), (0, 2)], ids=str)
@pytest.mark.parametrize("kind", ["constant", "parameter"])
def test_constants_and_parameters_leave_their_share_to_the_others(fixed: tuple[int, ...], kind: str) -> None:
    """Fused as hand-written, where every product sees who carries reward; a parameter takes |w| times its credit."""
    inputs, credit = _inputs(), torch.randn(BATCH, 1, QUERIES, SIZE)
    results = []
    for attend in (F.scaled_dot_product_attention, _by_hand):

        def function(*x: Tensor, attend=attend, **parameters: Tensor) -> Tensor:
            values = [parameters.get(f"p{i}", inputs[i]) if i in fixed else x[i] * 1.0 for i in range(3)]
            return attend(*values)

        given = {f"p{i}": inputs[i].clone() for i in fixed} if kind == "parameter" else {}
        leaves = [x.clone().requires_grad_() for x in inputs]
        model = Call(function, **given)
        with attached(model, CONSERVING):
            model(*leaves).backward(credit)
        results.append(([leaf.grad for leaf in leaves if leaf.grad is not None], feedback_of(model)))
    torch.testing.assert_close(results[0], results[1], **CLOSE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("composite", [rules.presets.published(), rules.Composite(rules.Gamma(), conserving=True)])
def test_an_added_mask_of_minus_infinity_damps_nothing(composite: rules.Composite, compiled: bool) -> None:
    """The damping |z| / (|z| + epsilon) of a masked score was inf / inf, so that all feedback was NaN."""

    def causal(x: Tensor, low: float) -> Tensor:
        scores = x @ x.mT + torch.full((3, 3), low).triu(1)
        return scores.softmax(-1) @ x

    found = []
    for low in (-math.inf, -1e30):
        x = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
        with attached(Call(functools.partial(causal, low=low)), composite) as model:
            torch._dynamo.reset()
            output = torch.compile(model, backend="aot_eager")(x) if compiled else model(x)
            output.backward(torch.linspace(-1, 2, 12).view(3, 4))
        found.append(x.grad)
    assert found[0].isfinite().all()
    torch.testing.assert_close(*found, **CLOSE)


def test_a_learned_bias_of_the_logits_takes_their_share() -> None:
    inputs, bias, credit = _inputs(), torch.randn(QUERIES, KEYS), torch.randn(BATCH, 1, QUERIES, SIZE)
    results = []
    for attend in (lambda *x: F.scaled_dot_product_attention(*x), lambda q, k, v, b: _by_hand(q, k, v, attn_mask=b)):
        model = Call(lambda q, bias, attend=attend: attend(q * 1.0, q * 2.0, q * 3.0, bias), bias=bias[:, :QUERIES])
        with attached(model, CONSERVING):
            q = inputs[0].clone().requires_grad_()
            model(q).backward(credit)
        results.append((q.grad, feedback_of(model)))
    torch.testing.assert_close(results[0], results[1], **CLOSE)


def test_rewards_of_attention_add_up_but_for_what_softmax_keeps() -> None:
    """Half of the reward goes to the values; of the rest, the logits have l (r - p sum r), AttnLRP eq. 13."""
    (q, k, v), given = _inputs(), torch.randn(BATCH, 1, QUERIES, SIZE)
    output = _by_hand(q, k, v)
    _, found = _run(F.scaled_dot_product_attention, [q, k, v], CONSERVING, given / output)
    at_q, at_k, at_v = (credit * x for credit, x in zip(found, (q, k, v), strict=True))
    torch.testing.assert_close(at_v.sum(), given.sum() / 2, **CLOSE)
    logits = q @ k.mT / math.sqrt(SIZE)
    at_weights = 0.5 * logits.softmax(-1) * (given / output @ v.mT)
    torch.testing.assert_close(at_weights.sum(), given.sum() / 2, **CLOSE)
    at_logits = logits * (at_weights - logits.softmax(-1) * at_weights.sum(-1, keepdim=True))
    torch.testing.assert_close(at_q.sum() + at_k.sum(), at_logits.sum(), **CLOSE)
    torch.testing.assert_close(at_q.sum(), at_k.sum(), **CLOSE)


def _feedback(model: nn.Module, inputs: tuple[Tensor, ...], composite=None, **calling) -> tuple[Tensor, dict]:
    model.zero_grad()
    with attached(model, composite):
        torch.manual_seed(1)
        output = model(*inputs, **calling)
    output = output[0] if isinstance(output, tuple) else output
    torch.manual_seed(2)
    output.backward(torch.randn_like(output))
    return output.detach(), {name: f.clone() for name, f in feedback_of(model).items()}


def _weighted_gradient(model: nn.Module, inputs: tuple[Tensor, ...], **calling) -> tuple[Tensor, dict]:
    model.zero_grad()
    torch.manual_seed(1)
    output = model(*inputs, **calling)
    output = output[0] if isinstance(output, tuple) else output
    torch.manual_seed(2)
    output.backward(torch.randn_like(output))
    return output.detach(), {name: -p.grad * p.detach().abs() for name, p in model.named_parameters()}


MASK = torch.tensor([[False, False, True], [False, False, False]])
ENCODER = functools.partial(nn.TransformerEncoderLayer, 4, 2, 6, batch_first=True)
ATTENTION = functools.partial(nn.MultiheadAttention, 4, 2)
MODULES = {
    "weights wanted": (lambda: ATTENTION(batch_first=True), 3, {}),
    "fused": (lambda: ATTENTION(batch_first=True), 3, {"need_weights": False}),
    "other sizes": (lambda: ATTENTION(kdim=4, vdim=4, bias=False, add_bias_kv=False), 3, {}),
    "masked": (lambda: ATTENTION(batch_first=True, add_zero_attn=True), 3, {"key_padding_mask": MASK}),
    "extra key": (lambda: ATTENTION(dropout=0.3, add_bias_kv=True), 3, {}),
    "layer": (lambda: ENCODER(), 1, {"src_key_padding_mask": MASK}),
    "layer in evaluation": (lambda: ENCODER(norm_first=True).eval(), 1, {}),
    "encoder": (lambda: nn.TransformerEncoder(ENCODER(), 2).eval(), 1, {}),
    "transformer": (lambda: nn.Transformer(4, 2, 1, 1, 6, batch_first=True), 2, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_in_training_a_transformer_with_relu_has_minus_w_times_gradient(name: str) -> None:
    make, count, calling = MODULES[name]
    model = randomised(make())
    inputs = tuple(torch.randn(2, 3, 4) for _ in range(count))
    expected = _weighted_gradient(model, inputs, **calling)
    torch.testing.assert_close(_feedback(model, inputs, rules.Epsilon(), **calling), expected, **CLOSE)


@pytest.mark.parametrize("composite", [None, CONSERVING], ids=["training", "conserving"])
def test_attention_modules_give_the_same_with_and_without_their_weights(composite) -> None:
    model = randomised(nn.MultiheadAttention(4, 2, batch_first=True))
    inputs = tuple(torch.randn(2, 3, 4) for _ in range(3))
    fused = _feedback(model, inputs, composite, need_weights=False)
    torch.testing.assert_close(_feedback(model, inputs, composite, need_weights=True), fused, **CLOSE)


MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda logits, mask: logits + mask,
    "in place": lambda logits, mask: logits.add_(mask),
    "in one product": lambda logits, mask: torch.baddbmm(mask, logits, torch.eye(KEYS).expand(BATCH, -1, -1)),
    "before a scale": lambda logits, mask: (logits + mask) / 2,
    "before a shift": lambda logits, mask: (logits + mask) - (logits + mask).logsumexp(-1, keepdim=True),
}


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("composite", [rules.presets.published(0.1), rules.presets.conserving(0.1)], ids=str)
def test_a_mask_of_minus_infinity_passes_what_a_large_negative_one_does(name: str, composite: rules.Composite) -> None:
    """With epsilon > 0, the stabiliser of an infinite sum is 1, not NaN."""
    q, k, v = (nn.Parameter(torch.randn(BATCH, KEYS, SIZE)) for _ in range(3))
    outside = torch.ones(KEYS, KEYS, dtype=torch.bool).triu(1)

    def found(low: float) -> list[Tensor]:
        mask = torch.zeros(KEYS, KEYS).masked_fill(outside, low)
        model = Call(lambda x: MASKED[name](torch.bmm(x * q, k.mT), mask.expand(BATCH, -1, -1)).softmax(-1) @ v)
        with attached(model, composite):
            output = model(torch.ones(BATCH, KEYS, SIZE))
        return list(torch.autograd.grad(output.square().sum(), (q, k, v)))

    torch.testing.assert_close(found(-math.inf), found(-1e12))


@pytest.mark.parametrize("trainable", [True, False])
def test_the_fast_path_is_not_taken_past_the_rules(trainable: bool) -> None:
    layer = randomised(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu")).eval()
    if not trainable:
        layer.requires_grad_(False)
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        expected = layer(x)
    with attached(layer):
        output = layer(x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected)
    assert output.requires_grad is trainable
    torch.testing.assert_close(output.detach(), expected)


def test_attention_and_its_gates_in_a_block_conserve_what_enters_through_the_values() -> None:
    """With attention weights as constants nothing is lost: the reward of the inputs is that of the outputs."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.values, self.out = nn.RMSNorm(4), nn.Linear(4, 4, False), nn.Linear(4, 4, False)
            self.up, self.gate, self.down = (nn.Linear(*size, bias=False) for size in ((4, 6), (4, 6), (6, 4)))

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1.0
            h = self.norm(x)
            attended = F.scaled_dot_product_attention(h.detach(), h.detach(), self.values(h))
            x = x + self.out(attended)
            h = self.norm(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    model, x, given = randomised(Block()), torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    with attached(model, CONSERVING):
        output = model(x)
    output.backward(given / output.detach())
    torch.testing.assert_close((x * x.grad).sum().detach(), given.sum(), **CLOSE)
