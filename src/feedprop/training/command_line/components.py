"""Models, data sets, optimizers and the like by name: finding them and making them."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedprop.errors import FeedpropError

_TOYS = "feedprop.training.data.toys"
_MODELS = "feedprop.training.models.dense"
_SPIKING = "feedprop.training.models.spiking"
_TORCHVISION = "torchvision.datasets"


@dataclass(frozen=True)
class Kind:
    """A kind of component.

    Args:
        help: what it is called in --help and in errors
        short: short name -> import path
        home: module in which any other name without dots is looked up
        bases: classes that it makes instances of; none if anything will do
        withheld: parameters that only the run passes
        filled: parameters, with their types, that the run fills in unless they are given
    """

    help: str
    short: Mapping[str, str]
    home: str = ""
    bases: tuple[str, ...] = ()
    withheld: frozenset[str] = frozenset()
    filled: Mapping[str, Any] = field(default_factory=dict)


KINDS: Mapping[str, Kind] = {
    "data": Kind(
        "data set",
        {
            **{name: f"{_TOYS}.{name}" for name in ("digits", "diabetes", "blobs", "circles", "swirls")},
            "mnist": f"{_TORCHVISION}.MNIST",
            "fashion_mnist": f"{_TORCHVISION}.FashionMNIST",
            "cifar10": f"{_TORCHVISION}.CIFAR10",
            "cifar100": f"{_TORCHVISION}.CIFAR100",
            "table": "feedprop.training.data.tables.table",
            "image_folder": "feedprop.training.data.images.image_folder",
            "time_series": "feedprop.training.data.time_series.time_series",
            "text": "feedprop.training.data.texts.text",
        },
        withheld=frozenset(
            {"train", "split", "download", "transform", "target_transform", "transforms", "loader", "seed"}
        ),
    ),
    "model": Kind(
        "model",
        {
            **{name.lower(): f"{_MODELS}.{name}" for name in ("MLP", "LeNet", "VGG")},
            "text_mlp": "feedprop.training.models.text.TextMLP",
            "hugging_face_text": "feedprop.training.models.text.HuggingFaceText",
            **{name: f"{_SPIKING}.{name}" for name in ("lif_mlp", "lif_cnn", "lif_cnn5")},
        },
        filled={
            "inputs": Sequence[int] | None,
            "classes": int | None,
            "num_classes": int | None,
            "timed": bool | None,
            "vocabulary": int | None,
            "padding_idx": int | None,
        },
    ),
    "rule": Kind("LFP rule or preset", {}, "feedprop.rules", ("feedprop.rules.Rule", "feedprop.rules.Composite")),
    "activation": Kind(
        "activation rule", {"default": f"{__name__}.of_the_rule"}, "feedprop.rules", ("feedprop.rules.ActivationRule",)
    ),
    "reward": Kind("reward", {}, "feedprop.rewards", ("feedprop.rewards.Reward",)),
    "loss": Kind("loss", {}, "torch.nn", ("torch.nn.Module",)),
    "optimizer": Kind("optimizer", {}, "torch.optim", ("torch.optim.Optimizer",), withheld=frozenset({"params"})),
    "scheduler": Kind(
        "learning rate schedule",
        {"none": f"{__name__}.no_schedule"},
        "torch.optim.lr_scheduler",
        withheld=frozenset({"optimizer"}),
        filled={"total_steps": int | None, "T_max": int | None, "max_lr": float | None},
    ),
}


@dataclass(frozen=True)
class Component:
    """A named component with the arguments that were given for it."""

    kind: str
    name: str
    arguments: Mapping[str, Any]

    def target(self) -> Callable[..., Any]:
        """Return the class or function that the name stands for."""
        return resolve(self.kind, self.name)

    def make(self, *args: Any, **filled: Any) -> Any:
        """Call it with its arguments, and with those of `filled` that it accepts and that were not given."""
        target = self.target()
        parameters = inspect.signature(target).parameters
        accepted = {*self.arguments, *parameters}
        missing = {key: value for key, value in filled.items() if key in accepted and self.arguments.get(key) is None}
        own = {key for key in KINDS[self.kind].filled if _has_default(parameters.get(key))}
        given = {key: value for key, value in self.arguments.items() if value is not None or key not in own}
        try:
            made = target(*args, **{**given, **missing})
        except FeedpropError:
            raise
        except (AssertionError, ValueError, TypeError, RuntimeError, OSError, ImportError, ArithmeticError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FeedpropError(f"--{self.kind} {self.name} cannot be made: {reason}") from error
        bases = _bases(KINDS[self.kind])
        if bases and made is not None and not isinstance(made, bases):
            raise FeedpropError(
                f"--{self.kind} {self.name} makes a {type(made).__name__}, not a {_either(KINDS[self.kind])}"
            )
        return made


def _has_default(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and parameter.default is not parameter.empty


def no_schedule(optimizer: object) -> None:
    """Keep the learning rate as it is."""


def of_the_rule() -> None:
    """Let activations pass credit as the rule or preset says."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return '; did you mean ...?' with the choices most like the word, or nothing."""
    lowered = {choice.lower(): choice for choice in choices if not choice.startswith("_")}
    found = difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(lowered[match] for match in found)}?" if found else ""


def _all_of(module: Any) -> str:
    """Return '; it has ...' with the functions and classes that a small module defines, or nothing."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    own = sorted(name for name in own if not name.startswith("_"))
    return f"; it has {', '.join(own)}" if 0 < len(own) <= 20 else ""


def search_in(*folders: str) -> None:
    """Find modules in these folders, after what is installed; without folders, only what is installed."""
    if sys.path[:1] in ([""], [os.getcwd()]):  # python -m feedprop puts the current folder first
        del sys.path[0]
    sys.path += [path for path in map(os.path.abspath, folders) if path not in sys.path]


def imported_from_here(components: Iterable[Component]) -> tuple[str, ...]:
    """Say which components come from files of the current folder."""
    here, found = os.getcwd() + os.sep, []
    for part in components:
        file = getattr(sys.modules.get(getattr(part.target(), "__module__", "")), "__file__", None)
        if file is not None and os.path.abspath(file).startswith(here) and "site-packages" not in file:
            found.append(f"--{part.kind} {part.name} is imported from {os.path.abspath(file)}")
    return tuple(found)


def import_path(path: str, *, option: str) -> Any:
    """Return what an import path such as torchvision.models.resnet18 names."""
    module_name, _, name = path.rpartition(".")
    if not all(path.split(".")):
        raise FeedpropError(f"{option} {path!r} is no import path, such as torchvision.models.resnet18")
    if (owner := _class_in(module_name)) is not None and hasattr(owner, name):
        return getattr(owner, name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        known = error.name is not None and (module_name + ".").startswith(error.name + ".")
        reason = f"there is no module {error.name}" if known else f"importing {module_name} fails: {error}"
        raise FeedpropError(f"{option} {path}: {reason}") from error
    except ImportError as error:
        raise FeedpropError(f"{option} {path}: importing {module_name} fails: {error}") from error
    if not hasattr(module, name):
        others = nearest(name, dir(module)) or _all_of(module)
        raise FeedpropError(f"{option} {path}: {module_name} has no {name}{others}")
    return getattr(module, name)


def resolve(kind: str, name: str) -> Callable[..., Any]:
    """Return the class or function that a short name, a name in the kind's home module or an import path stands for."""
    known, option = KINDS[kind], f"--{kind}"
    if not isinstance(name, str) or not name:
        raise FeedpropError(f"{option} needs a name or an import path, but is {name!r}")
    if name in known.short:
        return _callable(import_path(known.short[name], option=option), name, option)
    if "." not in name:
        target = _at_home(known, name, option)
    else:
        target = _callable(import_path(_whole(known, name), option=option), name, option)
    if inspect.isclass(target) and (bases := _bases(known)) and not issubclass(target, bases):
        raise FeedpropError(
            f"{option} {name} is no {known.help}: it is not a subclass of {_either(known)}{_meant(name, kind)}"
        )
    return target


def _whole(kind: Kind, path: str) -> str:
    """Return the import path that presets.published is short for, feedprop.rules.presets.published."""
    first = path.partition(".")[0]
    found = getattr(importlib.import_module(kind.home), first, None) if kind.home else None
    imported = inspect.ismodule(found) and found.__name__ == first  # feedprop.optim may import torch, as torch
    return path if found is None or imported else f"{kind.home}.{path}"


def _bases(kind: Kind) -> tuple[type, ...]:
    return tuple(import_path(base, option="") for base in kind.bases)


def _either(kind: Kind) -> str:
    return " or ".join(base.rpartition(".")[2] for base in kind.bases)


def _meant(name: str, kind: str) -> str:
    """Return '; write --activation Secant' if the name belongs to another kind of component."""
    for other, known in KINDS.items():
        if other == kind or not known.bases or not known.home:
            continue
        with contextlib.suppress(FeedpropError):
            target = import_path(name if "." in name else f"{known.home}.{name}", option="")
            if inspect.isclass(target) and issubclass(target, _bases(known)):
                return f"; write --{other} {name}"
    return ""


def _class_in(path: str) -> type | None:
    """Return the class that a path such as feedprop.rules.Secant names, if it names one."""
    module, _, name = path.rpartition(".")
    with contextlib.suppress(ImportError, ValueError):
        found = getattr(importlib.import_module(module), name, None)
        return found if inspect.isclass(found) else None
    return None


def _at_home(kind: Kind, name: str, option: str) -> Callable[..., Any]:
    home = importlib.import_module(kind.home) if kind.home else None
    if home is not None and callable(getattr(home, name, None)):
        return _callable(getattr(home, name), name, option)
    choices = [*kind.short, *(word for word in dir(home) if home is not None and word[0].isupper())]
    listed = f"known are {', '.join(kind.short)}" if not kind.home else f"write a name from {kind.home}"
    raise FeedpropError(f"{option}: unknown {kind.help} {name!r}{nearest(name, choices)} ({listed}, or an import path)")


def _callable(target: Any, name: str, option: str) -> Callable[..., Any]:
    if not callable(target):
        raise FeedpropError(f"{option} {name} is a {type(target).__name__}; name a class or a function")
    return target  # type: ignore[no-any-return]  # narrowed from Any
