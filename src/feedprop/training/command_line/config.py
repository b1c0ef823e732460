"""The configuration of a run: typed settings and named components, and its form in a YAML file."""

from __future__ import annotations

import dataclasses
import errno
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import KINDS, Component, nearest
from feedprop.training.models.spiking import EPSILON

Method = Literal[
    "lfp",
    "backprop",
    "feedback_alignment",
    "direct_feedback_alignment",
    "sign_symmetric",
    "last_layer",
    "straight_through",
]
Precision = Literal["no", "bf16", "fp16"]
Interval = Literal["auto", "step", "epoch"]


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Args:
        method: lfp strengthens what was rewarded; backprop follows the gradient of a loss; the others train on a loss
            too, see docs/how-to-compare.md
        epochs: passes over the training data
        batch_size: samples per step on each device
        seed: of initial weights, validation split, order of the samples, dropout and toy data
        validation_fraction: share of the training data that is set aside to choose the best model
        clip_norm: largest norm of the feedback or gradient of all parameters together
        accumulate: batches whose feedback or gradients are summed before a step
        magnitude_floor: with lfp, the smallest magnitude by which a weight's feedback is scaled; as --rule says unless
            given
        relative_magnitude: with lfp, whether magnitude and floor are in units of the root mean square of their
            parameter; as --rule says unless given
        scheduler_interval: when the learning rate changes; auto means per step if the schedule has a length, else epoch
        device: auto, cpu, cuda, cuda:1, mps
        precision: automatic mixed precision
        workers: processes that read images which are not held in memory
        checkpoint_every: when the whole state is written, from which --resume goes on: epoch, or also every so many
            steps (500) or minutes (10min)
        keep_checkpoints: how many of these states are kept, the last ones
        on_nan: what happens at NaN or infinity: the run stops, or goes on without that step
        tracker: where figures are logged: tensorboard, wandb, mlflow, trackio, the import path of a tracker for
            accelerate, several with commas between, or none
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
    magnitude_floor: float | None = None
    relative_magnitude: bool | None = None
    scheduler_interval: Interval = "auto"
    device: str = "auto"
    precision: Precision = "no"
    workers: int = 0
    checkpoint_every: int | str = "epoch"
    keep_checkpoints: int = 2
    on_nan: Literal["stop", "skip"] = "stop"
    tracker: str = "tensorboard"
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise FeedpropError(f"--{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("seed", "workers", "magnitude_floor"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise FeedpropError(f"--{name} must not be negative, but is {getattr(self, name)}")
        if self.seed >= 2**32:
            raise FeedpropError(f"--seed must be below 2**32, but is {self.seed}")
        if not 0 < self.validation_fraction < 1:
            raise FeedpropError(f"--validation_fraction must be above 0 and below 1, but is {self.validation_fraction}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise FeedpropError(f"--clip_norm must be above 0, but is {self.clip_norm}")
        for name in ("magnitude_floor", "relative_magnitude"):
            if self.method != "lfp" and getattr(self, name) is not None:
                raise FeedpropError(f"--{name} scales LFP's feedback and has no meaning with --method {self.method}")


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    settings: Settings
    components: Mapping[str, Component]

    def __post_init__(self) -> None:
        for kind, name in (("optimizer", "lr"), ("scheduler", "max_lr")):
            value = self.components[kind].arguments.get(name)
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise FeedpropError(f"the learning rate --{kind}.{name} must be above 0, but is {value}")

    @property
    def spiking(self) -> bool:
        """Whether the model is one of feedprop's named spiking networks."""
        return self.components["model"].target() in EPSILON

    @property
    def title(self) -> str:
        """The run in a few words, fit for a folder's name."""
        names = (self.components[kind].name.rpartition(".")[2] for kind in ("data", "model"))
        return "-".join([*names, self.settings.method]).lower()

    def as_dict(self) -> dict[str, Any]:
        """Return what --config reads again; the output folder is left out."""
        settings = dataclasses.asdict(self.settings)
        del settings["output"], settings["overwrite"]
        sections = {
            kind: {"name": part.name, **{key: value for key, value in part.arguments.items() if value is not None}}
            for kind, part in self.components.items()
        }
        return {**settings, **sections}

    def flat(self) -> dict[str, Any]:
        """Return the same as options, {"model.name": "lenet", "epochs": 3}."""
        found: dict[str, Any] = {}
        for key, value in self.as_dict().items():
            found |= {f"{key}.{name}": part for name, part in value.items()} if key in self.components else {key: value}
        return found

    def as_yaml(self) -> str:
        return yaml.safe_dump(_plain(self.as_dict()), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """A safe loader without aliases, with which a small file can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which configurations cannot have")
        return super().compose_node(parent, index)


MOST_BYTES = 10 * 2**20  # of a configuration


def read_config(path: str) -> dict[str, Any]:
    """Return the options in a configuration file, {"model.name": "lenet", "epochs": 3}."""
    return as_options(read_yaml(path), path=path)


def read_yaml(path: str, *, what: str = "configuration file") -> dict[str, Any]:
    """Return the keys and values in a YAML file; `what` it is called in errors."""
    try:
        content = yaml.load(_read(Path(path)), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise FeedpropError(f"cannot read the {what} {path}: {reason}") from error
    except RecursionError as error:
        raise FeedpropError(f"the {what} {path} is nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, ArithmeticError) as error:  # of numbers and dates
        raise FeedpropError(f"the {what} {path} is not YAML: {' '.join(str(error).split())}") from error
    if _holds_nul(content):
        raise FeedpropError(f"the {what} {path} holds a NUL character, which no name and no value can have")
    if not isinstance(content, dict | None):
        raise FeedpropError(f"the {what} {path} must hold keys and values, but holds {content!r}")
    return content or {}


def as_options(content: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    """Return the options of a configuration in a file, {"model.name": "lenet", "epochs": 3}."""
    known = {field.name for field in dataclasses.fields(Settings)} | {*KINDS}
    options: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise FeedpropError(f"the configuration file has an unknown key {key!r}{nearest(str(key), known)}")
        if key not in KINDS:
            options[key] = value
        elif isinstance(value, str):
            options[f"{key}.name"] = value
        elif isinstance(value, dict):
            options |= {f"{key}.{name}": part for name, part in value.items()}
        else:
            raise FeedpropError(f"{path}: {key} must be a name, or a name and options, but is {value!r}")
    return options


def _read(path: Path) -> str:
    """Return the text of a file, but not of a pipe, which may never end, or of what is too large."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has {size} bytes, and a configuration has {MOST_BYTES} at most")
    return path.read_text(encoding="utf-8")


def _holds_nul(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_nul, [*value, *value.values()]))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def _plain(value: Any) -> Any:
    """Return the value in YAML's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
