"""jsonargparse's parser with the options of components, errors of one sentence and a help that lists only options."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import warnings
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from feedprop.errors import FeedpropError
from feedprop.training.command_line.components import KINDS, resolve

# parameters of optimizers and schedules that hardly anybody needs, and what --help lists of components not named
_OBSCURE = frozenset(
    {"foreach", "fused", "capturable", "differentiable", "maximize", "last_epoch", "epochs", "steps_per_epoch"}
)
_SHORT: Mapping[str, tuple[str, ...]] = {"optimizer": ("lr", "momentum", "weight_decay"), "scheduler": ()}


class HelpPrinted(SystemExit):
    """Ends a command that was asked for its help."""

    def __init__(self, parser: ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


class OneSentenceParser(ArgumentParser):
    """Parser whose errors are one sentence and whose help lists options, not every subclass that torch knows."""

    def read(self, arguments: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
        """Check and convert the values of positional arguments and of options such as {"model.dropout": "0.5"}."""
        if "help" in options:
            self.print_help()
            raise HelpPrinted(self)
        positional = [action.dest for action in self._actions if not action.option_strings]
        if len(arguments) > len(positional):
            raise FeedpropError(
                f"unexpected word {arguments[len(positional)]}; options begin with --, as {self.prog} --help lists them"
            )
        known = {action.dest for action in self._actions}
        values = Namespace()  # type: ignore[no-untyped-call]  # jsonargparse's
        for key, value in {**dict(zip(positional, arguments, strict=False)), **options}.items():
            if ".".join(key.split(".")[:2]) not in known:  # what follows are options of an option's own class
                raise FeedpropError(_unknown(key, self))
            values[key] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what jsonargparse says to programmers
            return self.parse_object(values).as_dict()  # type: ignore[no-any-return]  # as above

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise FeedpropError(_sentence(str(ex or message), self.prog))

    def format_help(self, formatter: Any = None) -> str:
        """Return the help without what only users of jsonargparse itself look for."""
        text = super().format_help(formatter)
        text = re.sub(r",\s+known\s+subclasses:[^()]*(\([^()]*\)[^()]*)*\)", ")", text)
        text = re.sub(r"\n  --\S+\.help\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r"\n  --\w+ CONFIG\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r"\n  --print_config\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r", --\S+\+ \S+", "", text)
        text = re.sub(r"--(\w+)\.name NAME", r"--\1 NAME     ", text)
        text = re.sub(r"\n[^\n-][^\n]*:\n+(?=\n)", "\n", text)  # headings of which nothing is listed
        # what the docstring says of the default, which the command may have changed
        return re.sub(r"\s*(\(|\s)default:\s+(?:[^()\s]|\([^()]*\))+\)?(?=\s+\(type:)", "", text, flags=re.IGNORECASE)


def add_component(parser: ArgumentParser, kind: str, name: str, *, named: bool) -> None:
    """Give the parser the options of a component: `--model.dropout` for every parameter that can be given.

    The help lists those of a component that was named, and those of a default one that matter.
    """
    known, target = KINDS[kind], resolve(kind, name)
    words = ", ".join([*known.short, *([f"a name from {known.home}"] if known.home else [])])
    choices = f"{words} or an import path"
    parser.add_argument(f"--{kind}.name", type=str, default=name, metavar="NAME", help=f"{known.help}: {choices}")
    accepted = _add_signature(ArgumentParser(), kind, target, set())
    filled = {key: type_ for key, type_ in known.filled.items() if key in accepted}
    before = len(parser._actions)
    for key, type_ in filled.items():
        parser.add_argument(f"--{kind}.{key}", type=type_, default=None, help="taken from the run unless given")
    withheld = set(known.withheld)
    if kind == "data" and "root" in accepted:
        withheld.add("root")
        root = os.environ.get("FEEDPROP_DATA", "data")
        parser.add_argument("--data.root", type=str, default=root, metavar="DIR", help="folder of the data's files")
    _add_signature(parser, kind, target, withheld | set(filled))
    if "cycle_momentum" in accepted:
        parser.set_defaults({f"{kind}.cycle_momentum": False})
    for action in parser._actions[before:]:
        option = action.dest.partition(".")[2]
        if option in _OBSCURE or (not named and kind in _SHORT and option not in _SHORT[kind]):
            action.help = SUPPRESS


def _add_signature(parser: ArgumentParser, kind: str, target: Callable[..., Any], skip: set[str]) -> set[str]:
    """Add an option for each parameter except those in `skip`; return the names of those added."""
    if inspect.isclass(target):
        added = parser.add_class_arguments(target, kind, skip={*skip}, fail_untyped=False, instantiate=False)
    else:
        added = parser.add_function_arguments(target, kind, skip={*skip}, fail_untyped=False)
    return {key.partition(".")[2] for key in added}


def _sentence(message: str, command: str) -> str:
    """Reduce jsonargparse's message to one sentence."""
    text = " ".join(message.split())
    required = re.search(r"arguments are required: (.*)", text)
    if required:
        words = ("the folder of a run" if word == "run" else f"--{word}" for word in required.group(1).split(", "))
        return f"{command} needs {', '.join(words)}"
    key = re.search(r'Parser key "([\w.]+)":', text)
    expected = re.search(r"Subtypes: \[(.*)\] Errors:|Expected an? (.*?)(?:\.? Got value:| - Expected|$)", text)
    value = re.search(r"(?:Got|Given) value: (.*?)(?: Subtypes:|$)", text)
    if key and expected and value:
        types = re.split(r", (?![^\[]*\])", expected.group(1)) if expected.group(1) else [expected.group(2)]
        readable = [word for word in dict.fromkeys(map(_readable, types)) if word]
        return f"--{key.group(1)} must be {' or '.join(readable)}, but is {value.group(1)}"
    return text


def _unknown(key: str, parser: ArgumentParser) -> str:
    """Say that there is no such option, and which ones are like it."""
    words = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    known = [word.removesuffix(".name") for word in words if not word.endswith((".help", "+"))]
    section, _, name = key.rpartition(".")
    if not section and (parts := [option for option in known if option.endswith(f".{name}")]):
        return f"unknown option --{key}; did you mean {' or '.join(parts[:3])}?"
    siblings = [option for option in known if section and option.startswith(f"--{section}.")]
    candidates = {option.removeprefix(f"--{section}." if siblings else "--"): option for option in siblings or known}
    match = difflib.get_close_matches(name, candidates, n=1)
    if match:
        return f"unknown option --{key}; did you mean {candidates[match[0]]}?"
    if f"--{section}" in known:
        listed = f"its options are {', '.join(siblings)}" if siblings else "it has none"
        return f"unknown option --{key} of this {section}; {listed}"
    return f"unknown option --{key}; {parser.prog} --help lists the options"


def _readable(type_: str) -> str:
    """Return a type in plain words; nothing for those that nobody can write on a command line."""
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    type_ = re.sub(r"<(?:class|enum) '([\w.]+)'>", r"\1", type_)
    choices = re.fullmatch(r"typing\.Literal\[(.*)\]", type_) or re.search(r"member of [\w.]+: \{(.*)\}", type_)
    if choices:
        return "one of " + re.sub(r"'|(?<=,)(?=\S)", lambda found: " " * (not found.group()), choices.group(1))
    if "Callable" in type_ or "import path" in type_:
        return "" if type_.startswith("list") else "the import path of a function"
    if "tuple" in type_:
        return "a list such as [0.9,0.999]"
    if re.search("Sequence|Iterable|list", type_):
        return "a list such as [32,16]"
    return "" if type_ in ("NoneType", "torch.Tensor") else names.get(type_, type_)
