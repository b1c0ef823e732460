"""Class rewards divide, weigh, smooth and ignore as torch's losses do, to the last digits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from feedprop import FeedpropError, attached, rewards, rules

EXACT = {"rtol": 1e-12, "atol": 1e-14}
SHAPES = [(4, 3), (5,), (1, 2), (2, 4, 3), (3, 2, 2, 5)]
CLASS_REWARDS = [
    rewards.SoftmaxReward,
    rewards.SigmoidReward,
    rewards.BoundedSoftmaxReward,
    rewards.CorrectnessReward,
    rewards.MisclassificationReward,
    rewards.MaximizeReward,
    rewards.MinimizeReward,
]
every_class_reward = pytest.mark.parametrize("kind", CLASS_REWARDS, ids=lambda kind: kind.__name__)
reductions = st.sampled_from(["mean", "sum"])


def _gradient(loss: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = outputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(outputs, targets), outputs)
    return gradient


def _outputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64) * 3


def _classes(shape: tuple[int, ...]) -> Tensor:
    dim = min(1, len(shape) - 1)
    return torch.randint(shape[dim], shape[:dim] + shape[dim + 1 :])


@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**16),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    ignored=st.sampled_from([-100, 0, 1]),
    reduction=reductions,
)
def test_softmax_reward_of_classes_is_cross_entropy(shape, seed, weighted, smoothing, ignored, reduction) -> None:
    torch.manual_seed(seed)
    outputs, targets = _outputs(shape), _classes(shape)
    settings = {"ignore_index": ignored, "label_smoothing": smoothing, "reduction": reduction}
    if weighted:
        settings["weight"] = torch.rand(shape[min(1, len(shape) - 1)], dtype=torch.float64)
    if ignored == -100 and targets.ndim:
        targets[torch.rand(targets.shape) < 0.3] = -100
    expected = _gradient(nn.CrossEntropyLoss(**settings), outputs, targets)
    if (targets == ignored).all():
        expected = torch.zeros_like(outputs)  # "mean" of nothing is nan in torch
    torch.testing.assert_close(_gradient(rewards.SoftmaxReward(**settings), outputs, targets), expected, **EXACT)


@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**16),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    normalised=st.booleans(),
    reduction=reductions,
)
def test_softmax_reward_of_probabilities_is_cross_entropy(
    shape, seed, weighted, smoothing, normalised, reduction
) -> None:
    torch.manual_seed(seed)
    outputs, dim = _outputs(shape), min(1, len(shape) - 1)
    targets = _outputs(shape).softmax(dim) if normalised else torch.rand(shape, dtype=torch.float64)
    settings = {"label_smoothing": smoothing, "reduction": reduction}
    if weighted:
        settings["weight"] = torch.rand(shape[dim], dtype=torch.float64)
    expected = _gradient(nn.CrossEntropyLoss(**settings), outputs, targets)
    torch.testing.assert_close(_gradient(rewards.SoftmaxReward(**settings), outputs, targets), expected, **EXACT)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_one_number_is_a_batch_of_its_own(target: float) -> None:
    """What a model with one output returns after .squeeze() for the last sample of an epoch."""
    outputs, targets = torch.randn((), dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    expected = _gradient(nn.BCEWithLogitsLoss(), outputs, targets)
    torch.testing.assert_close(_gradient(rewards.SigmoidReward(), outputs, targets), expected, **EXACT)


@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**16),
    weight=st.sampled_from([None, "element", "last", "sample"]),
    positive=st.booleans(),
    reduction=reductions,
)
def test_sigmoid_reward_is_binary_cross_entropy(shape, seed, weight, positive, reduction) -> None:
    torch.manual_seed(seed)
    outputs, targets = _outputs(shape), torch.rand(shape, dtype=torch.float64)
    sizes = {"element": shape, "last": shape[-1:], "sample": (shape[0], *[1] * (len(shape) - 1))}
    settings = {
        "weight": None if weight is None else torch.rand(sizes[weight], dtype=torch.float64),
        "pos_weight": torch.rand(shape[-1], dtype=torch.float64) * 3 if positive else None,
        "reduction": reduction,
    }
    expected = _gradient(nn.BCEWithLogitsLoss(**settings), outputs, targets)
    torch.testing.assert_close(_gradient(rewards.SigmoidReward(**settings), outputs, targets), expected, **EXACT)


@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**16), reduction=reductions)
def test_regression_reward_is_half_the_squared_error(shape, seed, reduction) -> None:
    torch.manual_seed(seed)
    outputs, targets = _outputs(shape), _outputs(shape)
    expected = _gradient(nn.MSELoss(reduction=reduction), outputs, targets) / 2
    found = _gradient(rewards.RegressionReward(reduction=reduction), outputs, targets)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.usefixtures("float64")
def test_sigmoid_reward_of_classes_divides_by_the_targets() -> None:
    outputs, targets, positive = torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), torch.tensor([2.0, 0.5, 1.0])
    reward = rewards.SigmoidReward(pos_weight=positive, ignore_index=2)
    expected = _gradient(
        nn.BCEWithLogitsLoss(pos_weight=positive, reduction="sum"), outputs, F.one_hot(targets, 3).double()
    )
    expected[2] = 0
    torch.testing.assert_close(_gradient(reward, outputs, targets), expected / 3, **EXACT)


def _ways(reward: rewards.Reward, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Credit at the outputs, or r_o, on each path."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda o, y: reward(o, y), backend="aot_eager", fullgraph=True)
    return {
        "forward": _gradient(reward, outputs, targets),
        "compiled": _gradient(compiled, outputs, targets),
        "torch.func": torch.func.grad(lambda o: reward(o, targets))(outputs),
        "credit": -reward.credit(outputs, targets),
        "per_output": reward.per_output(outputs, targets),
    }


@every_class_reward
@pytest.mark.parametrize("ignored", [0, 2])
@pytest.mark.usefixtures("float64")
def test_a_class_may_be_ignored_on_every_path(kind: type, ignored: int) -> None:
    outputs, targets = torch.randn(12, 3), torch.arange(12) % 3
    kept = targets != ignored
    reward = kind(ignore_index=ignored, reduction="sum")
    wanted = _ways(kind(reduction="sum"), outputs[kept], targets[kept])
    for way, found in _ways(reward, outputs, targets).items():
        assert (found[~kept] == 0).all(), way
        torch.testing.assert_close(found[kept], wanted[way], **EXACT)
    mean = kind(ignore_index=ignored)
    torch.testing.assert_close(mean(outputs, targets), reward(outputs, targets) / 8)


@pytest.mark.parametrize("kind", [kind for kind in CLASS_REWARDS if kind is not rewards.SigmoidReward])
@pytest.mark.usefixtures("float64")
def test_a_weight_of_classes_multiplies_rewards(kind: type) -> None:
    outputs, targets, weight = torch.randn(6, 3), torch.arange(6) % 3, torch.tensor([0.5, 0.0, 3.0])
    plain = kind().per_output(outputs, targets)
    reward = kind(weight=weight)
    torch.testing.assert_close(reward.per_output(outputs, targets), plain * weight[targets, None], **EXACT)
    torch.testing.assert_close(reward(outputs, targets), -(plain * weight[targets, None]).sum() / 7, **EXACT)


@every_class_reward
@pytest.mark.usefixtures("float64")
def test_a_sample_by_itself_is_a_batch_of_one(kind: type) -> None:
    outputs, targets = torch.randn(5, 3), torch.tensor([0, -100, 2, 1, 1])
    reward = kind()
    alone = torch.stack([_gradient(reward, row, target) for row, target in zip(outputs, targets, strict=True)])
    batch = torch.stack(
        [_gradient(reward, row[None], target[None])[0] for row, target in zip(outputs, targets, strict=True)]
    )
    torch.testing.assert_close(alone, batch, **EXACT)
    mapped = torch.func.vmap(torch.func.grad(lambda o, y: reward(o, y)))(outputs, targets)
    torch.testing.assert_close(mapped, batch, **EXACT)


def test_weights_move_with_the_reward() -> None:
    reward = rewards.SigmoidReward(weight=[1, 2], pos_weight=[3.0, 4.0])
    assert set(reward.state_dict()) == {"weight", "pos_weight"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_mean_in_half_precision_may_be_over_many_targets(dtype: torch.dtype, compiled: bool) -> None:
    """70,000 is more than float16 can hold; the gradient scaler of autocast multiplies before the conversion."""
    outputs, targets = torch.randn(1, 2, 70_000, dtype=dtype), torch.randint(2, (1, 70_000))
    reward = rewards.SoftmaxReward(ignore_index=1)
    run = torch.compile(lambda o, y: reward(o, y), backend="aot_eager", fullgraph=True) if compiled else reward
    found = _gradient(lambda o, y: run(o, y) * 2**16, outputs, targets)
    expected = _gradient(nn.CrossEntropyLoss(ignore_index=1), outputs.float(), targets) * 2**16
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=1e-4)


REFUSED = [
    ({"weight": [1.0, 2.0]}, torch.tensor([0, 1]), r"one number for each of 3 classes, got shape \(2,\)"),
    ({"ignore_index": 1}, torch.rand(2, 3), "ignore_index=1 needs classes as targets, not probabilities"),
    ({}, torch.rand(2), r"probabilities shaped like the outputs \(2, 3\), not torch.float32 \(2,\): pass targets.long"),
    ({}, torch.rand(2, 2), r"probabilities shaped like the outputs \(2, 3\)"),
    ({}, torch.ones(2, 3, dtype=torch.long), r"targets \(batch, ...\), got \(2, 3\) and \(2, 3\)"),
]


@pytest.mark.parametrize(("settings", "targets", "sentence"), REFUSED)
def test_what_softmax_reward_refuses(settings: dict, targets: Tensor, sentence: str) -> None:
    with pytest.raises(FeedpropError, match=sentence):
        rewards.SoftmaxReward(**settings)(torch.randn(2, 3), targets)


@every_class_reward
@pytest.mark.parametrize(
    ("targets", "remedy"),
    [
        (F.one_hot(torch.tensor([0, 2, 1, 2]), 3), "; if they are one-hot, pass targets.argmax(1)"),
        (torch.tensor([[0], [2], [1], [2]]), ": pass targets.view(4,)"),
        (torch.tensor([0, 2, 1]), ""),
    ],
    ids=["one-hot", "in a column", "too few"],
)
def test_targets_of_another_shape_name_the_line_that_helps(kind, targets: Tensor, remedy: str) -> None:
    if kind is rewards.SigmoidReward and remedy.startswith(";"):
        pytest.skip("it takes several labels")
    with pytest.raises(FeedpropError) as caught:
        kind()(torch.randn(4, 3), targets)
    assert str(caught.value).endswith(f"got (4, 3) and {tuple(targets.shape)}{remedy}")


@pytest.mark.parametrize("weight", [None, [1.0]])
def test_a_single_number_is_refused(weight) -> None:
    with pytest.raises(FeedpropError, match="got a single number"):
        rewards.SoftmaxReward(weight=weight)(torch.tensor(1.0), torch.tensor(1.0))


def test_settings_that_are_refused() -> None:
    with pytest.raises(FeedpropError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        rewards.SoftmaxReward(label_smoothing=1.5)
    for name in ("weight", "pos_weight"):
        with pytest.raises(FeedpropError, match=rf"{name} of shape \(2,\) must broadcast to the outputs \(4, 3\)"):
            rewards.SigmoidReward(**{name: [1.0, 2.0]})(torch.randn(4, 3), torch.rand(4, 3))
    with pytest.raises(TypeError, match="label_smoothing"):
        rewards.CorrectnessReward(label_smoothing=0.1)


SIGNED = [rewards.CorrectnessReward, rewards.MisclassificationReward, rewards.MaximizeReward, rewards.MinimizeReward]


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_centred_outputs_and_bounded_credit_against_loops(kind, reduction):
    outputs, classes = _outputs((6, 4)), _classes((6, 4))
    outputs[0, :] = 2.0  # centred, these are exactly 0
    centred = outputs - outputs.mean(1, keepdim=True)
    expected = torch.zeros_like(outputs)
    r = kind().per_output(centred, classes)
    for row in range(6):
        for k in range(4):
            o = float(centred[row, k])
            credit = float(r[row, k]) / (o + (0.5 if o >= 0 else -0.5))
            for j in range(4):  # o_k is output k less a quarter of each
                expected[row, j] += credit * ((j == k) - 0.25)
    leaf = outputs.clone().requires_grad_()
    value = kind(centred=True, epsilon=0.5, reduction=reduction)(leaf, classes)
    value.backward()
    size = 6 if reduction == "mean" else 1
    torch.testing.assert_close(value, -r.sum() / size, **EXACT)
    torch.testing.assert_close(-leaf.grad * size, expected, **EXACT)


@pytest.mark.parametrize("kind", SIGNED)
def test_epsilon_bounds_the_credit_near_0_and_is_off_by_default(kind):
    outputs, classes = torch.tensor([[1e-9, -1e-9]], dtype=torch.float64), torch.tensor([0])
    assert kind(epsilon=0.1).credit(outputs, classes).abs().max() <= 10
    torch.testing.assert_close(kind(epsilon=1e-300).credit(outputs, classes), kind().credit(outputs, classes), **EXACT)
    with pytest.raises(FeedpropError, match="epsilon must be finite and not negative"):
        kind(epsilon=-1)


def test_ignored_and_weighted_targets_of_a_centred_reward():
    outputs, classes = _outputs((5, 3)), torch.tensor([0, 1, -100, 2, 1])
    kept = classes != -100
    settings = {"centred": True, "epsilon": 1.0, "weight": [1.0, 2.0, 3.0]}
    reward = rewards.MisclassificationReward(**settings)
    torch.testing.assert_close(reward(outputs, classes), reward(outputs[kept], classes[kept]), **EXACT)


@pytest.mark.parametrize("build", [rewards.MaximizeReward, rewards.MinimizeReward])
def test_published_rewards_on_zeros_enter_at_the_pre_activation(build) -> None:
    """r = +-1 (1 - sigmoid(0)) = +-.5 at an output of 0; at z = -2 the credit is r / z, halved by "mean"."""
    layer = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0], [3.0]]))
    with attached(nn.Sequential(layer, nn.ReLU()), rules.Epsilon()) as model:
        value = build()(model(torch.tensor([[2.0], [2.0]])), torch.tensor([0, 0]))
        value.backward()
    direction = build.direction
    assert value.item() == pytest.approx(-0.5 * direction)
    # both samples: F = |w| a r / z = 1 * 2 * .5 / -2, their mean
    torch.testing.assert_close(-layer.weight.grad, direction * torch.tensor([[-0.5], [0.0]]))


@pytest.mark.parametrize("kind", CLASS_REWARDS[:3], ids=lambda kind: kind.__name__)
def test_outputs_that_are_probabilities_already_are_remarked_once(kind):
    probabilities = _outputs((8, 3)).float().softmax(1).requires_grad_()
    reward = kind()
    with pytest.warns(UserWarning, match=f"as after a softmax, but {kind.__name__} .*leave out the model's last"):
        reward(probabilities, _classes((8, 3)))
    reward(probabilities, _classes((8, 3)))


def test_outputs_that_are_no_probabilities_are_not_remarked():
    for outputs in (
        _outputs((8, 3)),
        torch.eye(3),
        _outputs((8, 3)).log_softmax(1),
        torch.rand(1, 3),
        torch.rand(9, 3),
    ):
        rewards.SoftmaxReward()(outputs.float().requires_grad_(), torch.zeros(len(outputs), dtype=torch.long))
    rewards.MaximizeReward()(_outputs((8, 3)).softmax(1).requires_grad_(), _classes((8, 3)))


@pytest.mark.parametrize(
    "targets", [torch.zeros(4).long(), torch.tensor([0, 1, 1, 0]), torch.zeros(4)], ids=["zeros", "both", "numbers"]
)
def test_yes_and_no_of_one_output_is_no_class(targets: Tensor) -> None:
    """As classes, a batch of nothing but "no" would be taught as class 0: yes."""
    with pytest.raises(FeedpropError, match=r"pass targets\.view_as\(outputs\)"):
        rewards.SigmoidReward()(torch.ones(4, 1, requires_grad=True), targets)


def test_an_index_to_ignore_is_a_whole_number() -> None:
    with pytest.raises(FeedpropError, match="ignore_index must be a class, as a whole number, not None"):
        rewards.SoftmaxReward(ignore_index=None)
