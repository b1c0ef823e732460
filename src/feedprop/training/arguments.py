"""From the command line to a configuration: jsonargparse with the options of just those components that were named."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from feedprop.errors import FeedpropError
from feedprop.training.components import KINDS, Component, add_component
from feedprop.training.config import (
    DEFAULT_LEARNING_RATES,
    DEFAULT_NAMES,
    KINDS_OF_METHOD,
    Config,
    Settings,
    read_yaml,
)

DESCRIPTION = """Train a network by Layer-wise Feedback Propagation, or by backprop for comparison.

Without options: digits, a small MLP, 20 epochs. Every component is named by a short name or an import path and takes its
own options after a dot; --help shows those of the components named before it, as in
feedprop train --model torchvision.models.resnet18 --help."""


class OneSentenceParser(ArgumentParser):
    """Parser whose errors are one sentence and whose help lists options, not every subclass that torch knows."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error as one sentence."""
        raise FeedpropError(_sentence(str(ex or message), self))

    def format_help(self) -> str:
        """Return the help without what only jsonargparse's own users look for."""
        text = super().format_help()
        text = re.sub(r",\s+known\s+subclasses:[^()]*(\([^()]*\)[^()]*)*\)", ")", text)
        text = re.sub(r"\n  --\S+\.help\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r"\n  --\w+ CONFIG\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r"\n  --print_config\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r", --\S+\+ \S+", "", text)
        return re.sub(r"--(\w+)\.name NAME", r"--\1 NAME     ", text)


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
        if kind in stored and stored[kind].get("name", DEFAULT_NAMES[kind]) != name:
            stored[kind] = {"name": name}  # another component: the options of the stored one are not its own
    parser = _parser(names, method)
    parsed = parser.parse_args(words, _base(parser, stored))
    return _config(parsed, names)


def _parser(names: Mapping[str, str], method: str) -> ArgumentParser:
    parser = OneSentenceParser(prog="feedprop train", description=DESCRIPTION, usage="feedprop train [options]")
    parser.add_argument("--config", type=str, metavar="FILE", help="YAML file with any of these options")
    parser.add_class_arguments(Settings, None, skip={"overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the output folder")
    for kind, name in names.items():
        default = name == DEFAULT_NAMES[kind]
        learning_rate = {"lr": DEFAULT_LEARNING_RATES[method]} if kind == "optimizer" and default else {}
        add_component(parser, kind, name, learning_rate)
    return parser


def _base(parser: ArgumentParser, stored: Mapping[str, Any]) -> Namespace | None:
    """Return the stored configuration as the parser's own, or None if nothing is stored."""
    return parser.parse_object(dict(stored)) if stored else None


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


def _names(words: Sequence[str], stored: Mapping[str, Any], method: str) -> dict[str, str]:
    """Return which component is wanted of each kind: as in the command, else as in the file, else the default."""
    names = {}
    for kind in KINDS_OF_METHOD[method]:
        given = _take(words, f"{kind}.name")[0]
        names[kind] = given[-1] if given else stored.get(kind, {}).get("name", DEFAULT_NAMES[kind])
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


def _sentence(message: str, parser: ArgumentParser) -> str:
    """Reduce jsonargparse's message to one sentence."""
    text = " ".join(message.split())
    unknown = re.search(r"[Uu]nrecognized arguments?: (\S+)", text) or re.search(r"Option '(\S+)' is not accepted", text)
    if unknown:
        word = "--" + unknown.group(1).partition("=")[0].lstrip("-")
        options = [option for action in parser._actions for option in action.option_strings]
        match = difflib.get_close_matches(word, options, n=1)
        hint = f"; did you mean {match[0]}?" if match else "; feedprop train --help lists the options"
        return f"unknown option {word}{hint}"
    text = re.sub(r"Parser key \"([\w.]+)\":", r"--\1:", text)
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    text = text.replace("Got value:", "but got")
    return re.sub(r"\. but got", ", but got", text)
