"""Each fault is put into words on a network that has it, and on no network that learns."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import feedprop
from feedprop import record, rules
from feedprop.inspection.log import FIGURES
from feedprop.inspection.remarks import remarks
from feedprop.rewards import SoftmaxReward
from feedprop.rules import presets

CENTRES = torch.tensor([[0.0, 2.0], [2.0, -2.0], [-2.0, -2.0]])


def blobs() -> tuple[Tensor, Tensor]:
    targets = torch.randint(3, (32,))
    return CENTRES[targets] + 0.5 * torch.randn(32, 2), targets


def mlp(*, hidden: int = 2, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in [2] + [16] * (hidden - 1):
        layers += [nn.Linear(width, 16, bias=bias), activation()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def remarks_of(
    model: nn.Module,
    composite: rules.Composite | None = None,
    *,
    rate: float = 0.05,
    steps: int = 60,
    batch: Callable[[], tuple[Tensor, Tensor]] = blobs,
    learns: bool = False,
) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attach() warns of zeros too
        feedprop.attach(model, composite)
    optimizer, right = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9), 0
    with record(model, every=5) as log:
        for _ in range(steps):
            inputs, targets = batch()
            optimizer.zero_grad()
            output = model(inputs)
            SoftmaxReward()(output, targets).backward()
            optimizer.step()
            right = int((output.argmax(1) == targets).sum())
    if learns:
        assert right > 28
    return log.remarks()


@pytest.mark.parametrize(
    ("make", "composite"),
    [
        (mlp, None),
        (lambda: mlp(activation=nn.Tanh), None),
        (lambda: mlp(activation=nn.GELU), None),
        (lambda: mlp(hidden=4), None),
        (lambda: nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)), None),
        (mlp, presets.published()),
    ],
)
def test_nothing_is_said_about_networks_that_learn(make: Callable[[], nn.Module], composite: rules.Composite) -> None:
    assert remarks_of(make(), composite, rate=1.0 if composite else 0.05, learns=True) == []


class Block(nn.Module):
    """A residual block whose last normalisation begins with a scale of 0, as in torchvision's and timm's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16)
        )
        nn.init.zeros_(self.layers[4].weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs + self.layers(inputs)).relu()


@pytest.mark.parametrize("steps", [15, 25, 60])
def test_nothing_is_said_about_blocks_that_begin_with_a_scale_of_0(steps: int) -> None:
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), *(Block() for _ in range(4)), nn.Linear(16, 3))
    assert remarks_of(model, steps=steps) == []


def test_inputs_of_zero() -> None:
    model = mlp(bias=False)
    said = remarks_of(model, batch=lambda: (torch.zeros(32, 2), torch.randint(3, (32,))))
    assert said[0].startswith("layers 0, 2, 4 received no feedback for 56 steps: their inputs are 0; ")
    assert "all of the outputs of layer 1 (ReLU) are 0 for every sample, for 56 steps; raise biases" in said[1]


def test_a_silent_layer_and_what_stands_before_it() -> None:
    model = mlp()
    nn.init.constant_(model[2].bias, -100.0)
    said = remarks_of(model)
    assert any(re.match(r"layers 0, 2 received no feedback for 56 steps: no credit comes to their", s) for s in said)
    assert any(re.match(r"layer 4 received no feedback for 56 steps: its inputs are 0; ", s) for s in said)
    assert any(s.startswith("all of the outputs of layer 3 (ReLU) are 0 for every sample, for 56 steps") for s in said)


def test_a_layer_that_is_almost_silent() -> None:
    model = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 3))
    with torch.no_grad():
        model[0].bias[4:] = -100.0
    assert any(s.startswith("96 % of the outputs of layer 1 (ReLU) are 0 for every sample") for s in remarks_of(model))


def test_parameters_of_zero() -> None:
    model = mlp()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    (sentence, *_) = (s for s in remarks_of(model, presets.published()) if s.startswith("layer 2 received no feedback"))
    assert sentence == (
        "layer 2 received no feedback for 56 steps: its parameters are 0, and feedback is proportional to |w|; "
        "attach with a composite of magnitude_floor=0.02, or initialise them otherwise"
    )


def test_what_is_detached() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(2, 16), nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.encoder(inputs).relu().detach())

    said = remarks_of(Detached())
    assert said == [
        "layer encoder received no feedback for 56 steps: no credit comes to its outputs; look for what is silent, "
        "saturated, detached or not rewarded behind that"
    ]


def test_feedback_that_vanishes() -> None:
    model = mlp(hidden=8, activation=nn.Sigmoid)
    (sentence,) = (s for s in remarks_of(model, rules.Composite(rules.Epsilon(0.1)), rate=1e-3) if "-fold" in s)
    fold = re.match(
        r"relative to the weights, the norm of feedback falls (\d+)-fold between layers 16 and \d+; normalise between",
        sentence,
    )
    assert int(fold[1]) >= 40, sentence


def test_feedback_that_vanishes_for_good_although_a_scale_began_at_0() -> None:
    nothing = dict.fromkeys(FIGURES)
    rows = []
    for step in range(30):
        rows += [
            {**nothing, "step": step, "module": name, "kind": kind, "feedback": feedback, "weight": weight}
            for name, kind, feedback, weight in (
                ("first", "Linear", 0.01, 1.0),
                ("scale", "BatchNorm1d", 1.0, 0.1 * step),
                ("last", "Linear", 1.0, 1.0),
            )
        ]
    assert any("falls 100-fold between layers last and first" in sentence for sentence in remarks(rows))


def test_biases_that_take_the_reward() -> None:
    model = mlp()
    nn.init.uniform_(model[4].bias, -9, 9)
    said = remarks_of(model)
    assert any(re.match(r"\d+% of the reward is lost or gained between the .* of layer 4: ", s) for s in said)


def test_numbers_that_are_not_finite() -> None:
    (sentence,) = remarks_of(mlp(), rate=1e20, steps=20)
    assert re.match(r".* has a .* of (nan|inf|-inf) at step \d+; use a smaller learning rate", sentence)


def test_numbers_that_are_not_finite_from_the_first_step_on_are_in_the_data() -> None:
    (sentence,) = remarks_of(mlp(), batch=lambda: (torch.full((32, 2), torch.nan), torch.zeros(32).long()))
    assert re.match(r".* has a .* of nan at step 0; look for it in the data$", sentence)


def test_a_log_of_two_steps_says_nothing() -> None:
    assert remarks_of(mlp(bias=False), steps=10, batch=lambda: (torch.zeros(32, 2), torch.zeros(32).long())) == []
