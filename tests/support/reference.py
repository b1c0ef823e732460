"""Makes docs/reference.md from signatures and docstrings: `python tests/support/reference.py --write`.

Without `--write` it compares: 0 if the page is current, 1 if not.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
WIDTH = 118
# module -> its public names; None for those of __all__, or all that it defines
MODULES: dict[str, tuple[str, ...] | None] = {
    "feedprop": None,
    "feedprop.rules": None,
    "feedprop.rules.presets": None,
    "feedprop.rewards": None,
    "feedprop.discrete": None,
    "feedprop.diagnosis": ("Check", "ParameterCheck", "LayerCheck"),
    "feedprop.distributed": None,
    "feedprop.pruning": None,
    "feedprop.inspection.relevance": ("Relevance",),
    "feedprop.inspection.flows": ("Conservation", "LayerFlow"),
    "feedprop.inspection.deletion": None,
    "feedprop.inspection.heatmaps": None,
    "feedprop.inspection.attribution": None,
    "feedprop.spiking": None,
    "feedprop.spiking.encoding": None,
    "feedprop.spiking.models": None,
    "feedprop.spiking.activity": None,
    "feedprop.spiking.plots": None,
    "feedprop.spiking.nir": ("to_nir", "from_nir"),
    "feedprop.credit": (
        *("Magnitude", "as_weight", "damped", "scaled", "secant", "central_difference", "sloped", "with_values"),
    ),
    "feedprop.operations.registry": ("Context", "Operands", "operands_of", "damped", "shared"),
    "feedprop.training.data.source": ("Source",),
    "feedprop.training.data.tensors": ("TensorData",),
}
HEADER = """\
# Reference

Every public name, with its signature and its docstring. What is not listed here is internal, and may change without
notice. `python tests/support/reference.py --write` writes this page.

The last four modules are for handlers and data sets of your own: [how to register a
function](how-to-register-a-function.md), [how to train from the command
line](how-to-train-from-the-command-line.md#say-where-the-data-is).
"""
SPECIAL = {"__call__"}  # part of a contract
_SECTION = re.compile(r"^(Args|Raises|Returns|Yields):$")
_ITEM = re.compile(r"^    (\w[\w, ]*): (.*)$")


def public(name: str) -> dict[str, Any]:
    """Return what a module offers, without its submodules."""
    module = importlib.import_module(name)
    names = MODULES[name]
    if names is None:
        names = tuple(getattr(module, "__all__", ())) or tuple(
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and callable(value) and getattr(value, "__module__", "") == name
        )
    found = {key: getattr(module, key) for key in names}
    return {key: value for key, value in found.items() if not isinstance(value, ModuleType)}


def methods(kind: type) -> dict[str, Callable[..., Any] | property]:
    """Return the methods and properties that a class itself defines and documents."""
    found = {}
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        documented = callable(function) or isinstance(function, property)
        if documented and getattr(function, "__doc__", None) and (name in SPECIAL or not name.startswith("_")):
            found[name] = getattr(kind, name)
    return found


def signature(name: str, target: Callable[..., Any]) -> str:
    """Return `name` with the parameters of `target`, on one line if it is short."""
    found = inspect.signature(target)
    parameters = [p for p in found.parameters.values() if p.name != "self"]
    parts: list[str] = []
    for number, parameter in enumerate(parameters):
        before = parameters[number - 1].kind if number else None
        if before is parameter.POSITIONAL_ONLY is not parameter.kind:
            parts.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and before not in (
            parameter.KEYWORD_ONLY,
            parameter.VAR_POSITIONAL,
        ):
            parts.append("*")
        parts.append(_parameter(parameter))
    result = "" if inspect.isclass(target) or found.return_annotation is found.empty else f" -> {_named(found)}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= 100 or not parts:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _named(found: inspect.Signature) -> str:
    return _annotation(found.return_annotation)


def _annotation(annotation: Any) -> str:
    annotation = getattr(annotation, "__forward_arg__", annotation)  # of the fields of a NamedTuple
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        equals = " = " if parameter.annotation is not parameter.empty else "="
        default = parameter.default
        text += equals + (f'"{default}"' if isinstance(default, str) else _shown(default))
    return text


def _shown(value: Any) -> str:
    return value.__qualname__ if inspect.isclass(value) or inspect.isfunction(value) else repr(value)


def markdown(docstring: str) -> str:
    """Return a docstring as Markdown: arguments as a list, examples as blocks."""
    lines: list[str] = []
    section = ""
    for line in [*inspect.cleandoc(docstring).splitlines(), ""]:
        if match := _SECTION.match(line):
            section = match[1]
            lines += [f"{'Arguments' if section == 'Args' else section}:", ""]
        elif section and (item := _ITEM.match(line)):
            names = ", ".join(f"`{name}`" for name in item[1].split(", "))
            lines.append(f"- {names}: {item[2]}")
        elif section and line.startswith("        "):
            lines[-1] += f" {line.strip()}"
        else:
            section = "" if line else section
            lines.append(line)
    return "\n".join(_wrapped(_with_examples(lines))).strip()


def _with_examples(lines: list[str]) -> Iterator[str]:
    """Put examples, from >>> to an empty line, into blocks."""
    inside = False
    for line in lines:
        if line.startswith(">>> ") and not inside:
            yield "```pycon"
            inside = True
        elif inside and not line:
            yield "```"
            inside = False
        yield line


def _wrapped(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("- ") or len(line) <= WIDTH:
            yield line
            continue
        first, *rest = textwrap.wrap(
            line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
        yield first
        yield from (re.sub(r"^  (?=[>#+-])", r"  \\", more) for more in rest)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def entry(module: str, name: str, value: Any) -> str:
    """Return the section of one name."""
    short = _short(module, name)
    parts = [f"### {short}"]
    if not inspect.isclass(value) or not (issubclass(value, Exception) or getattr(value, "_is_protocol", False)):
        parts.append(f"```py\n{'class ' if inspect.isclass(value) else ''}{signature(short, value)}\n```")
    if inspect.isclass(value) and (bases := [base for base in value.__bases__ if _is_ours(base)]):
        parts.append(f"Extends {' and '.join(f'`{base.__name__}`' for base in bases)}.")
    parts.append(markdown(value.__doc__ or ""))
    for key, method in methods(value).items() if inspect.isclass(value) else ():
        doc = markdown(method.__doc__ or "")
        if isinstance(method, property):
            parts.append(f"**`{key}`**\n\n{doc}")
        else:
            parts.append(f"```py\n{signature(f'{name}.{key}', method)}\n```\n\n{doc}")
    return "\n\n".join(parts)


def _short(module: str, name: str) -> str:
    """Return a name as users write it: feedprop.attach, rules.Gamma, presets.training."""
    return f"{module.rpartition('.')[2]}.{name}"


def _is_ours(base: type) -> bool:
    return base.__module__.startswith("feedprop") and not base.__name__.startswith("_") and base.__name__ != "Settings"


def page() -> str:
    """Return the whole page."""
    offered = {module: public(module) for module in MODULES}
    anchors: dict[str, int] = {}
    contents, sections = [], []
    for module, names in offered.items():
        heading = _anchor(module, anchors)
        links = [f"[{name}](#{_anchor(_short(module, name), anchors)})" for name in names]
        contents += _lines(f"- [**{module}**](#{heading}): {', '.join(links)}")
        text = markdown(importlib.import_module(module).__doc__ or "")
        sections += [f"## {module}", text, *(entry(module, name, value) for name, value in names.items())]
    return "\n\n".join([HEADER.rstrip(), "\n".join(contents), *sections]) + "\n"


def _anchor(heading: str, taken: dict[str, int]) -> str:
    """Return the anchor that a heading gets, numbered where an earlier one has the same."""
    anchor = re.sub(r"[^\w-]", "", heading.lower())
    taken[anchor] = taken.get(anchor, -1) + 1
    return anchor if not taken[anchor] else f"{anchor}-{taken[anchor]}"


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/reference.md instead of comparing with it")
    write = parser.parse_args().write
    found = page()
    if write:
        PAGE.write_text(found)
    elif not PAGE.exists() or found != PAGE.read_text():
        print(f"{PAGE.name} is out of date: run `python tests/support/reference.py --write`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
