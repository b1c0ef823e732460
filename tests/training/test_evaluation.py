"""Figures by hand: the read-out of spikes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from feedprop.errors import FeedpropError
from feedprop.rewards import ChoiceReward, GivenReward, SigmoidReward, SoftmaxReward
from feedprop.training.evaluation import Objective, evaluate
from feedprop.training.tasks import Classification

TASK = Classification(("a", "b"))


def test_classes_are_read_out_by_spike_count():
    """Also where processes gather along the first dimension, and cut a last batch to its samples."""
    spikes = torch.zeros(4, 3, 2)
    spikes[:, 0, 1], spikes[:3, 1, 0], spikes[3, 1, 1], spikes[0, 2, 1] = 1, 1, 1, 1  # 4 to 0, 1 to 3, 1 to 0

    class Network(torch.nn.Module):
        def forward(self, inputs):
            return spikes

    seen = []

    def gather(pair):
        seen.append(tuple(pair[0].shape))
        return tuple(part[:2] for part in pair)

    objective = Objective(GivenReward(), "reward", -1, TASK)
    objective.module.forward = lambda outputs, targets: outputs.sum() * 0 + outputs.shape[1]
    found = evaluate(
        Network(), [(torch.zeros(3, 2), torch.tensor([1, 0, 0]))], objective=objective,
        device=torch.device("cpu"), gather=gather,
    )  # fmt: skip
    assert seen == [(3, 4, 2)]
    assert found.score == found.figures["accuracy"] == 1.0
    assert found.objective == -2
    assert found.figures["confusion"] == [[1, 0], [0, 1]]


def test_the_losses_beside_an_objective_by_hand():
    outputs, targets = torch.tensor([[0.0, 0.0], [1000.0, 0.0]]), torch.tensor([1, 0])
    softmax, sigmoid = Objective(SoftmaxReward(), "reward", -1, TASK), Objective(SigmoidReward(), "reward", -1, TASK)
    assert softmax.losses == ("cross_entropy",)
    assert softmax.compute_losses(outputs, targets) == pytest.approx((math.log(2) / 2,))
    assert sigmoid.losses == ("cross_entropy", "binary_cross_entropy")
    assert sigmoid.compute_losses(outputs, targets) == pytest.approx((math.log(2) / 2, 3 * math.log(2) / 4))
    spikes = torch.stack([outputs / 2, outputs / 2])
    assert softmax.compute_losses(spikes, targets) == pytest.approx((math.log(2) / 2,))


def test_all_methods_show_the_same_loss():
    """Whatever they minimise: a figure that only some of them have cannot be compared."""
    smooth = Objective(nn.CrossEntropyLoss(label_smoothing=0.5), "loss", 1, TASK)
    model, batches = nn.Identity(), [(3 * torch.eye(2), torch.tensor([0, 1]))]
    found = [
        evaluate(model, batches, objective=objective, device=torch.device("cpu"))
        for objective in (smooth, Objective(SoftmaxReward(), "reward", -1, TASK))
    ]
    assert found[0].losses == found[1].losses
    assert found[0].losses["cross_entropy"] == pytest.approx(math.log(1 + math.exp(-3)))
    assert found[0].objective > found[0].losses["cross_entropy"]


def test_a_choice_is_told_yes_or_no_and_explores_in_training_only():
    torch.manual_seed(0)
    outputs, targets = torch.zeros(500, 2, requires_grad=True), torch.zeros(500, dtype=torch.long)
    objective = Objective(ChoiceReward(), "reward", -1, TASK)
    objective(outputs, targets).backward()
    assert outputs.grad is not None
    tried = outputs.grad != 0
    assert (tried.sum(1) == 1).all()  # of the other class nothing is known
    assert 200 < int(tried[:, 1].sum()) < 300  # both are drawn; the largest output alone would be class 0
    right = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    with torch.no_grad():
        value = objective(right, torch.tensor([0, 0]))  # o (right - p) with p = sigmoid(2) = .8808
    assert value == pytest.approx(-(2 * (1 - 0.8808) - 2 * 0.8808) / 2, abs=1e-3)


def test_labels_are_not_taken_for_scores_where_there_are_as_many_samples_as_classes():
    with pytest.raises(FeedpropError, match="the loss SoftMarginLoss does not fit outputs of shape"):
        Objective(nn.SoftMarginLoss(), "loss", 1, TASK).check(torch.zeros(2, 2), torch.tensor([0, 1]))


def test_outputs_that_are_nan_have_no_accuracy():
    model = nn.Linear(2, 2)
    model.weight.data.fill_(float("nan"))
    batches = [(torch.ones(3, 2), torch.tensor([0, 1, 0]))]
    objective = Objective(nn.CrossEntropyLoss(), "loss", 1, TASK)
    with pytest.raises(FeedpropError, match="outputs of the model are NaN"):
        evaluate(model, batches, objective=objective, device=torch.device("cpu"))
