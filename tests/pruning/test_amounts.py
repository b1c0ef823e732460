"""prune: exact numbers, of the lowest scores."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import feedprop
from feedprop import FeedpropError, pruning, rules


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 7))  # 36 and 112 weights


def counts(model: nn.Module) -> list[int]:
    return [int((weight == 0).sum()) for weight in pruning.prunable(model).values()]


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_as_many_as_asked_for(amount: float) -> None:
    model = net()
    assert sum(counts(pruning.prune(model, pruning.magnitude(model), amount))) == round(amount * 148)
    assert pruning.sparsity(model) == round(amount * 148) / 148
    model = net()
    pruning.prune(model, pruning.magnitude(model), amount, scope="layer")
    assert counts(model) == [round(amount * 36), round(amount * 112)]
    assert all(parameter.all() for name, parameter in model.named_parameters() if name.endswith("bias"))


def test_the_least_important_go_in_all_layers_or_in_each() -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(2, 1))
    scores = {"0.weight": torch.tensor([[4.0, 1, 3, 2]]), "1.weight": torch.tensor([[0.1, 0.2]])}
    pruning.prune(model, scores, 0.5)
    assert [(layer.weight == 0).tolist() for layer in model] == [[[False, True, False, False]], [[True, True]]]
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(2, 1))
    pruning.prune(model, scores, 0.5, scope="layer")
    assert [(layer.weight == 0).tolist() for layer in model] == [[[False, True, False, True]], [[True, False]]]


def test_ties_and_earlier_zeros_do_not_change_the_number() -> None:
    model = net()
    ones = {name: torch.ones_like(scores) for name, scores in pruning.magnitude(model).items()}
    pruning.prune(model, {name: torch.rand_like(scores) for name, scores in ones.items()}, 0.5)
    before = [weight == 0 for weight in pruning.prunable(model).values()]
    pruning.prune(model, {name: torch.rand_like(scores) for name, scores in ones.items()}, 0.8)
    assert sum(counts(model)) == round(0.8 * 148)
    assert all((weight[mask] == 0).all() for weight, mask in zip(pruning.prunable(model).values(), before, strict=True))
    pruning.prune(model, ones, 0.6)  # less than is 0 already
    assert sum(counts(model)) == round(0.8 * 148)
    model = net()
    assert sum(counts(pruning.prune(model, ones, 0.25))) == 37


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_they_are_the_first_of_a_stable_sort(dtype: torch.dtype) -> None:
    """Scores with many ties, some infinite, and weights that are 0 already."""
    model = nn.Linear(40, 25, bias=False).to(dtype)
    scores = torch.randint(0, 6, (25, 40)).to(dtype)
    scores[scores == 5] = torch.inf
    with torch.no_grad():
        model.weight[torch.rand(25, 40) < 0.2] = 0
    before = model.weight.detach().clone()
    order = scores.where(before != 0, -torch.inf).flatten().sort(stable=True).indices
    for amount in (0.001, 0.1, 0.2, 0.35, 0.8, 0.999):
        expected = torch.ones(1000, dtype=torch.bool)
        expected[order[: round(1000 * amount)]] = False
        pruning.prune(model, {"weight": scores}, amount)
        assert torch.equal(model.weight != 0, expected.view(25, 40) & (before != 0))
        assert torch.equal(model.weight, before * (model.weight != 0))


def test_a_part_of_the_model() -> None:
    model = net()
    pruning.prune(model, {"0.weight": pruning.magnitude(model)["0.weight"]}, 0.5)
    assert counts(model) == [18, 0]


def test_what_does_not_fit_is_refused() -> None:
    model = net()
    scores = pruning.magnitude(model)
    for amount in (-0.1, 1.0, 90, "half", {"0.weight": 0.5}):
        with pytest.raises(FeedpropError, match="amount is a share"):
            pruning.prune(model, scores, amount)
    with pytest.raises(FeedpropError, match='scope must be "global" or "layer"'):
        pruning.prune(model, scores, 0.5, scope="row")
    with pytest.raises(FeedpropError, match=r"scores name 4\.weight"):
        pruning.prune(model, {"4.weight": torch.ones(1)}, 0.5)
    with pytest.raises(FeedpropError, match=r"the scores of 0\.weight have the shape \(4,\)"):
        pruning.prune(model, pruning.per_channel(scores), 0.5)
    with pytest.raises(FeedpropError, match=r"the scores of 3\.weight contain NaN"):
        pruning.prune(model, scores | {"3.weight": scores["3.weight"].fill_(torch.nan)}, 0.5)
    with pytest.raises(FeedpropError, match="scores is empty"):
        pruning.prune(model, {}, 0.5)
    assert counts(model) == [0, 0]


@pytest.mark.parametrize("composite", [None, rules.Composite(magnitude_floor=0.02)])
def test_a_floor_is_warned_about(composite: rules.Composite | None) -> None:
    model = feedprop.attach(net(), composite)
    with pytest.warns(UserWarning, match=r"magnitude_floor=0\.\d+, so pruned weights get feedback"):
        pruning.prune(model, pruning.magnitude(model), 0.5)
    model = feedprop.attach(net(), rules.presets.sparse())
    pruning.prune(model, pruning.magnitude(model), 0.5)


@pytest.mark.parametrize(
    "scores", [None, [torch.ones(2, 10)], {"weight": 1.0}, {"weight": None}], ids=["none", "list", "number", "of none"]
)
def test_scores_that_are_none_are_named(scores: object) -> None:
    with pytest.raises(FeedpropError, match=r"scores must be a dictionary .* not (NoneType|list|a dictionary of )"):
        pruning.prune(nn.Linear(10, 2), scores, 0.5)
    schedule = pruning.GradualPruning(nn.Linear(10, 2), 0.5, end=1, every=1, importance=lambda model: scores)
    with pytest.raises(FeedpropError, match="scores must be a dictionary"):
        schedule.step()
