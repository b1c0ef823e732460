"""Precision, layout, checkpointing, accumulation and compilation change how a step is computed, not what it is."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from feedprop import attach, attached, recomputation, rewards, rules
from support.propagation import feedback_of, randomised

REWARD, RULE = rewards.SoftmaxReward(), rules.Epsilon(0.1)


class Block(nn.Module):
    """A transformer's: attention, gated feed-forward layer, residual sums; its second half may be checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.RMSNorm(8)])
        self.qkv, self.out, self.up, self.down = (nn.Linear(8, n) for n in (24, 8, 32, 8))
        self.down = nn.Linear(16, 8)
        self.checkpointing: dict | None = None

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)  # (batch, heads, positions, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    def gated(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        if self.checkpointing is not None:
            return x + checkpoint(self.gated, self.norms[1](x), use_reentrant=False, **self.checkpointing)
        return x + self.gated(self.norms[1](x))


class Transformer(nn.Module):
    """Tokens in, classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.blocks, self.head = nn.Embedding(11, 8), nn.Sequential(Block()), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(tokens)).mean(1))


def _transformer() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    model = Transformer()
    for name, parameter in model.named_parameters():  # as initialised by torch, without its zeros
        if "bias" in name:
            nn.init.normal_(parameter, std=0.05)
    return model, torch.randint(11, (16, 6))


def _convolution() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=4), nn.BatchNorm2d(8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    return randomised(model), torch.randn(16, 3, 8, 8)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolution": _convolution, "transformer": _transformer,
}  # fmt: skip


def _taken(model: Callable, inputs: Tensor, targets: Tensor, *, around=contextlib.nullcontext) -> None:
    with around():
        value = REWARD(model(inputs), targets)
    value.backward()


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The size of the difference as a share of the size of what is expected, all parameters together."""
    difference = torch.stack([(found[name] - value).norm() for name, value in expected.items()]).norm()
    return float(difference / torch.stack([value.norm() for value in expected.values()]).norm())


@pytest.fixture(params=NETWORKS)
def case(request, float64) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """A network, inputs, targets, and the feedback of a plain step."""
    model, inputs = NETWORKS[request.param]()
    targets = torch.randint(4, (16,))
    with attached(model, RULE):
        _taken(model, inputs, targets)
    expected = feedback_of(model)
    model.zero_grad()
    return model, inputs, targets, expected


def test_bfloat16_autocast_stays_within_two_percent(case) -> None:
    model, inputs, targets, expected = case
    model, inputs = model.float(), inputs.float() if inputs.is_floating_point() else inputs
    with attached(model, RULE):
        _taken(model, inputs, targets, around=lambda: torch.autocast("cpu", torch.bfloat16))
    assert all(f.dtype is torch.float32 for f in feedback_of(model).values())
    assert 0 < _apart(feedback_of(model), expected) < 2e-2


def test_float16_with_a_grad_scaler(case) -> None:
    model, inputs, targets, expected = case
    model, inputs = model.float(), inputs.float() if inputs.is_floating_point() else inputs
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    with attached(model, RULE):
        for overflows in (True, False):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                value = REWARD(model(inputs), targets)
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
            steps = {name: p.detach() - before[name] for name, p in model.named_parameters()}
            assert overflows == all(not step.any() for step in steps.values())
    assert 0 < _apart(steps, expected) < 2e-2


def test_channels_last(case) -> None:
    model, inputs, targets, expected = case
    if inputs.ndim == 4:
        model, inputs = model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    with attached(model, RULE):
        assert inputs.ndim < 4 or model[0](inputs).is_contiguous(memory_format=torch.channels_last)
        _taken(model, inputs, targets)
    assert _apart(feedback_of(model), expected) < 1e-12


def test_accumulated(case) -> None:
    model, inputs, targets, expected = case
    whole = model.eval() if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) else model
    with attached(whole, RULE):
        _taken(whole, inputs, targets)
        expected = feedback_of(whole)
        whole.zero_grad()
        for part in range(4):
            (REWARD(whole(inputs[part::4]), targets[part::4]) / 4).backward()
    assert _apart(feedback_of(whole), expected) < 1e-12


@pytest.mark.filterwarnings("ignore:::torch")  # the compiler's own
@pytest.mark.parametrize("checkpointing", [None, {}, {"context_fn": recomputation}], ids=["whole", "again", "given"])
def test_compiled_in_one_graph(case, checkpointing: dict | None) -> None:
    model, inputs, targets, expected = case
    # nothing to checkpoint in the convolutional network: half precision instead
    half = inputs.is_floating_point() and checkpointing is not None
    if half:
        model, inputs = model.float(), inputs.float()
    for module in model.modules():
        if isinstance(module, Block):
            module.checkpointing = checkpointing
    attach(model, RULE)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    amp = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True):
        _taken(compiled, inputs, targets, around=lambda: amp)
    assert _apart(feedback_of(model), expected) < (2e-2 if half else 1e-12)
