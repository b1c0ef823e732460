"""A pruned model trains on without masks, and what would revive weights is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import FeedpropError, pruning, rewards, rules

load_digits = pytest.importorskip("sklearn.datasets").load_digits

SPARSE, RELATIVE = rules.presets.sparse(), rules.Composite(relative_magnitude=True)
Optimizer = torch.optim.Optimizer
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.003, momentum=0.9, centered=True),
}


def digits() -> list[tuple[Tensor, Tensor]]:
    found = load_digits()
    inputs, targets = torch.tensor(found.data).float() / 16, torch.tensor(found.target)
    return list(zip(inputs.split(64), targets.split(64), strict=True))


def net() -> nn.Sequential:
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    nn.init.constant_(model[2].bias, 0.1)  # from 0 it could not learn without a floor
    return model


def epoch(model: nn.Module, optimizer: Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    for inputs, targets in batches:
        optimizer.zero_grad()
        rewards.SoftmaxReward()(model(inputs), targets).backward()
        optimizer.step()


def revived(model: nn.Module, before: nn.Module) -> int:
    pairs = zip(pruning.prunable(model).values(), pruning.prunable(before).values(), strict=True)
    return sum(int((now[then == 0] != 0).sum()) for now, then in pairs)


def pruned_in_training(name: str, composite: rules.Composite) -> tuple[nn.Module, Optimizer, nn.Module]:
    model = feedprop.attach(net(), composite)
    optimizer = OPTIMIZERS[name](model.parameters())
    epoch(model, optimizer, digits()[:10])
    pruning.prune(model, pruning.magnitude(model), 0.8)
    return model, optimizer, feedprop.detach(copy.deepcopy(model))


@pytest.mark.parametrize("composite", [SPARSE, RELATIVE], ids=["plain", "relative"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_not_one_weight_comes_back(name: str, composite: rules.Composite) -> None:
    model, optimizer, before = pruned_in_training(name, composite)
    pruning.reset_moments(model, optimizer)
    pruning.check_stays_pruned(model, optimizer)
    epoch(model, optimizer, digits())
    assert revived(model, before) == 0
    assert not torch.equal(model[7].weight, before[7].weight)  # it did train


def test_lbfgs_is_fine_if_it_is_new() -> None:
    model = feedprop.attach(net(), SPARSE)
    pruning.prune(model, pruning.magnitude(model), 0.5)
    before = copy.deepcopy(model)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=5)
    pruning.check_stays_pruned(model, optimizer)
    inputs, targets = digits()[0]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = rewards.SoftmaxReward()(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert revived(model, before) == 0
    assert not torch.equal(model[7].weight, before[7].weight)
    with pytest.raises(FeedpropError, match="make a new optimizer"):
        pruning.check_stays_pruned(model, optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stale_moments_revive_weights_and_are_refused(name: str) -> None:
    model, optimizer, before = pruned_in_training(name, SPARSE)
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(FeedpropError, match=r"by moments from before .*\(1\.weight\); call pruning\.reset_moments"):
        pruning.check_stays_pruned(model, optimizer)
    torch.testing.assert_close(optimizer.state_dict(), state)  # the trial step is one of a copy
    assert revived(model, before) == 0
    epoch(model, optimizer, digits()[:1])
    assert revived(model, before) > 0


@pytest.fixture
def accumulating() -> Iterator[Any]:
    """An accelerator whose settings, which accelerate keeps for the whole process, are forgotten afterwards."""
    accelerate = pytest.importorskip("accelerate")
    yield accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def test_an_optimizer_that_accelerate_prepared(accumulating: Any) -> None:
    model, optimizer, _ = pruned_in_training("adam", SPARSE)
    prepared = accumulating.prepare(optimizer)
    with accumulating.accumulate(model), pytest.raises(FeedpropError, match="by moments from before"):
        pruning.check_stays_pruned(model, prepared)  # between two steps, when the wrapper would take none
    pruning.reset_moments(model, prepared)
    pruning.check_stays_pruned(model, prepared)


def test_a_floor_revives_weights_and_is_refused() -> None:
    with pytest.warns(UserWarning, match="pruned weights get feedback"):
        model, optimizer, before = pruned_in_training("sgd", rules.presets.training())
    pruning.reset_moments(model, optimizer)
    with pytest.raises(FeedpropError, match=r"magnitude_floor=0\.7; attach .*magnitude_floor=0\.0"):
        pruning.check_stays_pruned(model, optimizer)
    epoch(model, optimizer, digits()[:1])
    assert revived(model, before) > 0


def test_gradients_and_constant_rules_are_refused() -> None:
    model = net()
    pruning.prune(model, pruning.magnitude(model), 0.5)
    with pytest.raises(FeedpropError, match="trained by gradients"):
        pruning.check_stays_pruned(model)
    feedprop.attach(model, rules.presets.epsilon_plus_flat())
    with pytest.raises(FeedpropError, match=r'feedback to weights of 0 in 1; use Flat\(update="epsilon"\)'):
        pruning.check_stays_pruned(model)
    feedprop.detach(model)
    for rule in (rules.Flat(update="epsilon"), rules.WSquare(), rules.Gamma()):
        feedprop.attach(model, rules.Composite(first=rule))
        pruning.check_stays_pruned(model)
        feedprop.detach(model)


@pytest.mark.parametrize("first", [rules.Flat(), rules.Flat(update="epsilon"), rules.WSquare()], ids=repr)
def test_the_check_says_what_rules_do(first: rules.Rule) -> None:
    model = feedprop.attach(net(), rules.Composite(first=first))
    pruning.prune(model, pruning.magnitude(model), 0.5)
    inputs, targets = digits()[0]
    rewards.SoftmaxReward()(model(inputs), targets).backward()
    moves = bool(model[1].weight.grad[model[1].weight == 0].any())
    if moves:
        with pytest.raises(FeedpropError):
            pruning.check_stays_pruned(model)
    else:
        pruning.check_stays_pruned(model)
    assert moves == (first == rules.Flat())


def test_a_model_that_is_not_pruned_needs_no_check() -> None:
    pruning.check_stays_pruned(net())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_an_optimizer_that_mixes_the_feedback_of_weights_is_refused() -> None:
    model = feedprop.attach(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), SPARSE)
    pruning.prune(model, pruning.magnitude(model), 0.5)
    optimizer = torch.optim.Muon([model[0].weight, model[2].weight], 0.01)
    with pytest.raises(FeedpropError, match=r"Muon moves weights that are 0 by the feedback of others \(0\.weight\)"):
        pruning.check_stays_pruned(model, optimizer)
