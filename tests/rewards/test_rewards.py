"""Each reward by hand, against loops, at the edges, and at work."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attached, rewards, rules
from support import oracles
from support.propagation import CLOSE, Step, feedback_of, randomised

pytestmark = pytest.mark.usefixtures("float64")

S = math.log(3)  # softmax(0, ln 3) = (1/4, 3/4)
BY_HAND = [
    # outputs, targets, r_o
    (rewards.SoftmaxReward(), [[0.0, S]], [1], [[0.0, S / 4]]),
    (rewards.SoftmaxReward(), [[S, 2 * S]], [0], [[0.75 * S, -1.5 * S]]),
    (rewards.SigmoidReward(), [[S, -S]], [0], [[S / 4, S / 4]]),  # sigmoid(ln 3) = 3/4, of -ln 3 it is 1/4
    (rewards.SigmoidReward(), [[S, -S]], [[0.5, 1.0]], [[-S / 4, -0.75 * S]]),
    (rewards.SigmoidReward(), [S, -S], [1.0, 0.0], [S / 4, S / 4]),
    (rewards.BoundedSoftmaxReward(upper=0.7), [[S, 2 * S]], [1], [[-S / 4, 0.0]]),
    (rewards.BoundedSoftmaxReward(lower=0.3), [[S, 2 * S]], [1], [[0.0, S / 2]]),
    (rewards.BoundedSoftmaxReward(sign_only=True), [[-S, 0.0]], [1], [[0.25, 0.25]]),
    (rewards.CorrectnessReward(), [[1.0, -2.0], [1.0, 2.0], [-3.0, -1.0]], [0, 0, 1], [[1, 0], [0, 0], [0, -1.0]]),
    (rewards.MisclassificationReward(), [[1.0, -2.0, 3.0], [-3.0, -1.0, -2.0]], [0, 0], [[0, 0, -1.0], [0, 1, 1.0]]),
    (rewards.MaximizeReward(), [[S, -S], [S, -S]], [0, 1], [[0.25, 0.0], [0.0, -0.75]]),
    (rewards.MinimizeReward(), [[S, -S], [S, -S]], [0, 1], [[-0.25, 0.0], [0.0, 0.75]]),
    (rewards.ChoiceReward(), [[0.0, S], [0.0, S]], [True, False], [[0.0, S / 4], [0.0, -0.75 * S]]),
    (rewards.RegressionReward(), [[2.0], [-1.0]], [[5.0], [1.0]], [[6.0], [-2.0]]),
    (rewards.GivenReward(), [[2.0, 0.0]], [[1.0, -1.0]], [[1.0, -1.0]]),
]  # fmt: skip
PER_ELEMENT = (rewards.SigmoidReward, rewards.RegressionReward)  # "mean" divides as torch's losses of that shape do


@pytest.mark.parametrize(("reward", "outputs", "targets", "expected"), BY_HAND)
def test_by_hand(reward: rewards.Reward, outputs, targets, expected) -> None:
    outputs, targets, expected = torch.tensor(outputs), torch.tensor(targets), torch.tensor(expected)
    torch.testing.assert_close(reward.per_output(outputs, targets), expected, **CLOSE)
    value = reward(outputs.requires_grad_(), targets)
    assert value.shape == ()
    size = outputs.numel() if targets.shape == outputs.shape and type(reward) in PER_ELEMENT else len(outputs)
    torch.testing.assert_close(value, -expected.sum() / size, **CLOSE)
    summed = type(reward)(
        **{k: v for k, v in vars(reward).items() if k in ("lower", "upper", "sign_only")}, reduction="sum"
    )
    torch.testing.assert_close(summed(outputs, targets), -expected.sum(), **CLOSE)
    value.backward()
    divisible = torch.where(outputs == 0, 1.0, outputs).detach()
    credit = -outputs.grad * size
    torch.testing.assert_close((credit * divisible)[outputs != 0], expected[outputs != 0], **CLOSE)


LOOPS = {
    "softmax": rewards.SoftmaxReward(),
    "sigmoid": rewards.SigmoidReward(),
    "bounded": rewards.BoundedSoftmaxReward(lower=0.1, upper=0.6),
    "correct": rewards.CorrectnessReward(),
    "misclassification": rewards.MisclassificationReward(),
    "maximize": rewards.MaximizeReward(),
    "minimize": rewards.MinimizeReward(),
    "regression": rewards.RegressionReward(),
    "binary": rewards.SigmoidReward(),
}


@pytest.mark.parametrize("name", LOOPS)
@given(batch=st.integers(1, 4), classes=st.integers(2, 5), seed=st.integers(0, 2**16))
def test_loops_agree(name: str, batch: int, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    outputs = torch.randn(batch, classes, dtype=torch.float64) * 3
    soft = name in ("regression", "binary")
    targets = torch.rand_like(outputs) if soft else torch.randint(classes, (batch,))
    settings = {"lower": 0.1, "upper": 0.6} if name == "bounded" else {}
    expected = oracles.rewards_of(name, outputs, targets, **settings)
    torch.testing.assert_close(LOOPS[name].per_output(outputs, targets), expected, **CLOSE)


CLASS_REWARDS = [LOOPS[name] for name in ("softmax", "sigmoid", "bounded", "correct", "misclassification", "maximize")]


@pytest.mark.parametrize("reward", CLASS_REWARDS, ids=lambda reward: type(reward).__name__)
def test_ignored_targets_neither_count_nor_answer(reward: rewards.Reward) -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    targets = torch.tensor([0, -100, 2, -100])
    kept = outputs.detach()[::2].requires_grad_()
    reward(outputs, targets).backward()
    reward(kept, targets[::2]).backward()
    torch.testing.assert_close(reward(outputs, targets), reward(kept, targets[::2]), **CLOSE)
    torch.testing.assert_close(outputs.grad[::2], kept.grad, **CLOSE)
    assert (outputs.grad[1::2] == 0).all()
    everything = type(reward)(ignore_index=7)(torch.randn(2, 3), torch.tensor([7, 7]))
    assert everything == 0


@pytest.mark.parametrize("reward", CLASS_REWARDS, ids=lambda reward: type(reward).__name__)
def test_dense_prediction_is_a_batch_of_pixels(reward: rewards.Reward) -> None:
    outputs, targets = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    flat = reward.per_output(outputs.movedim(1, -1).reshape(-1, 3), targets.flatten())
    torch.testing.assert_close(reward.per_output(outputs, targets).movedim(1, -1).reshape(-1, 3), flat, **CLOSE)
    torch.testing.assert_close(reward(outputs, targets), -flat.sum() / 40, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOOPS)
def test_dtype_of_the_outputs_is_kept(name: str, dtype: torch.dtype) -> None:
    outputs = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    targets = torch.rand(4, 3) if name in ("regression", "binary") else torch.randint(3, (4,), dtype=torch.int32)
    value = LOOPS[name](outputs, targets)
    value.backward()
    assert outputs.grad.dtype == LOOPS[name].per_output(outputs, targets).dtype == dtype
    assert value.dtype == torch.promote_types(dtype, torch.float32)  # as losses under autocast
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("activation", [nn.ReLU(), Step(), nn.Hardtanh(0.0, 1.0), nn.ReLU6(inplace=True)], ids=str)
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_outputs_of_exactly_zero_are_rewarded_at_their_pre_activation(activation: nn.Module, epsilon: float) -> None:
    model = nn.Sequential(nn.Linear(3, 2), activation)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.5, 0.25, 1.0]]))
        model[0].bias.copy_(torch.tensor([-1.0, 0.1]))
    inputs, given = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[0.7, -0.2]])  # z = (-1.5, 1.85)
    z = oracles.forward(model[0], inputs)
    assert z[0, 0] < 0 < z[0, 1]
    shares, feedback = oracles.backward(model, inputs, given, epsilon)
    leaf = inputs.clone().requires_grad_()
    with attached(model, rules.Composite(rules.Epsilon(epsilon), activation=rules.Secant.published())):
        output = model(leaf)
        assert output[0, 0] == 0
        rewards.GivenReward(reduction="sum")(output, given).backward()
    torch.testing.assert_close(-leaf.grad * inputs, shares, **CLOSE)
    torch.testing.assert_close(feedback_of(model), feedback, **CLOSE)


def test_a_reward_that_was_overwritten_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.5, 0.25, 1.0]]))
    for rule in (rules.Epsilon(0.0), rules.Epsilon(0.1)):
        with attached(model, rule):
            output = model(torch.ones(1, 3))
            rewards.GivenReward()(output, torch.tensor([[0.0, 1.0]])).backward()
            with pytest.raises(FeedpropError, match="write the last ReLU without inplace"):
                rewards.GivenReward()(output, torch.tensor([[1.0, 1.0]]))


def test_the_published_softmax_credit_needs_no_division() -> None:
    outputs = torch.zeros(1, 2, requires_grad=True)
    rewards.SoftmaxReward()(outputs, torch.tensor([1])).backward()
    torch.testing.assert_close(-outputs.grad, torch.tensor([[-0.5, 0.5]]))


BAD = [
    (rewards.SoftmaxReward(), torch.randn(3, 2), torch.tensor([0, 1, 2]), "label 2 is out of range: the model has 2"),
    (rewards.SigmoidReward(), torch.randn(2, 2), torch.tensor([0, -1]), "label -1 is out of range"),
    (rewards.SoftmaxReward(), torch.randn(3, 2), torch.tensor([0, 1]), r"got \(3, 2\) and \(2,\)"),
    (rewards.CorrectnessReward(), torch.randn(3), torch.tensor([0, 1, 1]), "takes outputs"),
    (rewards.SoftmaxReward(), torch.randn(2, 2), torch.tensor([0.0, 1.0]), "pass targets.long"),
    (rewards.SoftmaxReward(), torch.randn(2, 2), torch.tensor([True, False]), "not torch.bool"),
    (rewards.RegressionReward(), torch.randn(3, 1), torch.randn(3), r"shaped like the outputs, got \(3,\)"),
    (rewards.ChoiceReward(), torch.randn(3, 2), torch.tensor([0, 1, 2]), "in .0, 1., not classes: pass chosen == cl"),
    (rewards.ChoiceReward(), torch.randn(3, 2), torch.tensor([True]), r"yes/no targets \(batch,\), got \(3, 2\)"),
    (rewards.GivenReward(), torch.randn(3, 2), torch.randn(2, 3), "shaped like the outputs"),
    (rewards.GivenReward(), torch.ones(3, 2, dtype=torch.long), torch.ones(3, 2), "outputs, not torch.int64"),
    (rewards.SoftmaxReward(), torch.randn(0, 2), torch.zeros(0, dtype=torch.long), "skip empty batches"),
    (rewards.GivenReward(), [1.0], torch.randn(1), "floating-point outputs, not list"),
]  # fmt: skip


@pytest.mark.parametrize(("reward", "outputs", "targets", "sentence"), BAD)
def test_bad_input_is_refused(reward: rewards.Reward, outputs, targets, sentence: str) -> None:
    with pytest.raises(FeedpropError, match=sentence):
        reward(outputs, targets)


@pytest.mark.parametrize(
    "settings", [{"reduction": "none"}, {"lower": 0.6, "upper": 0.4}, {"lower": -0.1}, {"upper": 1.1}], ids=str
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(FeedpropError, match="|".join(settings)):
        rewards.BoundedSoftmaxReward(**settings)


def test_every_reward_is_tried_here() -> None:
    tried = {type(reward) for reward, *_ in BY_HAND}
    named = {getattr(rewards, name) for name in rewards.__all__ if name.endswith("Reward")} - {
        rewards.Reward,
        rewards.ClassReward,
    }
    assert {reward for reward in named if "Spike" not in reward.__name__} == tried


def test_repr_names_the_reduction() -> None:
    assert repr(rewards.SoftmaxReward(reduction="sum")) == "SoftmaxReward(reduction='sum')"


class PublishedRegressionReward(rewards.Reward):
    """r = (target - o)^3 sign(o), a stopgap in the published code."""

    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = outputs.detach()
        return (targets - outputs) ** 3 * torch.where(outputs < 0, -1.0, 1.0)


def _r_squared(reward: rewards.Reward, rate: float) -> float:
    torch.manual_seed(4)
    inputs = torch.rand(256, 2) * 4 - 2
    targets = (inputs[:, :1] * inputs[:, 1:]).sin() + 0.3 * inputs[:, :1]
    model = randomised(nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with attached(model, rules.Epsilon()):
        for _ in range(600):
            optimizer.zero_grad()
            outputs = model(inputs)
            if not float(outputs.detach().abs().max()) < 1e9:
                return -math.inf  # diverged
            reward(outputs, targets).backward()
            optimizer.step()
    with torch.no_grad():
        error = F.mse_loss(model(inputs), targets)
    return float(1 - error / targets.var(unbiased=False))


def test_regression_reward_trains_where_the_published_formula_fails() -> None:
    assert all(_r_squared(rewards.RegressionReward(), rate) > 0.88 for rate in (0.01, 0.03))
    assert not any(_r_squared(PublishedRegressionReward(), rate) > 0.8 for rate in (0.001, 0.003, 0.01))


def test_yes_and_no_train_a_classifier() -> None:
    labels = torch.randint(2, (400,))
    inputs = torch.randn(400, 2) * 0.2 + labels[:, None] - 0.5
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    reward = rewards.GivenReward()
    with attached(model):
        for batch in (batch for _ in range(10) for batch in torch.randperm(400).split(50)):
            outputs = model(inputs[batch])
            choices = outputs.argmax(1)
            verdicts = torch.where(choices == labels[batch], 1.0, -1.0)  # a person says yes or no, and no more
            signs = torch.where(outputs.detach() < 0, -1.0, 1.0)  # r > 0 makes an output larger in size
            given = torch.zeros_like(outputs).scatter_(1, choices[:, None], verdicts[:, None]) * signs
            optimizer.zero_grad()
            reward(outputs, given).backward()
            optimizer.step()
    assert (model(inputs).argmax(1) == labels).double().mean() >= 0.98


CONTRACTS = {"Reward", "ClassReward"}  # of one's own, which may take any targets


@pytest.mark.parametrize("targets", [None, 1, [0, 1], torch.ones(2, 3) + 0j], ids=["none", "int", "list", "complex"])
@pytest.mark.parametrize("kind", sorted({name for name in rewards.__all__ if name.endswith("Reward")} - CONTRACTS))
def test_targets_that_are_no_real_tensor_are_named(kind: str, targets: object) -> None:
    reward = getattr(rewards, kind)()
    outputs = torch.ones(2, 2, 3) if isinstance(reward, rewards.SpikeReward) else torch.ones(2, 3)
    with pytest.raises(FeedpropError, match=rf"^{kind} takes targets as a tensor of real numbers, not "):
        reward(outputs.requires_grad_(), targets)


def test_spikes_that_are_no_tensors_are_refused() -> None:
    for wrong in ("spikes", [], [1.0]):
        with pytest.raises(FeedpropError, match="a list of one tensor for each step"):
            rewards.SpikeRateReward()(wrong, torch.tensor([0]))
