"""The engine and the loops of `support.oracles` both reproduce every published case of feedback."""

import pytest
import torch

from feedprop import attached, rewards, rules
from support import oracles
from support.propagation import CLOSE, feedback_of
from support.published import Case, cases

pytestmark = pytest.mark.usefixtures("float64")

LFP = cases("lfp")
REWARDS = {
    "softmax": rewards.SoftmaxReward,
    "sigmoid": rewards.SigmoidReward,
    "misclassification": rewards.MisclassificationReward,
    "correct": rewards.CorrectnessReward,
}


def named(case: Case) -> str:
    return case.name


def test_no_case_is_missing() -> None:
    assert {kind: len(cases(kind)) for kind in ("lfp", "lrp", "snn")} == {"lfp": 26, "lrp": 14, "snn": 4}


@pytest.mark.parametrize("case", LFP, ids=named)
def test_engine_reproduces_published_feedback(case: Case) -> None:
    expected, model = case.tensors(), case.model()
    reward = REWARDS[case.settings["reward"]](reduction="sum")
    inputs = expected["input"].clone().requires_grad_()
    with attached(model, rules.Composite(rules.Epsilon(case.settings["epsilon"]), activation=rules.Secant.published())):
        output = model(inputs)
        value = reward(output, expected["target"])
        value.backward()
    torch.testing.assert_close(output, expected["output"], **CLOSE)
    torch.testing.assert_close(reward.per_output(output, expected["target"]), expected["reward"], **CLOSE)
    torch.testing.assert_close(value, -expected["reward"].sum(), **CLOSE)
    torch.testing.assert_close(-inputs * inputs.grad, expected["input_reward"], **CLOSE)
    torch.testing.assert_close(feedback_of(model), case.part("feedback"), **CLOSE)


@pytest.mark.parametrize("case", LFP, ids=named)
def test_loops_reproduce_published_feedback(case: Case) -> None:
    expected, model = case.tensors(), case.model()
    output = oracles.forward(model, expected["input"])
    given = oracles.rewards_of(case.settings["reward"], output, expected["target"])
    shares, feedback = oracles.backward(model, expected["input"], given, case.settings["epsilon"])
    torch.testing.assert_close(output, expected["output"], **CLOSE)
    torch.testing.assert_close(given, expected["reward"], **CLOSE)
    torch.testing.assert_close(shares, expected["input_reward"], **CLOSE)
    torch.testing.assert_close(feedback, case.part("feedback"), **CLOSE)


def test_a_wrong_epsilon_is_noticed() -> None:
    case = LFP[0]
    with pytest.raises(AssertionError):
        test_engine_reproduces_published_feedback(
            Case(case.name, case.kind, case.spec, case.settings | {"epsilon": 2e-6})
        )
