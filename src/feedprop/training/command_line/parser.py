"""jsonargparse's parser with errors of one sentence and a help that lists options."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from feedprop.errors import FeedpropError


class OneSentenceParser(ArgumentParser):
    """Parser whose errors are one sentence and whose help lists options, not every subclass that torch knows."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error as one sentence."""
        raise FeedpropError(_sentence(str(ex or message), self))

    def format_help(self, formatter: Any = None) -> str:
        """Return the help without what only jsonargparse's own users look for."""
        text = super().format_help(formatter)
        text = re.sub(r",\s+known\s+subclasses:[^()]*(\([^()]*\)[^()]*)*\)", ")", text)
        text = re.sub(r"\n  --\S+\.help\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r"\n  --\w+ CONFIG\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r"\n  --print_config\b.*(\n {8,}.*)*", "", text)
        text = re.sub(r", --\S+\+ \S+", "", text)
        return re.sub(r"--(\w+)\.name NAME", r"--\1 NAME     ", text)


def _sentence(message: str, parser: ArgumentParser) -> str:
    """Reduce jsonargparse's message to one sentence."""
    text = " ".join(message.split())
    unknown = re.search(r"[Uu]nrecognized arguments?: (\S+)", text) or re.search(
        r"Option '(\S+)' is not accepted", text
    )
    if unknown:
        return _unknown(unknown.group(1), parser)
    grouped = re.search(r"Group '(\w+)' does not accept option '(\w+)'", text)
    if grouped:
        return _unknown(f"--{grouped.group(1)}.{grouped.group(2)}", parser)
    required = re.search(r"arguments are required: (.*)", text)
    if required:
        words = (word if word == "run" else f"--{word}" for word in required.group(1).split(", "))
        return f"{parser.prog} needs {', '.join(words)}"
    key = re.search(r'Parser key "([\w.]+)":', text)
    expected = re.search(r"Expected an? (.*?)(?:\.? Got value:| - Expected|$)", text)
    value = re.search(r"(?:Got|Given) value: (.*?)(?: Subtypes:|$)", text)
    if key and expected and value:
        return f"--{key.group(1)} must be {_readable(expected.group(1))}, but is {value.group(1)}"
    return text


def _unknown(word: str, parser: ArgumentParser) -> str:
    """Say that there is no such option, and which ones are like it."""
    option = word.partition("=")[0]
    if not option.startswith("--"):
        return f"unexpected word {option}; options begin with --, as {parser.prog} --help lists them"
    known = _options(parser)
    section, _, key = option.lstrip("-").rpartition(".")
    section = f"--{section}" if section else ""
    siblings = {name[len(section) + 1 :]: name for name in known if section and name.startswith(f"{section}.")}
    match = difflib.get_close_matches(key, siblings or [name.lstrip("-") for name in known], n=1)
    if section in known and not match:
        listed = f"its options are {', '.join(siblings.values())}" if siblings else "it has none"
        return f"unknown option {option} of this {section.lstrip('-')}; {listed}"
    if match:
        return f"unknown option {option}; did you mean {siblings.get(match[0], '--' + match[0])}?"
    return f"unknown option {option}; {parser.prog} --help lists the options"


def _options(parser: ArgumentParser) -> list[str]:
    """Return the options as people write them."""
    words = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    return [word.removesuffix(".name") for word in words if not word.endswith((".help", "+"))]


def _readable(type_: str) -> str:
    """Return the name of a type as people say it."""
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    type_ = re.sub(r"<class '([\w.]+)'>", r"\1", type_)
    choices = re.fullmatch(r"typing\.Literal\[(.*)\]", type_)
    if choices:
        return "one of " + choices.group(1).replace("'", "")
    return names.get(type_, "a list such as [32,16]" if "Sequence" in type_ or "list" in type_ else type_)
