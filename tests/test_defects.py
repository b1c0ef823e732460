"""Defects of the published implementation: each has a check, and each check fails when the defect is injected.

Defect 12, which concerns packaging rather than numbers, is in test_house.py.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedprop
from feedprop import UnknownOperationError, attach, attached, credit, rewards, rules
from feedprop.interception.mode import Propagation
from feedprop.operations.registry import HANDLERS, neutral
from support.propagation import CLOSE, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

Patch = pytest.MonkeyPatch
DEFECTS: list[tuple[str, Callable[[], None], Callable[[Patch], None], tuple[type[BaseException], ...]]] = []
FAILURES = (AssertionError, pytest.fail.Exception, TypeError, NotImplementedError)


def defect(number_and_name: str, check: Callable[[], None], *, seen_by: tuple[type[BaseException], ...] = FAILURES):
    """Pair a check with a function that injects the defect, and with the exceptions that the check then raises."""

    def keep(inject: Callable[[Patch], None]) -> Callable[[Patch], None]:
        DEFECTS.append((number_and_name, check, inject, seen_by))
        return inject

    return keep


def _perceptron() -> nn.Sequential:
    return randomised(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))


def _feedback(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    with attached(model):
        rewards.SoftmaxReward()(model(inputs), targets).backward()
    return {name: f.clone() for name, f in feedback_of(model).items()}


# --- 1: feedback is overwritten, not accumulated ---


def check_accumulation() -> None:
    model, inputs, given = _perceptron(), torch.randn(6, 4), torch.randn(6, 3)
    whole = {name: f.clone() for name, f in propagate(model, inputs, given).feedback.items()}
    propagate(model, inputs[:3], given[:3])
    halves = propagate(model, inputs[3:], given[3:], keep=True).feedback
    torch.testing.assert_close(halves, whole, **CLOSE)


@defect("1 overwritten", check_accumulation)
def overwrite(monkeypatch: Patch) -> None:
    right = credit.weights._feedback

    def overwriting(arriving: Tensor, weight: Tensor, floor: float) -> Tensor:
        weight.grad = None
        return right(arriving, weight, floor)

    monkeypatch.setattr(credit.weights, "_feedback", overwriting)


def check_shared_module() -> None:
    shared = randomised(nn.Linear(4, 4))
    inputs, given = torch.randn(6, 4), torch.randn(6, 4)
    twice = propagate(nn.Sequential(shared, nn.ReLU(), shared), inputs, given).feedback
    other = nn.Linear(4, 4)
    other.load_state_dict(shared.state_dict())
    apart = propagate(nn.Sequential(shared, nn.ReLU(), other), inputs, given).feedback
    torch.testing.assert_close(twice["0.weight"], apart["0.weight"] + apart["2.weight"], **CLOSE)


@defect("1 overwritten by a second use", check_shared_module)
def keep_the_last_use(monkeypatch: Patch) -> None:
    right, used = credit.weights._feedback, set()

    def only_once(arriving: Tensor, weight: Tensor, floor: float) -> Tensor:
        use = torch._C._current_graph_task_id(), weight.data_ptr()
        again = use in used
        used.add(use)
        return right(arriving, weight, floor) * (not again)

    monkeypatch.setattr(credit.weights, "_feedback", only_once)


# --- 3: functions without a rule silently keep a plain gradient ---


def check_unknown_function() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1(x)

    with pytest.MonkeyPatch.context() as patch, attached(nn.Sequential(nn.Linear(2, 2), Odd())) as model:
        patch.delitem(HANDLERS, torch.special.i1)
        with pytest.raises(UnknownOperationError):
            model(torch.randn(1, 2))


@defect("3 silent about functions", check_unknown_function)
def pass_unknown_functions(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Propagation, "_without_handler", lambda self, function, args, kwargs: function(*args, **kwargs))


def check_every_parameter() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.view(-1)[0 if "weight" in name else -1] = 0.0
    found = propagate(model, torch.randn(6, 4), torch.randn(6, 3)).feedback
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, feedback in found.items():
        zero = feedback.view(-1)[0 if "weight" in name else -1]
        assert zero == 0, f"{name} has a plain gradient: a weight of 0 would move"


@defect("3 silent about parameters", check_every_parameter, seen_by=(UnknownOperationError,))
def leave_normalisation_alone(monkeypatch: Patch) -> None:
    monkeypatch.setitem(HANDLERS, F.layer_norm, neutral)


# --- 4: inputs need a gradient; several inputs or outputs fail ---


class Pair(nn.Module):
    """Two inputs, and a tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = randomised(nn.Linear(3, 2)), randomised(nn.Linear(3, 2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        total = self.left(a) + self.right(b)
        return total, total * 2.0


def check_inputs_without_gradient() -> None:
    model, a, b = Pair(), torch.randn(5, 3), torch.randn(5, 3)
    found = []
    for needs in ((False, False), (True, False), (False, True), (True, True)):
        model.zero_grad()
        leaves = [x.clone().requires_grad_(need) for x, need in zip((a, b), needs, strict=True)]
        with attached(model, rules.Epsilon()):
            first, second = model(*leaves)
            (first.sum() + second.sum()).backward()
        assert [leaf.grad is not None for leaf in leaves] == list(needs)
        found.append(feedback_of(model))
        expected = {n: 3 * p.detach().abs() for n, p in model.named_parameters()}
        torch.testing.assert_close(-found[-1]["left.bias"], 5 * expected["left.bias"], **CLOSE)
        torch.testing.assert_close(-found[-1]["right.weight"], expected["right.weight"] * b.sum(0), **CLOSE)


@defect("4 inputs need a gradient", check_inputs_without_gradient, seen_by=(UnknownOperationError,))
def require_input_gradients(monkeypatch: Patch) -> None:
    right = HANDLERS[F.linear]

    def linear(context, function, args, kwargs):
        return right(context, function, args, kwargs) if args[0].requires_grad else function(*args, **kwargs)

    monkeypatch.setitem(HANDLERS, F.linear, linear)


# --- 5: rewards go through numpy on the CPU, sample by sample; no bfloat16 ---


def check_rewards_stay_on_the_device() -> None:
    for reward in (rewards.SoftmaxReward(), rewards.CorrectnessReward(), rewards.MisclassificationReward()):
        # the device "meta" has no values: a transfer or a loop over samples fails
        outputs = torch.empty(4, 3, device="meta", requires_grad=True)
        value = reward(outputs, torch.empty(4, dtype=torch.long, device="meta"))
        assert value.device.type == "meta"
        value = reward(torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True), torch.tensor([0, 1, 2, 0]))
        value.backward()


@defect("5 through numpy", check_rewards_stay_on_the_device)
def go_through_numpy(monkeypatch: Patch) -> None:
    def per_output(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.from_numpy(outputs.detach().numpy()) * 0.0

    monkeypatch.setattr(rewards.CorrectnessReward, "per_output", per_output)


# --- 6: the learning rate depends on the batch size ---


def check_batch_size() -> None:
    model, inputs, targets = _perceptron(), torch.randn(6, 4), torch.randint(3, (6,))
    once = _feedback(model, inputs, targets)
    torch.testing.assert_close(_feedback(model, inputs.repeat(5, 1), targets.repeat(5)), once, **CLOSE)


@defect("6 summed over the batch", check_batch_size)
def forget_the_batch_size(monkeypatch: Patch) -> None:
    monkeypatch.setattr(rewards.SoftmaxReward, "samples", lambda self, outputs, targets: 1)


# --- 7: dropout multiplies rewards; activations that change the sign reverse feedback ---


def check_dropout() -> None:
    model, given = nn.Sequential(nn.Dropout(0.5)), torch.randn(6, 8)
    found = propagate(model, torch.randn(6, 8), given)
    kept = found.output != 0
    assert kept.any()
    torch.testing.assert_close(found.input_reward, torch.where(kept, given, 0.0), **CLOSE)


@defect("7 dropout", check_dropout)
def multiply_by_keeping(monkeypatch: Patch) -> None:
    right = HANDLERS[F.dropout]
    monkeypatch.setitem(HANDLERS, F.dropout, lambda *call: credit.scaled(right(*call), 2.0))


class Flipped(nn.Module):
    """-tanh: changes the sign."""

    def forward(self, z: Tensor) -> Tensor:
        return -torch.tanh(z)


def check_direction() -> None:
    for activation in (Flipped(), nn.Sequential(nn.LeakyReLU(-1.0), nn.Tanh())):
        model = randomised(nn.Sequential(nn.Linear(4, 16), activation, nn.Linear(16, 3)))
        inputs, targets = torch.randn(20, 4), torch.randint(3, (20,))
        model[2].requires_grad_(False)  # so that only the layer below the activation learns
        before = F.cross_entropy(model(inputs), targets)
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)
        with attached(model):
            for _ in range(20):
                optimizer.zero_grad()
                rewards.SoftmaxReward()(model(inputs), targets).backward()
                optimizer.step()
        assert F.cross_entropy(model(inputs), targets) < before


@defect("7 direction", check_direction)
def ignore_the_sign(monkeypatch: Patch) -> None:
    monkeypatch.setitem(HANDLERS, Tensor.neg, lambda context, function, args, kwargs: _same_direction(args[0]))
    monkeypatch.setattr(credit.activations, "slope", lambda z, x, epsilon: -(x / z).abs())


def _same_direction(x: Tensor) -> Tensor:
    return x - 2 * x.detach()


# --- 8: parameters of 0 silently never learn; two epsilons ---


def check_zeros_are_named() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.warns(UserWarning, match=r"0\.bias"):
        attach(model, rules.presets.sparse())
    with attached(nn.Sequential(nn.BatchNorm1d(2)), rules.Composite(magnitude_floor=0.1)) as learning:
        learning(torch.randn(5, 2)).sum().backward()
    assert (learning[0].bias.grad != 0).all()


@defect("8 silent zeros", check_zeros_are_named)
def say_nothing(monkeypatch: Patch) -> None:
    monkeypatch.setitem(feedprop.attach.__globals__, "_warn_of_zeros", lambda *_: None)


def check_one_epsilon() -> None:
    for layer in (nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.AvgPool1d(1), nn.LayerNorm(2)):
        model, x = randomised(layer), torch.randn(4, 2, requires_grad=True)
        output = model(x)
        given = torch.ones_like(output)
        size = output.detach().abs()
        (expected,) = torch.autograd.grad(output, x, size / (size + 0.5))
        with attached(model, rules.Epsilon(0.5)):
            (found,) = torch.autograd.grad(model(x), x, given)
        torch.testing.assert_close(found, expected, **CLOSE)


@defect("8 two epsilons", check_one_epsilon)
def use_another_epsilon(monkeypatch: Patch) -> None:
    right = HANDLERS[F.layer_norm]

    def other(context, function, args, kwargs):
        return credit.damped(right(context, function, args, kwargs), 1.0)

    monkeypatch.setitem(HANDLERS, F.layer_norm, other)


@pytest.mark.parametrize(("name", "check", "inject", "seen_by"), DEFECTS, ids=[name for name, *_ in DEFECTS])
def test_defect_is_absent_and_would_be_found(name: str, check, inject, seen_by, monkeypatch: Patch) -> None:
    check()
    inject(monkeypatch)
    with pytest.raises(seen_by):
        check()
