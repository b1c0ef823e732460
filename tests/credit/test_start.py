"""A reward on an output of exactly 0 enters whatever moved the output since, inside the model or behind it."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from feedprop import FeedpropError, attached, credit, rewards, rules
from feedprop.spiking import LIF, SpikingSequential, State
from support.propagation import CLOSE, Call, Step, feedback_of, propagate, randomised

pytestmark = pytest.mark.usefixtures("float64")

Move = Callable[[Tensor], Tensor]


def _hooked(x: Tensor) -> Tensor:
    x.register_hook(lambda credit: None)
    return x


MOVES: dict[str, Move] = {
    "nothing": lambda x: x,
    "view": lambda x: x.view(-1).view(x.shape),
    "reshape": lambda x: x.reshape(x.shape[0], -1).reshape(x.shape),
    "slice of all": lambda x: x[...],
    "slices": lambda x: torch.cat([x[:2], x[2:]]),
    "transposed twice": lambda x: x.transpose(0, 1).transpose(0, 1),
    "transposed and copied": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "mT": lambda x: x.mT.mT,
    "permuted": lambda x: x.movedim(-1, 0).movedim(0, -1),
    "cat": lambda x: torch.cat([x, x])[: len(x)],
    "clone": lambda x: x.clone(),
    "unbind": lambda x: torch.stack(x.unbind(0)),
    "unbind along the last": lambda x: torch.stack(x.unbind(-1), -1),
    "list": lambda x: torch.stack(list(x)),
    "split": lambda x: torch.cat(x.split(1)),
    "chunks": lambda x: torch.cat(x.chunk(2, -1), -1),
    "flipped": lambda x: x.flip(0).flip(0),
    "index": lambda x: x[torch.arange(len(x)).flip(0)].flip(0),
    "gather": lambda x: x.gather(-1, torch.arange(x.shape[-1]).expand(x.shape)),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "expand": lambda x: x.unsqueeze(0).expand(2, *x.shape)[0],
    "cast": lambda x: x.float().double(),
    "times 1": lambda x: x * 1.0,
    "1 times": lambda x: 1 * x,
    "hook": _hooked,
    "several": lambda x: (_hooked(x.clone()) * 1.0).transpose(0, 1).flatten().view(x.shape[::-1] if x.ndim == 2 else (
        x.shape[1], x.shape[0], *x.shape[2:])).transpose(0, 1),
}  # fmt: skip


class Moved(nn.Module):
    """An inner model whose output is moved."""

    def __init__(self, inner: nn.Module, move: Move) -> None:
        super().__init__()
        self.inner, self.move = inner, move

    def forward(self, x: Tensor) -> Tensor:
        moved = self.move(self.inner(x))
        moved.tanh()  # activations that no code holds are forgotten when the next one is computed
        return moved


def _relu() -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(4, 6), nn.ReLU()))


def _tanh_and_relu() -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.ReLU()))


def _step() -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(4, 6), Step()))


MODELS = {"ReLU": _relu, "deep": _tanh_and_relu, "step": _step}
GIVEN = {"activation": rules.Secant.published()}


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "behind"])
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("kind", MODELS)
def test_rewards_on_zeros_enter_through_what_only_moves_values(kind: str, name: str, inside: bool) -> None:
    inner, x, given = MODELS[kind](), torch.randn(3, 4), torch.randn(3, 6)
    move = MOVES[name]
    with attached(inner, rules.Composite(**GIVEN)):
        output = inner(x)
        assert 0 < (output == 0).sum() < output.numel()
        rewards.GivenReward()(output, given).backward()
    expected = {key: f.clone() for key, f in feedback_of(inner).items()}
    inner.zero_grad()
    model = Moved(inner, move if inside else lambda x: x)
    with attached(model, rules.Composite(**GIVEN)):
        output = model(x) if inside else move(model(x))
        rewards.GivenReward()(output, given).backward()
    torch.testing.assert_close(feedback_of(inner), expected, **_tolerance(name))


def _tolerance(name: str) -> dict[str, float]:
    return {"rtol": 1e-5, "atol": 1e-6} if name == "cast" else CLOSE  # through float32


def _spiking() -> nn.Module:
    torch.manual_seed(4)
    return SpikingSequential(nn.Linear(4, 8), LIF(), nn.Linear(8, 3), LIF())


def _in_chunks(model: nn.Module, x: Tensor) -> Tensor:
    first, state = model(x[:3], State())
    second, _ = model(x[3:], state)
    return torch.cat([first, second])


def _spike_feedback(call: Callable[[nn.Module], Tensor], model: nn.Module) -> dict[str, Tensor]:
    with attached(model):
        rewards.SpikeRateReward()(call(model), torch.arange(5) % 3).backward()
    return feedback_of(model)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "behind"])
@pytest.mark.parametrize("name", MOVES)
def test_rewards_on_silent_neurons_enter_through_what_only_moves_values(name: str, inside: bool) -> None:
    x = torch.rand(7, 5, 4) * 2
    expected = _spike_feedback(lambda model: model(x), _spiking())
    move = MOVES[name]
    if inside:
        found = _spike_feedback(lambda model: model(x), Moved(_spiking(), move))
        found = {key.removeprefix("inner."): value for key, value in found.items()}
    else:
        found = _spike_feedback(lambda model: move(model(x)), _spiking())
    assert (expected["layers.2.weight"] != 0).any()
    torch.testing.assert_close(found, expected, **_tolerance(name))


def test_chunks_of_a_spiking_network_are_rewarded_as_the_whole() -> None:
    x = torch.rand(7, 5, 4) * 2
    expected = _spike_feedback(lambda model: model(x), _spiking())
    torch.testing.assert_close(_spike_feedback(lambda model: _in_chunks(model, x), _spiking()), expected, **CLOSE)


def test_parts_of_several_outputs_are_told_apart() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = randomised(nn.Linear(4, 6)), randomised(nn.Linear(4, 6))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.relu(self.left(x)), torch.relu(self.right(x))

    model, x, given = Halves(), torch.randn(3, 4), torch.randn(3, 6)
    with attached(model, rules.Epsilon()):
        left, right = model(x)
        rewards.GivenReward()(torch.cat([left, right], 1), torch.cat([given, torch.zeros(3, 6)], 1)).backward()
        found = feedback_of(model)
    expected = _feedback(nn.Sequential(copy.deepcopy(model.left), nn.ReLU()), x, given)
    torch.testing.assert_close(found["left.weight"], expected["0.weight"], **CLOSE)
    assert (found["right.weight"] == 0).all()


def _feedback(model: nn.Module, x: Tensor, given: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    with attached(model, rules.Epsilon()):
        rewards.GivenReward()(model(x), given).backward()
    return {key: value.clone() for key, value in feedback_of(model).items()}


def test_a_reward_enters_only_where_its_own_output_was_computed() -> None:
    """The second output is computed from the first one, in which no reward on the second enters."""

    class Chained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = randomised(nn.Linear(3, 4)), randomised(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            one = (self.a(x) > 0).to(x.dtype)
            return torch.stack([one, (self.b(one) > 0).to(x.dtype)])

    model, x = Chained(), torch.randn(5, 3)
    with attached(model):
        output = model(x)
    rewarded = torch.randn(2, 5, 4) * (output == 0)
    assert rewarded.any(2).any(1).all()
    found = credit.enter(output, rewarded).credits
    expected = {"a": rewarded[0] / model.a(x), "b": rewarded[1] / model.b(output[0].detach())}
    torch.testing.assert_close(
        sorted(c.sum().item() for _, c in found), sorted(c.sum().item() for c in expected.values())
    )


def test_rewards_on_zeros_by_hand() -> None:
    """z = 2 * (-0.5, 1.5) = (-1, 3), outputs (0, 3); the credits r / z = (4 / -1, 6 / 3) enter, halved by "mean"."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-0.5], [1.5]]))
    found = _feedback(model, torch.tensor([[2.0], [0.0]]), torch.tensor([[4.0, 6.0], [0.0, 0.0]]))
    torch.testing.assert_close(found["0.weight"], torch.tensor([[0.5 * 2 * -4 / 2], [1.5 * 2 * 2 / 2]]), **CLOSE)


@pytest.mark.parametrize("kind", [rewards.SpikeRateReward, rewards.SpikeTargetReward])
def test_the_mean_divides_rewards_on_silent_neurons_too(kind: type[rewards.SpikeRateReward]) -> None:
    found, x = [], torch.rand(7, 5, 4) * 2
    for reduction in ("mean", "sum"):
        with attached(_spiking()) as model:
            kind(reduction=reduction)(model(x), torch.arange(5) % 3).backward()
        found.append(feedback_of(model))
    torch.testing.assert_close({key: 5 * f for key, f in found[0].items()}, found[1], **CLOSE)


# --- starts and backward passes ---


STARTED: dict[str, Callable[[], tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]]] = {
    "ReLU": lambda: (_relu(), torch.randn(3, 4), lambda out: rewards.GivenReward()(out, torch.arange(18.0).view(3, 6))),
    "comparison": lambda: (
        randomised(nn.Sequential(nn.Linear(4, 6), Call(lambda z: (z > 0).double()))),
        torch.randn(3, 4), lambda out: rewards.GivenReward()(out, torch.arange(18.0).view(3, 6))),
    "spikes": lambda: (
        _spiking(), torch.rand(7, 5, 4) * 2, lambda out: rewards.SpikeRateReward()(out, torch.arange(5) % 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTED)
def test_a_second_backward_pass_gives_the_same_again(name: str) -> None:
    model, x, reward = STARTED[name]()
    with attached(model):
        start = reward(model(x))
        start.backward(retain_graph=True)
        once = {key: f.clone() for key, f in feedback_of(model).items()}
        start.backward()
        torch.testing.assert_close(feedback_of(model), {key: 2 * f for key, f in once.items()}, **CLOSE)


@pytest.mark.parametrize("name", STARTED)
def test_two_rewards_on_one_output_add_up(name: str) -> None:
    model, x, reward = STARTED[name]()
    with attached(model):
        reward(model(x)).backward()
        once = {key: f.clone() for key, f in feedback_of(model).items()}
        model.zero_grad()
        output = model(x)
        (reward(output) + 2.0 * reward(output)).backward()
        torch.testing.assert_close(feedback_of(model), {key: 3 * f for key, f in once.items()}, **CLOSE)


@pytest.mark.parametrize("name", STARTED)
def test_feedback_is_accumulated(name: str) -> None:
    model, x, reward = STARTED[name]()
    with attached(model):
        for _ in range(3):
            (reward(model(x)) / 3).backward()
        accumulated = {key: f.clone() for key, f in feedback_of(model).items()}
        model.zero_grad()
        reward(model(x)).backward()
    torch.testing.assert_close(feedback_of(model), accumulated, **CLOSE)


@pytest.mark.parametrize("name", STARTED)
def test_a_scaled_reward_scales_all_feedback(name: str) -> None:
    model, x, reward = STARTED[name]()
    with attached(model):
        reward(model(x)).backward()
        once = {key: f.clone() for key, f in feedback_of(model).items()}
        model.zero_grad()
        (reward(model(x)) * 1024.0).backward()
    torch.testing.assert_close(feedback_of(model), {key: 1024 * f for key, f in once.items()}, **CLOSE)


# --- what cannot enter is said ---


@pytest.mark.parametrize(
    "behind", [lambda out: out + 0.0, lambda out: out * out.detach().sign(), torch.tanh, torch.abs]
)
def test_rewards_that_cannot_enter_are_counted(behind: Move) -> None:
    model, x = _relu(), torch.randn(3, 4)
    with attached(model):
        output = behind(model(x))
        zeros = int((output == 0).sum())
        with pytest.warns(UserWarning, match=rf"^{zeros} of 18 outputs are rewarded but exactly 0"):
            rewards.GivenReward()(output, torch.ones(3, 6))


def test_an_overwritten_pre_activation_is_named() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True)))
    with attached(model):
        output = model(torch.randn(3, 4)).view(6, 3)
        with pytest.raises(FeedpropError, match=r"relu\(inplace=True\) overwrote"):
            rewards.GivenReward()(output, torch.ones(6, 3))


def _written_in_parts(out: Tensor) -> Tensor:
    whole = torch.zeros(3, 6)
    whole[:, :2] = out[:, :2]
    whole[:, 2:].copy_(out[:, 2:])
    return whole


@pytest.mark.parametrize("write", [lambda out: torch.zeros(3, 6).copy_(out), _written_in_parts], ids=["whole", "parts"])
def test_rewards_enter_through_a_copy_into_a_tensor(write: Move) -> None:
    model, x, given = _relu(), torch.randn(3, 4), torch.randn(3, 6)
    expected = _feedback(model, x, given)
    moved = Moved(model, write)
    found = {key.removeprefix("inner."): f for key, f in _feedback(moved, x, given).items()}
    torch.testing.assert_close(found, expected, **CLOSE)


def test_values_of_the_reward_are_those_of_plain_outputs() -> None:
    model, x, given = _relu(), torch.randn(3, 4), torch.randn(3, 6)
    with attached(model):
        assert torch.equal(rewards.GivenReward()(model(x), given), -given.sum() / 3)
    assert propagate(model, x, given).output.equal(model(x))


# --- memory ---


def _held() -> tuple[int, int]:
    gc.collect()
    objects = gc.get_objects()
    return sum(issubclass(type(found), Tensor) for found in objects), len(objects)


def _steps(model: nn.Module, x: Tensor, reward: Callable[[Tensor], Tensor] | None, number: int) -> None:
    for _ in range(number):
        output: Any = model(x)
        if reward is not None:
            model.zero_grad()
            reward(output).backward()


@pytest.mark.parametrize("backward", [True, False], ids=["backward", "forward only"])
@pytest.mark.parametrize("name", STARTED)
def test_training_holds_no_more_and_more(name: str, backward: bool) -> None:
    model, x, reward = STARTED[name]()
    with attached(model):
        _steps(model, x, reward if backward else None, 20)
        tensors, objects = _held()
        _steps(model, x, reward if backward else None, 300)
        more_tensors, more_objects = _held()
    assert more_tensors - tensors <= 0
    assert more_objects - objects < 100


@pytest.mark.parametrize("backward", [True, False], ids=["backward", "forward only"])
@pytest.mark.parametrize("name", STARTED)
def test_graphs_are_freed_without_the_garbage_collector(name: str, backward: bool) -> None:
    model, x, reward = STARTED[name]()
    with attached(model):
        _steps(model, x, reward, 2)
        gc.collect()
        gc.disable()
        try:
            output = model(x.clone().requires_grad_())
            alive = weakref.ref(output)
            if backward:
                reward(output).backward()
            del output
            assert alive() is None
        finally:
            gc.enable()


def test_marks_do_not_hold_what_they_are_about() -> None:
    x = torch.randn(3, requires_grad=True) * 1
    starts = credit.Starts()
    output = torch.relu(x)
    starts.remember(output, x)
    kept = weakref.ref(x)
    starts.finish(())
    del x, output
    gc.collect()
    assert kept() is None


class Noisy(nn.Module):
    """A ReLU behind feature dropout, which is written into a view or computed anew."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.layer, self.in_place = nn.Linear(4, 4), in_place

    def forward(self, x: Tensor) -> Tensor:
        view = torch.relu(self.layer(x)).repeat(2, 1).view(2, 3, 4)
        return (torch.feature_dropout_ if self.in_place else torch.feature_dropout)(view, 0.4, True)


@pytest.mark.filterwarnings("ignore:.*outputs are rewarded but exactly 0")
def test_rewards_on_zeros_stop_at_dropout_in_place_as_out_of_place() -> None:
    x, given, found = torch.randn(3, 4), torch.randn(2, 3, 4), []
    state = Noisy(in_place=False).state_dict()
    for in_place in (True, False):
        model = Noisy(in_place=in_place)
        model.load_state_dict(state)
        torch.manual_seed(3)
        with attached(model, rules.Epsilon()):
            rewards.GivenReward()(model(x), given).backward()
        found.append(feedback_of(model))
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.parametrize("later", [lambda z: z.cumsum_(-1), lambda z: z.mul_(-1.0), lambda z: z.detach().zero_()])
def test_rewards_on_zeros_refuse_a_pre_activation_that_was_written_to_later(later) -> None:
    layer = randomised(nn.Linear(4, 4))

    def forward(x: Tensor) -> Tensor:
        z = layer(x)
        output = torch.relu(z)
        later(z)
        return output

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    with (
        attached(Model(), rules.Epsilon()) as model,
        pytest.raises(FeedpropError, match="an in-place operation later overwrote"),
    ):
        rewards.GivenReward()(model(torch.randn(3, 4)), torch.ones(3, 4))


IN_PLACE = [lambda o: o.unsqueeze_(0)]
IN_PLACE += [lambda o: o.transpose_(0, 1), lambda o: o.squeeze_(), lambda o: o.conj_physical_()]


@pytest.mark.parametrize("move", IN_PLACE)
def test_rewards_on_zeros_enter_behind_moves_in_place(move) -> None:
    z, found = torch.randn(3, 4), []
    for moved in (move, lambda o: move(o.clone())):
        x = z.clone().requires_grad_()
        with attached(Call(lambda x, moved=moved: moved((x * 1.0 > 0).double())), rules.Epsilon()) as model:
            output = model(x)
            rewards.GivenReward()(output, torch.ones_like(output)).backward()
        found.append(x.grad)
    assert (found[0] != 0).all()
    torch.testing.assert_close(*found, **CLOSE)
