"""The default components and their options, which depend on the method and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import resolve
from feedprop.training.models.spiking import EPSILON

DEFAULT_MODEL = "mlp"
# SGD's own default of 0.001 is too small for either method; feedback is proportional to |w|, hence LFP's larger rate
LEARNING_RATES: Mapping[str, float] = {"lfp": 1.0, "backprop": 0.1}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "lfp": {
        "rule.name": "feedprop.rules.Epsilon",
        "activation.name": "feedprop.rules.Secant",
        "reward.name": "feedprop.rewards.SoftmaxReward",
    },
    "backprop": {"loss.name": "torch.nn.CrossEntropyLoss"},
}
SPIKING_REWARD = "feedprop.rewards.SpikeTargetReward"
SPIKING_OPTIMIZER: Mapping[str, Any] = {"optimizer.name": "torch.optim.Adam", "optimizer.lr": 2e-3}


def default_options(model: str, *, method: str) -> dict[str, Any]:
    """Return the name of each component that the method needs, and the options that differ from its own defaults."""
    if method not in [*OBJECTIVES]:
        raise FeedpropError(f"--method must be {' or '.join(OBJECTIVES)}, but is {method}")
    options = {
        "data.name": "digits",
        "model.name": model,
        **OBJECTIVES[method],
        "optimizer.name": "torch.optim.SGD",
        "optimizer.lr": LEARNING_RATES[method],
        "scheduler.name": "torch.optim.lr_scheduler.OneCycleLR",
    }
    epsilon = EPSILON.get(resolve("model", model))
    if epsilon is not None:
        options |= SPIKING_OPTIMIZER
        options |= {"reward.name": SPIKING_REWARD, "rule.epsilon": epsilon} if method == "lfp" else {}
    return options
