"""From a configuration to data, model, objective and optimizer, checked against one another."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import feedprop
from feedprop import rewards
from feedprop.errors import FeedpropError
from feedprop.rules import Composite
from feedprop.spiking import Neuron
from feedprop.training import methods
from feedprop.training.command_line.components import imported_from_here
from feedprop.training.command_line.config import Config
from feedprop.training.data.splits import Splits, load, loader
from feedprop.training.data.standardisation import Normalisation
from feedprop.training.data.tensors import SequenceData, three_channels
from feedprop.training.data.tokens import Tokens
from feedprop.training.evaluation import Objective
from feedprop.training.models.shapes import check_fit
from feedprop.training.models.spiking import firing_neurons
from feedprop.training.tasks import Task


@dataclass(frozen=True)
class Parts:
    """Data, model and objective of a run."""

    data: Splits
    model: nn.Module
    objective: Objective
    notes: tuple[str, ...] = ()  # what was done to the data that nobody asked for
    remarks: tuple[str, ...] = ()  # what looks wrong


def assemble(
    config: Config,
    *,
    normalisation: Normalisation | None = None,
    scale: Normalisation | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Parts:
    """Load the data, make the model and the objective, and check on two samples that they fit.

    Args:
        config: of the run.
        normalisation: of the inputs that the model was trained with; measured unless given.
        scale: of the targets of regression, likewise.
        vocabulary: the name of each token of texts, likewise.
    """
    data = load(
        config.components["data"],
        seed=config.settings.seed,
        validation_fraction=config.settings.validation_fraction,
        normalisation=Normalisation() if config.spiking else normalisation,
        scale=scale,
        vocabulary=vocabulary,
    )
    inputs, targets = next(iter(loader(data.train, batch_size=2)))
    timed = isinstance(data.train, SequenceData)
    shape, classes = tuple(inputs.shape[1 + timed :]), len(data.classes)
    model = make_model(config, shape=shape, classes=classes, timed=timed, tokens=data.tokens)
    objective = make_objective(config, data.task)
    fit: dict[str, Any] = {"samples": len(targets), "task": data.task, "name": config.components["model"].name}
    notes = (*imported_from_here(config.components.values()), *data.notes)
    try:
        outputs = check_fit(model, inputs, **fit)
    except FeedpropError as error:
        if timed:
            raise FeedpropError(
                f"{error}; batches of sequences are time-first, as --model lif_mlp takes them"
            ) from error
        if data.tokens is not None:
            raise FeedpropError(
                f"{error}; of texts it gets the ids of tokens, whole numbers, as --model text_mlp takes them"
            ) from error
        if not (inputs.ndim == 4 and inputs.shape[1] == 1 and "3 channels" in str(error)):
            raise
        outputs = check_fit(model, inputs.expand(-1, 3, -1, -1), **fit)
        train, validation, test = map(three_channels, (data.train, data.validation, data.test))
        data = replace(data, train=train, validation=validation, test=test)
        notes = (
            *notes,
            f"the model {fit['name']} takes colours, so the channel of the grey images is repeated 3 times",
        )
    objective.check(outputs, targets)
    return Parts(data, model, objective, notes, tuple(filter(None, [objective.remark(outputs)])))


def make_model(
    config: Config, *, shape: tuple[int, ...], classes: int, timed: bool, tokens: Tokens | None = None
) -> nn.Module:
    """Make the model for inputs of this shape, which excludes the steps of sequences, or for the tokens of texts."""
    component = config.components["model"]
    of_texts = {} if tokens is None else {"vocabulary": len(tokens.names), "padding_idx": tokens.padding}
    model = component.make(inputs=shape, classes=classes, num_classes=classes, timed=timed, **of_texts)
    if not isinstance(model, nn.Module):
        raise FeedpropError(f"--model {component.name} makes a {type(model).__name__}, not a torch.nn.Module")
    if config.settings.method != "lfp" and any(isinstance(neuron, Neuron) for neuron in firing_neurons(model)):
        raise FeedpropError(
            f"--method {config.settings.method} cannot train {component.name}: its neurons fire by a step function, "
            f"which has derivative 0; leave --method out, or name a model of snnTorch's neurons, which have a "
            f"surrogate gradient"
        )
    return model


# task -> the reward that its targets are for; classes have many
FITTING: Mapping[str, type] = {"regression": rewards.RegressionReward, "multi_label": rewards.SigmoidReward}
LOSSES: Mapping[str, str] = {"regression": "MSELoss", "multi_label": "BCEWithLogitsLoss"}
TARGETS: Mapping[str, str] = {
    "classification": "classes", "regression": "numbers", "multi_label": "several labels at once",
}  # fmt: skip
# rewards that cannot train a model on labelled data, and why
REFUSED: Mapping[type, str] = {
    rewards.CorrectnessReward: (
        "strengthens only classes that win already, so one class ends up winning everywhere (experiments/"
        "discrete-rewards); to train by yes or no, use --reward ChoiceReward"
    ),
    rewards.MinimizeReward: (
        "makes the output small that the label names, so the model learns to answer anything but the right class; use "
        "--reward MaximizeReward"
    ),
    rewards.GivenReward: (
        "takes rewards from outside, which a data set with labels does not have; use --reward ChoiceReward to train by "
        "whether an answer is right, or GivenReward in a loop of your own"
    ),
}


def make_objective(config: Config, task: Task) -> Objective:
    """Make the reward or loss; refuse a reward that cannot train a model for the task."""
    kind = "reward" if config.settings.method == "lfp" else "loss"
    module = config.components[kind].make()
    if type(module) in REFUSED:
        raise FeedpropError(f"--reward {type(module).__name__} {REFUSED[type(module)]}")
    if isinstance(module, nn.CrossEntropyLoss) and task.name in FITTING:
        raise FeedpropError(
            f"--loss {type(module).__name__} does not fit {config.components['data'].name}, whose targets are "
            f"{TARGETS[task.name]}; use --loss {LOSSES[task.name]}"
        )
    if kind == "reward":
        fitting = FITTING.get(task.name)
        numbers = isinstance(module, rewards.RegressionReward)
        if (fitting is None and numbers) or (
            fitting is not None and type(module).__module__.startswith("feedprop.") and not isinstance(module, fitting)
        ):
            instead = (fitting or rewards.SoftmaxReward).__name__
            raise FeedpropError(
                f"--reward {type(module).__name__} does not fit {config.components['data'].name}, whose targets are "
                f"{TARGETS[task.name]}; use --reward {instead}"
            )
    return Objective(module, kind, -1 if kind == "reward" else 1, task)


def make_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Make the optimizer of all parameters that require a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise FeedpropError(f"the model {config.components['model'].name} has no parameters to train")
    component = config.components["optimizer"]
    optimizer: Optimizer = component.make(trained)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise FeedpropError(
            f"--optimizer {component.name} evaluates one objective several times per step, and feedback is the "
            f"gradient of none; use an optimizer that takes one gradient per step, such as SGD or Adam"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise FeedpropError(f"--optimizer {component.name} takes sparse gradients alone; use --optimizer Adam")
    return optimizer


def make_composite(config: Config) -> Composite:
    """Return the preset, or the default of `attach` with the rule, and what the settings change of it."""
    rule, activation = (config.components[kind].make() for kind in ("rule", "activation"))
    composite = rule if isinstance(rule, Composite) else feedprop.rules.presets.training().replace(default=rule)
    changes = {name: getattr(config.settings, name) for name in ("magnitude_floor", "relative_magnitude")}
    changes["activation"] = activation
    return composite.replace(**{name: value for name, value in changes.items() if value is not None})


def attach(config: Config, model: nn.Module) -> list[str]:
    """Attach the composite of the settings if the method is LFP; return what the library warns about."""
    if config.settings.method != "lfp":
        return []
    composite = make_composite(config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        feedprop.attach(model, composite)
    remarks = (" ".join(str(warning.message).split()) for warning in caught)
    return [remark.replace("a composite with magnitude_floor=0.02", "--magnitude_floor 0.02") for remark in remarks]


def prepare_method(config: Config, parts: Parts, device: torch.device) -> None:
    """Let the gradients of the model, on its device, follow the settings' method, if it is neither LFP nor backprop."""
    if config.settings.method not in methods.METHODS:
        return
    with torch.random.fork_rng(devices=[]):  # a loader draws a number
        inputs, _ = next(iter(loader(parts.data.train, batch_size=2)))
    methods.attach(config.settings.method, parts.model, inputs.to(device), seed=config.settings.seed)
