"""What a run is made of: typed settings and named components, read from the command line and from YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import Component

Method = Literal["lfp", "backprop"]
Precision = Literal["no", "bf16", "fp16"]
Interval = Literal["auto", "step", "epoch"]

KINDS_OF_METHOD: Mapping[str, tuple[str, ...]] = {
    "lfp": ("data", "model", "rule", "activation", "reward", "optimizer", "scheduler"),
    "backprop": ("data", "model", "loss", "optimizer", "scheduler"),
}
DEFAULT_NAMES: Mapping[str, str] = {
    "data": "digits",
    "model": "mlp",
    "rule": "feedprop.rules.Epsilon",
    "activation": "feedprop.rules.Secant",
    "reward": "feedprop.rewards.SoftmaxReward",
    "loss": "torch.nn.CrossEntropyLoss",
    "optimizer": "torch.optim.SGD",
    "scheduler": "torch.optim.lr_scheduler.OneCycleLR",
}
# SGD's own default of 0.001 is too small for either method; feedback is proportional to |w|, hence the larger rate
DEFAULT_LEARNING_RATES: Mapping[str, float] = {"lfp": 1.0, "backprop": 0.1}
# spiking networks and their epsilon, as in experiments/spiking; that of lif_cnn5 was not measured
SPIKING_EPSILON: Mapping[str, float] = {"lif_mlp": 1.0, "lif_cnn": 0.1, "lif_cnn5": 0.1}
SPIKING_LEARNING_RATE = 2e-3
SPIKING_NAMES: Mapping[str, str] = {
    **DEFAULT_NAMES,
    "reward": "feedprop.rewards.SpikeTargetReward",
    "optimizer": "torch.optim.Adam",
}


def is_spiking(model: str) -> bool:
    """Whether this is the name of one of feedprop's spiking networks."""
    return _builder(model) in SPIKING_EPSILON


def _builder(model: str) -> str:
    return model.removeprefix("feedprop.training.models.spiking.")


def default_names(model: str) -> Mapping[str, str]:
    """Return which component is taken of each kind unless one is named."""
    return SPIKING_NAMES if is_spiking(model) else DEFAULT_NAMES


def default_arguments(kind: str, *, model: str, method: str) -> Mapping[str, Any]:
    """Return the arguments in which the default component of this kind differs from its own defaults."""
    if kind == "optimizer":
        return {"lr": SPIKING_LEARNING_RATE if is_spiking(model) else DEFAULT_LEARNING_RATES[method]}
    return {"epsilon": SPIKING_EPSILON[_builder(model)]} if kind == "rule" and is_spiking(model) else {}


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Args:
        method: lfp strengthens what was rewarded; backprop follows the gradient of a loss
        epochs: passes over the training data
        batch_size: samples per step on each device
        seed: of initial weights, validation split, order of the samples, dropout and toy data
        validation_fraction: share of the training data that is kept for choosing the best model
        clip_norm: largest norm that the feedback or gradient of all parameters together may have
        accumulate: batches whose feedback or gradients are added up before a step
        magnitude_floor: with lfp, the smallest magnitude |w| that a weight's feedback is scaled by
        relative_magnitude: with lfp, |w| in units of the root mean square of its parameter, the floor as well
        scheduler_interval: when the learning rate changes; auto is per step if the schedule has a length, else epoch
        device: auto, cpu, cuda, cuda:1, mps
        precision: automatic mixed precision
        workers: processes that read images which are not held in memory
        output: folder of the run; runs/DATA-MODEL-METHOD-NUMBER unless given
        overwrite: replace the run that is in the output folder
    """

    method: Method = "lfp"
    epochs: int = 20
    batch_size: int = 128
    seed: int = 0
    validation_fraction: float = 0.1
    clip_norm: float | None = None
    accumulate: int = 1
    magnitude_floor: float = 0.0
    relative_magnitude: bool = False
    scheduler_interval: Interval = "auto"
    device: str = "auto"
    precision: Precision = "no"
    workers: int = 0
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise FeedpropError(f"--{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("seed", "workers", "magnitude_floor"):
            if not 0 <= getattr(self, name) < math.inf:
                raise FeedpropError(f"--{name} must not be negative, but is {getattr(self, name)}")
        if not 0 < self.validation_fraction < 1:
            raise FeedpropError(f"--validation_fraction must be above 0 and below 1, but is {self.validation_fraction}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise FeedpropError(f"--clip_norm must be above 0, but is {self.clip_norm}")
        for name in ("magnitude_floor", "relative_magnitude"):
            if self.method == "backprop" and getattr(self, name):
                raise FeedpropError(f"--{name} scales LFP's feedback and has no meaning with --method backprop")


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    settings: Settings
    components: Mapping[str, Component]

    def __post_init__(self) -> None:
        """Refuse learning rates that cannot be meant."""
        for kind, name in (("optimizer", "lr"), ("scheduler", "max_lr")):
            value = self.components[kind].arguments.get(name)
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise FeedpropError(f"the learning rate --{kind}.{name} must be above 0, but is {value}")

    def component(self, kind: str) -> Component:
        """Return the component of this kind."""
        return self.components[kind]

    @property
    def spiking(self) -> bool:
        """Whether the model is one of feedprop's spiking networks."""
        return is_spiking(self.component("model").name)

    @property
    def title(self) -> str:
        """Name the run in a few words, fit for a folder's name."""
        names = (self.component(kind).name.rpartition(".")[2] for kind in ("data", "model"))
        return "-".join([*names, self.settings.method]).lower()

    def as_dict(self) -> dict[str, Any]:
        """Return what --config reads again; where the run was written is no part of it."""
        settings = dataclasses.asdict(self.settings)
        del settings["output"], settings["overwrite"]
        sections = {
            kind: {"name": part.name, **{key: value for key, value in part.arguments.items() if value is not None}}
            for kind, part in self.components.items()
        }
        return {**settings, **sections}

    def as_yaml(self) -> str:
        """Return the configuration as a file for --config."""
        return yaml.safe_dump(_plain(self.as_dict()), sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a configuration file into a dictionary in which every component is a dictionary with a name."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise FeedpropError(f"cannot read the configuration file {path}: {reason}") from error
    except yaml.YAMLError as error:
        raise FeedpropError(f"the configuration file {path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise FeedpropError(f"the configuration file {path} must hold keys and values, but holds {content!r}")
    for kind in DEFAULT_NAMES:
        section = content.get(kind)
        if isinstance(section, str):
            content[kind] = {"name": section}
        elif kind in content and not isinstance(section, dict):
            raise FeedpropError(f"{path}: {kind} must be a name, or a name and options, but is {section!r}")
    return content


def _plain(value: Any) -> Any:
    """Return the value in YAML's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
