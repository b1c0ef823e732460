"""From the command line to a configuration: jsonargparse with the options of just those components that were named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace

from feedprop.errors import FeedpropError
from feedprop.training.checkpoints import CONFIG
from feedprop.training.command_line.components import KINDS, Component, add_component, nearest
from feedprop.training.command_line.config import (
    KINDS_OF_METHOD,
    Config,
    Settings,
    default_arguments,
    default_names,
    read_yaml,
)
from feedprop.training.command_line.parser import OneSentenceParser

DESCRIPTION = """Train a network by Layer-wise Feedback Propagation, or by backprop for comparison.

Without options: digits, a small MLP, 20 epochs. Every component is named by a short name or an import path and takes
its own options after a dot; --help shows those of the components named before it, as in
feedprop train --model torchvision.models.resnet18 --help."""


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation.

    Args:
        checkpoint: the best model, as chosen on validation data, or that of the last epoch
        split: part of the data
        batch_size: samples at a time; as in training unless given
        device: auto, cpu, cuda, cuda:1, mps
    """

    checkpoint: Literal["best", "last"] = "best"
    split: Literal["train", "validation", "test"] = "test"
    batch_size: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Request:
    """What is to be evaluated: a run, as it was configured, and how."""

    run: str
    config: Config
    checkpoint: str
    split: str
    batch_size: int
    device: str
    json: bool


def parse_train(argv: Sequence[str]) -> Config:
    """Return the configuration that the command line and its --config files ask for."""
    words = _spell_out(argv)
    files, words = _take(words, "config")
    stored: dict[str, Any] = {}
    for file in files:
        stored = _merge(stored, read_yaml(file))
    method = (_take(words, "method")[0] or [stored.get("method", Settings.method)])[-1]
    if method not in KINDS_OF_METHOD:
        raise FeedpropError(f"--method must be lfp or backprop, but is {method}")
    stored = {key: value for key, value in stored.items() if key not in KINDS or key in KINDS_OF_METHOD[method]}
    names = _names(words, stored, method)
    for kind, name in names.items():
        if kind in stored and stored[kind].get("name", default_names(names["model"])[kind]) != name:
            stored[kind] = {"name": name}  # another component: the options of the stored one are not its own
    parser = _parser(names, method)
    parsed = parser.parse_args([*_stored_words(stored), *words])
    return _config(parsed, names)


def parse_evaluate(argv: Sequence[str]) -> Request:
    """Return what the command line asks to be evaluated."""
    data_words, words = _options_of("data", argv)
    parser = OneSentenceParser(prog="feedprop evaluate", usage="feedprop evaluate RUN [options]", allow_abbrev=False)
    parser.add_argument("run", type=str, metavar="RUN", help="folder that feedprop train wrote")
    parser.add_class_arguments(EvaluateSettings, None)
    parser.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    parser.add_argument(
        "--data", type=str, metavar="NAME", help="other data, with its options, such as --data.root DIR"
    )
    values = parser.parse_args(words).as_dict()
    run, as_json = values.pop("run"), values.pop("json")
    values.pop("data")
    file = Path(run) / CONFIG
    if not file.is_file():
        raise FeedpropError(f"{run} is no run of feedprop train: it holds no {CONFIG}")
    settings = EvaluateSettings(**values)
    config = parse_train(["--config", str(file), *data_words])
    batch_size = config.settings.batch_size if settings.batch_size is None else settings.batch_size
    if batch_size < 1:
        raise FeedpropError(f"--batch_size must be at least 1, but is {batch_size}")
    return Request(run, config, settings.checkpoint, settings.split, batch_size, settings.device, as_json)


def _parser(names: Mapping[str, str], method: str) -> ArgumentParser:
    parser = OneSentenceParser(
        prog="feedprop train", description=DESCRIPTION, usage="feedprop train [options]", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of these options")
    parser.add_class_arguments(Settings, None, skip={"overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the output folder")
    for kind, name in names.items():
        default = name == default_names(names["model"])[kind]
        arguments = default_arguments(kind, model=names["model"], method=method) if default else {}
        add_component(parser, kind, name, arguments)
    return parser


def _stored_words(stored: Mapping[str, Any]) -> list[str]:
    """Return the stored configuration as the parser's own --config option."""
    known = {field.name for field in fields(Settings)} | {*KINDS}
    for key in stored:
        if key not in known:
            raise FeedpropError(f"the configuration file has an unknown key {key!r}{nearest(str(key), known)}")
    return [f"--config={yaml.safe_dump(dict(stored))}"] if stored else []


def _config(parsed: Namespace, names: Mapping[str, str]) -> Config:
    values = {key: value for key, value in parsed.as_dict().items() if key not in names and key != "config"}
    components = {}
    for kind in names:
        arguments = dict(parsed[kind].as_dict())
        components[kind] = Component(kind, arguments.pop("name"), arguments)
    return Config(Settings(**values), components)


def _spell_out(argv: Sequence[str]) -> list[str]:
    """Turn `--model lenet` into `--model.name lenet`."""
    return [re.sub(rf"^--({'|'.join(KINDS)})(?==|$)", r"--\1.name", word) for word in argv]


def _take(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Return the values of an option and the words without it."""
    values, rest, following = [], [], iter(words)
    for word in following:
        if word == f"--{option}":
            value = next(following, None)
            if value is None:
                raise FeedpropError(f"--{option} needs a value")
            values.append(value)
        elif word.startswith(f"--{option}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    return values, rest


def _options_of(kind: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that choose and configure this kind of component, and the others."""
    own, rest, following = [], [], iter(words)
    for word in following:
        if not re.match(rf"--{kind}(\.|=|$)", word):
            rest.append(word)
        elif "=" in word:
            own.append(word)
        else:
            own += [word, *([value] if (value := next(following, None)) is not None else [])]
    return own, rest


def _names(words: Sequence[str], stored: Mapping[str, Any], method: str) -> dict[str, str]:
    """Return which component is wanted of each kind: as in the command, else as in the file, else the default."""
    names: dict[str, str] = {}
    for kind in ("model", *KINDS_OF_METHOD[method]):  # the model decides about the defaults of the others
        given = _take(words, f"{kind}.name")[0]
        default = default_names(names.get("model", ""))[kind]
        names[kind] = given[-1] if given else stored.get(kind, {}).get("name", default)
    names = {kind: names[kind] for kind in KINDS_OF_METHOD[method]}
    for kind in KINDS:
        if kind not in names and any(word.startswith(f"--{kind}.") for word in words):
            other = "backprop" if method == "lfp" else "lfp"
            raise FeedpropError(f"--{kind} belongs to --method {other}, but the method is {method}")
    return names


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return both configurations in one; the second wins."""
    merged = {**first, **second}
    for kind in KINDS:
        if kind in first and kind in second and first[kind].get("name") == second[kind].get("name"):
            merged[kind] = {**first[kind], **second[kind]}
    return merged
