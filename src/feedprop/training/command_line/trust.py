"""What the configuration of a received run may name, so that reading it runs nobody's code.

Names are looked up only in packages of KNOWN, and must be classes of what their option makes, or functions whose
annotation promises one. What a configuration passes on as text may be an import path too, of an activation function for
instance, and is held to the same packages.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import KINDS, import_path, resolve
from feedprop.training.command_line.config import read_config

KNOWN = ("feedprop", "torch", "torchvision", "snntorch", "timm", "transformers")
_MADE = {  # what a component must be, for kinds whose components may be anything in one's own commands
    "data": ("torch.utils.data.Dataset", "feedprop.training.data.source.Source"),
    "model": ("torch.nn.Module",),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler",),
}
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_BETWEEN = re.compile(r"[\s,:'\"\[\]{}]+")  # text may be a list, "[a.B, c.D]"
PLACES = ("data.root", "data.path", "data.test", "data.tokenizer", "model.folder")  # text that names files


def check(options: Mapping[str, Any], *, file: str) -> None:
    """Refuse the options of a file, {"model.name": "lenet", ...}, if reading them could run other code.

    Raises:
        FeedpropError: names the option, and --trust.
    """
    for option, value in options.items():
        kind, _, key = option.partition(".")
        if kind in KINDS and key == "name":
            _check_component(kind, value, file=file)
        elif option not in PLACES:
            for word in (word for text in _texts(value) for word in _BETWEEN.split(text)):
                if _IMPORT_PATH.fullmatch(word) and not _harmless(word):
                    raise _refusal(option, word, file)


def is_needed(file: str) -> bool:
    """Whether a configuration names what only --trust imports."""
    try:
        check(read_config(file), file=file)
    except FeedpropError:
        return True
    return False


def _check_component(kind: str, name: Any, *, file: str) -> None:
    if not isinstance(name, str) or name in KINDS[kind].short:
        return
    if "." in name and not _harmless(name) and not _at_home(kind, name):
        raise _refusal(kind, name, file)
    target = resolve(kind, name)
    if not _known(str(getattr(target, "__module__", ""))) or not _makes(target, kind):
        raise _refusal(kind, name, file)


def _known(path: str) -> bool:
    return path.partition(".")[0] in KNOWN


def _harmless(path: str) -> bool:
    """Whether an import path leads to something that a known package defines, or nowhere."""
    if not _known(path):
        return False
    first, *rest = path.split(".")
    found: Any = importlib.import_module(first)
    for name in rest:
        found = getattr(found, name, None)
    home = getattr(found, "__module__", None)  # torch.relu has none, torch.os.abort has another
    return found is None or home is None or _known(home)


def _at_home(kind: str, name: str) -> bool:
    """Whether a name such as presets.published belongs to the kind's own module."""
    home = KINDS[kind].home
    return bool(home) and hasattr(import_path(home, option=""), name.partition(".")[0])


def _makes(target: Any, kind: str) -> bool:
    """Whether a class is, or a function says that it returns, what components of this kind are."""
    made = target if inspect.isclass(target) else _returned(target)
    bases = tuple(import_path(base, option="") for base in KINDS[kind].bases or _MADE[kind])
    return inspect.isclass(made) and issubclass(made, bases)


def _returned(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except (TypeError, NameError, AttributeError):  # a partial, or annotations that only a type checker can read
        return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _refusal(option: str, name: str, file: str) -> FeedpropError:
    return FeedpropError(
        f"{file} names {option} {name}, which could run any code: it is not a component of {', '.join(KNOWN[:-1])} or "
        f"{KNOWN[-1]}; if you trust its author, add --trust"
    )
