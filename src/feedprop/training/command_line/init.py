"""The command init."""

from __future__ import annotations

import math
import re
import textwrap
import typing
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml

from feedprop.errors import FeedpropError
from feedprop.training.command_line.arguments import configure, prepare, read_words
from feedprop.training.command_line.components import search_in
from feedprop.training.command_line.config import Settings
from feedprop.training.command_line.parser import HelpPrinted

FILE = "feedprop.yaml"
HELP = f"""usage: feedprop init [FILE] [options of feedprop train]

Write a configuration file, {FILE} unless another name is given, with every option of feedprop train, its default and
what it is for. Options that are given are in the file, as in

  feedprop init fashion.yaml --data fashion_mnist --model lenet

A file that exists is kept. feedprop train --help lists the options."""
WIDTH = 100  # of comments
# what a docstring says of the default, which the line itself shows
_DEFAULT = r"\s*\(default:\s+(?:[^()]|\([^()]*\))*\)|\.?\s*\bdefault:\s+(?:[^()\s]|\([^()]*\))+$"


def init_command(argv: Sequence[str]) -> None:
    """Write a commented configuration file; options of feedprop train choose the components and change defaults."""
    search_in(".")
    arguments, given = read_words(argv)
    if given.pop("help", False):
        print(HELP)
        raise HelpPrinted(prepare(given, command="init").parser)
    if len(arguments) > 1:
        raise FeedpropError(f"feedprop init writes one file; leave out {arguments[1]}")
    path = Path(arguments[0] if arguments else FILE)
    text = commented(given, file=path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FeedpropError(f"{path} exists and is kept; name another file") from error
    except FileNotFoundError as error:
        raise FeedpropError(f"there is no folder {path.parent}; make it first, or name another file") from error
    print(f"{path}: feedprop train --config {path}")


def commented(given: Mapping[str, Any], *, file: Path) -> str:
    """Return a configuration file of all options, each with its help as a comment above it.

    Options that hardly anybody needs, which --help leaves out too, are not in it.
    """
    config = configure([], {**given}, command="init")
    actions = {action.dest: action for action in prepare({**given}, command="init", whole=True).parser._actions}
    lines = [f"# All options of feedprop train --config {file}; what is deleted has its default.", ""]
    for field in fields(Settings):
        lines += _entry(actions[field.name], field.name, getattr(config.settings, field.name))
    for kind, part in config.components.items():
        lines += ["", *_comment(actions[f"{kind}.name"], ""), f"{kind}:", f"  {_pair('name', part.name)}"]
        for key, value in part.arguments.items():
            action = actions.get(f"{kind}.{key}")
            if action is not None and action.help != SUPPRESS:
                lines += _entry(action, key, value, indent="  ")
    return "\n".join(lines) + "\n"


def _entry(action: Action, key: str, value: Any, *, indent: str = "") -> Iterator[str]:
    yield from _comment(action, indent)
    yield indent + _pair(key, value)


def _comment(action: Action, indent: str) -> list[str]:
    """Return what an option is for, as comments, with the words that it may be."""
    words = re.sub(r":\w+:`([^`]*)`|``|`__?", r"\1", " ".join((action.help or "").split()))  # marks of docstrings
    words = re.sub(_DEFAULT, "", words, flags=re.IGNORECASE).rstrip(".")
    type_ = getattr(action, "_typehint", None)
    if typing.get_origin(type_) is Literal:
        words = "; ".join(filter(None, [words, f"one of {', '.join(map(str, typing.get_args(type_)))}"]))
    return textwrap.wrap(words, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _pair(key: str, value: Any) -> str:
    """Return key and value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump([plain], default_flow_style=True, width=math.inf, allow_unicode=True)
    return f"{key}: {text.strip()[1:-1]}"
