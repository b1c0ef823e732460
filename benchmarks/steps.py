"""One training step by LFP and one by backprop, of the same network on the same data."""

import copy
import warnings
from collections.abc import Callable

import torch
from networks import case
from torch import Tensor, nn

import feedprop
from feedprop import rewards
from feedprop.rules import presets

Step = Callable[[], None]

SETTINGS = {"default": presets.training, "plain": presets.sparse}


def _step(model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()

    step.model = model  # type: ignore[attr-defined]
    return step


def both(name: str, *, compiled: bool, settings: str = "default") -> tuple[Step, Step]:
    """Return a step by feedback and a step by gradient: forward, reward or loss, backward, optimizer."""
    by_gradient, inputs, targets = case(name)
    by_feedback = copy.deepcopy(by_gradient)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some offsets start at 0
        feedprop.attach(by_feedback, SETTINGS[settings]())
    if compiled:
        by_gradient, by_feedback = torch.compile(by_gradient), torch.compile(by_feedback)
    return (
        _step(by_feedback, rewards.SoftmaxReward(), inputs, targets),
        _step(by_gradient, nn.CrossEntropyLoss(), inputs, targets),
    )
