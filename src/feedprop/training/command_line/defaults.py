"""The default components and their options, which depend on the method, the model and the reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch

from feedprop import rewards
from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import nearest, resolve
from feedprop.training.command_line.config import Method
from feedprop.training.models.spiking import EPSILON
from feedprop.training.tasks import Classification

DEFAULT_MODEL = "mlp"
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "lfp": {
        "rule.name": "feedprop.rules.presets.training",
        "activation.name": "default",
        "reward.name": "feedprop.rewards.SoftmaxReward",
    },
    **{name: {"loss.name": "torch.nn.CrossEntropyLoss"} for name in get_args(Method) if name != "lfp"},
}
# where targets are no classes
TASKS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "regression": {
        "lfp": {"reward.name": "feedprop.rewards.RegressionReward", "optimizer.lr": 0.01},
        "backprop": {"loss.name": "torch.nn.MSELoss", "optimizer.lr": 0.01},
    },
    "multi_label": {
        "lfp": {"reward.name": "feedprop.rewards.SigmoidReward"},
        "backprop": {"loss.name": "torch.nn.BCEWithLogitsLoss"},
    },
}
SGD: Mapping[str, Any] = {"optimizer.name": "torch.optim.SGD", "optimizer.lr": 0.1, "optimizer.momentum": 0.9}
SPIKING: Mapping[str, Any] = {"optimizer.name": "torch.optim.Adam", "optimizer.lr": 2e-3}
SPIKING_LFP: Mapping[str, Any] = {
    "rule.name": "feedprop.rules.presets.spiking",
    "reward.name": "feedprop.rewards.SpikeTargetReward",
}
# chosen on digits, see experiments/discrete-rewards; without these, all outputs run away together
REWARDS: Mapping[Callable[..., Any], Mapping[str, Any]] = {
    rewards.MisclassificationReward: {
        "reward.centred": True,
        "reward.epsilon": 1.0,
        "optimizer.lr": 1.0,
        "optimizer.momentum": 0.0,
    },
    rewards.ChoiceReward: {"optimizer.name": "torch.optim.Adam", "optimizer.lr": 5e-3},
    rewards.MaximizeReward: {
        "reward.centred": True,
        "reward.epsilon": 1.0,
        "optimizer.name": "torch.optim.Adam",
        "optimizer.lr": 1e-3,
    },
}


# rates of SGD with momentum, where the default is another optimizer; chosen on digits
SGD_SPIKING = 1.0
SGD_REWARDS: Mapping[Callable[..., Any], float] = {rewards.ChoiceReward: 0.3, rewards.MaximizeReward: 0.1}


def default_options(
    model: str,
    *,
    method: str,
    reward: str | None = None,
    task: str = Classification.name,
    optimizer: str | None = None,
) -> dict[str, Any]:
    """Return the name of each component that the method needs, and the options that differ from its own defaults.

    Args:
        model: its name.
        method: lfp or backprop.
        reward: its name, if one was given.
        task: what the targets of the data are.
        optimizer: its name, if one was given; SGD has a rate and a momentum for each reward and model.
    """
    if method not in [*OBJECTIVES]:
        raise FeedpropError(
            f"--method must be one of {', '.join(OBJECTIVES)}, but is {method}{nearest(str(method), OBJECTIVES)}"
        )
    options = {
        "data.name": "digits",
        "model.name": model,
        **OBJECTIVES[method],
        **SGD,
        **TASKS.get(task, {}).get("lfp" if method == "lfp" else "backprop", {}),
        "scheduler.name": "torch.optim.lr_scheduler.OneCycleLR",
    }
    rate: float = options["optimizer.lr"]
    epsilon = EPSILON.get(resolve("model", model))
    if epsilon is not None:
        options, rate = _without("optimizer", options) | dict(SPIKING), SGD_SPIKING
        options |= {**SPIKING_LFP, "rule.epsilon": epsilon} if method == "lfp" else {}
    if method == "lfp" and reward is not None:
        options["reward.name"] = reward
        special = REWARDS.get(resolve("reward", reward), {})
        rate = SGD_REWARDS.get(resolve("reward", reward), rate)
        options = (_without("optimizer", options) if "optimizer.name" in special else options) | dict(special)
    is_sgd = optimizer is not None and resolve("optimizer", optimizer) is torch.optim.SGD
    if is_sgd and options["optimizer.name"] != SGD["optimizer.name"]:
        options = _without("optimizer", options) | dict(SGD) | {"optimizer.lr": rate}
    return options


def _without(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if not key.startswith(f"{kind}.")}
