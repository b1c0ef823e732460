"""From the words after a command to a configuration.

Words and configuration files become options, {"model.name": "lenet", "epochs": "3"}. The names among them decide which
options a parser of jsonargparse has, and that parser checks and converts all values at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import KINDS, Component, resolve, search_in
from feedprop.training.command_line.config import Config, Settings, read_config
from feedprop.training.command_line.defaults import DEFAULT_MODEL, default_options
from feedprop.training.command_line.parser import OneSentenceParser, add_component
from feedprop.training.tasks import Classification

DESCRIPTION = """Train a network by Layer-wise Feedback Propagation, or by backprop for comparison.

Without options: digits, a small MLP, 20 epochs. Every component is given by a short name or an import path and takes
its own options after a dot; --help lists those of the components named in the same command, as in
feedprop train --model torchvision.models.resnet18 --help."""
CHECK_DESCRIPTION = """Check in seconds, on a few samples, whether LFP is right on the model of a configuration.

Takes the options of feedprop train. Exits with 1 if there are problems, and writes what was found to check.json in the
folder of --output, if one is given."""
FLAGS = ("help", "overwrite", "trust")  # options without a value
OPTIONAL = "resume"  # the option that may have one
Options = dict[str, Any]


def parse_train(argv: Sequence[str], *, command: str = "train") -> Config:
    """Return the configuration that the command line and its --config files describe."""
    search_in(".")
    return configure(*read_words(argv), command=command)


def read_words(argv: Sequence[str], *, flags: Sequence[str] = ()) -> tuple[list[str], Options]:
    """Return the words that belong to no option, and the options; --config may be given several times.

    Args:
        argv: the words after the command.
        flags: options of this command that have no value, beside FLAGS.
    """
    arguments: list[str] = []
    options: Options = {}
    words = deque("--help" if word == "-h" else word for word in argv)
    while words:
        word = words.popleft()
        if not word.startswith("--"):
            arguments.append(word)
            continue
        key, equals, text = word.removeprefix("--").partition("=")
        lone = key in (*FLAGS, *flags) or (key == OPTIONAL and not (words and not words[0].startswith("--")))
        if lone and key in (*FLAGS, *flags) and words and words[0].lower() in ("true", "false"):
            raise FeedpropError(f"--{key} takes no value; leave {words[0]} out")
        value = text if equals else True if lone else words.popleft() if words else "--"
        if not equals and str(value).startswith("--"):
            raise FeedpropError(f"--{key} needs a value")
        if key == "config":
            options.setdefault(key, []).append(value)
        else:
            options[f"{key}.name" if key in KINDS else key] = value
    return arguments, options


@dataclass(frozen=True)
class Prepared:
    """A parser for what was given.

    Args:
        parser: with the options of the settings and of each component
        options: those given, and the defaults of the command
        settled: those given, on the command line and in files
        kinds: of the components that the method needs
    """

    parser: OneSentenceParser
    options: Options
    settled: Options
    kinds: Sequence[str]


def prepare(given: Options, *, command: str = "train", whole: bool = False) -> Prepared:
    """Return the parser for options, of which those in files are read.

    Args:
        given: by the words of the command.
        command: its name.
        whole: whether the help has all options, also of components that were not named.
    """
    layers = [*map(read_config, given.pop("config", ())), given]
    settled = {key: value for layer in layers for key, value in layer.items()}  # the last one wins
    method = settled.get("method", Settings.method)
    defaults = default_options(
        settled.get("model.name", _told_by_data(settled, "model", DEFAULT_MODEL)),
        method=method,
        reward=settled.get("reward.name"),
        task=settled.get("data.task", _told_by_data(settled, "task", Classification.name)),
        optimizer=settled.get("optimizer.name"),
    )
    kinds = [kind for kind in KINDS if f"{kind}.name" in defaults]
    foreign = [kind for kind in KINDS if kind not in kinds]
    for kind in map(_kind, given):
        if kind in foreign:
            other = "backprop" if method == "lfp" else "lfp"
            raise FeedpropError(f"--{kind} belongs to --method {other}, but the method is {method}")
    options = reduce(overlay, layers, defaults)
    parser = OneSentenceParser(
        prog=f"feedprop {command}",
        description=CHECK_DESCRIPTION if command == "check" else DESCRIPTION,
        usage=f"feedprop {command} [options]",
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of these options")
    parser.add_class_arguments(Settings, None, skip={"overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the output folder")
    if command == "train":
        parser.add_argument("--resume", metavar="[RUN]", help="go on with a run that was stopped")
        parser.add_argument("--trust", action="store_true", help="with --resume, let the run import code of any folder")
    for kind in kinds:
        add_component(parser, kind, options[f"{kind}.name"], named=whole or f"{kind}.name" in settled)
    same = {kind for kind in kinds if _same(kind, options[f"{kind}.name"], defaults[f"{kind}.name"])}
    parser.set_defaults({key: value for key, value in defaults.items() if _kind(key) in same})
    kept = {key: value for key, value in options.items() if _kind(key) not in foreign}
    return Prepared(parser, kept, settled, kinds)


def configure(arguments: Sequence[str], given: Options, *, command: str = "train") -> Config:
    """Return the configuration that the options, the files they name and the defaults add up to."""
    prepared = prepare(given, command=command)
    values, settled = prepared.parser.read(arguments, prepared.options), prepared.settled
    for key in ("config", "resume", "trust"):
        values.pop(key, None)
    parts = {kind: values.pop(kind) for kind in prepared.kinds}
    for name in _cycled(parts):
        if f"optimizer.{name}" in settled:
            raise FeedpropError(
                f"--scheduler.cycle_momentum true sets the momentum, from --scheduler.base_momentum to max_momentum; "
                f"leave out --optimizer.{name} or --scheduler.cycle_momentum"
            )
        del parts["optimizer"][name]  # config.yaml says what is used
    components = {kind: Component(kind, part.pop("name"), part) for kind, part in parts.items()}
    return Config(Settings(**values), components)


def _told_by_data(settled: Options, name: str, otherwise: str) -> str:
    """Return what the function of the data says of itself: what its targets are, or which model takes it."""
    data = settled.get("data.name")
    told = getattr(resolve("data", data), name, None) if isinstance(data, str) else None
    return told if isinstance(told, str) else otherwise


def _cycled(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return which option of the optimizer is its momentum, if the schedule sets that."""
    cycles = parts["scheduler"].get("cycle_momentum", False)
    return [name for name in ("momentum", "betas") if cycles and name in parts["optimizer"]]


def _kind(option: str) -> str:
    return option.partition(".")[0]


def _same(kind: str, first: str, second: str) -> bool:
    """Whether two names, such as SGD and torch.optim.SGD, stand for the same component."""
    return first == second or resolve(kind, first) is resolve(kind, second)


def overlay(first: Options, second: Options) -> Options:
    """Return both; the second wins, and another component does not inherit the options of the one it replaces."""
    replaced = tuple(
        f"{kind}."
        for kind in KINDS
        if (name := f"{kind}.name") in first and name in second and not _same(kind, first[name], second[name])
    )
    return {**{key: value for key, value in first.items() if not key.startswith(replaced)}, **second}
