"""From a configuration to data, model, objective and optimizer, checked against one another."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

import feedprop
from feedprop.errors import FeedpropError
from feedprop.rules import Composite
from feedprop.spiking import Neuron
from feedprop.training.command_line.config import Config
from feedprop.training.data.splits import Splits, load, loader
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.data.tensors import SequenceData
from feedprop.training.evaluation import Objective
from feedprop.training.models.shapes import check_fit
from feedprop.training.models.spiking import firing_neurons


@dataclass(frozen=True)
class Parts:
    """Data, model and objective of a run."""

    data: Splits
    model: nn.Module
    objective: Objective


def assemble(config: Config, *, normalisation: Normalisation | None = None) -> Parts:
    """Load the data, make the model and the objective, and check on two samples that they fit."""
    data = load(
        config.components["data"],
        seed=config.settings.seed,
        validation_fraction=config.settings.validation_fraction,
        normalisation=Normalisation() if config.spiking else normalisation,
    )
    inputs, targets = next(iter(loader(data.train, batch_size=2)))
    timed = isinstance(data.train, SequenceData)
    model = make_model(config, shape=tuple(inputs.shape[1 + timed :]), classes=len(data.classes), timed=timed)
    objective = make_objective(config)
    try:
        outputs = check_fit(
            model, inputs, samples=len(targets), classes=len(data.classes), name=config.components["model"].name
        )
    except FeedpropError as error:
        if not timed:
            raise
        raise FeedpropError(f"{error}; batches of sequences are time-first, as --model lif_mlp takes them") from error
    objective.check(outputs, targets)
    return Parts(data, model, objective)


def make_model(config: Config, *, shape: tuple[int, ...], classes: int, timed: bool) -> nn.Module:
    """Make the model for inputs of this shape, which excludes the steps of sequences."""
    component = config.components["model"]
    model = component.make(inputs=shape, classes=classes, num_classes=classes, timed=timed)
    if not isinstance(model, nn.Module):
        raise FeedpropError(f"--model {component.name} makes a {type(model).__name__}, not a torch.nn.Module")
    if config.settings.method == "backprop" and any(isinstance(neuron, Neuron) for neuron in firing_neurons(model)):
        raise FeedpropError(
            f"--method backprop cannot train {component.name}: its neurons fire by a step function, which has "
            f"derivative 0; leave --method out, or name a model of snnTorch's neurons, which have a surrogate gradient"
        )
    return model


def make_objective(config: Config) -> Objective:
    kind = "reward" if config.settings.method == "lfp" else "loss"
    module = config.components[kind].make()
    return Objective(module, kind, -1 if kind == "reward" else 1)


def make_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Make the optimizer of all parameters that require a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise FeedpropError(f"the model {config.components['model'].name} has no parameters to train")
    component = config.components["optimizer"]
    optimizer = component.make(trained)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise FeedpropError(
            f"--optimizer {component.name} makes a {type(optimizer).__name__}, not a torch.optim.Optimizer"
        )
    return optimizer


def attach(config: Config, model: nn.Module) -> list[str]:
    """Attach the composite of the settings if the method is LFP; return what the library warns about."""
    if config.settings.method != "lfp":
        return []
    rule, activation = (config.components[kind].make() for kind in ("rule", "activation"))
    magnitude = {name: getattr(config.settings, name) for name in ("magnitude_floor", "relative_magnitude")}
    composite = Composite.of(rule).replace(activation=activation, **magnitude)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        feedprop.attach(model, composite)
    remarks = (" ".join(str(warning.message).split()) for warning in caught)
    return [remark.replace("a composite with magnitude_floor=0.02", "--magnitude_floor 0.02") for remark in remarks]
