"""Importances against loops; importance scores for torch.nn.utils.prune."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.parametrizations import weight_norm

import feedprop
from feedprop import FeedpropError, pruning, rewards, rules


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def samples() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4), torch.tensor([0, 2, 1, 1, 0, 2])


def relevance_by_loops(model: nn.Sequential, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """LRP-0 of the named output, R_(i<-j) = a_i w_ij / z_j R_j, summed over samples; (outputs, inputs) per layer."""
    first, _, second = model
    sums = [torch.zeros_like(first.weight), torch.zeros_like(second.weight)]
    for x, target in zip(inputs, targets, strict=True):
        z1 = first(x)
        a1 = z1.clamp(min=0)
        z2 = second(a1)
        relevant = [float(z2[k]) if k == target else 0.0 for k in range(3)]
        hidden = [0.0] * 5
        for k in range(3):
            for j in range(5):
                share = float(a1[j] * second.weight[k, j] / z2[k]) * relevant[k]
                sums[1][k, j] += share
                hidden[j] += share
        for j in range(5):
            for i in range(4):
                if z1[j] > 0:
                    sums[0][j, i] += float(x[i] * first.weight[j, i] / z1[j]) * hidden[j]
    return sums


class Scaled(nn.Module):
    """A part of a vision transformer and of ConvNeXt, with what broadcasts: a token, positions, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.randn(1, 5, 4))
        self.scale, self.weight = nn.Parameter(torch.full((4, 1, 1), 1e-6)), nn.Parameter(torch.randn(4, 4))
        self.experts = nn.Parameter(torch.randn(2, 4, 4))
        self.norm, self.pointwise = nn.LayerNorm([4, 2, 2]), nn.Conv2d(1, 4, 1)
        self.pair = nn.Bilinear(2, 2, 1)
        self.depthwise, self.read = nn.Conv1d(4, 4, 1, groups=4), nn.Linear(4, 1)
        self.relative_position_bias_table = nn.Parameter(torch.randn(9, 2))  # as in torchvision's Swin
        self.positional_embedding, self.rel_pos_h = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5, 4))
        self.attention_biases, self.composition = nn.Parameter(torch.randn(2, 9)), nn.Parameter(torch.randn(4, 4))


def test_what_is_no_weight_of_a_linear_operation_is_not_pruned_by_default() -> None:
    layers = ["pointwise.weight", "pair.weight", "depthwise.weight", "read.weight"]
    expected = ["weight", "experts", "composition", *layers]
    assert list(pruning.prunable(Scaled())) == expected
    assert pruning.sparsity(Scaled()) == 0.0


@pytest.mark.usefixtures("float64")
def test_relevance_is_that_of_loops() -> None:
    model, (inputs, targets) = mlp(), samples()
    with torch.no_grad():
        expected = relevance_by_loops(model, inputs, targets)
    batches = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
    found = pruning.relevance(model, batches, signed=True)
    assert list(found) == ["0.weight", "2.weight"]
    torch.testing.assert_close(list(found.values()), expected)
    channels = pruning.per_channel(found)
    torch.testing.assert_close(channels["0.weight"], expected[0].sum(1))
    unsigned = pruning.relevance(model, batches)
    torch.testing.assert_close(list(unsigned.values()), [values.abs() for values in expected])


@pytest.mark.usefixtures("float64")
def test_relevance_is_conserved_without_biases() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5, bias=False), nn.Identity()
    )
    inputs, targets = torch.randn(4, 1, 6, 6), torch.tensor([0, 4, 2, 2])
    total = model(inputs).gather(1, targets.unsqueeze(1)).sum()
    for values in pruning.relevance(model, [(inputs, targets)], signed=True).values():
        torch.testing.assert_close(values.sum(), total.detach())


def test_relevance_leaves_the_model_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    inputs, targets = samples()
    model(inputs).sum().backward()
    state = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    plain = pruning.relevance(model, [(inputs, targets)])
    assert model.training
    torch.testing.assert_close(model.state_dict(), state)
    torch.testing.assert_close([p.grad for p in model.parameters()], grads)
    feedprop.attach(model)  # with a floor and relative magnitudes, which do not count
    torch.testing.assert_close(pruning.relevance(model, [(inputs, targets)]), plain)
    feedprop.detach(model)


def test_frozen_weights_have_relevance_and_no_feedback() -> None:
    model, (inputs, targets) = mlp(), samples()
    expected = pruning.relevance(model, [(inputs, targets)])
    model[0].requires_grad_(False)
    torch.testing.assert_close(pruning.relevance(model, [(inputs, targets)]), expected)
    assert not model[0].weight.requires_grad
    feedprop.attach(model)
    with pruning.AccumulatedFeedback(model) as feedback:
        rewards.SoftmaxReward()(model(inputs), targets).backward()
    assert list(feedback.scores) == ["2.weight"]


def test_relevance_for_a_reward_and_by_a_rule() -> None:
    model, (inputs, targets) = mlp(), samples()
    reward, gamma = rewards.SoftmaxReward(), rules.Gamma(0.25)
    for composite in (None, gamma):
        found = pruning.relevance(model, [(inputs, targets)], reward, composite=composite)
        with feedprop.attached(model, rules.Composite(composite)):
            reward(model(inputs), targets).backward()  # the feedback, |w c|, by plain magnitudes
        for name, values in found.items():
            torch.testing.assert_close(values, model.get_parameter(name).grad.abs())
        model.zero_grad()
    default = pruning.relevance(model, [(inputs, targets)], composite=rules.presets.training())  # its floor, its scale
    plain = rules.presets.training().replace(relative_magnitude=False, magnitude_floor=0.0)
    torch.testing.assert_close(default, pruning.relevance(model, [(inputs, targets)], composite=plain))
    assert not torch.allclose(found["0.weight"], pruning.relevance(model, [(inputs, targets)], reward)["0.weight"])


def test_relevance_refuses_what_it_cannot_sum() -> None:
    with pytest.raises(FeedpropError, match="at least one batch"):
        pruning.relevance(mlp(), [])
    model = nn.Linear(6, 3)
    for wrong in (-1, 3):
        with pytest.raises(FeedpropError, match=f"target of relevance.. is {wrong}, but .* outputs 0 to 2"):
            pruning.relevance(model, [(torch.randn(5, 6), torch.full((5,), wrong))])
    with pytest.raises(FeedpropError, match="give it an objective"):
        pruning.relevance(nn.Linear(4, 3), [(torch.randn(2, 5, 4), torch.tensor([0, 1]))])


def test_magnitude_names_the_weights_alone() -> None:
    model = nn.ModuleDict(
        {
            "words": nn.Embedding(3, 4),
            "norm": nn.LayerNorm(4),
            "conv": nn.Conv1d(4, 2, 3),
            "normed": weight_norm(nn.Linear(2, 2)),
            "lstm": nn.LSTM(2, 2),
        }
    )
    found = pruning.magnitude(model)
    assert list(found) == ["conv.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert torch.equal(found["conv.weight"], model["conv"].weight.detach().abs())
    assert not found["conv.weight"].requires_grad


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("signed", "decay"), [(False, 1.0), (True, 1.0), (False, 0.9), (True, 0.5)])
def test_feedback_is_summed_over_backward_passes(signed: bool, decay: float) -> None:
    model = feedprop.attach(mlp(), rules.presets.sparse())
    inputs, targets = samples()
    reward, optimizer = rewards.SoftmaxReward(), torch.optim.SGD(model.parameters(), 0.1)
    expected = torch.zeros(5, 4)
    with pruning.AccumulatedFeedback(model, signed=signed, decay=decay) as feedback:
        for _ in range(3):
            optimizer.zero_grad()
            reward(model(inputs), targets).backward()
            expected *= decay
            expected += -model[0].weight.grad if signed else model[0].weight.grad.abs()
            optimizer.step()
    reward(model(inputs), targets).backward()  # after the block, which does not count
    assert feedback.passes == 3
    torch.testing.assert_close(feedback.scores["0.weight"], expected)
    assert expected.any()


def test_feedback_counts_each_pass_of_accumulated_batches() -> None:
    model = feedprop.attach(mlp())
    inputs, targets = samples()
    with pruning.AccumulatedFeedback(model) as feedback:
        for rows in (slice(3), slice(3, 6)):
            rewards.SoftmaxReward()(model(inputs[rows]), targets[rows]).backward()  # .grad adds up
        twice = feedback.scores["2.weight"]
    model.zero_grad()
    rewards.SoftmaxReward()(model(inputs[:3]), targets[:3]).backward()
    first = model[2].weight.grad.abs().clone()
    model.zero_grad()
    rewards.SoftmaxReward()(model(inputs[3:]), targets[3:]).backward()
    torch.testing.assert_close(twice, first + model[2].weight.grad.abs())


def test_feedback_is_refused_where_there_is_none() -> None:
    with pytest.raises(FeedpropError, match="needs an attached model"), pruning.AccumulatedFeedback(mlp()):
        pass
    for decay in (0.0, 1.5, float("nan")):
        with pytest.raises(FeedpropError, match="0 < decay <= 1"):
            pruning.AccumulatedFeedback(mlp(), decay=decay)
    with (
        pruning.AccumulatedFeedback(feedprop.attach(mlp())) as feedback,
        pytest.raises(FeedpropError, match="no feedback was accumulated"),
    ):
        _ = feedback.scores


def test_scores_for_torch_prune() -> None:
    model = mlp()
    scores = pruning.relevance(model, [samples()])
    expected = pruning.prune(copy.deepcopy(model), scores, 0.6)
    arguments = pruning.torch_prune_scores(model, scores)
    torch_prune.global_unstructured(list(arguments), torch_prune.L1Unstructured, arguments, amount=0.6)
    torch.testing.assert_close([model[0].weight, model[2].weight], [expected[0].weight, expected[2].weight])
    single = mlp()
    scores = pruning.torch_prune_scores(single, pruning.magnitude(single))[single[0], "weight"]
    torch_prune.l1_unstructured(single[0], "weight", 0.5, importance_scores=scores)
    assert int((single[0].weight == 0).sum()) == 10


def test_batches_that_are_no_pairs() -> None:
    inputs, targets = torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(FeedpropError, match=r"pairs \(inputs, targets\), such as .*shape \(4, 3\)"):
        pruning.relevance(nn.Linear(3, 2), (inputs, targets))
