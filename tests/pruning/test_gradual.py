"""GradualPruning: the cubic schedule, exact shares, weights held at 0."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import feedprop
from feedprop import FeedpropError, pruning, rewards, rules


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))  # 300 weights


def train(model: nn.Module, optimizer: torch.optim.Optimizer, objective: nn.Module) -> None:
    optimizer.zero_grad()
    objective(model(torch.randn(8, 10)), torch.randint(5, (8,))).backward()
    optimizer.step()


def test_the_schedule_is_cubic() -> None:
    schedule = pruning.GradualPruning(net(), 0.8, begin=10, end=50, every=10)
    # 10 of 40 steps are done: .8 (1 - (3/4)^3) = .8 * 37/64 = .4625
    assert [schedule.target(step) for step in (0, 10, 20, 30, 50, 90)] == pytest.approx(
        [0.0, 0.0, 0.4625, 0.8 * 7 / 8, 0.8, 0.8]
    )


@pytest.mark.parametrize("method", ["lfp", "backprop", "feedback"])
def test_pruned_weights_stay_at_0(method: str) -> None:
    model = net()
    objective: nn.Module = nn.CrossEntropyLoss()
    if method != "backprop":
        feedprop.attach(model, rules.presets.sparse())
        objective = rewards.SoftmaxReward()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    importance = pruning.AccumulatedFeedback(model) if method == "feedback" else pruning.magnitude
    schedule = pruning.GradualPruning(model, 0.8, begin=2, end=12, every=4, importance=importance, optimizer=optimizer)
    shares = []
    if method == "feedback":
        importance.__enter__()
    gone = torch.zeros(20, 10, dtype=torch.bool)
    for step in range(1, 17):
        train(model, optimizer, objective)
        schedule.step()
        shares.append(pruning.sparsity(model))
        if step == 6:
            gone = model[0].weight == 0
    at = [round(schedule.target(step) * 300) / 300 for step in (6, 10, 12)]
    assert shares == [0.0] * 5 + [at[0]] * 4 + [at[1]] * 2 + [at[2]] * 5
    assert gone.any()
    assert (model[0].weight[gone] == 0).all()
    if method != "backprop":
        pruning.check_stays_pruned(model, optimizer)
        train(model, optimizer, objective)  # without step(), so without masks
        assert pruning.sparsity(model) == shares[-1]


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(FeedpropError, match="0 <= begin < end"):
        pruning.GradualPruning(net(), 0.5, begin=5, end=5)
    with pytest.raises(FeedpropError, match="every must be at least 1"):
        pruning.GradualPruning(net(), 0.5, end=5, every=0)
    with pytest.raises(FeedpropError, match="amount is a share"):
        pruning.GradualPruning(net(), 1.0, end=5)
