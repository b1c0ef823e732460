"""Feedback is an ordinary `.grad`: optimizers, clipping, scaling and accumulation work unchanged."""

import copy

import pytest
import torch
from torch import nn

from feedprop import attached, rewards, rules
from support.propagation import CLOSE, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

SPECIAL = {"LBFGS", "SparseAdam", "Muon", "Optimizer"}
PLAIN = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in SPECIAL
)


def _model() -> nn.Sequential:
    return randomised(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 4), torch.randint(3, (8,))


def test_the_usual_optimizers_are_tested() -> None:
    assert {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Rprop", "NAdam", "Adafactor"} <= set(PLAIN)


@pytest.mark.parametrize("name", PLAIN)
def test_every_optimizer_steps_on_feedback(name: str) -> None:
    model, reward, (inputs, targets) = _model(), rewards.SoftmaxReward(), _batch()
    other = copy.deepcopy(model)
    optimizers = [getattr(torch.optim, name)(one.parameters()) for one in (model, other)]
    with attached(model, rules.Epsilon(0.1)):
        for _ in range(3):
            optimizers[0].zero_grad()
            reward(model(inputs), targets).backward()
            for mine, parameter in zip(model.parameters(), other.parameters(), strict=True):
                parameter.grad = mine.grad.clone()
            for optimizer in optimizers:
                optimizer.step()
    for (path, mine), parameter in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter, **CLOSE)
        assert mine.isfinite().all(), path
    moved = [
        (p.detach() - before).abs().sum() for p, before in zip(model.parameters(), _model().parameters(), strict=True)
    ]
    assert all(distance > 0 for distance in moved)


def test_sgd_adds_rate_times_feedback() -> None:
    model, (inputs, targets) = _model(), _batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with attached(model):
        rewards.SoftmaxReward(reduction="sum")(model(inputs), targets).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.5 * feedback_of(model)[name], **CLOSE)


def test_lbfgs_and_muon_and_sparse_adam() -> None:
    model, (inputs, targets) = nn.Sequential(nn.Linear(4, 3, bias=False)), _batch()
    reward = rewards.SoftmaxReward()
    with attached(model):
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = reward(model(inputs), targets)
            value.backward()
            return value

        before = model[0].weight.detach().clone()
        optimizer.step(closure)
        assert not model[0].weight.equal(before)
        if hasattr(torch.optim, "Muon"):
            torch.optim.Muon(model.parameters()).step()
    table = randomised(nn.Sequential(nn.Embedding(5, 3, sparse=True)))
    before = table[0].weight.detach().clone()
    with attached(table):
        reward(table(torch.tensor([1, 3])), torch.tensor([0, 2])).backward()
    torch.optim.SparseAdam(table.parameters()).step()
    moved = (table[0].weight != before).any(1)
    assert moved.tolist() == [False, True, False, True, False]


def test_clipping_scales_all_feedback() -> None:
    model, (inputs, targets) = _model(), _batch()
    with attached(model):
        rewards.SoftmaxReward(reduction="sum")(model(inputs), targets).backward()
    before = {name: f.clone() for name, f in feedback_of(model).items()}
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert norm > 0.01
    torch.testing.assert_close(feedback_of(model), {n: f * 0.01 / (norm + 1e-6) for n, f in before.items()}, **CLOSE)


def test_grad_scaler_scales_and_unscales() -> None:
    model, (inputs, targets) = _model().float(), _batch()
    reward = rewards.SoftmaxReward()
    with attached(model):
        reward(model(inputs.float()), targets).backward()
    expected = {name: f.clone() for name, f in feedback_of(model).items()}
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer.zero_grad()
    with attached(model):
        scaler.scale(reward(model(inputs.float()), targets)).backward()
        scaler.unscale_(optimizer)
        torch.testing.assert_close(feedback_of(model), expected)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_agrees_with_the_plain_step(dtype: torch.dtype) -> None:
    model, (inputs, targets) = _model().float(), _batch()
    inputs, reward = inputs.float(), rewards.SoftmaxReward()
    with attached(model, rules.Epsilon(0.1)):
        reward(model(inputs), targets).backward()
        expected = {name: f.clone() for name, f in feedback_of(model).items()}
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            value = reward(model(inputs), targets)
        value.backward()
    assert value.dtype in (dtype, torch.float32)
    for name, feedback in feedback_of(model).items():
        assert feedback.dtype is torch.float32
        torch.testing.assert_close(feedback, expected[name], rtol=0.1, atol=0.02)


def test_checkpointed_layers_give_the_same_feedback() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    model, (inputs, targets) = _model(), _batch()
    reward = rewards.SoftmaxReward()
    with attached(model, rules.Epsilon(0.1)):
        reward(model(inputs), targets).backward()
    expected = {name: f.clone() for name, f in feedback_of(model).items()}
    model.zero_grad()
    with attached(Checkpointed(model), rules.Epsilon(0.1)) as wrapped:
        reward(wrapped(inputs), targets).backward()
    torch.testing.assert_close(feedback_of(model), expected, **CLOSE)


def test_accumulated_steps_equal_one() -> None:
    model, (inputs, targets) = _model(), _batch()
    with attached(model):
        rewards.SoftmaxReward()(model(inputs), targets).backward()
        whole = {name: f.clone() for name, f in feedback_of(model).items()}
        model.zero_grad()
        for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
            (rewards.SoftmaxReward()(model(x), y) / 4).backward()
    torch.testing.assert_close(feedback_of(model), whole, **CLOSE)
