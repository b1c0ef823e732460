"""ChoiceReward by hand, with a choice of one's own."""

import math

import pytest
import torch
from torch import Tensor

from feedprop import FeedpropError, rewards
from support.propagation import CLOSE

pytestmark = pytest.mark.usefixtures("float64")


def test_choice_reward_by_hand() -> None:
    # outputs (0, ln 3): softmax (1/4, 3/4); chosen 0 and right: 3/4 of credit there, times an output of 0 no reward
    outputs, right = torch.tensor([[0.0, math.log(3)]] * 3, requires_grad=True), torch.tensor([True, True, False])
    reward, chosen = rewards.ChoiceReward(reduction="sum"), torch.tensor([0, 1, 1])
    s = math.log(3)
    expected = torch.tensor([[0.0, 0.0], [0.0, s / 4], [0.0, -0.75 * s]])
    torch.testing.assert_close(reward.per_output(outputs, right, chosen=chosen), expected, **CLOSE)
    value = reward(outputs, right, chosen=chosen)
    torch.testing.assert_close(value, -expected.sum(), **CLOSE)
    value.backward()
    torch.testing.assert_close(-outputs.grad, torch.tensor([[0.75, 0.0], [0.0, 0.25], [0.0, -0.75]]), **CLOSE)
    mean = rewards.ChoiceReward()(outputs, right, chosen=chosen)
    torch.testing.assert_close(mean, value / 3, **CLOSE)
    own = rewards.ChoiceReward()(outputs, right, chosen=outputs.argmax(1))
    torch.testing.assert_close(own, rewards.ChoiceReward()(outputs, right), **CLOSE)


@pytest.mark.parametrize(
    "wrong",
    [torch.tensor([0, 1]), torch.tensor([[0], [1], [0]]), torch.tensor([0.0, 1.0, 0.0]), torch.tensor([True] * 3)],
)
def test_wrong_choices_are_refused(wrong: Tensor) -> None:
    with pytest.raises(FeedpropError, match=r"chosen must be classes \(batch,\) as integers"):
        rewards.ChoiceReward()(torch.randn(3, 2), torch.ones(3, dtype=torch.bool), chosen=wrong)


def test_a_choice_that_is_no_class_is_refused() -> None:
    with pytest.raises(FeedpropError, match="label 2 is out of range: the model has 2 outputs"):
        rewards.ChoiceReward()(torch.randn(3, 2), torch.ones(3), chosen=torch.tensor([0, 1, 2]))
