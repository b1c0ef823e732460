"""From a configuration to the parts of a run: data, model, objective, optimizer, all checked against one another."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import feedprop
from feedprop.errors import FeedpropError
from feedprop.training.config import Config
from feedprop.training.data import Normalisation, Splits, load, loader
from feedprop.training.evaluation import Objective
from feedprop.training.models import check_fit


@dataclass(frozen=True)
class Parts:
    """What a run works with."""

    data: Splits
    model: nn.Module
    objective: Objective


def assemble(config: Config, *, normalisation: Normalisation | None = None) -> Parts:
    """Load the data, make the model and the objective, and see on two samples that they fit."""
    data = load(
        config.component("data"),
        seed=config.settings.seed,
        validation_fraction=config.settings.validation_fraction,
        normalisation=normalisation,
    )
    inputs, targets = next(iter(loader(data.train, batch_size=2)))
    model = make_model(config, shape=tuple(inputs.shape[1:]), classes=len(data.classes))
    objective = make_objective(config)
    outputs = check_fit(model, inputs, classes=len(data.classes), name=config.component("model").name)
    objective.check(outputs, targets)
    return Parts(data, model, objective)


def make_model(config: Config, *, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Make the model for inputs of this shape."""
    component = config.component("model")
    model = component.make(inputs=shape, classes=classes, num_classes=classes)
    if not isinstance(model, nn.Module):
        raise FeedpropError(f"--model {component.name} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def make_objective(config: Config) -> Objective:
    """Make the reward of LFP or the loss of backprop."""
    kind = "reward" if config.settings.method == "lfp" else "loss"
    module = config.component(kind).make()
    return Objective(module, kind, -1 if kind == "reward" else 1)


def make_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Make the optimizer for the parameters that are to be trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise FeedpropError(f"the model {config.component('model').name} has no parameters to train")
    optimizer = config.component("optimizer").make(trained)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise FeedpropError(f"--optimizer {config.component('optimizer').name} makes no torch optimizer")
    return optimizer


def attach(config: Config, model: nn.Module) -> list[str]:
    """Put the LFP rule under the model if the method is LFP; return what the library remarks on."""
    if config.settings.method != "lfp":
        return []
    rule: Any = config.component("rule").make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        feedprop.attach(model, rule, magnitude_floor=config.settings.magnitude_floor)
    remarks = (" ".join(str(warning.message).split()) for warning in caught)
    return [remark.replace("attach(model, magnitude_floor=...)", "--magnitude_floor") for remark in remarks]
