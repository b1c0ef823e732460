"""What `record` finds equals what plain loops find, a step is counted once, and the model is left as it was."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import feedprop
from feedprop import FeedpropError, record, rules
from feedprop.rewards import SoftmaxReward, SpikeRateReward
from feedprop.spiking import LIF, SpikingSequential

DOUBLE = torch.float64


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)).to(DOUBLE)


def samples(number: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(number, 4, dtype=DOUBLE), torch.randint(3, (number,))


def learn(model: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor) -> None:
    SoftmaxReward()(model(inputs), targets).backward()


def close(found: float, expected: Tensor | float) -> None:
    assert math.isclose(found, float(expected), rel_tol=1e-9, abs_tol=1e-12), (found, float(expected))


def same(row: dict, expected: dict, *figures: str) -> None:
    for figure in figures:
        one, other = row[figure], expected[figure]
        assert one == other or one == pytest.approx(other, rel=1e-9), figure


def by_module(rows: list[dict], step: int = 0) -> dict[str, dict]:
    return {row["module"]: row for row in rows if row["step"] == step}


def rewards_at(values: list[list[float]], minus_credit: Tensor) -> list[float]:
    pairs = zip(values, minus_credit.tolist(), strict=True)
    return [-v * c for row, credits in pairs for v, c in zip(row, credits, strict=True)]


def share_of_zero_columns(rows: list[list[float]]) -> float:
    columns = list(zip(*rows, strict=True))
    return sum(not any(column) for column in columns) / len(columns)


@pytest.mark.parametrize("attached", [False, True])
def test_figures_equal_plain_loops(attached: bool) -> None:
    model = mlp()
    inputs, targets = samples()
    if attached:
        feedprop.attach(model, rules.Epsilon(0.1))
    with record(model, agreement_every=1) as log:
        learn(model, inputs, targets)
    rows = by_module(log.rows())
    assert list(rows) == ["0", "1", "2", "3", "4"]  # in the order in which they ran

    model.zero_grad()
    kept: list[Tensor] = []  # input and output of each layer
    watched = [
        layer.register_forward_hook(lambda m, args, z: kept.extend((args[0], z)) or z.retain_grad()) for layer in model
    ]
    output = model(inputs)
    for handle in watched:
        handle.remove()
    SoftmaxReward()(output, targets).backward()
    for place, row in enumerate(rows.values()):
        layer, entered, left = model[place], kept[2 * place].tolist(), kept[2 * place + 1].tolist()
        if isinstance(layer, nn.ReLU):
            assert row["silent"] == pytest.approx(share_of_zero_columns(left))
            assert row["feedback"] is None
            continue
        at_outputs = rewards_at(left, kept[2 * place + 1].grad)
        close(row["reward_out"], sum(at_outputs))
        if place:
            at_inputs = rewards_at(entered, kept[2 * place].grad)
            close(row["reward_in"], sum(at_inputs))
            close(row["gap"], (sum(at_outputs) - sum(at_inputs)) / sum(map(abs, at_outputs)))
        else:
            assert row["reward_in"] is None
            assert row["gap"] is None
        numbers = [number for p in layer.parameters() for number in p.grad.flatten().tolist()]
        weights = [number for p in layer.parameters() for number in p.flatten().tolist()]
        close(row["feedback"], math.hypot(*numbers))
        close(row["zeros"], sum(number == 0 for number in numbers) / len(numbers))
        close(row["weight"], math.hypot(*weights))
        assert row["zero_inputs"] == pytest.approx(share_of_zero_columns(entered))
        sizes = [abs(number) for number in layer.weight.flatten().tolist()]
        differences = sum(abs(one - other) for one in sizes for other in sizes)
        close(row["gini"], differences / (2 * len(sizes) * sum(sizes)))
    plain = mlp()
    upstream = torch.autograd.grad(SoftmaxReward()(output, targets), output)[0]
    (plain(inputs) * upstream).sum().backward()
    for name in ("0", "2", "4"):
        found, gradient = (
            torch.cat([p.grad.flatten() for p in m.get_submodule(name).parameters()]) for m in (model, plain)
        )
        close(rows[name]["agreement"], F.cosine_similarity(found, gradient, dim=0))
    assert (min(rows[name]["agreement"] for name in ("0", "2", "4")) > 1 - 1e-9) == (not attached)


def test_a_branch_gets_its_own_share_of_the_credit() -> None:
    """y = a(h) + 3 b(h): at h, a passes its own credit alone, and a tensor hook on h sees the sum."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = (nn.Linear(1, 1, bias=False) for _ in range(3))
            for layer, weight in ((self.stem, 1.0), (self.a, 2.0), (self.b, 5.0)):
                nn.init.constant_(layer.weight, weight)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.stem(inputs)
            return self.a(hidden) + 3 * self.b(hidden)

    with record(model := Branches()) as log:
        (-model(torch.ones(1, 1)).sum()).backward()
    rows = by_module(log.rows())
    assert [rows[name]["reward_in"] for name in "ab"] == [2.0, 15.0]
    assert rows["stem"]["reward_out"] == 17.0


def test_accumulation_is_not_counted_twice() -> None:
    model = feedprop.attach(mlp())
    batches = [samples(), samples()]
    alone = []
    for batch in batches:
        with record(model) as log:
            learn(model, *batch)
        alone += [{**row, "step": len(alone) // 5} for row in log.rows()]
        model.zero_grad()
    with record(model) as log:
        for batch in batches:  # no zero_grad() in between
            learn(model, *batch)
    assert log.rows() == [{**row, "gini": row["gini"] if row["step"] == 0 else None} for row in alone]


def test_two_forward_passes_before_a_backward_pass_are_one_step() -> None:
    model, (inputs, targets) = mlp(), samples()
    with record(model) as log:
        loss = F.cross_entropy(model(inputs[:4]), targets[:4]) + F.cross_entropy(model(inputs[4:]), targets[4:])
        (loss / 2).backward()
    with record(model) as whole:
        F.cross_entropy(model(inputs), targets).backward()
    for row, expected in zip(log.rows(), whole.rows(), strict=True):
        same(row, expected, "reward_out", "silent", "feedback", "zeros")


def test_two_backward_passes_through_one_graph_are_two_steps() -> None:
    model, (inputs, targets) = mlp(), samples()
    with record(model) as log:
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward(retain_graph=True)
        (3 * loss).backward()
    first, second = (by_module(log.rows(), step) for step in (0, 1))
    assert second["2"]["feedback"] == pytest.approx(3 * first["2"]["feedback"])
    assert second["2"]["reward_out"] == pytest.approx(3 * first["2"]["reward_out"])
    assert second["3"]["silent"] == first["3"]["silent"]


def test_what_reaches_no_parameter_is_no_step() -> None:
    model, (inputs, targets) = mlp(nn.Tanh), samples()
    inputs.requires_grad_()
    with record(model) as log:
        output = model(inputs)
        torch.autograd.grad(output.sum(), inputs, retain_graph=True)  # reaches inputs alone
        F.cross_entropy(output, targets).backward()
        with torch.no_grad():
            model(inputs)
    with record(model) as alone:
        F.cross_entropy(model(inputs), targets).backward()
    assert log.rows() == alone.rows()
    assert all(row["reward_in"] is not None for row in log.rows() if row["kind"] == "Linear")


def test_every_measures_one_of_so_many_steps() -> None:
    model, batch = mlp(), samples()
    with record(model, every=3) as log:
        for _ in range(7):
            learn(model, *batch)
    assert [row["step"] for row in log.rows() if row["module"] == "0"] == [0, 3, 6]
    assert len(log) == 3


def test_a_log_goes_on() -> None:
    model, batch = mlp(), samples()
    with record(model, every=3) as whole:
        for _ in range(7):
            learn(model, *batch)
    with record(model, every=3) as log:
        for _ in range(4):
            learn(model, *batch)
    with record(model, every=3, log=feedprop.Log(log.rows()), step=4) as log:
        for _ in range(3):
            learn(model, *batch)
    assert log.rows() == whole.rows()


def test_only_the_modules_named() -> None:
    model, batch = mlp(), samples()
    with record(model, modules=["[23]"]) as log:
        learn(model, *batch)
        learn(model, *batch)
    assert [(row["step"], row["module"]) for row in log.rows()] == [(0, "2"), (0, "3"), (1, "2"), (1, "3")]


@pytest.mark.parametrize("attached", [False, True])
def test_a_model_is_left_as_it_was(attached: bool) -> None:
    """Outputs, gradients, buffers and random numbers are the same, and no hook stays."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)),
    )
    if attached:
        feedprop.attach(model)
    twin = copy.deepcopy(model)
    inputs, targets = torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
    found = []
    for one, recorded in ((model, True), (twin, False)):
        torch.manual_seed(1)
        with record(one, agreement_every=1) if recorded else torch.enable_grad():
            for _ in range(2):
                output = one(inputs)
                SoftmaxReward()(output, targets).backward()
        found.append((output.detach(), torch.rand(1), *one.buffers(), *(p.grad for p in one.parameters())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    for module, other in zip(model.modules(), twin.modules(), strict=True):
        assert len(module._forward_hooks) == len(other._forward_hooks)
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks)
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    if attached:
        feedprop.detach(model)


def test_what_is_written_to_is_unknown_once_and_right_then() -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            nn.init.eye_(self.layer.weight)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.layer(inputs)
            hidden += 1
            return hidden

    with record(model := Add()) as log:
        for _ in range(2):
            (-model(torch.full((1, 2), 3.0)).sum()).backward()
    assert [row["reward_out"] for row in log.rows()] == [None, 6.0]


def test_an_exception_removes_the_hooks() -> None:
    model, batch = mlp(), samples()
    with contextlib.suppress(ZeroDivisionError), record(model) as log:
        learn(model, *batch)
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert len(log) == 1


def test_a_backward_pass_that_breaks_off_leaves_no_trace() -> None:
    model, batch = mlp(), samples()

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, credit):
            raise ZeroDivisionError

    with record(model) as log:
        with pytest.raises(ZeroDivisionError):
            F.cross_entropy(model[2:](Breaks.apply(model[:2](batch[0]))), batch[1]).backward()
        learn(model, *batch)
    with record(model) as alone:
        learn(model, *batch)
    assert [row | {"gini": None} for row in log.rows()] == [row | {"gini": None} for row in alone.rows()]


def test_a_graph_that_outlives_the_block_records_nothing_more() -> None:
    model, (inputs, targets) = mlp(), samples()
    with record(model) as log:
        loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    assert log.rows() == []


def test_records_nest() -> None:
    model, batch = feedprop.attach(mlp()), samples()
    with record(model) as outer:
        learn(model, *batch)
        with record(model[2:], every=2) as inner:
            learn(model, *batch)
        learn(model, *batch)
    assert (len(outer), len(inner)) == (3, 1)
    assert {**by_module(inner.rows())["2"], "step": 1, "gini": None} == by_module(outer.rows(), 1)["2"]


def test_a_model_that_is_attached_and_detached_inside() -> None:
    model, batch = mlp(), samples()
    with record(model) as log:
        feedprop.attach(model)
        learn(model, *batch)
        feedprop.detach(model)
        learn(model, *batch)
    assert len(log) == 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_behind_checkpoints_are_counted_once() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp()

        def forward(self, inputs: Tensor) -> Tensor:
            return checkpoint(self.layers, inputs, use_reentrant=False)

    model, batch = Checkpointed(), samples()
    with record(model) as log:
        learn(model, *batch)
    with record(model.layers) as plain:
        learn(model.layers, *batch)
    assert [row["module"] for row in log.rows()] == [f"layers.{row['module']}" for row in plain.rows()]
    for row, expected in zip(log.rows(), plain.rows(), strict=True):
        same(row, expected, "reward_out", "reward_in", "silent", "feedback", "zeros")


def test_spiking_neurons_are_silent_over_time_and_batch() -> None:
    torch.manual_seed(0)
    network = feedprop.attach(SpikingSequential(nn.Linear(6, 20), LIF(), nn.Linear(20, 3), LIF(), steps=5))
    spikes = []
    handle = network.layers[1].register_forward_hook(lambda module, args, output: spikes.append(output[0]))
    with record(network) as log:
        SpikeRateReward()(network(torch.rand(7, 6)), torch.randint(3, (7,))).backward()
    handle.remove()
    row = by_module(log.rows())["layers.1"]
    silent = sum(not any(spikes[0][t, b, n] for t in range(5) for b in range(7)) for n in range(20))
    assert 0 < silent < 20
    assert row["silent"] == pytest.approx(silent / 20)
    assert by_module(log.rows())["layers.2"]["zero_inputs"] == pytest.approx(silent / 20)
    with pytest.raises(FeedpropError, match="spiking neurons have no gradient"), record(network, agreement_every=1):
        pass


def test_frozen_and_unreached_layers() -> None:
    model, batch = mlp(), samples()
    model[2].requires_grad_(False)
    with record(model) as log:
        learn(lambda inputs: model[4](model[3](model[2](model[:2](inputs).detach()))), *batch)
    rows = by_module(log.rows())
    assert rows["2"]["feedback"] is None
    assert (rows["0"]["feedback"], rows["0"]["zeros"], rows["0"]["reward_out"]) == (0.0, 1.0, 0.0)
    assert rows["4"]["feedback"] > 0


def test_half_precision_complex_and_sparse() -> None:
    torch.manual_seed(0)
    half = nn.Linear(3, 2).to(torch.bfloat16)
    table = nn.Embedding(10, 3, sparse=True)
    waves = nn.Linear(2, 2, bias=False, dtype=torch.complex128)
    with record(half) as log:
        (-half(torch.ones(4, 3, dtype=torch.bfloat16)).sum()).backward()
    assert log.rows()[0]["reward_out"] > -100
    with record(table) as log:
        (-table(torch.tensor([1, 1, 2])).sum()).backward()
    (row,) = log.rows()
    assert row["zeros"] == pytest.approx(0.8)
    assert row["feedback"] == pytest.approx(math.sqrt(3 * 4 + 3))
    inputs = torch.randn(4, 2, dtype=torch.complex128)
    with record(waves, agreement_every=1) as log:
        output = waves(inputs)
        (-(output.abs() ** 2).sum()).backward()
    close(log.rows()[0]["reward_out"], 2 * (output.detach().abs() ** 2).sum())  # |z|^2 grows by 2 |z|^2 per share of z
    close(log.rows()[0]["agreement"], 1.0)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mlp, {"every": 0}, "every must be a whole number of steps, at least 1, not 0"),
        (mlp, {"agreement_every": 0.5}, "agreement_every must be a whole number"),
        (mlp, {"modules": ["nothing"]}, "no module matches 'nothing'; there are 0, 1, 2, ..."),
        (lambda: nn.LazyLinear(3), {}, "without a shape yet; run the model once before record"),
        (nn.Flatten, {}, "Flatten has no layer to record"),
        (lambda: torch.compile(mlp()), {}, "record a few steps of the model that was compiled"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.torch.jit.script_method. is deprecated")
def test_what_is_refused(make: Callable[[], nn.Module], options: dict, message: str) -> None:
    with pytest.raises(FeedpropError, match=message), record(make(), **options):
        pass


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
def test_models_compiled_in_place_are_refused() -> None:
    model = mlp()
    model[0].compile()
    with pytest.raises(FeedpropError, match=r"what torch\.compile made of Linear"), record(model):
        pass
