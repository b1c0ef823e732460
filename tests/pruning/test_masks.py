"""Models with masks of torch.nn.utils.prune: what is masked is 0, for importances, amounts, counts and folding."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import feedprop
from feedprop import FeedpropError, pruning, rewards, rules

NAMES = ["0.weight_orig", "4.weight_orig"]  # 36 and 576 weights


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    nn.init.constant_(model[1].bias, 0.1)  # from 0 it could not learn without a floor
    return model


def masked(share: float = 0.5) -> nn.Sequential:
    model = net()
    for layer in (model[0], model[4]):
        torch_prune.l1_unstructured(layer, "weight", share)
    return model


def baked(model: nn.Sequential) -> nn.Sequential:
    """The same model without masks: the weights that it uses."""
    plain = net()
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(("_orig", "_mask"))}
    state |= {f"{place}.weight": model[place].weight_orig * model[place].weight_mask for place in (0, 4)}
    plain.load_state_dict(state)
    return plain


def samples() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 1, 8, 8), torch.tensor([0, 3, 1, 1, 2])


def test_magnitudes_relevance_and_feedback_are_those_of_the_model_without_masks() -> None:
    model, (inputs, targets) = masked(), samples()
    plain = baked(model)
    for scores in (pruning.magnitude, lambda model: pruning.relevance(model, [(inputs, targets)])):
        found = scores(model)
        assert list(found) == NAMES
        torch.testing.assert_close(list(found.values()), list(scores(plain).values()))
    accumulated = []
    for one in (model, plain):
        feedprop.attach(one, rules.presets.sparse())
        with pruning.AccumulatedFeedback(one) as feedback:
            rewards.SoftmaxReward()(one(inputs), targets).backward()
        accumulated.append(list(feedback.scores.values()))
    torch.testing.assert_close(*accumulated)


def test_masked_weights_count_as_zeros() -> None:
    model = masked()
    assert pruning.sparsity(model) == 0.5
    for amount in (0.6, 0.8):
        pruning.prune(model, pruning.magnitude(model), amount)
        zeros = sum(int((model[place].weight == 0).sum()) for place in (0, 4))  # at once, before a forward pass
        assert zeros == round(amount * 612)
        assert pruning.sparsity(model) == zeros / 612
        model(samples()[0])
        assert sum(int((model[place].weight == 0).sum()) for place in (0, 4)) == zeros


def test_scores_for_torch_prune_go_on_from_its_masks() -> None:
    model = masked()
    scores = pruning.torch_prune_scores(model, pruning.magnitude(model))
    assert list(scores) == [(model[0], "weight"), (model[4], "weight")]
    torch_prune.global_unstructured(list(scores), torch_prune.L1Unstructured, scores, amount=0.5)  # of the others
    assert [name for name, _ in model.named_parameters() if "weight_orig" in name] == NAMES
    assert pruning.sparsity(model) == 0.75


def test_gradual_pruning_reaches_its_amount() -> None:
    model, (inputs, targets) = masked(), samples()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = pruning.GradualPruning(model, 0.8, end=4, every=2)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    model(inputs)
    assert sum(int((model[place].weight == 0).sum()) for place in (0, 4)) == round(0.8 * 612)


def test_what_a_mask_holds_stays_pruned_however_it_is_trained() -> None:
    model = masked()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruning.check_stays_pruned(model, optimizer)  # by gradients
    feedprop.attach(model)  # with a floor
    pruning.check_stays_pruned(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruning.prune(model, pruning.magnitude(model), 0.6)  # more than the masks hold
    with pytest.raises(FeedpropError, match="magnitude_floor"):
        pruning.check_stays_pruned(model, optimizer)


def test_folding_writes_the_masks_into_the_weights() -> None:
    model, (inputs, _) = masked(), samples()
    for _ in range(3):
        model(inputs)
    folded = pruning.fold_batch_norms(model, inputs)
    assert isinstance(folded[1], nn.Identity)
    assert pruning.sparsity(folded) == 0.5
    torch.testing.assert_close(folded(inputs), model.eval()(inputs))
    assert torch_prune.is_pruned(model)  # it stays as it was


def test_channels_are_not_removed_below_masks() -> None:
    with pytest.raises(FeedpropError, match=r"0\.weight_orig.*prune\.remove"):
        pruning.ChannelImportance(masked(), pruning.magnitude)


@pytest.mark.parametrize("merge_batch_norm", [False, True])
def test_relevance_of_inputs_is_that_of_the_model_without_masks(merge_batch_norm: bool) -> None:
    model, (inputs, targets) = masked(), samples()
    model(inputs)
    rule = rules.Epsilon(0.1)
    found, expected = (
        feedprop.relevance(one.eval(), inputs, targets, rule, merge_batch_norm=merge_batch_norm).inputs
        for one in (model, baked(model))
    )
    torch.testing.assert_close(found, expected)


def test_a_masked_model_can_be_checked() -> None:
    inputs, targets = samples()
    model = masked()
    model(inputs)
    state = copy.deepcopy(model.state_dict())
    assert feedprop.check(model.eval(), inputs, targets).problems == ()
    torch.testing.assert_close(model.state_dict(), state)
