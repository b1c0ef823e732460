"""The command completion: a script with which a shell completes commands and options, made by shtab."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import typing
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Sequence
from typing import Any, Literal

import shtab

from feedprop.cli import COMMANDS
from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import KINDS
from feedprop.training.command_line.parser import HelpPrinted

SHELLS = ("bash", "zsh")
FOLDERS = ("run", "beside", "output", "resume", "data.root")  # options and arguments that name one


def completion_command(argv: Sequence[str]) -> None:
    """Print the script for a shell."""
    if argv and argv[0] in ("-h", "--help"):
        print(
            "usage: feedprop completion bash|zsh\n\n"
            'bash: add to ~/.bashrc    eval "$(feedprop completion bash)"\n'
            "zsh:  feedprop completion zsh > a file named _feedprop in a folder of $fpath"
        )
        return
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise FeedpropError(f"feedprop completion needs the name of a shell, {' or '.join(SHELLS)}")
    print(shtab.complete(_parser(), argv[0]))


def _parser() -> ArgumentParser:
    """Return a parser of all commands with their options and what these may be."""
    parser = ArgumentParser(prog="feedprop")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, (module, function, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == "completion":
            command.add_argument("shell", choices=SHELLS)
        for action in _actions(getattr(importlib.import_module(module), function)):
            _add(command, action)
    return parser


def _actions(command: Any) -> Sequence[Action]:
    """Return the options of a command, which knows them when it is asked for its help."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            command(["--help"])
        except HelpPrinted as printed:
            return printed.parser._actions
    return ()


def _add(parser: ArgumentParser, action: Action) -> None:
    names = [name.removesuffix(".name") for name in action.option_strings if name.startswith("--")]
    known = parser._option_string_actions
    left_out = any(name in known or name.endswith(("+", ".help")) for name in names) or action.dest == "print_config"
    left_out |= action.metavar == "CONFIG"  # a file for one component
    if action.help == SUPPRESS or left_out:
        return
    about = " ".join((action.help or "").split()).replace("%", "%%")[:100]
    if action.nargs == 0:
        parser.add_argument(*names, action="store_true", help=about)
        return
    added = parser.add_argument(*(names or [action.dest]), choices=_choices(action), help=about)
    if action.dest in FOLDERS:
        added.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # where shtab looks
    elif action.dest == "config":
        added.complete = shtab.FILE  # type: ignore[attr-defined]  # as above


def _choices(action: Action) -> list[str] | None:
    """Return the words that an option may be, if they are few."""
    kind, _, option = action.dest.partition(".")
    type_ = getattr(action, "_typehint", None)
    if kind in KINDS and option == "name":
        return _components(kind) or None
    if typing.get_origin(type_) is Literal:
        return [str(word) for word in typing.get_args(type_)]
    return ["true", "false"] if type_ is bool else None


def _components(kind: str) -> list[str]:
    """Return the short names of a kind, and the classes in its own module."""
    known = KINDS[kind]
    home = vars(importlib.import_module(known.home)) if known.home else {}
    named = [name for name, found in home.items() if inspect.isclass(found) and not name.startswith("_")]
    return [*known.short, *sorted(named)]
